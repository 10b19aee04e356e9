//! Lists of clients of which a part came faster than it could be kept. Whoever goes on from one of them must read it
//! anew, and nobody else.
//!
//! One that comes too fast again is left alone for a while: its client would read it for ever otherwise, by a link that may
//! be paid by the byte, and nothing would be kept of it all the same.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Proxy;
use crate::cache::{Cache, CacheError, ScopeKey};

/// Where the cache keeps which lists have a part missing.
const META: &str = "torn";

/// Lists that are remembered at the most; of more, one of whoever has a new one goes first.
const REMEMBERED: usize = 1024;
/// For how long a list is left alone at first, and how long one that came too fast is remembered.
const ALONE: Duration = Duration::from_secs(3600);
/// For how long at the most: a list that never fits is read once a day more than its client would.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The lists; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Torn {
    lists: watch::Sender<HashMap<ScopeKey, State>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A part is missing, and its client is to be told.
    Missing(Before),
    /// It is read anew since then.
    Again { since: Instant, before: Before },
    /// It is not kept, for so long.
    Alone { until: Instant, pause: Duration },
}

/// For how long it was left alone before, if it was.
type Before = Option<Duration>;

impl State {
    /// Of one whose client is to be told.
    fn untold(self, now: Instant) -> Option<Before> {
        match self {
            Self::Missing(before) => Some(before),
            Self::Alone { until, pause } if until <= now => Some(Some(pause)),
            Self::Again { .. } | Self::Alone { .. } => None,
        }
    }
}

/// A list that is left alone, and for how much longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftAlone {
    /// Which.
    pub list: ScopeKey,
    /// How much longer.
    pub left: Duration,
}

impl Torn {
    /// Of this list a part is missing: an answer that `begun` then came too fast.
    pub fn note(&self, list: &ScopeKey, begun: Instant) {
        let now = Instant::now();
        self.change(list, |state| match state {
            // Of the reading that was torn before; what is read anew may be whole.
            Some(state @ State::Again { since, .. }) if begun < since => state,
            Some(State::Again { since, before }) if now - since < before.map_or(ALONE, |pause| pause * 2) => {
                let pause = before.map_or(ALONE, |pause| (pause * 2).min(LONGEST));
                let (identity, resource) = (&list.identity, &list.resource);
                let minutes = pause.as_secs() / 60;
                tracing::warn!(
                    identity,
                    resource,
                    minutes,
                    "a list comes faster than it can be kept, again: left alone"
                );
                State::Alone { until: now + pause, pause }
            }
            Some(state @ State::Alone { until, .. }) if until > now => state,
            Some(State::Missing(before)) => State::Missing(before),
            _ => State::Missing(None),
        });
    }

    /// All of it is being read from now on: nobody has to be told any more.
    pub fn is_read(&self, list: &ScopeKey) {
        let now = Instant::now();
        self.lists.send_if_modified(|lists| {
            let Some(state) = lists.get_mut(list) else { return false };
            let Some(before) = state.untold(now) else { return false };
            *state = State::Again { since: now, before };
            true
        });
    }

    /// Its client was to be told, and was not.
    pub fn is_unsaid(&self, list: &ScopeKey) {
        self.lists.send_if_modified(|lists| {
            let Some(state) = lists.get_mut(list) else { return false };
            let State::Again { before, .. } = *state else { return false };
            *state = State::Missing(before);
            true
        });
    }

    /// Writes down which lists have a part missing: whoever goes on from one after a start is told as well.
    pub fn write_down(&self, cache: &Cache) {
        let missing = |state: &State| matches!(state, State::Missing(_) | State::Alone { .. });
        let lists: Vec<ScopeKey> = {
            let all = self.lists.borrow();
            all.iter().filter(|(_, state)| missing(state)).map(|(list, _)| list.clone()).collect()
        };
        let text = serde_json::to_string(&lists).unwrap_or_default();
        cache.record(0, move |writer| writer.set_meta(META, &text));
    }

    /// As it was written down before this start.
    ///
    /// # Errors
    /// Where the cache cannot be read.
    pub async fn of(cache: &Cache) -> Result<Self, CacheError> {
        let torn = Self::default();
        let text = cache.read(|reader| reader.meta(META)).await?;
        let lists: Vec<ScopeKey> = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        lists.iter().for_each(|list| torn.reread(list));
        Ok(torn)
    }

    /// It is to be read anew, for another reason.
    pub fn reread(&self, list: &ScopeKey) {
        self.change(list, |_| State::Missing(None));
    }

    fn change(&self, list: &ScopeKey, next: impl FnOnce(Option<State>) -> State) {
        self.lists.send_if_modified(|lists| {
            if lists.len() >= REMEMBERED && !lists.contains_key(list) {
                let own = lists.keys().find(|other| other.identity == list.identity);
                if let Some(other) = own.or(lists.keys().next()).cloned() {
                    lists.remove(&other);
                }
            }
            let before = lists.get(list).copied();
            let after = next(before);
            lists.insert(list.clone(), after);
            before != Some(after)
        });
    }

    /// Waits until a part of this list is missing and its client is to be told, which is then done.
    pub async fn tell(&self, list: &ScopeKey) {
        let mut lists = self.lists.subscribe();
        loop {
            let state = lists.borrow_and_update().get(list).copied();
            if state.and_then(|state| state.untold(Instant::now())).is_some() {
                return self.is_read(list);
            }
            let over = async {
                match state {
                    Some(State::Alone { until, .. }) => tokio::time::sleep_until(until).await,
                    _ => std::future::pending().await,
                }
            };
            // The sender is held here.
            tokio::select! {
                _ = lists.changed() => {}
                () = over => {}
            }
        }
    }

    /// Whether nothing of it is kept for now.
    pub fn is_left_alone(&self, list: &ScopeKey) -> bool {
        matches!(self.lists.borrow().get(list), Some(State::Alone { until, .. }) if *until > Instant::now())
    }

    /// Those of which nothing is kept for now.
    pub fn left_alone(&self) -> Vec<LeftAlone> {
        let now = Instant::now();
        let left = |(list, state): (&ScopeKey, &State)| match state {
            State::Alone { until, .. } if *until > now => {
                Some(LeftAlone { list: list.clone(), left: *until - now })
            }
            _ => None,
        };
        self.lists.borrow().iter().filter_map(left).collect()
    }
}

impl Proxy {
    /// Lists of clients of which nothing is kept for now, since they come too fast.
    pub fn left_alone(&self) -> Vec<LeftAlone> {
        self.shared.torn.left_alone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn list(identity: &str, n: usize) -> ScopeKey {
        ScopeKey {
            identity: identity.into(),
            resource: "v1/configmaps".into(),
            namespace: String::new(),
            labels: format!("n={n}"),
            fields: String::new(),
        }
    }

    fn is_told(torn: &Torn, list: &ScopeKey) -> bool {
        torn.tell(list).now_or_never().is_some()
    }

    #[test]
    fn only_whoever_goes_on_from_a_torn_list_is_told_and_once() {
        let torn = Torn::default();
        torn.note(&list("a", 1), Instant::now());
        assert!(!is_told(&torn, &list("b", 1)), "of another client");
        assert!(!is_told(&torn, &list("a", 2)), "another list");
        assert!(is_told(&torn, &list("a", 1)));
        assert!(!is_told(&torn, &list("a", 1)), "it reads anew");
        torn.reread(&list("a", 2));
        torn.is_read(&list("a", 2));
        assert!(!is_told(&torn, &list("a", 2)), "it has done so by itself");
    }

    #[tokio::test]
    async fn one_that_comes_too_fast_again_is_left_alone_and_for_longer_each_time() {
        let (torn, list) = (Torn::default(), list("a", 1));
        let minutes = || torn.left_alone().first().map(|alone| alone.left.as_secs().div_ceil(60));
        torn.note(&list, Instant::now());
        assert!(is_told(&torn, &list) && !torn.is_left_alone(&list));
        for hours in [1, 2, 4, 8, 16, 24, 24] {
            torn.note(&list, Instant::now());
            torn.note(&list, Instant::now());
            assert!(torn.is_left_alone(&list) && !is_told(&torn, &list), "its watch goes on");
            assert_eq!(minutes(), Some(hours * 60));
            torn.is_read(&list);
            assert!(torn.is_left_alone(&list), "nothing of it is kept");
            let pause = Duration::from_secs(hours * 3600);
            torn.change(&list, |_| State::Alone { until: Instant::now(), pause });
            assert!(!torn.is_left_alone(&list) && minutes().is_none());
            assert!(is_told(&torn, &list) && !is_told(&torn, &list), "it is tried once more");
        }
        let long_ago = Instant::now().checked_sub(ALONE).unwrap();
        torn.change(&list, |_| State::Again { since: long_ago, before: None });
        torn.note(&list, Instant::now());
        assert!(!torn.is_left_alone(&list) && is_told(&torn, &list), "that was another time");
    }

    /// Two of a client's informers on one list: what tears of the second says nothing of the new reading.
    #[test]
    fn what_was_begun_before_it_is_read_anew_leaves_nothing_alone() {
        let (torn, list, begun) = (Torn::default(), list("a", 1), Instant::now());
        torn.note(&list, begun);
        assert!(is_told(&torn, &list));
        torn.note(&list, begun.checked_sub(Duration::from_millis(1)).unwrap());
        assert!(!torn.is_left_alone(&list) && !is_told(&torn, &list));
        torn.is_unsaid(&list);
        assert!(is_told(&torn, &list), "it was not told, and the next one is");
    }

    #[tokio::test]
    async fn what_is_missing_is_known_after_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let torn = Torn::default();
        torn.note(&list("a", 1), Instant::now());
        torn.write_down(&cache);
        cache.flush().await.unwrap();
        let torn = Torn::of(&cache).await.unwrap();
        assert!(is_told(&torn, &list("a", 1)) && !is_told(&torn, &list("b", 1)));
    }

    #[test]
    fn one_client_with_ever_new_lists_pushes_out_its_own() {
        let torn = Torn::default();
        torn.note(&list("other", 0), Instant::now());
        (0..3 * REMEMBERED).for_each(|n| torn.note(&list("greedy", n), Instant::now()));
        assert_eq!(torn.lists.borrow().len(), REMEMBERED);
        assert!(is_told(&torn, &list("other", 0)));
    }
}
