//! Changes to `edge.toml` by commands. In a snap, snapd is told too: what it shows is what is in force.

use std::path::PathBuf;

use anyhow::Result;

use super::moved;
use crate::config::{self, Change, Config, Overrides};
use crate::sys::snapctl::Snapctl;

/// Applies all `changes` to the file in force, or none, and tells snapd where edge runs in its snap. Outside a hook
/// snapd takes this as committed, and runs no hook.
pub fn edit(overrides: &Overrides, changes: &[Change]) -> Result<Config> {
    for change in changes {
        let asked = match change {
            Change::Set(key, text) if key == "state-dir" => PathBuf::from(text),
            Change::Unset(key) if key == "state-dir" => overrides.defaults().state_dir,
            _ => continue,
        };
        moved::check(overrides, Config::load(overrides).ok().as_ref(), &asked)?;
    }
    let edited = config::edit(&overrides.file(), changes)?;
    let Some(snap) = &overrides.snap else { return Ok(edited) };
    // What is unset goes back to the snap's own defaults, which the file alone does not know.
    let defaults = Config::load(overrides)?;
    let snapctl = Snapctl::new(&snap.snapctl);
    let mut set = Vec::new();
    let mut unset = Vec::new();
    for change in changes {
        let (key, from) = match change {
            Change::Set(key, _) => (key, &edited),
            Change::Unset(key) => (key, &defaults),
        };
        match from.get(key)?.as_ref().map(config::json::of_value) {
            Some(value) => set.push((key.as_str(), value)),
            None => unset.push(key),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        snapctl.set(&set).await?;
        for key in unset {
            snapctl.unset(key).await?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    // The daemon may have put what snapd had before over the file: a `snap set` of a moment ago.
    config::edit(&overrides.file(), changes)?;
    Ok(Config::load(overrides)?)
}
