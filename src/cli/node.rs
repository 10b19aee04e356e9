//! `edge node PART`: a service of the snap's node flavour. Lays out what the part needs and becomes it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::Global;
use crate::config::Config;
use crate::node::{self, Part, Places};
use crate::proxy::join::Record;

/// Where the kernel tells one boot from another.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// `edge node`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  edge node kubelet             what snapd runs as the service edge.kubelet")]
pub struct Node {
    /// What to become
    #[arg(value_enum)]
    part: Name,
}

/// The name that this node joined with. Pods start also where edge's own files cannot be read: kubelet is told what it was
/// told the last time then.
fn node_name(global: &Global) -> Option<String> {
    let loaded = global.overrides().and_then(|overrides| Ok(Config::load(&overrides)?));
    match loaded.and_then(|config| Ok(Record::read(&config.state_dir)?)) {
        Ok(record) => Some(record?.node_name),
        Err(error) => {
            super::output::note(&format!("kubelet keeps the node name that it had: {error:#}"));
            None
        }
    }
}

/// The parts, as they are typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    /// With runc and the CNI plugins of the snap
    Containerd,
    /// With a kubeconfig towards edge once this node has joined, else for static pods alone
    Kubelet,
}

impl Node {
    /// Does not come back but with an error.
    pub fn run(&self, global: &Global) -> Result<()> {
        let snap = global.overrides()?.snap.context("no snap: SNAP_NAME and SNAP_COMMON are not set")?;
        let node = snap.node.context(
            "this snap has no containerd and no kubelet hint: its node flavour has, see `edge-pack snap --flavour node`",
        )?;
        let places = Places { snap: node.content, common: snap.common };
        let part = match self.part {
            Name::Containerd => Part::Containerd,
            Name::Kubelet => Part::Kubelet,
        };
        let boot = std::fs::read_to_string(BOOT).with_context(|| format!("cannot read `{BOOT}`"))?;
        let node_name = match part == Part::Kubelet && node::has_joined(&places) {
            true => node_name(global),
            false => None,
        };
        let node_name = node_name.as_deref();
        let program = node::prepare(part, &places, &boot, node_name)?;
        let failed =
            Command::new(&program.path).args(&program.arguments).envs(program.environment.clone()).exec();
        Err(failed).with_context(|| format!("cannot run `{}`", program.path.display()))
    }
}
