//! Reading everything again, and setting aside what no longer matches its digest.
//!
//! A blob set aside is as if it were not here: a push or a pull-through brings it back.

use std::io;
use std::time::{Duration, Instant};

use super::blob::{ABSENT, DAMAGED};
use super::error::During;
use super::upload::matches;
use super::{Error, Store, failpoint};
use crate::sys::digest::Digest;
use crate::sys::durable;

/// How gently to read.
#[derive(Clone, Debug, Default)]
pub struct VerifySettings {
    /// Bytes a second to stay under; `None` reads as fast as the disk gives.
    pub rate: Option<u64>,
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
}

impl Store {
    /// Hashes every blob. `go_on` is asked after each; false ends the run early.
    ///
    /// # Errors
    /// Where the database or the quarantine cannot be written to.
    pub fn verify(
        &self,
        settings: &VerifySettings,
        mut go_on: impl FnMut(&VerifyReport) -> bool,
    ) -> Result<VerifyReport, Error> {
        let mut report = VerifyReport::default();
        let mut after: Option<Digest> = None;
        loop {
            let page = self.blobs(after.as_ref(), 256)?;
            let Some(last) = page.last() else { return Ok(report) };
            after = Some(last.digest.clone());
            for blob in page {
                let begun = Instant::now();
                self.verify_one(&blob.digest, &mut report)?;
                report.blobs += 1;
                report.bytes += blob.size;
                if !go_on(&report) {
                    return Ok(report);
                }
                if let Some(rate) = settings.rate.filter(|rate| *rate > 0) {
                    #[allow(clippy::cast_precision_loss, reason = "a pause need not be exact")]
                    let due = Duration::from_secs_f64(blob.size as f64 / rate as f64);
                    std::thread::sleep(due.saturating_sub(begun.elapsed()));
                }
            }
        }
    }

    fn verify_one(&self, digest: &Digest, report: &mut VerifyReport) -> Result<(), Error> {
        match matches(&self.blob_path(digest), digest) {
            Ok(true) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if self.set_aside(digest, ABSENT)? {
                    report.missing.push(digest.clone());
                }
                Ok(())
            }
            Ok(false) | Err(_) => {
                if self.set_aside(digest, DAMAGED)? {
                    report.damaged.push(digest.clone());
                }
                Ok(())
            }
        }
    }

    /// Moves a blob to the quarantine, if it still is as it was found: a push may have repaired it, or a
    /// collection removed it, in the meantime. The row goes first, so that it is never served again.
    fn set_aside(&self, digest: &Digest, state: i64) -> Result<bool, Error> {
        let (store, digest) = (self.clone(), digest.clone());
        let path = self.blob_path(&digest);
        let aside = format!("{}-{}", digest.algorithm().name(), digest.hex());
        let aside = self.inner.settings.folder.join("quarantine").join(aside);
        let changed = self.inner.writer.write({
            let (path, digest) = (path.clone(), digest.clone());
            move |batch| {
                if matches(&path, &digest).unwrap_or(false) {
                    return Ok(false);
                }
                let changed = batch
                    .tx
                    .execute(
                        "UPDATE blob SET state = ?2 WHERE digest = ?1 AND state = 1",
                        (digest.as_str(), state),
                    )
                    .during("set a blob aside")?;
                Ok(changed > 0)
            }
        })?;
        self.changed();
        self.charts_changed();
        if !changed || state == ABSENT {
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
