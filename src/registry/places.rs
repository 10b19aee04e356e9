//! Places of connections: how many there are, who goes when all are taken, and what keeps the registry awake.
//!
//! Reading needs no credential, so whoever reaches the port may take places and do nothing with them. A request costs
//! none of this a lock: a connection notes when bytes moved, and that is looked at only when all places are taken.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;

/// How often it is looked for somebody to push out while all places are taken.
const LOOK: Duration = Duration::from_millis(100);
/// How often at the most it is logged that all are taken.
const AGAIN: Duration = Duration::from_secs(60);

/// What connections may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more wait in the listener's queue.
    pub connections: usize,
    /// How long a client may take nothing at all of what it is sent.
    pub stalled: Duration,
    /// How long a connection must have been silent in both directions before another has its place.
    pub silent: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 512, stalled: Duration::from_secs(60), silent: Duration::from_secs(10) }
    }
}

/// Counts connections and fetches from upstreams: while there is one, the registry does not go to sleep.
#[derive(Clone, Debug)]
pub(super) struct Awake(Arc<watch::Sender<usize>>);

/// One of them, until it is dropped.
pub(super) struct Stay(Awake);

impl Default for Awake {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Awake {
    pub(super) fn stay(&self) -> Stay {
        self.0.send_modify(|count| *count += 1);
        Stay(self.clone())
    }

    /// Waits until there was nothing for `period`.
    pub(super) async fn idle(&self, period: Duration) {
        let mut count = self.0.subscribe();
        loop {
            let _ = count.wait_for(|count| *count == 0).await;
            if tokio::time::timeout(period, count.wait_for(|count| *count > 0)).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// When bytes last moved on a connection.
#[derive(Debug)]
pub(super) struct Life {
    begun: Instant,
    /// Milliseconds after `begun`.
    at: AtomicU64,
}

impl Life {
    fn new(begun: Instant) -> Self {
        let life = Self { begun, at: AtomicU64::new(0) };
        life.sign();
        life
    }

    /// Notes that bytes moved.
    pub(super) fn sign(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at.store(now, Ordering::Relaxed);
    }

    fn last(&self) -> Duration {
        Duration::from_millis(self.at.load(Ordering::Relaxed))
    }
}

/// The places of one listener.
pub(super) struct Places {
    limits: Limits,
    begun: Instant,
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    open: HashMap<u64, (Arc<Life>, AbortHandle)>,
    logged: Option<Instant>,
}

/// Gives its place back when it is dropped.
struct Place {
    places: Arc<Places>,
    number: u64,
    _free: OwnedSemaphorePermit,
    _stay: Stay,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().open.remove(&self.number);
    }
}

impl Places {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(limits.connections));
        Arc::new(Self { limits, begun: Instant::now(), free, taken: Mutex::default() })
    }

    /// A place for one more; where all are taken, whoever was silent for longest goes. Those who are busy stay, and the
    /// newcomer waits for them.
    pub(super) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(free) = self.free.clone().try_acquire_owned() {
            return Some(free);
        }
        loop {
            self.push_out();
            if let Ok(free) = tokio::time::timeout(LOOK, self.free.clone().acquire_owned()).await {
                return free.ok();
            }
        }
    }

    /// Runs a connection in its place; it says through [`Life`] when bytes move.
    pub(super) fn run<F>(
        self: &Arc<Self>,
        free: OwnedSemaphorePermit,
        stay: Stay,
        connection: impl FnOnce(Arc<Life>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let life = Arc::new(Life::new(self.begun));
        let connection = connection(life.clone());
        // Locked until it is in the list, which its end may be quicker to leave.
        let mut taken = self.taken();
        let number = taken.next;
        taken.next += 1;
        let place = Place { places: self.clone(), number, _free: free, _stay: stay };
        let task = tokio::spawn(async move {
            connection.await;
            drop(place);
        });
        taken.open.insert(number, (life, task.abort_handle()));
    }

    fn push_out(&self) {
        let mut taken = self.taken();
        if taken.logged.is_none_or(|at| at.elapsed() >= AGAIN) {
            taken.logged = Some(Instant::now());
            tracing::warn!(connections = self.limits.connections, "all places for connections are taken");
        }
        let oldest = taken.open.iter().min_by_key(|(_, (life, _))| life.last());
        let oldest = oldest
            .filter(|(_, (life, _))| self.begun.elapsed().saturating_sub(life.last()) >= self.limits.silent);
        let Some(number) = oldest.map(|(number, _)| *number) else { return };
        if let Some((_, task)) = taken.open.remove(&number) {
            task.abort();
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_silent_goes_and_the_busy_stay() {
        let silent = Duration::from_millis(300);
        let places = Places::new(Limits { connections: 2, silent, ..Limits::default() });
        let awake = Awake::default();
        for busy in [true, false] {
            let free = places.free().await.unwrap();
            places.run(free, awake.stay(), move |life| async move {
                if !busy {
                    return std::future::pending().await;
                }
                loop {
                    life.sign();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
        let begun = Instant::now();
        let free = places.free().await.unwrap();
        assert!(begun.elapsed() >= silent, "nobody was silent for long enough yet");
        assert_eq!(places.taken().open.len(), 1, "one of them went");
        // The busy one stays, whoever waits.
        let waited = tokio::time::timeout(4 * silent, places.free()).await;
        assert!(waited.is_err() && places.taken().open.len() == 1);
        drop(free);
        assert!(places.free().await.is_some());
    }
}
