//! containerd and kubelet of the snap's node flavour, run as its services run them, with Debian's programs and a static pod.
//! snapd is not there: that is `snap_real.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::support::{
    Cluster, ClusterOptions, Cut, Edge, KUBE_ADDRESS, Node, NodeOptions, Process, image_archive, parts,
    seconds, token_kubeconfig,
};

/// What the snap keeps, and what of it edge writes for kubelet.
const COMMON: &str = "/var/snap/edge/common";
const KUBECONFIG: &str = "/var/snap/edge/common/kubelet.kubeconfig";
/// A pod that the cloud has for this node.
const POD: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: from-the-cloud, namespace: default}
spec:
  nodeName: node-1
  hostNetwork: true
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never}]
"#;

/// `/snap` of the host, which the machines of these tests mount over: one at a time, for who takes it away ends the mounts.
struct SnapFolder {
    made: Vec<&'static str>,
    _alone: MutexGuard<'static, ()>,
}

impl SnapFolder {
    fn take() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let made =
            ["/snap", "/var/snap"].into_iter().filter(|path| std::fs::create_dir(path).is_ok()).collect();
        Self { made, _alone: alone }
    }
}

impl Drop for SnapFolder {
    fn drop(&mut self) {
        for path in &self.made {
            let _ = std::fs::remove_dir(path);
        }
    }
}

fn tree() -> PathBuf {
    let parts_folder =
        std::env::var_os("EDGE_PARTS").map_or_else(|| "/var/cache/edge-parts".into(), PathBuf::from);
    let tree = parts_folder.join("node-amd64/tree");
    assert!(tree.exists(), "no `{}` hint: run scripts/parts as root", tree.display());
    tree
}

#[test]
#[allow(clippy::print_stdout, reason = "a test says what it measured")]
fn the_parts_of_a_node_run_a_static_pod_below_the_snap_s_folder() {
    let tree = tree();
    let folder = tempfile::tempdir().unwrap();
    let names = ["registry.k8s.io/pause:3.8", "registry.test/edge/app:1"];
    let images = image_archive(folder.path(), &names).unwrap();
    // Where the programs look for their loader, and where a snap keeps what it has; both are mounted over.
    let snap = SnapFolder::take();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/snapd/parts.sh");
    let output = Command::new("timeout")
        .args([
            "-k",
            "5",
            "200",
            "unshare",
            "--mount",
            "--net",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child",
        ])
        .args(["--propagation", "private", "bash"])
        .arg(script)
        .env("EDGE", Edge::PROGRAM)
        .env("TREE", &tree)
        .env("CTR", parts::ctr().unwrap())
        .env("IMAGES", images)
        .env("GROUP", format!("edge-node-{}", std::process::id()))
        .current_dir("/")
        .output()
        .unwrap();
    drop(snap);
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    assert!(said.lines().filter(|line| line.starts_with("ok ")).count() >= 16, "{said}");
    for figure in said.lines().filter(|line| line.starts_with("figure ")) {
        println!("{figure}");
    }
}

/// A gateway whose only kubelet and containerd are the snap's, each run as snapd runs it.
struct Snap {
    node: Node,
    folder: tempfile::TempDir,
    cluster: Cluster,
    // Last, so that the machine is gone before.
    _host: SnapFolder,
}

impl Snap {
    fn new() -> Result<Self> {
        let host = SnapFolder::take();
        let cluster = Cluster::start(&ClusterOptions::default())?;
        let node = cluster.node("node-1", &NodeOptions::default())?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("committed.json"), "{}")?;
        std::fs::write(folder.path().join("services.json"), r#"["containerd", "kubelet"]"#)?;
        let machine = node.machine()?;
        machine.shell(&format!(
            "mount -t tmpfs tmpfs /snap; mkdir -p /snap/edge/x1 {COMMON} /var/lib/cni
             mount --bind {} /snap/edge/x1; ln -s x1 /snap/edge/current
             mount -t tmpfs tmpfs /var/snap
             mkdir -p {COMMON}/kubelet/config.d {COMMON}/kubelet/root {COMMON}/containerd/config.d {COMMON}/cni/state
             mount --bind {COMMON}/kubelet/root /var/lib/kubelet; mount --bind {COMMON}/cni/state /var/lib/cni",
            tree().display()
        ))?;
        // What this kernel and its cgroups ask for: the owner's own files.
        let ours: Value = serde_json::from_str(&machine.read("/etc/kubernetes/kubelet.yaml")?)?;
        let keys = ["apiVersion", "kind", "cgroupRoot", "failCgroupV1", "oomScoreAdj", "evictionHard"];
        let settings: serde_json::Map<_, _> =
            keys.iter().map(|key| ((*key).into(), ours[*key].clone())).collect();
        machine
            .write(&format!("{COMMON}/kubelet/config.d/10-test.conf"), &Value::from(settings).to_string())?;
        let runtime = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nrestrict_oom_score_adj = true\n";
        machine.write(&format!("{COMMON}/containerd/config.d/10-test.toml"), runtime)?;
        Ok(Self { node, folder, cluster, _host: host })
    }

    /// What snapd sets for whatever is of the snap.
    fn environment(&self) -> [(&'static str, String); 5] {
        let stand_in = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/snapctl.py");
        [
            ("SNAP_NAME", "edge".into()),
            ("SNAP", "/snap/edge/x1".into()),
            ("SNAP_COMMON", COMMON.into()),
            ("EDGE_SNAPCTL", stand_in.into()),
            ("STAND_IN", self.folder.path().display().to_string()),
        ]
    }

    fn service(&self, name: &str, words: &[&str]) -> Result<Process> {
        let environment = self.environment();
        let environment: Vec<_> = environment.iter().map(|(key, value)| (*key, value.as_str())).collect();
        self.node.spawn(name, &[&[Edge::PROGRAM], words].concat(), &environment)
    }

    /// A command, as a user types it.
    fn edge(&self, words: &[&str]) -> Result<String> {
        self.run(&[], words)
    }

    fn run(&self, more: &[&str], words: &[&str]) -> Result<String> {
        let environment: Vec<_> =
            self.environment().iter().map(|(key, value)| format!("{key}={value}")).collect();
        let environment: Vec<_> = environment.iter().map(String::as_str).collect();
        self.node.machine()?.run(&[&["env"], &environment[..], more, &[Edge::PROGRAM], words].concat())
    }

    /// `snap set edge KEY=VALUE`
    fn set(&self, key: &str, value: Value) -> Result<()> {
        let at = |name: &str| self.folder.path().join(name);
        let mut staged: Value = serde_json::from_slice(&std::fs::read(at("committed.json"))?)?;
        staged[key] = value;
        std::fs::write(at("staged.json"), staged.to_string())?;
        self.run(&["SNAP_COOKIE=hook"], &["hook", "configure"])?;
        Ok(std::fs::rename(at("staged.json"), at("committed.json"))?)
    }

    fn ctr(&self, words: &[&str]) -> Result<String> {
        let (ctr, socket) = (parts::ctr()?, format!("{COMMON}/run/containerd/containerd.sock"));
        self.node.machine()?.run(&[&[&*ctr, "-a", &*socket, "-n", "k8s.io"], words].concat())
    }

    /// What kubelet would get, by its own kubeconfig.
    fn kubelet_reads(&self, pod: &str) -> Result<String> {
        let kubectl = parts::kubernetes("kubectl")?;
        let words = [
            "--kubeconfig",
            KUBECONFIG,
            "--cache-dir=/run/kubectl",
            "--request-timeout=10s",
            "get",
            "pod",
            pod,
        ];
        self.node.machine()?.run(&[&[&*kubectl], &words[..]].concat())
    }
}

/// kubelet's own word that it is well.
fn is_well(snap: &Snap) -> Result<()> {
    let said = snap.node.http("127.0.0.1:10248", "/healthz")?;
    ensure!(said.contains("ok"), "{said}");
    Ok(())
}

#[test]
fn the_snap_s_kubelet_serves_the_cloud_that_was_joined() -> Result<()> {
    let snap = Snap::new()?;
    let cluster = &snap.cluster;
    let _daemon = snap.service("snap-daemon", &["daemon"])?;
    let _containerd = snap.service("snap-containerd", &["node", "containerd"])?;
    cluster.wait_for("the snap's containerd", seconds(60), || snap.ctr(&["version"]));
    let images =
        image_archive(snap.folder.path(), &["registry.k8s.io/pause:3.8", "registry.test/edge/app:1"])?;
    snap.ctr(&["images", "import", &images.display().to_string()])?;
    let mut kubelet = snap.service("snap-kubelet", &["node", "kubelet"])?;
    cluster.wait_for("a kubelet without a cloud", seconds(60), || is_well(&snap));
    cluster.ready()?;

    // As the snap's description says it.
    let (authority, token) = (cluster.authority().certificate(), cluster.bootstrap_token());
    let bootstrap = token_kubeconfig(KUBE_ADDRESS, authority, token);
    snap.node.machine()?.write("/run/bootstrap.kubeconfig", &bootstrap)?;
    let said = snap.edge(&["join", "--from", "/run/bootstrap.kubeconfig"])?;
    assert!(said.contains("node `node-1` is joined"), "{said}");
    assert!(said.contains("one thing is left to do: snap restart edge.kubelet"), "{said}");
    kubelet.kill();
    let kubelet = snap.service("snap-kubelet", &["node", "kubelet"])?;
    snap.node.wait_ready();
    let words = std::fs::read_to_string(Path::new("/proc").join(kubelet.pid().to_string()).join("cmdline"))?;
    assert!(
        words.starts_with("/snap/edge/x1/usr/bin/kubelet") || words.contains("/usr/bin/kubelet"),
        "{words}"
    );
    for word in [format!("--kubeconfig={KUBECONFIG}"), "--hostname-override=node-1".into()] {
        assert!(words.split('\0').any(|one| one == word), "{words}");
    }

    cluster.wait_for("a pod of the cloud's", seconds(60), || cluster.apply(POD));
    cluster.wait_for("it runs in the snap's containerd", seconds(90), || {
        let pods = cluster.pods("default")?;
        ensure!(pods.iter().any(|pod| pod.name == "from-the-cloud" && pod.ready), "{pods:?}");
        ensure!(snap.ctr(&["tasks", "ls"])?.matches("RUNNING").count() >= 2, "no tasks");
        Ok(())
    });
    assert_eq!(
        snap.edge(&["config", "get", "runtime.endpoint"])?.trim(),
        format!("unix://{COMMON}/run/containerd/containerd.sock")
    );

    // The keys of the snap hold for its kubelet too: kept and answered in an outage, or neither.
    let link = |state: &str| {
        cluster.wait_for(&format!("link {state}"), seconds(60), || {
            let status: Value = serde_json::from_str(&snap.edge(&["status", "-o", "json"])?)?;
            ensure!(status["link"]["state"] == state, "{}", status["link"]);
            Ok(())
        });
    };
    link("online");
    snap.kubelet_reads("from-the-cloud")?;
    cluster.cut(Cut::Stop)?;
    link("offline");
    let told = snap.kubelet_reads("from-the-cloud")?;
    assert!(told.contains("from-the-cloud"), "{told}");
    cluster.heal()?;
    link("online");
    snap.set("offline-mode", json!(false))?;
    cluster.wait_for("offline mode is off", seconds(30), || {
        let said = snap.edge(&["config", "get", "offline-mode"])?;
        ensure!(said.trim() == "false", "{said}");
        Ok(())
    });
    snap.kubelet_reads("from-the-cloud")?;
    cluster.cut(Cut::Stop)?;
    cluster.wait_for("nothing is answered from what was kept", seconds(60), || {
        ensure!(snap.kubelet_reads("from-the-cloud").is_err(), "it is answered");
        Ok(())
    });
    is_well(&snap).context("kubelet goes on")?;
    assert!(snap.ctr(&["tasks", "ls"])?.matches("RUNNING").count() >= 2, "and so do its pods");
    Ok(())
}
