//! What a gateway believes in which order: links, numbers, keys that were dropped, clocks, roots, and whom a bundle is for.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use edge::bundle::{Identity, PAYLOAD_TYPE, keys};
use edge::sys::clock;
use edge::trust::{Draft, RoleName, SecretKey, read_root_file};
use serde_json::Value;

use crate::bundle::{Scene, THEN, at, everything, gateway, import, pin};
use crate::bundle_attacks::refused;
use crate::bundle_forge::{Attack, flip};
use crate::command::{Done, Place};

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

/// What a depot with a wrong clock, or a thief, says of time moves no clock, is bounded, and goes with its keys.
#[test]
fn a_date_far_ahead_is_refused_and_none_moves_the_clock() {
    let attack = Attack::new();
    let scene = &attack.scene;
    // A root without an end.
    attack.root(2, &[attack.key("bundle").public()], &["root-1", "root-2"]);
    let now = clock::machine().as_second();
    let (ahead, far) = (now + 300 * 86_400, now + 400 * 86_400);
    attack.forge(|m| m.created = at(far));
    refused("dated-far-ahead", &attack, "more than a year after");
    attack.forge(|m| m.created = at(ahead));
    import(&scene.gateway, &scene.stick()).unwrap();
    assert_eq!(scene.gateway.store.trust_value("time-floor").unwrap(), Some(ahead));
    assert!(
        clock::floor() <= clock::machine(),
        "the cloud's certificate is not judged by it: {}",
        clock::floor()
    );
    // An honest bundle with an end is late by it, until new keys vouch for what is said.
    let new = SecretKey::generate().unwrap();
    attack.forge(|m| (m.seq, m.created, m.not_after) = (2, at(THEN), Some(at(now))));
    refused("after-a-date-ahead", &attack, "was to be used until");
    attack.root(3, &[new.public()], &["root-1", "root-2"]);
    let manifest = serde_json::to_vec(&attack.manifest()).unwrap();
    attack.sign_with(&manifest, PAYLOAD_TYPE, &[&new]);
    import(&scene.gateway, &scene.stick()).unwrap();
    assert_eq!(scene.gateway.store.trust_value("time-floor").unwrap(), Some(THEN));
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

/// `store.db` breaks and is removed, or somebody clears `store/` for room.
#[test]
fn a_store_that_is_lost_lets_in_nothing_that_was_superseded() {
    let attack = Attack::new();
    let scene = &attack.scene;
    let stolen = scene.path("stolen");
    copy(&attack.folder, &stolen);
    let new = SecretKey::generate().unwrap();
    attack.root(2, &[new.public()], &["root-1", "root-2"]);
    let by_new = |seq: u64| {
        let mut manifest = attack.manifest();
        manifest.seq = seq;
        attack.sign_with(&serde_json::to_vec(&manifest).unwrap(), PAYLOAD_TYPE, &[&new]);
    };
    let place = Place { folder: tempfile::tempdir().unwrap() };
    place.write("etc/edge.toml", "");
    let text = |path: &Path| path.display().to_string();
    let (ours, bundle) = (text(&scene.path("keys/1.root.json")), text(&attack.folder));
    place.run(&["trust", "pin", &ours]).good();
    place.run(&["bundle", "import", &text(&stolen)]).good();
    by_new(3);
    place.run(&["bundle", "import", &bundle]).good();
    let seen = place.path("state/trust/seen.json");
    let version = || -> Value {
        serde_json::from_str(&place.run(&["trust", "show", "-o", "json"]).good().out).unwrap()
    };
    crate::bundle::make_keys(&scene.path("theirs"), 1, 1);
    for older in [false, true] {
        fs::remove_dir_all(place.path("state/store")).unwrap();
        if older {
            // An older release kept the roots alone.
            fs::remove_file(&seen).unwrap();
        }
        assert_eq!(version()["root"]["version"], 2, "{older}");
        place.run(&["trust", "pin", &text(&scene.path("theirs/1.root.json"))]).bad(3, "is pinned already");
        place.run(&["trust", "pin", &ours]).good();
        assert_eq!(version()["root"]["version"], 2, "{older}");
        place.run(&["bundle", "import", &text(&stolen)]).bad(3, "signed by 0 of the 1");
        if !older {
            by_new(2);
            place.run(&["bundle", "import", &bundle]).bad(3, "is not above 3");
        }
        // The newest comes once more.
        by_new(3);
        place.run(&["bundle", "import", &bundle]).good();
    }
    // Damaged, it says nothing of what was superseded; a store that knows writes it anew.
    fs::write(&seen, "{").unwrap();
    place.run(&["trust", "show"]).good();
    assert!(fs::read_to_string(&seen).unwrap().contains("\"main\":3"));
    fs::write(&seen, "{").unwrap();
    fs::remove_dir_all(place.path("state/store")).unwrap();
    place.run(&["trust", "show"]).bad(1, "seen.json`, the highest numbers of bundles, is damaged");
}

/// The clock of the machine stands ten years off, either way.
#[test]
fn ten_years_off_an_import_does_what_it_does_with_a_right_clock() {
    let now = clock::machine().as_second();
    for off in ["-10y", "+10y"] {
        let import = |attack: &Attack, floor: Option<i64>| {
            let place = Place { folder: tempfile::tempdir().unwrap() };
            place.write("etc/edge.toml", "");
            let root = attack.scene.path("keys/1.root.json").display().to_string();
            place.run(&["trust", "pin", &root]).good();
            let update = edge::store::TrustUpdate { time_floor: floor, ..Default::default() };
            crate::store::open(&place.path("state")).update_trust(update).unwrap();
            let trust = || {
                let store = crate::store::open(&place.path("state"));
                ["root-version", "time-floor", "seq:main"].map(|key| store.trust_value(key).unwrap())
            };
            let before = trust();
            let mut command = place.edge(&["bundle", "import", &attack.scene.stick().display().to_string()]);
            command.env("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1");
            command.env("FAKETIME", off).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            (Done::of(command.output().unwrap()), before, trust())
        };
        let refused = |attack: &Attack, floor: Option<i64>, why: &str| {
            let (done, before, after) = import(attack, floor);
            assert!(done.code == 3 && done.err.contains(why), "{off}: {done:?}");
            assert_eq!(before, after, "{off}: {why}");
        };
        let good = Attack::new();
        good.forge(|m| m.not_after = Some(at(now + 86_400)));
        let (done, _, after) = import(&good, None);
        assert_eq!((done.code, after), (0, [Some(1), Some(THEN), Some(1)]), "{off}: {done:?}");
        let late = Attack::new();
        late.forge(|m| m.not_after = Some(at(THEN + 500)));
        refused(&late, Some(THEN + 501), "was to be used until");
        refused(&Attack::new(), Some(THEN + 1_000_000_001), "the root of version 1 expired");
        // Without an end of the root's, and dated beyond what either clock lets in.
        let ahead = Attack::new();
        ahead.root(2, &[ahead.key("bundle").public()], &["root-1", "root-2"]);
        ahead.forge(|m| m.created = at(now + 12 * 366 * 86_400));
        refused(&ahead, None, "more than a year after");
    }
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
