//! `edge completion` and `edge man`: files made from the command line's own description.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};

use super::{Cli, output};

/// `edge completion SHELL`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  edge completion bash > /usr/share/bash-completion/completions/edge")]
pub struct Completion {
    /// The shell to write for
    shell: clap_complete::Shell,
}

impl Completion {
    pub fn run(&self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "edge", &mut script);
        output::result(&String::from_utf8(script)?)
    }
}

/// `edge man DIR`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  edge man /usr/share/man/man1")]
pub struct Man {
    /// The folder to write `edge.1`, `edge-join.1` and so on into
    folder: PathBuf,
}

impl Man {
    pub fn run(&self) -> Result<()> {
        clap_mangen::generate_to(Cli::command(), &self.folder)
            .with_context(|| format!("cannot write the manual pages into `{}`", self.folder.display()))
    }
}
