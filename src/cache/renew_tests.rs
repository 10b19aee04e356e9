//! A file of which the disk has spoilt some pages.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;

use super::*;

/// Time for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(30);

/// Overwrites the middle one of a table's leaf pages, behind the back of whoever has the database open.
fn spoil(path: &Path, table: &str) {
    let db = Connection::open(path).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let pages: Vec<u64> = db
        .prepare("SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path")
        .unwrap()
        .query_map([table], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let size: u64 = db.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap();
    drop(db);
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start((pages[pages.len() / 2] - 1) * size)).unwrap();
    file.write_all(&vec![0xff; usize::try_from(size).unwrap()]).unwrap();
    file.sync_all().unwrap();
}

/// Waits until nobody has the file open, which is so a moment after the last handle is gone.
async fn closed(cache: Cache) {
    let path = cache.path().to_owned();
    drop(cache);
    let is_it = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.and_then(|entry| std::fs::read_link(entry.path())).is_ok_and(|open| open == path)
    };
    let gone = async {
        while std::fs::read_dir("/proc/self/fd").unwrap().any(is_it) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it is still open");
}

fn pod(n: usize) -> Object {
    let body = json!({"metadata": {"name": format!("p{n:05}"), "namespace": "ns", "uid": format!("u{n}"),
        "resourceVersion": "1"}, "spec": {"filler": "x".repeat(1500)}});
    Object::new("v1/pods", body).unwrap()
}

fn scope() -> ScopeKey {
    let (identity, resource) = (NODE.to_owned(), "v1/pods".to_owned());
    ScopeKey { identity, resource, namespace: String::new(), labels: String::new(), fields: String::new() }
}

fn list(w: &mut Writer, count: usize) -> Result<(), CacheError> {
    let (id, mut list) = (w.scope(&scope())?, ListRecord::default());
    (0..count).try_for_each(|n| w.put_listed(id, &mut list, &pod(n)))?;
    w.finish(id, &list, "PodList", "7").map(drop)
}

/// A status of the pod; a client's where it has a name.
fn status_of(n: usize, client: &str) -> NewChange {
    NewChange {
        kind: ChangeKind::Patch,
        key: pod(n).key,
        uid: format!("u{n}"),
        subresource: "status".into(),
        author: if client.is_empty() { Author::Node } else { Author::Client(client.to_owned()) },
        manager: None,
        base: Some(b"{}".to_vec()),
        body: None,
    }
}

fn creation(n: usize, client: &str) -> NewChange {
    let mut change = status_of(n, client);
    let body = json!({"n": n, "filler": "x".repeat(900)});
    (change.kind, change.base, change.body) = (ChangeKind::Create, None, Some(body.to_string().into_bytes()));
    change
}

const PODS: usize = 1500;

#[tokio::test]
async fn a_file_that_is_spoilt_while_it_is_open_is_replaced_and_what_waits_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let token = TokenKey {
        namespace: "ns".into(),
        account: "a".into(),
        audiences: String::new(),
        expiration: 3600,
        bound: "Pod/u0".into(),
    };
    let kept = token.clone();
    let fill = move |w: &mut Writer| {
        list(w, PODS)?;
        w.put_token(&kept, b"{}")?;
        // Of those in the middle some are on the page that is to be spoilt.
        for n in [0].into_iter().chain(PODS / 2 - 10..PODS / 2 + 10) {
            w.push_change(&status_of(n, ""))?;
        }
        w.push_change(&status_of(PODS - 1, "system:serviceaccount:ns:a/u0")).map(drop)
    };
    cache.commit(fill).await.unwrap();
    spoil(cache.path(), "object");

    let lost = *cache.lost().borrow();
    let (epoch, rollbacks) = (cache.epoch(), cache.rollbacks());
    cache.read(|r| r.all("v1/pods")).await.unwrap_err();
    let mut trouble = cache.follow_trouble();
    let told = trouble.wait_for(Option::is_some);
    let why = tokio::time::timeout(PATIENCE, told).await.expect("nobody says so").unwrap().clone().unwrap();
    assert!(why.contains("cache.db` is damaged") && why.contains("malformed"), "{why}");
    // What a batch on such a file loses is not asked for again and again.
    cache.record(0, |w| list(w, PODS));
    cache.commit(|w| w.set_meta("link", "away")).await.unwrap_err();
    cache.commit(|w| w.set_meta("link", "away")).await.unwrap();
    assert_eq!(*cache.lost().borrow(), lost, "all was to be read anew on a damaged file");
    assert!(cache.trouble().is_some());

    let (aside, why) = cache.renew().await.unwrap().expect("it is damaged");
    assert!(aside.ends_with("cache.db.damaged-0") && aside.exists() && !why.is_empty(), "{aside:?} {why}");
    assert_eq!(cache.damaged(), Some((aside, why)));
    assert_eq!((cache.trouble(), cache.follow_spoilt().borrow().clone()), (None, None));
    assert!(*cache.lost().borrow() > lost && cache.epoch() > epoch && cache.rollbacks() > rollbacks);
    let read = cache.read(move |r| {
        assert!(r.token(&token)?.is_some(), "in whose name it is told");
        Ok((r.scopes(NODE, "v1/pods", "")?.len(), r.all("v1/pods")?.len(), r.changes()?, r.refused()?))
    });
    let (scopes, pods, changes, refused) = read.await.unwrap();
    assert!((1..5).contains(&refused.len()), "{refused:?}");
    assert_eq!((scopes, pods), (0, 22 - refused.len()), "never synced, and what the changes are about");
    assert!(
        refused.iter().all(|of| of.object.contains("/p007") && of.why.contains("damaged")),
        "{refused:?}"
    );
    let waiting: Vec<_> = changes.iter().map(|c| (c.id, c.what.uid.as_str(), &c.what.author)).collect();
    let (first, last, client) = (waiting[0], waiting[waiting.len() - 1], "system:serviceaccount:ns:a/u0");
    assert_eq!(waiting.len(), 22 - refused.len());
    assert_eq!((first, last.0), ((1, "u0", &Author::Node), 22));
    assert_eq!((last.1, last.2), (&*format!("u{}", PODS - 1), &Author::Client(client.into())));

    cache.commit(|w| list(w, PODS)).await.unwrap();
    assert_eq!(cache.read(|r| r.all("v1/pods")).await.unwrap().len(), PODS);
    assert!(cache.renew().await.unwrap().is_none(), "it is sound");
    let names = || std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name());
    assert!(!names().any(|name| name.to_string_lossy().contains(".new")), "{:?}", names());
}

/// At the start, as it was before a power cut.
#[tokio::test]
async fn of_what_waits_all_that_can_be_read_is_told_and_nobodys_word_as_the_nodes() {
    for (table, author_is_read) in [("change", true), ("author", false)] {
        let folder = tempfile::tempdir().unwrap();
        let client = |n: usize| if n.is_multiple_of(2) { format!("client-{n}") } else { String::new() };
        {
            let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
            let fill = move |w: &mut Writer| {
                (0..2000).try_for_each(|n| w.push_change(&creation(n, &client(n))).map(drop))
            };
            cache.commit(fill).await.unwrap();
            spoil(cache.path(), table);
            closed(cache).await;
        }
        let opened = Cache::open(folder.path(), folder.path()).unwrap();
        assert!(opened.damaged.is_some());
        let (changes, refused) = opened.cache.read(|r| Ok((r.changes()?, r.refused()?))).await.unwrap();
        let count = changes.len();
        let expected = if author_is_read { 1900..2000 } else { 500..1000 };
        assert!(expected.contains(&count), "{count}");
        assert!(changes.is_sorted_by_key(|change| change.id));
        for change in changes {
            let n = usize::try_from(change.id).unwrap() - 1;
            let expected = match client(n).as_str() {
                "" => Author::Node,
                name => Author::Client(name.to_owned()),
            };
            assert_eq!((change.what.uid, change.what.author), (format!("u{n}"), expected));
        }
        assert_eq!(refused.is_empty(), author_is_read, "{refused:?}");
        // A new one does not fall to the author of one that was lost.
        let new = opened.cache.commit(|w| w.push_change(&creation(9999, ""))).await.unwrap();
        let changes = opened.cache.read(|r| r.changes()).await.unwrap();
        let new = changes.iter().find(|change| change.id == new).unwrap();
        assert_eq!(new.what.author, Author::Node);
    }
}

#[tokio::test]
async fn a_power_cut_leaves_the_damaged_one_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let [path, new] = ["cache.db", "cache.db.new"].map(|name| folder.path().join(name));
    {
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        cache.commit(|w| w.push_change(&creation(1, "")).map(drop)).await.unwrap();
        closed(cache).await;
        std::fs::copy(&path, &new).unwrap();
    }
    let waiting = async || {
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let count = cache.read(|r| Ok(r.changes()?.len())).await.unwrap();
        closed(cache).await;
        count
    };
    assert_eq!((waiting().await, new.exists()), (1, false), "half made: it is made once more, if need be");
    std::fs::rename(&path, &new).unwrap();
    assert_eq!((waiting().await, new.exists()), (1, false), "the damaged one was aside");
}

/// As where the disk fails at that moment: what waits is in the new one alone.
#[tokio::test]
async fn one_that_was_left_between_the_two_renames_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let [path, new] = ["cache.db", "cache.db.new"].map(|name| folder.path().join(name));
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    cache.commit(|w| w.push_change(&creation(1, "")).map(drop)).await.unwrap();
    let db = Connection::open(&path).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(db);
    std::fs::copy(&path, &new).unwrap();
    std::fs::remove_file(&path).unwrap();
    let epoch = cache.epoch();
    assert!(cache.renew().await.unwrap().is_none());
    assert!(path.exists() && !new.exists() && cache.epoch() > epoch);
    assert_eq!(cache.read(|r| Ok(r.changes()?.len())).await.unwrap(), 1);
    cache.commit(|w| w.push_change(&creation(2, "")).map(drop)).await.unwrap();
    closed(cache).await;
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    assert_eq!(cache.read(|r| Ok(r.changes()?.len())).await.unwrap(), 2, "it was written to");
}

/// As on a disk that has no room for its journal at that moment.
#[tokio::test]
async fn a_file_that_cannot_be_opened_after_it_was_looked_at_is_opened_once_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    cache.commit(|w| w.push_change(&creation(1, "")).map(drop)).await.unwrap();
    // Its tables are there already: those of a new one cannot be made.
    Connection::open(cache.path()).unwrap().pragma_update(None, "user_version", 0).unwrap();
    let lost = *cache.lost().borrow();
    cache.record(0, |w| w.set_meta("kept", "1"));
    assert!(cache.renew().await.unwrap().is_none(), "it is sound");
    assert!(cache.trouble().is_some());
    cache.record(0, |w| w.set_meta("kept", "2"));
    let mut trouble = cache.follow_trouble();
    let ended = tokio::time::timeout(PATIENCE, trouble.wait_for(Option::is_none)).await;
    ended.expect("nothing is written any more").unwrap();
    cache.commit(|w| w.push_change(&creation(2, "")).map(drop)).await.unwrap();
    let read = cache.read(|r| Ok((r.changes()?.len(), r.meta("kept")?))).await.unwrap();
    assert_eq!((read, *cache.lost().borrow()), ((2, Some("2".to_owned())), lost));
}

#[tokio::test]
async fn a_reader_whose_asker_has_gone_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let (begun, go) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let (began, wait) = (begun.0, go.1);
    let reading = cache.clone();
    let asker = tokio::spawn(async move {
        let job = move |_: &Reader| {
            began.send(()).unwrap();
            wait.recv().unwrap();
            Ok(())
        };
        reading.read(job).await
    });
    tokio::task::spawn_blocking(move || begun.1.recv()).await.unwrap().unwrap();
    asker.abort();
    assert!(asker.await.unwrap_err().is_cancelled());
    let renewed = tokio::time::timeout(Duration::from_millis(300), cache.renew()).await;
    assert!(renewed.is_err(), "it was replaced below a reader");
    go.0.send(()).unwrap();
    tokio::time::timeout(PATIENCE, cache.renew()).await.expect("it waits for ever").unwrap();
}
