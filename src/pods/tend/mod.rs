//! Tends the pods of this gateway for as long as the daemon runs: carries out the restarts that the cloud orders by
//! annotation, and heals what asks to be healed. Owns when it looks and what it remembers; the rules are in `heal` and
//! `orders`. What it did is told as Events.

mod act;
mod address;
mod look;
mod notebook;
mod obey;
mod orders;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::event::{Kind, event};
use super::heal::{self, Decision, Memory, Symptoms, acted, decide, heals};
use super::observe::observe;
use super::restart;
use super::settings::Settings;
use super::view::{live, runtime_uid};
use crate::cache::{Cache, CacheError};
use crate::cri::Runtime;
use crate::health;
use crate::kube::meta;
use crate::sys::clock;

use act::{Error, Hand, healed};
use address::Addresses;
use notebook::Notebook;
use orders::Order;
use rows::{Row, rows};

/// What is written in quick succession is looked at once.
const GATHER: Duration = Duration::from_millis(300);
/// When what cannot be remembered is tried again.
const PUT_OFF: Duration = Duration::from_secs(10);

/// Takes an Event of edge's, on disk when it returns.
pub type Tell = Arc<dyn Fn(Value) -> BoxFuture<'static, Result<(), CacheError>> + Send + Sync>;

/// What the task works with.
pub struct Parts {
    /// The pods as they were last heard of.
    pub cache: Cache,
    /// The container runtime.
    pub runtime: Runtime,
    /// Where the notebook lies.
    pub state_dir: PathBuf,
    /// Where turns are taken, with `edge pod restart`.
    pub turns: PathBuf,
    /// This node's name in the cloud; other nodes' pods are not touched.
    pub node: String,
    /// What tells one boot of the machine from another.
    pub boot: String,
    /// Takes Events.
    pub tell: Tell,
    /// `[pods]`, as it changes.
    pub settings: watch::Receiver<Settings>,
    /// Where self-heal reports.
    pub part: health::Part,
}

/// Runs until the settings have no sender any more.
pub async fn tend(parts: Parts) {
    let (book, trouble) = Notebook::open(&parts.state_dir, &parts.boot, clock::now(), clock::since_boot());
    if let Some(trouble) = trouble {
        tracing::error!(trouble, "what was remembered of pods is lost: orders of before are not carried out");
    }
    let kubelet = parts.settings.borrow().kubelet_healthz;
    let hand = Hand { runtime: parts.runtime, cache: parts.cache, kubelet, turns: parts.turns };
    let written = hand.cache.written();
    let (tell, settings, part, node) = (parts.tell, parts.settings, parts.part, parts.node);
    let at_work = JoinSet::new();
    let (healing, addresses) = (BTreeSet::new(), Addresses::default());
    Tender {
        hand,
        node,
        tell,
        settings,
        part,
        book,
        at_work,
        healing,
        addresses,
        unsaved: None,
        put_off: BTreeSet::new(),
        rest: None,
    }
    .run(written)
    .await;
}

struct Tender {
    hand: Hand,
    node: String,
    tell: Tell,
    settings: watch::Receiver<Settings>,
    part: health::Part,
    book: Notebook,
    at_work: JoinSet<Ended>,
    /// Pods that are being healed at this moment.
    healing: BTreeSet<String>,
    /// The addresses that pods have, or had.
    addresses: Addresses,
    /// Until when nothing is healed, since the last try failed.
    rest: Option<Instant>,
    /// Why the notebook could not be written last time: said once, not at each look.
    unsaved: Option<String>,
    /// The orders that wait for that, by uid and what was given: each is told once.
    put_off: BTreeSet<(String, String)>,
}

/// A restart that came to its end.
struct Ended {
    pod: Value,
    what: What,
}

enum What {
    /// Whether it was the whole pod, and what runs then.
    Obeyed(Order, Result<(bool, String), Error>),
    Healed {
        why: String,
        before: Memory,
        stopped: Box<Result<restart::Plan, Error>>,
    },
}

impl Tender {
    async fn run(mut self, mut written: watch::Receiver<u64>) {
        self.tell_interrupted().await;
        loop {
            written.borrow_and_update();
            let next = self.look().await.map(|after| Instant::now() + after);
            tokio::select! {
                changed = written.changed() => match changed {
                    Ok(()) => tokio::time::sleep(GATHER).await,
                    Err(_) => return,
                },
                changed = self.settings.changed() => if changed.is_err() { return },
                Some(ended) = self.at_work.join_next(), if !self.at_work.is_empty() => match ended {
                    Ok(ended) => self.end(ended).await,
                    Err(error) => tracing::error!(%error, "a restart ended unexpectedly"),
                },
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Looks at all pods once; gives when to look again even if nothing is heard of them.
    async fn look(&mut self) -> Option<Duration> {
        let Settings { kubelet_healthz, self_heal: settings } = self.settings.borrow_and_update().clone();
        self.hand.kubelet = kubelet_healthz;
        let node = self.node.clone();
        let read = self.hand.cache.read(move |reader| Ok((rows(reader, &node)?, reader.knows_own_pods()?)));
        let (rows, synced) = match read.await {
            Ok(read) => read,
            Err(error) => {
                self.part.trouble(format!("pods cannot be read: {error}"));
                return Some(settings.look());
            }
        };
        let put_off = self.obey(&rows).await;
        if synced {
            self.book.keep(&rows.iter().map(|row| row.uid.clone()).collect());
        }
        let wanted = rows.iter().any(|row| row.heals.unwrap_or(settings.enabled));
        if wanted {
            // What was in the way a moment ago, such as kubelet's absence, is there still.
            if self.rest.is_none_or(|until| Instant::now() >= until) {
                self.heal(&rows, &settings).await;
            }
        } else if settings.enabled {
            self.part.good_with("no pods are known");
        } else {
            self.part.off();
        }
        self.saved(|book| book.save_rarely());
        let next = wanted.then(|| settings.look());
        if put_off { Some(next.map_or(PUT_OFF, |next| next.min(PUT_OFF))) } else { next }
    }

    async fn heal(&mut self, rows: &[Row], settings: &heal::Settings) {
        let known: BTreeMap<&str, &Row> = rows.iter().map(|row| (row.uid.as_str(), row)).collect();
        let looked = self.symptoms(&known, settings).await;
        let (looked, dark) = match looked {
            Ok(looked) => looked,
            Err(why) => return self.part.trouble(why),
        };
        let watched = looked.len();
        let judged = self.judge(looked, settings).await;
        let left_alone = self.book.pages().filter_map(|(uid, page)| {
            // What has ended since, or is to be healed no longer, is nobody's trouble.
            let row = known.get(uid).filter(|_| judged.contains(uid))?;
            Some(format!("{} is left alone: {}", row.name(), page.heal.gave_up.as_ref()?))
        });
        let troubles: Vec<String> = left_alone.chain(dark).collect();
        if troubles.is_empty() {
            self.part.good_with(format!("{watched} pods are watched"));
        } else {
            self.part.trouble(troubles.join("; "));
        }
    }

    /// Does for each pod what its symptoms ask for. The uids of those that are healed where they need it.
    async fn judge(&mut self, looked: Vec<(Value, Symptoms)>, settings: &heal::Settings) -> BTreeSet<String> {
        let now = self.book.time(clock::since_boot());
        let mut judged = BTreeSet::new();
        for (pod, symptoms) in looked {
            let uid = runtime_uid(&pod).unwrap_or_default().to_owned();
            let Some(page) = self.book.page(&uid) else { continue };
            let (before, settings) = (page.heal.clone(), settings.of(&pod));
            if heals(&symptoms, &settings) {
                judged.insert(uid.clone());
            }
            match decide(&mut page.heal, &symptoms, &settings, now) {
                Decision::Leave => {}
                Decision::GiveUp(why) => self.give_up(&pod, &why).await,
                Decision::Restart(part, why) => {
                    acted(&mut page.heal, part, &symptoms, now);
                    if self.saved(Notebook::save) {
                        self.begin_healing(uid, pod, part, why, before);
                    } else if let Some(page) = self.book.page(&uid) {
                        // What was not done does not count.
                        page.heal = before;
                    }
                }
            }
        }
        judged
    }

    /// The pods that are to be healed if they need it, and how they are; then a line for each that the runtime does not
    /// tell of. Those at work are left out.
    async fn symptoms(
        &mut self,
        known: &BTreeMap<&str, &Row>,
        settings: &heal::Settings,
    ) -> Result<(Vec<(Value, Symptoms)>, Vec<String>), String> {
        let read = |reader: &crate::cache::Reader| Ok((reader.all("v1/pods")?, reader.all("v1/events")?));
        let (pods, events) = self.hand.cache.read(read).await.map_err(|e| e.to_string())?;
        let runtime = &self.hand.runtime;
        let observed = observe(runtime, pods).await;
        observed.runtime.map_err(|error| error.to_string())?;
        let live = live(&observed.state);
        self.addresses.keep(&observed.state.sandboxes.iter().map(|sandbox| sandbox.id.as_str()).collect());
        let (mut found, mut dark) = (Vec::new(), Vec::new());
        for pod in observed.pods {
            let Some(uid) = runtime_uid(&pod) else { continue };
            let wanted = known.contains_key(uid) && settings.of(&pod).enabled;
            if !wanted || self.healing.contains(uid) {
                continue;
            }
            let symptoms = look::examine(runtime, &mut self.addresses, &pod, live.get(uid), &events).await;
            match symptoms {
                Ok(symptoms) => found.push((pod, symptoms)),
                Err(error) if error.is_down() => return Err(error.to_string()),
                Err(error) => dark.push(format!("{} is not watched: {error}", name(&pod))),
            }
        }
        Ok((found, dark))
    }

    fn begin_healing(&mut self, uid: String, pod: Value, part: heal::Part, why: String, before: Memory) {
        self.healing.insert(uid);
        let hand = self.hand.clone();
        let part = match part {
            heal::Part::Containers => restart::Part::Containers,
            heal::Part::Whole => restart::Part::Whole,
        };
        self.at_work.spawn(async move {
            let stopped = Box::new(hand.stop(&pod, part).await);
            Ended { pod, what: What::Healed { why, before, stopped } }
        });
    }

    /// Tells how a restart ended, and remembers it.
    async fn end(&mut self, Ended { pod, what }: Ended) {
        let uid = runtime_uid(&pod).unwrap_or_default().to_owned();
        match what {
            What::Obeyed(order, outcome) => self.obeyed(&uid, &pod, &order, outcome).await,
            What::Healed { why, before, stopped } => {
                self.healing.remove(&uid);
                match *stopped {
                    Ok(plan) => self.say(&pod, Kind::Normal, "SelfHealRestart", &healed(&plan, &why)).await,
                    Err(error) => self.not_healed(&uid, &pod, before, error).await,
                }
            }
        }
    }

    /// What was not done does not count.
    async fn not_healed(&mut self, uid: &str, pod: &Value, before: Memory, error: Error) {
        let Some(page) = self.book.page(uid) else { return };
        let passes = error.passes();
        tracing::warn!(pod = name(pod), %error, "not healed");
        // Else each failure would be followed by the next try at once.
        self.rest = Some(Instant::now() + self.settings.borrow().self_heal.look());
        if !passes {
            let why = format!("it cannot be restarted: {error}");
            heal::give_up(&mut page.heal, why.clone());
            return self.give_up(pod, &why).await;
        }
        page.heal = before;
    }

    async fn give_up(&mut self, pod: &Value, why: &str) {
        self.saved(Notebook::save);
        self.say(pod, Kind::Warning, "SelfHealGaveUp", &format!("left alone until it is well again: {why}"))
            .await;
    }

    async fn say(&self, pod: &Value, kind: Kind, reason: &'static str, message: &str) {
        tracing::info!(pod = name(pod), reason, message, "told of a pod");
        let made = event(pod, &self.node, kind, reason, message, clock::now());
        if let Err(error) = (self.tell)(made).await {
            tracing::error!(pod = name(pod), %error, "an event was not kept");
        }
    }

    /// Whether what must be remembered is on disk.
    fn saved(&mut self, how: impl FnOnce(&mut Notebook) -> std::io::Result<()>) -> bool {
        match how(&mut self.book) {
            Ok(()) => {
                self.unsaved = None;
                true
            }
            Err(error) => {
                let why = error.to_string();
                if self.unsaved.as_ref() != Some(&why) {
                    tracing::error!(%error, "what is remembered of pods is not on disk: nothing is restarted");
                }
                self.unsaved = Some(why);
                false
            }
        }
    }
}

fn name(pod: &Value) -> String {
    format!("{}/{}", meta::namespace(pod).unwrap_or_default(), meta::name(pod).unwrap_or_default())
}

/// The machine's id of this boot; empty where it has none.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"));
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
