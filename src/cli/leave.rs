//! `edge leave`: kubelet gets its own credentials back.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use super::join::take_lock;
use super::{Global, output};
use crate::cache::Cache;
use crate::config::{Change, Config};
use crate::cri::ImageStore;
use crate::pods::pins;
use crate::proxy::join::{self, Left};
use crate::registry::containerd::{self, ContainerdSettings, LastResort};

/// `edge leave`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  systemctl stop edge && edge leave

What edge cached of the cloud is removed, Secrets included. Images, charts and the local certificate
authority stay.")]
pub struct Leave {
    /// Give up what changed on this node and was not yet told to the cloud
    #[arg(long)]
    discard_changes: bool,
}

impl Leave {
    pub fn run(&self, global: &Global) -> Result<()> {
        let config = global.load()?;
        let _lock = take_lock(&config.state_dir, "edge leave")?;
        if !self.discard_changes {
            refuse_while_changes_wait(&config.state_dir)?;
        }
        let left = join::give_back(&config.state_dir)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stays = runtime.block_on(let_go(&config));
        let Some(left) = left else {
            join::clear(&config.state_dir)?;
            complain(&stays)?;
            return output::result("this gateway is not joined; there is nothing to give back");
        };
        if config.cloud.kubeconfig.as_ref() == Some(&left.cloud_kubeconfig) {
            super::edit::edit(&global.overrides()?, &[Change::Unset("cloud.kubeconfig".into())])?;
        }
        join::clear(&config.state_dir)?;
        complain(&stays)?;
        output::result(&done(&left))
    }
}

fn complain(stays: &[String]) -> Result<()> {
    anyhow::ensure!(stays.is_empty(), "{}", stays.join("; "));
    Ok(())
}

/// containerd gets its own configuration back, and the images that edge pinned are free again. What could not be done,
/// a line for each.
pub async fn let_go(config: &Config) -> Vec<String> {
    let mut stays = Vec::new();
    match containerd::undo(&containerd_settings(config)) {
        Ok(report) => stays.extend(
            report
                .left_alone
                .iter()
                .map(|path| format!("`{}` was changed since edge wrote it, and stays", path.display())),
        ),
        Err(error) => stays.push(format!("containerd's configuration is not what it was: {error}")),
    }
    if let Err(error) = free_images(config).await {
        stays.push(format!("images are still pinned: {error}"));
    }
    stays
}

/// Where what edge wrote for containerd is noted.
pub fn containerd_settings(config: &Config) -> ContainerdSettings {
    ContainerdSettings {
        config: "/etc/containerd/config.toml".into(),
        backup: config.state_dir.join("containerd"),
        edge: format!("http://{}", config.registry.listen),
        authority: None,
        hosts: Vec::new(),
        last_resort: LastResort::Registry,
    }
}

/// Edge's own pins. Without a runtime there are none to see.
async fn free_images(config: &Config) -> Result<()> {
    if config.runtime.socket()?.exists() {
        pins::clear(&ImageStore::new(&config.runtime)?).await?;
    }
    Ok(())
}

/// What changed here in an outage goes with the cache; it is told to the cloud first, or given up by
/// name.
fn refuse_while_changes_wait(state_dir: &Path) -> Result<()> {
    if !state_dir.join("cache.db").exists() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let cache = Cache::open(state_dir)?.cache;
    let waiting = runtime.block_on(cache.read(|reader| reader.changes()))?.len();
    anyhow::ensure!(
        waiting == 0,
        "{waiting} changes of this node wait to be told to the cloud hint: run `edge daemon` until `edge status` shows none, or leave with --discard-changes"
    );
    Ok(())
}

fn done(left: &Left) -> String {
    let (path, restored) = &left.kubelet_kubeconfig;
    let file = if *restored {
        format!("`{}` is what it was before", path.display())
    } else {
        format!("`{}` is gone; start kubelet with the --kubeconfig it had before", path.display())
    };
    let certificate = left
        .certificate
        .as_ref()
        .map_or(String::new(), |path| format!("\nthe cloud's newest certificate is in `{}`", path.display()));
    format!("node `{}` is given back; {file}{certificate}\nthen: systemctl restart kubelet", left.node_name)
}
