//! Where events go: standard error, in a form for whoever reads it.

use std::env;

use anyhow::Result;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

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
    let asked = ["EDGE_LOG", "RUST_LOG"].into_iter().find_map(|name| {
        let said = env::var(name).ok().filter(|said| !said.is_empty())?;
        Some((name, said))
    });
    let (name, text) = match &asked {
        Some((name, text)) if !text.is_empty() => (*name, text.as_str()),
        _ => ("", default),
    };
    let filter: Targets = text.parse().map_err(|e| {
        Usage(format!("{name} is `{text}`: {e} hint: use a level such as `debug`, or `edge=debug`"))
    })?;
    let events = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(output::is_watched() && env::var_os("NO_COLOR").is_none());
    let all = tracing_subscriber::registry().with(filter);
    // journald writes the time itself; a command's reader knows it.
    if !is_daemon || env::var_os("JOURNAL_STREAM").is_some() {
        all.with(events.without_time().with_target(is_daemon)).init();
    } else {
        all.with(events).init();
    }
    Ok(())
}
