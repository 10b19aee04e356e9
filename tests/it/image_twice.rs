//! `scripts/image --twice`, with what is documented after `--`. What it calls is a stand-in that writes down how it was
//! called; the bytes of real images are compared by `image.rs`.

use std::path::Path;
use std::process::Command;

use crate::command::{Done, Place};

const EDGE_PACK: &str = r#"#!/usr/bin/env bash
# Refuses what edge-pack does, and writes what it writes.
set -eu
echo "$*" >> "$CALLS"
locks=0 board=generic-efi out=
while [ $# -gt 0 ]; do
    case $1 in
    --lock) locks=$((locks + 1)) && shift ;;
    --lock=*) locks=$((locks + 1)) ;;
    --board) board=$2 && shift ;;
    --out) out=$2 && shift ;;
    esac
    shift
done
[ $locks -le 1 ] || { echo "error: the argument '--lock <FILE>' cannot be used multiple times" >&2; exit 2; }
mkdir -p "$(dirname "$out")"
for end in '' .zst .lock .spdx.json; do echo "bytes$end" > "$out$end"; done
[ "$board" = raspberry-pi ] && boot=boot.img || boot=edge.efi
mkdir -p "$out.system"
for name in root.erofs root.verity $boot system.json; do echo "$name" > "$out.system/$name"; done
[ -z "${SPOIL_NEXT:-}" ] || echo "$out" >> "$out.system/root.verity"
"#;

/// A source tree with the real script.
struct Tree(Place);

impl Tree {
    fn new() -> Self {
        let place = Place::new();
        let ours = |path| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let [script, epoch] = ["scripts/image", "scripts/snap.d/epoch"].map(ours);
        for (path, text) in [
            ("scripts/image", script.as_str()),
            ("scripts/snap.d/epoch", epoch.as_str()),
            ("scripts/snap", "#!/bin/sh\n"),
            ("scripts/parts.d/image-tools", "#!/bin/sh\n"),
            ("scripts/parts.d/kubernetes", "#!/bin/sh\necho kubelet\n"),
            ("bin/cargo", "#!/bin/sh\n"),
            ("target/debug/edge-pack", EDGE_PACK),
        ] {
            let path = place.write(path, text);
            assert!(Command::new("chmod").arg("755").arg(path).status().unwrap().success());
        }
        Self(place)
    }

    fn make(&self, options: &[&str], environment: &[(&str, &str)]) -> Done {
        let place = &self.0;
        let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(place.path("scripts/image"));
        command.args(["--quick", "--twice", "--out", &place.path("edge.img").display().to_string(), "--"]);
        command.args(options).envs(environment.iter().copied()).env("PATH", path);
        command.env("CALLS", place.path("calls")).env("EDGE_PARTS", place.path("parts"));
        Done::of(command.output().unwrap())
    }
}

#[test]
fn an_image_is_made_twice_with_every_option() {
    const SAME: &str = "image: made again in another folder, byte for byte the same";
    let tree = Tree::new();
    let lock = format!("--lock {}.lock ", tree.0.path("edge.img").display());
    for options in [
        &["--config", "a b.toml"][..],
        &["--lock", "old.lock", "--verify-lock", "--image-version", "2"],
        &["--lock=old.lock"],
        &["--board", "raspberry-pi"],
    ] {
        let done = tree.make(options, &[]).good();
        assert!(done.out.contains(SAME), "{options:?}: {done:?}");
        let calls = tree.0.read("calls");
        let second = calls.lines().last().unwrap();
        assert!(second.contains(&lock) && !second.contains("old.lock"), "{second}");
        assert!(!second.contains("--verify-lock"), "{second}");
        std::fs::remove_dir_all(tree.0.path("edge.img.system")).ok();
    }
    // What differs is told, of the system as well.
    let done = tree.make(&[], &[("SPOIL_NEXT", "1")]);
    assert!(done.code == 1 && done.err.contains(".system/root.verity` differs"), "{done:?}");
}
