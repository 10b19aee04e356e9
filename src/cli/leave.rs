//! `edge leave`: kubelet gets its own credentials back, containerd its own configuration, and images are free again.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::{Global, held, output, progress};
use crate::cache;
use crate::config::{Change, Config};
use crate::cri::{ImageStore, Runtime};
use crate::daemon::{self, PerformError, task::Task};
use crate::pods::pins::{self, Mark, Places};
use crate::registry::containerd::{self, ContainerdReport, ContainerdSettings, LastResort};
use crate::sys::service::Service;

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
        let overrides = global.overrides()?;
        let config = held::agreed(&overrides, Config::load(&overrides)?)?;
        let left = progress::perform(&config, Task::Leave { discard_changes: self.discard_changes })?;
        if left["unset"] == true {
            super::edit::edit(&overrides, &[Change::Unset("cloud.kubeconfig".into())])?;
        }
        // An appliance's containerd and its images are edge's with and without a cloud.
        if daemon::kubelet::follow_membership(&global.load()?).map_err(PerformError::Task)? {
            return output::result(&match left["node"].as_str() {
                Some(node) => {
                    let reset =
                        if left["forgotten"] == true { "; a reset does not join it again" } else { "" };
                    format!("node `{node}` is given back, and kubelet was restarted without it{reset}")
                }
                None => done(&left, false),
            });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let let_go = runtime.block_on(let_go(&config));
        // What was done is told first: it stays done, whatever follows.
        let told = output::result(&done(&left, let_go.restart));
        let_go.stays.iter().for_each(|line| output::note(&format!("edge: {line}")));
        anyhow::ensure!(let_go.failed.is_empty(), "{}", let_go.failed.join("; "));
        told
    }
}

/// What became of what edge did to containerd and its images.
#[derive(Debug, Default)]
pub struct LetGo {
    /// What somebody has changed since, and is theirs now: a line for each.
    pub stays: Vec<String>,
    /// What could not be done: a line for each.
    pub failed: Vec<String>,
    /// Whether containerd must be started anew.
    pub restart: bool,
}

/// containerd gets its own configuration back, and the images that edge pinned are free again.
pub async fn let_go(config: &Config) -> LetGo {
    let mut let_go = LetGo::default();
    if let Err(error) = cache::thaw(&config.refuge) {
        let_go.failed.push(format!("what was cached of the cloud is still in memory: {error}"));
    }
    match containerd::undo(&containerd_settings(config)) {
        Ok(report) => {
            let_go.stays = stays(&report);
            let_go.restart = report.restart;
        }
        Err(error) => let_go.failed.push(format!("containerd's configuration is not what it was: {error}")),
    }
    if let Err(error) = free_images(config).await {
        let_go.failed.push(format!("images may still be pinned: {error}"));
    }
    let_go
}

/// A line for each file of containerd's that is somebody else's by now.
pub fn stays(report: &ContainerdReport) -> Vec<String> {
    let words = "was changed since edge wrote it, and stays";
    report.left_alone.iter().map(|path| format!("`{}` {words}", path.display())).collect()
}

/// Where what edge replaced for containerd is kept, below the state folder.
pub fn backup(state_dir: &Path) -> PathBuf {
    state_dir.join("containerd")
}

/// Where what edge wrote for containerd is noted.
pub fn containerd_settings(config: &Config) -> ContainerdSettings {
    ContainerdSettings {
        config: "/etc/containerd/config.toml".into(),
        backup: backup(&config.state_dir),
        edge: format!("http://{}", config.registry.listen),
        authority: None,
        hosts: Vec::new(),
        last_resort: LastResort::Registry,
    }
}

async fn free_images(config: &Config) -> Result<(), String> {
    let places = Places {
        store: ImageStore::new(&config.runtime).map_err(|e| e.to_string())?,
        runtime: Runtime::new(&config.runtime).map_err(|e| e.to_string())?,
        crio: "/etc/crio".into(),
        mark: Mark::below(&config.state_dir),
    };
    pins::free(&places).await
}

/// What was given back, and what is left to do; `containerd` is whether it must be started anew.
fn done(left: &Value, containerd: bool) -> String {
    let mut restarts: Vec<String> = containerd.then(|| Service::Containerd.restart()).into_iter().collect();
    let Some(node) = left["node"].as_str() else {
        let then = restarts.pop().map_or(String::new(), |restart| format!("\nthen: {restart}"));
        return format!("this gateway is not joined; there is nothing to give back{then}");
    };
    restarts.push(Service::Kubelet.restart());
    let path = left["kubeletKubeconfig"].as_str().unwrap_or_default();
    let file = if left["restored"] == true {
        format!("`{path}` is what it was before")
    } else {
        format!("`{path}` is gone; start kubelet with the --kubeconfig it had before")
    };
    let certificate = left["certificate"]
        .as_str()
        .map_or(String::new(), |path| format!("\nthe cloud's newest certificate is in `{path}`"));
    format!("node `{node}` is given back; {file}{certificate}\nthen: {}", restarts.join(" && "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_must_be_restarted_is_said() {
        let left = json!({"node": "n", "kubeletKubeconfig": "/k", "restored": true});
        let told = done(&left, true);
        assert!(
            told.ends_with("\nthen: systemctl restart containerd && systemctl restart kubelet"),
            "{told}"
        );
        assert!(done(&left, false).ends_with("\nthen: systemctl restart kubelet"));
        assert!(done(&json!({}), true).ends_with("nothing to give back\nthen: systemctl restart containerd"));
    }
}
