//! `store.db`: its schema, the connection that writes, and those that read.
//!
//! Migrations only add: see [`crate::sys::tables`].

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::Error;
use super::error::During;
use crate::sys::tables;

/// One batch of statements per schema version, as [`tables`] takes them.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
    include_str!("schema/4.sql"),
];

/// Readers kept open; more are opened when needed and closed after use.
const READERS: usize = 4;

/// Opens the one connection that writes, and brings the schema up to date.
pub(super) fn open_writer(path: &Path) -> Result<Connection, Error> {
    let mut connection = Connection::open(path).during("open the database")?;
    connection.busy_timeout(Duration::from_secs(10)).during("set the busy timeout")?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -2000;
             PRAGMA journal_size_limit = 4194304; PRAGMA foreign_keys = OFF;",
        )
        .during("set the journal mode")?;
    plan_once(&connection)?;
    connection.set_prepared_statement_cache_capacity(64);
    tables::migrate(&mut connection, MIGRATIONS).during("bring the tables to today's")?;
    Ok(connection)
}

/// Has a statement planned once and not anew for each value that is bound to it: an import asks some 100,000 times each.
fn plan_once(connection: &Connection) -> Result<(), Error> {
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .during("set up the planner")
        .map(drop)
}

/// A pool of read-only connections.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::new(Vec::new()) }
    }

    /// Runs `read` on a connection that sees the last commit.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open()?,
        };
        let result = read(&connection);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < READERS {
            idle.push(connection);
        }
        result
    }

    fn open(&self) -> Result<Connection, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).during("open a reader")?;
        connection.busy_timeout(Duration::from_secs(10)).during("set the busy timeout")?;
        connection
            .execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -1000;")
            .during("set up a reader")?;
        plan_once(&connection)?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(connection)
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
