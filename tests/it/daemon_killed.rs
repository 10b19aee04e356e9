//! The daemon killed while it tells the cloud what waits, and while it keeps what passes: what was answered with success
//! is nowhere lost, and nothing is told twice.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::callers::Caller;
use crate::daemon_faults::PATCHES;
use crate::support::{Cut, NodeOptions, Scene, seconds};

/// A pod that goes, and one whose volume is to grow.
const MANIFEST: &str = r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: /var/lib/disk, type: DirectoryOrCreate}
  claimRef: {namespace: default, name: disk}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk, namespace: default}
spec:
  storageClassName: ""
  volumeName: disk
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: Pod
metadata: {name: holder, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: disk, persistentVolumeClaim: {claimName: disk}}]
  containers:
  - name: main
    image: docker.io/library/busybox:1
    command: [sleep, infinity]
    volumeMounts: [{name: disk, mountPath: /disk}]
---
apiVersion: v1
kind: Pod
metadata: {name: leaver, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "docker.io/library/busybox:1", command: [sleep, infinity]}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
"#;

const EVENTS: usize = 100;
const MIRRORS: usize = 40;

/// What a kubelet says in an outage, each with the code that it is answered: of events, of the mirrors of static pods, of
/// a volume that has grown, and of a pod whose containers are gone.
const TELL: &str = r#"
cd /run
get() { sed -n "s/.*$1: *//p" /etc/kubernetes/kubelet.kubeconfig | tr -d '"' | base64 -d; }
get client-certificate-data > me.crt; get client-key-data > me.key
ask() { path=$1; shift; curl -sk --max-time 10 --cert me.crt --key me.key "https://127.0.0.1:6445$path" "$@"; }
tell() { code=$(ask "$@" -o said -w '%{http_code}'); echo "$code $1"; case $code in 20?) ;; *) cat said ;; esac; }
uid() { ask "$1" | sed -n 's/.*"uid": *"\([^"]*\)".*/\1/p' | head -n 1; }
json='Content-Type: application/json' ns=/api/v1/namespaces/default
node=$(uid /api/v1/nodes/node-1)
for i in $(seq EVENTS); do
    tell $ns/events -H "$json" -d '{"apiVersion": "v1", "kind": "Event", "reason": "Told", "message": "m", "type": "Normal",
        "metadata": {"name": "told-'$i'", "namespace": "default"}, "count": 1,
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "'$node'"}}'
done
for i in $(seq MIRRORS); do
    tell $ns/pods -H "$json" -d '{"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "mirror-'$i'-node-1", "namespace": "default",
            "annotations": {"kubernetes.io/config.mirror": "'$i'", "kubernetes.io/config.hash": "'$i'"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "'$node'", "controller": true}]},
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "docker.io/library/busybox:1"}],
            "tolerations": [{"operator": "Exists"}]}}'
done
version=$(ask $ns/persistentvolumeclaims/disk | sed -n 's/.*"resourceVersion": *"\([^"]*\)".*/\1/p' | head -n 1)
tell $ns/persistentvolumeclaims/disk/status -X PATCH -H 'Content-Type: application/strategic-merge-patch+json' \
    -d '{"metadata": {"resourceVersion": "'$version'"}, "status": {"capacity": {"storage": "2Gi"}, "conditions":
        [{"type": "FileSystemResizePending", "status": "True", "message": "by kubelet"}]}}'
tell $ns/pods/leaver -X DELETE -H "$json" -d '{"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
    "preconditions": {"uid": "'$(uid $ns/pods/leaver)'"}}'
"#;

#[test]
fn killed_while_it_tells_the_cloud_and_while_it_keeps_what_passes() -> Result<()> {
    let mut scene = Scene::ready(&NodeOptions::default())?;
    let cluster = scene.cluster.clone();
    cluster.wait_for("the default service account", seconds(60), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    cluster.apply(MANIFEST)?;
    cluster.wait_for("the pods", seconds(90), || {
        let pods = cluster.pods("default")?;
        ensure!(pods.len() == 2 && pods.iter().all(|pod| pod.running()), "{pods:?}");
        Ok(())
    });
    let reader = Caller(cluster.kubectl(&["create", "token", "reader"])?);

    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.node.stop_kubelet();
    // It goes on throughout, so that something waits whenever the daemon is killed.
    let mut client = scene.node.spawn("patches", &["bash", "-c", PATCHES], &[])?;
    let tell = TELL.replace("EVENTS", &EVENTS.to_string()).replace("MIRRORS", &MIRRORS.to_string());
    let told = scene.node.machine()?.run(&["bash", "-c", &tell])?;
    let taken = told.lines().filter(|line| line.starts_with("20")).count();
    assert_eq!(taken, EVENTS + MIRRORS + 2, "{told}");
    let before = waiting(&scene)?;
    ensure!(before >= EVENTS + MIRRORS + 2, "only {before} changes wait");

    cluster.heal()?;
    killed_amidst(&mut scene)?;
    scene.edge.start(&scene.node)?;
    thread::sleep(seconds(1));
    client.kill();
    scene.wait_link("online");
    cluster.wait_for("all to be told", seconds(90), || {
        let status = scene.edge.status(&scene.node)?;
        ensure!(status["changes"] == serde_json::json!([]), "{}", status["changes"]);
        assert_eq!(status["refused"], serde_json::json!([]));
        Ok(())
    });
    told_once(&scene, &client.log())?;
    what_passed_is_kept(&mut scene, &reader)
}

fn waiting(scene: &Scene) -> Result<usize> {
    Ok(scene.edge.status(&scene.node)?["changes"].as_array().context("no changes")?.len())
}

/// Kills the daemon again and again while it tells the cloud what waits: as soon as that, on this machine, some of it is
/// told. Leaves it dead.
fn killed_amidst(scene: &mut Scene) -> Result<()> {
    const ALL: usize = EVENTS + MIRRORS;
    let (mut lives, mut told) = (Duration::from_millis(20), vec![0]);
    scene.edge.kill();
    while told.len() < 100 && told.last() != Some(&ALL) {
        scene.edge.spawn(&scene.node, &[])?;
        thread::sleep(lives);
        scene.edge.kill();
        let events = scene.cluster.get("/api/v1/namespaces/default/events")?;
        let events = events["items"].as_array().context("no events")?;
        let events = events.iter().filter(|event| event["reason"] == "Told").count();
        let pods = scene.cluster.pods("default")?;
        let now = events + pods.iter().filter(|pod| pod.name.starts_with("mirror-")).count();
        lives = if told.last() == Some(&now) { lives * 9 / 8 } else { lives * 9 / 10 };
        told.push(now);
    }
    let mut amidst = told.clone();
    amidst.dedup();
    ensure!(
        amidst.len() > 5,
        "it was killed too rarely while it told the cloud, which had so much: {told:?}"
    );
    Ok(())
}

/// The cloud has all that was answered with success, and each once.
fn told_once(scene: &Scene, patches: &str) -> Result<()> {
    let cluster = &scene.cluster;
    let node = cluster.raw("/api/v1/nodes/node-1")?;
    let taken: Vec<u64> =
        patches.lines().filter_map(|line| line.strip_prefix("200 ")?.parse().ok()).collect();
    for number in &taken {
        let name = if number % 2 == 0 { "round" } else { "Round" };
        ensure!(node.contains(&format!("\"{name}-{number}\"")), "patch {number} of {taken:?} is lost");
    }
    ensure!(taken.len() > 40, "only {} patches were taken: {patches}", taken.len());

    let events = cluster.get("/api/v1/namespaces/default/events")?;
    let events = events["items"].as_array().context("no events")?.iter();
    let events: Vec<_> = events.filter(|event| event["reason"] == "Told").collect();
    assert_eq!(events.len(), EVENTS);
    ensure!(events.iter().all(|event| event["count"] == 1), "{events:?}");

    let pods = cluster.pods("default")?;
    let mirrors = pods.iter().filter(|pod| pod.name.starts_with("mirror-")).count();
    ensure!(mirrors == MIRRORS && pods.len() == MIRRORS + 1, "{pods:?}");
    ensure!(pods.iter().any(|pod| pod.name == "holder"), "the other one goes");

    let claim = cluster.get("/api/v1/namespaces/default/persistentvolumeclaims/disk")?;
    let conditions = claim["status"]["conditions"].as_array().context("no conditions")?;
    ensure!(
        claim["status"]["capacity"]["storage"] == "2Gi"
            && conditions.len() == 1
            && conditions[0]["message"] == "by kubelet",
        "{claim}"
    );
    Ok(())
}

/// What passed is on disk within a second.
fn what_passed_is_kept(scene: &mut Scene, reader: &Caller) -> Result<()> {
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    let map = |scene: &Scene, name: &str| -> Result<Value> {
        let (code, body) = reader.answer(scene, &[], &format!("{MAPS}/{name}"))?;
        ensure!(code == "200", "`{name}` is answered {code}: {body}");
        Ok(serde_json::from_str::<Value>(&body)?["data"].clone())
    };
    let mut read = BTreeMap::new();
    for round in 0..3 {
        let names: Vec<_> = (0..30).map(|n| format!("map-{round}-{n}")).collect();
        let maps = names.iter().map(|name| {
            format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata: {{is: {name}}}\n")
        });
        scene.cluster.apply(&maps.collect::<String>())?;
        scene.wait_link("online");
        for name in names {
            let data = map(scene, &name)?;
            ensure!(data["is"] == *name, "{data}");
            read.insert(name, data);
        }
        thread::sleep(Duration::from_millis(1100));
        scene.edge.kill();
        scene.edge.start(&scene.node)?;
    }
    scene.edge.kill();
    scene.cluster.cut(Cut::Drop)?;
    scene.edge.start(&scene.node)?;
    for (name, data) in &read {
        assert_eq!(map(scene, name).context("in the outage")?, *data);
    }
    Ok(())
}
