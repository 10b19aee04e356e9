//! Tells the cloud what changed on this node while it was away: first, before anybody else writes.
//!
//! Changes of one object go in their order, several objects at once. What the cloud refuses for
//! good is dropped and said; what it refuses for now stays for the next round.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use http::{HeaderValue, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use super::clients::Clients;
use super::fate::{Fate, fate, request};
use super::judged::Unkept;
use super::statuses::{self, PodIdentity, told};
use super::token;
use super::upstream::{As, Upstream};
use crate::cache::{Author, Cache, CacheError, Change, ChangeKind, Object, ObjectKey, Reader};
use crate::link::Patience;

/// Objects told at once.
const AT_ONCE: usize = 8;
/// Time for one answer: a webhook that is dead takes ten seconds of it, and up to thirty.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer at the most.
const ANSWER_LIMIT: usize = 4 << 20;
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
    upstream: Arc<Upstream>,
    pub(super) clients: Arc<Clients>,
    /// One round at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    pub(super) unkept: Arc<Unkept>,
    /// Time for one answer.
    patience: Duration,
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

fn is_late(change: &Change) -> bool {
    change.attempts >= ATTEMPTS
}

/// Whether a client other than kubelet made it. Nothing that is kubelet's waits for such a one.
fn is_clients(change: &Change) -> bool {
    change.what.author != Author::Node
}

/// Why a change cannot be told now, or what became of it cannot be written down.
#[derive(Debug)]
enum Broken {
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
        Self { cache, upstream, clients, turn: Arc::default(), unkept: Arc::default(), patience: PATIENCE }
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
            let told = self.tell(changes, left).await?;
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

    /// Tells these changes; of those for which the cloud asks a longer pause than `left`, none is waited for.
    ///
    /// # Errors
    /// Why the cloud is away again.
    async fn tell(&self, changes: Vec<Change>, left: Duration) -> Result<Told, String> {
        let mut by_object: BTreeMap<ObjectKey, Vec<Change>> = BTreeMap::new();
        for change in changes {
            by_object.entry(change.what.key.clone()).or_default().push(change);
        }
        let rounds = futures_util::stream::iter(
            by_object.into_values().map(|changes| self.tell_object(changes, left)),
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

    async fn tell_object(&self, changes: Vec<Change>, left: Duration) -> Result<Told, String> {
        let mut told = Told::default();
        let mut changes = changes.into_iter();
        while let Some(change) = changes.next() {
            let (sent, fate) = match self.tell_change(&change, left, &mut told.pause).await {
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
        left: Duration,
        pause: &mut Duration,
    ) -> Result<(Sent, Fate), Broken> {
        let sent = self.current(change).await?;
        let fate = match &sent {
            Sent::Nothing => Fate::Done(None),
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
                    let newer = now.filter(|now| is_late && statuses::is_overtaken(&what, &noted, now));
                    return Ok(newer.map_or(Sent::Body(None, noted), |_| Sent::Overtaken));
                }
                let Some(now) = now else { return Ok(Sent::Nothing) };
                match told(&what, &noted, &now.body)? {
                    Some(patch) => Ok(Sent::Body(Some(now), patch)),
                    None => Ok(Sent::Nothing),
                }
            })
            .await
    }

    /// Sends a change; where the cloud says when to come again, that is noted in `pause`, unless it is after `left`.
    async fn send(
        &self,
        change: &Change,
        body: &Value,
        left: Duration,
        pause: &mut Duration,
    ) -> Result<Fate, Broken> {
        let mut request = match request(change, body) {
            Ok(request) => request,
            Err(why) => return Ok(Fate::Never(why)),
        };
        let mut who = As::Node;
        if let Author::Client(identity) = &change.what.author {
            who = As::Bearer;
            match self.token_of(identity).await? {
                Ok(bearer) => drop(request.headers_mut().insert(header::AUTHORIZATION, bearer)),
                Err(fate) => return Ok(fate),
            }
        }
        let exchange = async {
            let (answer, _place) = self.upstream.send(who, request).await.map_err(|e| e.to_string())?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|e| e.to_string())?;
            Ok::<_, String>((head, body.to_bytes()))
        };
        let Ok(answered) = tokio::time::timeout(self.patience, exchange).await else {
            let late = format!("no answer within {} s", self.patience.as_secs());
            // It may be this request alone that takes so long, as behind a webhook that does not answer: the link is used
            // without it.
            return match self.upstream.probe(As::Node, Patience::Short).await {
                Ok(()) => Ok(Fate::Later(late, ATTEMPTS)),
                Err(why) => Err(Broken::Gone(format!("{late}, and then {why}"))),
            };
        };
        let (head, bytes) = answered.map_err(Broken::Gone)?;
        let mut fate = fate(change, head.status, &bytes);
        let after = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        if let (Fate::Later(_, times), Some(asked)) = (&mut fate, after.map(Duration::from_secs)) {
            if asked > left {
                *times = ATTEMPTS;
            } else {
                *pause = asked.max(*pause);
            }
        }
        Ok(fate)
    }

    /// The newest token of a client on this node, as a header: what it told is told in its name. Where there is none, what
    /// becomes of that.
    async fn token_of(&self, identity: &str) -> Result<Result<HeaderValue, Fate>, CacheError> {
        // Its tokens go with its pod.
        let gone = || Fate::Gone("who told it is not on this node any more".to_owned());
        let Some(pod) = PodIdentity::of(identity) else { return Ok(Err(gone())) };
        let identity = identity.to_owned();
        let read = move |reader: &Reader| {
            let tokens = reader.tokens_of(&pod.namespace, &pod.account, &pod.uid)?;
            Ok((tokens, reader.purposes(&identity)?))
        };
        let (tokens, accepted) = self.cache.read(read).await?;
        if tokens.is_empty() {
            return Ok(Err(gone()));
        }
        let bearer = token::to_tell_with(&tokens, &accepted).and_then(|bearer| bearer.authorization());
        Ok(bearer.ok_or_else(|| Fate::Never("no token is known by which its pod may tell it".to_owned())))
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
    Body(Option<Object>, Value),
    /// It cannot be told, and why.
    Never(String),
    /// Somebody has told the cloud something newer.
    Overtaken,
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
