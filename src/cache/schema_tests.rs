//! Holds the steps of the schema: files of older releases are taken whole, and the release before opens today's.

use std::path::Path;

use rusqlite::Connection;

use super::schema::STEPS;
use super::*;
use crate::sys::tables::tests::{fault_of, open_in_the_release_before};
use crate::sys::tables::version as version_of;

/// One database for each version that was released.
const FIXTURES: [&str; 5] = [
    include_str!("fixtures/v1.sql"),
    include_str!("fixtures/v2.sql"),
    include_str!("fixtures/v3.sql"),
    include_str!("fixtures/v4.sql"),
    include_str!("fixtures/v5.sql"),
];

async fn holds_what_it_held(folder: &Path) {
    let opened = Cache::open(folder, folder).unwrap();
    assert!(opened.damaged.is_none() && opened.frozen.is_none(), "{opened:?}");
    let key = |resource: &str, name: &str| ObjectKey {
        resource: resource.into(),
        namespace: "default".into(),
        name: name.into(),
    };
    let token = TokenKey {
        namespace: "default".into(),
        account: "default".into(),
        audiences: String::new(),
        expiration: 3607,
        bound: "Pod/uid-web".into(),
    };
    let read = opened.cache.read(move |reader| {
        assert_eq!(reader.get("node", &key("v1/pods", "web"))?.unwrap().version, "41");
        assert_eq!(
            reader.get("node", &key("v1/secrets", "credentials"))?.unwrap().body["data"]["password"],
            "czNjcmV0"
        );
        assert_eq!(reader.scopes("node", "v1/services", "")?.len(), 1, "synced, and empty");
        assert_eq!(reader.changes()?[0].what.uid, "uid-web");
        assert!(reader.token(&token)?.is_some() && reader.caller("00ff")?.is_some());
        assert!(
            reader.document("node", "/version", "json")?.is_some() && reader.verifier("key-1")?.is_some()
        );
        assert_eq!(reader.meta("link")?.as_deref(), Some("the cloud is away"));
        reader.refused()
    });
    assert_eq!(read.await.unwrap(), []);
    let refused = opened.cache.commit(|writer| {
        let change = writer.waiting(
            ChangeKind::Patch,
            &ObjectKey { resource: "v1/pods".into(), namespace: "default".into(), name: "web".into() },
            "status",
        )?;
        writer.refuse_change(&change.unwrap(), "422 no")
    });
    refused.await.unwrap();
    let (changes, refused) = opened.cache.read(|r| Ok((r.changes()?, r.refused()?))).await.unwrap();
    assert_eq!((changes.len(), refused[0].object.as_str()), (0, "v1/pods default/web"));
}

#[tokio::test]
async fn a_cache_of_every_older_version_is_taken_whole() {
    for (version, dump) in (1..).zip(FIXTURES) {
        let folder = tempfile::tempdir().unwrap();
        let file = Connection::open(folder.path().join("cache.db")).unwrap();
        file.execute_batch(dump).unwrap();
        assert_eq!(version_of(&file).unwrap(), version);
        drop(file);
        holds_what_it_held(folder.path()).await;
        let file = Connection::open(folder.path().join("cache.db")).unwrap();
        assert_eq!(version_of(&file).unwrap(), STEPS.len());
    }
}

#[test]
fn the_release_before_opens_it_too() {
    let rows =
        FIXTURES.map(|dump| dump.lines().filter(|line| line.starts_with("INSERT INTO")).collect::<Vec<_>>());
    let rows = rows.map(|lines| lines.join("\n"));
    open_in_the_release_before(&STEPS, &rows.each_ref().map(String::as_str));
}

#[test]
fn steps_only_add() {
    assert_eq!(fault_of(&STEPS), None);
}
