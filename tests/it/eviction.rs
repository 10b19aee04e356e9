//! An outage of seven minutes with another node that stays Ready: the cloud evicts what does not tolerate an
//! unreachable node, and nothing else. (With one node alone it suspends evictions.)

use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::support::{Cut, NodeOptions, Pod, Scene, seconds, workload};

/// Tolerates an unreachable node for the five minutes that every pod is given, and may run on the other node.
const PLAIN: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: plain}
spec:
  replicas: 1
  selector: {matchLabels: {app: plain}}
  template:
    metadata: {labels: {app: plain}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{key: edge.test/other, operator: Exists}]
      containers:
      - name: main
        image: docker.io/library/busybox:1
        command: [sh, -ec, 'trap "exit 0" TERM; sleep 2147483647 & wait']
"#;

#[test]
#[ignore = "long: an outage of seven minutes"]
fn in_seven_minutes_only_what_does_not_tolerate_it_is_evicted() -> Result<()> {
    let scene = Scene::ready(&NodeOptions::default())?;
    let cluster = scene.cluster.clone();
    workload::apply(&cluster, &scene.node)?;
    cluster.apply(PLAIN)?;
    workload::wait_running(&cluster);
    let evicted =
        cluster.wait_for("the plain pod", seconds(60), || plain_on(&cluster.pods("default")?, "node-1"));
    let options = NodeOptions {
        // Nothing keeps its images from being removed but this; edge is on the other node.
        kubelet: json!({"imageGCHighThresholdPercent": 100}),
        kubelet_flags: vec!["--register-with-taints=edge.test/other=yes:NoSchedule".into()],
        ..NodeOptions::default()
    };
    let mut other = cluster.node("node-2", &options)?;
    other.start_direct()?;
    let before = workload::wait_told(&scene.node);

    let start = Instant::now();
    cluster.cut_node(Cut::Drop, &scene.node)?;
    scene.wait_link("offline");
    cluster.wait_for("the plain pod's successor on the other node", seconds(450), || {
        plain_on(&cluster.pods("default")?, "node-2")
    });
    println!("evicted and replaced after {} s", start.elapsed().as_secs());
    // What has not been evicted by now tolerates it: there is no event to wait for.
    thread::sleep(seconds(420).saturating_sub(start.elapsed()));
    let there = cluster.pods("default")?;
    ensure!(
        there.iter().filter(|pod| pod.deleting).all(|pod| pod.uid == evicted.uid),
        "{}",
        workload::states(&there)
    );
    let here = scene.node.pods()?;
    ensure!(same(&before, &here), "the node's own pods: {before:?}\n{here:?}");

    cluster.heal()?;
    scene.wait_link("online");
    scene.node.wait_ready();
    cluster.wait_for("an end of the evicted pod", seconds(90), || {
        let (there, here) = (cluster.pods("default")?, scene.node.pods()?);
        ensure!(
            [&there, &here].iter().all(|pods| pods.iter().all(|pod| pod.uid != evicted.uid)),
            "{there:?}"
        );
        plain_on(&there, "node-2").map(drop)
    });
    let after = cluster.wait_for("the same pods in the cloud", seconds(60), || {
        let after = cluster.pods("default")?;
        ensure!(same(&before, &after), "{before:?}\n{after:?}");
        Ok(after)
    });
    let plain = after.iter().filter(|pod| pod.name.starts_with("plain-")).count();
    ensure!(plain == 1 && after.len() == before.len(), "something is doubled: {}", workload::states(&after));
    ensure!(workload::job_runs(&scene.node)? == 1, "a finished Job stays finished");
    ensure!(
        scene.edge.status(&scene.node)?["refused"] == serde_json::json!([]),
        "the cloud refused something"
    );
    Ok(())
}

fn plain_on(pods: &[Pod], node: &str) -> Result<Pod> {
    let found = pods.iter().find(|pod| pod.name.starts_with("plain-") && pod.node == node && pod.running());
    found.cloned().with_context(|| workload::states(pods))
}

/// Neither replaced nor restarted, as to what tolerates the outage; static pods have another uid on the node.
fn same(before: &[Pod], after: &[Pod]) -> bool {
    before.iter().filter(|pod| !pod.name.starts_with("plain-")).all(|pod| {
        let found = after.iter().find(|other| other.name == pod.name);
        found.is_some_and(|other| {
            (other.uid == pod.uid || pod.name.starts_with("fixed-"))
                && other.containers == pod.containers
                && !other.deleting
        })
    })
}
