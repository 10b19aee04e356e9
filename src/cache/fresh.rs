//! Until when each list is known to be as the cloud has it.
//!
//! A list that is watched is so for as long as its watch goes on, and one that is read again and again was when it was
//! read last. Both are noted in memory alone, and on disk when the cloud goes and once an hour: to write down each event
//! and each reading would wear out flash, and a kubelet that watches for weeks lists once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension as _};
use serde_json::{Value, json};

use super::{Cache, CacheError, ScopeKey, Writer, seconds, today};

/// How long a list is in use after its last watch has ended, or it was read. Clients watch anew within a minute, and
/// kubelet reads anew each time it looks at a pod.
const PAUSE: Duration = Duration::from_secs(600);
/// Lists without a watch that are remembered at the most.
const REMEMBERED: usize = 1024;

/// Of the cache: what was kept when these were others may not be kept any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Losses {
    epoch: u64,
    rollbacks: u64,
}

/// The lists that are used.
#[derive(Debug)]
pub(super) struct Fresh {
    inside: Mutex<Inside>,
    epoch: Arc<AtomicU64>,
    rollbacks: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Inside {
    lists: HashMap<ScopeKey, Used>,
    /// Tells one watch from another.
    watches: u64,
    cloud: Cloud,
}

#[derive(Clone, Copy, Debug)]
enum Cloud {
    There {
        since: Instant,
    },
    /// What ends with it was worth nothing since something last came.
    Gone {
        heard: Option<Instant>,
    },
}

impl Default for Cloud {
    fn default() -> Self {
        Self::Gone { heard: None }
    }
}

#[derive(Debug)]
struct Used {
    /// Its open watches; `None` of one that does not tell, or of which is not kept, all of the list.
    watches: HashMap<u64, Option<Losses>>,
    /// When it was last known to be whole, but for the watches that are open.
    whole: Option<(Instant, Losses)>,
    /// When it was last asked for.
    asked: Instant,
    /// A part was not kept, and it was not read anew since: whoever goes on from it does not have all of it either.
    torn: bool,
}

impl Used {
    fn is_used(&self, now: Instant) -> bool {
        !self.watches.is_empty() || now.saturating_duration_since(self.asked) < PAUSE
    }
}

impl Fresh {
    pub fn new(epoch: Arc<AtomicU64>, rollbacks: Arc<AtomicU64>) -> Self {
        Self { inside: Mutex::default(), epoch, rollbacks }
    }

    fn losses(&self) -> Losses {
        let [epoch, rollbacks] = [&self.epoch, &self.rollbacks].map(|count| count.load(Ordering::Acquire));
        Losses { epoch, rollbacks }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A whole list was read at `at`.
    fn read(&self, list: &ScopeKey, at: Instant) {
        let losses = self.losses();
        let mut inside = self.inside();
        let used = inside.used(list, at);
        used.whole = Some((at, losses));
        used.torn = false;
        used.asked = used.asked.max(at);
    }

    fn known(&self, heard: Option<Instant>, is_online: bool, is_writable: bool, now: Instant) -> Freshness {
        let losses = is_writable.then(|| self.losses());
        let mut inside = self.inside();
        let is_complete = match inside.cloud {
            Cloud::There { since } => now.saturating_duration_since(since) >= PAUSE,
            Cloud::Gone { .. } => false,
        };
        if is_complete {
            inside.lists.retain(|_, used| used.is_used(now));
        }
        let wall = crate::sys::clock::now().as_millisecond();
        let time = |at: Instant| {
            let ago = i64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(i64::MAX);
            wall.saturating_sub(ago).div_euclid(1000)
        };
        let known = |(list, used): (&ScopeKey, &Used)| {
            let is_open = losses.is_some() && used.watches.values().any(|whole| *whole == losses);
            let whole = used.whole.filter(|(_, of)| Some(*of) == losses).map(|(at, _)| at);
            let until = match is_open {
                true => heard,
                false => whole.map(|at| heard.map_or(at, |heard| heard.min(at))),
            };
            Known { list: list.clone(), until: until.map(time), is_current: is_open && is_online }
        };
        Freshness { lists: inside.lists.iter().map(known).collect(), is_complete }
    }
}

impl Inside {
    fn used(&mut self, list: &ScopeKey, now: Instant) -> &mut Used {
        if self.lists.len() >= REMEMBERED && !self.lists.contains_key(list) {
            let mut asked: Vec<Instant> =
                self.lists.values().filter(|used| used.watches.is_empty()).map(|used| used.asked).collect();
            if asked.len() >= REMEMBERED {
                let middle = *asked.select_nth_unstable(REMEMBERED / 2).1;
                self.lists.retain(|_, used| !used.watches.is_empty() || used.asked > middle);
            }
        }
        let new = || Used { watches: HashMap::new(), whole: None, asked: now, torn: false };
        self.lists.entry(list.clone()).or_insert_with(new)
    }
}

/// With what a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// With what has changed since a list that is kept.
    AfterList,
    /// With the whole list, which is all there once it says so (WatchList).
    WithList,
    /// With what there is, and without a word of what went since.
    WithSome,
}

/// An open watch of which all is kept. It ends when this is dropped.
#[derive(Debug)]
pub struct Watching {
    fresh: Arc<Fresh>,
    list: ScopeKey,
    number: u64,
    begun: Losses,
    torn: AtomicBool,
}

impl Watching {
    /// All of its list is kept: from now on it is as the cloud has it.
    pub fn is_whole(&self) {
        let mut inside = self.fresh.inside();
        // What was queued before it was torn is written after.
        if self.torn.load(Ordering::Relaxed) {
            return;
        }
        if let Some(used) = inside.lists.get_mut(&self.list) {
            used.torn = false;
            used.watches.insert(self.number, Some(self.begun));
        }
    }

    /// A part of it is not kept.
    pub fn is_torn(&self) {
        let mut inside = self.fresh.inside();
        self.torn.store(true, Ordering::Relaxed);
        if let Some(used) = inside.lists.get_mut(&self.list) {
            used.torn = true;
            used.watches.insert(self.number, None);
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut inside = self.fresh.inside();
        let until = match inside.cloud {
            Cloud::Gone { heard: Some(heard) } => heard.min(now),
            Cloud::Gone { heard: None } | Cloud::There { .. } => now,
        };
        let Some(used) = inside.lists.get_mut(&self.list) else { return };
        if let Some(Some(losses)) = used.watches.remove(&self.number) {
            used.whole = Some((until, losses));
        }
        used.asked = now;
    }
}

/// What is known of the lists that are in use, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Freshness {
    lists: Vec<Known>,
    /// The cloud has been there for so long that all who use a list have come: what is on disk of others is over.
    pub(super) is_complete: bool,
}

#[derive(Clone, Debug)]
struct Known {
    list: ScopeKey,
    /// Seconds since 1970; `None` if nothing is known but what is on disk.
    until: Option<i64>,
    /// It is watched, and the cloud is there.
    is_current: bool,
}

impl Freshness {
    /// For SQLite: `[scope, until, current]` of each list that is kept.
    pub(super) fn located(&self, db: &Connection) -> Result<String, CacheError> {
        let sql = "SELECT scope.id FROM scope JOIN identity ON identity.id = scope.identity
                   WHERE identity.name = ? AND resource = ? AND namespace = ? AND labels = ? AND fields = ?";
        let mut statement = db.prepare_cached(sql)?;
        let mut found: Vec<Value> = Vec::with_capacity(self.lists.len());
        for Known { list, until, is_current } in &self.lists {
            let of = [&list.identity, &list.resource, &list.namespace, &list.labels, &list.fields];
            let id = statement.query_row(of, |row| row.get::<_, i64>(0)).optional()?;
            found.extend(id.map(|id| json!([id, until, is_current])));
        }
        Ok(Value::Array(found).to_string())
    }
}

/// `known`, of what [`Freshness::located`] gives as `?1`.
pub(super) const KNOWN: &str = "known AS MATERIALIZED (SELECT json_extract(value, '$[0]') AS scope,
    json_extract(value, '$[1]') AS until, json_extract(value, '$[2]') AS current FROM json_each(?1))";

impl Writer {
    /// The list has been read, all of it: noted in memory.
    pub fn note_whole(&self, list: &ScopeKey) {
        // What others were written before came when it was put off.
        let late = self.put_off_since.map_or(0, |at| (seconds() - at).max(0)).unsigned_abs();
        let at = Instant::now();
        self.fresh.read(list, at.checked_sub(Duration::from_secs(late)).unwrap_or(at));
    }

    /// Writes down what is known of the lists in use. Of a list that is no longer, its time becomes that of its last
    /// reading.
    ///
    /// # Errors
    /// The statement's.
    pub fn keep_fresh(&mut self, fresh: &Freshness) -> Result<(), CacheError> {
        let known = fresh.located(self.db())?;
        let write = |sql: &str| self.db().prepare_cached(&format!("WITH {KNOWN} {sql}"))?.execute([&known]);
        write(
            "INSERT OR IGNORE INTO fresh (scope, until)
             SELECT scope.id, coalesce(known.until, scope.synced) FROM known JOIN scope ON scope.id = known.scope
             WHERE scope.synced NOT NULL",
        )?;
        write(
            "UPDATE fresh SET until = known.until FROM known
             WHERE known.scope = fresh.scope AND known.until NOT NULL AND fresh.until <> known.until",
        )?;
        // A watch that has nothing to tell asks for nothing, and is used all the same.
        let today = today();
        write(&format!(
            "UPDATE scope SET used = {today} WHERE used < {today} AND id IN (SELECT scope FROM known)"
        ))?;
        if fresh.is_complete {
            let over = "fresh.scope NOT IN (SELECT scope FROM known)";
            write(&format!(
                "UPDATE scope SET synced = fresh.until FROM fresh
                 WHERE fresh.scope = scope.id AND fresh.until > scope.synced AND {over}"
            ))?;
            write(&format!("DELETE FROM fresh WHERE {over}"))?;
        }
        Ok(())
    }
}

impl Cache {
    /// Somebody begins to watch `list`, of which all is kept.
    pub fn watching(&self, list: &ScopeKey, begins: Begins) -> Watching {
        let fresh = self.shared.fresh.clone();
        let (begun, now) = (fresh.losses(), Instant::now());
        let mut inside = fresh.inside();
        inside.watches += 1;
        let number = inside.watches;
        let used = inside.used(list, now);
        let is_whole = begins == Begins::AfterList && !used.torn;
        used.watches.insert(number, is_whole.then_some(begun));
        used.asked = now;
        drop(inside);
        Watching { fresh, list: list.clone(), number, begun, torn: AtomicBool::new(false) }
    }

    /// The cloud is there from now on.
    pub fn note_cloud(&self) {
        self.shared.fresh.inside().cloud = Cloud::There { since: Instant::now() };
    }

    /// The cloud has gone; `heard` is when something last came from it. No watch outlasts that, though its client may not
    /// have taken the end of it yet.
    pub fn note_outage(&self, heard: Option<Instant>) {
        let losses = self.shared.fresh.losses();
        let mut inside = self.shared.fresh.inside();
        inside.cloud = Cloud::Gone { heard };
        for used in inside.lists.values_mut() {
            let was_whole = used.watches.values().any(|whole| *whole == Some(losses));
            used.watches.values_mut().for_each(|whole| *whole = None);
            match (heard, &mut used.whole) {
                (Some(heard), whole) if was_whole => *whole = Some((heard, losses)),
                (Some(heard), Some((at, _))) => *at = heard.min(*at),
                _ => {}
            }
        }
    }

    /// What is known of the lists in use; `heard` is when something last came from the cloud.
    pub fn freshness(&self, heard: Option<Instant>, is_online: bool) -> Freshness {
        self.shared.fresh.known(heard, is_online, self.trouble().is_none(), Instant::now())
    }
}

#[cfg(test)]
#[path = "fresh_tests.rs"]
mod tests;
