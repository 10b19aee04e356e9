//! The one thread that writes: jobs in, batches of them on disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::CacheError;
use super::bound::Interned;

/// How long a record may wait for others, so that one sync serves them all.
const GATHER: Duration = Duration::from_millis(250);
/// Jobs in one transaction at the most.
const BATCH: usize = 2048;
/// How long nothing is tried by itself after writing failed.
const RETRY: Duration = Duration::from_secs(5);
/// Bytes that must find room before writing counts as possible again.
const ROOM: usize = 128 << 10;

/// What jobs write with: the one connection that may.
#[derive(Debug)]
pub struct Writer {
    connection: Connection,
    pub(super) interned: Interned,
    epoch: Arc<AtomicU64>,
    rollbacks: Arc<AtomicU64>,
    torn: Arc<AtomicBool>,
}

/// How the batch of a committing job ended.
#[derive(Debug)]
pub enum Outcome {
    /// On disk.
    Committed,
    /// Nothing of it is.
    Failed(String),
}

pub(super) type Record = Box<dyn FnOnce(&mut Writer) -> Result<(), CacheError> + Send>;
pub(super) type Finish = Box<dyn FnOnce(Outcome) + Send>;
pub(super) type Commit = Box<dyn FnOnce(Option<&mut Writer>) -> (bool, Finish) + Send>;

pub(super) enum Job {
    Record { size: usize, run: Record },
    Commit { run: Commit },
    Compact { reply: oneshot::Sender<Result<(), rusqlite::Error>> },
}

pub(super) struct Thread {
    pub writer: Writer,
    pub inbox: Receiver<Job>,
    pub waiting: Arc<AtomicUsize>,
    pub lost: watch::Sender<u64>,
    pub torn: Arc<AtomicBool>,
    pub trouble: watch::Sender<Option<String>>,
    pub batches: watch::Sender<u64>,
    pub path: PathBuf,
    /// Why nothing is written at all: this is a copy of a file that cannot be.
    pub frozen: Option<String>,
}

impl Thread {
    /// Runs until every handle is gone, then leaves the file whole and without a journal.
    pub fn run(mut self) {
        loop {
            let failing = self.trouble.borrow().is_some() && self.frozen.is_none();
            let first = match failing {
                true => self.inbox.recv_timeout(RETRY),
                false => self.inbox.recv().map_err(RecvTimeoutError::from),
            };
            let jobs = match first {
                Ok(first) => self.gather(first),
                // Nobody writes, but somebody may wait to hear that it is possible again.
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            self.write(jobs);
        }
        if let Err(error) = self.writer.connection.execute_batch("PRAGMA optimize") {
            tracing::debug!(%error, "cache closed without tidying");
        }
    }

    /// Collects what one sync may serve. A commit has somebody waiting and is not kept.
    fn gather(&self, first: Job) -> Vec<Job> {
        let until = Instant::now() + GATHER;
        let mut urgent = !matches!(first, Job::Record { .. });
        let mut jobs = vec![first];
        while jobs.len() < BATCH {
            let patience =
                if urgent { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
            match self.inbox.recv_timeout(patience) {
                Ok(job) => {
                    urgent |= !matches!(job, Job::Record { .. });
                    jobs.push(job);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        jobs
    }

    fn write(&mut self, jobs: Vec<Job>) {
        let mut finishes = Vec::new();
        let mut compacts = Vec::new();
        let mut records = 0;
        let mut failed = self.find_room().and_then(|()| self.begin()).err();
        for job in jobs {
            match job {
                Job::Record { size, run } => {
                    self.waiting.fetch_sub(size, Ordering::Relaxed);
                    records += 1;
                    if failed.is_none() {
                        failed = self.run_record(run);
                    }
                }
                Job::Compact { reply } => compacts.push(reply),
                Job::Commit { run } => {
                    finishes.push(self.run_commit(run, &mut failed));
                }
            }
        }
        if failed.is_none() {
            failed = self.writer.connection.execute_batch("COMMIT").err();
        }
        self.batches.send_modify(|n| *n += 1);
        let why = failed.map(|source| {
            let _ = self.writer.connection.execute_batch("ROLLBACK");
            self.writer.interned.forget();
            if records > 0 {
                self.writer.rollbacks.fetch_add(1, Ordering::AcqRel);
            }
            self.frozen.clone().unwrap_or_else(|| {
                CacheError::Database { operation: "write", path: self.path.clone(), source }.to_string()
            })
        });
        self.report(why.as_deref(), records);
        for finish in finishes {
            finish(why.clone().map_or(Outcome::Committed, Outcome::Failed));
        }
        for reply in compacts {
            let _ = reply.send(self.compact());
        }
    }

    fn begin(&self) -> Result<(), rusqlite::Error> {
        self.writer.connection.execute_batch("BEGIN IMMEDIATE")
    }

    /// After a failure, writes and removes something of some size: a transaction that changes nothing succeeds on
    /// a full disk too, and would call everybody back too early.
    fn find_room(&self) -> Result<(), rusqlite::Error> {
        if self.frozen.is_some() {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY);
            return Err(rusqlite::Error::SqliteFailure(code, None));
        }
        if self.trouble.borrow().is_none() {
            return Ok(());
        }
        let db = &self.writer.connection;
        db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('room', ?)", ["x".repeat(ROOM)])?;
        db.execute("DELETE FROM meta WHERE key = 'room'", []).map(drop)
    }

    fn compact(&self) -> Result<(), rusqlite::Error> {
        let db = &self.writer.connection;
        db.execute_batch("VACUUM")?;
        // A reader at work keeps the journal, and this is said in a row, not as an error.
        let busy: bool = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            return Err(rusqlite::Error::SqliteFailure(code, Some("a reader holds the journal".into())));
        }
        Ok(())
    }

    /// A record that fails by itself is left out; gives the error that ends the whole batch, if any.
    fn run_record(&mut self, run: Record) -> Option<rusqlite::Error> {
        if let Err(e) = self.writer.connection.execute_batch("SAVEPOINT job") {
            return Some(e);
        }
        let end = match run(&mut self.writer) {
            Ok(()) => "RELEASE job",
            Err(CacheError::Statement(e)) if ends_batch(&e) => return Some(e),
            Err(error) => {
                tracing::warn!(%error, "an object was not recorded");
                self.writer.interned.forget();
                "ROLLBACK TO job; RELEASE job"
            }
        };
        self.writer.connection.execute_batch(end).err()
    }

    /// Runs a job in the batch. In one that has failed there is no transaction any more, and each
    /// statement would stand by itself: the job is not run then.
    fn run_commit(&mut self, run: Commit, failed: &mut Option<rusqlite::Error>) -> Finish {
        if failed.is_none() {
            *failed = self.writer.connection.execute_batch("SAVEPOINT job").err();
        }
        if failed.is_some() {
            return run(None).1;
        }
        let (keep, finish) = run(Some(&mut self.writer));
        let end = if keep { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
        if !keep {
            self.writer.interned.forget();
        }
        *failed = self.writer.connection.execute_batch(end).err();
        finish
    }

    /// Says once when writing fails, and once when it works again.
    fn report(&self, why: Option<&str>, records: usize) {
        let before = self.trouble.borrow().clone();
        match (why, before) {
            (Some(why), before) => {
                if records > 0 {
                    self.torn.store(true, Ordering::Release);
                }
                if before.as_deref() != Some(why) {
                    tracing::error!(error = why, "the cache cannot be written");
                    self.trouble.send_replace(Some(why.to_owned()));
                }
            }
            (None, Some(_)) => {
                tracing::info!("the cache can be written again");
                self.trouble.send_replace(None);
            }
            (None, None) => {}
        }
        if why.is_none() && self.torn.swap(false, Ordering::AcqRel) {
            self.lost.send_modify(|n| *n += 1);
        }
    }
}

/// Errors of the file and the disk rather than of one statement.
fn ends_batch(error: &rusqlite::Error) -> bool {
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

impl Writer {
    pub(super) fn new(
        connection: Connection,
        epoch: Arc<AtomicU64>,
        rollbacks: Arc<AtomicU64>,
        torn: Arc<AtomicBool>,
    ) -> Self {
        connection.set_prepared_statement_cache_capacity(64);
        Self { connection, interned: Interned::default(), epoch, rollbacks, torn }
    }

    /// See [`super::Cache::rollbacks`].
    pub fn rollbacks(&self) -> u64 {
        self.rollbacks.load(Ordering::Acquire)
    }

    /// Something that was to be kept is not whole: once this is written, what is being watched is read anew.
    pub fn note_loss(&self) {
        self.torn.store(true, Ordering::Release);
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
    /// changes that wait to be replayed, and the small facts of [`Writer::set_meta`].
    ///
    /// # Errors
    /// The statement's.
    pub fn clear(&mut self) -> Result<(), CacheError> {
        self.interned.forget();
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.db().execute_batch(
            "DELETE FROM member; DELETE FROM scope; DELETE FROM document; DELETE FROM token;
             DELETE FROM caller; DELETE FROM verifier; DELETE FROM refused; DELETE FROM written;
             DELETE FROM object WHERE NOT EXISTS (SELECT 1 FROM change
                 WHERE change.resource = object.resource AND change.namespace = object.namespace
                   AND change.name = object.name);
             DELETE FROM identity;",
        )?;
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
