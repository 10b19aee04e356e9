//! When something was last used: kept in memory and written now and then, to spare flash.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::During;
use super::{Error, Store};
use crate::sys::clock;

/// Uses in memory after which they are written, however little time has passed.
const MANY: usize = 4096;
/// A use is worth writing when the last one written is older than this, in seconds.
const COARSE: i64 = 3600;

#[derive(Default)]
pub(super) struct Used(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    /// By blob: since when it counts as in use by somebody who may name it in a manifest soon.
    recent: HashMap<i64, Instant>,
    /// Those of them that are not written yet.
    unwritten: HashSet<i64>,
}

impl Store {
    /// Notes that a blob was asked for or stored just now.
    pub(super) fn touch(&self, blob: i64) {
        let mut noted = self.noted();
        noted.recent.insert(blob, Instant::now());
        noted.unwritten.insert(blob);
        let many = noted.unwritten.len() > MANY;
        drop(noted);
        if many && let Err(error) = self.flush_used() {
            tracing::warn!(%error, "cannot note what was used");
        }
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Noted> {
        self.inner.used.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blobs that were used in this process within `period`; older ones are forgotten.
    pub(super) fn recently_used(&self, period: Duration) -> Vec<i64> {
        self.noted().recent.iter().filter(|(_, at)| at.elapsed() < period).map(|(id, _)| *id).collect()
    }

    /// Writes what was used since the last time; called now and then, and before the end.
    ///
    /// # Errors
    /// Where the database cannot be written to.
    pub fn flush_used(&self) -> Result<(), Error> {
        let mut noted = self.noted();
        let ids = std::mem::take(&mut noted.unwritten);
        noted.recent.retain(|_, at| at.elapsed() < Duration::from_secs(600));
        drop(noted);
        if ids.is_empty() {
            return Ok(());
        }
        let now = clock::now().as_second();
        self.inner.writer.write(move |batch| {
            let mut blob = batch
                .tx
                .prepare_cached("UPDATE blob SET used = ?2 WHERE id = ?1 AND used < ?2 - ?3")
                .during("note a use")?;
            let mut refs = batch
                .tx
                .prepare_cached("UPDATE ref SET used = ?2 WHERE blob = ?1 AND used < ?2 - ?3")
                .during("note a use")?;
            for id in ids {
                blob.execute((id, now, COARSE)).during("note a use")?;
                refs.execute((id, now, COARSE)).during("note a use")?;
            }
            Ok(())
        })
    }
}
