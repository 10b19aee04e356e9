//! The stage: a cloud and one node with edge and no kubelet, whose place the benchmark's client takes; and what stands on it.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::client::{Client, block_on};
use crate::reading;
use crate::support::{Cluster, ClusterOptions, Edge, KUBE_ADDRESS, Node, NodeOptions, seconds};

pub const NODE: &str = "node-1";

/// The kubelet's identity may read everything, so that one client can ask for as many objects as a figure needs.
const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: bench}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: system:nodes}]
";

pub struct Rig {
    pub cluster: Cluster,
    pub node: Node,
    pub edge: Edge,
}

/// The three ways in: each a kubeconfig.
#[derive(Clone)]
pub struct Ways {
    /// The node's identity, straight to the cloud.
    pub direct: String,
    /// The kubelet's identity, to edge.
    pub edge: String,
    /// The administrator, straight to the cloud: sets the stage.
    pub admin: String,
}

impl Rig {
    /// A cloud, and a node on which edge has joined and runs.
    pub fn new() -> Result<Self> {
        let cluster = Cluster::start(&ClusterOptions::default())?;
        let node = cluster.node(NODE, &NodeOptions::default())?;
        cluster.ready()?;
        cluster.apply(RIGHTS)?;
        cluster.wait_for("the default service account", seconds(90), || {
            cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
        });
        let mut edge = Edge::new();
        edge.join(&node, &cluster.node_kubeconfig(KUBE_ADDRESS, NODE)?)?;
        edge.start(&node)?;
        let rig = Self { cluster, node, edge };
        rig.wait_link("online")?;
        Ok(rig)
    }

    pub fn ways(&self) -> Result<Ways> {
        Ok(Ways {
            direct: self.cluster.node_kubeconfig(KUBE_ADDRESS, NODE)?,
            edge: self.node.machine()?.read(Edge::KUBECONFIG)?,
            admin: self.cluster.admin_kubeconfig(KUBE_ADDRESS)?,
        })
    }

    /// Runs a client on the node.
    pub fn on_node<T, F>(&self, work: impl FnOnce(Ways) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>>,
    {
        let ways = self.ways()?;
        self.node.machine()?.in_network(move || block_on(work(ways)))?
    }

    /// Makes objects in the cloud.
    pub fn create(&self, path: &'static str, objects: Vec<Value>) -> Result<()> {
        self.on_node(move |ways| async move {
            Client::connect(&ways.admin).await?.create_all(path, objects.into_iter()).await
        })
    }

    /// The version of a list, from which a watch can begin: the etcd of Debian bookworm cannot begin one with what is there.
    pub fn version(&self, path: &str) -> Result<String> {
        let list = self.cluster.get(path)?;
        Ok(list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned())
    }

    pub fn wait_link(&self, state: &str) -> Result<()> {
        self.cluster.wait_for(&format!("edge {state}"), seconds(60), || {
            let link = self.edge.status(&self.node)?["link"].clone();
            ensure!(link["state"] == state, "{link}");
            Ok(())
        });
        Ok(())
    }

    pub fn pid(&mut self) -> Result<i32> {
        Ok(self.edge.daemon()?.pid())
    }

    /// Waits until the daemon has nothing to do, so that what it does late burdens nobody else's figure.
    pub fn settle(&mut self) -> Result<()> {
        reading::settle(self.pid()?)
    }

    /// Starts the daemon anew with nothing in its cache.
    pub fn restart_empty(&mut self) -> Result<()> {
        self.edge.stop();
        self.node.machine()?.shell("rm -f /var/lib/edge/cache.db*")?;
        self.edge.start(&self.node)?;
        self.wait_link("online")?;
        std::thread::sleep(Duration::from_secs(1));
        self.settle()
    }
}

/// A pod that is bound to the node and that no kubelet starts.
pub fn pod(namespace: &str, number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": namespace, "labels": {"app": "bench"}},
        "spec": {
            "nodeName": NODE,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "main", "image": "docker.io/library/busybox:1",
                "command": ["sh", "-c", "sleep 2147483647"],
                "env": [{"name": "NUMBER", "value": number.to_string()}],
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
            }],
        },
    })
}

/// A ConfigMap with about a kibibyte in it.
pub fn config_map(name: String) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": "x".repeat(1000)}})
}

/// A Secret of the same size.
pub fn secret(name: String) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"text": "x".repeat(1000)}})
}

pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// The node, as a kubelet would have registered it: without it the cloud removes its pods.
pub fn node_object() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
}
