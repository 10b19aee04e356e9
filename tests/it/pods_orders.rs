//! Restarts that are ordered from the cloud, with `kubectl annotate`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::{Edge, NodeOptions, Pod, Scene, seconds};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 2
  tolerations: [{operator: Exists}]
  containers:
  - {name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sh, -c, "trap 'exit 0' TERM; while sleep 0.1; do :; done"]}
---
apiVersion: v1
kind: Pod
metadata: {name: made-with-it, annotations: {edge.io/restart: "1"}}
spec:
  terminationGracePeriodSeconds: 2
  tolerations: [{operator: Exists}]
  containers:
  - {name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sh, -c, "trap 'exit 0' TERM; while sleep 0.1; do :; done"]}
---
apiVersion: v1
kind: Pod
metadata: {name: loops}
spec:
  terminationGracePeriodSeconds: 2
  tolerations: [{operator: Exists}]
  containers: [{name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sh, -c, "exit 3"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: once-only}
spec:
  restartPolicy: Never
  tolerations: [{operator: Exists}]
  containers: [{name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sleep, "100000"]}]
"#;

struct Gateway(Scene);

impl Gateway {
    fn pod(&self, name: &str) -> Result<Pod> {
        let pods = self.0.node.pods()?;
        pods.into_iter().find(|pod| pod.name == name).with_context(|| format!("no pod {name}"))
    }

    fn annotate(&self, pod: &str, annotation: &str) -> Result<()> {
        self.0.cluster.kubectl(&["annotate", "--overwrite", "pod", pod, annotation]).map(drop)
    }

    /// Reason and message of what edge told of a pod, as `kubectl get events` has it.
    fn told(&self, pod: &str) -> Result<Vec<String>> {
        let selector = format!("--field-selector=involvedObject.name={pod},source=edge");
        let list = self.0.cluster.kubectl(&["get", "events", "-o", "json", &selector])?;
        let list: Value = serde_json::from_str(&list)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = list["items"].as_array().into_iter().flatten();
        Ok(events.map(|event| format!("{}: {}", text(&event["reason"]), text(&event["message"]))).collect())
    }

    fn wait_told(&self, pod: &str, said: &str) {
        self.0.cluster.wait_for(&format!("`{said}` of {pod}"), seconds(40), || {
            let told = self.told(pod)?;
            ensure!(told.iter().any(|event| event.starts_with(said)), "{told:#?}");
            Ok(())
        });
    }

    /// Annotates, waits for the event, and for the kubelet's view of new containers.
    fn restarts(&self, annotation: &str, said: &str) -> Result<(Pod, Pod)> {
        let before = self.pod("web")?;
        self.annotate("web", annotation)?;
        self.wait_told("web", said);
        let after = self.0.cluster.wait_for("new containers", seconds(30), || {
            let after = self.pod("web")?;
            ensure!(after.running() && after.containers[0].id != before.containers[0].id, "{after:?}");
            Ok(after)
        });
        Ok((before, after))
    }
}

#[test]
fn the_cloud_orders_each_restart_once() -> Result<()> {
    let scene = Scene::ready(&NodeOptions::default())?;
    scene.cluster.wait_for("the pods to be made", seconds(60), || scene.cluster.apply(PODS));
    let mut gateway = Gateway(scene);
    gateway.0.cluster.wait_for("the pods", seconds(60), || {
        for name in ["web", "made-with-it", "once-only"] {
            ensure!(gateway.pod(name)?.running(), "{name}");
        }
        Ok(())
    });

    let (before, after) = gateway
        .restarts("edge.io/restart=1", "Restarted: its containers restarted by edge.io/restart=1: main ")?;
    assert_eq!(before.address, after.address, "the sandbox stays");
    let runs = format!("main {} runs", &after.containers[0].id[..13]);
    assert!(gateway.told("web")?[0].ends_with(&runs), "{:?}", gateway.told("web")?);
    let described = gateway.0.cluster.kubectl(&["describe", "pod", "web"])?;
    assert!(described.contains("by edge.io/restart=1: main"), "{described}");
    let (before, after) = gateway.restarts(
        "edge.io/restart-whole=again",
        "Restarted: the whole pod restarted by edge.io/restart-whole=again",
    )?;
    assert_ne!(before.address, after.address, "the sandbox is renewed");

    // Self-heal is off, but for the pods whose annotation turns it on; this one loops since long.
    assert_eq!(gateway.told("loops")?, [""; 0]);
    for annotation in
        ["edge.io/self-heal-failures=2", "edge.io/self-heal-window=20s", "edge.io/self-heal=true"]
    {
        gateway.annotate("loops", annotation)?;
    }
    gateway.wait_told("loops", "SelfHealRestart: the whole pod restarted (");

    gateway.annotate("once-only", "edge.io/restart=1")?;
    gateway.wait_told(
        "once-only",
        "RestartRefused: not restarted by edge.io/restart=1: its restartPolicy is Never",
    );

    survives(&mut gateway)?;
    assert_eq!(gateway.told("made-with-it")?, [""; 0], "it was made with its value");
    assert_eq!(gateway.pod("made-with-it")?.restarts(), 1, "by the reboot alone");
    Ok(())
}

/// A value counts once, over the daemon's end and over a reboot; one that came meanwhile is carried out.
fn survives(gateway: &mut Gateway) -> Result<()> {
    gateway.0.edge.kill();
    // With nobody between them the kubelet and the cloud still meet: the kubelet asks again when edge is back.
    gateway.annotate("web", "edge.io/restart=while-away")?;
    let before = gateway.pod("web")?;
    gateway.0.edge.start(&gateway.0.node)?;
    gateway.wait_told("web", "Restarted: its containers restarted by edge.io/restart=while-away");
    assert_eq!(gateway.told("web")?.len(), 3, "{:?}", gateway.told("web")?);
    assert_ne!(gateway.pod("web")?.containers[0].id, before.containers[0].id);

    gateway.0.reboot()?;
    gateway.0.node.start_kubelet(Edge::KUBECONFIG)?;
    gateway.0.cluster.wait_for("the pods after the reboot", seconds(60), || {
        let boot = gateway.0.node.running_containers()?;
        ensure!(
            boot.values().filter(|name| name.contains("/web/") || name.contains("/made-")).count() == 2,
            "{boot:?}"
        );
        Ok(())
    });
    gateway.annotate("web", "edge.io/restart=after-the-reboot")?;
    gateway.wait_told("web", "Restarted: its containers restarted by edge.io/restart=after-the-reboot");
    let told: BTreeSet<String> = gateway.told("web")?.into_iter().collect();
    assert_eq!(told.len(), 4, "{told:#?}");
    Ok(())
}
