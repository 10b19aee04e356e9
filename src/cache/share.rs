//! What of clients waits for the writer: so much of each as it leaves to the others, and written by turns, a part of the
//! time. None of it counts with what is the node's, or is waited for by that.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, oneshot};

use super::thread::{Job, Outcome, Record, Thread};
use super::{Cache, CacheError, Writer};

/// Bytes of clients' records that may wait. No client may have more than is left, so one alone has half of them.
const LIMIT: usize = 6 << 20;
/// So much must be free for a client to read on; one piece of an answer is less.
const ROOM: usize = 512 << 10;
/// Answers that may wait for room at once: what comes of each meanwhile is half a megabyte.
const WAITING: usize = 32;
/// How long nothing at all is written before a client no longer waits for it.
const STALLED: Duration = Duration::from_secs(5);
/// Bytes that a record counts at the least: how much work there is in it, nobody knows before it is unpacked.
const LEAST: usize = 1024;
/// How long what clients have read may keep a batch that others wait for.
pub(super) const TURN: Duration = Duration::from_millis(200);

/// How much waits, of whom.
#[derive(Debug)]
pub(super) struct Shares {
    inside: Mutex<Inside>,
    /// Told whenever some is free again.
    freed: Notify,
    /// Places of those that wait for that.
    places: Arc<Semaphore>,
}

impl Default for Shares {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(WAITING));
        Self { inside: Mutex::default(), freed: Notify::new(), places }
    }
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    of: HashMap<Arc<str>, usize>,
}

impl Shares {
    /// Takes room for `size` bytes, if there is any. For nothing, as for the end of an answer, there always is.
    pub fn take(&self, client: &Arc<str>, size: usize) -> bool {
        let mut inside = self.inside();
        let own = inside.of.get(client).copied().unwrap_or_default();
        let counted = size + LEAST;
        if size > 0 && own + counted > LIMIT.saturating_sub(inside.all) {
            return false;
        }
        inside.all += counted;
        *inside.of.entry(client.clone()).or_default() += counted;
        true
    }

    /// What was taken for `size` bytes is free again.
    pub fn give_back(&self, client: &Arc<str>, size: usize) {
        let mut inside = self.inside();
        inside.all -= size + LEAST;
        if let Some(own) = inside.of.get_mut(client) {
            *own -= size + LEAST;
            if *own == 0 {
                inside.of.remove(client);
            }
        }
        drop(inside);
        self.freed.notify_waiters();
    }

    fn has_room(&self, client: &Arc<str>) -> bool {
        let inside = self.inside();
        let own = inside.of.get(client).copied().unwrap_or_default();
        own + ROOM <= LIMIT.saturating_sub(inside.all)
    }

    /// Waits until there is room for the client; false if nothing is written for so long that there may never be.
    async fn room(self: Arc<Self>, client: Arc<str>, stalled: Duration) -> bool {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.has_room(&client) {
                return true;
            }
            if tokio::time::timeout(stalled, freed).await.is_err() {
                return false;
            }
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A record of a client.
pub(super) struct Own {
    pub client: Arc<str>,
    pub size: usize,
    /// When it came, in seconds since 1970.
    pub at: i64,
    pub run: Record,
}

/// Records of clients that were put off: of each in order, and of all by turns.
#[derive(Default)]
pub(super) struct PutOff {
    turns: VecDeque<Arc<str>>,
    of: HashMap<Arc<str>, VecDeque<(u64, Own)>>,
    /// Counts those that came.
    came: u64,
}

impl PutOff {
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub fn push(&mut self, record: Own) {
        let own = self.of.entry(record.client.clone()).or_default();
        if own.is_empty() {
            self.turns.push_back(record.client.clone());
        }
        own.push_back((self.came, record));
        self.came += 1;
    }

    /// The next one, of whoever waits for longest for his turn.
    pub fn pop(&mut self) -> Option<Own> {
        let client = self.turns.pop_front()?;
        let own = self.of.get_mut(&client)?;
        let (_, record) = own.pop_front()?;
        if own.is_empty() {
            self.of.remove(&client);
        } else {
            self.turns.push_back(client);
        }
        Some(record)
    }

    /// How many have come so far.
    pub fn came(&self) -> u64 {
        self.came
    }

    /// Whether none of the first `count` waits any more.
    pub fn is_past(&self, count: u64) -> bool {
        self.of.values().filter_map(VecDeque::front).all(|(number, _)| *number >= count)
    }
}

impl Thread {
    /// Runs what clients have recorded, by turns, as long as time is `left`; gives how many of it.
    pub(super) fn take_turns(&mut self, left: &mut Duration, failed: &mut Option<rusqlite::Error>) -> usize {
        let mut count = 0;
        while !left.is_zero()
            && let Some(Own { client, size, at, run }) = self.put_off.pop()
        {
            let begun = Instant::now();
            self.shares.give_back(&client, size);
            count += 1;
            if failed.is_none() {
                self.writer.put_off_since = Some(at);
                *failed = self.run_record(run);
                self.writer.put_off_since = None;
            }
            *left = left.saturating_sub(begun.elapsed());
        }
        count
    }

    /// Tells those that waited for what is written by now how the batch has ended.
    pub(super) fn answer_flushes(&mut self, failed: Option<&str>) {
        let (past, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.flushes)
            .into_iter()
            .partition(|(count, _)| self.put_off.is_past(*count));
        self.flushes = waiting;
        for (_, reply) in past {
            // Whoever asked may have gone.
            let _ = reply.send(failed.map_or(Outcome::Committed, |why| Outcome::Failed(why.to_owned())));
        }
    }
}

impl Cache {
    /// As [`Cache::record`], of what a client other than the node reads: soon where there is little, and never so that the
    /// node's, or another client's, waits for it. False when there is too much of this client: it is not noted as lost
    /// then, for nobody else is concerned. `size` 0 is always taken.
    pub fn record_of(
        &self,
        client: &Arc<str>,
        size: usize,
        job: impl FnOnce(&mut Writer) -> Result<(), CacheError> + Send + 'static,
    ) -> bool {
        let own = Own { client: client.clone(), size, at: super::seconds(), run: Box::new(job) };
        self.shared.shares.take(client, size) && self.shared.jobs.send(Job::Client(own)).is_ok()
    }

    /// What a client is to wait for before it reads on: until more of it can be recorded, or, which gives false, seconds
    /// have passed in which nothing was written at all, or too many wait already. `None` where there is room.
    pub fn room_of(&self, client: &Arc<str>) -> Option<impl Future<Output = bool> + Send + use<>> {
        let shares = &self.shared.shares;
        (!shares.has_room(client)).then(|| {
            let (shares, client) = (shares.clone(), client.clone());
            let place = shares.places.clone().try_acquire_owned().ok();
            async move {
                let is_room = place.is_some() && shares.room(client, STALLED).await;
                drop(place);
                is_room
            }
        })
    }

    /// Waits until all that was recorded so far is on disk, what clients have read included.
    ///
    /// # Errors
    /// Why the last batch could not be written.
    pub async fn flush(&self) -> Result<(), CacheError> {
        let (reply, answer) = oneshot::channel();
        self.shared.jobs.send(Job::Flush { reply }).map_err(|_| CacheError::Closed)?;
        match answer.await.map_err(|_| CacheError::Closed)? {
            Outcome::Committed => Ok(()),
            Outcome::Failed(why) => Err(CacheError::Refused(why)),
        }
    }

    /// Waits until what of the node's was recorded so far is on disk.
    ///
    /// # Errors
    /// Why the last batch could not be written.
    pub async fn flush_own(&self) -> Result<(), CacheError> {
        self.commit(|_| Ok(())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_room_for_the_others() {
        let (shares, [greedy, other, third]) = (Shares::default(), ["a", "b", "c"].map(Arc::<str>::from));
        let fill = |client| {
            std::iter::repeat_with(|| shares.take(client, 100 << 10)).take_while(|fits| *fits).count()
        };
        let (all, next) = (fill(&greedy), fill(&other));
        assert!((26..=31).contains(&all), "half of 6 MiB: {all}");
        assert!((11..=16).contains(&next), "half of the rest: {next}");
        assert!(shares.take(&third, 256 << 10) && shares.take(&greedy, 0), "room for more, and for an end");
        shares.give_back(&greedy, 0);
        (0..all).for_each(|_| shares.give_back(&greedy, 100 << 10));
        (0..next).for_each(|_| shares.give_back(&other, 100 << 10));
        shares.give_back(&third, 256 << 10);
        let empty = shares.inside();
        assert_eq!((empty.all, empty.of.len()), (0, 0));
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "a record that is work")]
    async fn neither_the_node_nor_another_client_waits_for_one_who_piles_up_work() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let [greedy, other] = ["greedy", "other"].map(Arc::<str>::from);
        let done = Arc::new(Mutex::new(Vec::new()));
        let record = |name: &'static str, work: u64| {
            let done = done.clone();
            move |_: &mut Writer| {
                std::thread::sleep(Duration::from_millis(work));
                done.lock().unwrap().push(name);
                Ok(())
            }
        };
        assert!((0..40).all(|_| cache.record_of(&greedy, 100, record("greedy", 50))));
        assert!(cache.record_of(&other, 100, record("other", 0)));
        assert!(cache.record(100, record("node", 0)));
        cache.commit(|_| Ok(())).await.unwrap();
        let before = done.lock().unwrap().clone();
        assert!(before.contains(&"node") && before.len() < 20, "{before:?}");
        cache.flush().await.unwrap();
        let all = done.lock().unwrap().clone();
        let turn = all.iter().position(|name| *name == "other").unwrap();
        assert!(turn < 20, "{all:?}");
        assert_eq!(all.len(), 42);
        assert_eq!(cache.shared.shares.inside().all, 0);
    }

    #[tokio::test]
    async fn a_client_waits_for_room_and_not_where_nobody_writes() {
        let (shares, greedy) = (Arc::<Shares>::default(), Arc::<str>::from("a"));
        let taken = std::iter::repeat_with(|| shares.take(&greedy, 1 << 20)).take_while(|fits| *fits).count();
        assert!(!shares.has_room(&greedy));
        let begun = Instant::now();
        assert!(!shares.clone().room(greedy.clone(), Duration::from_millis(50)).await);
        assert!(begun.elapsed() >= Duration::from_millis(50), "it waits for a while");
        let waits = tokio::spawn(shares.clone().room(greedy.clone(), Duration::from_secs(3600)));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waits.is_finished());
        (0..taken).for_each(|_| shares.give_back(&greedy, 1 << 20));
        assert!(waits.await.unwrap());
        assert!(shares.has_room(&greedy));
    }

    #[test]
    fn small_records_count_as_well() {
        let (shares, greedy) = (Shares::default(), "a".into());
        let fits = std::iter::repeat_with(|| shares.take(&greedy, 1)).take_while(|fits| *fits).count();
        assert!(fits <= LIMIT / LEAST / 2, "{fits} answers of a byte");
    }
}
