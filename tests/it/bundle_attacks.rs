//! One case for each way to attack a gateway with a stick: refused with a reason, and the store as it was before.
//!
//! A case takes a good bundle and spoils one thing. What is signed is signed anew where the attack is one of a depot
//! whose bundle key was stolen; else nothing but the stick is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge::bundle::{Identity, Manifest, PAYLOAD_TYPE, Plan, keys};
use edge::sys::digest::Digest;
use edge::trust::{Draft, Envelope, PublicKey, RoleName, SecretKey, read_root_file};
use serde_json::{Value, json};

use crate::bundle::{Scene, THEN, at, everything, gateway, import, pin, put_image};
use crate::command::{Done, Place};

/// A stick with a good bundle, ready to be spoilt.
struct Attack {
    scene: Scene,
    folder: PathBuf,
}

impl Attack {
    fn new() -> Self {
        let scene = Scene::new();
        put_image(&scene.depot, "q.io/app", Some("1"), &[b'x'; 700], "arm64");
        put_image(&scene.depot, "q.io/other", Some("1"), b"another", "arm64");
        let folder = scene.create(&Plan { part_size: 512, ..scene.plan() }).unwrap().folder;
        Self { scene, folder }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.join(below)
    }

    fn key(&self, name: &str) -> SecretKey {
        SecretKey::read(&self.scene.path(&format!("keys/{name}.key")), None).unwrap()
    }

    fn manifest(&self) -> Manifest {
        let envelope: Value = serde_json::from_slice(&fs::read(self.path("manifest.dsse")).unwrap()).unwrap();
        let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
        serde_json::from_slice(&payload).unwrap()
    }

    /// Signs a payload as a bundle's manifest, with the real bundle key.
    fn sign(&self, payload: &[u8]) {
        self.sign_with(payload, PAYLOAD_TYPE, &[&self.key("bundle")]);
    }

    fn sign_with(&self, payload: &[u8], kind: &str, keys: &[&SecretKey]) {
        let mut envelope = Envelope::unsigned(kind, payload);
        for key in keys {
            envelope.sign(key).unwrap();
        }
        fs::write(self.path("manifest.dsse"), envelope.to_bytes()).unwrap();
    }

    /// Changes the manifest, and signs it as a stolen key would.
    fn forge(&self, change: impl FnOnce(&mut Manifest)) {
        let mut manifest = self.manifest();
        change(&mut manifest);
        self.sign(&serde_json::to_vec(&manifest).unwrap());
    }

    /// Replaces a list, and signs its new digest.
    fn forge_list(&self, file: &str, change: impl FnOnce(String) -> String) {
        let text = change(fs::read_to_string(self.path(file)).unwrap());
        fs::write(self.path(file), &text).unwrap();
        self.forge(|manifest| {
            let list = if file == "blobs.list" { &mut manifest.blobs } else { &mut manifest.refs };
            (list.digest, list.size) = (Digest::sha256(text.as_bytes()), text.len() as u64);
            list.lines = text.matches('\n').count() as u64;
            manifest.snapshot = manifest.refs.digest.clone();
        });
    }

    fn edit_envelope(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("manifest.dsse");
        let mut envelope: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut envelope);
        fs::write(path, envelope.to_string()).unwrap();
    }

    /// The file of some blob, one of one part.
    fn blob(&self) -> PathBuf {
        let folder = self.path("blobs/sha256");
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).collect();
        files.retain(|path| path.extension().is_none());
        files.sort();
        files.pop().unwrap()
    }

    /// The part of a blob that lies in two.
    fn part(&self) -> PathBuf {
        let folder = self.path("blobs/sha256");
        let mut files = fs::read_dir(folder).unwrap().flatten().map(|e| e.path());
        files.find(|path| path.extension().is_some_and(|e| e == "p0001")).unwrap()
    }

    /// A root that follows the first one, with these bundle keys, signed by these root keys.
    fn root(&self, version: u64, bundle: &[PublicKey], signers: &[&str]) {
        let chain = keys::read_chain(&self.scene.path("keys")).unwrap();
        let root: Vec<PublicKey> = chain.current().keys(RoleName::Root).into_values().collect();
        let new = edge::trust::Root::new(version, at(THEN), None, (&root, 2), (bundle, 1)).unwrap();
        let mut draft = Draft::new(new);
        for name in signers {
            draft.envelope_mut().sign(&self.key(name)).unwrap();
        }
        fs::write(self.path(&format!("trust/{version}.root.json")), draft.to_bytes()).unwrap();
    }
}

/// What an attack is called, what it does, and a word of the reason.
type Case = (&'static str, fn(&Attack), &'static str);

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::write(path, bytes).unwrap();
}

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
fn refused(name: &str, attack: &Attack, reason: &str) {
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

#[test]
fn a_link_on_the_stick_has_root_write_nowhere_else() {
    let attack = Attack::new();
    let elsewhere = attack.scene.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, attack.scene.path("stick/edge-receipts")).unwrap();
    let imported = import(&attack.scene.gateway, &attack.scene.stick()).unwrap();
    assert!(imported.receipt.is_none() && imported.remarks[0].contains("not a plain file"), "{imported:?}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    // A link where the receipt itself or its beginnings would lie.
    fs::remove_file(attack.scene.path("stick/edge-receipts")).unwrap();
    fs::create_dir(attack.scene.path("stick/edge-receipts")).unwrap();
    let name = attack.scene.gateway.name();
    let target = elsewhere.join("target");
    for end in ["main.dsse", "main.dsse.part", "main.have", "main.have.part"] {
        symlink(&target, attack.scene.path(&format!("stick/edge-receipts/{name}.{end}"))).unwrap();
    }
    let imported = import(&attack.scene.gateway, &attack.scene.stick()).unwrap();
    assert!(imported.receipt.is_some() && !target.exists(), "{imported:?}");
    // And where all bundles would lie.
    fs::rename(attack.scene.path("stick/edge-bundle"), elsewhere.join("edge-bundle")).unwrap();
    symlink(elsewhere.join("edge-bundle"), attack.scene.path("stick/edge-bundle")).unwrap();
    assert!(import(&attack.scene.gateway, &attack.scene.stick()).unwrap_err().is_refusal());
    assert!(attack.scene.create(&attack.scene.plan()).is_err());
}

#[test]
fn an_older_number_is_refused_and_so_is_another_bundle_of_the_same() {
    let attack = Attack::new();
    let kept = attack.scene.path("kept");
    copy(&attack.folder, &kept);
    attack.scene.make();
    import(&attack.scene.gateway, &attack.scene.stick()).unwrap();
    let before = everything(&attack.scene.gateway);
    let old = import(&attack.scene.gateway, &kept).unwrap_err();
    assert!(
        old.is_refusal() && old.to_string().contains("sequence 1 of stream `main` is not above 2"),
        "{old}"
    );
    fs::remove_dir_all(&attack.folder).unwrap();
    copy(&kept, &attack.folder);
    attack.forge(|m| m.seq = 2);
    let other = import(&attack.scene.gateway, &attack.folder).unwrap_err();
    assert!(other.is_refusal() && other.to_string().contains("is not above 2"), "{other}");
    assert_eq!(everything(&attack.scene.gateway), before);
}

#[test]
fn a_rotation_drops_a_stolen_key_with_what_it_staged_and_begins_anew() {
    let attack = Attack::new();
    let scene = &attack.scene;
    // The thief goes as far as it can.
    attack.forge(|m| m.seq = 10_000);
    import(&scene.gateway, &scene.stick()).unwrap();
    let staged = scene.path("staged");
    attack.forge(|m| m.seq = 20_000);
    copy(&attack.folder, &staged);
    // The depot gets a new bundle key, by two of three root keys.
    let folder = scene.path("keys");
    fs::remove_file(folder.join("bundle.key")).unwrap();
    let new = SecretKey::generate().unwrap();
    new.write(&folder.join("bundle-2.key"), None).unwrap();
    let rotation = keys::Rotation { bundle: vec![new.public()], ..keys::Rotation::default() };
    let mut draft = keys::next_root(&keys::read_chain(&folder).unwrap(), &rotation, at(THEN)).unwrap();
    for name in ["root-1", "root-3"] {
        draft.envelope_mut().sign(&attack.key(name)).unwrap();
    }
    fs::write(folder.join("2.root.json"), draft.to_bytes()).unwrap();
    fs::remove_dir_all(scene.stick().join("edge-bundle")).unwrap();
    let made = scene.make();
    assert_eq!(made.seq, 2);
    let imported = import(&scene.gateway, &scene.stick()).unwrap();
    assert_eq!((imported.seq, scene.gateway.store.trust_value("root-version").unwrap()), (2, Some(2)));
    assert_eq!(scene.gateway.store.trust_value("seq:main").unwrap(), Some(2));
    let before = everything(&scene.gateway);
    let refused = import(&scene.gateway, &staged).unwrap_err();
    assert!(refused.is_refusal() && refused.to_string().contains("signed by 0 of the 1"), "{refused}");
    assert_eq!(everything(&scene.gateway), before);
}

#[test]
fn the_clock_is_no_witness() {
    // An expired root and an expired bundle stay expired with the clock set back ten years, and a clock that is ten
    // years ahead neither lets a bundle expire nor moves the floor.
    let attack = Attack::new();
    attack.forge(|m| m.not_after = Some(at(THEN + 500)));
    import(&attack.scene.gateway, &attack.scene.stick()).unwrap();
    assert_eq!(attack.scene.gateway.store.trust_value("time-floor").unwrap(), Some(THEN));
    let late = Attack::new();
    late.forge(|m| m.not_after = Some(at(THEN + 500)));
    let update = edge::store::TrustUpdate { time_floor: Some(THEN + 501), ..Default::default() };
    late.scene.gateway.store.update_trust(update).unwrap();
    refused("expired-bundle", &late, "was to be used until");
    let expired = Attack::new();
    let update = edge::store::TrustUpdate { time_floor: Some(THEN + 1_000_000_001), ..Default::default() };
    expired.scene.gateway.store.update_trust(update).unwrap();
    refused("expired-root", &expired, "the root of version 1 expired");
}

#[test]
fn another_root_cannot_be_pinned_over_the_first() {
    let scene = Scene::new();
    crate::bundle::make_keys(&scene.path("theirs"), 1, 1);
    let place = Place { folder: tempfile::tempdir().unwrap() };
    place.write("etc/edge.toml", "");
    let ours = scene.path("keys/1.root.json").display().to_string();
    let theirs = scene.path("theirs/1.root.json").display().to_string();
    place.run(&["trust", "pin", &ours]).good();
    place.run(&["trust", "pin", &ours]).good();
    place.run(&["trust", "pin", &theirs]).bad(3, "root version 1 is pinned already");
    let shown = place.run(&["trust", "show", "-o", "json"]).good().out;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let chain = Draft::read(&read_root_file(Path::new(&ours)).unwrap(), "1").unwrap();
    let key = chain.root.keys(RoleName::Bundle).into_keys().next().unwrap();
    assert_eq!(shown["root"]["bundle"]["keys"][0], key.as_str());
}

/// The exit code, the one line and the unchanged store, as a user sees them.
#[test]
fn the_command_ends_with_3_and_one_line() {
    let attack = Attack::new();
    flip(&attack.blob());
    let place = Place { folder: tempfile::tempdir().unwrap() };
    place.write("etc/edge.toml", "");
    let stick = attack.scene.stick().display().to_string();
    place.run(&["bundle", "import", &stick]).bad(2, "no root is pinned");
    place.run(&["trust", "pin", &attack.scene.path("keys/1.root.json").display().to_string()]).good();
    for command in ["import", "verify"] {
        let done = Done::of(place.edge(&["bundle", command, &stick]).output().unwrap());
        assert_eq!(done.code, 3, "{done:?}");
        let last = done.err.lines().last().unwrap();
        assert!(last.starts_with("edge: ") && last.contains("is not what was signed"), "{done:?}");
    }
    let listed = place.run(&["bundle", "history", "-o", "json"]).good().out;
    assert_eq!(listed.trim(), "[]");
    flip(&attack.blob());
    place.run(&["bundle", "verify", &stick]).good();
    place.run(&["bundle", "import", &stick]).good();
}

#[test]
fn who_is_named_may_import() {
    let attack = Attack::new();
    attack.forge(|m| m.audience.gateways = vec!["ship-7".into()]);
    let me = Identity { gateway: Some("ship-7".into()), fleet: None };
    let named = gateway(&attack.scene.path("named"), me);
    pin(&named, &attack.scene.path("keys/1.root.json"));
    import(&named, &attack.scene.stick()).unwrap();
    assert!(attack.scene.stick().join("edge-receipts/ship-7.main.dsse").exists());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
