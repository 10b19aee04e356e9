//! `edge leave`: kubelet gets its own credentials back.

use anyhow::Result;
use clap::Args;

use super::join::take_lock;
use super::{Global, output};
use crate::config::{self, Change};
use crate::proxy::join::{self, Left};

/// `edge leave`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  systemctl stop edge && edge leave

What edge cached of the cloud is removed, Secrets included. Images, charts and the local certificate
authority stay.")]
pub struct Leave {}

impl Leave {
    pub fn run(&self, global: &Global) -> Result<()> {
        let config = global.load()?;
        let _lock = take_lock(&config.state_dir, "edge leave")?;
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
