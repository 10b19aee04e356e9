//! What a node does without edge: the control for every test of what edge is for. Proves the test cluster as well.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use anyhow::Result;

use crate::support::{Cluster, ClusterOptions, Cut, Kubelet, NodeOptions, Pod, seconds, workload};

/// The pods run while the cloud is there; after a reboot without it none of the cloud's pods starts; they come when it is back.
#[test]
fn without_edge_a_reboot_in_an_outage_starts_nothing() -> Result<()> {
    let clock = Instant::now();
    let mark = |what: &str| println!("{:6.1} s  {what}", clock.elapsed().as_secs_f32());
    let cluster = Cluster::start(&ClusterOptions::default())?;
    let mut node = cluster.node("node-1", &NodeOptions::default())?;
    mark("containerd up");
    node.start_direct()?;
    mark("node Ready");
    workload::apply(&cluster, &node)?;
    let before = workload::wait_running(&cluster);
    mark("workload runs");
    assert_eq!(workload::job_runs(&node)?, 1);

    cluster.cut(Cut::Drop)?;
    node.reboot()?;
    mark("cloud cut, node rebooted");
    node.start_kubelet("/etc/kubernetes/direct.kubeconfig")?;
    cluster.wait_for("an answer of the kubelet", seconds(90), || node.pods());
    // Long past the time that the same pods need with the cloud there: there is no event to wait for.
    thread::sleep(seconds(15));
    let started = node.running_containers()?;
    assert!(started.values().all(|name| name.contains("/fixed-")), "without the cloud ran: {started:?}");
    assert!(node.kubelet_alive());
    mark("nothing of the cloud's has started");

    cluster.heal()?;
    workload::wait_running_on(&node);
    mark("cloud back, workload runs");
    let after = workload::wait_told(&node);
    mark("and the cloud knows");
    let restarts = after.iter().filter(|pod| pod.name.starts_with("web-")).map(Pod::restarts);
    assert_eq!(restarts.collect::<Vec<_>>(), [1, 1], "a reboot is a restart of each container");
    assert_eq!(uids(&before), uids(&after), "the same pods, not new ones");
    assert_eq!(workload::job_runs(&node)?, 1, "a finished Job stays finished");
    Ok(())
}

/// The older protocol (LIST, then WATCH) on the same cluster.
#[test]
#[ignore = "long: needs scripts/parts --old-kubelet"]
fn an_old_kubelet_runs_the_workload() -> Result<()> {
    let cluster = Cluster::start(&ClusterOptions::default())?;
    let mut node =
        cluster.node("node-1", &NodeOptions { version: Kubelet::Old, ..NodeOptions::default() })?;
    node.start_direct()?;
    workload::apply(&cluster, &node)?;
    workload::wait_running(&cluster);
    Ok(())
}

fn uids(pods: &[Pod]) -> BTreeMap<String, String> {
    // The cloud's uid of a static pod is that of its mirror.
    let own = pods.iter().filter(|pod| !pod.name.starts_with("fixed-"));
    own.map(|pod| (pod.name.clone(), pod.uid.clone())).collect()
}
