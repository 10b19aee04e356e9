//! The main job: a gateway keeps its pods through an outage and a reboot in it.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::support::{
    Cluster, ClusterOptions, Cut, Edge, KUBE_ADDRESS, Kubelet, Node, NodeOptions, Pod, kubectl_path, seconds,
    workload,
};

/// Joined, cut, rebooted, and back: the same pods run throughout, and the cloud hears what happened.
#[test]
fn pods_run_through_an_outage_and_a_reboot_in_it() -> Result<()> {
    through_an_outage(Kubelet::Current)
}

/// The older protocol: LIST, then WATCH.
#[test]
#[ignore = "long: needs scripts/parts --old-kubelet"]
fn pods_of_an_old_kubelet_run_through_an_outage_and_a_reboot_in_it() -> Result<()> {
    through_an_outage(Kubelet::Old)
}

#[allow(clippy::print_stdout, reason = "a test says how long its parts took")]
fn through_an_outage(version: Kubelet) -> Result<()> {
    let clock = Instant::now();
    let mark = |what: &str| println!("{:6.1} s  {what}", clock.elapsed().as_secs_f32());
    let cluster = Cluster::start(&ClusterOptions::default())?;
    let mut node = cluster.node("node-1", &NodeOptions { version, ..NodeOptions::default() })?;
    cluster.ready()?;
    let mut edge = Edge::new();
    edge.join(&node, &cluster.node_kubeconfig(KUBE_ADDRESS, "node-1")?)?;
    edge.start(&node)?;
    mark("edge runs");
    node.start_kubelet(Edge::KUBECONFIG)?;
    node.wait_ready();
    mark("node Ready through edge");
    workload::apply(&cluster, &node)?;
    let before = workload::wait_running(&cluster);
    mark("workload runs");

    let metrics = cluster.raw("/metrics")?;
    let streamed = metrics.lines().any(|line| {
        line.starts_with("apiserver_watch_list_duration_seconds_count")
            && line.contains("resource=\"secrets\"")
    });
    // Others in the cluster ask so too: only that nobody does is telling.
    assert!(streamed, "kubelets of 1.35 and later ask for streamed lists");
    streamed_list(&node)?;

    cluster.cut(Cut::Drop)?;
    cluster.wait_for("edge to notice", seconds(30), || {
        let status = edge.status(&node)?;
        anyhow::ensure!(status["link"]["state"] == "offline", "{}", status["link"]);
        Ok(())
    });
    mark("edge is offline");
    let since = edge.status(&node)?["link"]["since"].clone();
    node.reboot()?;
    edge.start(&node)?;
    node.start_kubelet(Edge::KUBECONFIG)?;
    let offline = workload::wait_running_on(&node);
    mark("rebooted offline, workload runs");
    let link = edge.status(&node)?["link"].clone();
    assert_eq!(
        (&link["state"], &link["since"]),
        (&"offline".into(), &since),
        "an outage goes on over a reboot"
    );
    streamed_list(&node)?;
    assert_eq!(uids(&before), uids(&offline), "the same pods");
    assert_eq!(workload::job_runs(&node)?, 1, "a finished Job stays finished");

    cluster.heal()?;
    let after = workload::wait_told(&node);
    mark("cloud back");
    assert_eq!(uids(&before), uids(&after), "no pod was replaced");
    assert_eq!(workload::job_runs(&node)?, 1, "a finished Job stays finished");
    Ok(())
}

/// WatchList through edge: every object as ADDED, then the bookmark without which a client waits for ever.
fn streamed_list(node: &Node) -> Result<()> {
    let path = "/api/v1/pods?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
        &allowWatchBookmarks=true&timeoutSeconds=2&fieldSelector=spec.nodeName%3Dnode-1";
    let kubectl = kubectl_path()?;
    let answer = node.machine()?.run(&[&kubectl, "--kubeconfig", Edge::KUBECONFIG, "get", "--raw", path])?;
    let events: Vec<serde_json::Value> =
        serde_json::Deserializer::from_str(&answer).into_iter().collect::<Result<_, _>>()?;
    let added = events.iter().take_while(|event| event["type"] == "ADDED").count();
    let end = events.get(added).context("nothing behind the objects")?;
    assert!(added >= 6, "{answer}");
    assert_eq!(end["type"], "BOOKMARK", "{answer}");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true", "{answer}");
    Ok(())
}

fn uids(pods: &[Pod]) -> BTreeMap<String, String> {
    let own = pods.iter().filter(|pod| !pod.name.starts_with("fixed-"));
    own.map(|pod| (pod.name.clone(), pod.uid.clone())).collect()
}
