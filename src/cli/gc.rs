//! `edge gc`: removes images and charts that nobody needs.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::Global;
use super::output::{self, Format};
use super::progress;
use crate::daemon::task::Task;

/// `edge gc`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge gc --dry-run     what would go, and how many bytes that frees
  edge gc               remove it; also while images are pulled and pushed

What was stored or used within the last day stays: somebody may be about to refer to it. The result counts it.")]
pub struct Gc {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Gc {
    pub fn run(&self, global: &Global) -> Result<()> {
        let done = progress::perform(&global.load()?, Task::Gc { dry_run: self.dry_run })?;
        match self.output {
            Format::Json => output::json(&done),
            Format::Text => output::result(&text(&done)),
        }
    }
}

fn text(done: &Value) -> String {
    let number = |key: &str| done[key].as_u64().unwrap_or(0);
    let verb = if done["dryRun"] == true { "would go" } else { "removed" };
    let mut out = String::new();
    for name in done["evict"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(out, "{verb}: {name}");
    }
    let gone = done["remove"].as_array().map_or(0, Vec::len);
    let (bytes, of) = (output::size(number("bytes")), number("blobs"));
    let _ = writeln!(out, "{gone} of {of} blobs {verb}, {bytes}");
    let aside = &done["quarantine"];
    if let Some(files @ 1..) = aside["removed"].as_u64() {
        let _ =
            writeln!(out, "{files} damaged files {verb}: what they should be is here again or not needed");
    }
    if let Some(files @ 1..) = aside["blobs"].as_u64() {
        let bytes = output::size(aside["bytes"].as_u64().unwrap_or(0));
        let _ = writeln!(
            out,
            "{files} damaged files, {bytes}, stay until what they should be is here again hint: `edge store verify`"
        );
    }
    let young = &done["young"];
    if let Some(blobs @ 1..) = young["blobs"].as_u64() {
        let bytes = output::size(young["bytes"].as_u64().unwrap_or(0));
        let _ = writeln!(
            out,
            "{blobs} more, {bytes}, are not needed either and stay: they were stored or used within the last day"
        );
    }
    out
}
