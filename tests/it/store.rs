//! The store through its public door: blobs, uploads, refs, generations, collection, verification.

use std::time::Duration;

use edge::store::{
    Absent, Child, Error, Facts, GcSettings, Kind, NewChart, NewManifest, Owner, Replace, Settings, StateOf,
    StateRef, Store, TrustUpdate, VerifySettings,
};
use edge::sys::digest::{Algorithm, Digest};

const REPO: &str = "docker.io/library/nginx";

/// A store in a folder of its own.
pub fn open(folder: &std::path::Path) -> Store {
    Store::open(Settings { folder: folder.join("store"), reserve: 1 << 20 }).unwrap()
}

/// Stores a manifest with one layer of `content`, under `tag` or its digest, and says both digests.
pub fn image(
    store: &Store,
    repository: &str,
    tag: Option<&str>,
    owner: Owner,
    content: &[u8],
) -> (Digest, Digest) {
    let layer = Digest::sha256(content);
    store.add_blob(Some(repository), &layer, content).unwrap();
    let bytes = format!("manifest of {layer}").into_bytes();
    let digest = Digest::sha256(&bytes);
    let children = vec![Child { digest: layer.clone(), size: content.len() as u64, kind: Kind::Blob }];
    let facts = Facts { media_type: "m".into(), children, ..Facts::default() };
    store
        .put_manifest(NewManifest {
            repository,
            tag,
            bytes: &bytes,
            digest: &digest,
            facts,
            owner,
            absent: Absent::Refused,
            asked: false,
        })
        .unwrap();
    (digest, layer)
}

#[test]
fn an_upload_goes_on_where_an_earlier_process_left_it() {
    let folder = tempfile::tempdir().unwrap();
    let digest = Digest::of(Algorithm::Sha512, b"hello world");
    let id = {
        let store = open(folder.path());
        let mut upload = store.begin_upload(Algorithm::Sha512, 11).unwrap();
        upload.write(b"hello ").unwrap();
        assert!(matches!(store.resume_upload(upload.id()), Err(Error::UploadBusy(_))));
        upload.id()
    };
    let store = open(folder.path());
    let mut upload = store.resume_upload(id).unwrap();
    assert_eq!(upload.offset(), 6);
    upload.write(b"world").unwrap();
    assert!(store.blob(None, &digest).unwrap().is_none());
    upload.commit(&digest, Some(REPO)).unwrap();
    assert_eq!(store.blob(Some(REPO), &digest).unwrap().unwrap().read().unwrap(), b"hello world");
    assert!(store.blob(Some("other"), &digest).unwrap().is_none());
    assert!(matches!(store.resume_upload(id), Err(Error::UploadUnknown(_))));
}

#[test]
fn bytes_that_are_not_what_was_announced_never_show() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let announced = Digest::sha256(b"one");
    let refused = store.add_blob(None, &announced, b"two").unwrap_err();
    assert!(matches!(refused, Error::DigestMismatch { .. }), "{refused}");
    assert!(store.blob(None, &announced).unwrap().is_none());
    assert_eq!(std::fs::read_dir(folder.path().join("store/uploads")).unwrap().count(), 0);
}

#[test]
fn no_upload_eats_into_the_reserve() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(Settings { folder: folder.path().join("store"), reserve: u64::MAX / 2 }).unwrap();
    let full = store.add_blob(None, &Digest::sha256(b"x"), b"x").unwrap_err();
    assert!(full.is_full(), "{full}");
}

#[test]
fn the_first_owner_in_the_order_is_served_and_cannot_be_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (pushed, _) = image(&store, REPO, Some("1"), Owner::Push, b"pushed");
    assert_eq!(store.manifest(REPO, "1").unwrap().unwrap().blob.digest, pushed);
    let facts = Facts { media_type: "m".into(), ..Facts::default() };
    let signed = Digest::sha256(b"signed");
    store.add_manifest(b"signed", &signed, facts.clone()).unwrap();
    let bundle = Owner::Bundle("main".into());
    let refs = vec![StateRef { repository: REPO.into(), name: "1".into(), digest: signed.clone() }];
    store.flip(&bundle, StateOf { refs, ..StateOf::default() }, TrustUpdate::default()).unwrap();
    assert_eq!(store.manifest(REPO, "1").unwrap().unwrap().owner, Some(bundle));
    let digest = Digest::sha256(b"other");
    let again = store.put_manifest(NewManifest {
        repository: REPO,
        tag: Some("1"),
        bytes: b"other",
        digest: &digest,
        facts,
        owner: Owner::Push,
        absent: Absent::Refused,
        asked: false,
    });
    assert!(matches!(again, Err(Error::Owned { .. })), "{again:?}");
    assert!(matches!(store.remove_tag(REPO, "1", &Owner::Push), Err(Error::Owned { .. })));
    assert!(matches!(store.remove_manifest(REPO, &signed, &Owner::Push), Err(Error::Owned { .. })));
}

#[test]
fn generations_flip_whole_and_roll_back_and_three_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let owner = Owner::Bundle("main".into());
    let mut digests = Vec::new();
    for n in 1..=5_u64 {
        let bytes = format!("manifest {n}").into_bytes();
        let digest = Digest::sha256(&bytes);
        store.add_manifest(&bytes, &digest, Facts { media_type: "m".into(), ..Facts::default() }).unwrap();
        let refs = vec![StateRef { repository: REPO.into(), name: "latest".into(), digest: digest.clone() }];
        let trust =
            TrustUpdate { seq: Some(("main".into(), n)), time_floor: Some(100), ..TrustUpdate::default() };
        let state = StateOf { refs, note: format!("main-{n}"), ..StateOf::default() };
        assert_eq!(store.flip(&owner, state, trust).unwrap(), n);
        digests.push(digest);
    }
    let latest = || store.manifest(REPO, "latest").unwrap().unwrap().blob.digest;
    assert_eq!(latest(), digests[4]);
    store.roll_back(&owner, 3).unwrap();
    assert_eq!(latest(), digests[2]);
    assert!(matches!(store.roll_back(&owner, 2), Err(Error::GenerationUnknown { .. })));
    let kept: Vec<(u64, bool)> =
        store.generations(&owner).unwrap().iter().map(|g| (g.number, g.current)).collect();
    assert_eq!(kept, [(5, false), (4, false), (3, true)]);

    let stale = TrustUpdate { seq: Some(("main".into(), 5)), ..TrustUpdate::default() };
    let refused = store.flip(&owner, StateOf::default(), stale).unwrap_err();
    assert!(matches!(refused, Error::Rollback { highest: 5, .. }), "{refused}");
    assert_eq!(latest(), digests[2], "a refused flip changes nothing");
    store.update_trust(TrustUpdate { time_floor: Some(50), ..TrustUpdate::default() }).unwrap();
    assert_eq!(store.trust_value("time-floor").unwrap(), Some(100), "the floor never sinks");

    let removed =
        store.collect(&GcSettings { grace: Duration::ZERO, ..GcSettings::default() }).unwrap().remove;
    assert_eq!(removed.len(), 2, "two generations were forgotten: {removed:?}");
    for digest in &digests[2..] {
        assert!(store.blob(None, digest).unwrap().is_some(), "a kept generation needs {digest}");
    }
}

#[test]
fn after_a_reset_the_highest_number_comes_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let seq = |n| TrustUpdate { seq: Some(("main".into(), n)), ..TrustUpdate::default() };
    store.update_trust(seq(5)).unwrap();
    assert!(matches!(store.update_trust(seq(5)), Err(Error::Rollback { .. })), "nothing came with it");
    let owner = Owner::Bundle("main".into());
    for (n, good) in [(4, false), (5, true), (5, false), (6, true)] {
        let flipped = store.flip(&owner, StateOf::default(), seq(n));
        assert_eq!(flipped.is_ok(), good, "{n}: {flipped:?}");
    }
    assert_eq!(store.trust_value("seq:main").unwrap(), Some(6));
}

#[test]
fn a_flip_that_names_what_is_not_here_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let refs =
        vec![StateRef { repository: REPO.into(), name: "1".into(), digest: Digest::sha256(b"nowhere") }];
    let trust = TrustUpdate { seq: Some(("s".into(), 7)), ..TrustUpdate::default() };
    let owner = Owner::Bundle("s".into());
    let refused = store.flip(&owner, StateOf { refs, ..StateOf::default() }, trust).unwrap_err();
    assert!(matches!(refused, Error::BlobUnknown(_)), "{refused}");
    assert_eq!(store.trust_value("seq:s").unwrap(), None);
    assert!(store.generations(&owner).unwrap().is_empty());
}

/// Opens the store again, so that nothing counts as used by this process, and makes all that is in it old.
fn aged(folder: &std::path::Path) -> Store {
    let db = rusqlite::Connection::open(folder.join("store/store.db")).unwrap();
    db.execute("UPDATE blob SET stored = stored - 100000, used = used - 100000 WHERE state = 1", []).unwrap();
    drop(db);
    open(folder)
}

#[test]
fn collection_keeps_what_is_needed_and_removes_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (kept, layer) = image(&store, REPO, Some("kept"), Owner::Push, b"kept");
    let (gone, garbage) = image(&store, REPO, Some("gone"), Owner::Push, b"gone");
    let (pinned, pinned_layer) = image(&store, REPO, Some("pinned"), Owner::Push, b"pinned");
    store.set_pins("runtime", vec![pinned.clone()]).unwrap();
    store.remove_tag(REPO, "gone", &Owner::Push).unwrap();
    store.remove_tag(REPO, "pinned", &Owner::Push).unwrap();
    let plan = store.plan_gc(&GcSettings::default()).unwrap();
    assert!(plan.remove.is_empty(), "all of it is young");
    let size = |digest: &Digest| store.blob(None, digest).unwrap().unwrap().size;
    assert_eq!((plan.young, plan.young_bytes), (2, size(&gone) + size(&garbage)));
    drop(store);

    let store = aged(folder.path());
    let fresh = Digest::sha256(b"fresh");
    store.add_blob(None, &fresh, b"fresh").unwrap();
    let plan = store.plan_gc(&GcSettings::default()).unwrap();
    let done = store.collect(&GcSettings::default()).unwrap();
    assert_eq!(plan.remove, done.remove, "the dry run says what happens");
    let removed: Vec<&Digest> = done.remove.iter().map(|(digest, _)| digest).collect();
    assert_eq!(removed.len(), 2);
    assert_eq!((done.young, done.young_bytes), (1, b"fresh".len() as u64));
    for digest in [&gone, &garbage] {
        assert!(removed.contains(&digest));
        assert!(store.blob(None, digest).unwrap().is_none());
        let hex = digest.hex();
        assert!(!folder.path().join(format!("store/blobs/sha256/{}/{hex}", &hex[..2])).exists());
    }
    for digest in [&kept, &layer, &pinned, &pinned_layer, &fresh] {
        assert!(store.blob(None, digest).unwrap().is_some());
    }
}

#[test]
fn a_layer_that_another_image_shares_and_a_referrer_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (kept, shared) = image(&store, REPO, Some("a"), Owner::Push, b"shared");
    image(&store, "quay.io/other/image", Some("b"), Owner::Push, b"shared");
    store.remove_tag("quay.io/other/image", "b", &Owner::Push).unwrap();
    let facts = Facts { media_type: "m".into(), subject: Some((kept, 1)), ..Facts::default() };
    let signature = Digest::sha256(b"signature");
    store.add_manifest(b"signature", &signature, facts).unwrap();
    drop(store);
    let store = aged(folder.path());
    store.collect(&GcSettings::default()).unwrap();
    assert!(store.blob(None, &shared).unwrap().is_some());
    assert!(store.blob(None, &signature).unwrap().is_some());
}

#[test]
fn only_pull_through_is_evicted_and_the_least_recently_used_first() {
    // A limit holds for what came today, too.
    for reopen in [aged, open] {
        evicts(reopen);
    }
}

fn evicts(reopen: fn(&std::path::Path) -> Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let big = |n: u8| vec![n; 1000];
    let (pushed, _) = image(&store, REPO, Some("pushed"), Owner::Push, &big(0));
    let (old, _) = image(&store, REPO, Some("old"), Owner::PullThrough, &big(1));
    let (new, _) = image(&store, REPO, Some("new"), Owner::PullThrough, &big(2));
    drop(store);
    let db = rusqlite::Connection::open(folder.path().join("store/store.db")).unwrap();
    db.execute("UPDATE ref SET used = used - 5000 WHERE name = 'old'", []).unwrap();
    drop(db);
    let store = reopen(folder.path());
    let limit = GcSettings { pull_through_limit: Some(1500), ..GcSettings::default() };
    store.add_blob(None, &Digest::sha256(b"fresh"), b"fresh").unwrap();
    let done = store.collect(&limit).unwrap();
    assert_eq!(done.evict, [format!("{REPO}:old")]);
    assert_eq!((done.young, done.young_bytes), (1, 5), "what fits is needed, however young");
    assert!(store.blob(None, &old).unwrap().is_none());
    assert!(store.blob(None, &new).unwrap().is_some());
    assert!(store.blob(None, &pushed).unwrap().is_some());
    assert_eq!(store.tags(REPO, "", 10).unwrap().unwrap(), ["new", "pushed"]);
}

#[test]
fn a_hold_keeps_what_came_after_it_however_old_it_gets() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digest = Digest::sha256(b"imported");
    let hold = store.hold();
    store.add_blob(None, &digest, b"imported").unwrap();
    let strict = GcSettings { grace: Duration::ZERO, ..GcSettings::default() };
    store.collect(&strict).unwrap();
    assert!(store.blob(None, &digest).unwrap().is_some());
    drop(hold);
    store.collect(&strict).unwrap();
    assert!(store.blob(None, &digest).unwrap().is_none());
}

#[test]
fn what_rots_is_set_aside_and_a_push_brings_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (_, layer) = image(&store, REPO, Some("1"), Owner::Push, b"layer");
    let path = folder.path().join(format!("store/blobs/sha256/{}/{}", &layer.hex()[..2], layer.hex()));
    std::fs::write(&path, b"Layer").unwrap();
    let report = store.verify(&VerifySettings::default(), |_| true).unwrap();
    assert_eq!((report.blobs, &report.damaged[..]), (2, &[layer.clone()][..]));
    assert!(store.blob(None, &layer).unwrap().is_none());
    assert!(!path.exists());
    store.add_blob(Some(REPO), &layer, b"layer").unwrap();
    assert_eq!(store.blob(Some(REPO), &layer).unwrap().unwrap().read().unwrap(), b"layer");
    assert!(store.verify(&VerifySettings::default(), |_| true).unwrap().damaged.is_empty());
}

#[test]
fn a_chart_version_is_replaced_only_when_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let add = |bytes: &[u8], replace| {
        let digest = Digest::sha256(bytes);
        store.add_blob(None, &digest, bytes).unwrap();
        let chart = NewChart {
            repository: String::new(),
            name: "my-app".into(),
            version: "1.0-rc1".into(),
            digest,
            provenance: None,
            created: 0,
            entry: "{}".into(),
        };
        store.put_chart(chart, &Owner::Push, replace)
    };
    add(b"one", Replace::Never).unwrap();
    assert!(matches!(add(b"two", Replace::Never), Err(Error::ChartExists { .. })));
    add(b"two", Replace::Always).unwrap();
    let chart = store.chart_by_file("", "my-app-1.0-rc1").unwrap().unwrap();
    assert_eq!(chart.digest, Digest::sha256(b"two"));
    assert!(store.remove_chart("", "my-app", "1.0-rc1", &Owner::Push).unwrap());
    assert!(store.charts("", None).unwrap().is_empty());
}
