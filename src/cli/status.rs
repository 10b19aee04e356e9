//! `edge status`: what the daemon says of itself.

use std::io::Write as _;

use anyhow::Result;
use clap::Args;

use super::Global;
use super::output::Format;
use crate::daemon::{Report, ask_status};

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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let report = runtime.block_on(ask_status(&config.socket))?;
        let text = match self.output {
            Format::Json => serde_json::to_string_pretty(&report)? + "\n",
            Format::Text => text(&report),
        };
        std::io::stdout().lock().write_all(text.as_bytes())?;
        Ok(())
    }
}

fn text(report: &Report) -> String {
    format!("link {} since {} {}\n", report.link.state, report.link.since, report.link.reason)
}
