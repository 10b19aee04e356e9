//! Opening `cache.db`: its settings, its age, and what to do with a damaged one.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{Cache, CacheError, schema};
use crate::sys::durable;

/// An open cache and what was found on the way.
#[derive(Debug)]
pub struct Opened {
    /// The cache.
    pub cache: Cache,
    /// Where a damaged database was set aside, and what was wrong with it.
    pub damaged: Option<(PathBuf, String)>,
}

/// See [`Cache::open`].
pub fn open(folder: &Path) -> Result<Opened, CacheError> {
    let path = folder.join("cache.db");
    durable::folder(folder, 0o700).map_err(|source| CacheError::Open { path: path.clone(), source })?;
    let (connection, damaged) = match connect(&path) {
        Ok(connection) => (connection, None),
        Err(CacheError::Database { source, .. }) if is_damage(&source) => {
            let aside = set_aside(&path)?;
            (connect(&path)?, Some((aside, source.to_string())))
        }
        Err(e) => return Err(e),
    };
    Ok(Opened { cache: Cache::start(path, connection)?, damaged })
}

fn connect(path: &Path) -> Result<Connection, CacheError> {
    let failed = |operation| move |source| CacheError::Database { operation, path: path.to_owned(), source };
    // SQLite would make it with the umask's permissions; Secrets are in here.
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.set_permissions(std::fs::Permissions::from_mode(0o600)))
        .map_err(|source| CacheError::Open { path: path.to_owned(), source })?;
    let mut connection = Connection::open(path).map_err(failed("open"))?;
    set_up(&connection).map_err(failed("open"))?;
    let sound: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed("check"))?;
    if sound != "ok" {
        return Err(failed("check")(damage(&sound)));
    }
    schema::migrate(&mut connection).map_err(failed("migrate"))?;
    Ok(connection)
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // What was acknowledged survives a power cut.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "secure_delete", "on")?;
    connection.pragma_update(None, "cache_size", -512)?;
    // A checkpoint writes each page once however often it changed: rarely is better for flash.
    connection.pragma_update(None, "wal_autocheckpoint", 512)?;
    connection.pragma_update(None, "journal_size_limit", 4 << 20)
}

/// A reader's connection: cannot write, whatever it is asked.
pub fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "cache_size", -512)?;
    Ok(connection)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
    )
}

fn damage(text: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(code, Some(text.replace('\n', " ")))
}

/// Renames the database and its journal, so that it can be looked at later.
fn set_aside(path: &Path) -> Result<PathBuf, CacheError> {
    let aside = (0..)
        .map(|n| path.with_file_name(format!("cache.db.damaged-{n}")))
        .find(|p| !p.exists())
        .unwrap_or_else(|| path.with_file_name("cache.db.damaged"));
    let failed = |source| CacheError::Open { path: aside.clone(), source };
    std::fs::rename(path, &aside).map_err(failed)?;
    for suffix in ["-wal", "-shm"] {
        let mut journal = path.as_os_str().to_owned();
        journal.push(suffix);
        durable::remove(Path::new(&journal)).map_err(failed)?;
    }
    durable::sync_folder_of(path).map_err(failed)?;
    Ok(aside)
}
