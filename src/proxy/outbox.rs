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
use super::statuses::{self, PodIdentity, told};
use super::upstream::{As, Upstream};
use super::waiting::end_change;
use crate::cache::{Author, Cache, CacheError, Change, ChangeKind, Object, ObjectKey, Writer};

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
const ATTEMPTS: u32 = 5;
/// How often one round tells the same change, which is written on while it is told.
const PASSES: u32 = 3;

/// Replays changes; cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox {
    cache: Cache,
    upstream: Arc<Upstream>,
    clients: Arc<Clients>,
    /// One round at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
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

/// The cloud went away during a round.
#[derive(Debug)]
struct Gone(String);

impl Outbox {
    /// Replays from `cache` through `upstream`; `clients` are told what they may no more.
    pub fn new(cache: Cache, upstream: Arc<Upstream>, clients: Arc<Clients>) -> Self {
        Self { cache, upstream, clients, turn: Arc::default(), patience: PATIENCE }
    }

    /// Tells the cloud what waited when the round began, but for what it refuses for now. What is written meanwhile is for
    /// the next round: on a slow link somebody always writes before the last answer is there, and no round would end.
    ///
    /// # Errors
    /// Why the cloud is away again; what was not told still waits.
    pub async fn replay(&self, round: Round) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let (mut last, mut passes, mut left) = (None, HashMap::<i64, u32>::new(), LONGEST_PAUSE);
        loop {
            let changes = self.cache.read(|reader| reader.changes()).await.map_err(|e| e.to_string())?;
            let last = *last.get_or_insert(changes.iter().map(|change| change.id).max().unwrap_or(0));
            let mut changes = round.choose(changes);
            changes.retain(|c| c.id <= last && passes.get(&c.id).is_none_or(|told| *told < PASSES));
            if changes.is_empty() {
                return Ok(());
            }
            let told = self.tell(changes, left).await.map_err(|Gone(why)| why)?;
            if round == Round::All && told.ids.is_empty() {
                return Ok(());
            }
            left = left.saturating_sub(told.pause);
            let pause = told.pause.max(if told.ids.is_empty() { PAUSE } else { Duration::ZERO });
            tokio::time::sleep(pause).await;
            told.ids.into_iter().for_each(|id| *passes.entry(id).or_default() += 1);
        }
    }

    /// Tells these changes; of those for which the cloud asks a longer pause than `left`, none is waited for.
    async fn tell(&self, changes: Vec<Change>, left: Duration) -> Result<Told, Gone> {
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
            told.pause = told.pause.max(end.pause);
        }
        Ok(told)
    }

    async fn tell_object(&self, changes: Vec<Change>, left: Duration) -> Result<Told, Gone> {
        let mut told = Told::default();
        for change in changes {
            let failed = |e: CacheError| Gone(e.to_string());
            let sent = self.current(&change).await.map_err(failed)?;
            let fate = match &sent {
                Sent::Nothing => Fate::Done(None),
                Sent::Body(_, request) => self.send(&change, request, left, &mut told.pause).await?,
                Sent::Never(why) => Fate::Never(why.clone()),
                Sent::Overtaken => {
                    tracing::info!(object = %change.what.key, "a change that was put off was overtaken");
                    Fate::Done(None)
                }
            };
            match fate {
                Fate::Done(answer) => self.settle(&change, sent, answer).await.map_err(failed)?,
                Fate::Gone(why) => {
                    let object = change.what.key.to_string();
                    tracing::info!(object, why, "a change made here is about what the cloud has no more");
                    let change = change.clone();
                    self.cache.commit(move |w| w.drop_untaken(&change)).await.map_err(failed)?;
                }
                Fate::Never(why) => self.refuse(&change, why).await.map_err(failed)?,
                Fate::Forbidden(why) => {
                    self.forget_right(&change).await.map_err(failed)?;
                    self.refuse(&change, why).await.map_err(failed)?;
                }
                Fate::Later(why, times) => {
                    let is_clients = is_clients(&change);
                    self.cache.commit(move |w| put_off(w, &change, times, &why)).await.map_err(failed)?;
                    if is_clients {
                        continue;
                    }
                    // What follows builds on this one.
                    return Ok(told);
                }
            }
            told.ids.push(change.id);
        }
        Ok(told)
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
    ) -> Result<Fate, Gone> {
        let mut request = match request(change, body) {
            Ok(request) => request,
            Err(why) => return Ok(Fate::Never(why)),
        };
        let mut who = As::Node;
        if let Author::Client(identity) = &change.what.author {
            who = As::Bearer;
            match self.token_of(identity).await.map_err(|e| Gone(e.to_string()))? {
                Some(bearer) => drop(request.headers_mut().insert(header::AUTHORIZATION, bearer)),
                // Its pod is gone, and its tokens with it.
                None => return Ok(Fate::Gone("who told it is not on this node any more".to_owned())),
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
            return match self.upstream.probe(As::Node).await {
                Ok(()) => Ok(Fate::Later(late, ATTEMPTS)),
                Err(why) => Err(Gone(format!("{late}, and then {why}"))),
            };
        };
        let (head, bytes) = answered.map_err(Gone)?;
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

    /// The newest token of a client on this node, as a header: what it told is told in its name.
    async fn token_of(&self, identity: &str) -> Result<Option<HeaderValue>, CacheError> {
        let Some(pod) = PodIdentity::of(identity) else { return Ok(None) };
        let found = self.cache.read(move |r| r.pod_token(&pod.namespace, &pod.account, &pod.uid)).await?;
        let answer: Option<Value> = found.and_then(|body| serde_json::from_slice(&body).ok());
        let token = answer.as_ref().and_then(|a| a.pointer("/status/token")).and_then(Value::as_str);
        Ok(token.and_then(|token| {
            let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
            bearer.set_sensitive(true);
            Some(bearer)
        }))
    }

    /// The cloud has it. If the object was edited again meanwhile, the rest still waits, against what
    /// the cloud has now.
    async fn settle(&self, change: &Change, sent: Sent, answer: Option<Value>) -> Result<(), CacheError> {
        let change = change.clone();
        let (id, key, uid) = (change.id, change.what.key.clone(), change.what.uid.clone());
        let kind = change.what.kind;
        self.cache
            .commit(move |writer| {
                if kind == ChangeKind::Delete && key.resource == "v1/pods" {
                    writer.drop_tokens_of(&format!("Pod/{uid}"))?;
                }
                let answer = answer.and_then(|value| Object::new(&key.resource, value));
                // What is here has a version of its own, even if it is the same: what the cloud has takes its place.
                let Some(answer) = answer else { return writer.drop_untaken(&change) };
                let now = writer.object(&key)?.map(|(_, object)| object);
                let edited = match (&sent, &now) {
                    (Sent::Body(Some(then), _), Some(now)) => then.body != now.body,
                    _ => false,
                };
                if edited {
                    return writer.rebase_change(id, answer.body.to_string().as_bytes());
                }
                writer.drop_untaken(&change)?;
                if kind == ChangeKind::Create {
                    // Edits of what had only a local uid are no edits of what has a real one.
                    if let Some(local) = &now {
                        writer.drop_changes_of(&key, &local.uid)?;
                    }
                } else if writer.is_edited(&key, &answer.uid)? {
                    // The object here is what the other changes are told from.
                    return Ok(());
                }
                writer.refresh(&answer)
            })
            .await
    }

    /// What the cloud does not let a client tell any more is not taken from it in the next outage.
    async fn forget_right(&self, change: &Change) -> Result<(), CacheError> {
        let (Author::Client(identity), right) =
            (change.what.author.clone(), statuses::right(&change.what.key))
        else {
            return Ok(());
        };
        self.clients.forget_status(&identity, &right, self.cache.era());
        self.cache.commit(move |writer| writer.forget_written(&identity, &right)).await
    }

    async fn refuse(&self, change: &Change, why: String) -> Result<(), CacheError> {
        let object = change.what.key.to_string();
        tracing::warn!(object, why, "the cloud does not take a change made here");
        let change = change.clone();
        self.cache.commit(move |writer| writer.refuse_change(&change, &why)).await
    }
}

/// What became of several changes.
#[derive(Debug, Default)]
struct Told {
    /// Those that the cloud has judged.
    ids: Vec<i64>,
    /// How long it wants to be left alone.
    pause: Duration,
}

/// The cloud does not take a change for now. The link may be used without it from some time on, and what it is about
/// read anew by others: then it is no difference from what is kept any more, and is fixed before.
fn put_off(writer: &Writer, change: &Change, times: u32, why: &str) -> Result<(), CacheError> {
    writer.fail_change(change.id, times, why)?;
    if change.attempts + times >= ATTEMPTS
        && let Some((_, now)) = writer.object(&change.what.key)?
    {
        end_change(writer, change, &now)?;
    }
    Ok(())
}

/// What is sent for a change, with the object it was computed from.
enum Sent {
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
