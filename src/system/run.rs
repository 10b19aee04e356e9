//! Other programs: `cryptsetup`, `mkfs.ext4`, `systemctl`.

use std::process::{Command, Stdio};

use super::Error;

/// Runs a program to its end; what it printed.
///
/// # Errors
/// [`Error::Run`] with its words and what it said. No secret stands among them: keys go through files.
pub fn run(program: &str, words: &[&str]) -> Result<String, Error> {
    let command = || format!("{program} {}", words.join(" "));
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|e| Error::Run { command: command(), why: e.to_string() })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut why = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if why.is_empty() {
        why = output.status.to_string();
    }
    Err(Error::Run { command: command(), why })
}
