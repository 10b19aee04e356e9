//! The snap on a real snapd, with its own systemd, in namespaces of its own: `tests/snapd` says how. What is looked at
//! stands in `tests/snapd/test.sh`; the moments that a real snapd cannot be brought to are in `snap_hooks.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::command::Done;
use crate::support::{Authority, image_archive, kubeconfig, parts, with_user};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Which static binary `scripts/test` has built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// For tests.
    Quick,
    /// What ships.
    Gateway,
}

/// The static binary for this machine; it must be of these sources.
pub fn binary(build: Build) -> PathBuf {
    binary_for(build, "amd64")
}

/// The same for machines of `arch`.
pub fn binary_for(build: Build, arch: &str) -> PathBuf {
    let (folder, flag) = match build {
        Build::Quick => ("target/snap-test", "--quick "),
        Build::Gateway => ("target/snap", ""),
    };
    let path = Path::new(ROOT).join(folder).join(format!("edge-{arch}"));
    let build = format!("hint: scripts/snap {flag}--arch {arch} --out {folder}");
    let built =
        path.metadata().unwrap_or_else(|_| panic!("no `{}` {build}", path.display())).modified().unwrap();
    let newest = newest(&Path::new(ROOT).join("src"));
    assert!(built >= newest.0, "`{}` is older than `{}` {build}", path.display(), newest.1.display());
    path
}

fn newest(folder: &Path) -> (SystemTime, PathBuf) {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let times = entries.map(|path| match path.is_dir() {
        true => newest(&path),
        false => (path.metadata().unwrap().modified().unwrap(), path),
    });
    times.max().unwrap()
}

/// The folder that `scripts/parts` fills, and the tree with snapd in it.
pub fn places() -> (PathBuf, PathBuf) {
    let parts = std::env::var_os("EDGE_PARTS").map_or_else(|| "/var/cache/edge-parts".into(), PathBuf::from);
    let tree = parts.join("snapd/tree");
    assert!(tree.exists(), "no `{}` hint: run scripts/parts as root", tree.display());
    (parts, tree)
}

/// Puts a script of tests/snapd into a payload, with what it speaks by.
pub fn script(payload: &Path, name: &str) {
    for (from, to) in [(name, "run.sh"), ("said.sh", "said.sh")] {
        std::fs::copy(Path::new(ROOT).join("tests/snapd").join(from), payload.join(to)).unwrap();
    }
}

/// Where a payload runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// In namespaces, on this kernel.
    Here,
    /// In a virtual machine, with AppArmor.
    Virtual,
}

/// Runs a payload in the tree; what it said.
#[allow(clippy::print_stdout, reason = "a test says what it measured")]
pub fn run(
    machine: Machine,
    payload: &Path,
    log: &Path,
    environment: &[(&str, &str)],
    looks: usize,
) -> String {
    let (_, tree) = places();
    let runner = match machine {
        Machine::Here => "tests/snapd/run",
        Machine::Virtual => "tests/snapd/vm",
    };
    let mut runner = Command::new(Path::new(ROOT).join(runner));
    let status = runner.args([&tree, payload, log]).envs(environment.iter().copied()).status().unwrap();
    let said = std::fs::read_to_string(log).unwrap();
    assert!(status.success(), "{status}\n{said}");
    // A script that stops early has not looked at everything.
    assert!(said.lines().filter(|line| line.starts_with("ok ")).count() > looks, "{said}");
    for figure in said.lines().filter(|line| line.starts_with("figure ")) {
        println!("{figure}");
    }
    said
}

/// kubelet and containerd of the snap itself, with a static pod: started, switched by keys, refreshed, removed.
#[test]
#[ignore = "packs 200 MB twice, four minutes: scripts/test --long"]
fn the_node_flavour_runs_a_static_pod_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let payload = node_payload(folder.path());
    let log = folder.path().join("log");
    run(Machine::Here, &payload, &log, &[("SNAPD_CGROUP", "host"), ("SNAPD_TIMEOUT", "900")], 40);
}

/// What `tests/snapd/node.sh` needs, in `folder`.
#[allow(clippy::print_stdout, reason = "a test says what it measured")]
pub fn node_payload(folder: &Path) -> PathBuf {
    let node = places().0.join("node-amd64/tree");
    assert!(node.exists(), "no `{}` hint: run scripts/parts as root", node.display());
    let payload = folder.join("payload");
    std::fs::create_dir(&payload).unwrap();
    let pack = |version: &str, name: &str| {
        let mut pack = Command::new(env!("CARGO_BIN_EXE_edge-pack"));
        pack.args(["snap", "--arch", "amd64", "--snap-version", version, "--flavour", "node", "--parts"])
            .arg(&node);
        pack.arg("--binary").arg(binary(Build::Quick));
        let made = Done::of(pack.arg("--out").arg(folder).output().unwrap()).good();
        std::fs::rename(made.out.trim(), payload.join(name)).unwrap();
    };
    pack("1", "edge-node-2.snap");
    pack("1", "edge-node.snap");
    let bytes = |name: &str| std::fs::read(payload.join(name)).unwrap();
    assert!(bytes("edge-node.snap") == bytes("edge-node-2.snap"), "packed twice, the bytes differ");
    println!("figure snap-bytes {}", bytes("edge-node.snap").len());
    // Another content is another revision.
    pack("2", "edge-node-2.snap");
    std::fs::copy(parts::ctr().unwrap(), payload.join("ctr")).unwrap();
    let names = ["registry.k8s.io/pause:3.8", "registry.test/edge/app:1"];
    std::fs::rename(image_archive(folder, &names).unwrap(), payload.join("images.tar")).unwrap();
    let cloud = Authority::new("cloud").unwrap();
    let node = cloud.client("system:node:ship-7", "system:nodes").unwrap();
    let from = kubeconfig("https://192.0.2.7:6443", cloud.certificate(), &node);
    std::fs::write(payload.join("kubelet.conf"), from).unwrap();
    script(&payload, "node.sh");
    payload
}

#[test]
fn installed_configured_refreshed_reverted_and_removed_by_a_real_snapd() {
    let folder = tempfile::tempdir().unwrap();
    let payload = edge_payload(folder.path(), Build::Quick);
    run(Machine::Here, &payload, &folder.path().join("log"), &[], 80);
}

/// The same with the binary that ships, and the figures that it is held to.
#[test]
#[ignore = "of a build that takes minutes: scripts/test --long"]
fn what_ships_takes_values_that_change_nothing_within_30_ms() {
    let folder = tempfile::tempdir().unwrap();
    let payload = edge_payload(folder.path(), Build::Gateway);
    let said = run(Machine::Here, &payload, &folder.path().join("log"), &[], 80);
    assert!(said.contains("figure configure-nothing-changed-ms "), "{said}");
}

/// What `tests/snapd/test.sh` needs, in `folder`.
pub fn edge_payload(folder: &Path, build: Build) -> PathBuf {
    let payload = folder.join("payload");
    std::fs::create_dir(&payload).unwrap();
    let binary = binary(build);
    for (version, confinement, name) in
        [("1", "strict", "edge.snap"), ("2", "strict", "edge-2.snap"), ("1", "classic", "edge-classic.snap")]
    {
        let mut pack = Command::new(env!("CARGO_BIN_EXE_edge-pack"));
        pack.args(["snap", "--arch", "amd64", "--snap-version", version, "--confinement", confinement]);
        pack.arg("--binary").arg(&binary);
        let made = Done::of(pack.arg("--out").arg(folder).output().unwrap()).good();
        std::fs::rename(made.out.trim(), payload.join(name)).unwrap();
    }
    if build == Build::Quick {
        std::fs::write(payload.join("quick"), "").unwrap();
    }
    let cloud = Authority::new("cloud").unwrap();
    let node = cloud.client("system:node:ship-7", "system:nodes").unwrap();
    let from = kubeconfig("https://192.0.2.7:6443", cloud.certificate(), &node);
    std::fs::write(payload.join("kubelet.conf"), from).unwrap();
    // As kubeadm lays it out: the certificate is the one that kubelet rotates.
    let current = "/var/lib/kubelet/pki/kubelet-client-current.pem";
    let user = format!("client-certificate: {current}, client-key: {current}");
    let from = with_user("https://192.0.2.7:6443", cloud.certificate(), &user);
    std::fs::write(payload.join("kubeadm.conf"), from).unwrap();
    std::fs::write(payload.join("rotated.pem"), format!("{}{}", node.certificate, node.key)).unwrap();
    script(&payload, "test.sh");
    payload
}
