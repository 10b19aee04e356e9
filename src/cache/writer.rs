//! What jobs write with.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::CacheError;
use super::bound::Interned;
use super::edits::Rebase;
use super::fresh::Fresh;
use super::gone::Gone;
use super::scope::pod_of;
use super::thread::Job;

/// Statements that are kept prepared.
const STATEMENTS: usize = 64;

/// What jobs write with: the one connection that may.
#[derive(Debug)]
pub struct Writer {
    pub(super) connection: Connection,
    pub(super) interned: Interned,
    pub(super) gone: Gone,
    pub(super) fresh: Arc<Fresh>,
    pub(super) epoch: Arc<AtomicU64>,
    pub(super) rollbacks: Arc<AtomicU64>,
    torn: Arc<AtomicBool>,
    pub(super) rebase: Arc<OnceLock<Rebase>>,
    /// While a record is run that others have gone before: when it came, in seconds since 1970.
    pub(super) put_off_since: Option<i64>,
    /// While an answer of the cloud's is taken: when it was asked for, in seconds since 1970.
    asked: Option<i64>,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        fresh: Arc<Fresh>,
        epoch: Arc<AtomicU64>,
        rollbacks: Arc<AtomicU64>,
        torn: Arc<AtomicBool>,
        rebase: Arc<OnceLock<Rebase>>,
    ) -> Self {
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        let (interned, gone) = (Interned::default(), Gone::default());
        Self {
            connection,
            interned,
            gone,
            fresh,
            epoch,
            rollbacks,
            torn,
            rebase,
            put_off_since: None,
            asked: None,
        }
    }

    /// Closes the connection, and writes with this one from now on.
    pub(super) fn take_over(&mut self, connection: Connection) {
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        self.connection = connection;
        self.interned.forget();
        self.gone = Gone::default();
    }

    /// Takes what the cloud has answered to what was `asked` then, in seconds since 1970. It is newer than whatever was
    /// written before that, and what was written since is left where it has the higher version of the same object.
    pub fn of_answer<T>(&mut self, asked: i64, take: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.asked.replace(asked);
        let taken = take(self);
        self.asked = before;
        taken
    }

    /// Since when what is written may be newer than what is taken now; `None` where nothing is.
    pub(super) fn since(&self) -> Option<i64> {
        // What was put off came after it was asked for.
        self.asked.or(self.put_off_since)
    }

    /// See [`super::Cache::rollbacks`].
    pub fn rollbacks(&self) -> u64 {
        self.rollbacks.load(Ordering::Acquire)
    }

    /// Something that was to be kept is not whole: once this is written, what is being watched is read anew.
    pub fn note_loss(&self) {
        self.torn.store(true, Ordering::Release);
    }

    /// Whether something is missing, and what is being watched was not made to be read anew yet.
    pub(super) fn is_torn(&self) -> bool {
        self.torn.load(Ordering::Acquire)
    }

    /// See [`super::Cache::epoch`].
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn db(&self) -> &Connection {
        &self.connection
    }

    /// Keeps a small fact under a name.
    ///
    /// # Errors
    /// The statement's.
    pub fn set_meta(&self, key: &str, value: &str) -> Result<(), CacheError> {
        self.db()
            .prepare_cached(
                "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )?
            .execute([key, value])?;
        Ok(())
    }

    /// Removes everything that was read from the cloud, Secrets and tokens with it, and keeps only the
    /// changes that wait to be replayed, with the tokens of the pods that made them, in whose names they are told, and the
    /// small facts of [`Writer::set_meta`].
    ///
    /// # Errors
    /// The statement's.
    pub fn clear(&mut self) -> Result<(), CacheError> {
        self.interned.forget();
        self.gone = Gone::default();
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.db().execute_batch(&format!(
            "DELETE FROM member; DELETE FROM scope; DELETE FROM document;
             DELETE FROM token WHERE bound NOT IN (SELECT 'Pod/' || {} FROM author);
             DELETE FROM caller WHERE identity NOT IN (SELECT identity FROM author);
             DELETE FROM verifier; DELETE FROM refused; DELETE FROM written;
             DELETE FROM object WHERE NOT EXISTS (SELECT 1 FROM change
                 WHERE change.resource = object.resource AND change.namespace = object.namespace
                   AND change.name = object.name);
             DELETE FROM identity;",
            pod_of("identity")
        ))?;
        Ok(())
    }
}

impl super::Cache {
    /// After [`Writer::clear`]: gives the freed pages back and empties the journal, so that what was
    /// removed is not on the disk any more. (Removed rows are overwritten by `secure_delete`.)
    ///
    /// # Errors
    /// [`CacheError::Database`].
    pub async fn compact(&self) -> Result<(), CacheError> {
        let failed =
            |source| CacheError::Database { operation: "compact", path: self.shared.path.clone(), source };
        let (reply, answer) = oneshot::channel();
        self.shared.jobs.send(Job::Compact { reply }).map_err(|_| CacheError::Closed)?;
        answer.await.map_err(|_| CacheError::Closed)?.map_err(failed)
    }
}
