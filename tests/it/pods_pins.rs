//! Images of pods are pinned in a real containerd, and where that has no effect it is told.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::pods::{Gateway, gateway};
use crate::support::{Containerd, Node, NodeOptions, Scene, seconds, workload};

/// What one pod alone calls its image.
const ALONE: &str = "registry.test/edge/alone:1";

/// Which images CRI calls pinned.
fn pinned(node: &Node) -> Result<BTreeMap<String, bool>> {
    let images = node.cri(async |runtime| runtime.images().await)?;
    let named =
        images.into_iter().flat_map(|image| image.repo_tags.into_iter().map(move |tag| (tag, image.pinned)));
    Ok(named.collect())
}

#[test]
fn images_of_pods_are_pinned_until_offline_mode_is_off() -> Result<()> {
    let mut gateway = gateway()?;
    gateway.node.ctr(&["images", "tag", "registry.test/edge/app:1", ALONE])?;
    let alone = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "alone", "namespace": "default"},
        "spec": {"tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 0, "containers": [
            {"name": "main", "image": ALONE, "imagePullPolicy": "Never", "command": ["sleep", "100000"]}]}});
    gateway.cluster.apply(&alone.to_string())?;
    let mut used = BTreeSet::new();
    for pod in
        gateway.cluster.get("/api/v1/namespaces/default/pods")?["items"].as_array().into_iter().flatten()
    {
        for containers in ["containers", "initContainers"] {
            let all = pod["spec"][containers].as_array().into_iter().flatten();
            used.extend(all.filter_map(|c| c["image"].as_str()).map(|image| match image.split_once('/') {
                Some(_) => image.to_owned(),
                None => format!("docker.io/library/{image}"),
            }));
        }
    }
    gateway.cluster.wait_for("the images of pods to be pinned", seconds(90), || {
        let images = pinned(&gateway.node)?;
        // containerd pins the sandbox image itself, without which none of them starts.
        for image in used.iter().map(String::as_str).chain(["localhost/pause:1"]) {
            ensure!(images.get(image) == Some(&true), "{image} is not pinned: {images:?}");
        }
        Ok(())
    });
    assert_eq!(pins(&gateway.edge.status(&gateway.node)?), "good: ");
    let marked = gateway.node.machine()?.shell("ls /var/lib/edge | grep -cx pinned || true")?;
    assert_eq!(marked.trim(), "1", "who cannot ask containerd must know that there are pins");
    // CRI knows images, containerd each of their names.
    let is_pinned = |name: &str| -> Result<bool> {
        let listed = gateway.node.ctr(&["images", "ls", &format!("name=={name}")])?;
        ensure!(listed.contains(name), "{name} is not in\n{listed}");
        Ok(listed.contains("io.cri-containerd.pinned=pinned"))
    };
    ensure!(is_pinned(ALONE)?, "{ALONE} is not pinned");
    gateway.cluster.kubectl(&["delete", "pod", "alone"])?;
    gateway.cluster.wait_for("the pin of a deleted pod to go", seconds(60), || {
        ensure!(!is_pinned(ALONE)?, "{ALONE} is pinned");
        Ok(())
    });
    ensure!(is_pinned("registry.test/edge/app:1")?, "others need it");
    let config = gateway.edge.config(&gateway.node)?;
    gateway.edge.configure(&gateway.node, &format!("offline-mode = false\n{config}"))?;
    gateway.edge.reload()?;
    gateway.cluster.wait_for("the pins to go", seconds(60), || none_is_pinned(&gateway, &used));
    assert_eq!(pins(&gateway.edge.status(&gateway.node)?), "off: ");
    restarts_what_is_not_kept(&gateway)?;

    // Without a daemon nobody but the command gives them free.
    gateway.edge.configure(&gateway.node, &config)?;
    gateway.edge.reload()?;
    gateway.cluster.wait_for("images to be pinned again", seconds(90), || {
        ensure!(is_pinned("registry.test/edge/app:1")?, "not pinned");
        Ok(())
    });
    ensure!(gateway.edge.stop(), "the daemon does not end");
    ensure!(is_pinned("registry.test/edge/app:1")?, "they outlive the daemon");
    gateway.edge.run(&gateway.node, &["leave", "--discard-changes"])?;
    none_is_pinned(&gateway, &used)
}

/// That no image of a pod is, and that none may be: the mark in the state folder.
fn none_is_pinned(gateway: &Gateway, used: &BTreeSet<String>) -> Result<()> {
    let images = pinned(&gateway.node)?;
    let left: Vec<&String> = used.iter().filter(|image| images.get(*image) == Some(&true)).collect();
    ensure!(left.is_empty(), "{left:?} pinned: {images:?}");
    let mark = gateway.node.machine()?.shell("ls /var/lib/edge | grep -cx pinned || true")?;
    ensure!(mark.trim() == "0", "the mark is left");
    Ok(())
}

/// Without offline mode edge has no copy of a pod, and the kubelet has it from the cloud all the same.
fn restarts_what_is_not_kept(gateway: &Gateway) -> Result<()> {
    let before = gateway.pod("plain")?;
    let (out, words, code) = gateway.edge(&["pod", "restart", "plain"])?;
    assert!(code == 0 && out.contains("default/plain: running "), "{out}{words}");
    assert!(words.contains("it is not in the cache, so its restartPolicy is not known"), "{words}");
    gateway.cluster.wait_for("the kubelet to see new containers", seconds(60), || {
        let after = gateway.pod("plain")?;
        let is_new = |id: &str| before.containers.iter().all(|old| old.id != id);
        ensure!(after.running() && after.containers.iter().all(|c| is_new(&c.id)), "{after:?}");
        ensure!(after.address == before.address, "the sandbox stays");
        Ok(())
    });
    Ok(())
}

/// State and message of the part that keeps pins.
fn pins(status: &serde_json::Value) -> String {
    let parts = status["parts"].as_array().into_iter().flatten();
    let text = |part: &serde_json::Value, key: &str| part[key].as_str().unwrap_or_default().to_owned();
    let mut pins = parts.filter(|part| part["part"] == "pins");
    pins.next().map(|part| format!("{}: {}", text(part, "state"), text(part, "message"))).unwrap_or_default()
}

#[test]
fn a_runtime_that_does_not_honour_pins_is_told() -> Result<()> {
    let options = NodeOptions { containerd: Containerd::Old, ..NodeOptions::default() };
    let scene = Scene::ready(&options)?;
    workload::apply(&scene.cluster, &scene.node)?;
    scene.cluster.wait_for("edge to say so", seconds(90), || {
        let said = pins(&scene.edge.status(&scene.node)?);
        ensure!(said.starts_with("trouble: image pins are not honoured by containerd 1.6.20"), "{said}");
        ensure!(said.ends_with("hint: 1.7 or later keeps the images of offline pods"), "{said}");
        Ok(())
    });
    assert!(scene.edge.run(&scene.node, &["status"])?.contains("image pins are not honoured"));
    Ok(())
}
