//! What an idle node with 50 pods costs: bytes on its uplink against the same kubelet without edge at the same time, and
//! bytes that edge writes to the disk.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::reading;
use crate::support::{Cluster, ClusterOptions, Edge, KUBE_ADDRESS, Node, NodeOptions, Pod, seconds};
use crate::table::Table;

const PODS: usize = 50;
const DAY: f64 = 86_400.0;

/// Two gateways of one cloud with the same pods: one without edge, one with.
pub struct Gateways {
    pub cluster: Cluster,
    pub direct: Node,
    pub edged: Node,
    pub edge: Edge,
}

impl Gateways {
    /// Boots both and waits until `count` pods run on each.
    pub fn new(count: usize) -> Result<Self> {
        let cluster = Cluster::start(&ClusterOptions::default())?;
        let mut direct = cluster.node("direct", &NodeOptions::default())?;
        let mut edged = cluster.node("edged", &NodeOptions::default())?;
        cluster.ready()?;
        let mut edge = Edge::new();
        edge.join(&edged, &cluster.node_kubeconfig(KUBE_ADDRESS, "edged")?)?;
        edge.start(&edged)?;
        direct.start_direct()?;
        edged.start_kubelet(Edge::KUBECONFIG)?;
        edged.wait_ready();
        cluster.wait_for("the default service account", seconds(90), || {
            cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
        });
        let items: Vec<_> = ["direct", "edged"].iter().flat_map(|node| workload(node, count)).collect();
        cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
        cluster.wait_for("all pods on both nodes", seconds(420), || {
            let run = running(&cluster.pods("default")?);
            ensure!(run == 2 * count, "{run} of {} run", 2 * count);
            Ok(())
        });
        Ok(Self { cluster, direct, edged, edge })
    }

    /// Waits until the link is back and what changed is told.
    pub fn wait_online(&self) {
        self.cluster.wait_for("edge online", seconds(90), || {
            let status = self.edge.status(&self.edged)?;
            ensure!(status["link"]["state"] == "online", "{}", status["link"]);
            Ok(())
        });
        self.edged.wait_ready();
    }
}

/// How many of these pods run.
pub fn running(pods: &[Pod]) -> usize {
    pods.iter().filter(|pod| pod.running()).count()
}

/// Pods of a node, five to a ConfigMap.
fn workload(node: &str, count: usize) -> Vec<Value> {
    let mut items = Vec::new();
    for number in 0..count {
        let map = format!("{node}-{}", number / 5);
        if number % 5 == 0 {
            items.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": map},
                "data": {"text": "x".repeat(500)}}));
        }
        items.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{node}-{number}")},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{
                    "name": "main", "image": "docker.io/library/busybox:1",
                    "command": ["sleep", "2147483647"],
                    "envFrom": [{"configMapRef": {"name": map}}],
                    "volumeMounts": [{"name": "config", "mountPath": "/config"}],
                }],
                "volumes": [{"name": "config", "configMap": {"name": map}}],
            },
        }));
    }
    items
}

pub fn measure(table: &mut Table, long: bool) -> Result<()> {
    let mut pair = Gateways::new(PODS)?;
    let pid = pair.edge.daemon()?.pid();
    let (warm, span) = if long { (300, 600) } else { (60, 180) };
    thread::sleep(Duration::from_secs(warm));
    let total = |node: &Node| node.uplink_bytes().map(|(received, sent)| received + sent);
    let before = (total(&pair.direct)?, total(&pair.edged)?, reading::written(pid)?, reading::cpu(pid)?);
    thread::sleep(Duration::from_secs(span));
    let after = (total(&pair.direct)?, total(&pair.edged)?, reading::written(pid)?, reading::cpu(pid)?);
    let span_seconds = Duration::from_secs(span).as_secs_f64();

    let (direct, edge) = ((after.0 - before.0) as f64, (after.1 - before.1) as f64);
    let cells = [format!("{:.1} kB", direct / 1e3), format!("{:.1} kB", edge / 1e3)];
    let what = format!("uplink of an idle node, 50 pods, {span} s");
    table.add(&what, &cells[0], &cells[1], &format!("{:.2}x", edge / direct), "<= 1.0x");
    let daily = (after.2 - before.2) as f64 / 1e6 * DAY / span_seconds;
    let wrote = format!("{:.0} kB", (after.2 - before.2) as f64 / 1e3);
    table.add("written to disk, 50 pods", "-", &wrote, &format!("{daily:.1} MB/day"), "<= 50 MB/day");
    let used = format!("{:.2} %", 100.0 * (after.3 - before.3) / span_seconds);
    table.add("CPU, idle node with 50 pods", "-", &used, &used, "<= 0.5 % of a core");
    let resident = format!("{:.1} MB", reading::resident(pid)?);
    table.add("memory, idle node with 50 pods", "-", &resident, &resident, "<= 25 MB");
    Ok(())
}
