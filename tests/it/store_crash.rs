//! kill -9 at every sync and rename of the store: what was acknowledged is there afterwards, and
//! nothing wrong is served.
//!
//! A child process runs a fixed piece of work and says what was acknowledged; it kills itself at the
//! n-th passing of one failpoint. The parent opens what it left behind. The page cache survives this,
//! so it shows the order of steps, not that the disk kept them.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use edge::store::{
    Facts, GcSettings, Owner, StateOf, StateRef, Store, TrustUpdate, VerifySettings, failpoint,
};
use edge::sys::digest::{Algorithm, Digest};

use crate::store::{image, open};

const REPO: &str = "docker.io/library/app";
const PLACES: [&str; 10] = [
    "upload-create",
    "upload-sync",
    "upload-synced",
    "blob-rename",
    "blob-renamed",
    "folder-sync",
    "commit",
    "committed",
    "gc-unlink",
    "quarantine-rename",
];

#[test]
fn nothing_acknowledged_is_lost_wherever_it_is_killed() {
    let mut kills = 0;
    for place in PLACES {
        let mut finished = false;
        for nth in 1..200 {
            let folder = tempfile::tempdir().unwrap();
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "store_crash::child", "--ignored", "--nocapture"])
                .env("EDGE_TEST_FOLDER", folder.path())
                .env("EDGE_TEST_KILL", format!("{place} {nth}"))
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let said = String::from_utf8(child.stdout).unwrap();
            let case = format!("{place} {nth}");
            check(folder.path(), &said, &case);
            if child.status.success() {
                assert!(said.contains("\nall done"), "{case}: {said}");
                assert!(nth > 1, "{place} is never passed");
                finished = true;
                break;
            }
            assert_eq!(
                std::os::unix::process::ExitStatusExt::signal(&child.status),
                Some(9),
                "{case}: {said}"
            );
            kills += 1;
        }
        assert!(finished, "{place} was passed more often than expected");
    }
    assert!(kills > 60, "only {kills} kills");
}

/// Everything acknowledged is there, everything there is right, and the work can be done again.
fn check(folder: &Path, said: &str, case: &str) {
    let acknowledged =
        |what: &str| -> BTreeSet<&str> { said.lines().filter_map(|line| line.strip_prefix(what)).collect() };
    let removed = acknowledged("collected ");
    let store = open(folder);
    for digest in acknowledged("stored ").difference(&removed) {
        let digest: Digest = digest.parse().unwrap();
        let blob = store.blob(None, &digest).unwrap();
        assert!(
            blob.is_some_and(|b| Digest::sha256(&b.read().unwrap()) == digest),
            "{case}: {digest} is lost"
        );
    }
    for line in acknowledged("tagged ") {
        let (name, digest) = line.split_once(' ').unwrap();
        let found = store.manifest(REPO, name).unwrap();
        assert!(found.is_some_and(|m| m.blob.digest.as_str() == digest), "{case}: {name} is lost");
    }
    for found in store.refs(None).unwrap() {
        let manifest = store.manifest(&found.repository, &found.name).unwrap();
        assert!(manifest.is_some(), "{case}: {} leads nowhere", found.name);
    }
    let report = store.verify(&VerifySettings::default(), |_| true).unwrap();
    assert_eq!(report.missing, [], "{case}");
    for digest in &report.damaged {
        assert_eq!(*digest, Digest::sha256(b"rotten"), "{case}: served though wrong");
    }
    work(&store, folder, &mut std::io::sink());
    let left = std::fs::read_dir(folder.join("store/uploads")).unwrap().count();
    assert!(left <= 2, "{case}: {left} uploads are left, which go when they are old");
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn child() {
    let (Ok(folder), Ok(kill)) = (std::env::var("EDGE_TEST_FOLDER"), std::env::var("EDGE_TEST_KILL")) else {
        return;
    };
    let (place, nth) = kill.split_once(' ').unwrap();
    let (place, nth): (String, u32) = (place.into(), nth.parse().unwrap());
    let passed = std::sync::atomic::AtomicU32::new(0);
    failpoint::arm(move |at| {
        if at == place && passed.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == nth {
            nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL).unwrap();
            loop {
                std::thread::park();
            }
        }
    });
    let store = open(Path::new(&folder));
    let mut out = std::io::stdout();
    writeln!(out).unwrap();
    work(&store, Path::new(&folder), &mut out);
    writeln!(out, "all done").unwrap();
}

/// Every kind of change once.
fn work(store: &Store, folder: &Path, out: &mut dyn Write) {
    let mut say = |line: String| {
        writeln!(out, "{line}").unwrap();
        out.flush().unwrap();
    };
    let chunked = Digest::sha256(b"first second");
    let mut upload = store.begin_upload(Algorithm::Sha256, 0).unwrap();
    upload.write(b"first ").unwrap();
    let id = upload.id();
    drop(upload);
    let mut upload = store.resume_upload(id).unwrap();
    upload.write(b"second").unwrap();
    upload.commit(&chunked, Some(REPO)).unwrap();
    say(format!("stored {chunked}"));

    let (manifest, layer) = image(store, REPO, Some("pushed"), Owner::Push, b"layer");
    say(format!("stored {layer}\ntagged pushed {manifest}"));

    let bundled = Digest::sha256(b"bundled");
    store.add_manifest(b"bundled", &bundled, Facts { media_type: "m".into(), ..Facts::default() }).unwrap();
    let refs = vec![StateRef { repository: REPO.into(), name: "bundled".into(), digest: bundled.clone() }];
    let owner = Owner::Bundle("main".into());
    store.flip(&owner, StateOf { refs, ..StateOf::default() }, TrustUpdate::default()).unwrap();
    say(format!("tagged bundled {bundled}"));

    let rotten = Digest::sha256(b"rotten");
    image(store, REPO, Some("rotten"), Owner::Push, b"rotten");
    std::fs::write(folder.join(format!("store/blobs/sha256/{}/{}", &rotten.hex()[..2], rotten.hex())), b"R")
        .unwrap();
    store.verify(&VerifySettings::default(), |_| true).unwrap();

    let garbage = Digest::sha256(b"garbage");
    store.add_blob(None, &garbage, b"garbage").unwrap();
    say(format!("stored {garbage}\ncollected {garbage}\ncollected {chunked}"));
    rusqlite::Connection::open(folder.join("store/store.db"))
        .and_then(|db| {
            db.busy_timeout(Duration::from_secs(5))?;
            db.execute("UPDATE blob SET stored = stored - 100000, used = used - 100000 WHERE stored > 0", [])
        })
        .unwrap();
    store.collect(&GcSettings { grace: Duration::ZERO, ..GcSettings::default() }).unwrap();
    assert!(store.blob(None, &garbage).unwrap().is_none());
}

#[test]
fn a_key_whose_writing_was_cut_off_goes_with_the_next_one_and_with_the_file() {
    let names = |folder: &Path| -> BTreeSet<String> {
        let listed = std::fs::read_dir(folder).unwrap();
        listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let (folder, key) = (tempfile::tempdir().unwrap(), "key".to_owned());
    let path = folder.path().join(&key);
    // Cut off each time by another process.
    let cut_off = || {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store_crash::child_that_writes_a_key", "--ignored", "--nocapture"])
            .env("EDGE_TEST_FOLDER", folder.path())
            .output()
            .unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.status), Some(9), "{child:?}");
        let left = names(folder.path());
        assert!(left.iter().any(|name| *name != key), "{left:?}");
        let secret = left.iter().find(|name| **name != key).unwrap();
        assert_eq!(std::fs::read(folder.path().join(secret)).unwrap(), b"a secret key");
    };
    cut_off();
    cut_off();
    edge::sys::durable::write(&path, b"another", 0o600).unwrap();
    assert_eq!(names(folder.path()), BTreeSet::from([key.clone()]));
    cut_off();
    assert_eq!(std::fs::read(&path).unwrap(), b"another");
    edge::sys::durable::remove(&path).unwrap();
    assert_eq!(names(folder.path()), BTreeSet::new());
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn child_that_writes_a_key() {
    let Ok(folder) = std::env::var("EDGE_TEST_FOLDER") else { return };
    failpoint::arm(|at| {
        if at == "beside-written" {
            nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL).unwrap();
            loop {
                std::thread::park();
            }
        }
    });
    edge::sys::durable::write(&Path::new(&folder).join("key"), b"a secret key", 0o600).unwrap();
}
