//! `edge daemon`: run until told to stop.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use super::hook::check_stamp;
use super::{Global, failure};
use crate::config::{Config, Overrides};
use crate::daemon::prepared;
use crate::sys::lock::{LockError, StateLock};

/// `edge daemon`
#[derive(Debug, Args)]
pub struct Daemon {}

/// How long a snap's daemon waits for what a hand puts right, or for who holds the state folder.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

impl Daemon {
    pub fn run(&self, global: &Global) -> Result<()> {
        let overrides = global.overrides()?;
        if overrides.snap.is_some() {
            wait(&overrides)?;
        }
        Ok(crate::daemon::run(crate::daemon::load(&overrides)?, overrides)?)
    }
}

/// In a snap, waits for a while for a configuration that can be read and for the lock on the state folder. systemd
/// counts the starts of a snap's service, and gives up after a few in a row; each `snap restart` counts too.
fn wait(overrides: &Overrides) -> Result<()> {
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        let Err(error) = is_ready(overrides) else { return Ok(()) };
        if begun.elapsed() >= PATIENCE {
            return Err(error);
        }
        let why = failure::line(&error);
        if why != told {
            tracing::error!(why, "edge waits {} s for this to be put right", PATIENCE.as_secs());
            told = why;
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether the daemon could start now. What changes until it does ends it, as ever.
fn is_ready(overrides: &Overrides) -> Result<()> {
    if let Some(snap) = &overrides.snap {
        check_stamp(&snap.common)?;
    }
    prepared::settle_before_start(overrides)?;
    let config = Config::load(overrides)?;
    match StateLock::take(&config.state_dir, "edge, about to start") {
        Err(error @ LockError::Held { .. }) => Err(error.into()),
        // Of a folder that cannot be written the daemon itself makes the best.
        Ok(_) | Err(LockError::Io(_)) => Ok(()),
    }
}
