//! A cache on a disk of which some sectors cannot be read any more: it is opened all the same, with what is left.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use edge::cache::{
    Author, Cache, ChangeKind, ListRecord, NODE, NewChange, Object, ObjectKey, Opened, ScopeKey,
};
use edge::sys::digest::Digest;
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use crate::bundle_disk::{Disk, ONE, ext4};

const PODS: usize = 800;
/// What ext4 counts in on a small disk.
const BLOCK: usize = 1024;

/// Text of some length that has no block like another.
fn filler(n: usize, length: usize) -> String {
    let pieces = (0..).map(|piece| Digest::sha256(format!("{n} {piece}").as_bytes()).hex().to_owned());
    pieces.take(length / 64).collect()
}

fn pod(n: usize) -> Object {
    let body = json!({"metadata": {"name": format!("p{n:05}"), "namespace": "ns", "uid": format!("u{n}"),
        "resourceVersion": "1"}, "spec": {"filler": filler(n, 1536)}});
    Object::new("v1/pods", body).unwrap()
}

fn created(n: usize) -> NewChange {
    NewChange {
        kind: ChangeKind::Create,
        key: ObjectKey { resource: "v1/pods".into(), namespace: "ns".into(), name: format!("new{n}") },
        uid: format!("v{n}"),
        subresource: String::new(),
        author: Author::Node,
        manager: None,
        base: None,
        body: Some(json!({"n": n, "filler": filler(PODS + n, 12800)}).to_string().into_bytes()),
    }
}

/// A cache as a power cut leaves it: pods in the database, and two changes in its journal, one after the other. With the
/// bytes of both.
async fn cut_off(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    let made = TempDir::new().unwrap();
    let cache = Cache::open(made.path(), made.path()).unwrap().cache;
    let key = ScopeKey {
        identity: NODE.to_owned(),
        resource: "v1/pods".to_owned(),
        namespace: String::new(),
        labels: String::new(),
        fields: String::new(),
    };
    let list = cache.commit(move |w| {
        let (id, mut list) = (w.scope(&key)?, ListRecord::default());
        (0..PODS).try_for_each(|n| w.put_listed(id, &mut list, &pod(n)))?;
        w.finish(id, &list, "PodList", "7")
    });
    list.await.unwrap();
    let db = Connection::open(cache.path()).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    for n in [1, 2] {
        cache.commit(move |w| w.push_change(&created(n)).map(drop)).await.unwrap();
    }
    let state = folder.join("state");
    std::fs::DirBuilder::new().mode(0o700).create(&state).unwrap();
    let [database, journal] = ["cache.db", "cache.db-wal"].map(|name| {
        let bytes = std::fs::read(made.path().join(name)).unwrap();
        std::fs::write(state.join(name), &bytes).unwrap();
        bytes
    });
    (database, journal)
}

/// What is left: changes that wait, and whether the first pod is known.
async fn left(opened: &Opened) -> (Vec<String>, bool) {
    let read = opened.cache.read(|r| Ok((r.changes()?, r.object(&pod(0).key)?.is_some())));
    let (changes, known) = read.await.unwrap();
    (changes.into_iter().map(|change| change.what.key.name).collect(), known)
}

/// Opens it on a disk that does not give what `spoilt` selects of the database and its journal.
async fn open_on<'a>(
    options: &str,
    spoilt: impl Fn(&'a [u8], &'a [u8]) -> &'a [u8],
    both: &'a (Vec<u8>, Vec<u8>),
    from: &Path,
) -> (Disk, TempDir, Opened) {
    let folder = TempDir::new().unwrap();
    let image = std::fs::read(ext4(folder.path(), 16, Some(from))).unwrap();
    let disk = Disk::new(folder.path(), image, options);
    disk.medium.spoil(spoilt(&both.0, &both.1));
    let (at, refuge) = (disk.path().join("state"), folder.path().join("refuge"));
    let opened = Cache::open(&at, &refuge).unwrap();
    (disk, folder, opened)
}

/// Somewhere in the last frames of the journal, of what was written last.
fn end_of_journal<'a>(_: &'a [u8], journal: &'a [u8]) -> &'a [u8] {
    let at = (journal.len() / BLOCK - 6) * BLOCK;
    &journal[at..at + BLOCK]
}

fn first_page<'a>(database: &'a [u8], _: &'a [u8]) -> &'a [u8] {
    &database[..BLOCK]
}

/// Of a page with pods in the middle of them.
fn middle<'a>(database: &'a [u8], _: &'a [u8]) -> &'a [u8] {
    let name = format!("p{:05}", PODS / 2);
    // Its body, and not the index of names.
    let text = format!("{name}\"");
    database
        .chunks(BLOCK)
        .find(|block| block.windows(text.len()).any(|there| there == text.as_bytes()))
        .unwrap()
}

#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "this runtime has nothing else to do")]
async fn what_a_dying_disk_does_not_give_ends_nothing() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let from = TempDir::new().unwrap();
    let both = cut_off(from.path()).await;
    let first = || vec!["new1".to_owned()];

    // A disk that can be written: a new one is made, with what waits as far as it can be read.
    let (disk, _folder, opened) = open_on("rw", end_of_journal, &both, from.path()).await;
    assert!(opened.frozen.is_none() && opened.damaged.is_some(), "{opened:?}");
    assert_eq!(left(&opened).await, (first(), false));
    opened.cache.commit(|w| w.push_change(&created(3)).map(drop)).await.unwrap();
    let names =
        std::fs::read_dir(disk.path().join("state")).unwrap().flatten().map(|entry| entry.file_name());
    assert!(!names.into_iter().any(|name| name.to_string_lossy().contains(".read")));
    drop((opened, disk));

    let (disk, _folder, opened) = open_on("rw", first_page, &both, from.path()).await;
    assert!(opened.frozen.is_none() && opened.damaged.is_some(), "{opened:?}");
    opened.cache.commit(|w| w.push_change(&created(3)).map(drop)).await.unwrap();
    drop((opened, disk));

    // One that cannot: a copy is served.
    let (disk, _folder, opened) = open_on("ro,noload", end_of_journal, &both, from.path()).await;
    assert!(opened.frozen.as_ref().is_some_and(|why| why.contains("1 of its newest part")), "{opened:?}");
    assert_eq!(left(&opened).await, (vec![], true));
    drop((opened, disk));

    let (disk, _folder, opened) = open_on("ro,noload", middle, &both, from.path()).await;
    assert!(opened.frozen.as_ref().is_some_and(|why| why.contains("it is damaged")), "{opened:?}");
    assert_eq!(left(&opened).await, (vec!["new1".to_owned(), "new2".to_owned()], true));
    opened.cache.read(|r| r.all("v1/pods")).await.unwrap_err();
    drop((opened, disk));

    let (disk, _folder, opened) = open_on("ro,noload", first_page, &both, from.path()).await;
    assert!(opened.frozen.is_some(), "{opened:?}");
    left(&opened).await;
    drop((opened, disk));
}
