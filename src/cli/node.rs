//! `edge node PART`: a service of the snap's node flavour. Lays out what the part needs and becomes it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::Global;
use crate::config::Config;
use crate::node::{self, Joined, Part, Places};
use crate::proxy::join::{ClusterDns, Record};

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

/// The cloud that this node has joined. Pods start also where edge's own files cannot be read: kubelet is told what it was
/// told the last time then.
fn joined(global: &Global) -> Option<Joined> {
    let loaded = global.overrides().and_then(|overrides| Ok(Config::load(&overrides)?));
    let read = loaded.and_then(|config| {
        let Some(record) = Record::read(&config.state_dir)? else { return Ok(None) };
        let dns = ClusterDns::read(&config.state_dir).unwrap_or_else(|error| {
            super::output::note(&format!(
                "pods find no names of the cluster until the cloud answers: {error}"
            ));
            None
        });
        let settings = dns.map(|dns| dns.settings()).unwrap_or_default();
        Ok(Some(Joined { node_name: record.node_name, settings }))
    });
    read.unwrap_or_else(|error| {
        super::output::note(&format!(
            "kubelet keeps the node name and the cluster's DNS that it had: {error:#}"
        ));
        None
    })
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
        let joined = match part == Part::Kubelet && node::has_joined(&places) {
            true => joined(global),
            false => None,
        };
        let program = node::prepare(part, &places, &boot, joined.as_ref())?;
        program.lacks.iter().for_each(|line| super::output::note(line));
        let failed =
            Command::new(&program.path).args(&program.arguments).envs(program.environment.clone()).exec();
        Err(failed).with_context(|| format!("cannot run `{}`", program.path.display()))
    }
}
