//! The one thread that writes: jobs in, batches of them on disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::share::{self, Own, PutOff, Shares};
use super::{CacheError, Writer, open, renew, whole};

/// How long a record may wait for others, so that one sync serves them all.
const GATHER: Duration = Duration::from_millis(250);
/// Jobs in one transaction at the most.
const BATCH: usize = 2048;
/// How long nothing is tried by itself after writing failed.
const RETRY: Duration = Duration::from_secs(5);
/// Bytes that must find room before writing counts as possible again.
const ROOM: usize = 128 << 10;

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
    Client(Own),
    Flush { reply: oneshot::Sender<Outcome> },
    Commit { run: Commit },
    Compact { reply: oneshot::Sender<Result<(), rusqlite::Error>> },
    Renew { reply: oneshot::Sender<Result<Option<Damaged>, CacheError>> },
}

/// Where a damaged database was set aside, and what was wrong with it.
pub(super) type Damaged = (PathBuf, String);

pub(super) struct Thread {
    pub writer: Writer,
    pub inbox: Receiver<Job>,
    pub waiting: Arc<AtomicUsize>,
    pub shares: Arc<Shares>,
    /// What of clients did not fit into the batches before.
    pub put_off: PutOff,
    /// Who waits for so many of what clients recorded.
    pub flushes: Vec<(u64, oneshot::Sender<Outcome>)>,
    pub lost: watch::Sender<u64>,
    pub torn: Arc<AtomicBool>,
    pub trouble: watch::Sender<Option<String>>,
    pub batches: watch::Sender<u64>,
    pub path: PathBuf,
    /// Why nothing is written at all: this is a copy of a file that cannot be.
    pub frozen: Option<String>,
    /// In what way the file is damaged, until it is replaced. What still can be written is; nothing is tried again by
    /// itself, and nobody is made to read anew what could not be kept.
    pub spoilt: watch::Sender<Option<String>>,
    /// The file could not be opened when it was to be written to again: the connection is to nothing.
    pub detached: bool,
}

impl Thread {
    /// Runs until every handle is gone, then leaves the file whole and without a journal.
    pub fn run(mut self) {
        loop {
            let failing = self.trouble.borrow().is_some() && self.frozen.is_none() && !self.is_spoilt();
            let first = match (self.put_off.is_empty(), failing) {
                (false, _) => self.inbox.recv_timeout(Duration::ZERO),
                (true, true) => self.inbox.recv_timeout(RETRY),
                (true, false) => self.inbox.recv().map_err(RecvTimeoutError::from),
            };
            let jobs = match first {
                Ok(first) => self.gather(first),
                // Nobody writes, but somebody may wait to hear that it is possible again.
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) if self.put_off.is_empty() => break,
                Err(RecvTimeoutError::Disconnected) => Vec::new(),
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
        let is_urgent = |job: &Job| !matches!(job, Job::Record { .. } | Job::Client(_));
        let mut urgent = is_urgent(&first) || !self.put_off.is_empty();
        let mut jobs = vec![first];
        // What clients may leave here has a bound of its own, and most of it is put off.
        let mut own = 1;
        while own < BATCH {
            let patience =
                if urgent { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
            match self.inbox.recv_timeout(patience) {
                Ok(job) => {
                    urgent |= is_urgent(&job);
                    own += usize::from(!matches!(job, Job::Client(_)));
                    jobs.push(job);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        jobs
    }

    fn write(&mut self, jobs: Vec<Job>) {
        let mut finishes = Vec::new();
        let (mut compacts, mut renewals) = (Vec::new(), Vec::new());
        let mut records = 0;
        let mut failed = self.find_room().and_then(|()| self.begin()).err();
        let mut left = share::TURN;
        records += self.take_turns(&mut left, &mut failed);
        for job in jobs {
            match job {
                Job::Client(record) => {
                    self.put_off.push(record);
                    records += self.take_turns(&mut left, &mut failed);
                }
                Job::Flush { reply } => self.flushes.push((self.put_off.came(), reply)),
                Job::Record { size, run } => {
                    self.waiting.fetch_sub(size, Ordering::Relaxed);
                    records += 1;
                    if failed.is_none() {
                        failed = self.run_record(run);
                    }
                }
                Job::Compact { reply } => compacts.push(reply),
                Job::Renew { reply } => renewals.push(reply),
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
                self.torn.store(true, Ordering::Release);
            }
            if open::is_damage(&source) && self.frozen.is_none() {
                spoil(&self.spoilt, &source);
            }
            self.frozen.clone().unwrap_or_else(|| {
                CacheError::Database { operation: "write", path: self.path.clone(), source }.to_string()
            })
        });
        self.report(why.as_deref());
        self.answer_flushes(why.as_deref());
        for finish in finishes {
            finish(why.clone().map_or(Outcome::Committed, Outcome::Failed));
        }
        for reply in compacts {
            let _ = reply.send(self.compact());
        }
        for reply in renewals {
            let _ = reply.send(self.renew());
        }
    }

    fn is_spoilt(&self) -> bool {
        self.spoilt.borrow().is_some()
    }

    /// Puts a new database in the place of this one if it is damaged, and opens it anew in any case. No reader may be open.
    fn renew(&mut self) -> Result<Option<Damaged>, CacheError> {
        if let Some(why) = &self.frozen {
            return Err(CacheError::Refused(why.clone()));
        }
        let failed = |source| CacheError::Database { operation: "check", path: self.path.clone(), source };
        // The last time may have ended between its renames: what waits is in the new one, whole.
        let finished = !self.path.exists();
        if finished {
            renew::finish(&self.path)?;
        }
        let why = match open::check(&self.path) {
            Ok(()) => None,
            Err(source) if open::is_damage(&source) => Some(source.to_string()),
            Err(source) => return Err(failed(source)),
        };
        // One that takes nothing, while nobody may have the file open.
        let none = Connection::open_in_memory()?;
        none.pragma_update(None, "query_only", true)?;
        self.writer.take_over(none);
        let replaced = why.map(|why| renew::replace(&self.path).map(|aside| (aside, why))).transpose();
        let opened = match &replaced {
            Ok(_) => open::connect(&self.path),
            // Where it is aside already nothing is written until the new one is in its place: an empty one would pass
            // for that.
            Err(_) => open::attach(&self.path),
        };
        let unopened = opened.map(|connection| self.writer.take_over(connection)).err();
        self.detached = unopened.is_some();
        let replaced = replaced?;
        if finished || replaced.is_some() {
            // What was begun before belongs to what is gone.
            self.writer.epoch.fetch_add(1, Ordering::AcqRel);
            self.writer.rollbacks.fetch_add(1, Ordering::AcqRel);
            self.torn.store(true, Ordering::Release);
        }
        self.spoilt.send_replace(None);
        // As on a disk that is full: it is tried again soon.
        self.report(unopened.map(|error| error.to_string()).as_deref());
        Ok(replaced)
    }

    fn begin(&self) -> Result<(), rusqlite::Error> {
        self.writer.connection.execute_batch("BEGIN IMMEDIATE")
    }

    /// After a failure, writes and removes something of some size: a transaction that changes nothing succeeds on
    /// a full disk too, and would call everybody back too early.
    fn find_room(&mut self) -> Result<(), rusqlite::Error> {
        if self.frozen.is_some() {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY);
            return Err(rusqlite::Error::SqliteFailure(code, None));
        }
        if self.detached {
            self.writer.take_over(open::reattach(&self.path)?);
            self.detached = false;
        }
        if self.trouble.borrow().is_none() || self.is_spoilt() {
            return Ok(());
        }
        let db = &self.writer.connection;
        db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('room', ?)", ["x".repeat(ROOM)])?;
        db.execute("DELETE FROM meta WHERE key = 'room'", [])?;
        // This life may have begun while nothing could be written.
        whole::unnote(db)
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
    pub(super) fn run_record(&mut self, run: Record) -> Option<rusqlite::Error> {
        if let Err(e) = self.writer.connection.execute_batch("SAVEPOINT job") {
            return Some(e);
        }
        let end = match run(&mut self.writer) {
            Ok(()) => "RELEASE job",
            Err(CacheError::Statement(e)) if open::ends_batch(&e) => return Some(e),
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
    fn report(&self, failed: Option<&str>) {
        let (before, spoilt) = (self.trouble.borrow().clone(), self.spoilt.borrow().clone());
        let spoilt = spoilt.map(|why| {
            format!("`{}` is damaged, and is built anew once the cloud is there: {why}", self.path.display())
        });
        let why = spoilt.as_deref().or(failed);
        match (why, before) {
            (Some(why), before) => {
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

/// Notes in what way the file is damaged.
pub(super) fn spoil(spoilt: &watch::Sender<Option<String>>, error: &rusqlite::Error) -> bool {
    spoilt.send_if_modified(|known| {
        let is_new = known.is_none();
        known.get_or_insert_with(|| error.to_string());
        is_new
    })
}
