//! Opening `cache.db`: its settings, its age, and what to do with a damaged one.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{Cache, CacheError, renew, salvage, schema, whole};
use crate::sys::durable;

/// An open cache and what was found on the way.
#[derive(Debug)]
pub struct Opened {
    /// The cache.
    pub cache: Cache,
    /// Where a damaged database was set aside, and what was wrong with it.
    pub damaged: Option<(PathBuf, String)>,
    /// Why the database cannot be written and a copy of it is read instead.
    pub frozen: Option<String>,
}

/// See [`Cache::open`].
pub fn open(folder: &Path, refuge: &Path) -> Result<Opened, CacheError> {
    let path = folder.join(FILE);
    durable::folder(folder, 0o700).map_err(|source| CacheError::Open { path: path.clone(), source })?;
    match renew::finish(&path) {
        // An empty one in its place would have it removed at the next start.
        Err(error) if !path.exists() => return Err(error),
        Err(error) => tracing::warn!(%error, "what is left of a cache that was built anew is still there"),
        Ok(()) => {}
    }
    let (connection, damaged) = match connect(&path) {
        Ok(connection) => (connection, None),
        Err(error) => match what_is_damaged(&error) {
            Some(why) => match renew::replace(&path) {
                Ok(aside) => (connect(&path)?, Some((aside, why))),
                Err(error) if is_unwritable(&error) || what_is_damaged(&error).is_some() => {
                    return freeze(&path, refuge, &error);
                }
                Err(error) => return Err(error),
            },
            None if is_unwritable(&error) && path.exists() => return freeze(&path, refuge, &error),
            None => return Err(error),
        },
    };
    if refuge.join(FROZEN).exists() {
        // What passed while the copy was served is kept nowhere.
        whole::unnote(&connection).map_err(|source| CacheError::Database {
            operation: "open",
            path: path.clone(),
            source,
        })?;
    }
    if let Err(error) = thaw(refuge) {
        tracing::warn!(%error, "a copy of an earlier cache is still in memory");
    }
    Ok(Opened { cache: Cache::start(path, connection, None, damaged.clone())?, damaged, frozen: None })
}

/// Brings the database in `folder`, if there is one, up to date before a daemon opens it. A damaged one is left to the
/// daemon, which sets it aside and goes on saying so.
///
/// # Errors
/// [`CacheError::Open`] and [`CacheError::Database`], also where the disk lets nobody write.
pub fn update(folder: &Path) -> Result<(), CacheError> {
    let path = folder.join(FILE);
    if !durable::exists(&path).map_err(|source| CacheError::Open { path: path.clone(), source })? {
        return Ok(());
    }
    match connect(&path) {
        Err(error) if what_is_damaged(&error).is_some() => Ok(()),
        connected => connected.map(drop),
    }
}

/// Removes the copy in memory, if there is one: Secrets are in there. See [`Opened::frozen`].
///
/// # Errors
/// Where it cannot be removed.
pub fn thaw(refuge: &Path) -> std::io::Result<()> {
    let copy = refuge.join(FROZEN);
    match std::fs::remove_dir_all(&copy) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(durable::named(e, "remove", &copy)),
        _ => Ok(()),
    }
}

const FILE: &str = "cache.db";
const FROZEN: &str = "frozen";

/// Reads a copy, journal included. The gateway may have lost its power because its disk is dying, and its pods must
/// start all the same: what cannot be read is missing from the copy, and is no reason to serve nothing.
fn freeze(path: &Path, refuge: &Path, error: &CacheError) -> Result<Opened, CacheError> {
    let copy = refuge.join(FROZEN).join(FILE);
    let failed = |source| CacheError::Open { path: copy.clone(), source };
    let mut why = format!("`{}` cannot be written, a copy in memory is served: {error}", path.display());
    if let Some(folder) = copy.parent() {
        durable::folder(folder, 0o700).map_err(failed)?;
    }
    let connection = match connect_copy(path, &copy, &mut why) {
        Ok(connection) => connection,
        Err(error) => {
            why = format!("{why}; the copy is empty: {error}");
            durable::remove(&copy).and_then(|()| remove_journals(&copy)).map_err(failed)?;
            connect(&copy)?
        }
    };
    let cache = Cache::start(copy, connection, Some(why.clone()), None)?;
    Ok(Opened { cache, damaged: None, frozen: Some(why) })
}

/// Copies what can be read, and adds to `why` what is missing. A dying disk may have lost what its journal of files held,
/// or a part of the database's own: then it is as it was when that was last taken up. The part of it before what is lost
/// may be older than the database. If that is damaged too, it is served with the blocks missing that could not be read:
/// whoever needs one of them is told so, and no list lacks anything without a word. Other damage may hide something.
fn connect_copy(path: &Path, copy: &Path, why: &mut String) -> Result<Connection, CacheError> {
    let failed = |source| CacheError::Open { path: copy.to_owned(), source };
    let take = || {
        let unread = salvage::copy(path, copy).map_err(failed)?;
        if unread.journal > 0 {
            remove_journals(copy).map_err(failed)?;
        }
        Ok::<_, CacheError>(unread)
    };
    let unread = take()?;
    if unread.database + unread.journal > 0 {
        let salvage::Unread { database, journal } = unread;
        why.push_str(&format!("; {database} blocks of it cannot be read, and {journal} of its newest part"));
    }
    let source = match connect(copy) {
        Err(CacheError::Database { source, .. }) if is_damage(&source) => source,
        connected => return connected,
    };
    remove_journals(copy).map_err(failed)?;
    match connect(copy) {
        Err(CacheError::Database { source, .. }) if is_damage(&source) && unread.database > 0 => {
            why.push_str(&format!("; it is damaged: {source}"));
        }
        Err(error) => return Err(error),
        Ok(older) => {
            why.push_str(&format!("; its newest part is damaged: {source}"));
            return Ok(older);
        }
    }
    take()?;
    connect_damaged(copy)
}

/// Opens a copy that is damaged, for what can be read of it.
pub(super) fn connect_damaged(copy: &Path) -> Result<Connection, CacheError> {
    let mut connection = attach(copy)?;
    schema::migrate_damaged(&mut connection)?;
    Ok(connection)
}

/// The file that another process may read: the copy while the daemon serves one, as in [`Opened::frozen`].
pub fn readable(folder: &Path, refuge: &Path) -> PathBuf {
    let copy = refuge.join(FROZEN).join(FILE);
    if copy.exists() { copy } else { folder.join(FILE) }
}

/// Whether the database in `folder` could be opened for writing now.
pub fn is_writable(folder: &Path) -> bool {
    try_write(folder).is_ok()
}

/// Whether it could not, for want of room alone.
pub fn is_full(folder: &Path) -> bool {
    try_write(folder).is_err_and(|error| durable::is_full(&error))
}

fn try_write(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(".room");
    let written = durable::write(&probe, &[0; 256 << 10], 0o600);
    let removed = durable::remove(&probe);
    written.and(removed)
}

/// Errors of a disk that is full or lets nobody write.
fn is_unwritable(error: &CacheError) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull, ReadOnly, SystemIoFailure};
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error {
        CacheError::Open { source, .. } => {
            matches!(source.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull)
        }
        CacheError::Database { source, .. } => {
            matches!(source.sqlite_error_code(), Some(CannotOpen | DiskFull | ReadOnly | SystemIoFailure))
        }
        _ => false,
    }
}

/// What is wrong with the file, where it is that: its bytes, or that the disk does not give them.
fn what_is_damaged(error: &CacheError) -> Option<String> {
    match error {
        CacheError::Open { source, .. } => durable::is_unreadable(source).then(|| source.to_string()),
        CacheError::Database { source, .. } => is_damage(source).then(|| source.to_string()),
        _ => None,
    }
}

/// Errors of the file and the disk rather than of one statement.
pub(super) fn ends_batch(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseCorrupt, DiskFull, NotADatabase, ReadOnly, SystemIoFailure,
    };
    matches!(
        error.sqlite_error_code(),
        Some(
            CannotOpen
                | DatabaseBusy
                | DatabaseCorrupt
                | DiskFull
                | NotADatabase
                | ReadOnly
                | SystemIoFailure
        )
    )
}

/// Opens the database or makes it, and looks whether it is sound.
pub(super) fn connect(path: &Path) -> Result<Connection, CacheError> {
    let failed = |operation| move |source| CacheError::Database { operation, path: path.to_owned(), source };
    make(path)?;
    let mut connection = attach(path)?;
    look_at(&connection, "quick_check").map_err(failed("check"))?;
    schema::migrate(&mut connection).map_err(failed("migrate"))?;
    Ok(connection)
}

/// Makes an empty file where there is none.
fn make(path: &Path) -> Result<(), CacheError> {
    // SQLite would make it with the umask's permissions; Secrets are in here.
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.set_permissions(std::fs::Permissions::from_mode(0o600)))
        .map_err(|source| CacheError::Open { path: path.to_owned(), source })
}

/// Opens the database that is there, as it is.
pub(super) fn attach(path: &Path) -> Result<Connection, CacheError> {
    let failed = |source| CacheError::Database { operation: "open", path: path.to_owned(), source };
    reattach(path).map_err(failed)
}

/// The same, for whoever says himself which file it is.
pub(super) fn reattach(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    set_up(&connection)?;
    Ok(connection)
}

/// Reads all of the database, indexes too; an error of [`is_damage`] says what is wrong.
pub(super) fn check(path: &Path) -> rusqlite::Result<()> {
    look_at(&connect_reader(path)?, "integrity_check")
}

fn look_at(connection: &Connection, check: &str) -> rusqlite::Result<()> {
    let sound: String = connection.query_row(&format!("PRAGMA {check}(1)"), [], |row| row.get(0))?;
    if sound == "ok" { Ok(()) } else { Err(damage(&sound)) }
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

pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
    ) || is_unread(error)
}

/// The disk does not give what is in the file. While a statement runs SQLite itself calls that damage; while one is made
/// ready, as when the first page is read or the journal is gone through, it does not.
pub(super) fn is_unread(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_IOERR_CORRUPTFS, SQLITE_IOERR_READ};
    let code = error.sqlite_error().map(|error| error.extended_code);
    matches!(code, Some(SQLITE_IOERR_CORRUPTFS | SQLITE_IOERR_READ))
}

fn damage(text: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(code, Some(text.replace('\n', " ")))
}

/// Renames the database and removes its journal, so that it can be looked at later. What was set aside before goes: Secrets
/// are in each.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, CacheError> {
    let before = damaged_of(path).map_err(|source| CacheError::Open { path: path.to_owned(), source })?;
    let number = |aside: &PathBuf| aside.extension()?.to_str()?.strip_prefix("damaged-")?.parse::<u32>().ok();
    let next = before.iter().filter_map(number).max().map_or(0, |last| last.saturating_add(1));
    let aside = path.with_file_name(format!("{FILE}.damaged-{next}"));
    let failed = |source| CacheError::Open { path: aside.clone(), source };
    std::fs::rename(path, &aside).map_err(failed)?;
    remove_journals(path).map_err(failed)?;
    durable::sync_folder_of(path).map_err(failed)?;
    for older in before {
        if let Err(error) = durable::remove(&older) {
            tracing::warn!(%error, "a damaged cache of before is still there");
        }
    }
    Ok(aside)
}

/// Removes what SQLite keeps beside a database that nobody has open.
pub(super) fn remove_journals(path: &Path) -> std::io::Result<()> {
    ["-wal", "-shm"].into_iter().try_for_each(|suffix| durable::remove(&salvage::with(path, suffix)))
}

/// What was set aside of the database at `path`.
fn damaged_of(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let listed = match std::fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(durable::named(e, "list", folder)),
    };
    let mut found = Vec::new();
    for entry in listed {
        let entry = entry.map_err(|e| durable::named(e, "list", folder))?;
        if entry.file_name().as_encoded_bytes().starts_with(b"cache.db.damaged") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes the damaged databases that were set aside in `folder`, with the Secrets in them.
///
/// # Errors
/// With the path.
pub fn forget_damaged(folder: &Path) -> std::io::Result<()> {
    damaged_of(&folder.join(FILE))?.iter().try_for_each(|aside| durable::remove(aside))
}
