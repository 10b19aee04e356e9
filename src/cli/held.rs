//! The state folder that a running daemon holds. It need not be the one that the configuration names: a changed
//! `state-dir` waits for the next start, and a daemon may have been started with another configuration or environment.
//! Whoever names a folder by flag or environment means that one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::failure::Usage;
use super::output;
use crate::config::{Config, Overrides};
use crate::daemon::ask_state_dir;
use crate::sys::service::Service;

/// How long the daemon may take to say it; one that hangs says nothing, and holds nobody up.
const PATIENCE: Duration = Duration::from_secs(2);

/// The configuration with the folder that the running daemon holds: what is there is in force, and what the configuration
/// names may be empty yet. Says so where it is another one. A configuration that is named by hand may be another depot's,
/// and nothing is done elsewhere than it says.
///
/// # Errors
/// As of [`agreed`], of a configuration that is named.
pub fn follow(overrides: &Overrides, mut config: Config) -> Result<Config> {
    if overrides.config.is_some() {
        return agreed(overrides, config);
    }
    if let Some(held) = other(overrides, &config)? {
        let (used, named) = (held.display(), config.state_dir.display());
        output::note(&format!(
            "edge: the running daemon's state is in `{used}`, which is used; the configuration names `{named}`"
        ));
        config.state_dir = held;
    }
    Ok(config)
}

/// The configuration, for what notes in the state folder what other programs had: the daemon's next start would have
/// forgotten what is noted in its folder of today, and the daemon of today knows nothing of the other.
///
/// # Errors
/// Where they differ, with what to do.
pub fn agreed(overrides: &Overrides, config: Config) -> Result<Config> {
    let Some(held) = other(overrides, &config)? else { return Ok(config) };
    let (held, named, restart) = (held.display(), config.state_dir.display(), Service::Edge.restart());
    let why = format!(
        "the running daemon's state is in `{held}`, but the configuration names `{named}` hint: `{restart}` puts a changed state-dir into force; where the daemon was started with another configuration, say --state-dir"
    );
    Err(Usage(why).into())
}

/// The folder that the running daemon holds, where it is another one than that of `config`.
pub async fn other_of_daemon(overrides: &Overrides, config: &Config) -> Option<PathBuf> {
    if overrides.state_dir.is_some() {
        return None;
    }
    match tokio::time::timeout(PATIENCE, ask_state_dir(&config.socket)).await {
        Ok(Ok(held)) => (!is_same(&held, &config.state_dir)).then_some(held),
        // Nobody is there, or the caller is not root and reaches neither folder.
        Ok(Err(error)) => {
            tracing::debug!(%error, "the daemon was not asked for its state folder");
            None
        }
        Err(_) => {
            tracing::debug!("the daemon does not say which state folder it holds");
            None
        }
    }
}

fn other(overrides: &Overrides, config: &Config) -> Result<Option<PathBuf>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(other_of_daemon(overrides, config)))
}

/// One folder may have several names.
fn is_same(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| std::fs::canonicalize(path).ok();
    one == other || whole(one).is_some_and(|one| whole(other) == Some(one))
}
