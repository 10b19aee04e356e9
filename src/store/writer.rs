//! The one thread that writes: runs what callers hand it, many in one transaction.
//!
//! Each piece of work runs in a savepoint of its own, so that one that fails takes nothing else
//! with it. Folders that files were renamed into are synced before the commit, once each.
//!
//! Some errors of the disk make SQLite give the whole transaction up, and what came then would stand by itself: with it
//! the batch ends, and all of it has failed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use rusqlite::Connection;

use super::error::During;
use super::{Error, failpoint};
use crate::sys::durable;

/// The most pieces of work that share a transaction.
const BATCH: usize = 64;
/// Folders beyond which the whole file system is synced at once: each sync of one waits for the journal anew.
const FOLDERS: usize = 6;

/// Told whether the transaction was committed.
type Done = Box<dyn FnOnce(Result<(), String>) + Send>;
/// Given `None`, it is not to be done: there is no transaction.
type Job = Box<dyn FnOnce(Option<&mut Batch<'_>>) -> Done + Send>;

pub(super) struct Writer {
    /// None where the store is open for reading alone.
    jobs: Option<mpsc::Sender<Job>>,
}

/// What a piece of work can use: the transaction, and the folders it changed.
pub(super) struct Batch<'a> {
    pub(super) tx: &'a Connection,
    folders: BTreeSet<PathBuf>,
    /// Why the transaction is gone, or holds half of a piece of work: no more is done in it, and none of it is committed.
    ended: Option<String>,
}

impl Batch<'_> {
    /// Has the folder that holds `path` synced before the commit.
    pub(super) fn sync_folder_of(&mut self, path: &Path) {
        if let Some(folder) = path.parent() {
            self.folders.insert(folder.to_owned());
        }
    }
}

impl Writer {
    pub(super) fn start(connection: Connection) -> Result<Self, Error> {
        let (jobs, work) = mpsc::channel();
        // The thread ends when the last handle to the store is dropped and the channel closes.
        std::thread::Builder::new().name("store-writer".into()).spawn(move || run(&connection, &work))?;
        Ok(Self { jobs: Some(jobs) })
    }

    /// Refuses all changes.
    pub(super) fn none() -> Self {
        Self { jobs: None }
    }

    /// Runs `change` in a transaction and returns when it is on disk.
    pub(super) fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Batch<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = mpsc::sync_channel(1);
        let job = job(change, reply);
        let jobs = self.jobs.as_ref().ok_or(Error::ForReading)?;
        jobs.send(job).map_err(|_| Error::Closed)?;
        answer.recv().map_err(|_| Error::Closed)?
    }
}

fn job<T: Send + 'static>(
    change: impl FnOnce(&mut Batch<'_>) -> Result<T, Error> + Send + 'static,
    reply: mpsc::SyncSender<Result<T, Error>>,
) -> Job {
    Box::new(move |batch| {
        let result = batch.map(|batch| in_savepoint(batch, change));
        Box::new(move |committed| {
            let result = match (result, committed) {
                (Some(result), Ok(())) => result,
                // What was wrong with the change itself says more.
                (Some(Err(error)), Err(_)) => Err(error),
                (_, Err(why)) => Err(Error::Commit(why)),
                (None, Ok(())) => Err(Error::Closed),
            };
            // A caller that went away does not want to know.
            let _ = reply.send(result);
        })
    })
}

fn in_savepoint<T>(
    batch: &mut Batch<'_>,
    change: impl FnOnce(&mut Batch<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    batch.tx.execute_batch("SAVEPOINT job").during("begin a change")?;
    let result = change(batch);
    if batch.tx.is_autocommit() {
        let why = result.as_ref().err().map_or_else(|| "a change ended the transaction".into(), in_full);
        batch.ended = Some(why);
        return result;
    }
    let end = if result.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    if let Err(error) = batch.tx.execute_batch(end).during("end a change") {
        batch.ended = Some(in_full(&error));
        return result.and(Err(error));
    }
    result
}

/// An error with what it came of.
fn in_full(error: &Error) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

fn run(connection: &Connection, work: &mpsc::Receiver<Job>) {
    while let Ok(first) = work.recv() {
        let mut batch = Batch { tx: connection, folders: BTreeSet::new(), ended: None };
        // Without a transaction each statement would stand by itself, and files would move for rows that do not: then
        // nothing is done.
        let begun = connection.execute_batch("BEGIN IMMEDIATE").map_err(|e| e.to_string());
        let mut done = vec![first(begun.is_ok().then_some(&mut batch))];
        // What has not begun when the batch ends is left to the next one.
        while done.len() < BATCH
            && batch.ended.is_none()
            && let Ok(next) = work.try_recv()
        {
            done.push(next(begun.is_ok().then_some(&mut batch)));
        }
        let committed =
            begun.and_then(|()| batch.ended.take().map_or(Ok(()), Err)).and_then(|()| commit(&batch));
        if committed.is_err() {
            // The error that led here is told; a rollback that fails too is cured by the next BEGIN.
            let _ = connection.execute_batch("ROLLBACK");
        }
        for tell in done {
            tell(committed.clone());
        }
    }
}

fn commit(batch: &Batch<'_>) -> Result<(), String> {
    match batch.folders.first() {
        Some(first) if batch.folders.len() > FOLDERS => {
            failpoint::pass("folder-sync");
            std::fs::File::open(first)
                .and_then(|folder| Ok(nix::unistd::syncfs(folder)?))
                .map_err(|e| durable::named(e, "sync", first).to_string())?;
        }
        _ => {
            for folder in &batch.folders {
                failpoint::pass("folder-sync");
                durable::sync_folder_of(&folder.join("x")).map_err(|e| e.to_string())?;
            }
        }
    }
    failpoint::pass("commit");
    batch.tx.execute_batch("COMMIT").map_err(|e| e.to_string())?;
    failpoint::pass("committed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Runs `changes` as one batch, and gives what each was told.
    fn batch(connection: &Connection, changes: &[&'static str]) -> Vec<Result<(), Error>> {
        let (jobs, work) = mpsc::channel();
        let mut answers = Vec::new();
        for &change in changes {
            let (reply, answer) = mpsc::sync_channel(1);
            jobs.send(job(move |batch| batch.tx.execute_batch(change).during("change"), reply)).unwrap();
            answers.push(answer);
        }
        drop(jobs);
        run(connection, &work);
        answers.into_iter().map(|answer| answer.recv().unwrap()).collect()
    }

    #[test]
    fn what_is_told_to_have_failed_is_not_there_also_where_the_transaction_was_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("store.db")).unwrap();
        connection.execute_batch("CREATE TABLE t (n INTEGER UNIQUE)").unwrap();
        let rows = || -> Vec<i64> {
            let mut query = connection.prepare("SELECT n FROM t ORDER BY n").unwrap();
            query.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
        };
        // As SQLite itself does where a disk is full or fails, and the statement has no journal of its own.
        let given_up = "INSERT INTO t VALUES (2); INSERT OR ROLLBACK INTO t VALUES (1)";
        let told = batch(
            &connection,
            &["INSERT INTO t VALUES (1)", given_up, "INSERT INTO t VALUES (3)", "INSERT INTO t VALUES (4)"],
        );
        assert!(matches!(&told[0], Err(Error::Commit(why)) if why.contains("UNIQUE")), "{told:?}");
        assert!(matches!(&told[1], Err(Error::Database { .. })), "{told:?}");
        assert!(told[2].is_ok() && told[3].is_ok(), "they are of a batch that follows: {told:?}");
        assert_eq!(rows(), [3, 4]);
        let told = batch(&connection, &["INSERT INTO t VALUES (5)", "ROLLBACK", "INSERT INTO t VALUES (6)"]);
        assert!(told[0].is_err() && told[1].is_err() && told[2].is_ok(), "{told:?}");
        assert_eq!(rows(), [3, 4, 6]);
        // One that only fails takes nothing with it.
        let told = batch(&connection, &["INSERT INTO t VALUES (7)", "INSERT INTO t VALUES (3)"]);
        assert!(told[0].is_ok() && told[1].is_err(), "{told:?}");
        assert_eq!(rows(), [3, 4, 6, 7]);
    }

    #[test]
    fn nothing_is_done_where_no_transaction_can_begin() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        let (ours, other) = (Connection::open(&file).unwrap(), Connection::open(&file).unwrap());
        ours.busy_timeout(std::time::Duration::ZERO).unwrap();
        other.execute_batch("CREATE TABLE t (n INTEGER); BEGIN IMMEDIATE").unwrap();
        let (writer, ran) = (Writer::start(ours).unwrap(), Arc::new(AtomicBool::new(false)));
        let insert = || {
            let ran = ran.clone();
            writer.write(move |batch| {
                ran.store(true, Ordering::SeqCst);
                batch.tx.execute("INSERT INTO t VALUES (1)", []).during("insert").map(drop)
            })
        };
        assert!(matches!(insert(), Err(Error::Commit(_))));
        assert!(!ran.load(Ordering::SeqCst), "it was not tried");
        other.execute_batch("COMMIT").unwrap();
        insert().unwrap();
        let rows: i64 = other.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 1);
    }
}
