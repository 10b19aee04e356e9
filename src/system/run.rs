//! Other programs: `cryptsetup`, `mkfs.ext4`, `systemctl`.

use std::process::Command;

use super::Error;
use crate::sys::program;

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
    program::run(Command::new(program).args(words), input)
        .map_err(|why| Error::Run { command: format!("{program} {}", words.join(" ")), why })
}
