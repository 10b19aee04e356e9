//! Reading everything again, and setting aside what no longer matches its digest.
//!
//! A blob set aside is as if it were not here: a push or a pull-through brings it back, or a second look.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use super::blob::DAMAGED;
use super::error::During;
use super::upload::{matches, read_through};
use super::{Error, Store, failpoint};
use crate::sys::digest::{Digest, Hasher};
use crate::sys::durable;

/// How gently to read, and from where on.
#[derive(Clone, Debug, Default)]
pub struct VerifySettings {
    /// Bytes a second to stay under; `None` reads as fast as the disk gives.
    pub rate: Option<u64>,
    /// The last blob that an earlier run has read: this one goes on behind it.
    pub after: Option<Digest>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Blobs read.
    pub blobs: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Blobs set aside, whose bytes do not match or could not be read.
    pub damaged: Vec<Digest>,
    /// Blobs whose file is gone.
    pub missing: Vec<Digest>,
    /// The last blob that was read to its end; blobs are read in the order of digests.
    pub last: Option<Digest>,
    /// Whether it was ended early.
    pub stopped: bool,
}

/// Blobs that are here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// How many, manifests among them.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// How much is here.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn held(&self) -> Result<Held, Error> {
        self.inner.readers.read(|c| {
            c.query_row("SELECT count(*), coalesce(sum(size), 0) FROM blob WHERE state = 1", [], |row| {
                Ok(Held { blobs: row.get(0)?, bytes: row.get(1)? })
            })
            .during("count blobs")
        })
    }

    /// Hashes every blob. `go_on` is asked many times a second, with `bytes` of the blob under way counted in; false
    /// ends the run early.
    ///
    /// # Errors
    /// Where the database or the quarantine cannot be written to, or a blob not be read for other reasons than its disk's.
    pub fn verify(
        &self,
        settings: &VerifySettings,
        mut go_on: impl FnMut(&VerifyReport) -> bool,
    ) -> Result<VerifyReport, Error> {
        let mut report = VerifyReport { last: settings.after.clone(), ..VerifyReport::default() };
        let mut pace = Pace { rate: settings.rate, begun: Instant::now(), bytes: 0 };
        loop {
            let page = self.blobs(report.last.as_ref(), 256)?;
            if page.is_empty() {
                return Ok(report);
            }
            for blob in page {
                let path = self.blob_path(&blob.digest);
                let read = hash(&path, &blob.digest, |piece| {
                    report.bytes += piece;
                    pace.keep(piece);
                    go_on(&report)
                });
                match read {
                    Ok(None) => {
                        report.stopped = true;
                        return Ok(report);
                    }
                    Ok(Some(true)) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        if self.set_aside(&blob.digest, Bytes::Gone)? {
                            report.missing.push(blob.digest.clone());
                        }
                    }
                    // What this process lacks, such as a descriptor, says nothing of the blob.
                    Err(e) if !durable::is_unreadable(&e) => {
                        return Err(durable::named(e, "read", &path).into());
                    }
                    Ok(Some(false)) | Err(_) => {
                        if self.set_aside(&blob.digest, Bytes::There)? {
                            report.damaged.push(blob.digest.clone());
                        }
                    }
                }
                report.blobs += 1;
                report.last = Some(blob.digest);
            }
        }
    }

    /// Moves a blob to the quarantine, if it still is as it was found: a push may have repaired it, or a
    /// collection removed it, in the meantime. The row goes first, so that it is never served again.
    fn set_aside(&self, digest: &Digest, bytes: Bytes) -> Result<bool, Error> {
        let (store, digest) = (self.clone(), digest.clone());
        let path = self.blob_path(&digest);
        let aside = self.quarantine_path(&digest);
        let changed = self.inner.writer.write({
            let (path, digest) = (path.clone(), digest.clone());
            move |batch| {
                match matches(&path, &digest) {
                    Ok(true) => return Ok(false),
                    Ok(false) => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound || durable::is_unreadable(&e) => {}
                    Err(e) => return Err(durable::named(e, "read", &path).into()),
                }
                let changed = batch
                    .tx
                    .execute(
                        "UPDATE blob SET state = ?2 WHERE digest = ?1 AND state = 1",
                        (digest.as_str(), DAMAGED),
                    )
                    .during("set a blob aside")?;
                Ok(changed > 0)
            }
        })?;
        self.changed();
        self.charts_changed();
        if !changed || bytes == Bytes::Gone {
            return Ok(changed);
        }
        store.inner.writer.write(move |batch| {
            let here: bool = batch
                .tx
                .query_row("SELECT state = 1 FROM blob WHERE digest = ?1", [digest.as_str()], |row| {
                    row.get(0)
                })
                .during("find a blob")?;
            if !here {
                failpoint::pass("quarantine-rename");
                std::fs::rename(&path, &aside).map_err(|e| durable::named(e, "rename", &path))?;
                batch.sync_folder_of(&path);
                batch.sync_folder_of(&aside);
            }
            Ok(())
        })?;
        Ok(true)
    }
}

/// What there is to move of a blob that is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bytes {
    /// Its file, with other bytes.
    There,
    /// Nothing.
    Gone,
}

/// Keeps reading under a rate.
struct Pace {
    rate: Option<u64>,
    begun: Instant,
    bytes: u64,
}

impl Pace {
    fn keep(&mut self, bytes: u64) {
        let Some(rate) = self.rate.filter(|rate| *rate > 0) else { return };
        self.bytes += bytes;
        #[allow(clippy::cast_precision_loss, reason = "a pause need not be exact")]
        let due = Duration::from_secs_f64(self.bytes as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(self.begun.elapsed()));
    }
}

/// Whether a file still hashes to `digest`. `go_on` is asked after each piece, with its length; `None` where it said no.
fn hash(
    path: &std::path::Path,
    digest: &Digest,
    mut go_on: impl FnMut(u64) -> bool,
) -> io::Result<Option<bool>> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut wanted = true;
    read_through(&mut File::open(path)?, |piece| {
        hasher.update(piece);
        wanted = go_on(piece.len() as u64);
        wanted
    })?;
    Ok(wanted.then(|| hasher.finish() == *digest))
}
