//! `edge daemon`: run until told to stop.

use anyhow::Result;
use clap::Args;

use super::Global;
use crate::sys::lock::StateLock;

/// `edge daemon`
#[derive(Debug, Args)]
pub struct Daemon {}

impl Daemon {
    pub fn run(&self, global: &Global) -> Result<()> {
        let config = global.load()?;
        let _lock = StateLock::take(&config.state_dir, "edge daemon")?;
        anyhow::bail!("this build has no daemon yet")
    }
}
