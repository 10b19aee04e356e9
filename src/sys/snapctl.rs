//! snapd's own command for programs inside a snap: reads and sets the snap's configuration, and its health.
//!
//! The command is snapd's stable door; the socket behind it is not. Which snap, and within which hook, snapd knows by
//! the environment that the child inherits.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Map, Value};

use super::program;

/// Where snapd has it, inside a snap too.
pub const PROGRAM: &str = "/usr/lib/snapd/snapctl";
/// How long snapd may take over one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a service may take to start or to stop.
const SWITCH: Duration = Duration::from_secs(120);

/// Why snapd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SnapctlError {
    /// The command cannot be run.
    #[error("cannot run `{}`: {source}", .program.display())]
    Run {
        /// The command.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// snapd does not answer.
    #[error("snapd gave no answer to `snapctl {words}` within {} s", .patience.as_secs())]
    Late {
        /// What was asked.
        words: String,
        /// How long it had.
        patience: Duration,
    },
    /// snapd said no.
    #[error("`snapctl {words}` failed: {why}")]
    Refused {
        /// What was asked.
        words: String,
        /// What it said, on one line.
        why: String,
    },
    /// snapd's answer is not what it documents.
    #[error("`snapctl {words}` gave no JSON object: {why}")]
    Answer {
        /// What was asked.
        words: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A service of the snap, as snapd has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Without the name of the snap.
    pub name: String,
    /// Whether it starts with the machine.
    pub enabled: bool,
    /// Whether it runs now.
    pub active: bool,
}

impl Service {
    /// From a line of `snapctl services`: service, startup, current, notes. `None` of its first.
    fn of(line: &str) -> Option<Self> {
        let mut cells = line.split_whitespace();
        let (name, startup, current) = (cells.next()?, cells.next()?, cells.next()?);
        let (_, name) = name.split_once('.')?;
        Some(Self { name: name.to_owned(), enabled: startup == "enabled", active: current == "active" })
    }
}

/// The command.
#[derive(Debug, Clone)]
pub struct Snapctl {
    program: PathBuf,
}

impl Snapctl {
    /// The command at `program`.
    pub fn new(program: &Path) -> Self {
        Self { program: program.to_path_buf() }
    }

    /// The whole configuration of the snap: in a hook as it would be, elsewhere as it is committed. `sections` are
    /// the first words of the known keys, at least one.
    ///
    /// # Errors
    /// [`SnapctlError`].
    pub async fn values(&self, sections: &[&str]) -> Result<Map<String, Value>, SnapctlError> {
        // The empty key is the whole of it; snapd takes it only beside another one.
        let mut words = vec!["get", "-d", ""];
        words.extend(sections.first());
        let (whole, unknown) = match self.run(&words).await {
            Ok(text) => (object(&words, &text)?.remove(""), false),
            // A snapd that knows no empty key: the known ones, then. It cannot tell of unknown ones.
            Err(SnapctlError::Refused { .. }) => (None, true),
            Err(error) => return Err(error),
        };
        if unknown {
            let mut words = vec!["get", "-d"];
            words.extend(sections);
            return object(&words, &self.run(&words).await?);
        }
        match whole {
            Some(Value::Object(values)) => Ok(values),
            _ => Ok(Map::new()),
        }
    }

    /// Sets keys, in a hook as part of what snapd commits when it ends well.
    ///
    /// # Errors
    /// [`SnapctlError`].
    pub async fn set(&self, values: &[(&str, Value)]) -> Result<(), SnapctlError> {
        let pairs: Vec<String> = values.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut words = vec!["set"];
        words.extend(pairs.iter().map(String::as_str));
        if pairs.is_empty() { Ok(()) } else { self.run(&words).await.map(drop) }
    }

    /// Takes a key out.
    ///
    /// # Errors
    /// [`SnapctlError`].
    pub async fn unset(&self, key: &str) -> Result<(), SnapctlError> {
        self.run(&["unset", key]).await.map(drop)
    }

    /// The snap's services.
    ///
    /// # Errors
    /// [`SnapctlError`].
    pub async fn services(&self) -> Result<Vec<Service>, SnapctlError> {
        Ok(self.run(&["services"]).await?.lines().filter_map(Service::of).collect())
    }

    /// Starts a service of the snap, such as `edge.kubelet`, now and at each boot; or stops it, and keeps it so.
    ///
    /// # Errors
    /// [`SnapctlError`].
    pub async fn switch(&self, service: &str, on: bool) -> Result<(), SnapctlError> {
        let words = if on { ["start", "--enable", service] } else { ["stop", "--disable", service] };
        self.run_for(&words, SWITCH).await.map(drop)
    }

    /// Has a service of the snap start anew.
    ///
    /// # Errors
    /// [`SnapctlError`].
    pub async fn restart(&self, service: &str) -> Result<(), SnapctlError> {
        self.run_for(&["restart", service], SWITCH).await.map(drop)
    }

    /// Says how the snap is: `okay`, or `waiting`, `blocked`, `error` with 7 to 70 characters and a short code.
    ///
    /// # Errors
    /// [`SnapctlError`].
    pub async fn set_health(&self, state: &str, said: Option<(&str, &str)>) -> Result<(), SnapctlError> {
        let code = said.map(|(code, _)| format!("--code={code}"));
        let mut words = vec!["set-health"];
        words.extend(code.as_deref());
        words.push(state);
        words.extend(said.map(|(_, message)| message));
        self.run(&words).await.map(drop)
    }

    async fn run(&self, words: &[&str]) -> Result<String, SnapctlError> {
        self.run_for(words, PATIENCE).await
    }

    async fn run_for(&self, words: &[&str], patience: Duration) -> Result<String, SnapctlError> {
        let told = || words.iter().map(|word| shown(word)).collect::<Vec<_>>().join(" ");
        let child = tokio::process::Command::new(&self.program)
            .args(words)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(patience, child).await;
        let output = output
            .map_err(|_| SnapctlError::Late { words: told(), patience })?
            .map_err(|source| SnapctlError::Run { program: self.program.clone(), source })?;
        said(output).map_err(|why| SnapctlError::Refused { words: told(), why })
    }
}

/// What it printed, or why it failed, on one line.
fn said(output: Output) -> Result<String, String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(program::failure(&output).trim_start_matches("error: ").to_owned())
}

fn object(words: &[&str], text: &str) -> Result<Map<String, Value>, SnapctlError> {
    serde_json::from_str(text)
        .map_err(|e| SnapctlError::Answer { words: words.join(" "), why: e.to_string() })
}

/// A word as it would be typed; long ones cut short.
fn shown(word: &str) -> String {
    match word {
        "" => "\"\"".to_owned(),
        long if long.chars().count() > 40 => format!("{}...", long.chars().take(37).collect::<String>()),
        short => short.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_read_off_snapd_s_table() {
        let table = "Service          Startup   Current   Notes\n\
                     edge.daemon      enabled   active    -\n\
                     edge.kubelet     disabled  inactive  -\n";
        let found: Vec<_> = table.lines().filter_map(Service::of).collect();
        let service = |name: &str, on| Service { name: name.into(), enabled: on, active: on };
        assert_eq!(found, [service("daemon", true), service("kubelet", false)]);
    }
}
