//! `edge daemon`: run until told to stop.

use anyhow::Result;
use clap::Args;

use super::Global;

/// `edge daemon`
#[derive(Debug, Args)]
pub struct Daemon {}

impl Daemon {
    pub fn run(&self, global: &Global) -> Result<()> {
        let overrides = global.overrides()?;
        crate::daemon::prepared::settle_before_start(&overrides)?;
        Ok(crate::daemon::run(global.load()?, overrides)?)
    }
}
