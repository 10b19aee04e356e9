//! Blobs: finding, opening, linking into a repository, unlinking.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension};

use super::error::During;
use super::refs::{self, Owner};
use super::upload::Ready;
use super::writer::Batch;
use super::{Error, Store, failpoint};
use crate::sys::clock;
use crate::sys::digest::Digest;
use crate::sys::durable;

/// The state of a row of `blob` whose bytes are lost: they were damaged, or their file is gone. 1 is here, 0 only heard of.
pub(super) const DAMAGED: i64 = 2;

/// Kinds of a row of `member` and `link`.
pub(super) const BLOB: i64 = 0;
pub(super) const MANIFEST: i64 = 1;

/// A blob that is here.
#[derive(Clone, Debug)]
pub struct Blob {
    /// What its bytes hash to.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    path: PathBuf,
}

impl Blob {
    /// Opens its bytes for reading. They stay readable even if the blob is removed meanwhile.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub fn open(&self) -> Result<File, Error> {
        Ok(File::open(&self.path).map_err(|e| durable::named(e, "open", &self.path))?)
    }

    /// All its bytes; for manifests and other small ones.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        Ok(std::fs::read(&self.path).map_err(|e| durable::named(e, "read", &self.path))?)
    }

    /// All its bytes, for those who can have them from elsewhere: `None` where they are lost, because the file is gone,
    /// its disk does not give it, or it holds something else. That is logged; the next verification sets it aside.
    ///
    /// # Errors
    /// Where this process cannot read the file, which says nothing of the blob.
    pub fn intact(&self) -> Result<Option<Vec<u8>>, Error> {
        let why = match std::fs::read(&self.path) {
            Ok(bytes) if Digest::of(self.digest.algorithm(), &bytes) == self.digest => {
                return Ok(Some(bytes));
            }
            Ok(_) => "its bytes are others".to_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound || durable::is_unreadable(&e) => e.to_string(),
            Err(e) => return Err(durable::named(e, "read", &self.path).into()),
        };
        tracing::error!(digest = %self.digest, why, "a blob is damaged hint: run `edge store verify`");
        Ok(None)
    }
}

/// One line of a listing of blobs.
#[derive(Clone, Debug)]
pub struct BlobSummary {
    /// Which.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

impl Store {
    /// The blob `digest` if it is here; with `repository`, only if it may be fetched through that one.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn blob(&self, repository: Option<&str>, digest: &Digest) -> Result<Option<Blob>, Error> {
        let found: Option<(i64, u64)> = self.inner.readers.read(|c| match repository {
            None => id_and_size(c, digest),
            Some(repository) => c
                .prepare_cached(
                    "SELECT b.id, b.size FROM blob b WHERE b.digest = ?1 AND b.state = 1 AND EXISTS (
                       SELECT 1 FROM member m JOIN repository r ON r.id = m.repository
                       WHERE m.blob = b.id AND r.name = ?2)",
                )
                .and_then(|mut q| {
                    q.query_row([digest.as_str(), repository], |r| Ok((r.get(0)?, r.get(1)?))).optional()
                })
                .during("find a blob"),
        })?;
        let Some((id, size)) = found else { return Ok(None) };
        self.touch(id);
        Ok(Some(self.found(digest, size)))
    }

    /// The same, where being looked at is no use of it: for those who go through all that is here, under a
    /// [`Hold`](super::Hold) or without naming it to anybody.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn glance(&self, digest: &Digest) -> Result<Option<Blob>, Error> {
        let found = self.inner.readers.read(|c| id_and_size(c, digest))?;
        Ok(found.map(|(_, size)| self.found(digest, size)))
    }

    /// Makes a blob that is here available through `repository` too (a cross-repository mount).
    /// False where the blob is not here.
    ///
    /// # Errors
    /// Where the database cannot be written to.
    pub fn link_blob(&self, repository: &str, digest: &Digest) -> Result<bool, Error> {
        let (repository, digest) = (repository.to_owned(), digest.clone());
        let linked = self.inner.writer.write(move |batch| {
            let Some(blob) = here(batch.tx, &digest)? else { return Ok(None) };
            let repository = repository_id(batch.tx, &repository)?;
            add_member(batch.tx, repository, blob, BLOB)?;
            Ok(Some(blob))
        })?;
        if let Some(blob) = linked {
            self.touch(blob);
        }
        Ok(linked.is_some())
    }

    /// Ends on behalf of `by` that a blob can be fetched through `repository`; its bytes go when nobody needs them.
    /// False where it could not be fetched there.
    ///
    /// # Errors
    /// [`Error::Needed`] where somebody who goes before has an image of it there.
    pub fn unlink_blob(&self, repository: &str, digest: &Digest, by: &Owner) -> Result<bool, Error> {
        let (repository, digest, by) = (repository.to_owned(), digest.clone(), by.clone());
        self.inner.writer.write(move |batch| {
            let id = repository_id(batch.tx, &repository)?;
            refs::refuse_needed(batch.tx, (&repository, id), &digest, &by)?;
            let removed = batch
                .tx
                .execute(
                    "DELETE FROM member WHERE kind = 0 AND blob = (SELECT id FROM blob WHERE digest = ?1)
                     AND repository = ?2",
                    (digest.as_str(), id),
                )
                .during("unlink a blob")?;
            Ok(removed > 0)
        })
    }

    /// Every blob that is here, in the order of digests, after `after`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<BlobSummary>, Error> {
        let after = after.map_or("", Digest::as_str);
        self.inner.readers.read(|c| {
            let mut query = c
                .prepare_cached(
                    "SELECT digest, size FROM blob WHERE state = 1 AND digest > ?1 ORDER BY digest LIMIT ?2",
                )
                .during("list blobs")?;
            let rows = query
                .query_map((after, limit), |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
                .during("list blobs")?;
            let mut blobs = Vec::new();
            for row in rows {
                let (digest, size) = row.during("list blobs")?;
                blobs.extend(digest.parse().ok().map(|digest| BlobSummary { digest, size }));
            }
            Ok(blobs)
        })
    }

    pub(super) fn found(&self, digest: &Digest, size: u64) -> Blob {
        Blob { digest: digest.clone(), size, path: self.blob_path(digest) }
    }

    /// Renames what was uploaded to where blobs lie, and notes it. The folder is synced and the row
    /// committed with the batch; the row number is the answer.
    pub(super) fn place(&self, batch: &mut Batch<'_>, ready: &Ready) -> Result<i64, Error> {
        let path = self.blob_path(&ready.digest);
        let folder = path.parent().unwrap_or(&path);
        if !folder.is_dir() {
            durable::folder(folder, 0o700)?;
            batch.sync_folder_of(folder);
        }
        failpoint::pass("blob-rename");
        std::fs::rename(&ready.path, &path).map_err(|e| durable::named(e, "rename", &ready.path))?;
        failpoint::pass("blob-renamed");
        batch.sync_folder_of(&path);
        let now = clock::now().as_second();
        let id = batch
            .tx
            .prepare_cached(
                "INSERT INTO blob (digest, size, state, stored, used) VALUES (?1, ?2, 1, ?3, ?3)
                 ON CONFLICT (digest) DO UPDATE SET size = ?2, state = 1, stored = ?3, used = ?3 RETURNING id",
            )
            .and_then(|mut q| q.query_row((ready.digest.as_str(), ready.size, now), |row| row.get(0)))
            .during("note a blob")?;
        add_where_awaited(batch.tx, id)?;
        Ok(id)
    }
}

/// The row of a blob that is here.
pub(super) fn here(tx: &Connection, digest: &Digest) -> Result<Option<i64>, Error> {
    Ok(id_and_size(tx, digest)?.map(|(id, _)| id))
}

fn id_and_size(c: &Connection, digest: &Digest) -> Result<Option<(i64, u64)>, Error> {
    c.prepare_cached("SELECT id, size FROM blob WHERE digest = ?1 AND state = 1")
        .and_then(|mut q| q.query_row([digest.as_str()], |r| Ok((r.get(0)?, r.get(1)?))).optional())
        .during("find a blob")
}

/// The row of a digest, made where it is only heard of.
pub(super) fn heard_of(tx: &Connection, digest: &Digest, size: u64) -> Result<i64, Error> {
    tx.prepare_cached(
        "INSERT INTO blob (digest, size, state, stored, used) VALUES (?1, ?2, 0, 0, 0)
         ON CONFLICT (digest) DO UPDATE SET digest = ?1 RETURNING id",
    )
    .and_then(|mut q| q.query_row((digest.as_str(), size), |row| row.get(0)))
    .during("note a digest")
}

/// The row of a repository, made where it is new.
pub(super) fn repository_id(tx: &Connection, name: &str) -> Result<i64, Error> {
    let found = tx
        .prepare_cached("SELECT id FROM repository WHERE name = ?1")
        .and_then(|mut q| q.query_row([name], |row| row.get(0)).optional())
        .during("find a repository")?;
    match found {
        Some(id) => Ok(id),
        None => tx
            .query_row("INSERT INTO repository (name) VALUES (?1) RETURNING id", [name], |row| row.get(0))
            .during("make a repository"),
    }
}

/// Makes what has come available through every repository whose manifests link to it, whoever brought it.
fn add_where_awaited(tx: &Connection, blob: i64) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT OR IGNORE INTO member (repository, blob, kind)
         SELECT m.repository, l.child, l.kind FROM link l JOIN member m ON m.blob = l.parent AND m.kind = 1
         WHERE l.child = ?1",
    )
    .and_then(|mut q| q.execute([blob]))
    .during("link a blob")?;
    Ok(())
}

pub(super) fn add_member(tx: &Connection, repository: i64, blob: i64, kind: i64) -> Result<(), Error> {
    tx.prepare_cached("INSERT OR IGNORE INTO member (repository, blob, kind) VALUES (?1, ?2, ?3)")
        .and_then(|mut q| q.execute((repository, blob, kind)))
        .during("link a blob")?;
    Ok(())
}
