//! Kubernetes objects on disk (`cache.db`): one writer thread, many readers.
//!
//! Owns what was read from the cloud while it was there, what changed on this node while it was
//! not, and nothing of HTTP or of Kubernetes' encodings: bodies come and go as JSON text.
//!
//! An object is stored once. Who may read it back is decided by *scopes*: a scope is one list
//! (identity, resource, namespace, selectors) that an identity has read, and members tie objects to
//! it. So "synced, and empty" is a scope without members, "never synced" is no scope, and an
//! identity never sees what only another one has read.
//!
//! Writing goes through [`Cache::record`] (soon, in batches, spares flash) or [`Cache::commit`]
//! (on disk when it returns).

#[cfg(test)]
mod asked_tests;
mod bound;
mod change;
mod counts;
mod edits;
mod forget;
mod fresh;
mod gone;
mod object;
mod open;
mod reader;
mod renew;
#[cfg(test)]
mod renew_tests;
mod right;
mod salvage;
mod schema;
#[cfg(test)]
mod schema_tests;
mod scope;
mod secret;
mod share;
mod thread;
mod told;
#[cfg(test)]
mod told_tests;
pub mod version;
mod whole;
mod writer;

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Semaphore, oneshot, watch};

pub use change::{Author, Change, ChangeKind, FieldManager, NewChange, Refused};
pub use counts::{Count, Reading};
pub use edits::{Rebase, Rebased};
pub use fresh::{Begins, Freshness, Watching};
pub use object::{Object, ObjectKey};
pub use open::{Opened, forget_damaged, is_full, is_writable, readable, thaw, update};
pub use reader::Reader;
pub use right::Right;
pub use scope::{ListRecord, NODE, Scope, ScopeId, ScopeKey, today};
pub use secret::{Document, PodToken, Purpose, TokenKey};
pub use told::{Denied, SECRETS, is_newer};
pub use writer::Writer;

use thread::{Job, Outcome};

/// Bytes of the node's records that may wait for the writer before further ones are turned away. More than a
/// slow card ever falls behind by, and little enough for a gateway of 512 MB.
const QUEUE_LIMIT: usize = 16 << 20;

/// What went wrong in the cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder or file cannot be made or opened.
    #[error("cannot open `{path}`: {source}")]
    Open {
        /// The database.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("cannot {operation} `{path}`: {source}")]
    Database {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A statement inside a job failed.
    #[error(transparent)]
    Statement(#[from] rusqlite::Error),
    /// A stored body is not JSON any more.
    #[error("`{key}` in the cache is not JSON: {source}")]
    Body {
        /// Which object.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The caller's own reason to leave everything as it was.
    #[error("{0}")]
    Refused(String),
    /// The writer thread has ended.
    #[error("the cache is closed")]
    Closed,
}

/// Of [`Cache::era`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Era {
    epoch: u64,
    losses: u64,
}

/// A handle on the cache; cheap to clone.
#[derive(Clone, Debug)]
pub struct Cache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    jobs: std::sync::mpsc::Sender<Job>,
    /// Bytes of the node's waiting in `jobs`.
    waiting: Arc<AtomicUsize>,
    /// Those of clients.
    shares: Arc<share::Shares>,
    /// Raised when writing works again after records were lost: what is being watched must be read
    /// anew. (Not before: a full disk would have clients read everything over and over.)
    lost: watch::Sender<u64>,
    /// Records were lost since `lost` was raised.
    torn: Arc<AtomicBool>,
    /// Why the last batch was not written, while that is so.
    trouble: watch::Receiver<Option<String>>,
    /// In what way the file is damaged, until it is replaced.
    spoilt: watch::Sender<Option<String>>,
    /// The lists that are used.
    fresh: Arc<fresh::Fresh>,
    readers: std::sync::Mutex<Vec<Reader>>,
    reading: Arc<Semaphore>,
    threads: reader::Threads,
    /// This is a copy of a file that cannot be written: nothing replaces it.
    is_frozen: bool,
    /// Counts [`Writer::clear`], and each database that was replaced.
    epoch: Arc<AtomicU64>,
    /// Batches with records in them that were not written.
    rollbacks: Arc<AtomicU64>,
    rebase: Arc<OnceLock<Rebase>>,
    /// Batches written since the start, for the curious and for tests.
    batches: watch::Sender<u64>,
    /// Where a damaged database was set aside since the start, and what was wrong with it.
    damaged: std::sync::Mutex<Option<(PathBuf, String)>>,
}

impl Cache {
    /// Opens or makes `folder/cache.db`. A damaged database is set aside under a name of its own and
    /// a new one is begun; [`Opened::damaged`] says so. One that cannot be written is copied to the folder `refuge`
    /// and read from there, and nothing is taken; [`Opened::frozen`] says so.
    ///
    /// # Errors
    /// [`CacheError::Open`] and [`CacheError::Database`] when not even a new one can be made.
    pub fn open(folder: &Path, refuge: &Path) -> Result<Opened, CacheError> {
        open::open(folder, refuge)
    }

    fn start(
        path: PathBuf,
        connection: rusqlite::Connection,
        frozen: Option<String>,
        damaged: Option<(PathBuf, String)>,
    ) -> Result<Self, CacheError> {
        let threads = reader::Threads::new(READERS as usize)
            .map_err(|source| CacheError::Open { path: path.clone(), source })?;
        let (jobs, inbox) = std::sync::mpsc::channel();
        let (lost, _) = watch::channel(0);
        let (trouble_sender, trouble) = watch::channel(frozen.clone());
        let (spoilt, is_frozen) = (watch::Sender::new(None), frozen.is_some());
        let (waiting, shares) = (Arc::new(AtomicUsize::new(0)), Arc::<share::Shares>::default());
        let torn = Arc::new(AtomicBool::new(false));
        let (batches, _) = watch::channel(0);
        let (epoch, rollbacks) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let fresh = Arc::new(fresh::Fresh::new(epoch.clone(), rollbacks.clone()));
        let rebase = Arc::<OnceLock<Rebase>>::default();
        let thread = thread::Thread {
            writer: Writer::new(
                connection,
                fresh.clone(),
                epoch.clone(),
                rollbacks.clone(),
                torn.clone(),
                rebase.clone(),
            ),
            inbox,
            waiting: waiting.clone(),
            shares: shares.clone(),
            put_off: share::PutOff::default(),
            flushes: Vec::new(),
            lost: lost.clone(),
            torn: torn.clone(),
            trouble: trouble_sender,
            batches: batches.clone(),
            path: path.clone(),
            frozen,
            spoilt: spoilt.clone(),
            detached: false,
        };
        std::thread::Builder::new()
            .name("cache".into())
            .spawn(move || thread.run())
            .map_err(|source| CacheError::Open { path: path.clone(), source })?;
        let shared = Shared {
            path,
            jobs,
            waiting,
            shares,
            lost,
            torn,
            trouble,
            spoilt,
            fresh,
            readers: std::sync::Mutex::default(),
            reading: Arc::new(Semaphore::new(READERS as usize)),
            threads,
            is_frozen,
            epoch,
            rollbacks,
            rebase,
            batches,
            damaged: std::sync::Mutex::new(damaged),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Hands over something to be on disk within a second. `size` is what it holds in bytes. Returns
    /// false, and counts it as lost, when the writer is too far behind; nobody waits for it.
    pub fn record(
        &self,
        size: usize,
        job: impl FnOnce(&mut Writer) -> Result<(), CacheError> + Send + 'static,
    ) -> bool {
        if self.shared.waiting.fetch_add(size, Ordering::Relaxed) + size > QUEUE_LIMIT {
            self.shared.waiting.fetch_sub(size, Ordering::Relaxed);
            self.shared.torn.store(true, Ordering::Release);
            return false;
        }
        self.shared.jobs.send(Job::Record { size, run: Box::new(job) }).is_ok()
    }

    /// Runs `job` in a transaction of its own batch and returns when it is on disk.
    ///
    /// # Errors
    /// The job's own, or why the commit failed; nothing was changed then.
    pub async fn commit<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Writer) -> Result<T, CacheError> + Send + 'static,
    ) -> Result<T, CacheError> {
        self.commit_then(job, |_| ()).await
    }

    /// As [`Cache::commit`]; `then` is called once it is on disk, whether somebody still waits for this or not, and in the
    /// order in which things were written. It must not block.
    ///
    /// # Errors
    /// As there; `then` is not called in that case.
    pub async fn commit_then<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Writer) -> Result<T, CacheError> + Send + 'static,
        then: impl FnOnce(&mut T) + Send + 'static,
    ) -> Result<T, CacheError> {
        let (reply, answer) = oneshot::channel();
        let run = Box::new(move |writer: Option<&mut Writer>| {
            // Without a writer the batch has failed already, and how is told at its end.
            let done = writer.map_or(Err(CacheError::Closed), job);
            let keep = done.is_ok();
            let finish = Box::new(move |committed: Outcome| {
                let mut result = match committed {
                    Outcome::Committed => done,
                    Outcome::Failed(why) => Err(CacheError::Refused(why)),
                };
                if let Ok(done) = &mut result {
                    then(done);
                }
                // Whoever asked may have gone; what was done stays done.
                let _ = reply.send(result);
            });
            (keep, finish as Box<dyn FnOnce(Outcome) + Send>)
        });
        self.shared.jobs.send(Job::Commit { run }).map_err(|_| CacheError::Closed)?;
        let done = answer.await.map_err(|_| CacheError::Closed)?;
        self.judge(done)
    }

    /// Runs `job` on a reader, on a thread of the cache's own: whatever else blocks in the daemon keeps no kubelet waiting.
    ///
    /// # Errors
    /// The job's own, or [`CacheError::Database`] when no reader can be opened.
    pub async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Reader) -> Result<T, CacheError> + Send + 'static,
    ) -> Result<T, CacheError> {
        let place = self.shared.reading.clone().acquire_owned().await.map_err(|_| CacheError::Closed)?;
        let shared = self.shared.clone();
        let read = self.shared.threads.run(move || {
            // Until the job has ended, also where nobody waits for it any more: none may outlive a renewal.
            let _place = place;
            let kept = shared.readers.lock().map_err(|_| CacheError::Closed)?.pop();
            let reader = match kept {
                Some(reader) => reader,
                None => Reader::open(&shared.path)?,
            };
            let result = job(&reader);
            if let Ok(mut readers) = shared.readers.lock() {
                readers.push(reader);
            }
            result
        });
        let read = read.ok_or(CacheError::Closed)?;
        self.judge(read.await.map_err(|_| CacheError::Closed)?)
    }

    /// Passes a result on, and notes what it says of the file.
    fn judge<T>(&self, result: Result<T, CacheError>) -> Result<T, CacheError> {
        if let Err(CacheError::Statement(source) | CacheError::Database { source, .. }) = &result
            && open::is_damage(source)
            && !self.shared.is_frozen
            && thread::spoil(&self.shared.spoilt, source)
        {
            // The writer says so.
            self.record(0, |_| Ok(()));
        }
        result
    }

    /// Changes whenever records were lost, so that open watches can be ended and read anew.
    pub fn lost(&self) -> watch::Receiver<u64> {
        self.shared.lost.subscribe()
    }

    /// Has everything that is watched read anew.
    pub fn resync(&self) {
        self.shared.lost.send_modify(|n| *n += 1);
    }

    /// Counts how often everything was removed: what began before belongs to what is gone.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Acquire)
    }

    /// Counts the batches whose records were lost: of what was begun before, a part may be missing.
    pub fn rollbacks(&self) -> u64 {
        self.shared.rollbacks.load(Ordering::Acquire)
    }

    /// As long as this is the same, what was recorded before is kept, or waits for the writer: neither were records lost
    /// nor was everything removed. Whoever remembers that something is recorded asks here whether it still is.
    pub fn era(&self) -> Era {
        Era { epoch: self.epoch(), losses: *self.shared.lost.borrow() }
    }

    /// Why nothing can be written at the moment, such as a full disk; `None` when all is well.
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble.borrow().clone()
    }

    /// Follows [`Cache::trouble`].
    pub fn follow_trouble(&self) -> watch::Receiver<Option<String>> {
        self.shared.trouble.clone()
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Batches written since the start.
    pub fn batches(&self) -> u64 {
        *self.shared.batches.borrow()
    }

    /// Changes whenever a batch was written, for whoever looks at what is kept.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.shared.batches.subscribe()
    }
}

/// Readers open at once: enough for both cores, few enough for little memory.
const READERS: u32 = 2;

/// Seconds since 1970, as the cache keeps times.
pub(crate) fn seconds() -> i64 {
    crate::sys::clock::now().as_second()
}

/// Up to when the times in the file tell what came first. What lies behind it was written while the clock ran ahead; and none
/// does where the clock stands at its floor, for there everything has the same time.
pub(crate) fn compares() -> i64 {
    use crate::sys::clock;
    if clock::machine() < clock::floor() { i64::MIN } else { seconds() }
}
