//! The test cluster's own claims: that a cloud goes away in each of the ways in which clouds do, as a real client on
//! the node sees it, and comes back; that nodes join with a bootstrap token; that the cloud reaches into pods.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::support::{
    Cluster, ClusterOptions, Cut, KUBE_NAME, Node, NodeOptions, Pod, Process, kubectl_path, seconds,
    token_kubeconfig, workload,
};

const ADMIN: &str = "/etc/kubernetes/admin.kubeconfig";

/// That kubectl on a node gets an answer.
fn reaches(node: &Node) -> Result<()> {
    ask(node, "--request-timeout=20s")
}

/// Why kubectl on a node gets none.
fn refusal(node: &Node) -> Result<String> {
    let error = ask(node, "--request-timeout=2s").err().context("the cloud still answers")?;
    Ok(format!("{error:#}"))
}

fn ask(node: &Node, patience: &str) -> Result<()> {
    let program = kubectl_path()?;
    let argv = [&*program, "--kubeconfig", ADMIN, patience, "get", "--raw", "/version"];
    node.machine()?.run(&argv).map(drop)
}

/// A watch that is open before the cloud goes.
fn watch(node: &Node) -> Result<Process> {
    let program = kubectl_path()?;
    let kind = "configmaps";
    let watch =
        node.spawn("watch", &[&program, "--kubeconfig", ADMIN, "get", kind, "-w", "-A", "-o", "name"], &[])?;
    node.cluster().wait_for("an open watch", seconds(30), || {
        ensure!(watch.log().contains("configmap/"), "no event yet");
        Ok(())
    });
    Ok(watch)
}

#[test]
fn the_cloud_goes_in_every_way_and_comes_back() -> Result<()> {
    let cluster = Cluster::start(&ClusterOptions::default())?;
    let node = cluster.node("node-1", &NodeOptions::default())?;
    let other = cluster.node("node-2", &NodeOptions::default())?;
    cluster.ready()?;
    for node in [&node, &other] {
        node.machine()?.write(ADMIN, &cluster.admin_kubeconfig(KUBE_NAME)?)?;
        reaches(node)?;
    }
    let ways = [
        (Cut::Refuse, "refused", true),
        (Cut::Drop, "imeout", false),
        (Cut::Unavailable, "unable to handle the request", true),
        (Cut::BrokenTls, "certificate signed by unknown authority", true),
        (Cut::NoName, "imeout", true),
        (Cut::Freeze, "imeout", false),
        (Cut::Stop, "refused", true),
    ];
    for (way, why, resets) in ways {
        let mut watch = watch(&node)?;
        cluster.cut(way)?;
        let error = refusal(&node).with_context(|| format!("{way:?}"))?;
        assert!(error.contains(why), "{way:?}: {error}");
        if resets {
            cluster.wait_for(&format!("end of the watch after {way:?}"), seconds(30), || {
                ensure!(!watch.alive(), "it is open");
                Ok(())
            });
        } else {
            assert!(watch.alive(), "{way:?}: an open connection hangs, it does not end");
        }
        watch.kill();
        cluster.heal()?;
        cluster.wait_for(&format!("cloud after {way:?}"), seconds(30), || reaches(&node));
    }

    for way in [Cut::Drop, Cut::Refuse, Cut::Unavailable, Cut::BrokenTls] {
        cluster.cut_node(way, &node)?;
        refusal(&node).with_context(|| format!("{way:?}"))?;
        reaches(&other).with_context(|| format!("{way:?}: the other node has lost the cloud"))?;
        cluster.heal()?;
        reaches(&node)?;
    }
    assert!(cluster.cut_node(Cut::Freeze, &node).is_err());

    let start = Instant::now();
    cluster.flap(Cut::Drop, 3, Duration::from_millis(200), Duration::from_millis(100))?;
    assert!(start.elapsed() >= Duration::from_millis(900));
    reaches(&node)
}

#[test]
fn a_node_joins_with_a_bootstrap_token_and_the_cloud_reaches_its_pods() -> Result<()> {
    let cluster = Cluster::start(&ClusterOptions::default())?;
    let options = NodeOptions {
        kubelet: json!({"rotateCertificates": true}),
        kubelet_flags: vec!["--bootstrap-kubeconfig=/etc/kubernetes/bootstrap.kubeconfig".into()],
        ..NodeOptions::default()
    };
    let mut node = cluster.node("node-1", &options)?;
    let bootstrap = token_kubeconfig(KUBE_NAME, cluster.authority().certificate(), cluster.bootstrap_token());
    node.machine()?.write("/etc/kubernetes/bootstrap.kubeconfig", &bootstrap)?;
    cluster.ready()?;
    node.start_kubelet("/var/lib/kubelet/kubeconfig")?;
    node.wait_ready();
    let requests = cluster.kubectl(&["get", "csr", "-o", "jsonpath={.items[*].spec.username}"])?;
    assert!(requests.contains("system:bootstrap:abcdef"), "{requests}");
    node.machine()?.read("/var/lib/kubelet/pki/kubelet-client-current.pem")?;

    node.static_pod("fixed", workload::STATIC)?;
    cluster.wait_for("a static pod", seconds(90), || {
        ensure!(cluster.pods("default")?.iter().any(Pod::running), "it does not run");
        Ok(())
    });
    let inside = cluster.kubectl(&["exec", "fixed-node-1", "--", "hostname"])?;
    assert_eq!(inside.trim(), "fixed-node-1");
    let id = node.pods()?[0].containers[0].id.clone();
    node.ctr(&["tasks", "kill", "-s", "SIGKILL", &id])?;
    cluster.wait_for("one restart", seconds(90), || {
        let pods = cluster.pods("default")?;
        ensure!(pods[0].running() && pods[0].restarts() == 1, "{pods:?}");
        Ok(())
    });

    let (boots, before) = (node.boot_id()?, node.uplink_bytes()?);
    assert!(before.0 > 0 && before.1 > 0);
    node.reboot()?;
    assert_ne!(boots, node.boot_id()?, "a reboot is a new boot");
    assert!(node.running_containers()?.is_empty(), "no process survives a power cut");
    assert!(!node.machine()?.read("/proc/self/mountinfo")?.contains("/var/lib/kubelet/pods/"), "nor a mount");
    node.start_kubelet("/var/lib/kubelet/kubeconfig")?;
    cluster.wait_for("the pod after a reboot", seconds(90), || {
        ensure!(node.pods()?.iter().any(Pod::running), "it does not run");
        Ok(())
    });
    Ok(())
}
