//! One case for each way to attack a gateway with a stick: refused with a reason, and the store as it was before.
//!
//! A case takes a good bundle and spoils one thing. What is signed is signed anew where the attack is one of a depot
//! whose bundle key was stolen; else nothing but the stick is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge::bundle::PAYLOAD_TYPE;
use edge::sys::digest::Digest;
use edge::trust::SecretKey;
use serde_json::{Value, json};

use crate::bundle::{THEN, at, everything, import, put_image};
use crate::bundle_forge::{Attack, flip};
use crate::command::{Done, Place};

/// What an attack is called, what it does, and a word of the reason.
type Case = (&'static str, fn(&Attack), &'static str);

fn signed_by_nobody(attack: &Attack) {
    attack.edit_envelope(|envelope| envelope["signatures"] = json!([]));
}

const CASES: &[Case] = &[
    ("unsigned", signed_by_nobody, "signed by 0 of the 1 keys"),
    (
        "wrong-key",
        |a| {
            let payload = serde_json::to_vec(&a.manifest()).unwrap();
            a.sign_with(&payload, PAYLOAD_TYPE, &[&SecretKey::generate().unwrap()]);
        },
        "signed by 0 of the 1 keys",
    ),
    (
        "root-key-signs-a-bundle",
        |a| a.sign_with(&serde_json::to_vec(&a.manifest()).unwrap(), PAYLOAD_TYPE, &[&a.key("root-1")]),
        "signed by 0 of the 1 keys",
    ),
    (
        "another-kind-of-document",
        |a| {
            let payload = serde_json::to_vec(&a.manifest()).unwrap();
            a.sign_with(&payload, "application/vnd.edge.bundle.receipt.v1+json", &[&a.key("bundle")]);
        },
        "is signed as `application/vnd.edge.bundle.receipt",
    ),
    (
        "payload-changed",
        |a| {
            let mut manifest = a.manifest();
            manifest.seq = 7;
            let payload = STANDARD.encode(serde_json::to_vec(&manifest).unwrap());
            a.edit_envelope(|envelope| envelope["payload"] = payload.into());
        },
        "signed by 0 of the 1 keys",
    ),
    (
        "one-key-signs-a-root-twice",
        |a| {
            a.root(2, &[a.key("bundle").public()], &["root-1"]);
            let path = a.path("trust/2.root.json");
            let mut envelope: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let again = envelope["signatures"][0].clone();
            envelope["signatures"].as_array_mut().unwrap().push(again);
            fs::write(path, envelope.to_string()).unwrap();
        },
        "signed by 1 of the 2 keys",
    ),
    (
        "one-key-signs-a-bundle-twice",
        |a| {
            let keys = [a.key("bundle").public(), SecretKey::generate().unwrap().public()];
            a.root_that_needs(2, 2, &keys, &["root-1", "root-2"]);
            a.edit_envelope(|envelope| {
                let again = envelope["signatures"][0].clone();
                envelope["signatures"].as_array_mut().unwrap().push(again);
            });
        },
        "signed by 1 of the 2 keys",
    ),
    (
        "stolen-bundle-key-makes-a-root",
        |a| a.root(2, &[a.key("bundle").public()], &["bundle"]),
        "signed by 0 of the 2 keys",
    ),
    (
        "skipped-root-version",
        |a| a.root(3, &[a.key("bundle").public()], &["root-1", "root-2"]),
        "a root of version 3 cannot follow version 1",
    ),
    (
        "a-key-that-a-new-root-dropped",
        |a| a.root(2, &[SecretKey::generate().unwrap().public()], &["root-1", "root-2"]),
        "signed by 0 of the 1 keys",
    ),
    (
        "another-depot-s-root",
        |a| {
            crate::bundle::make_keys(&a.scene.path("theirs"), 1, 1);
            fs::copy(a.scene.path("theirs/1.root.json"), a.path("trust/1.root.json")).unwrap();
        },
        "comes from a depot with another root",
    ),
    (
        "root-too-large",
        |a| fs::write(a.path("trust/2.root.json"), vec![b' '; 300 << 10]).unwrap(),
        "more than 262144 bytes",
    ),
    (
        "manifest-over-its-cap",
        |a| fs::write(a.path("manifest.dsse"), vec![b' '; (1 << 20) + 1]).unwrap(),
        "more than 1048576 bytes",
    ),
    ("deep-json", |a| fs::write(a.path("manifest.dsse"), "[".repeat(100_000)).unwrap(), "nested deeper"),
    (
        "duplicate-keys-in-the-envelope",
        |a| {
            let text = fs::read_to_string(a.path("manifest.dsse")).unwrap();
            fs::write(a.path("manifest.dsse"), text.replacen('{', r#"{"payloadType":"x","#, 1)).unwrap();
        },
        "stands in it twice",
    ),
    (
        "duplicate-keys-in-the-manifest",
        |a| {
            let text = serde_json::to_string(&a.manifest()).unwrap();
            a.sign(text.replacen('{', r#"{"seq":9,"#, 1).as_bytes());
        },
        "stands in it twice",
    ),
    (
        "format-changed",
        |a| fs::write(a.path("FORMAT"), "edge-bundle 2\n").unwrap(),
        "is of format `edge-bundle 2`",
    ),
    ("importer-too-old", |a| a.forge(|m| m.importer = 99), "update edge first"),
    ("path-in-the-stream", |a| a.forge(|m| m.stream = "../../etc".into()), "no proper name"),
    ("digest-mismatch", |a| flip(&a.blob()), "is not what was signed"),
    ("digest-mismatch-in-a-part", |a| flip(&a.part()), "is not what was signed"),
    (
        "size-mismatch",
        |a| {
            let path = a.blob();
            let mut bytes = fs::read(&path).unwrap();
            bytes.push(0);
            fs::write(path, bytes).unwrap();
        },
        "are signed",
    ),
    (
        "truncated-stick",
        |a| fs::File::options().write(true).open(a.blob()).unwrap().set_len(1).unwrap(),
        "has 1 bytes",
    ),
    ("missing-part", |a| fs::remove_file(a.part()).unwrap(), "p0001` is missing"),
    ("missing-manifest", |a| fs::remove_file(a.path("manifest.dsse")).unwrap(), "`manifest.dsse` is missing"),
    ("missing-list", |a| fs::remove_file(a.path("blobs.list")).unwrap(), "`blobs.list` is missing"),
    ("list-changed", |a| flip(&a.path("refs.list")), "`refs.list` is not what was signed"),
    ("extra-file", |a| fs::write(a.path("autorun.inf"), "x").unwrap(), "`autorun.inf` does not belong"),
    (
        "extra-blob",
        |a| fs::write(a.path("blobs/sha256").join("0".repeat(64)), "x").unwrap(),
        "does not belong to the bundle",
    ),
    (
        "extra-part",
        |a| fs::write(a.part().with_extension("p0099"), "x").unwrap(),
        "does not belong to the bundle",
    ),
    (
        "extra-root",
        |a| fs::write(a.path("trust/root.json"), "x").unwrap(),
        "`trust/root.json` does not belong",
    ),
    (
        "symlink-to-a-secret",
        |a| {
            let path = a.blob();
            fs::remove_file(&path).unwrap();
            symlink("/etc/passwd", path).unwrap();
        },
        "is not a plain file",
    ),
    (
        "symlinked-folder",
        |a| {
            fs::rename(a.path("blobs"), a.scene.path("elsewhere")).unwrap();
            symlink(a.scene.path("elsewhere"), a.path("blobs")).unwrap();
        },
        "is not a plain file",
    ),
    (
        "fifo",
        |a| {
            let path = a.blob();
            fs::remove_file(&path).unwrap();
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        },
        "is not a plain file",
    ),
    (
        "fifo-as-manifest",
        |a| {
            fs::remove_file(a.path("manifest.dsse")).unwrap();
            nix::unistd::mkfifo(&a.path("manifest.dsse"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        },
        "is not a plain file",
    ),
    (
        "huge-sparse-file",
        |a| fs::File::options().write(true).open(a.blob()).unwrap().set_len(1 << 40).unwrap(),
        "are signed",
    ),
    (
        "decompression-bomb-of-a-list",
        |a| fs::File::options().write(true).open(a.path("blobs.list")).unwrap().set_len(1 << 40).unwrap(),
        "`blobs.list` has 1099511627776 bytes",
    ),
    (
        "path-traversal-in-a-list",
        |a| a.forge_list("blobs.list", |text| text.replacen("sha256:", "sha256:../../", 1)),
        "the first field is no digest",
    ),
    (
        "path-traversal-in-a-ref",
        |a| a.forge_list("refs.list", |text| text.replacen("q.io/app", "q.io/../../x", 1)),
        "it names nothing that could be served",
    ),
    (
        "a-name-twice",
        |a| {
            a.forge_list("refs.list", |text| {
                let line = text.lines().find(|line| line.contains("q.io/app")).unwrap();
                let mut other: serde_json::Value = serde_json::from_str(line).unwrap();
                other["digest"] = json!(Digest::sha256(b"another manifest"));
                format!("{text}{other}\n")
            });
        },
        "its name stands there twice",
    ),
    (
        "list-out-of-order",
        |a| {
            a.forge_list("blobs.list", |text| {
                let mut lines: Vec<&str> = text.lines().collect();
                lines.reverse();
                lines.join("\n") + "\n"
            });
        },
        "out of order",
    ),
    (
        "mix-and-match-a-ref-of-another-bundle",
        |a| {
            a.forge_list("refs.list", |text| {
                let other = Digest::sha256(b"elsewhere");
                text + &json!({"kind": "image", "repository": "q.io/evil", "name": "1", "digest": other})
                    .to_string()
                    + "\n"
            });
        },
        "which the bundle does not list",
    ),
    (
        "mix-and-match-lists-of-another-bundle",
        |a| {
            put_image(&a.scene.depot, "q.io/new", Some("1"), b"newer", "arm64");
            let other = a.scene.make().folder;
            fs::copy(other.join("blobs.list"), a.path("blobs.list")).unwrap();
            fs::remove_dir_all(other).unwrap();
        },
        "are signed",
    ),
    (
        "a-layer-that-is-not-listed",
        |a| {
            let layer = Digest::sha256(b"another");
            fs::remove_file(a.path("blobs/sha256").join(layer.hex())).unwrap();
            a.forge_list("blobs.list", |text| {
                text.lines()
                    .filter(|line| !line.contains(layer.hex()))
                    .map(|line| format!("{line}\n"))
                    .collect()
            });
            a.forge(|m| {
                (m.totals.blobs, m.totals.carried) = (m.totals.blobs - 1, m.totals.carried - 1);
                (m.totals.bytes, m.totals.carried_bytes) = (m.totals.bytes - 7, m.totals.carried_bytes - 7);
            });
        },
        "which the bundle does not list",
    ),
    (
        "wrong-gateway",
        |a| a.forge(|m| m.audience.gateways = vec!["ship-8".into()]),
        "is for gateway `ship-8`",
    ),
    ("wrong-fleet", |a| a.forge(|m| m.audience.fleets = vec!["south".into()]), "is for fleet `south`"),
    (
        "wrong-platform",
        |a| a.forge(|m| m.audience.platforms = vec!["linux/s390x".into()]),
        "is for platform `linux/s390x`",
    ),
    ("seq-far-ahead", |a| a.forge(|m| m.seq = 1 << 62), "too far ahead"),
    ("seq-zero", |a| a.forge(|m| m.seq = 0), "is not above 0"),
    (
        "signed-under-a-root-to-come",
        |a| a.forge(|m| m.root = 2),
        "a root of version 2 cannot follow version 1",
    ),
    ("dated-past-its-root", |a| a.forge(|m| m.created = at(THEN + 2_000_000_000)), "after its root's end"),
    ("frozen", |a| a.forge(|m| m.not_after = Some(at(THEN - 5000))), "was to be used until"),
    (
        "base-unknown",
        |a| {
            let folder = a.path("blobs");
            fs::remove_dir_all(folder).unwrap();
            let mut carried = 0;
            a.forge_list("blobs.list", |text| {
                text.lines()
                    .map(|line| {
                        carried += 1;
                        format!("{} -\n", line.rsplit_once(' ').unwrap().0)
                    })
                    .collect()
            });
            a.forge(|m| {
                m.bases = vec![Digest::sha256(b"base")];
                (m.totals.carried, m.totals.carried_bytes) = (0, 0);
            });
        },
        "builds on a state that this gateway does not have",
    ),
];

#[test]
fn each_is_refused_with_its_reason_and_changes_nothing() {
    let mut names = BTreeMap::new();
    for (name, spoil, reason) in CASES {
        assert!(names.insert(name, ()).is_none(), "{name} twice");
        let attack = Attack::new();
        spoil(&attack);
        refused(name, &attack, reason);
    }
}

#[track_caller]
/// Imports a spoilt bundle, which is refused for this reason, and changes nothing.
pub fn refused(name: &str, attack: &Attack, reason: &str) {
    let gateway = &attack.scene.gateway;
    let before = everything(gateway);
    let error = match import(gateway, &attack.scene.stick()) {
        Ok(imported) => panic!("{name}: imported: {imported:?}"),
        Err(error) => error,
    };
    assert!(error.is_refusal(), "{name}: {error}");
    assert!(error.to_string().contains(reason), "{name}: expected {reason:?}: {error}");
    assert_eq!(error.to_string().lines().count(), 1, "{name}: {error}");
    assert_eq!(everything(gateway), before, "{name}: the store changed");
    // And as a person is told.
    let place = Place::new();
    let mut command = place.edge(&["bundle", "import", &attack.scene.stick().display().to_string()]);
    let done = Done::of(command.env("EDGE_STATE_DIR", &gateway.state_dir).output().unwrap());
    let said: Vec<&str> = done.err.lines().filter(|line| line.starts_with("edge: ")).collect();
    assert!(done.code == 3 && said.len() == 1 && said[0].contains(reason), "{name}: {done:?}");
    assert_eq!(everything(gateway), before, "{name}: the store changed by the command");
}

#[test]
fn the_good_bundle_that_they_spoil_is_imported() {
    let attack = Attack::new();
    import(&attack.scene.gateway, &attack.scene.stick()).unwrap();
    // What systems leave on sticks is no attack.
    let attack = Attack::new();
    fs::write(attack.path(".DS_Store"), "x").unwrap();
    fs::write(attack.path("blobs/sha256/._x"), "x").unwrap();
    import(&attack.scene.gateway, &attack.scene.stick()).unwrap();
}
