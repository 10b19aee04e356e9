//! A damaged database is replaced by a new one. What waits to be told to the cloud is nowhere else, so it is carried over
//! as far as it can be read, with the tokens in whose name it is told; all else is read anew from the cloud.

use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::{oneshot, watch};

use super::change::REFUSED;
use super::thread::Job;
use super::{Author, Cache, CacheError, Change, ChangeKind, ObjectKey, READERS, open, salvage, seconds};
use crate::sys::durable;

/// What is carried over row by row: tables with their keys, by which a row is there once, and their columns.
const TABLES: [(&str, &str, &str); 4] = [
    ("author", "change", "change, identity"),
    (
        "change",
        "id",
        "id, kind, resource, namespace, name, uid, subresource, at, attempts, error, base, body",
    ),
    ("refused", "id", "id, object, why, at"),
    ("token", "rowid", "namespace, account, audiences, expiration, bound, at, body"),
];

impl Cache {
    /// In what way the file has been found to be damaged, until [`Cache::renew`].
    pub fn follow_spoilt(&self) -> watch::Receiver<Option<String>> {
        self.shared.spoilt.subscribe()
    }

    /// Replaces the file if it is damaged: it is set aside, and a new one holds nothing but what waits to be told to the
    /// cloud, as far as that can be read; all else is to be read anew, and those who watch are told so. Gives where the
    /// damaged one is and what is wrong with it; `None` if it is sound.
    ///
    /// # Errors
    /// Why it could not be replaced; it is served on as it is, as far as it can be read.
    pub async fn renew(&self) -> Result<Option<(PathBuf, String)>, CacheError> {
        // Nobody reads meanwhile.
        let _all = self.shared.reading.acquire_many(READERS).await.map_err(|_| CacheError::Closed)?;
        self.shared.readers.lock().map_err(|_| CacheError::Closed)?.clear();
        let (reply, answer) = oneshot::channel();
        self.shared.jobs.send(Job::Renew { reply }).map_err(|_| CacheError::Closed)?;
        let replaced = answer.await.map_err(|_| CacheError::Closed)??;
        if replaced.is_some()
            && let Ok(mut damaged) = self.shared.damaged.lock()
        {
            damaged.clone_from(&replaced);
        }
        Ok(replaced)
    }

    /// Where a damaged database was set aside since the start, and what was wrong with it; `None` once it was removed.
    pub fn damaged(&self) -> Option<(PathBuf, String)> {
        self.shared.damaged.lock().map_or(None, |damaged| damaged.clone())
    }

    /// Removes what was set aside, with the Secrets in it.
    ///
    /// # Errors
    /// [`CacheError::Open`] with the path.
    pub async fn forget_damaged(&self) -> Result<(), CacheError> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || {
            let folder = shared.path.parent().unwrap_or(Path::new("."));
            let failed = |source| CacheError::Open { path: folder.to_owned(), source };
            open::forget_damaged(folder).map_err(failed)?;
            if let Ok(mut damaged) = shared.damaged.lock() {
                *damaged = None;
            }
            Ok(())
        })
        .await
        .map_err(|_| CacheError::Closed)?
    }
}

/// Sets the database at `path` aside and puts a new one in its place; a power cut leaves the one or the other. Nobody may
/// have it open. Gives where the damaged one is.
///
/// # Errors
/// When a new one cannot be made or the files cannot be renamed.
pub fn replace(path: &Path) -> Result<PathBuf, CacheError> {
    let new = beside(path);
    let made = make(path, &new);
    if made.is_err() {
        // Secrets are in there, and the first error is the one to tell.
        let _ = remove(&copied(path)).and(remove(&new));
    }
    made?;
    let aside = open::set_aside(path)?;
    finish(path)?;
    Ok(aside)
}

/// Ends what a power cut has interrupted in [`replace`]: the new database is whole once the damaged one is aside.
pub fn finish(path: &Path) -> Result<(), CacheError> {
    let (new, failed) = (beside(path), |source| CacheError::Open { path: path.to_owned(), source });
    remove(&copied(path)).map_err(failed)?;
    if path.exists() || !new.exists() {
        return remove(&new).map_err(failed);
    }
    open::remove_journals(path).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)?;
    durable::sync_folder_of(path).map_err(failed)
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("db.new")
}

/// Where what can be read is copied to, where SQLite cannot read it in its place.
fn copied(path: &Path) -> PathBuf {
    path.with_extension("db.read")
}

fn remove(path: &Path) -> std::io::Result<()> {
    durable::remove(path)?;
    open::remove_journals(path)
}

/// Makes the new database, whole and without a journal.
fn make(path: &Path, new: &Path) -> Result<(), CacheError> {
    let failed = |operation| move |source| CacheError::Database { operation, path: new.to_owned(), source };
    remove(new).map_err(|source| CacheError::Open { path: new.to_owned(), source })?;
    let mut to = open::connect(new)?;
    let copy = copied(path);
    let from = match open::connect_reader(path) {
        // Sectors of the journal, or the first page: all behind them and all before is still there.
        Err(source) if open::is_unread(&source) => {
            let unread = salvage::copy(path, &copy)
                .map_err(|source| CacheError::Open { path: copy.clone(), source })?;
            tracing::warn!(?unread, "a part of the damaged cache cannot be read");
            open::connect_reader(&copy)
        }
        from => from,
    };
    // A file that is none at all has nothing to carry over.
    if let Ok(from) = from {
        let carried = carry(&from, &mut to).map_err(failed("write"))?;
        if carried.changes > 0 || !carried.is_whole {
            let Carried { changes, is_whole } = carried;
            tracing::warn!(
                changes,
                is_whole,
                "what waits to be told to the cloud is taken from the damaged cache"
            );
        }
    }
    remove(&copy).map_err(|source| CacheError::Open { path: copy.clone(), source })?;
    to.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(failed("write"))?;
    to.close().map_err(|(_, source)| failed("close")(source))
}

struct Carried {
    changes: usize,
    /// Every row could be read.
    is_whole: bool,
}

/// Errors are of `to` alone.
fn carry(from: &Connection, to: &mut Connection) -> rusqlite::Result<Carried> {
    let into = to.transaction()?;
    let mut unread = Vec::new();
    for (table, key, columns) in TABLES {
        let places = vec!["?"; columns.split(',').count()].join(", ");
        let insert = format!("INSERT OR IGNORE INTO {table} ({columns}) VALUES ({places})");
        let is_whole = rows(from, table, columns, key, |row| {
            into.prepare_cached(&insert)?.execute(rusqlite::params_from_iter(row)).map(|count| count > 0)
        })?;
        if !is_whole {
            unread.push(table);
        }
    }
    // A number that is free again must not have an author yet.
    into.execute("DELETE FROM author WHERE change NOT IN (SELECT id FROM change)", [])?;
    let mut carried = Carried { changes: 0, is_whole: unread.is_empty() };
    for change in all_changes(&into)? {
        let is_difference = change.what.kind == ChangeKind::Patch && change.what.body.is_none();
        let why = if change.what.author == Author::Node && unread.contains(&"author") {
            // Nobody's word is told as the node's.
            "who made it was lost with the damaged cache"
        } else if !carry_object(from, &into, &change.what.key)? && is_difference {
            "what it was about was lost with the damaged cache"
        } else {
            carried.changes += 1;
            continue;
        };
        carried.is_whole = false;
        into.execute("DELETE FROM change WHERE id = ?", [change.id])?;
        into.execute(
            "INSERT INTO refused (object, why, at) VALUES (?, ?, ?)",
            params![change.what.key.to_string(), why, seconds()],
        )?;
    }
    into.execute("DELETE FROM refused WHERE id <= (SELECT MAX(id) FROM refused) - ?", [REFUSED])?;
    into.commit()?;
    Ok(carried)
}

fn all_changes(into: &Connection) -> rusqlite::Result<Vec<Change>> {
    into.prepare(&Change::select("ORDER BY id"))?.query_map([], Change::from_row)?.collect()
}

/// Hands over the rows of a table in the order of its key, and where one cannot be read those behind it from the other end;
/// `take` says whether a row was new. Gives whether all could be read.
fn rows(
    from: &Connection,
    table: &str,
    columns: &str,
    key: &str,
    mut take: impl FnMut(Vec<Value>) -> rusqlite::Result<bool>,
) -> rusqlite::Result<bool> {
    let there = from.prepare("SELECT 1 FROM sqlite_master WHERE name = ?");
    match there.and_then(|mut there| there.exists([table])) {
        Ok(true) => {}
        // An older release has no such table; what is no database has none at all.
        there => return Ok(there.is_ok()),
    }
    let mut is_whole = true;
    for order in ["ASC", "DESC"] {
        let statement = from.prepare(&format!("SELECT {columns} FROM {table} ORDER BY {key} {order}"));
        let Ok(mut statement) = statement else { return Ok(false) };
        let count = statement.column_count();
        let Ok(mut read) = statement.query([]) else { return Ok(false) };
        loop {
            let row = read.next().and_then(|row| {
                row.map(|row| (0..count).map(|n| row.get(n)).collect::<rusqlite::Result<Vec<Value>>>())
                    .transpose()
            });
            match row {
                Ok(None) => return Ok(is_whole && order == "ASC"),
                Err(_) => break,
                Ok(Some(row)) => {
                    let is_new = take(row)?;
                    if !is_new && order == "DESC" {
                        return Ok(false);
                    }
                    is_whole &= is_new;
                }
            }
        }
    }
    Ok(false)
}

/// Whether the object of a change could be read; it is of no list until the cloud's lists are read anew.
fn carry_object(from: &Connection, into: &Connection, key: &ObjectKey) -> rusqlite::Result<bool> {
    let columns = "resource, namespace, name, uid, version, at, body";
    let read = || {
        from.prepare(&format!(
            "SELECT {columns} FROM object WHERE resource = ? AND namespace = ? AND name = ?"
        ))?
        .query_row([&key.resource, &key.namespace, &key.name], |row| {
            (0..7).map(|n| row.get(n)).collect::<rusqlite::Result<Vec<Value>>>()
        })
        .optional()
    };
    let Ok(Some(row)) = read() else { return Ok(false) };
    into.prepare_cached(&format!("INSERT OR IGNORE INTO object ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)"))?
        .execute(rusqlite::params_from_iter(row))?;
    Ok(true)
}
