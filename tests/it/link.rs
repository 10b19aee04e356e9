//! The link to the cloud in each of the ways in which clouds go away: edge says so and why, nothing on the node is
//! disturbed, and all is as before when the cloud is back.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::support::{Cut, KUBE_NAME, Node, NodeOptions, Scene, seconds, workload};

/// Each way, and a word of the reason that an operator finds in `edge status`.
const WAYS: [(Cut, &str); 8] = [
    (Cut::Refuse, "refused"),
    (Cut::Drop, ""),
    (Cut::Freeze, ""),
    (Cut::BrokenTls, "certificate"),
    (Cut::Unavailable, "503"),
    (Cut::Missing, "before the cloud answers 404"),
    (Cut::NoName, "kube.cloud.test"),
    (Cut::Stop, "refused"),
];

#[test]
fn every_way_to_lose_the_cloud_is_noticed_named_and_outlived() -> Result<()> {
    let mut scene = Scene::ready_at(&NodeOptions::default(), KUBE_NAME)?;
    let cluster = scene.cluster.clone();
    workload::apply(&cluster, &scene.node)?;
    workload::wait_running(&cluster);
    let before = containers(&scene.node)?;
    for (way, word) in WAYS {
        let start = Instant::now();
        cluster.cut(way)?;
        let link = scene.wait_link("offline");
        let reason = link["reason"].as_str().unwrap_or_default().to_owned();
        println!("{way:?}: offline after {:.1} s: {reason}", start.elapsed().as_secs_f32());
        assert!(!reason.is_empty() && reason.contains(word), "{way:?}: {link}");
        let start = Instant::now();
        cluster.heal()?;
        let link = scene.wait_link("online");
        println!("{way:?}: online after {:.1} s", start.elapsed().as_secs_f32());
        assert_eq!(link["reason"], "", "{way:?}");
        assert!(scene.node.kubelet_alive(), "{way:?}: the kubelet has ended");
        assert_eq!(containers(&scene.node)?, before, "{way:?}: the same containers");
    }
    // What stands in /etc/hosts is known without a name server, also to an edge that starts.
    scene.node.machine()?.shell("echo 10.250.0.1 kube.cloud.test >>/etc/hosts; rm /etc/resolv.conf")?;
    cluster.cut(Cut::NoName)?;
    scene.edge.kill();
    scene.edge.start(&scene.node)?;
    scene.wait_link("online");
    scene.kubectl(&["get", "node", scene.node.name()])?;
    cluster.heal()?;
    scene.node.machine()?.shell("echo nameserver 10.250.0.1 >/etc/resolv.conf")?;
    scene.node.wait_ready();
    workload::wait_told(&scene.node);
    Ok(())
}

#[test]
fn a_flapping_link_loses_nothing() -> Result<()> {
    let mut scene = Scene::ready(&NodeOptions::default())?;
    let cluster = scene.cluster.clone();
    workload::apply(&cluster, &scene.node)?;
    let before = workload::wait_running(&cluster);
    let victims: Vec<_> = before.iter().filter(|pod| pod.name.starts_with("web-")).collect();
    let (first, second) = (&victims[0].containers[0].id, &victims[1].containers[0].id);

    thread::scope(|scope| -> Result<()> {
        let flaps = scope.spawn(|| {
            cluster.flap(Cut::Refuse, 6, Duration::from_millis(700), Duration::from_millis(900))?;
            cluster.flap(Cut::Drop, 2, seconds(5), seconds(2))
        });
        for id in [first, second] {
            scene.node.ctr(&["tasks", "kill", "-s", "SIGKILL", id])?;
            thread::sleep(seconds(7));
        }
        flaps.join().unwrap_or_else(|_| anyhow::bail!("the flapping ended early"))
    })?;
    scene.wait_link("online");
    scene.node.wait_ready();
    let after = cluster.wait_for("both restarts, in the cloud", seconds(60), || {
        let pods = workload::wait_told(&scene.node);
        let restarts: Vec<_> =
            pods.iter().filter(|pod| pod.name.starts_with("web-")).map(|pod| pod.restarts()).collect();
        ensure!(restarts == [1, 1], "{restarts:?}");
        Ok(pods)
    });
    let uids = |pods: &[crate::support::Pod]| -> BTreeSet<String> {
        pods.iter().map(|pod| pod.uid.clone()).collect()
    };
    assert_eq!(uids(&before), uids(&after), "no pod was replaced");
    assert_eq!(workload::job_runs(&scene.node)?, 1, "a finished Job stays finished");
    assert!(scene.node.kubelet_alive());
    let status = scene.edge.status(&scene.node)?;
    assert_eq!(status["refused"], serde_json::json!([]));
    Ok(())
}

fn containers(node: &Node) -> Result<BTreeSet<String>> {
    Ok(node.running_containers()?.into_keys().collect())
}
