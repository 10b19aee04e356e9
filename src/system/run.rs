//! Other programs: `cryptsetup`, `mkfs.ext4`, `systemctl`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::Error;

/// Runs a program to its end; what it printed.
///
/// # Errors
/// As for [`run_with`].
pub fn run(program: &str, words: &[&str]) -> Result<String, Error> {
    Ok(String::from_utf8_lossy(&run_with(program, words, b"")?).into_owned())
}

/// The same, with something to read: keys go that way, and never stand among the words.
///
/// # Errors
/// [`Error::Run`] with its words and what it said.
pub fn run_with(program: &str, words: &[&str], input: &[u8]) -> Result<Vec<u8>, Error> {
    let command = || format!("{program} {}", words.join(" "));
    let failed = |e: std::io::Error| Error::Run { command: command(), why: e.to_string() };
    let mut started = Command::new(program);
    started.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = started.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Less than a pipe holds. Who did not read it says better why.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut why = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if why.is_empty() {
        why = output.status.to_string();
    }
    Err(Error::Run { command: command(), why })
}
