//! Answers on their way to clients, and those that do not take them.
//!
//! What a client leaves unread waits in memory, and a load balancer or an API server counts its stream. A few may: a
//! person reads `kubectl get -o yaml | less` for as long as they like. Of more than that those that have taken nothing for
//! longest, although something waits for them, are let go, with their connections. A watch that has nothing to tell is
//! none of these.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::body::Incoming;
use tokio::time::Instant;

use super::guests::Guest;
use super::pool::Place;
use super::record::Recording;

/// Clients at once that leave what waits for them: three quarters of a megabyte each at the most, on both ways.
pub const MOST: usize = 32;
/// How long a client that reads may take for that.
const MOMENT: Duration = Duration::from_secs(1);

/// An answer's body with all that it holds, until it has ended.
#[derive(Default)]
pub struct Cargo {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    parts: Option<Parts>,
    /// When something was handed on last, unless more was asked for since.
    left: Option<Instant>,
}

/// What an answer holds.
pub struct Parts {
    /// As it comes from the cloud.
    pub body: Incoming,
    /// Beside it into the cache.
    pub recording: Option<Recording>,
    /// Of the connection that it comes by.
    pub place: Place,
    /// Whose connection it goes on by; of what edge reads for itself nobody's.
    pub guest: Option<Arc<Guest>>,
}

impl Parts {
    /// Gives all of it back. `whole` if the body has come to its end.
    pub fn end(self, whole: bool) {
        drop((self.body, self.place));
        if let Some(recording) = self.recording {
            recording.end(whole);
        }
    }
}

impl Cargo {
    /// Holds these.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { parts: Some(parts), left: None }) })
    }

    /// Does something with what is held; `None` if it was given back. `was_given` tells whether that hands something
    /// on to the client.
    pub fn with<T>(
        &self,
        ask: impl FnOnce(&mut Parts) -> T,
        was_given: impl FnOnce(&T) -> bool,
    ) -> Option<T> {
        let mut state = self.locked();
        let answered = ask(state.parts.as_mut()?);
        state.left = was_given(&answered).then(Instant::now);
        Some(answered)
    }

    /// Looks at what is held.
    pub fn look<T>(&self, ask: impl FnOnce(&Parts) -> T) -> Option<T> {
        self.locked().parts.as_ref().map(ask)
    }

    /// Takes all that is held.
    pub fn take(&self) -> Option<Parts> {
        self.locked().parts.take()
    }

    /// How long the client has left what it was given; `None` if it waits for more, or there is nothing any more.
    fn left(&self) -> Option<Duration> {
        let state = self.locked();
        state.parts.as_ref()?;
        state.left.map(|since| since.elapsed())
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that is on its way.
#[derive(Default)]
pub struct Takers {
    all: Mutex<Vec<Weak<Cargo>>>,
}

impl Takers {
    /// From now on it is looked at.
    pub fn note(&self, cargo: &Arc<Cargo>) {
        self.locked().push(Arc::downgrade(cargo));
    }

    /// For ever: where more than `most` have taken nothing for a moment, lets those go that have for longest.
    pub async fn look(&self, most: usize) {
        loop {
            tokio::time::sleep(MOMENT).await;
            for cargo in self.left(most) {
                if let Some(parts) = cargo.take() {
                    tracing::debug!("a client that takes nothing of its answer is let go");
                    // Nobody asks for more of a body while its stream is full: what waits goes with the connection
                    // alone.
                    parts.guest.iter().for_each(|guest| guest.let_go());
                    parts.end(false);
                }
            }
        }
    }

    /// Those that are to be let go now.
    fn left(&self, most: usize) -> Vec<Arc<Cargo>> {
        let mut all = self.locked();
        all.retain(|cargo| cargo.strong_count() > 0);
        let mut left: Vec<(Duration, Arc<Cargo>)> =
            all.iter().filter_map(Weak::upgrade).filter_map(|cargo| Some((cargo.left()?, cargo))).collect();
        drop(all);
        left.retain(|(time, _)| *time >= MOMENT);
        left.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        left.truncate(left.len().saturating_sub(most));
        left.into_iter().map(|(_, cargo)| cargo).collect()
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Weak<Cargo>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
