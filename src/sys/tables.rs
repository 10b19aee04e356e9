//! Tables of a SQLite file, brought to today's step by step.
//!
//! Steps only add, so that the release before opens the file too: a snap reverts, an image falls back. A step that was
//! released is never changed. `user_version` counts those that were taken.

use rusqlite::Connection;

/// Takes the `steps` that were not taken yet, each in a transaction of its own; says how many. A file of a later release
/// is left as it is.
///
/// # Errors
/// The statement's; the steps before it stay taken.
pub fn migrate(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<usize> {
    let before = version(connection)?;
    for (number, step) in (1..).zip(steps).skip(before) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(steps.len().saturating_sub(before))
}

/// How many steps a file has taken.
///
/// # Errors
/// Where it cannot be read.
pub fn version(connection: &Connection) -> rusqlite::Result<usize> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// What tests of any part's steps have in common.
#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// An empty file with these steps.
    pub fn with(steps: &[&str]) -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(migrate(&mut connection, steps).unwrap(), steps.len());
        connection
    }

    /// Holds that the release before finds a version that it does not know, leaves it, and writes `rows`, one set for
    /// each version before today's, as it always did.
    pub fn open_in_the_release_before(steps: &[&str], rows: &[&str]) {
        assert_eq!(rows.len() + 1, steps.len(), "rows for each version before today's");
        for (number, rows) in (1..).zip(rows) {
            let mut today = with(steps);
            assert_eq!(migrate(&mut today, &steps[..number]).unwrap(), 0);
            assert_eq!(version(&today).unwrap(), steps.len(), "what is newer is left as it is");
            assert!(rows.matches("INSERT INTO").count() > 5, "{rows}");
            today.execute_batch(rows).unwrap();
        }
    }

    /// Table and column; type, whether it must be given, its default, its place in the key.
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

    /// The first thing that a step does but add what the release before can do without.
    pub fn fault_of(steps: &[&str]) -> Option<String> {
        (1..steps.len()).find_map(|number| {
            let (before, after) = (columns(&with(&steps[..number])), columns(&with(&steps[..=number])));
            let changed = before.iter().find(|(column, kind)| after.get(*column) != Some(*kind));
            let is_in_old = |table: &String| before.keys().any(|(old, _)| old == table);
            let needed = after.iter().find(|(column, (_, not_null, default, _))| {
                !before.contains_key(*column) && is_in_old(&column.0) && *not_null && default.is_none()
            });
            let step = number + 1;
            changed
                .map(|(column, _)| format!("step {step} changes {column:?}"))
                .or(needed
                    .map(|(column, _)| format!("the release before step {step} cannot fill {column:?}")))
        })
    }

    #[test]
    fn steps_that_do_more_than_add_are_seen() {
        let first = "CREATE TABLE a (b INTEGER PRIMARY KEY, c TEXT NOT NULL)";
        for (second, fault) in [
            ("CREATE TABLE d (e INTEGER NOT NULL)", None),
            ("ALTER TABLE a ADD COLUMN d TEXT", None),
            ("ALTER TABLE a ADD COLUMN d TEXT NOT NULL DEFAULT ''", None),
            ("ALTER TABLE a DROP COLUMN c", Some("step 2 changes")),
            ("ALTER TABLE a RENAME COLUMN c TO d", Some("step 2 changes")),
            (
                "DROP TABLE a; CREATE TABLE a (b INTEGER PRIMARY KEY, c TEXT NOT NULL, d TEXT NOT NULL)",
                Some("the release before step 2 cannot fill (\"a\", \"d\")"),
            ),
        ] {
            let found = fault_of(&[first, second]);
            assert_eq!(found.is_some(), fault.is_some(), "{second}: {found:?}");
            assert!(fault.is_none_or(|fault| found.unwrap().starts_with(fault)), "{second}");
        }
    }

    #[test]
    fn each_step_is_taken_once_and_a_bad_one_leaves_those_before_it() {
        let mut connection = with(&["CREATE TABLE a (b)"]);
        let steps = ["CREATE TABLE a (b)", "CREATE TABLE c (d)", "no SQL"];
        assert_eq!(migrate(&mut connection, &steps[..2]).unwrap(), 1);
        assert_eq!(migrate(&mut connection, &steps[..2]).unwrap(), 0);
        migrate(&mut connection, &steps).unwrap_err();
        assert_eq!(version(&connection).unwrap(), 2);
    }
}
