//! The remove hook: the host is left as it was before edge came.
//!
//! snapd removes the snap whatever this hook says; it only keeps the line for `snap tasks --last=remove`. So the hook does
//! all that it can, the most important first, and then says what it could not.

use anyhow::{Result, bail};

use super::Scene;
use crate::cache::Cache;
use crate::cli::leave::let_go;
use crate::config::Config;
use crate::node::{self, Places};
use crate::proxy::join;
use crate::sys::lock::StateLock;

/// As `edge leave`, but nothing makes it give up half way.
pub async fn remove(scene: &Scene) -> Result<()> {
    let config = Config::load(&scene.overrides)?;
    let _lock = StateLock::take(&config.state_dir, "edge hook remove")?;
    let mut left = Vec::new();
    if let Some(node) = &scene.snap.node {
        left = node::clear(&Places { snap: node.content.clone(), common: scene.snap.common.clone() });
    }
    let untold = untold(&config).await;
    if let Err(error) = give_back(&config) {
        left.push(format!("kubelet did not get its credentials back: {error}"));
    }
    left.extend(let_go(&config).await);
    match untold {
        Ok(0) => {}
        Ok(count) => left.push(format!("{count} changes of this node were never told to the cloud")),
        Err(error) => left.push(format!("whether changes wait for the cloud is not known: {error}")),
    }
    if left.is_empty() { Ok(()) } else { bail!("{}", left.join("; ")) }
}

fn give_back(config: &Config) -> Result<()> {
    join::give_back(&config.state_dir)?;
    Ok(join::clear(&config.state_dir, join::Cached::Closed)?)
}

/// What changed here and the cloud was not told.
async fn untold(config: &Config) -> Result<usize> {
    if !config.state_dir.join("cache.db").exists() {
        return Ok(0);
    }
    let cache = Cache::open(&config.state_dir, &config.state_dir)?.cache;
    Ok(cache.read(|reader| reader.changes()).await?.len())
}
