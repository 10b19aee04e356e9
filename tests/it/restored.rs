//! The cloud is restored from a backup that is older than what the gateway has read: versions go backwards, what was made
//! since never was, and what was deleted since is there. On the gateway it is so too: for kubelet, for a client that only
//! watches, in the cache, and so in the next outage.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};

use crate::support::{Cluster, Cut, Edge, NodeOptions, Pod, Scene, seconds, workload};

fn pod(name: &str, end: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default}}
spec:
  tolerations: [{{operator: Exists}}]
  terminationGracePeriodSeconds: 30
  containers:
  - name: main
    image: docker.io/library/busybox:1
    command: [sh, -ec, 'trap \"{end}; exit 0\" TERM; sleep 2147483647 & wait']
    volumeMounts: [{{name: config, mountPath: /config}}]
  volumes: [{{name: config, configMap: {{name: settings}}}}]
---
"
    )
}

fn settings(word: &str) -> String {
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: settings, namespace: default}}
data: {{word: {word}}}
---
"
    )
}

/// The pods of the namespace that are there and are to stay.
fn names(pods: &[Pod]) -> BTreeSet<&str> {
    pods.iter().filter(|pod| !pod.deleting).map(|pod| pod.name.as_str()).collect()
}

const RESTORED: [&str; 3] = ["ending", "stays", "taken-back"];

fn all_run(pods: &[Pod], wanted: &[&str]) -> Result<()> {
    ensure!(names(pods) == wanted.iter().copied().collect(), "{}", workload::states(pods));
    ensure!(pods.iter().all(Pod::running), "{}", workload::states(pods));
    Ok(())
}

/// Pods of the namespace `default` by name and version, as a client of kube-rs sees them that only ever watches.
type Seen = Arc<Mutex<BTreeSet<String>>>;

async fn see(kubeconfig: &str, seen: &Seen) -> Result<()> {
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(Kubeconfig::from_yaml(kubeconfig)?, &options).await?;
    let pods: kube::Api<ApiPod> = kube::Api::all(kube::Client::try_from(config)?);
    let settings = watcher::Config::default().fields("spec.nodeName=node-1").streaming_lists();
    let mut events = std::pin::pin!(watcher(pods, settings).default_backoff());
    let mut list = BTreeSet::new();
    while let Some(event) = events.next().await {
        let change = |change: &dyn Fn(&mut BTreeSet<String>)| change(&mut seen.lock().unwrap());
        let name = |pod: &ApiPod| pod.metadata.name.clone().unwrap_or_default();
        match event {
            Ok(watcher::Event::Init) => list.clear(),
            Ok(watcher::Event::InitApply(pod)) => _ = list.insert(name(&pod)),
            Ok(watcher::Event::InitDone) => change(&|seen| *seen = list.clone()),
            Ok(watcher::Event::Apply(pod)) => change(&|seen| _ = seen.insert(name(&pod))),
            Ok(watcher::Event::Delete(pod)) => change(&|seen| _ = seen.remove(&name(&pod))),
            // It tries again by itself.
            Err(_) => {}
        }
    }
    Ok(())
}

/// Starts that client on the node; it goes with the node's power.
fn watch(scene: &Scene) -> Result<Seen> {
    let (kubeconfig, seen) = (scene.node.machine()?.read(Edge::KUBECONFIG)?, Seen::default());
    let sees = seen.clone();
    scene.node.machine()?.beside_in_network(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(see(&kubeconfig, &sees))
    })?;
    Ok(seen)
}

fn sees(cluster: &Cluster, seen: &Seen, wanted: &[&str]) {
    cluster.wait_for("a client of kube-rs that sees it too", seconds(60), || {
        let seen = seen.lock().unwrap();
        ensure!(*seen == wanted.iter().map(|name| (*name).to_owned()).collect(), "{seen:?}");
        Ok(())
    });
}

/// What the pod `stays` reads.
fn word(scene: &Scene) -> Result<String> {
    scene.edge.run(&scene.node, &["pod", "exec", "stays", "--", "cat", "/config/word"])
}

#[test]
fn a_cloud_that_is_restored_from_a_backup_is_believed() -> Result<()> {
    let options = NodeOptions { kubelet: json!({"syncFrequency": "5s"}), ..NodeOptions::default() };
    let mut scene = Scene::ready(&options)?;
    let cluster = scene.cluster.clone();
    cluster.wait_for("the default service account", seconds(90), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    let pods = [pod("stays", "true"), pod("taken-back", "true"), pod("ending", "sleep 8")].concat();
    cluster.apply(&(settings("old") + &pods))?;
    cluster.wait_for("three pods", seconds(120), || all_run(&cluster.pods("default")?, &RESTORED));
    let seen = watch(&scene)?;
    sees(&cluster, &seen, &RESTORED);
    cluster.back_up()?;

    // What the backup does not know: versions rise far beyond it.
    cluster.apply(&(settings("new") + &pod("ghost", "true")))?;
    cluster.kubectl(&["delete", "pod", "taken-back", "--grace-period=1"])?;
    for turn in 0..40 {
        cluster.kubectl(&["annotate", "--overwrite", "pod", "stays", &format!("turn={turn}")])?;
    }
    cluster.wait_for("what came after the backup", seconds(90), || {
        all_run(&cluster.pods("default")?, &["ending", "ghost", "stays"])?;
        ensure!(word(&scene)? == "new", "the old settings");
        Ok(())
    });
    sees(&cluster, &seen, &["ending", "ghost", "stays"]);
    cluster.kubectl(&["delete", "pod", "ending", "--wait=false"])?;
    cluster.wait_for("kubelet, told of the deletion", seconds(20), || {
        ensure!(scene.node.pods()?.iter().any(|pod| pod.name == "ending" && pod.deleting), "not yet");
        Ok(())
    });
    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    cluster.wait_for("a deletion that kubelet ends in the outage", seconds(90), || {
        let changes = scene.edge.status(&scene.node)?["changes"].to_string();
        ensure!(changes.contains("\"delete\""), "{changes}");
        Ok(())
    });

    cluster.restore()?;
    cluster.heal()?;
    scene.wait_link("online");
    cluster.wait_for("the pods of the backup, and no other", seconds(120), || {
        all_run(&cluster.pods("default")?, &RESTORED)?;
        let own: Vec<Pod> = scene.node.pods()?.into_iter().filter(|p| p.namespace == "default").collect();
        all_run(&own, &RESTORED)?;
        ensure!(word(&scene)? == "old", "the settings of what never was");
        Ok(())
    });
    sees(&cluster, &seen, &RESTORED);
    // What is told from now on has versions that were there before.
    cluster.apply(&settings("restored"))?;
    cluster.wait_for("the settings after it", seconds(90), || {
        ensure!(word(&scene)? == "restored", "{}", word(&scene)?);
        Ok(())
    });
    nothing_loops(&scene)?;
    let status = scene.edge.status(&scene.node)?;
    assert_eq!((&status["changes"], &status["refused"]), (&json!([]), &json!([])), "{status}");

    // The next outage shows what is kept.
    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    let kept: Value = serde_json::from_str(&scene.kubectl(&[
        "get",
        "--raw",
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1",
    ])?)?;
    assert_eq!(names(&Pod::list(&kept)), RESTORED.into_iter().collect(), "{kept}");
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    cluster.wait_for("the pods of the backup after a reboot", seconds(120), || {
        let own: Vec<Pod> = scene.node.pods()?.into_iter().filter(|p| p.namespace == "default").collect();
        all_run(&own, &RESTORED)?;
        ensure!(word(&scene)? == "restored", "{}", word(&scene)?);
        Ok(())
    });
    Ok(())
}

/// An idle node says little: nobody reads everything over and over.
fn nothing_loops(scene: &Scene) -> Result<()> {
    let bytes = || -> Result<u64> {
        let (received, sent) = scene.node.uplink_bytes()?;
        Ok(received + sent)
    };
    let settled = || -> Result<()> {
        let before = bytes().context("no counter")?;
        thread::sleep(seconds(15));
        let used = bytes()? - before;
        ensure!(used < 150_000, "{used} bytes in 15 s");
        Ok(())
    };
    scene.cluster.wait_for("a quiet link", seconds(60), settled);
    Ok(())
}
