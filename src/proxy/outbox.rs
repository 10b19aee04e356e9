//! Tells the cloud what changed on this node while it was away: first, before anybody else writes.
//!
//! Changes of one object go in their order, several objects at once. What the cloud refuses for
//! good is dropped and said; what it refuses for now stays for the next round.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::time::Instant;

use super::clients::Clients;
use super::difference::told;
use super::errand::Now;
use super::fate::Fate;
use super::judged::Unkept;
use super::statuses;
use super::upstream::Upstream;
use crate::cache::{Author, Cache, CacheError, Change, ChangeKind, Object, ObjectKey};

/// Objects told at once.
const AT_ONCE: usize = 8;
/// Time for one answer: a webhook that is dead takes ten seconds of it, and up to thirty.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest that the cloud may ask for in one round, in all: nobody uses the link meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Refusals-for-now of one change before the link is used without it.
pub(super) const ATTEMPTS: u32 = 5;
/// How often a cache is read in vain before the link is used without what waits in it.
const READS: u32 = 3;
/// How often one round tells the same change, which is written on while it is told.
const PASSES: u32 = 3;

/// Replays changes; cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox {
    pub(super) cache: Cache,
    pub(super) upstream: Arc<Upstream>,
    pub(super) clients: Arc<Clients>,
    /// One round at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    pub(super) unkept: Arc<Unkept>,
    /// Time for one answer.
    pub(super) patience: Duration,
    /// When the cloud was last found to be there although something else had answered.
    pub(super) found: Arc<Mutex<Option<Instant>>>,
}

/// Which changes a round tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// What must be told before anybody writes: everything but events.
    First,
    /// All that waits.
    All,
}

impl Round {
    /// The changes that this round tells. An object with a change that the cloud keeps putting off is
    /// left for later as a whole: what follows builds on it. Only what other clients told is left alone.
    fn choose(self, mut changes: Vec<Change>) -> Vec<Change> {
        if self == Self::First {
            let put_off: Vec<ObjectKey> =
                changes.iter().filter(|c| is_late(c) && !is_clients(c)).map(|c| c.what.key.clone()).collect();
            changes.retain(|c| {
                let key = &c.what.key;
                !key.resource.ends_with("/events") && !put_off.contains(key) && !is_late(c)
            });
        }
        changes
    }
}

/// For what a round has time, and whether the link is in use meanwhile.
#[derive(Clone, Copy)]
struct Terms {
    round: Round,
    /// The longest pause that the cloud may still ask for.
    left: Duration,
}

fn is_late(change: &Change) -> bool {
    change.attempts >= ATTEMPTS
}

/// Whether a client other than kubelet made it. Nothing that is kubelet's waits for such a one.
fn is_clients(change: &Change) -> bool {
    change.what.author != Author::Node
}

/// Why a change cannot be told now, or what became of it cannot be written down.
#[derive(Debug)]
pub(super) enum Broken {
    /// The cloud went away during a round.
    Gone(String),
    /// Here, and no fault of the link's.
    Cache(CacheError),
}

impl From<CacheError> for Broken {
    fn from(error: CacheError) -> Self {
        Self::Cache(error)
    }
}

impl Outbox {
    /// Replays from `cache` through `upstream`; `clients` are told what they may no more.
    pub fn new(cache: Cache, upstream: Arc<Upstream>, clients: Arc<Clients>) -> Self {
        Self {
            cache,
            upstream,
            clients,
            turn: Arc::default(),
            unkept: Arc::default(),
            patience: PATIENCE,
            found: Arc::default(),
        }
    }

    /// Tells the cloud what waited when the round began, but for what it refuses for now. What is written meanwhile is for
    /// the next round: on a slow link somebody always writes before the last answer is there, and no round would end. Nor
    /// does a cache that cannot be read or written keep the link from use: what cannot be told for that waits.
    ///
    /// # Errors
    /// Why the cloud is away again; what was not told still waits.
    pub async fn replay(&self, round: Round) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let (mut last, mut passes, mut left) = (None, HashMap::<i64, u32>::new(), LONGEST_PAUSE);
        loop {
            let changes = match self.changes(round).await {
                Ok(changes) => changes,
                Err(error) => {
                    self.say_unkept(round, &error);
                    return Ok(());
                }
            };
            self.unkept.retain(&changes);
            let last = *last.get_or_insert(changes.iter().map(|change| change.id).max().unwrap_or(0));
            let mut changes = round.choose(changes);
            changes.retain(|c| c.id <= last && passes.get(&c.id).is_none_or(|told| *told < PASSES));
            if changes.is_empty() {
                return Ok(());
            }
            let told = self.tell(changes, Terms { round, left }).await?;
            if let Some(error) = &told.trouble {
                self.say_unkept(round, error);
            }
            passes.extend(told.unkept.iter().map(|id| (*id, PASSES)));
            if round == Round::All && told.ids.is_empty() {
                return Ok(());
            }
            left = left.saturating_sub(told.pause);
            let idle = told.ids.is_empty() && told.unkept.is_empty();
            let pause = told.pause.max(if idle { PAUSE } else { Duration::ZERO });
            tokio::time::sleep(pause).await;
            told.ids.into_iter().for_each(|id| *passes.entry(id).or_default() += 1);
        }
    }

    /// What waits. Once the link is used what is read anew takes the place of what was changed here: before that, a cache
    /// that cannot be read for a moment is read again.
    async fn changes(&self, round: Round) -> Result<Vec<Change>, CacheError> {
        let mut tries = if round == Round::First { READS } else { 1 };
        loop {
            tries -= 1;
            match self.cache.read(|reader| reader.changes()).await {
                Err(error) if tries > 0 => tracing::debug!(%error, "cannot read what waits to be told"),
                read => return read,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn say_unkept(&self, round: Round, error: &CacheError) {
        // That the disk is full was said once, by the cache; and a round comes every half minute.
        if round == Round::First && self.cache.trouble().is_none() {
            tracing::error!(%error, "not all that changed here is told, or known to be");
        } else {
            tracing::debug!(%error, "not all that changed here is told, or known to be");
        }
    }

    /// Tells these changes; of those for which the cloud asks a longer pause than is left, none is waited for.
    ///
    /// # Errors
    /// Why the cloud is away again.
    async fn tell(&self, changes: Vec<Change>, terms: Terms) -> Result<Told, String> {
        let mut by_object: BTreeMap<ObjectKey, Vec<Change>> = BTreeMap::new();
        for change in changes {
            by_object.entry(change.what.key.clone()).or_default().push(change);
        }
        let rounds = futures_util::stream::iter(
            by_object.into_values().map(|changes| self.tell_object(changes, terms)),
        );
        let mut ends = rounds.buffer_unordered(AT_ONCE);
        let mut told = Told::default();
        while let Some(end) = ends.next().await {
            let end = end?;
            told.ids.extend(end.ids);
            told.unkept.extend(end.unkept);
            told.trouble = told.trouble.or(end.trouble);
            told.pause = told.pause.max(end.pause);
        }
        Ok(told)
    }

    async fn tell_object(&self, changes: Vec<Change>, terms: Terms) -> Result<Told, String> {
        let mut told = Told::default();
        let lives = match self.lives_on(&changes).await {
            Ok(lives) => lives,
            Err(Broken::Gone(why)) => return Err(why),
            Err(Broken::Cache(error)) => {
                told.fail(error, changes);
                return Ok(told);
            }
        };
        let mut changes = changes.into_iter();
        while let Some(change) = changes.next() {
            let judged = match &lives {
                Some(fate) => Ok((Sent::Nothing, fate.clone())),
                None => self.tell_change(&change, terms, &mut told.pause).await,
            };
            let (sent, fate) = match judged {
                Ok(judged) => judged,
                Err(Broken::Gone(why)) => return Err(why),
                Err(Broken::Cache(error)) => {
                    told.fail(error, std::iter::once(change).chain(changes));
                    break;
                }
            };
            // What follows builds on one that the cloud does not take yet.
            let holds_up = matches!(fate, Fate::Later(..)) && !is_clients(&change);
            let is_judged = !matches!(fate, Fate::Later(..));
            if !is_judged {
                self.unkept.note_in_vain(&change);
            }
            match self.keep(&change, sent, fate).await {
                Ok(()) if is_judged => told.ids.push(change.id),
                Ok(()) => {}
                Err(error) if holds_up => {
                    told.fail(error, std::iter::once(change).chain(changes));
                    break;
                }
                Err(error) => told.fail(error, [change]),
            }
            if holds_up {
                break;
            }
        }
        Ok(told)
    }

    /// Puts a change to the cloud, unless there is nothing to tell it, or it was told when that could not be written down.
    async fn tell_change(
        &self,
        change: &Change,
        Terms { round, left }: Terms,
        pause: &mut Duration,
    ) -> Result<(Sent, Fate), Broken> {
        // The link was in use since: what others have told through it may not be known here, if the disk was full.
        // With a disk that works that is asked once: a sweep every half minute would fetch whole pods over the link else.
        let may_be_unknown = self.cache.trouble().is_some() || change.attempts <= ATTEMPTS;
        let is_doubtful = self.unkept.was_in_vain(change)
            || (may_be_unknown
                // A node may not read events.
                && !change.what.key.resource.ends_with("/events")
                && (is_late(change) || (round == Round::All && change.attempts > 0)));
        let mut sent = self.current(change).await?;
        if let Sent::Body(_, patch) = &sent
            && is_doubtful
            && matches!(change.what.kind, ChangeKind::Patch | ChangeKind::Apply)
        {
            match self.now(change).await? {
                Now::There(now) if statuses::is_overtaken(&change.what, patch, &now) => {
                    sent = Sent::Overtaken
                }
                Now::There(_) | Now::Hidden => {}
                Now::Told(fate) => return Ok((sent, fate)),
            }
        }
        let fate = match &sent {
            Sent::Nothing | Sent::Same(_) => Fate::Done(None),
            Sent::Body(now, request) => match self.unkept.fate(change, request, now.as_ref()) {
                // Said before, and too often if each round said it.
                Some(fate) => return Ok((sent, fate)),
                None => {
                    let fate = self.send(change, request, left, pause).await?;
                    self.unkept.note(change, request, &fate);
                    fate
                }
            },
            Sent::Never(why) => Fate::Never(why.clone()),
            Sent::Overtaken => Fate::Done(None),
        };
        let object = &change.what.key;
        match (&sent, &fate) {
            (Sent::Overtaken, _) => tracing::info!(%object, "a change that was put off was overtaken"),
            (_, Fate::Gone(why)) => {
                tracing::info!(%object, why, "a change made here is about what the cloud has no more");
            }
            (_, Fate::Never(why) | Fate::Forbidden(why)) => {
                tracing::warn!(%object, why, "the cloud does not take a change made here");
            }
            (_, Fate::Done(_) | Fate::Later(..)) => {}
        }
        Ok((sent, fate))
    }

    /// What to send for a change as things are now.
    async fn current(&self, change: &Change) -> Result<Sent, CacheError> {
        let (what, is_late) = (change.what.clone(), is_late(change));
        self.cache
            .read(move |reader| {
                let is_difference = what.kind == ChangeKind::Patch && what.body.is_none();
                let noted = if is_difference { &what.base } else { &what.body };
                let noted = match noted.as_deref().map_or(Ok(Value::Null), serde_json::from_slice) {
                    Ok(noted) => noted,
                    Err(error) => {
                        return Ok(Sent::Never(format!("what was noted of it is damaged: {error}")));
                    }
                };
                let now = reader.object(&what.key)?.filter(|o| o.uid == what.uid);
                if !is_difference {
                    // Known here already: the cloud need not be asked.
                    let newer = now.filter(|now| is_late && statuses::is_overtaken(&what, &noted, now));
                    return Ok(newer.map_or(Sent::Body(None, noted), |_| Sent::Overtaken));
                }
                let Some(now) = now else { return Ok(Sent::Nothing) };
                match told(&what, &noted, &now.body)? {
                    Some(patch) => Ok(Sent::Body(Some(now), patch)),
                    None => Ok(Sent::Same(now)),
                }
            })
            .await
    }
}

/// What became of several changes.
#[derive(Debug, Default)]
struct Told {
    /// Those that the cloud has judged.
    ids: Vec<i64>,
    /// Those that the cache could not give, or of which it did not take down what became: for the next round.
    unkept: Vec<i64>,
    /// Why.
    trouble: Option<CacheError>,
    /// How long it wants to be left alone.
    pause: Duration,
}

impl Told {
    fn fail(&mut self, error: CacheError, changes: impl IntoIterator<Item = Change>) {
        self.trouble = Some(error);
        self.unkept.extend(changes.into_iter().map(|change| change.id));
    }
}

/// What is sent for a change, with the object it was computed from.
pub(super) enum Sent {
    Nothing,
    /// The object is again as the cloud has it.
    Same(Object),
    Body(Option<Object>, Value),
    /// It cannot be told, and why.
    Never(String),
    /// Somebody has told the cloud something newer.
    Overtaken,
}

#[cfg(test)]
#[path = "outbox_kept_tests.rs"]
mod kept_tests;
#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
