//! A disk that is full, and one that the kernel has made read-only: online edge serves as if nothing were, offline it
//! reads and refuses what it cannot keep, `edge status` says so, a reboot starts every pod, and with room again all is
//! as before.

use anyhow::{Result, ensure};

use crate::support::{
    Cluster, ClusterOptions, Cut, Edge, KUBE_ADDRESS, NodeOptions, Pod, Scene, seconds, workload,
};

/// The state folder on a small disk of its own.
const DISK: &str = "
    truncate -s 24M /var/lib/edge.img
    mkfs.ext4 -q -F -m 0 -b 1024 -J size=1 /var/lib/edge.img
    mkdir -p /var/lib/edge";
const MOUNT: &str = "mount -o loop /var/lib/edge.img /var/lib/edge";
/// The device itself can be written, so that its journal is taken up; it goes with the last who uses it.
const MOUNT_READ_ONLY: &str = "
    device=$(losetup --find --show /var/lib/edge.img)
    mount -o ro $device /var/lib/edge
    losetup --detach $device";
const FILL: &str = "
    dd if=/dev/zero of=/var/lib/edge/fill bs=64k 2>/dev/null || true
    dd if=/dev/zero of=/var/lib/edge/rest bs=1k 2>/dev/null || true
    sync; test $(df --output=avail /var/lib/edge | tail -1) -lt 8";

/// A pod that brings something large with it.
const LARGE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: large}
spec:
  tolerations:
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute}
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: docker.io/library/busybox:1
    command: [sh, -ec, 'trap "exit 0" TERM; test -s /a/data; sleep 2147483647 & wait']
    volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}, {name: c, mountPath: /c}]
  volumes:
  - {name: a, configMap: {name: large-a}}
  - {name: b, configMap: {name: large-b}}
  - {name: c, configMap: {name: large-c}}
"#;

#[test]
fn full_and_read_only_disks_cost_no_pod() -> Result<()> {
    let mut scene = scene_on_a_small_disk()?;
    let cluster = scene.cluster.clone();
    workload::apply(&cluster, &scene.node)?;
    workload::wait_running(&cluster);

    // Full, online.
    scene.node.machine()?.shell(FILL)?;
    for name in ["a", "b", "c"] {
        let map = format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: large-{name}}}, data: {{data: \"{}\"}}}}",
            "0123456789abcdef".repeat(40_000)
        );
        cluster.apply(&map)?;
    }
    cluster.apply(LARGE)?;
    cluster.wait_for("a pod that cannot be kept", seconds(60), || runs(&cluster.pods("default")?, "large"));
    cluster.wait_for("a word on the disk", seconds(20), || says(&scene, "cannot write"));
    ensure!(scene.edge.status(&scene.node)?["link"]["state"] == "online", "a full disk is no outage");
    scene.kubectl(&["get", "--raw", "/api/v1/namespaces/default/pods/large"])?;

    // Full, offline: what cannot be kept is not taken.
    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    reads_and_refuses(&scene)?;

    // Full at boot.
    reboot(&mut scene, MOUNT)?;
    all_containers_run(&scene, &KEPT);
    says(&scene, "cannot")?;
    reads_and_refuses(&scene)?;

    // Room again: the daemon serves from the disk again, if need be with the supervisor's help.
    scene.node.machine()?.shell("rm /var/lib/edge/fill /var/lib/edge/rest")?;
    cluster.wait_for("an end of the trouble", seconds(60), || {
        if !scene.edge.daemon()?.alive() {
            scene.edge.start(&scene.node)?;
        }
        let errors = scene.edge.status(&scene.node)?["errors"].clone();
        ensure!(errors == serde_json::json!([]), "{errors}");
        Ok(())
    });
    let code = annotate(&scene, "roomy")?;
    ensure!(code == "200", "with room again: {code}");
    cluster.heal()?;
    scene.wait_link("online");
    workload::wait_told(&scene.node);
    cluster.wait_for("what was lost, read anew", seconds(60), || {
        let kept = scene.edge.status(&scene.node)?["cache"]["resources"].clone();
        let pods = kept.as_array().into_iter().flatten().find(|row| row["resource"] == "v1/pods");
        ensure!(pods.is_some_and(|row| row["objects"] == 7), "{kept}");
        Ok(())
    });

    a_client_that_came_while_the_disk_was_full_is_known(&scene)?;

    // Read-only, as the kernel does it when a card dies. What somebody did to the folder's permissions stays so then.
    scene.node.machine()?.shell("chmod 755 /var/lib/edge; mount -o remount,abort /var/lib/edge")?;
    reads_and_refuses(&scene)?;
    says(&scene, "cannot")?;
    reboot(&mut scene, MOUNT_READ_ONLY)?;
    all_containers_run(&scene, &[&KEPT[..], &["large/main"]].concat());
    says(&scene, "cannot be written")?;
    reads_and_refuses(&scene)?;
    let pods = scene.edge.run(&scene.node, &["pod", "get"])?;
    ensure!(pods.contains("by-hand") && pods.contains("large"), "without kubelet and disk: {pods}");
    ensure!(workload::job_runs(&scene.node)? == 1, "a finished Job stays finished");
    Ok(())
}

fn scene_on_a_small_disk() -> Result<Scene> {
    let cluster = Cluster::start(&ClusterOptions::default())?;
    let mut node = cluster.node("node-1", &NodeOptions::default())?;
    node.machine()?.shell(DISK)?;
    node.machine()?.shell(MOUNT)?;
    cluster.ready()?;
    let mut edge = Edge::new();
    edge.join(&node, &cluster.node_kubeconfig(KUBE_ADDRESS, "node-1")?)?;
    edge.start(&node)?;
    node.start_kubelet(Edge::KUBECONFIG)?;
    node.wait_ready();
    Ok(Scene { edge, node, cluster })
}

fn reboot(scene: &mut Scene, mount: &str) -> Result<()> {
    scene.node.reboot()?;
    scene.node.machine()?.shell(mount)?;
    scene.edge.start(&scene.node)?;
    scene.node.start_kubelet(Edge::KUBECONFIG)
}

fn runs(pods: &[Pod], name: &str) -> Result<()> {
    ensure!(pods.iter().any(|pod| pod.name == name && pod.running()), "{}", workload::states(pods));
    Ok(())
}

/// Kept before the disk was full: pods and containers of the workload, by the beginning of their names.
const KEPT: [&str; 4] = ["agent-", "by-hand/main", "fixed-", "web-"];

/// Waits until containerd runs what ran before the reboot. The kubelet's own account of its pods is what it could tell
/// edge, and that takes nothing now.
fn all_containers_run(scene: &Scene, wanted: &[&str]) {
    scene.cluster.wait_for("every container, as containerd runs it", seconds(120), || {
        let running = scene.node.running_containers()?;
        for &name in wanted {
            let count =
                running.values().filter(|found| found.starts_with(&format!("default/{name}"))).count();
            ensure!(count == if name == "web-" { 2 } else { 1 }, "{count} of `{name}`: {running:?}");
        }
        Ok(())
    });
}

const CLIENT: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: client}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get]}
- {apiGroups: [""], resources: [pods/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: client}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: client}
subjects: [{kind: ServiceAccount, name: default}]
"#;

/// A pod's word: that the cloud accepts it, and what it may tell, could not be kept when it came first, and is when it
/// comes again. Leaves the cloud cut off.
fn a_client_that_came_while_the_disk_was_full_is_known(scene: &Scene) -> Result<()> {
    scene.cluster.apply(CLIENT)?;
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=by-hand"];
    let token = scene.cluster.kubectl(&[&["create", "token", "default"][..], &bound].concat())?;
    let client = |method: &str, path: &str, body: &str| {
        let (bearer, kind) =
            (format!("Authorization: Bearer {token}"), "Content-Type: application/merge-patch+json");
        let url = format!("https://{}/api/v1/namespaces/default/pods/by-hand{path}", Edge::PROXY);
        let argv = ["curl", "-sk", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", "-X", method];
        let more = ["-H", &bearer, "-H", kind, "-d", body, &url];
        scene
            .node
            .machine()?
            .run(&[&argv[..], &more[..if body.is_empty() { 4 } else { 6 }], &more[6..]].concat())
    };
    let both = |when: &str| {
        let read = client("GET", "", "")?;
        let told = client("PATCH", "/status", "{\"status\": {\"message\": \"told\"}}")?;
        ensure!((&*read, &*told) == ("200", "200"), "{when}: {read} {told}");
        Ok(())
    };
    scene.node.machine()?.shell(FILL)?;
    // The journal has room of its own: until that is used up as well.
    let mut count = 0;
    scene.cluster.wait_for("a word on the disk", seconds(60), || {
        count += 1;
        annotate_with(scene, "filler", &format!("{count:0>60000}"))?;
        says(scene, "cannot write")
    });
    both("on a full disk")?;
    scene.node.machine()?.shell("rm /var/lib/edge/fill /var/lib/edge/rest")?;
    scene.cluster.wait_for("an end of the trouble", seconds(60), || {
        let errors = scene.edge.status(&scene.node)?["errors"].clone();
        ensure!(errors == serde_json::json!([]), "{errors}");
        Ok(())
    });
    both("with room again")?;
    let checkpoint = "curl -sf -X POST --unix-socket /run/edge/edge.sock http://edge/v1/checkpoint";
    scene.node.machine()?.shell(checkpoint)?;
    scene.cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    both("without the cloud")
}

fn says(scene: &Scene, word: &str) -> Result<()> {
    let errors = scene.edge.status(&scene.node)?["errors"].to_string();
    ensure!(errors.contains(word) && errors.contains("cache.db"), "{errors}");
    Ok(())
}

fn reads_and_refuses(scene: &Scene) -> Result<()> {
    scene.kubectl(&["get", "--raw", "/api/v1/namespaces/default/secrets/credentials"])?;
    let code = annotate(scene, "lost")?;
    ensure!(code.starts_with('5'), "answered {code}, and kept nowhere");
    let node = scene.kubectl(&["get", "--raw", "/api/v1/nodes/node-1"])?;
    ensure!(!node.contains("edge.test/lost"), "refused, and served nevertheless");
    Ok(())
}

/// A write of some size, as the kubelet's own are; the code of its answer.
fn annotate(scene: &Scene, name: &str) -> Result<String> {
    annotate_with(scene, name, &"x".repeat(60_000))
}

fn annotate_with(scene: &Scene, name: &str, value: &str) -> Result<String> {
    let patch = format!("{{\"metadata\": {{\"annotations\": {{\"edge.test/{name}\": \"{value}\"}}}}}}");
    scene.node.machine()?.write("/run/patch.json", &patch)?;
    scene.node.machine()?.shell(
        "cd /run
         get() { sed -n \"s/.*$1: *//p\" /etc/kubernetes/kubelet.kubeconfig | tr -d '\"' | base64 -d; }
         get client-certificate-data > me.crt; get client-key-data > me.key
         curl -sk --max-time 10 --cert me.crt --key me.key -X PATCH -o /dev/null -w '%{http_code}' \
            -H 'content-type: application/merge-patch+json' --data-binary @patch.json \
            https://127.0.0.1:6445/api/v1/nodes/node-1",
    )
}
