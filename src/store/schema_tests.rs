//! Holds the steps of the schema: a store of an older release is taken whole, and the release before opens today's. A
//! gateway that falls back to the system before has today's store.

use rusqlite::Connection;

use super::*;
use crate::store::{Owner, Settings, Store};
use crate::sys::tables::tests::{fault_of, open_in_the_release_before};
use crate::sys::tables::{migrate, version};

/// One set of rows for each version that was released.
const FIXTURES: [&str; 3] =
    [include_str!("fixtures/v1.sql"), include_str!("fixtures/v2.sql"), include_str!("fixtures/v3.sql")];

#[test]
fn a_store_of_every_older_version_is_taken_whole() {
    for (number, rows) in (1..).zip(FIXTURES) {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::below(folder.path());
        std::fs::create_dir_all(&settings.folder).unwrap();
        let path = settings.folder.join("store.db");
        let mut file = Connection::open(&path).unwrap();
        migrate(&mut file, &MIGRATIONS[..number]).unwrap();
        file.execute_batch(rows).unwrap();
        assert_eq!(version(&file).unwrap(), number);
        drop(file);
        let store = Store::open(settings).unwrap();
        assert_eq!(store.trust_value("root-version").unwrap(), Some(1));
        assert_eq!(store.trust_seqs().unwrap(), [("main".to_owned(), 12)]);
        let owner = Owner::Bundle("main".into());
        let names: Vec<String> = store.refs_of(&owner).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["chart nginx-4.0.1", "docker.io/library/app:1.27"]);
        assert_eq!(store.generations(&owner).unwrap().len(), 2);
        drop(store);
        assert_eq!(version(&Connection::open(&path).unwrap()).unwrap(), MIGRATIONS.len());
    }
}

#[test]
fn the_release_before_opens_it_too() {
    open_in_the_release_before(MIGRATIONS, &FIXTURES);
}

#[test]
fn steps_only_add() {
    assert_eq!(fault_of(MIGRATIONS), None);
}

/// What is asked for each of 100,000 blobs goes by an index to the few rows that it is about, however many there are.
#[test]
fn what_is_asked_for_each_blob_goes_by_an_index() {
    let file = crate::sys::tables::tests::with(MIGRATIONS);
    for (sql, values) in [(crate::store::manifest::REFERRERS, 2), (crate::store::intake::UNNEEDED, 1)] {
        let mut plan = file.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let values = rusqlite::params_from_iter(vec!["x"; values]);
        let steps: Vec<String> =
            plan.query_map(values, |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap();
        let of_all = |step: &String| step.starts_with("SCAN") || step.ends_with("(repository=?)");
        assert!(!steps.iter().any(of_all), "{steps:?}");
        assert!(steps.len() > 4, "{steps:?}");
    }
}
