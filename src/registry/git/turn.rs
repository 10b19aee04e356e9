//! Who may have a pack made, and for how long: a few at a time, and whoever is slow goes where others wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Packs that are made at the same time; others wait.
const PACKS: usize = 4;
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(30);
/// How long a client may let us wait, and the bytes that each bring back a second of it, up to all: whoever takes less
/// goes in the end, and what a kernel's buffers took at once buys no more time than that.
const PATIENCE: (Duration, u64) = (Duration::from_secs(60), 4 << 10);
/// The same from when others wait on.
const PRESSED: (Duration, u64) = (Duration::from_secs(10), 64 << 10);
/// How often it is looked whether others wait.
pub(super) const GLANCE: Duration = Duration::from_millis(500);

/// Turns to have a pack made.
pub(super) struct Turns {
    packs: Arc<Semaphore>,
    turn: Duration,
    waiting: Waiting,
}

impl Default for Turns {
    fn default() -> Self {
        Self { packs: Arc::new(Semaphore::new(PACKS)), turn: TURN, waiting: Waiting::default() }
    }
}

impl Turns {
    /// A turn, over when it is dropped; none where the others took too long.
    pub(super) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(turn) = self.packs.clone().try_acquire_owned() {
            return Some(turn);
        }
        let _waits = Waits::new(&self.waiting);
        tokio::time::timeout(self.turn, self.packs.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Who waits for one.
    pub(super) fn waiting(&self) -> Waiting {
        self.waiting.clone()
    }
}

/// How many wait for a turn.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    pub(super) fn is_anybody(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

struct Waits<'a>(&'a Waiting);

impl<'a> Waits<'a> {
    fn new(all: &'a Waiting) -> Self {
        all.0.fetch_add(1, Ordering::Relaxed);
        Self(all)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a client that takes its pack slowly is waited for. Only what is waited for it counts. Pure.
#[derive(Debug)]
pub(super) struct Patience {
    left: Duration,
    /// The same since others began to wait.
    pressed: Option<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { left: PATIENCE.0, pressed: None }
    }
}

impl Patience {
    pub(super) fn sent(&mut self, bytes: usize) {
        let more = |left: Duration, (most, floor): (Duration, u64)| {
            (left + Duration::from_secs(1).mul_f64(bytes as f64 / floor as f64)).min(most)
        };
        self.left = more(self.left, PATIENCE);
        self.pressed = self.pressed.map(|left| more(left, PRESSED));
    }

    pub(super) fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
        self.pressed = self.pressed.map(|left| left.saturating_sub(time));
    }

    /// How much longer it may take.
    pub(super) fn left(&mut self, others_wait: bool) -> Duration {
        if !others_wait {
            self.pressed = None;
            return self.left;
        }
        self.left.min(*self.pressed.get_or_insert(PRESSED.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_client_has_less_time_where_others_wait() {
        let mut patience = Patience::default();
        let second = Duration::from_secs(1);
        // An hour at 8 KiB a second.
        for _ in 0..3600 {
            patience.sent(8 << 10);
            patience.waited(second);
            assert!(!patience.left(false).is_zero());
        }
        // It is not held against it that nobody waited, but from now on it is.
        for _ in 0..10 {
            assert!(!patience.left(true).is_zero());
            patience.sent(8 << 10);
            patience.waited(second);
        }
        patience.waited(2 * second);
        assert!(patience.left(true).is_zero());
        assert!(!patience.left(false).is_zero());
        // One that takes enough goes on.
        for _ in 0..3600 {
            patience.sent(64 << 10);
            patience.waited(second);
            assert!(!patience.left(true).is_zero());
        }
        // Megabytes that buffers took buy no time after them.
        assert!(!patience.left(true).is_zero());
        patience.sent(64 << 20);
        patience.waited(10 * second);
        assert!(patience.left(true).is_zero() && !patience.left(false).is_zero());
        patience.waited(50 * second);
        assert!(patience.left(false).is_zero());
    }

    #[tokio::test]
    async fn whoever_waits_for_a_turn_for_long_gets_none() {
        let turns = Turns { turn: Duration::from_millis(400), ..Turns::default() };
        let mut held = Vec::new();
        for _ in 0..PACKS {
            held.push(turns.take().await.unwrap());
        }
        assert!(!turns.waiting().is_anybody());
        let begun = std::time::Instant::now();
        let late = async {
            tokio::time::sleep(turns.turn / 2).await;
            assert!(turns.waiting().is_anybody());
        };
        let (none, ()) = tokio::join!(turns.take(), late);
        assert!(none.is_none() && begun.elapsed() >= turns.turn && !turns.waiting().is_anybody());
        held.pop();
        assert!(turns.take().await.is_some());
    }
}
