//! `edge leave`: kubelet gets its own credentials back.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use super::join::take_lock;
use super::{Global, output};
use crate::cache::Cache;
use crate::config::{self, Change};
use crate::proxy::join::{self, Left};

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
        let Some(left) = join::give_back(&config.state_dir)? else {
            join::clear(&config.state_dir)?;
            return output::result("this gateway is not joined; there is nothing to give back");
        };
        if config.cloud.kubeconfig.as_ref() == Some(&left.cloud_kubeconfig) {
            config::edit(&config.file, &[Change::Unset("cloud.kubeconfig".into())])?;
        }
        join::clear(&config.state_dir)?;
        output::result(&done(&left))
    }
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
