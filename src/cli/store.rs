//! `edge store`: the bytes behind images and charts.

use std::fmt::Write as _;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::image::word;
use super::output::{self, Format};
use super::{Global, progress};
use crate::config::quantity;
use crate::daemon::stores::StoreTask;
use crate::daemon::task::Task;

/// `edge store`
#[derive(Debug, Args)]
pub struct Store {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = "Examples:
  edge store verify
  edge store verify --rate 4MiB/s")]
    /// Read everything again, set aside what is damaged, and fetch that from upstreams that are configured
    Verify {
        /// Read no faster than this, such as 4MiB/s [default: as fast as the disk gives]
        #[arg(long, value_name = "RATE", value_parser = rate)]
        rate: Option<u64>,
        /// How to write the result
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
}

fn rate(text: &str) -> Result<u64, String> {
    quantity::rate(text).filter(|rate| *rate > 0).ok_or_else(|| "expected a rate such as `4MiB/s`".into())
}

impl Store {
    pub fn run(&self, global: &Global) -> Result<()> {
        let Command::Verify { rate, output } = &self.command;
        let task = Task::Store(StoreTask::Verify { rate: *rate });
        let done = progress::perform(&global.load()?, task)?;
        match output {
            Format::Json => output::json(&done)?,
            Format::Text => output::result(&text(&done))?,
        }
        let lost = done["left"].as_array().is_some_and(|left| !left.is_empty());
        if lost { Err(output::Exit(1).into()) } else { Ok(()) }
    }
}

fn text(done: &Value) -> String {
    let mut out = String::new();
    let list = |key: &str| done[key].as_array().into_iter().flatten();
    for digest in list("mended").filter_map(Value::as_str) {
        let _ = writeln!(out, "mended: {digest}");
    }
    for one in list("left") {
        let _ = writeln!(out, "lost: {}: {}", word(one, "digest"), word(one, "why"));
    }
    let number = |key: &str| done[key].as_u64().unwrap_or(0);
    let bad = list("damaged").count() + list("missing").count();
    let lost = match list("left").count() {
        0 => String::new(),
        count => format!(", {count} lost"),
    };
    let (blobs, bytes) = (number("blobs"), output::size(number("bytes")));
    let _ = writeln!(out, "{blobs} blobs read, {bytes}; {bad} damaged{lost}");
    out
}
