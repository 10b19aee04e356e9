//! The store among damage, refusals and clocks: what is sound goes on, and what somebody relies on stays.

use edge::store::{
    Child, Error, Facts, GcSettings, Intake, Kind, NewChart, Owner, StateOf, StateRef, TrustUpdate,
    VerifySettings,
};
use edge::sys::digest::Digest;

use crate::store::open;

const REPO: &str = "docker.io/library/nginx";

/// Flips a bit of what lies there.
pub fn rot(folder: &std::path::Path, digest: &Digest) {
    let hex = digest.hex();
    let path = folder.join(format!("store/blobs/sha256/{}/{hex}", &hex[..2]));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_in_force_goes_on_however_damaged_and_only_what_is_new_must_be_here() {
    let folder = tempfile::tempdir().unwrap();
    let (store, owner) = (open(folder.path()), Owner::Mirror);
    let manifest = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        store.add_manifest(bytes, &digest, Facts { media_type: "m".into(), ..Facts::default() }).unwrap();
        digest
    };
    let blob = |bytes: &[u8]| store.add_blob(None, &Digest::sha256(bytes), bytes).unwrap().digest;
    let (one, two) = (manifest(b"one"), manifest(b"two"));
    let (package, provenance, pinned) = (blob(b"package"), blob(b"provenance"), blob(b"pinned"));
    let chart = |version: &str| NewChart {
        repository: String::new(),
        name: "app".into(),
        version: version.into(),
        digest: package.clone(),
        provenance: Some(provenance.clone()),
        created: 0,
        entry: "{}".into(),
    };
    let flip = |names: &[(&str, &Digest)], versions: &[&str], pins: &[&Digest]| {
        let named = |(name, digest): &(&str, &Digest)| StateRef {
            repository: REPO.into(),
            name: (*name).into(),
            digest: (*digest).clone(),
        };
        let state = StateOf {
            refs: names.iter().map(named).collect(),
            charts: versions.iter().map(|version| chart(version)).collect(),
            pins: pins.iter().copied().cloned().collect(),
            ..StateOf::default()
        };
        store.flip(&owner, state, TrustUpdate::default())
    };
    assert_eq!(flip(&[("1", &one)], &["1"], &[&pinned]).unwrap(), 1);
    for digest in [&one, &package, &provenance, &pinned] {
        rot(folder.path(), digest);
    }
    assert_eq!(store.verify(&VerifySettings::default(), |_| true).unwrap().damaged.len(), 4);
    assert_eq!(flip(&[("1", &one), ("2", &two)], &["1"], &[&pinned]).unwrap(), 2);
    assert_eq!(store.manifest(REPO, "2").unwrap().unwrap().blob.digest, two);
    assert!(store.manifest(REPO, "1").unwrap().is_none(), "it is not served");
    let state = store.state_of(&owner).unwrap();
    assert_eq!((state.refs.len(), state.pins), (2, vec![pinned.clone()]));
    assert_eq!(state.charts[0].provenance, Some(provenance.clone()));
    // Under another name, another version, or of another owner it is new.
    for refused in [
        flip(&[("3", &one)], &["1"], &[&pinned]),
        flip(&[("1", &one)], &["2"], &[&pinned]),
        flip(&[("1", &one)], &["1"], &[&package]),
    ] {
        assert!(matches!(refused, Err(Error::BlobUnknown(_))), "{refused:?}");
    }
    // What comes again is served at once.
    manifest(b"one");
    assert_eq!(store.manifest(REPO, "1").unwrap().unwrap().blob.digest, one);
}

fn in_quarantine(folder: &std::path::Path) -> usize {
    std::fs::read_dir(folder.join("store/quarantine")).unwrap().count()
}

#[test]
fn the_quarantine_is_emptied_of_what_is_here_again_or_not_needed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let blob = |bytes: &[u8]| store.add_blob(None, &Digest::sha256(bytes), bytes).unwrap().digest;
    let (again, needed, nobodys) = (blob(b"again"), blob(b"needed"), blob(b"nobody's"));
    store.set_pins("runtime", vec![again.clone(), needed.clone()]).unwrap();
    for digest in [&again, &needed, &nobodys] {
        rot(folder.path(), digest);
    }
    assert_eq!(store.verify(&VerifySettings::default(), |_| true).unwrap().damaged.len(), 3);
    std::fs::write(folder.path().join("store/quarantine/other"), b"x").unwrap();
    blob(b"again");
    let strict = GcSettings { grace: std::time::Duration::ZERO, ..GcSettings::default() };
    let kept = |aside: edge::store::Aside| (aside.kept, aside.kept_bytes, aside.freed, aside.freed_bytes);
    let young = store.plan_gc(&GcSettings::default()).unwrap();
    assert_eq!(kept(young.aside), (2, 6 + 8, 2, 5 + 1), "what came today may be named yet");
    drop(store);
    let store = open(folder.path());
    let planned = store.plan_gc(&strict).unwrap();
    assert_eq!(in_quarantine(folder.path()), 4, "it is only said");
    let done = store.collect(&strict).unwrap();
    assert_eq!((planned.aside, planned.bytes()), (done.aside, done.bytes()));
    assert_eq!(kept(done.aside), (1, 6, 3, 5 + 8 + 1));
    assert_eq!(in_quarantine(folder.path()), 1);
    assert_eq!(store.damaged().unwrap(), [needed]);
}

#[test]
fn what_was_set_aside_is_looked_at_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (digest, layer) = crate::store::image(&store, REPO, Some("1"), Owner::Push, b"layer");
    for damaged in [&digest, &layer] {
        let hex = damaged.hex();
        let path = folder.path().join(format!("store/blobs/sha256/{}/{hex}", &hex[..2]));
        let aside = folder.path().join(format!("store/quarantine/sha256-{hex}"));
        let sound = std::fs::read(&path).unwrap();
        rot(folder.path(), damaged);
        assert_eq!(
            store.verify(&VerifySettings::default(), |_| true).unwrap().damaged,
            std::slice::from_ref(damaged)
        );
        assert!(!store.take_back(damaged).unwrap(), "it is damaged");
        // A disk that gives other bytes for a while.
        std::fs::write(&aside, sound).unwrap();
        assert!(store.take_back(damaged).unwrap());
        assert!(path.exists() && !aside.exists());
        assert!(!store.take_back(damaged).unwrap(), "nobody waits for it");
    }
    assert_eq!(store.manifest(REPO, "1").unwrap().unwrap().blob.digest, digest);
    assert_eq!(store.blob(Some(REPO), &layer).unwrap().unwrap().read().unwrap(), b"layer");
    assert_eq!(store.damaged().unwrap(), []);
}

#[test]
fn only_what_the_disk_does_not_give_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digest = store.add_blob(None, &Digest::sha256(b"layer"), b"layer").unwrap().digest;
    let hex = digest.hex();
    let path = folder.path().join(format!("store/blobs/sha256/{}/{hex}", &hex[..2]));
    std::fs::remove_file(&path).unwrap();
    // Something in its way, which is no word on its bytes.
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let ended = store.verify(&VerifySettings::default(), |_| true).unwrap_err();
    assert!(ended.to_string().contains(hex), "{ended}");
    assert!(store.glance(&digest).unwrap().is_some(), "it was not looked at");
    // It opens and answers the first read with EIO, as a sector that is gone does.
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &path).unwrap();
    assert_eq!(store.verify(&VerifySettings::default(), |_| true).unwrap().damaged, [digest]);
}

fn linking(children: &[(&Digest, Kind)]) -> Facts {
    let child = |(digest, kind): &(&Digest, Kind)| Child { digest: (*digest).clone(), size: 1, kind: *kind };
    Facts { media_type: "m".into(), children: children.iter().map(child).collect(), ..Facts::default() }
}

fn land(intake: &Intake, bytes: &[u8], facts: Option<Facts>) -> Digest {
    let digest = Digest::sha256(bytes);
    let mut incoming = intake.begin(&digest, bytes.len() as u64).unwrap();
    incoming.write(bytes).unwrap();
    intake.land(vec![incoming.finish(facts).unwrap()]).unwrap();
    digest
}

#[test]
fn what_a_refused_import_brought_stays_where_another_transfer_relies_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let intake = store.intake().unwrap();
    let (shared, own) = (land(&intake, b"shared", None), land(&intake, b"own", None));
    let facts = linking(&[(&shared, Kind::Blob), (&own, Kind::Blob)]);
    let manifest = land(&intake, b"manifest", Some(facts));
    let asked = land(&intake, b"asked for", None);
    let came = vec![shared.clone(), own.clone(), manifest.clone(), asked.clone()];
    assert!(store.blob(None, &asked).unwrap().is_some());
    // Somebody else found one of them here, and will link to it.
    let mirror = store.hold();
    assert_eq!(intake.forget(came.clone()).unwrap(), 0);
    assert!(store.glance(&own).unwrap().is_some());
    store.add_manifest(b"theirs", &Digest::sha256(b"theirs"), linking(&[(&shared, Kind::Blob)])).unwrap();
    drop(mirror);
    assert_eq!(intake.forget(came.clone()).unwrap(), 1, "the manifest, and then what only it links to");
    assert_eq!(intake.forget(came.clone()).unwrap(), 1);
    assert_eq!(intake.forget(came).unwrap(), 0);
    let here = |digest: &Digest| store.glance(digest).unwrap().is_some();
    assert_eq!((here(&manifest), here(&own), here(&shared)), (false, false, true));
    assert!(here(&asked), "whoever asked for it names it next");
}

#[test]
fn no_new_name_leads_to_an_image_without_its_layers() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let manifest = |bytes: &[u8], children: &[(&Digest, Kind)]| {
        let digest = Digest::sha256(bytes);
        store.add_manifest(bytes, &digest, linking(children)).unwrap();
        digest
    };
    let flip = |name: &str, digest: &Digest, whole: &[&Digest]| {
        let refs = vec![StateRef { repository: REPO.into(), name: name.into(), digest: digest.clone() }];
        let whole = whole.iter().copied().cloned().collect();
        store.flip(&Owner::Mirror, StateOf { refs, whole, ..StateOf::default() }, TrustUpdate::default())
    };
    let layer = Digest::sha256(b"layer");
    let image = manifest(b"image", &[(&layer, Kind::Blob)]);
    let refused = flip("1", &image, &[]);
    assert!(matches!(&refused, Err(Error::BlobUnknown(absent)) if *absent == layer), "{refused:?}");
    // An index may lack images, and one that is here may lack layers where nobody asked for that platform.
    let elsewhere = Digest::sha256(b"another platform's");
    let index = manifest(b"index", &[(&image, Kind::Manifest), (&elsewhere, Kind::Manifest)]);
    flip("1", &index, &[&index]).unwrap();
    assert!(matches!(flip("2", &index, &[&index, &image]), Err(Error::BlobUnknown(_))));
    assert!(matches!(flip("2", &index, &[&elsewhere]), Err(Error::BlobUnknown(_))));
    store.add_blob(None, &layer, b"layer").unwrap();
    flip("2", &index, &[&index, &image]).unwrap();
    flip("3", &image, &[]).unwrap();
}

/// Runs a test of this file that is ignored in a process of its own: what it changes is the process's.
fn apart(test: &str, folder: &std::path::Path) {
    let done = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("store_damage::{test}"), "--ignored", "--nocapture"])
        .env("EDGE_TEST_FOLDER", folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[test]
fn a_clock_behind_the_floor_makes_no_file_old() {
    let folder = tempfile::tempdir().unwrap();
    apart("child_behind_the_floor", folder.path());
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn child_behind_the_floor() {
    let Ok(folder) = std::env::var("EDGE_TEST_FOLDER") else { return };
    let folder = std::path::Path::new(&folder);
    let store = open(folder);
    let (layer, fetched) = (Digest::sha256(b"layer"), Digest::sha256(b"fetched"));
    let intake = store.intake().unwrap();
    let mut incoming = intake.begin(&layer, 5).unwrap();
    incoming.write(b"layer").unwrap();
    let landing = incoming.finish(None).unwrap();
    let mut half = store.fetch_upload(&fetched, 7).unwrap();
    half.write(b"fetc").unwrap();
    drop(half);
    // The cloud said once that it is much later than the machine thinks.
    let day = 24 * 3600;
    let later = edge::sys::clock::machine().as_second() + 30 * day;
    edge::sys::clock::raise_floor(jiff::Timestamp::from_second(later).unwrap());
    assert_eq!(store.collect(&GcSettings::default()).unwrap().uploads, 0);
    assert_eq!(store.left_upload(&fetched).unwrap().unwrap().offset(), 4);
    // And where the clock was set right while the import waits, its files lie in 1970.
    let uploads = std::fs::read_dir(folder.join("store/uploads")).unwrap().flatten();
    for entry in uploads {
        let file = std::fs::File::options().write(true).open(entry.path()).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    assert_eq!(store.collect(&GcSettings::default()).unwrap().uploads, 1, "the fetch alone");
    intake.land(vec![landing]).unwrap();
    assert_eq!(store.blob(None, &layer).unwrap().unwrap().read().unwrap(), b"layer");
}

#[test]
fn a_clock_that_was_set_ahead_makes_nothing_old() {
    let folder = tempfile::tempdir().unwrap();
    let (fetched, layer) = (Digest::sha256(b"fetched"), Digest::sha256(b"layer"));
    let store = open(folder.path());
    drop(store.fetch_upload(&fetched, 7).unwrap());
    store.add_blob(None, &layer, b"layer").unwrap();
    store.collect(&GcSettings::default()).unwrap();
    drop(store);
    // As if it had been a month earlier until now: whatever bears a time of that clock, and the clock itself.
    let month = 30 * 24 * 3600;
    let db = rusqlite::Connection::open(folder.path().join("store/store.db")).unwrap();
    db.execute("UPDATE blob SET stored = stored - ?1, used = used - ?1", [month]).unwrap();
    let noted: String =
        db.query_row("SELECT value FROM note WHERE key = 'lived'", [], |row| row.get(0)).unwrap();
    let mut noted: serde_json::Value = serde_json::from_str(&noted).unwrap();
    for clock in ["wall", "machine"] {
        noted[clock]["last"] = (noted[clock]["last"].as_i64().unwrap() - month).into();
    }
    db.execute("UPDATE note SET value = ?1 WHERE key = 'lived'", [noted.to_string()]).unwrap();
    drop(db);
    for entry in std::fs::read_dir(folder.path().join("store/uploads")).unwrap().flatten() {
        let file = std::fs::File::options().write(true).open(entry.path()).unwrap();
        let earlier = std::time::Duration::from_secs(month.unsigned_abs());
        file.set_modified(file.metadata().unwrap().modified().unwrap() - earlier).unwrap();
    }
    // More than once: what was seen the last time is not what has passed since.
    for _ in 0..3 {
        let store = open(folder.path());
        assert!(store.plan_gc(&GcSettings::default()).unwrap().remove.is_empty());
        let done = store.collect(&GcSettings::default()).unwrap();
        assert_eq!((done.remove.len(), done.uploads, done.young), (0, 0, 1), "{done:?}");
    }
    assert!(open(folder.path()).left_upload(&fetched).unwrap().is_some());
}

#[test]
fn a_fetch_that_cannot_be_read_again_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let digest = Digest::sha256(b"fetched");
    drop(open(folder.path()).fetch_upload(&digest, 7).unwrap());
    let uploads = folder.path().join("store/uploads");
    let path = std::fs::read_dir(&uploads).unwrap().next().unwrap().unwrap().path();
    // One that opens and answers the first read with EIO, as a sector that is gone does; and one that does not open.
    for (target, why) in
        [("/proc/self/mem", nix::errno::Errno::EIO), (path.to_str().unwrap(), nix::errno::Errno::ELOOP)]
    {
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(target, &path).unwrap();
        let read = std::fs::read(&path).unwrap_err();
        assert_eq!(read.raw_os_error(), Some(why as i32), "{target}");
        let store = open(folder.path());
        let mut upload = store.fetch_upload(&digest, 7).unwrap();
        assert_eq!(upload.offset(), 0, "{target}");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
        upload.write(b"fetched").unwrap();
        drop(upload);
    }
    let store = open(folder.path());
    store.fetch_upload(&digest, 7).unwrap().commit(&digest, None).unwrap();
    assert_eq!(store.blob(None, &digest).unwrap().unwrap().read().unwrap(), b"fetched");
}
