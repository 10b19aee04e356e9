//! The snap where AppArmor enforces: a virtual machine with a real snapd, containerd and kubelet. `tests/snapd/vm` boots
//! it; what is looked at stands in `tests/snapd/apparmor.sh`, and what `test.sh` and `node.sh` look at is looked at there.

use std::path::Path;
use std::process::Command;

use crate::command::Place;
use crate::snap_real::{Build, Machine, edge_payload, node_payload, run, script};
use crate::support::{image_archive, parts};

fn copy(from: impl AsRef<Path>, to: &Path) {
    let status = Command::new("cp").arg("-rL").arg(from.as_ref()).arg(to).status().unwrap();
    assert!(status.success(), "cannot copy `{}`", from.as_ref().display());
}

/// All of `test.sh`: install, configure, refresh, revert, remove.
#[test]
#[ignore = "an emulated machine, a quarter of an hour: scripts/test --long"]
fn what_a_real_snapd_does_goes_well_where_apparmor_enforces() {
    let folder = tempfile::tempdir().unwrap();
    let payload = edge_payload(folder.path(), Build::Quick);
    // Nothing here is measured.
    std::fs::write(payload.join("slow"), "").unwrap();
    run(Machine::Virtual, &payload, &folder.path().join("log"), &[("SNAPD_TIMEOUT", "3000")], 80);
}

#[test]
#[ignore = "an emulated machine, a quarter of an hour: scripts/test --long"]
fn strict_confinement_denies_what_is_not_connected_and_nothing_that_edge_needs() {
    let folder = tempfile::tempdir().unwrap();
    let payload = edge_payload(folder.path(), Build::Quick);
    script(&payload, "apparmor.sh");
    let node = payload.join("node");
    std::fs::create_dir(&node).unwrap();
    for program in ["containerd", "containerd-shim-runc-v2"] {
        copy(parts::containerd(program).unwrap(), &node);
    }
    copy(parts::kubernetes("kubelet").unwrap(), &node);
    copy(parts::ctr().unwrap(), &node);
    for program in ["runc", "busybox"] {
        copy(parts::program(program).unwrap(), &node);
    }
    let names = ["registry.k8s.io/pause:3.8", "registry.test/edge/app:1"];
    std::fs::rename(image_archive(folder.path(), &names).unwrap(), payload.join("images.tar")).unwrap();
    // A stick, and whom to trust.
    let depot = Place::new();
    let (stick, notes) = (payload.join("stick"), depot.write("notes.txt", "for the crew"));
    std::fs::create_dir(&stick).unwrap();
    depot.run(&["bundle", "keygen", "--out", "KEYS"]).good();
    let [stick, notes] = [&stick, &notes].map(|path| path.display().to_string());
    depot
        .run(&["bundle", "create", "--stream", "main", "--keys", "KEYS", "--to", &stick, "--file", &notes])
        .good();
    copy(depot.path("KEYS/1.root.json"), &payload.join("root.json"));
    run(Machine::Virtual, &payload, &folder.path().join("log"), &[("SNAPD_TIMEOUT", "3000")], 70);
}

#[test]
#[ignore = "an emulated machine, a quarter of an hour: scripts/test --long"]
fn the_node_flavour_runs_a_pod_where_apparmor_enforces() {
    let folder = tempfile::tempdir().unwrap();
    let payload = node_payload(folder.path());
    std::fs::write(payload.join("slow"), "").unwrap();
    let log = folder.path().join("log");
    run(Machine::Virtual, &payload, &log, &[("SNAPD_TIMEOUT", "4500"), ("SNAPD_MEMORY", "4096")], 40);
}
