//! The systemd units in `config/`: systemd itself reads them, and the order that pods depend on holds.

use std::path::Path;
use std::process::Command;

use crate::command::Place;

fn unit(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

/// The words of all lines `KEY=...`.
fn words(unit: &str, key: &str) -> Vec<String> {
    let values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[test]
fn systemd_reads_the_service() {
    let place = Place::new();
    // Verified with the binary that is here; manual pages are not installed in a build tree.
    let text: String = unit("edge.service")
        .replace("/usr/bin/edge", env!("CARGO_BIN_EXE_edge"))
        .lines()
        .filter(|line| !line.starts_with("Documentation="))
        .map(|line| format!("{line}\n"))
        .collect();
    let path = place.write("edge.service", &text);
    place.write("kubelet.service", "[Service]\nExecStart=/bin/true\n");
    place.write("kubelet.service.d/10-edge.conf", &unit("10-edge.conf"));
    place.write("edge.service.d/20-auto-import.conf", &unit("20-auto-import.conf"));
    place.write(
        "edge.service.d/10-appliance.conf",
        &unit("appliance/usr/lib/systemd/system/edge.service.d/10-appliance.conf"),
    );
    let kubelet = place.path("kubelet.service");
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args([&path, &kubelet])
        .output()
        .expect("systemd-analyze (Debian's package systemd) must be there");
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<_> =
        said.lines().filter(|line| line.contains("edge") || line.contains("kubelet")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

/// `ProtectClock=` allows a device, which closes all that are not allowed: sticks and slots are block devices.
#[test]
fn where_edge_mounts_and_writes_disks_it_may_open_them() {
    assert_eq!(words(&unit("edge.service"), "ProtectClock"), ["yes"]);
    for name in ["20-auto-import.conf", "appliance/usr/lib/systemd/system/edge.service.d/10-appliance.conf"] {
        let lines: Vec<String> = unit(name).lines().map(str::to_owned).collect();
        assert!(lines.contains(&"DeviceAllow=block-* rw".to_owned()), "{name}");
    }
}

#[test]
fn edge_is_ready_before_kubelet_and_waits_for_no_network() {
    let service = unit("edge.service");
    assert!(words(&service, "Before").contains(&"kubelet.service".to_owned()));
    assert!(words(&service, "After").contains(&"containerd.service".to_owned()));
    // Only a notifying service holds back those that come after it until it listens.
    assert_eq!(words(&service, "Type"), ["notify"]);
    assert_eq!(words(&service, "Restart"), ["always"]);
    for key in ["After", "Wants", "Requires", "Requisite", "BindsTo"] {
        let waits = words(&service, key).into_iter().find(|word| word.starts_with("network"));
        assert_eq!(waits, None, "a gateway that boots during an outage has no network");
    }
    let kubelet = unit("10-edge.conf");
    for key in ["After", "Wants"] {
        assert_eq!(words(&kubelet, key), ["edge.service"], "{key}");
    }
}

#[test]
fn connections_of_pods_do_not_use_up_the_descriptors() {
    let files: Vec<u32> =
        words(&unit("edge.service"), "LimitNOFILE").iter().map(|n| n.parse().unwrap()).collect();
    // What pods may have at once, and as many to the cloud, leave most to kubelet, the registry and the store.
    assert!(matches!(files[..], [n] if n >= 16 * 2 * 1024), "{files:?}");
}
