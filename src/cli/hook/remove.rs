//! The remove hook: the host is left as it was before edge came.
//!
//! snapd removes the snap whatever this hook says; it only keeps the line for `snap tasks --last=remove`. So the hook does
//! all that it can, the most important first, and then says what it could not.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Scene;
use super::configure::KUBECONFIG;
use crate::cache::Cache;
use crate::cli::leave::let_go;
use crate::config::{self, Change, Config};
use crate::node::{self, Places};
use crate::pods::pins::Mark;
use crate::proxy::{incluster, join};
use crate::sys::lock::{LockError, StateLock};

/// How long whoever holds the state folder is waited for. snapd has stopped the daemon; it may be a command.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// As `edge leave`, but nothing makes it give up half way.
pub async fn remove(scene: &Scene) -> Result<()> {
    let mut left = Vec::new();
    let config = Config::load(&scene.overrides).unwrap_or_else(|error| {
        left.push(format!("the configuration is not known, and its defaults were taken: {error}"));
        scene.overrides.defaults()
    });
    let _lock = match lock(&config).await {
        Ok(lock) => Some(lock),
        Err(error) => {
            left.push(format!("{error}, and everything was given back beside it"));
            None
        }
    };
    if let Some(node) = &scene.snap.node {
        left.extend(node::clear(&Places { snap: node.content.clone(), common: scene.snap.common.clone() }));
        // Its containerd goes with the snap, and is stopped by now.
        if node.endpoint == config.runtime.endpoint
            && let Err(error) = Mark::below(&config.state_dir).clear()
        {
            left.push(error.to_string());
        }
    }
    let untold = untold(&config).await;
    match join::give_back(&config.state_dir) {
        Ok(joined) => {
            if let Err(error) = join::clear(&config.state_dir, join::Cached::Closed) {
                left.push(format!("what was joined is not all removed: {error}"));
            }
            let cloud = joined.map(|joined| joined.cloud_kubeconfig);
            if cloud.is_some()
                && cloud == config.cloud.kubeconfig
                && let Err(error) = forget_cloud(scene, &config).await
            {
                left.push(format!("`{KUBECONFIG}` still names the cloud: {error}"));
            }
        }
        Err(error) => left.push(format!("kubelet did not get its credentials back: {error}")),
    }
    if let Err(error) = incluster::remove(config.proxy.in_cluster_listen).await {
        left.push(format!("the interface for pods stays: {error}"));
    }
    let let_go = let_go(&config).await;
    left.extend(let_go.stays.into_iter().chain(let_go.failed));
    match untold {
        Ok(0) => {}
        Ok(count) => left.push(format!("{count} changes of this node were never told to the cloud")),
        Err(error) => left.push(format!("whether changes wait for the cloud is not known: {error}")),
    }
    if left.is_empty() { Ok(()) } else { bail!("{}", left.join("; ")) }
}

async fn lock(config: &Config) -> Result<StateLock, LockError> {
    let begun = Instant::now();
    loop {
        match StateLock::take(&config.state_dir, "edge hook remove") {
            Err(LockError::Held { .. }) if begun.elapsed() < PATIENCE => tokio::time::sleep(LOOK).await,
            taken => return taken,
        }
    }
}

/// snapd makes its snapshot after this hook: with what would be restored of it, a daemon that is told of a kubeconfig which
/// is gone would not start.
async fn forget_cloud(scene: &Scene, config: &Config) -> Result<()> {
    config::edit(&config.file, &[Change::Unset(KUBECONFIG.into())])?;
    Ok(scene.snapctl.unset(KUBECONFIG).await?)
}

/// What changed here and the cloud was not told.
async fn untold(config: &Config) -> Result<usize> {
    if !config.state_dir.join("cache.db").exists() {
        return Ok(0);
    }
    let cache = Cache::open(&config.state_dir, &config.state_dir)?.cache;
    Ok(cache.read(|reader| reader.changes()).await?.len())
}
