//! The snap as a file: what is in it, and that the same input gives the same bytes.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::command::Done;

/// A static program of this machine, which is what a snap needs; what it does is no matter here.
const BINARY: &str = "/bin/busybox";

fn pack(out: &Path, more: &[&str]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-pack"));
    command.args(["snap", "--arch", "amd64", "--binary", BINARY, "--out"]).arg(out).args(more);
    Done::of(command.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap())
}

/// The lines of `unsquashfs` for an image.
fn unsquashfs(arguments: &[&str], image: &Path) -> String {
    let output = Command::new("unsquashfs").args(arguments).arg(image).env("TZ", "UTC").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_snap_holds_the_binary_and_a_link_for_each_hook_that_edge_knows() {
    let folder = tempfile::tempdir().unwrap();
    let done = pack(folder.path(), &["--snap-version", "9.9"]).good();
    let image = PathBuf::from(done.out.trim());
    assert_eq!(image, folder.path().join("edge_9.9_amd64.snap"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");
    let list = unsquashfs(&["-lln"], &image);
    let line = |path: &str| {
        list.lines().find(|line| line.contains(&format!("squashfs-root{path}"))).unwrap().to_owned()
    };
    assert!(line("/bin/edge").starts_with("-rwxr-xr-x 0/0"), "{list}");
    assert!(line("/meta/snap.yaml").starts_with("-r--r--r-- 0/0"), "{list}");
    assert!(line("/meta/snapshots.yaml").starts_with("-r--r--r-- 0/0"), "{list}");
    assert!(
        list.lines().all(|line| !line.contains("squashfs-root") || line.contains("2023-11-14 22:13")),
        "{list}"
    );
    let out = folder.path().join("out");
    unsquashfs(&["-q", "-n", "-d", out.to_str().unwrap()], &image);
    let hooks = std::fs::read_dir(out.join("meta/hooks")).unwrap().map(|entry| entry.unwrap().path());
    let mut count = 0;
    for hook in hooks {
        assert_eq!(std::fs::read_link(&hook).unwrap(), Path::new("../../bin/edge"));
        // edge by that name is that hook: outside a snap it says so, and a word that it does not know is a usage error.
        let link = folder.path().join(hook.file_name().unwrap());
        symlink(env!("CARGO_BIN_EXE_edge"), &link).unwrap();
        Done::of(Command::new(&link).env_remove("SNAP_NAME").output().unwrap()).bad(1, "no snap");
        count += 1;
    }
    assert!(count > 10, "{count}");
    let text = std::fs::read_to_string(out.join("meta/snap.yaml")).unwrap();
    let yaml: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(
        (&yaml["version"], &yaml["base"], &yaml["confinement"]),
        (&json!("9.9"), &json!("bare"), &json!("strict"))
    );
    for app in yaml["apps"].as_object().unwrap().values() {
        let program = app["command"].as_str().unwrap().split(' ').next().unwrap();
        assert!(out.join(program).exists(), "{program}");
    }
}

#[test]
fn the_same_input_gives_the_same_bytes_elsewhere_and_later() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = pack(one.path(), &[]).good();
    let second = pack(&two.path().join("another/folder"), &[]).good();
    let bytes = |done: &Done| std::fs::read(done.out.trim()).unwrap();
    assert!(bytes(&first) == bytes(&second), "the two differ");
    let other = pack(&two.path().join("other"), &["--epoch", "1700000001"]).good();
    assert!(bytes(&first) != bytes(&other), "the time is in it");
}

/// snapd's own `snap pack`, of the tree that `scripts/parts` has made, given what is in ours.
#[test]
fn snap_pack_makes_the_same_bytes_of_it() {
    const PACK: &str = r#"root=$1 place=$2
mount -t tmpfs tmpfs "$root/mnt"; mkdir "$root/mnt/place"; mount --bind "$place" "$root/mnt/place"
mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"; mount -t tmpfs tmpfs "$root/tmp"
# The snapd snap of the tree is empty; the package's own tools are there.
mount -t tmpfs tmpfs "$root/snap"
exec chroot "$root" env SOURCE_DATE_EPOCH=1700000000 snap pack --filename=theirs.snap /mnt/place/tree /mnt/place"#;
    let folder = tempfile::tempdir().unwrap();
    let ours = PathBuf::from(pack(folder.path(), &[]).good().out.trim());
    let tree = folder.path().join("tree");
    unsquashfs(&["-q", "-n", "-d", tree.to_str().unwrap()], &ours);
    let root = crate::snap_real::places().1.canonicalize().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec", PACK, "sh"])
        .args([&root, folder.path()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs = std::fs::read(folder.path().join("theirs.snap")).unwrap();
    assert!(std::fs::read(&ours).unwrap() == theirs, "the two differ");
}

#[test]
fn a_root_that_holds_is_packed() {
    let folder = tempfile::tempdir().unwrap();
    crate::bundle::make_keys(&folder.path().join("keys"), 1, 1);
    let root = folder.path().join("keys/1.root.json");
    let done = pack(&folder.path().join("out"), &["--trust", root.to_str().unwrap()]).good();
    let image = PathBuf::from(done.out.trim());
    let out = folder.path().join("tree");
    unsquashfs(&["-q", "-n", "-d", out.to_str().unwrap()], &image);
    assert_eq!(std::fs::read(out.join("1.root.json")).unwrap(), std::fs::read(&root).unwrap());
    std::fs::write(&root, "{}").unwrap();
    let refused = pack(&folder.path().join("out"), &["--trust", root.to_str().unwrap()]);
    assert!(refused.code != 0 && refused.err.contains("1.root.json"), "{refused:?}");
}

#[test]
fn what_cannot_run_in_the_snap_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-pack"));
        command.args(["snap", "--out"]).arg(folder.path()).args(more);
        let done = Done::of(command.output().unwrap());
        assert_eq!(done.code, 1, "{done:?}");
        done.err
    };
    assert!(refused(&["--arch", "arm64", "--binary", BINARY]).contains("it is for another machine"));
    assert!(
        refused(&["--arch", "amd64", "--binary", env!("CARGO_BIN_EXE_edge")]).contains("it needs a loader")
    );
    assert!(
        refused(&["--arch", "arm64", "--binary", "/no/such"]).contains("scripts/snap --arch arm64 builds it")
    );
    let long = "1".repeat(33);
    for version in [long.as_str(), "1 2", "1/2"] {
        assert!(
            refused(&["--arch", "amd64", "--binary", BINARY, "--snap-version", version])
                .contains("1 to 32 characters")
        );
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
