//! A gateway whose whole network comes from pods: flannel, kube-proxy and CoreDNS, and two pods that talk to each other.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::incluster_flannel as flannel;
use crate::support::{ClusterOptions, KUBE_ADDRESS, NodeOptions, Scene, kubectl_path, network_part, seconds};

const MANIFEST: &str = include_str!("../support/manifests/network.yaml");
/// What the node is to run, and how many of each.
const PODS: [(&str, &str); 5] = [
    ("kube-flannel", "kube-flannel-ds"),
    ("kube-system", "kube-proxy"),
    ("kube-system", "coredns"),
    ("default", "web"),
    ("default", "client"),
];

/// A gateway whose network is made by pods, which all run.
pub fn scene() -> Result<Scene> {
    let options = NodeOptions {
        kubelet: json!({"clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local"}),
        ..NodeOptions::default()
    };
    // As everywhere but in the other tests: the API server says where it is.
    let cloud =
        ClusterOptions { apiserver: vec!["--endpoint-reconciler-type=lease".into()], ..flannel::cloud() };
    let mut scene = Scene::ready_in(&cloud, &options, KUBE_ADDRESS)?;
    scene.node.import_programs("registry.test/client:1", &[&kubectl_path()?])?;
    scene.node.import_programs("registry.test/kube-proxy:1", &[&network_part("kube-proxy")?])?;
    scene.node.import_programs("registry.test/coredns:1", &[&network_part("coredns")?])?;
    flannel::prepare(&mut scene)?;
    let cluster = &scene.cluster;
    cluster.wait_for("the default service account", seconds(60), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    cluster.apply(flannel::MANIFEST)?;
    cluster.apply(MANIFEST)?;
    cluster.wait_for("flannel, kube-proxy, CoreDNS and two pods", seconds(150), || running(&scene));
    Ok(scene)
}

/// All run, those without the host's network in flannel's.
pub fn running(scene: &Scene) -> Result<()> {
    let pods = scene.node.pods()?;
    for (namespace, name) in PODS {
        let found = pods.iter().find(|pod| pod.namespace == namespace && pod.name.starts_with(name));
        ensure!(found.is_some_and(|pod| pod.running()), "{namespace}/{name}: {found:?}");
        let own = matches!(name, "coredns" | "web" | "client");
        ensure!(
            !own || found.is_some_and(|pod| pod.address.starts_with(flannel::NETWORK)),
            "{namespace}/{name}: {found:?}"
        );
    }
    Ok(())
}

/// Runs a command in the pod `client`, through edge.
pub fn exec(scene: &Scene, argv: &[&str]) -> Result<String> {
    scene.edge.run(&scene.node, &[&["pod", "exec", "client", "--"], argv].concat())
}

/// kube-proxy's rules. The one that is looked for is that of the API server: a Service whose pods are all of this node, as the
/// cluster's name server, has none before one of them is ready again.
pub fn has_rules(scene: &Scene) -> Result<()> {
    let rules = scene.node.machine()?.run(&["iptables-save", "-t", "nat"])?;
    ensure!(
        rules.lines().any(|rule| rule.contains("10.96.0.1/32") && rule.contains("-j KUBE-SVC")),
        "no rule"
    );
    Ok(())
}

/// What flannel's plugin needs to give pods addresses.
pub fn has_network(scene: &Scene) -> Result<()> {
    scene.node.machine()?.read(flannel::SUBNET).map(drop)
}

/// CoreDNS answers a pod.
pub fn resolves(scene: &Scene) -> Result<()> {
    let answer = exec(scene, &["busybox", "nslookup", "web.default.svc.cluster.local", "10.96.0.10"])?;
    ensure!(answer.contains("Address"), "{answer}");
    Ok(())
}

/// A pod answers another by the name of a Service.
pub fn requests(scene: &Scene) -> Result<()> {
    let answer = exec(scene, &["curl", "-sS", "--max-time", "3", "http://web.default.svc.cluster.local/"])?;
    ensure!(answer.trim() == "hello from web", "{answer}");
    Ok(())
}
