//! containerd and kubelet of the snap's node flavour, run as its services run them, with Debian's programs and a static pod.
//! snapd is not there: that is `snap_real.rs`.

use std::path::PathBuf;
use std::process::Command;

use crate::support::{Edge, image_archive, parts};

#[test]
#[allow(clippy::print_stdout, reason = "a test says what it measured")]
fn the_parts_of_a_node_run_a_static_pod_below_the_snap_s_folder() {
    let parts_folder =
        std::env::var_os("EDGE_PARTS").map_or_else(|| "/var/cache/edge-parts".into(), PathBuf::from);
    let tree = parts_folder.join("node-amd64/tree");
    assert!(tree.exists(), "no `{}` hint: run scripts/parts as root", tree.display());
    let folder = tempfile::tempdir().unwrap();
    let names = ["registry.k8s.io/pause:3.8", "registry.test/edge/app:1"];
    let images = image_archive(folder.path(), &names).unwrap();
    // Where the programs look for their loader, and where a snap keeps what it has; both are mounted over.
    let made: Vec<_> =
        ["/snap", "/var/snap"].into_iter().filter(|path| std::fs::create_dir(path).is_ok()).collect();
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
    for path in made {
        let _ = std::fs::remove_dir(path);
    }
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    assert!(said.lines().filter(|line| line.starts_with("ok ")).count() >= 16, "{said}");
    for figure in said.lines().filter(|line| line.starts_with("figure ")) {
        println!("{figure}");
    }
}
