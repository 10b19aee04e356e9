//! `edge leave`: kubelet gets its own credentials back, containerd its own configuration, and images are free again.

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::{Global, output, progress};
use crate::config::{Change, Config};
use crate::cri::{ImageStore, Runtime};
use crate::daemon::{self, PerformError, task::Task};
use crate::pods::pins::{self, Places};
use crate::registry::containerd::{self, ContainerdSettings, LastResort};

/// `edge leave`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  edge leave && systemctl restart kubelet

What edge cached of the cloud is removed, Secrets included. Images, charts and the local certificate
authority stay. A daemon that runs goes on without a cloud.")]
pub struct Leave {
    /// Give up what changed on this node and was not yet told to the cloud
    #[arg(long)]
    discard_changes: bool,
}

impl Leave {
    pub fn run(&self, global: &Global) -> Result<()> {
        let config = global.load()?;
        let left = progress::perform(&config, Task::Leave { discard_changes: self.discard_changes })?;
        if left["unset"] == true {
            super::edit::edit(&global.overrides()?, &[Change::Unset("cloud.kubeconfig".into())])?;
        }
        // An appliance's containerd and its images are edge's with and without a cloud.
        if daemon::system::follow_membership(&global.load()?).map_err(PerformError::Task)? {
            return output::result(&match left["node"].as_str() {
                Some(node) => format!("node `{node}` is given back, and kubelet was restarted without it"),
                None => done(&left),
            });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stays = runtime.block_on(let_go(&config));
        anyhow::ensure!(stays.is_empty(), "{}", stays.join("; "));
        output::result(&done(&left))
    }
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

async fn free_images(config: &Config) -> Result<()> {
    let places = Places {
        store: ImageStore::new(&config.runtime)?,
        runtime: Runtime::new(&config.runtime)?,
        crio: "/etc/crio".into(),
    };
    Ok(pins::free(&places).await?)
}

fn done(left: &Value) -> String {
    let Some(node) = left["node"].as_str() else {
        return "this gateway is not joined; there is nothing to give back".into();
    };
    let path = left["kubeletKubeconfig"].as_str().unwrap_or_default();
    let file = if left["restored"] == true {
        format!("`{path}` is what it was before")
    } else {
        format!("`{path}` is gone; start kubelet with the --kubeconfig it had before")
    };
    let certificate = left["certificate"]
        .as_str()
        .map_or(String::new(), |path| format!("\nthe cloud's newest certificate is in `{path}`"));
    format!("node `{node}` is given back; {file}{certificate}\nthen: systemctl restart kubelet")
}
