//! The edge daemon and its commands on a node. Knows where edge's files are; judges nothing of what it does.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::client::wait;
use super::machine::text;
use super::node::Node;
use super::process::Process;
use super::seconds;

/// The binary under test.
const EDGE: &str = env!("CARGO_BIN_EXE_edge");
const CONFIG: &str = "/etc/edge/edge.toml";
const CLOUD: &str = "/etc/kubernetes/cloud.kubeconfig";

/// edge on one node. The daemon ends with its node; its files are on the node's disk, at their native paths.
#[derive(Default)]
pub struct Edge {
    daemon: Option<Process>,
}

impl Edge {
    /// The kubeconfig that `join` writes for the kubelet.
    pub const KUBECONFIG: &str = "/etc/kubernetes/kubelet.kubeconfig";
    /// The binary under test, for scripts.
    pub const PROGRAM: &str = EDGE;
    /// Where the proxy listens.
    pub const PROXY: &str = "127.0.0.1:6445";

    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `edge ARGS` on the node, whatever its end.
    pub fn output(&self, node: &Node, args: &[&str]) -> Result<Output> {
        let mut argv = vec![EDGE];
        argv.extend(args);
        node.machine()?.output(&argv)
    }

    /// Runs `edge ARGS`, which must succeed; its standard output.
    pub fn run(&self, node: &Node, args: &[&str]) -> Result<String> {
        text(args, self.output(node, args)?)
    }

    /// Puts the cloud's kubeconfig on the node and runs `edge join` on it.
    pub fn join(&self, node: &Node, cloud_kubeconfig: &str) -> Result<String> {
        node.machine()?.write(CLOUD, cloud_kubeconfig)?;
        let args =
            ["join", "--from", CLOUD, "--kubelet-kubeconfig", Self::KUBECONFIG, "--node-name", node.name()];
        self.run(node, &args)
    }

    /// Writes the whole of edge.toml.
    pub fn configure(&self, node: &Node, toml: &str) -> Result<()> {
        node.machine()?.write(CONFIG, toml)
    }

    /// The text of edge.toml.
    pub fn config(&self, node: &Node) -> Result<String> {
        node.machine()?.read(CONFIG)
    }

    /// Starts the daemon and waits until its proxy listens.
    pub fn start(&mut self, node: &Node) -> Result<()> {
        self.spawn(node, &[])?;
        self.wait_listening(node, Self::PROXY, seconds(20))
    }

    /// Starts the daemon with more arguments; returns at once.
    pub fn spawn(&mut self, node: &Node, more: &[&str]) -> Result<()> {
        let mut argv = vec![EDGE, "daemon"];
        argv.extend(more);
        let mut environment = vec![("RUST_LOG", "info")];
        environment.extend(Self::environment());
        self.daemon = Some(node.spawn("edge", &argv, &environment)?);
        Ok(())
    }

    /// What its unit sets besides.
    pub fn environment() -> impl Iterator<Item = (&'static str, &'static str)> {
        let unit = include_str!("../../config/edge.service");
        let lines = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
        lines.flat_map(str::split_whitespace).filter_map(|pair| pair.split_once('='))
    }

    /// Waits until something on the node accepts at an address; fails at once when the daemon ends.
    pub fn wait_listening(&mut self, node: &Node, address: &str, deadline: Duration) -> Result<()> {
        let daemon = self.daemon()?;
        wait(&format!("listener at {address}"), deadline, || {
            if !daemon.alive() {
                return Ok(());
            }
            node.listens(address)
        })?;
        ensure!(daemon.alive(), "the daemon ended: {}", daemon.log());
        Ok(())
    }

    /// The daemon's process; fails when it was never started.
    pub fn daemon(&mut self) -> Result<&mut Process> {
        self.daemon.as_mut().context("the daemon was not started")
    }

    /// SIGHUP: the daemon reads its configuration again.
    pub fn reload(&mut self) -> Result<()> {
        self.daemon()?.signal(Signal::SIGHUP);
        Ok(())
    }

    /// SIGTERM; whether it ended by itself within ten seconds.
    pub fn stop(&mut self) -> bool {
        self.daemon.take().is_none_or(|mut daemon| daemon.stop(seconds(10)))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// Resident memory of the daemon in bytes.
    pub fn resident_bytes(&mut self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon()?.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// `edge status -o json`.
    pub fn status(&self, node: &Node) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.run(node, &["status", "-o", "json"])?)?)
    }
}
