//! Other programs, run to their end.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// Runs it with something to read: keys and profiles go that way, and never stand among the words. What it printed.
///
/// # Errors
/// One line: what it said where it failed, or why it cannot be run.
pub fn run(command: &mut Command, input: &[u8]) -> Result<Vec<u8>, String> {
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = started.map_err(|e| format!("cannot be run: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Less than a pipe holds. Who did not read it says better why.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    if output.status.success() { Ok(output.stdout) } else { Err(failure(&output)) }
}

/// What a program said that has failed, on one line; how it ended where it said nothing.
#[must_use]
pub fn failure(output: &Output) -> String {
    let said = one_line(&String::from_utf8_lossy(&output.stderr));
    if said.is_empty() { output.status.to_string() } else { said }
}

/// The words of a text, one blank between them.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_prints_says_and_how_it_ends_is_told() {
        let sh = |script: &str| run(Command::new("sh").args(["-c", script]), b"given");
        assert_eq!(sh("cat"), Ok(b"given".to_vec()));
        assert_eq!(sh("printf 'no\n  room\n' >&2; exit 1"), Err("no room".into()));
        assert_eq!(sh("exit 3"), Err("exit status: 3".into()));
        let none = run(&mut Command::new("/nowhere/program"), b"").unwrap_err();
        assert!(none.starts_with("cannot be run: "), "{none}");
    }
}
