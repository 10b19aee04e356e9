//! A gateway of a cloud that is laid out as a K3s server lays its own out (`Layout::K3s`), with a plain kubelet. K3s
//! itself is not to be had: the module proxy gives out none of its versions.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::support::{
    Cluster, ClusterOptions, Cut, Edge, KUBE_ADDRESS, Layout, Node, NodeOptions, Pod, seconds,
    token_kubeconfig, workload,
};

/// Joined by a bootstrap token, the server killed, the gateway rebooted, the server back: the same pods throughout.
#[test]
#[ignore = "long: needs scripts/parts --kine"]
fn a_plain_kubelet_joins_by_a_token_and_its_pods_run_through_an_outage() -> Result<()> {
    let cluster = Cluster::start(&ClusterOptions { layout: Layout::K3s, ..ClusterOptions::default() })?;
    // The server trusts only what its own authority for servers has signed.
    let kubelet = json!({"serverTLSBootstrap": true});
    let mut node = cluster.node("node-1", &NodeOptions { kubelet, ..NodeOptions::default() })?;
    cluster.ready()?;
    let mut edge = Edge::new();
    let authority = cluster.authority().certificate();
    edge.join(&node, &token_kubeconfig(KUBE_ADDRESS, authority, cluster.bootstrap_token()))?;
    edge.start(&node)?;
    is_no_k3s_server(&node)?;
    node.start_kubelet(Edge::KUBECONFIG)?;
    node.wait_ready();
    workload::apply(&cluster, &node)?;
    let before = workload::wait_running(&cluster);
    cluster.wait_for("logs, once the kubelet's certificate is approved", seconds(60), || {
        approve_serving(&cluster)?;
        logs(&cluster)
    });

    cluster.cut(Cut::Stop)?;
    cluster.wait_for("edge to notice", seconds(30), || {
        let link = edge.status(&node)?["link"].clone();
        ensure!(link["state"] == "offline", "{link}");
        Ok(())
    });
    node.reboot()?;
    edge.start(&node)?;
    node.start_kubelet(Edge::KUBECONFIG)?;
    let offline = workload::wait_running_on(&node);
    assert_eq!(uids(&before), uids(&offline), "the same pods");
    assert_eq!(workload::job_runs(&node)?, 1, "a finished Job stays finished");

    cluster.heal()?;
    node.wait_ready();
    let after = workload::wait_told(&node);
    assert_eq!(uids(&before), uids(&after), "no pod was replaced");
    assert_eq!(workload::job_runs(&node)?, 1, "a finished Job stays finished");
    cluster.wait_for("nothing left to tell", seconds(60), || {
        let changes = edge.status(&node)?["changes"].clone();
        ensure!(changes == json!([]), "{changes}");
        Ok(())
    });
    cluster.wait_for("logs after the outage", seconds(60), || logs(&cluster));
    Ok(())
}

/// What a K3s agent asks first, and shows nothing for, edge does not answer.
fn is_no_k3s_server(node: &Node) -> Result<()> {
    let ask = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "https://127.0.0.1:6445/cacerts"];
    let answer = node.machine()?.run(&ask)?;
    ensure!(answer == "401", "{answer}");
    Ok(())
}

/// Approves, as an operator does, what kubelets ask for to be known by.
fn approve_serving(cluster: &Cluster) -> Result<()> {
    let field = "--field-selector=spec.signerName=kubernetes.io/kubelet-serving";
    let names = cluster.kubectl(&["get", "csr", "-o", "name", field])?;
    for name in names.lines() {
        cluster.kubectl(&["certificate", "approve", name.rsplit('/').next().context("no name")?])?;
    }
    Ok(())
}

/// The API server asks the kubelet.
fn logs(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["logs", "by-hand"]).map(drop)
}

fn uids(pods: &[Pod]) -> Vec<(&str, &str)> {
    let own = pods.iter().filter(|pod| !pod.name.starts_with("fixed-"));
    let mut uids: Vec<_> = own.map(|pod| (&*pod.name, &*pod.uid)).collect();
    uids.sort_unstable();
    uids
}
