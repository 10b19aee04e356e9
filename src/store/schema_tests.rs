//! Holds the steps of the schema: a store of an older release is taken whole, and the release before opens today's. A
//! gateway that falls back to the system before has today's store.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::*;
use crate::store::{Owner, Settings, Store};

/// One set of rows for each version that was released.
const FIXTURES: [&str; 1] = [include_str!("fixtures/v1.sql")];

fn with_steps(steps: &[&str]) -> Connection {
    let mut connection = Connection::open_in_memory().unwrap();
    migrate_by(&mut connection, steps).unwrap();
    connection
}

fn version(connection: &Connection) -> usize {
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[test]
fn a_store_of_every_older_version_is_taken_whole() {
    for (number, rows) in (1..).zip(FIXTURES) {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::below(folder.path());
        std::fs::create_dir_all(&settings.folder).unwrap();
        let path = settings.folder.join("store.db");
        let mut file = Connection::open(&path).unwrap();
        migrate_by(&mut file, &MIGRATIONS[..number]).unwrap();
        file.execute_batch(rows).unwrap();
        assert_eq!(version(&file), number);
        drop(file);
        let store = Store::open(settings).unwrap();
        assert_eq!(store.trust_value("root-version").unwrap(), Some(1));
        assert_eq!(store.trust_seqs().unwrap(), [("main".to_owned(), 12)]);
        let owner = Owner::Bundle("main".into());
        let names: Vec<String> = store.refs_of(&owner).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["chart nginx-4.0.1", "docker.io/library/app:1.27"]);
        assert_eq!(store.generations(&owner).unwrap().len(), 2);
        drop(store);
        assert_eq!(version(&Connection::open(&path).unwrap()), MIGRATIONS.len());
    }
}

/// The release before finds a version that it does not know, leaves it, and writes and reads as it always did.
#[test]
fn the_release_before_opens_it_too() {
    assert_eq!(FIXTURES.len() + 1, MIGRATIONS.len(), "a fixture for each version before today's");
    for (number, rows) in (1..).zip(FIXTURES) {
        let mut today = with_steps(MIGRATIONS);
        migrate_by(&mut today, &MIGRATIONS[..number]).unwrap();
        assert_eq!(version(&today), MIGRATIONS.len(), "what is newer is left as it is");
        today.execute_batch(rows).unwrap();
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
    for number in 1..MIGRATIONS.len() {
        let (before, after) =
            (columns(&with_steps(&MIGRATIONS[..number])), columns(&with_steps(&MIGRATIONS[..=number])));
        for (column, kind) in &before {
            assert_eq!(after.get(column), Some(kind), "step {} changes {column:?}", number + 1);
        }
        let old: Vec<&String> = before.keys().map(|(table, _)| table).collect();
        for (column, (_, not_null, default, _)) in after.iter().filter(|(key, _)| !before.contains_key(*key))
        {
            let fills = !old.contains(&&column.0) || !not_null || default.is_some();
            assert!(fills, "the release before cannot fill {column:?}");
        }
    }
}
