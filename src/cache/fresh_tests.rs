//! How old what is kept is said to be.

use super::*;
use crate::cache::{Count, ListRecord, NODE};

const DAY: i64 = 86_400;

fn scope(resource: &str, fields: &str) -> ScopeKey {
    ScopeKey {
        identity: NODE.into(),
        resource: resource.into(),
        namespace: String::new(),
        labels: String::new(),
        fields: fields.into(),
    }
}

/// Lists that were read in full so many days ago, by somebody who has used them today.
async fn cache(folder: &tempfile::TempDir, lists: &[(&ScopeKey, i64)]) -> Cache {
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let lists: Vec<_> = lists.iter().map(|(list, days)| ((*list).clone(), *days)).collect();
    let read = move |writer: &mut Writer| {
        for (list, days) in &lists {
            let id = writer.scope(list)?;
            writer.finish(id, &ListRecord::default(), "List", "7")?;
            writer.db().execute("UPDATE scope SET synced = synced - ? WHERE id = ?", [days * DAY, id.0])?;
        }
        Ok(())
    };
    cache.commit(read).await.unwrap();
    cache
}

/// How many seconds old the first resource is said to be, and whether it is current.
async fn shown(cache: &Cache, fresh: Freshness) -> (i64, bool) {
    let counts: Vec<Count> = cache.read(move |reader| reader.counts(&fresh)).await.unwrap();
    (seconds() - counts[0].synced.unwrap(), counts[0].is_current)
}

fn ago(seconds: u64) -> Option<Instant> {
    Instant::now().checked_sub(Duration::from_secs(seconds))
}

#[tokio::test]
async fn a_list_that_is_watched_is_as_old_as_what_was_heard_last_and_so_after_a_reboot() {
    let folder = tempfile::tempdir().unwrap();
    let pods = scope("v1/pods", "");
    let cache = cache(&folder, &[(&pods, 40)]).await;
    assert_eq!(shown(&cache, cache.freshness(ago(5), true)).await.0 / DAY, 40);
    let watching = cache.watching(&pods, Begins::AfterList);
    let (old, is_current) = shown(&cache, cache.freshness(ago(5), true)).await;
    assert!(is_current && (5..8).contains(&old), "{old} s");
    assert!(!shown(&cache, cache.freshness(ago(5), false)).await.1, "the cloud is away");
    // The link is found to be down some time after the cloud was heard last; the watch ends then.
    let heard = ago(12);
    let fresh = cache.freshness(heard, false);
    cache.note_outage(heard);
    let before = cache.batches();
    cache.commit(move |writer| writer.keep_fresh(&fresh)).await.unwrap();
    assert_eq!(cache.batches(), before + 1);
    let (old, is_current) = shown(&cache, cache.freshness(heard, false)).await;
    assert!(!is_current && (12..15).contains(&old), "{old} s");
    cache.note_cloud();
    assert!(
        !shown(&cache, cache.freshness(ago(0), true)).await.1,
        "its client does not read, and nothing comes"
    );
    drop(watching);
    assert!((12..15).contains(&shown(&cache, cache.freshness(ago(0), true)).await.0));
    drop(cache);
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let (old, is_current) = shown(&cache, cache.freshness(None, false)).await;
    assert!(!is_current && (12..15).contains(&old), "{old} s");
    // A watch that begins when the cloud is back knows what came meanwhile; one that does not come back does not.
    cache.note_cloud();
    let (old, _) = shown(&cache, cache.freshness(ago(0), true)).await;
    assert!((12..15).contains(&old), "{old} s");
}

#[tokio::test]
async fn of_several_lists_the_oldest_counts_that_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let [watched, read, once] =
        ["a", "b", "c"].map(|name| scope("v1/pods", &format!("metadata.name={name}")));
    let cache = cache(&folder, &[(&watched, 40), (&read, 30), (&once, 20)]).await;
    let _watching = cache.watching(&watched, Begins::AfterList);
    let heard = ago(0);
    assert!(shown(&cache, cache.freshness(heard, true)).await.1, "what was read once does not count");
    let list = read.clone();
    let read_again = move |writer: &mut Writer| {
        writer.note_whole(&list);
        Ok(())
    };
    cache.commit(read_again).await.unwrap();
    let (old, is_current) = shown(&cache, cache.freshness(heard, true)).await;
    assert!(old < 3 && !is_current, "{old} s: what is read again and again does");
    // Its client watches it, but what it tells is not kept.
    let torn = cache.watching(&once, Begins::AfterList);
    torn.is_torn();
    let fresh = cache.freshness(heard, true);
    let (old, is_current) = shown(&cache, fresh.clone()).await;
    assert_eq!((old / DAY, is_current), (20, false));
    cache.commit(move |writer| writer.keep_fresh(&fresh)).await.unwrap();
    assert_eq!(shown(&cache, Freshness::default()).await.0 / DAY, 20, "and after a reboot, too");
}

#[tokio::test]
async fn a_list_that_nobody_uses_any_more_does_not_count_once_everybody_has_come() {
    let folder = tempfile::tempdir().unwrap();
    let [stays, goes] = ["a", "b"].map(|name| scope("v1/configmaps", &format!("metadata.name={name}")));
    let cache = cache(&folder, &[(&stays, 40), (&goes, 40)]).await;
    let watches = || (cache.watching(&stays, Begins::AfterList), cache.watching(&goes, Begins::AfterList));
    let keep = async |fresh: &Freshness| {
        let fresh = fresh.clone();
        cache.commit(move |writer| writer.keep_fresh(&fresh)).await.unwrap();
    };
    cache.note_cloud();
    let (stay, go) = watches();
    keep(&cache.freshness(ago(0), true)).await;
    drop(go);
    let fresh = cache.freshness(ago(0), true);
    assert!(!fresh.is_complete && !shown(&cache, fresh.clone()).await.1);
    let later = Instant::now() + 2 * PAUSE;
    let fresh = cache.shared.fresh.known(Some(later), true, true, later);
    assert!(fresh.is_complete && shown(&cache, fresh.clone()).await.1);
    keep(&fresh).await;
    drop(stay);
    let (old, _) = shown(&cache, Freshness::default()).await;
    assert!(old < 3, "{old} s");
    let rows = cache.commit(|writer| {
        let rows = "SELECT count(*), (SELECT count(*) FROM scope WHERE synced > ?) FROM fresh";
        Ok(writer.db().query_row(rows, [seconds() - DAY], |row| Ok((row.get(0)?, row.get(1)?)))?)
    });
    assert_eq!(rows.await.unwrap(), (1_i64, 1_i64), "of the other its time is that of a reading");
    cache.commit(Writer::clear).await.unwrap();
    let rows = "SELECT count(*) FROM fresh";
    let rows = cache.commit(move |w| Ok(w.db().query_row(rows, [], |row| row.get::<_, i64>(0))?));
    assert_eq!(rows.await.unwrap(), 0);
}

#[tokio::test]
async fn nothing_is_current_of_which_a_part_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let pods = scope("v1/pods", "");
    let cache = cache(&folder, &[(&pods, 40)]).await;
    let _watching = cache.watching(&pods, Begins::AfterList);
    assert!(shown(&cache, cache.freshness(ago(0), true)).await.1);
    let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
    let full = rusqlite::Error::SqliteFailure(full, None);
    cache.record(0, move |_| Err(CacheError::Statement(full)));
    let mut trouble = cache.follow_trouble();
    trouble.wait_for(Option::is_some).await.unwrap();
    let (old, is_current) = shown(&cache, cache.freshness(ago(0), true)).await;
    assert_eq!((old / DAY, is_current), (40, false));
    trouble.wait_for(Option::is_none).await.unwrap();
    assert!(!shown(&cache, cache.freshness(ago(0), true)).await.1, "its client is told to read anew");
    let _again = cache.watching(&pods, Begins::AfterList);
    assert!(shown(&cache, cache.freshness(ago(0), true)).await.1);
}

#[tokio::test]
async fn a_watch_that_is_torn_makes_nothing_current_nor_do_those_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let pods = scope("v1/pods", "");
    let cache = cache(&folder, &[(&pods, 40)]).await;
    let watching = cache.watching(&pods, Begins::WithList);
    watching.is_torn();
    // Its bookmark was queued before.
    watching.is_whole();
    assert!(!shown(&cache, cache.freshness(ago(0), true)).await.1);
    drop(watching);
    let again = cache.watching(&pods, Begins::AfterList);
    assert!(!shown(&cache, cache.freshness(ago(0), true)).await.1, "the hole is still there");
    drop(again);
    let anew = cache.watching(&pods, Begins::WithList);
    anew.is_whole();
    assert!(shown(&cache, cache.freshness(ago(0), true)).await.1);
}

/// Whoever asks for ever new lists fills no memory.
#[test]
fn lists_without_a_watch_have_a_bound() {
    let fresh = Fresh::new(Arc::default(), Arc::default());
    for n in 0..3 * REMEMBERED {
        fresh.read(&scope("v1/pods", &n.to_string()), Instant::now());
    }
    assert!(fresh.inside().lists.len() <= REMEMBERED);
}
