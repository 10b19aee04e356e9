//! How a failure is told: one line on standard error and an exit code.

use std::process::ExitCode;

use super::{confinement, output};
use crate::bundle;
use crate::config;
use crate::daemon::{DaemonError, PerformError};
use crate::proxy::{cloud, join};
use crate::sys::program;
use crate::trust::Refusal;

/// The command was called wrongly, in a way that the parser of the command line cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Tells what was wrong with the command line; help and version were asked for and are no failure.
pub fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && error.kind() != clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        output::note(&rendered(&one_line(&error.render().to_string()), output::is_watched()));
    } else if let Err(closed) = error.print() {
        tracing::debug!(error = %closed, "help was not read");
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Tells why a command failed.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<output::Closed>()) {
        return ExitCode::SUCCESS;
    }
    if let Some(output::Exit(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    output::note(&rendered(&told(error), output::is_watched()));
    ExitCode::from(code(error))
}

/// The same as one line, whoever reads it.
pub fn line(error: &anyhow::Error) -> String {
    rendered(&told(error), false)
}

fn told(error: &anyhow::Error) -> Told {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    let mut told = joined(&causes);
    // "run as root" is no help to root.
    if let Some(hint) = confinement::of_this_process().and_then(|denied| denied.hint(&told.message)) {
        told.hint = Some(hint);
    }
    told
}

fn code(error: &anyhow::Error) -> u8 {
    if let Some(PerformError::Task(task)) = error.chain().find_map(|cause| cause.downcast_ref()) {
        return task.code;
    }
    let is_refusal = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<Refusal>() || cause.downcast_ref::<bundle::Error>().is_some_and(bundle::Error::is_refusal)
    };
    if error.chain().any(is_refusal) {
        return 3;
    }
    let is_input = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<config::Error>()
            || cause.is::<Usage>()
            || cause.is::<cloud::Error>()
            || cause.downcast_ref::<bundle::Error>().is_some_and(bundle::Error::is_usage)
            || cause.downcast_ref::<DaemonError>().is_some_and(DaemonError::is_input)
            || cause.downcast_ref::<join::Error>().is_some_and(join::Error::is_input)
    };
    if error.chain().any(is_input) { 2 } else { 1 }
}

/// Message and hint apart.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    message: String,
    hint: Option<String>,
}

/// The chain as one message; hints go to the end, the outermost first. A cause that its error already
/// tells is not told twice.
fn joined(causes: &[String]) -> Told {
    let mut message = String::new();
    let mut hint: Option<String> = None;
    for cause in causes {
        let flat = program::one_line(cause);
        let (text, advice) = match flat.split_once(" hint: ") {
            Some((text, advice)) => (text.to_owned(), Some(advice.to_owned())),
            None => (flat, None),
        };
        if !message.contains(&text) {
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(&text);
        }
        hint = hint.or(advice);
    }
    Told { message, hint }
}

/// What clap says on several lines, on one.
fn one_line(text: &str) -> Told {
    let mut message = Vec::new();
    let mut hint = None;
    for line in text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")) {
        match line.strip_prefix("tip: ") {
            Some(tip) => hint = hint.or(Some(tip.to_owned())),
            None if line.is_empty() || line.starts_with("For more information") => {}
            None => message.push(line.trim_start_matches("error: ").to_owned()),
        }
    }
    Told { message: message.join(" "), hint: hint.or(Some(format!("see `{} --help`", called(text)))) }
}

/// The command that was called, as clap's line of usage says it.
fn called(text: &str) -> String {
    let usage = text.lines().find_map(|line| line.trim().strip_prefix("Usage:")).unwrap_or("edge");
    let is_name = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase());
    usage.split_whitespace().take_while(is_name).collect::<Vec<_>>().join(" ")
}

fn rendered(told: &Told, watched: bool) -> String {
    // Both have words of others: of an upstream, of a stick.
    let message = output::visible(&told.message);
    match told.hint.as_deref().map(output::visible) {
        None => format!("edge: {message}"),
        Some(hint) if watched => format!("edge: {message}\nhint: {hint}"),
        Some(hint) => format!("edge: {message} hint: {hint}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::task::TaskError;

    fn told(causes: &[&str]) -> Told {
        joined(&causes.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_chain_is_one_line_and_its_hint_comes_last() {
        let told = told(&["cannot join hint: try again", "cannot read `/k`: gone", "gone", "two\nlines"]);
        assert_eq!(
            rendered(&told, false),
            "edge: cannot join: cannot read `/k`: gone: two lines hint: try again"
        );
        assert_eq!(
            rendered(&told, true),
            "edge: cannot join: cannot read `/k`: gone: two lines\nhint: try again"
        );
    }

    #[test]
    fn what_others_say_in_an_error_does_not_steer_the_terminal() {
        let told = told(&["upstream says `\u{1b}[2Jgone\u{9b}` hint: try \u{1b}[1A again"]);
        for watched in [false, true] {
            let text = rendered(&told, watched);
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
            assert!(text.contains("\\u{1b}[2Jgone"), "{text}");
        }
    }

    #[test]
    fn what_clap_says_becomes_one_line() {
        let told = one_line(
            "error: unexpected argument '--form' found\n\n  tip: a similar argument exists: '--from'\n\nUsage: edge join\n\nFor more information, try '--help'.\n",
        );
        assert_eq!(
            rendered(&told, false),
            "edge: unexpected argument '--form' found hint: a similar argument exists: '--from'"
        );
        let told = one_line(
            "error: the following required arguments were not provided:\n  --from <KUBECONFIG>\n\nUsage: edge join --from <KUBECONFIG>\n",
        );
        assert!(rendered(&told, false).starts_with(
            "edge: the following required arguments were not provided: --from <KUBECONFIG> hint: see `edge join --help`"
        ));
    }

    #[test]
    fn configuration_is_2_and_the_rest_1() {
        let config = config::Error::NotAssignment("x".into());
        assert_eq!(code(&anyhow::Error::new(config).context("outer")), 2);
        assert_eq!(code(&anyhow::anyhow!("other")), 1);
        assert_eq!(code(&Usage("x".into()).into()), 2);
        let refused = PerformError::Task(TaskError::refused("no signature"));
        assert_eq!(code(&anyhow::Error::new(refused)), 3);
    }
}
