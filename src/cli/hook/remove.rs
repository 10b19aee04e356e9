//! The remove hook: the host is left as it was before edge came.
//!
//! snapd removes the snap whatever this hook says; it only keeps the line for `snap tasks --last=remove`. So the
//! hook does all that it can, the most important first, and then says what it could not.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::Scene;
use crate::cache::Cache;
use crate::config::Config;
use crate::cri::ImageStore;
use crate::pods::pins;
use crate::proxy::join;
use crate::registry::containerd::{self, ContainerdSettings, LastResort};
use crate::sys::lock::StateLock;

/// Gives kubelet its own credentials back, containerd its own configuration, and images free.
pub async fn remove(scene: &Scene) -> Result<()> {
    let config = Config::load(&scene.overrides)?;
    let _lock = StateLock::take(&config.state_dir, "edge hook remove")?;
    let mut left = Vec::new();
    let lost = untold(&config).await.unwrap_or_default();
    if let Err(error) = give_back(&config) {
        left.push(format!("kubelet did not get its credentials back: {error}"));
    }
    match containerd::undo(&containerd_settings(&config)) {
        Ok(report) if report.left_alone.is_empty() => {}
        Ok(report) => left.push(format!("somebody changed `{}`, which stays", shown(&report.left_alone))),
        Err(error) => left.push(format!("containerd's configuration is not what it was: {error}")),
    }
    if let Err(error) = free_images(&config).await {
        left.push(format!("images are still pinned: {error}"));
    }
    if lost > 0 {
        left.push(format!("{lost} changes of this node were never told to the cloud"));
    }
    if left.is_empty() { Ok(()) } else { bail!("{}", left.join("; ")) }
}

/// Whether containerd was told to ask edge.
pub fn containerd_points_here(config: &Config) -> Result<bool> {
    Ok(containerd_settings(config).backup.join("replaced.json").exists()
        && !containerd::check(&containerd_settings(config))?.changed.is_empty())
}

fn give_back(config: &Config) -> Result<()> {
    join::give_back(&config.state_dir)?;
    Ok(join::clear(&config.state_dir)?)
}

/// What changed here and the cloud was not told.
async fn untold(config: &Config) -> Result<usize> {
    if !config.state_dir.join("cache.db").exists() {
        return Ok(0);
    }
    let cache = Cache::open(&config.state_dir)?.cache;
    Ok(cache.read(|reader| reader.changes()).await?.len())
}

/// Edge's own pins. Without a runtime there are none to see.
async fn free_images(config: &Config) -> Result<()> {
    if !config.runtime.socket()?.exists() {
        return Ok(());
    }
    pins::clear(&ImageStore::new(&config.runtime)?).await?;
    Ok(())
}

fn containerd_settings(config: &Config) -> ContainerdSettings {
    ContainerdSettings {
        config: PathBuf::from("/etc/containerd/config.toml"),
        backup: config.state_dir.join("containerd"),
        edge: format!("http://{}", config.registry.listen),
        authority: None,
        hosts: Vec::new(),
        last_resort: LastResort::Registry,
    }
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("`, `")
}
