//! Where every scenario begins: a cloud, and a gateway that has joined it and is Ready through edge.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::machine::text;
use super::{Cluster, ClusterOptions, Edge, KUBE_ADDRESS, Node, NodeOptions, parts, seconds};

/// A cloud and a gateway in it.
pub struct Scene {
    pub edge: Edge,
    pub node: Node,
    pub cluster: Cluster,
}

impl Scene {
    /// A node that is Ready through edge, which speaks to the cloud at `KUBE_ADDRESS`.
    pub fn ready(options: &NodeOptions) -> Result<Self> {
        Self::ready_at(options, KUBE_ADDRESS)
    }

    /// The same, with another address of the cloud.
    pub fn ready_at(options: &NodeOptions, server: &str) -> Result<Self> {
        Self::ready_in(&ClusterOptions::default(), options, server)
    }

    /// The same, in a cloud with options of its own.
    pub fn ready_in(cloud: &ClusterOptions, options: &NodeOptions, server: &str) -> Result<Self> {
        let cluster = Cluster::start(cloud)?;
        let mut node = cluster.node("node-1", options)?;
        cluster.ready()?;
        let mut edge = Edge::new();
        // Joined while the daemon runs, which then serves at once.
        edge.spawn(&node, &[])?;
        cluster.wait_for("a daemon without a cloud", seconds(20), || edge.status(&node));
        edge.join(&node, &cluster.node_kubeconfig(server, "node-1")?)?;
        node.listens(Edge::PROXY)?;
        node.start_kubelet(Edge::KUBECONFIG)?;
        node.wait_ready();
        Ok(Self { edge, node, cluster })
    }

    /// Waits until edge says that the link is `state`; its link then.
    pub fn wait_link(&self, state: &str) -> Value {
        self.cluster.wait_for(&format!("link {state}"), seconds(30), || {
            let link = self.edge.status(&self.node)?["link"].clone();
            ensure!(link["state"] == state, "{link}");
            Ok(link)
        })
    }

    /// Cuts the power, boots again, starts edge; the kubelet is the caller's to start.
    pub fn reboot(&mut self) -> Result<()> {
        self.node.reboot()?;
        self.edge.start(&self.node)
    }

    /// kubectl on the node with the kubelet's kubeconfig, through edge.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let program = parts::kubernetes("kubectl")?;
        let mut argv = vec![&*program, "--kubeconfig", Edge::KUBECONFIG, "--cache-dir=/run/kubectl"];
        argv.extend(args);
        text(args, self.node.machine()?.output(&argv)?)
    }
}
