//! Manifests that are kept under their digest: those of an index, until it is here, and those that nobody tagged.
//!
//! An index takes the place of such a ref only where it is kept for at least as long. What clients pushed is kept by what
//! they pushed alone: an index of the mirror or of a bundle goes with its generation, one that was pulled through
//! whenever there is no room. And what somebody asked for by its digest has no index take its place.

use rusqlite::Connection;

use super::Error;
use super::error::During;
use super::refs::{self, Owner};
use crate::sys::digest::Digest;

/// Keeps a manifest, given by the rows of its repository and its own, under its digest, unless an index does.
pub(super) fn keep(
    tx: &Connection,
    (repository, manifest): (i64, i64),
    digest: &Digest,
    owner: &Owner,
    asked: bool,
) -> Result<(), Error> {
    if asked {
        tx.prepare_cached("INSERT OR IGNORE INTO asked (repository, name) VALUES (?1, ?2)")
            .and_then(|mut q| q.execute((repository, digest.as_str())))
            .during("set a ref")?;
    } else if is_below(tx, repository, manifest, owner)? {
        return Ok(());
    }
    refs::set(tx, repository, digest.as_str(), manifest, owner)
}

/// Whether an index above a manifest is kept in the repository for as long as `owner` wants the manifest kept.
fn is_below(tx: &Connection, repository: i64, manifest: i64, owner: &Owner) -> Result<bool, Error> {
    tx.prepare_cached(
        "WITH RECURSIVE above (id) AS (SELECT parent FROM link WHERE child = ?2 AND kind = 1
           UNION SELECT l.parent FROM link l JOIN above ON l.child = above.id AND l.kind = 1)
         SELECT EXISTS (SELECT 1 FROM above JOIN ref f ON f.blob = above.id AND f.repository = ?1
           JOIN owner o ON o.id = f.owner WHERE o.kind = ?3 OR ?3 = 2)",
    )
    .and_then(|mut q| q.query_row((repository, manifest, owner.kind()), |row| row.get(0)))
    .during("find an index")
}

/// Drops the refs whose place an index takes that `owner` keeps from now on.
pub(super) fn drop_below(
    tx: &Connection,
    (repository, index): (i64, i64),
    owner: &Owner,
) -> Result<(), Error> {
    tx.prepare_cached(
        "DELETE FROM ref WHERE repository = ?1 AND instr(name, ':') > 0
         AND blob IN (SELECT child FROM link WHERE parent = ?2 AND kind = 1)
         AND owner IN (SELECT id FROM owner WHERE kind = 2 OR (kind = 3 AND ?3 = 3 AND NOT EXISTS
           (SELECT 1 FROM asked a WHERE a.repository = ref.repository AND a.name = ref.name)))",
    )
    .and_then(|mut q| q.execute((repository, index, owner.kind())))
    .during("link a manifest")?;
    Ok(())
}

/// Forgets what was asked for and is not named any more.
pub(super) fn forget(tx: &Connection) -> Result<(), Error> {
    tx.execute(
        "DELETE FROM asked WHERE NOT EXISTS
         (SELECT 1 FROM ref f WHERE f.repository = asked.repository AND f.name = asked.name)",
        [],
    )
    .during("forget a name")?;
    Ok(())
}
