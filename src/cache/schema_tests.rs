//! Holds the steps of the schema: files of older releases are taken whole, and the release before opens today's.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;

use super::schema::{STEPS, migrate_by};
use super::*;

/// One database for each version that was released.
const FIXTURES: [&str; 2] = [include_str!("fixtures/v1.sql"), include_str!("fixtures/v2.sql")];

fn with_steps(steps: &[&str]) -> Connection {
    let mut connection = Connection::open_in_memory().unwrap();
    migrate_by(&mut connection, steps).unwrap();
    connection
}

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
        let found: i64 = file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(found, version);
        drop(file);
        holds_what_it_held(folder.path()).await;
        let file = Connection::open(folder.path().join("cache.db")).unwrap();
        let found: usize = file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(found, STEPS.len());
    }
}

/// The release before finds a version that it does not know, leaves it, and writes and reads as it always did.
#[test]
fn the_release_before_opens_it_too() {
    assert_eq!(FIXTURES.len() + 1, STEPS.len(), "a fixture for each version before today's");
    for (version, dump) in (1..).zip(FIXTURES) {
        let mut today = with_steps(&STEPS);
        migrate_by(&mut today, &STEPS[..version]).unwrap();
        let found: usize = today.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(found, STEPS.len(), "what is newer is left as it is");
        let inserts: Vec<&str> = dump.lines().filter(|line| line.starts_with("INSERT INTO")).collect();
        assert!(inserts.len() > 10, "{inserts:?}");
        today.execute_batch(&inserts.join("\n")).unwrap();
    }
}

type Columns = BTreeMap<(String, String), (String, bool, Option<String>, i64)>;

fn columns(connection: &Connection) -> Columns {
    let sql = "SELECT t.name, c.name, c.type, c.\"notnull\", c.dflt_value, c.pk FROM sqlite_schema t
               JOIN pragma_table_info(t.name) c WHERE t.type = 'table'";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| {
        Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)))
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn steps_only_add() {
    for number in 1..STEPS.len() {
        let (before, after) =
            (columns(&with_steps(&STEPS[..number])), columns(&with_steps(&STEPS[..=number])));
        for (column, kind) in &before {
            assert_eq!(after.get(column), Some(kind), "step {} changes {column:?}", number + 1);
        }
        let old_tables: Vec<&String> = before.keys().map(|(table, _)| table).collect();
        for (column, (_, not_null, default, _)) in
            after.iter().filter(|(column, _)| !before.contains_key(*column))
        {
            let is_in_old = old_tables.contains(&&column.0);
            assert!(
                !is_in_old || !not_null || default.is_some(),
                "the release before cannot fill {column:?}"
            );
        }
    }
}
