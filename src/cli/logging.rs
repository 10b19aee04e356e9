//! Where events go: standard error, in a form for whoever reads it.

use std::env;

use anyhow::Result;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use super::failure::Usage;
use super::output;

/// Who tells of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teller {
    /// What an operator wants to know.
    Daemon,
    /// Warnings.
    Command,
    /// Nothing, unless asked: snapd takes every line for the hook's own answer.
    Hook,
}

/// Starts it. `EDGE_LOG`, else `RUST_LOG`, says what is told; else it is as [`Teller`] says.
///
/// # Errors
/// A filter that cannot be read.
pub fn start(teller: Teller) -> Result<()> {
    let is_daemon = teller == Teller::Daemon;
    let default = match teller {
        Teller::Daemon => "info",
        Teller::Command => "warn",
        Teller::Hook => "off",
    };
    let asked = ["EDGE_LOG", "RUST_LOG"].into_iter().find_map(|name| Some((name, env::var(name).ok()?)));
    let filter = match asked {
        Some((name, text)) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|e| {
            Usage(format!("{name} is `{text}`: {e} hint: use a level such as `debug`, or `edge=debug`"))
        })?,
        _ => EnvFilter::new(default),
    };
    let events = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output::is_watched() && env::var_os("NO_COLOR").is_none());
    // journald writes the time itself; a command's reader knows it.
    if !is_daemon || env::var_os("JOURNAL_STREAM").is_some() {
        events.without_time().with_target(is_daemon).init();
    } else {
        events.init();
    }
    Ok(())
}
