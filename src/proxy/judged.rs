//! What became of the changes that were put to the cloud, as it is written down. Where the disk does not take that, it is
//! remembered: a change that is still in the file is not put to the cloud once more, for somebody may have told it
//! something newer since.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::apply;
use super::fate::Fate;
use super::outbox::{ATTEMPTS, Outbox, Sent};
use super::statuses;
use super::waiting::end_change;
use crate::cache::{Author, CacheError, Change, ChangeKind, Object, Writer, version};

/// What the cloud has said and the disk has not taken down: by the row of the change, the digest of what was told, and what
/// became of it.
#[derive(Debug, Default)]
pub struct Unkept {
    judged: Mutex<HashMap<i64, (u64, Fate)>>,
    /// Changes that the cloud did not take for now, of which that was not written down.
    in_vain: Mutex<HashSet<i64>>,
}

impl Unkept {
    /// The cloud has judged `change`, which was put to it as `told`.
    pub fn note(&self, change: &Change, told: &Value, fate: &Fate) {
        let fate = match fate {
            // The object after it may be an old one when it is looked at.
            Fate::Done(_) => Fate::Done(None),
            Fate::Later(..) => return,
            fate => fate.clone(),
        };
        self.lock().insert(change.id, (digest(told), fate));
    }

    /// What the cloud has said of `change` already, if that would say nothing new: it would be put to it as before, or
    /// `now`, the object that it is told from, was read anew since.
    pub fn fate(&self, change: &Change, tell: &Value, now: Option<&Object>) -> Option<Fate> {
        let judged = self.lock();
        let (told, fate) = judged.get(&change.id)?;
        let read_anew = now.is_some_and(|now| version::given(now.shown_version()).is_none());
        (*told == digest(tell) || read_anew).then(|| fate.clone())
    }

    /// The cloud does not take `change` for now. Until that is written down nobody else knows that the link may have been
    /// used since by those who know better.
    pub fn note_in_vain(&self, change: &Change) {
        self.in_vain().insert(change.id);
    }

    /// Whether that is so.
    pub fn was_in_vain(&self, change: &Change) -> bool {
        self.in_vain().contains(&change.id)
    }

    /// The disk has it now.
    pub fn kept(&self, change: &Change) {
        self.lock().remove(&change.id);
        self.in_vain().remove(&change.id);
    }

    /// These alone still wait.
    pub fn retain(&self, waiting: &[Change]) {
        let mut judged = self.lock();
        if !judged.is_empty() {
            judged.retain(|id, _| waiting.iter().any(|change| change.id == *id));
        }
        self.in_vain().retain(|id| waiting.iter().any(|change| change.id == *id));
    }

    fn in_vain(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.in_vain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, (u64, Fate)>> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}

impl Outbox {
    /// Writes down what became of a change.
    pub(super) async fn keep(&self, change: &Change, sent: Sent, fate: Fate) -> Result<(), CacheError> {
        match fate {
            Fate::Done(answer) => self.settle(change, sent, answer).await?,
            Fate::Gone(_) => {
                let change = change.clone();
                self.cache.commit(move |w| w.drop_untaken(&change)).await?;
            }
            Fate::Never(why) => self.refuse(change, why).await?,
            Fate::Forbidden(why) => {
                self.forget_right(change).await?;
                self.refuse(change, why).await?;
            }
            Fate::Later(why, times) => {
                let change = change.clone();
                self.cache.commit(move |w| put_off(w, &change, times, &why)).await?;
            }
        }
        self.unkept.kept(change);
        Ok(())
    }

    /// The cloud has it. If the object was edited again meanwhile, the rest still waits: what differs from the object that was
    /// told from. Against what the cloud has now, all that others told it since would count as taken away here.
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
                if kind == ChangeKind::Create {
                    apply::let_go(writer, &key)?;
                }
                let now = writer.object(&key)?.map(|(_, object)| object);
                if let (Sent::Body(Some(then), _) | Sent::Same(then), Some(now)) = (&sent, &now)
                    && then.body != now.body
                {
                    return writer.rebase_change(id, then.body.to_string().as_bytes());
                }
                writer.drop_untaken(&change)?;
                let Some(answer) = answer else { return Ok(()) };
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
        let change = change.clone();
        self.cache.commit(move |writer| writer.refuse_change(&change, &why)).await
    }
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
