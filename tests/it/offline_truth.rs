//! What happened on either side of an outage is true on both after it: what the node did is told to the cloud, what
//! the cloud decided is done on the node, and what neither touched goes on untouched.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::support::{Container, Cut, Edge, NodeOptions, Pod, Scene, seconds, workload};

/// A pod that shows a ConfigMap as a volume, one that the cloud will delete in the outage, and one that it deletes before,
/// and that is slow to go.
const MORE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  tolerations:
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute}
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: docker.io/library/busybox:1
    command: [sh, -ec, 'trap "exit 0" TERM; sleep 2147483647 & wait']
    volumeMounts: [{name: config, mountPath: /config}]
  volumes: [{name: config, configMap: {name: settings}}]
---
apiVersion: v1
kind: Pod
metadata: {name: doomed}
spec:
  tolerations:
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute}
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: docker.io/library/busybox:1
    command: [sh, -ec, 'trap "exit 0" TERM; sleep 2147483647 & wait']
---
apiVersion: v1
kind: Pod
metadata: {name: leaving}
spec:
  tolerations:
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute}
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute}
  terminationGracePeriodSeconds: 30
  containers:
  - name: main
    image: docker.io/library/busybox:1
    command: [sh, -ec, 'trap "sleep 8; exit 0" TERM; sleep 2147483647 & wait']
"#;

#[test]
fn both_sides_of_an_outage_are_true_after_it() -> Result<()> {
    let options = NodeOptions { kubelet: json!({"syncFrequency": "5s"}), ..NodeOptions::default() };
    let mut scene = Scene::ready(&options)?;
    let cluster = scene.cluster.clone();
    workload::apply(&cluster, &scene.node)?;
    workload::wait_running(&cluster);
    cluster.apply(MORE)?;
    let before = cluster.wait_for("three pods more", seconds(60), || {
        let pods = cluster.pods("default")?;
        for name in ["reader", "doomed", "leaving"] {
            ensure!(find(&pods, name)?.running(), "{pods:?}");
        }
        Ok(pods)
    });
    let web = before.iter().find(|pod| pod.name.starts_with("web-")).context("no web")?;

    cluster.kubectl(&["delete", "pod", "leaving", "--wait=false"])?;
    cluster.wait_for("kubelet, told of the deletion", seconds(10), || {
        ensure!(find(&scene.node.pods()?, "leaving")?.deleting, "not yet");
        Ok(())
    });
    let watched = status_of(&scene, "v1/pods")?;
    assert_eq!(watched["current"], true, "{watched}");
    cluster.cut(Cut::Drop)?;
    let cut = jiff::Timestamp::now();
    scene.wait_link("offline");
    is_as_old_as_the_cut(&scene, cut)?;
    cluster.wait_for("a deletion that kubelet ends offline", seconds(60), || is_gone_here(&scene));
    change_the_cloud(&scene)?;

    // A restart that only the node knows of is kept through the reboot.
    scene.node.ctr(&["tasks", "kill", "-s", "SIGKILL", &web.containers[0].id])?;
    cluster.wait_for("the restart, in the cache", seconds(60), || {
        let pod = cached(&scene, &web.name)?;
        ensure!(pod.restarts() == 1 && pod.running(), "{pod:?}");
        Ok(())
    });
    scene.reboot()?;
    let status = scene.edge.status(&scene.node)?;
    let changes = status["changes"].to_string();
    is_as_old_as_the_cut(&scene, cut)?;
    assert!(changes.contains(&web.name), "what waits for the cloud survives: {changes}");
    assert_eq!(cached(&scene, &web.name)?.restarts(), 1, "the status survives");
    assert!(is_to_be_deleted(&scene)?, "so does the deletion: {changes}");
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    workload::wait_running_on(&scene.node);
    let offline = cluster.wait_for("all pods, settled", seconds(60), || {
        let pods = scene.node.pods()?;
        ensure!(find(&pods, "reader")?.running() && find(&pods, "doomed")?.running(), "{pods:?}");
        Ok(pods)
    });
    let made_offline = find(&offline, &web.name)?.restarts();
    assert!(made_offline >= 2, "killed once and rebooted once: {made_offline}");
    assert_eq!(workload::job_runs(&scene.node)?, 1, "a finished Job stays finished");

    is_gone_here(&scene)?;

    let healed = jiff::Timestamp::now();
    cluster.heal()?;
    scene.wait_link("online");
    scene.node.wait_ready();
    events_are_told(&scene, cut, healed);
    cloud_was_obeyed(&scene, &before);
    let after = workload::wait_told(&scene.node);
    assert_eq!(
        find(&after, &web.name)?.restarts(),
        made_offline,
        "the cloud shows the restarts made offline"
    );
    assert_eq!(untouched(&offline), untouched(&after), "nothing was restarted, replaced or doubled");
    assert_eq!(workload::job_runs(&scene.node)?, 1, "a finished Job stays finished");
    let status = scene.edge.status(&scene.node)?;
    assert_eq!(status["refused"], json!([]), "what is about a pod that the cloud has replaced is no refusal");
    Ok(())
}

/// What `edge status` says of a resource.
fn status_of(scene: &Scene, resource: &str) -> Result<serde_json::Value> {
    let status = scene.edge.status(&scene.node)?;
    let mut resources = status["cache"]["resources"].as_array().context("no resources")?.iter();
    resources.find(|kept| kept["resource"] == resource).cloned().with_context(|| status.to_string())
}

/// What kubelet watches was listed long before; it was as the cloud had it until kubelet's last heartbeat before the cut.
fn is_as_old_as_the_cut(scene: &Scene, cut: jiff::Timestamp) -> Result<()> {
    for resource in ["v1/nodes", "v1/pods", "v1/services", "v1/configmaps", "v1/secrets"] {
        let kept = status_of(scene, resource)?;
        let synced: jiff::Timestamp = kept["synced"].as_str().context("never")?.parse()?;
        let before = cut.as_second() - synced.as_second();
        ensure!((-2..=15).contains(&before) && kept["current"] == false, "{before} s before the cut: {kept}");
    }
    Ok(())
}

/// While the node is away: a ConfigMap is edited, a pod deleted, a pod deleted and made anew.
fn change_the_cloud(scene: &Scene) -> Result<()> {
    let cluster = &scene.cluster;
    let patch = r#"{"data": {"file.txt": "from the cloud, edited"}}"#;
    cluster.kubectl(&["patch", "configmap", "settings", "--type=merge", "-p", patch])?;
    cluster.kubectl(&["delete", "pod", "doomed", "--wait=false"])?;
    cluster.kubectl(&["delete", "pod", "by-hand", "--force", "--grace-period=0"])?;
    cluster.apply(workload::MANIFEST.replace("from the cloud\"", "from the cloud, edited\"").as_str())?;
    Ok(())
}

/// Whether kubelet has ended the pod that was deleted before, and deleted it at edge, which is to tell the cloud so.
fn is_gone_here(scene: &Scene) -> Result<()> {
    let pods = scene.node.pods()?;
    ensure!(find(&pods, "leaving").is_err(), "`leaving` is there: {}", workload::states(&pods));
    ensure!(is_to_be_deleted(scene)?, "no deletion waits: {}", scene.edge.status(&scene.node)?["changes"]);
    Ok(())
}

fn is_to_be_deleted(scene: &Scene) -> Result<bool> {
    let status = scene.edge.status(&scene.node)?;
    let changes = status["changes"].as_array().context("no changes")?;
    let of = |change: &serde_json::Value, key: &str| change[key].as_str().unwrap_or_default().to_owned();
    Ok(changes.iter().any(|change| {
        of(change, "change") == "delete"
            && of(change, "object").contains("v1/pods")
            && of(change, "object").contains("leaving")
    }))
}

/// What kubelet said of the start of a pod in the outage, the cloud hears after it.
fn events_are_told(scene: &Scene, cut: jiff::Timestamp, healed: jiff::Timestamp) {
    scene.cluster.wait_for("an event of the outage, in the cloud", seconds(60), || {
        let events = scene.cluster.get("/api/v1/namespaces/default/events?fieldSelector=reason%3DStarted")?;
        let is_one = |event: &serde_json::Value| {
            let at = event["firstTimestamp"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
            event["involvedObject"]["name"] == "reader" && at.is_some_and(|at| cut < at && at < healed)
        };
        ensure!(events["items"].as_array().is_some_and(|all| all.iter().any(is_one)), "{events}");
        Ok(())
    });
}

/// Waits until the node has done what the cloud decided meanwhile.
fn cloud_was_obeyed(scene: &Scene, before: &[Pod]) {
    scene.cluster.wait_for("what the cloud decided", seconds(90), || {
        let (there, here) = (scene.cluster.pods("default")?, scene.node.pods()?);
        for pods in [&there, &here] {
            for name in ["doomed", "leaving"] {
                ensure!(find(pods, name).is_err(), "`{name}` is there: {}", workload::states(pods));
            }
            let (old, new) = (find(before, "by-hand")?, find(pods, "by-hand")?);
            ensure!(new.uid != old.uid && new.running(), "`by-hand` is not the new one: {new:?}");
        }
        let uid = &find(&here, "reader")?.uid;
        let file = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~configmap/config/file.txt");
        let text = scene.node.machine()?.read(&file)?;
        ensure!(text == "from the cloud, edited", "the volume holds `{text}`");
        Ok(())
    });
}

/// A pod as edge serves it to the kubelet.
fn cached(scene: &Scene, name: &str) -> Result<Pod> {
    let pod = scene.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/default/pods/{name}")])?;
    Ok(Pod::from_object(&serde_json::from_str(&pod)?))
}

fn find<'a>(pods: &'a [Pod], name: &str) -> Result<&'a Pod> {
    pods.iter().find(|pod| pod.name == name).with_context(|| format!("no pod `{name}`"))
}

/// Containers and restarts of what nobody decided anything about.
fn untouched(pods: &[Pod]) -> BTreeMap<String, Vec<Container>> {
    let kept = pods.iter().filter(|pod| !["by-hand", "doomed", "leaving"].contains(&&*pod.name));
    kept.map(|pod| (pod.name.clone(), pod.containers.clone())).collect()
}
