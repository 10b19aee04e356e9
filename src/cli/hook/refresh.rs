//! From one revision to the next: what must be at rest before, and what is brought up to date after.
//!
//! The stamp says which layout the state has. Databases only ever gain tables and columns, so a revision opens what the
//! next one left; a layout that breaks this gets another number here. An older revision refuses it: its post-refresh, its
//! configure, which fails a revert too, and its daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{Scene, configure};
use crate::cache;
use crate::cli::output;
use crate::config::Config;
use crate::daemon::{ClientError, SCHEDULED_RUN, ask_busy, ask_checkpoint};
use crate::pods::restart::at_work;
use crate::store::{Settings as StoreSettings, Store};
use crate::sys::durable;
use crate::sys::lock::{LockError, StateLock};

/// The layout of the state that this edge writes.
const LAYOUT: u32 = 1;
/// How long the daemon may take to put on disk what is queued.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the daemon may take to say what it is doing.
const ANSWER: Duration = Duration::from_secs(10);
/// What a daemon that stops may cut off: it only reads, or goes on the next time where it was.
const MAY_BE_CUT_OFF: [&str; 9] = [
    SCHEDULED_RUN,
    "edge mirror sync",
    "edge mirror list",
    "edge mirror explain",
    "edge bundle inspect",
    "edge bundle verify",
    "edge bundle history",
    "edge trust show",
    "edge store verify",
];

/// Who wrote the state last.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Stamp {
    layout: u32,
    version: String,
}

/// A new snap: its folders and its stamp.
pub fn install(scene: &Scene) -> Result<()> {
    durable::folder(&scene.snap.common.join("run"), 0o700)?;
    write_stamp(scene)
}

/// Before the old revision stops: refuses while something runs that must not be cut off, and has everything on disk. A
/// configuration that cannot be read and a daemon that hangs are no reason: the new revision may be what mends them.
pub async fn before(scene: &Scene) -> Result<()> {
    let config = Config::load(&scene.overrides).unwrap_or_else(|error| {
        output::note(&format!("edge: the defaults are taken: {error}"));
        scene.overrides.defaults()
    });
    let restarting = at_work(&config.turns())?;
    ensure!(
        restarting.is_empty(),
        "{} is restarting a pod hint: refresh again when it has ended",
        restarting.join(", ")
    );
    let Ok(busy) = tokio::time::timeout(ANSWER, ask_busy(&config.socket)).await else {
        output::note("edge: the daemon does not answer, and is not waited for");
        return Ok(());
    };
    match busy {
        Ok(mut busy) => {
            busy.retain(|command| !MAY_BE_CUT_OFF.contains(&command.as_str()));
            ensure!(
                busy.is_empty(),
                "`{}` is running hint: refresh again when it has ended",
                busy.join("`, `")
            );
            match tokio::time::timeout(PATIENCE, ask_checkpoint(&config.socket)).await {
                Ok(done) => Ok(done?),
                Err(_) => {
                    output::note("edge: the daemon does not put its queue on disk, and is not waited for");
                    Ok(())
                }
            }
        }
        Err(ClientError::Connect { .. }) => alone(&config),
        Err(error) => Err(error.into()),
    }
}

/// Without a daemon, another command may hold the state.
fn alone(config: &Config) -> Result<()> {
    match StateLock::take(&config.state_dir, "edge hook pre-refresh") {
        Ok(_lock) => Ok(()),
        Err(LockError::Held { holder, .. }) => {
            bail!("{holder} is running hint: refresh again when it has ended")
        }
        Err(error) => Err(error.into()),
    }
}

/// In the new revision, before its services start: the state is opened, which brings it up to date, and snapd's values
/// are held against this revision's keys. Whatever fails here makes snapd go back to the old revision.
pub async fn after(scene: &Scene) -> Result<()> {
    check_stamp(&scene.snap.common)?;
    let committed = configure::values(scene, &scene.overrides.defaults(), None)
        .await
        .context("the configuration does not fit")?;
    // A file that somebody spoiled gives way to snapd's values with the next hook.
    let config = Config::load(&scene.overrides).unwrap_or(committed.config);
    let _lock = StateLock::take(&config.state_dir, "edge hook post-refresh")?;
    cache::update(&config.state_dir)?;
    let settings = StoreSettings::below(&config.state_dir);
    if settings.folder.exists() {
        drop(Store::open(settings)?);
    }
    write_stamp(scene)
}

fn stamp_path(common: &Path) -> PathBuf {
    common.join("layout.json")
}

fn write_stamp(scene: &Scene) -> Result<()> {
    let stamp = Stamp { layout: LAYOUT, version: env!("CARGO_PKG_VERSION").into() };
    Ok(durable::write(&stamp_path(&scene.snap.common), &serde_json::to_vec(&stamp)?, 0o600)?)
}

/// Whether the state below `common`, the folder that all revisions share, is of a layout that this edge knows.
///
/// # Errors
/// One line with the version that wrote it.
pub fn check_stamp(common: &Path) -> Result<()> {
    let Some(stamp) = read_stamp(&stamp_path(common))? else { return Ok(()) };
    ensure!(
        stamp.layout <= LAYOUT,
        "the state has layout {} of edge {}, and edge {} knows layout {LAYOUT} at most hint: install edge {} or newer",
        stamp.layout,
        stamp.version,
        env!("CARGO_PKG_VERSION"),
        stamp.version
    );
    Ok(())
}

fn read_stamp(path: &Path) -> Result<Option<Stamp>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(durable::named(e, "read", path).into()),
    };
    let stamp = serde_json::from_str(&text).with_context(|| format!("`{}` is damaged", path.display()))?;
    Ok(Some(stamp))
}
