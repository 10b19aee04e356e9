//! `edge status`: what the daemon says of itself.

use anyhow::Result;
use clap::Args;

use super::Global;
use super::output::Format;

/// `edge status`
#[derive(Debug, Args)]
pub struct Status {
    /// How to write it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Status {
    pub fn run(&self, global: &Global) -> Result<()> {
        let config = global.load()?;
        tracing::debug!(socket = %config.socket.display(), output = ?self.output, "asking the daemon");
        anyhow::bail!("this build has no daemon to ask yet")
    }
}
