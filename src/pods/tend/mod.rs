//! Tends the pods of this gateway for as long as the daemon runs: carries out the restarts that the cloud orders by
//! annotation, and heals what asks to be healed. Owns when it looks and what it remembers; the rules are in `heal` and
//! `orders`. What it did is told as Events.

mod act;
mod address;
mod look;
mod notebook;
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
use super::heal::{self, Decision, Memory, Symptoms, acted, decide};
use super::observe::observe;
use super::restart;
use super::view::{live, runtime_uid};
use crate::cache::{Cache, CacheError};
use crate::cri::Runtime;
use crate::health;
use crate::kube::meta;
use crate::sys::clock;

use act::{Error, Hand, healed};
use address::Addresses;
use notebook::Notebook;
use orders::{Order, Orders};
use rows::{Row, rows};

/// What is written in quick succession is looked at once.
const GATHER: Duration = Duration::from_millis(300);
/// How long an order waits for a kubelet or a runtime that is away.
const ORDER_WAITS: Duration = Duration::from_secs(120);
/// Between two tries of such an order.
const RETRY: Duration = Duration::from_secs(1);

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
    /// `[pods.self-heal]`, as it changes.
    pub settings: watch::Receiver<heal::Settings>,
    /// Where self-heal reports.
    pub part: health::Part,
}

/// Runs until the settings have no sender any more.
pub async fn tend(parts: Parts) {
    let (book, trouble) = Notebook::open(&parts.state_dir, &parts.boot, clock::now());
    if let Some(trouble) = trouble {
        tracing::error!(trouble, "what was remembered of pods is lost: orders of before are not carried out");
    }
    let hand = Hand { runtime: parts.runtime, cache: parts.cache, turns: parts.turns };
    let written = hand.cache.written();
    let (tell, settings, part, node) = (parts.tell, parts.settings, parts.part, parts.node);
    let at_work = JoinSet::new();
    let (healing, addresses) = (BTreeSet::new(), Addresses::default());
    Tender { hand, node, tell, settings, part, book, at_work, healing, addresses, unsaved: None, rest: None }
        .run(written)
        .await;
}

struct Tender {
    hand: Hand,
    node: String,
    tell: Tell,
    settings: watch::Receiver<heal::Settings>,
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
}

/// A restart that came to its end.
struct Ended {
    pod: Value,
    what: What,
}

enum What {
    Obeyed(Order, Result<String, Error>),
    Healed { why: String, before: Memory, stopped: Box<Result<restart::Plan, Error>> },
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
        let settings = self.settings.borrow_and_update().clone();
        let node = self.node.clone();
        let read = self.hand.cache.read(move |reader| Ok((rows(reader, &node)?, reader.knows_own_pods()?)));
        let (rows, synced) = match read.await {
            Ok(read) => read,
            Err(error) => {
                self.part.trouble(format!("pods cannot be read: {error}"));
                return Some(settings.look());
            }
        };
        self.obey(&rows).await;
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
        wanted.then(|| settings.look())
    }

    /// Begins what the cloud ordered anew.
    async fn obey(&mut self, rows: &[Row]) {
        let mut ordered = Vec::new();
        for row in rows {
            let values = row.orders.each_ref().map(Option::as_deref);
            match self.book.page(&row.uid) {
                None => self.book.begin(&row.uid, Orders::first(values)),
                Some(page) => ordered.extend(page.orders.take(values).map(|order| (row, order))),
            }
        }
        // Before anything is stopped: a value is carried out once, also over a power cut.
        if ordered.is_empty() || !self.saved(Notebook::save) {
            return;
        }
        for (row, order) in ordered {
            let key = row.key.clone();
            let Ok(Some(pod)) = self.hand.cache.read(move |reader| reader.object(&key)).await else {
                continue;
            };
            tracing::info!(pod = row.name(), order = order.given, "a restart was ordered");
            let hand = self.hand.clone();
            self.at_work.spawn(async move {
                let outcome = obey(&hand, &pod.body, order.part.clone()).await;
                Ended { pod: pod.body, what: What::Obeyed(order, outcome) }
            });
        }
    }

    async fn heal(&mut self, rows: &[Row], settings: &heal::Settings) {
        let known: BTreeMap<&str, &Row> = rows.iter().map(|row| (row.uid.as_str(), row)).collect();
        let looked = self.symptoms(&known, settings).await;
        let looked = match looked {
            Ok(looked) => looked,
            Err(why) => return self.part.trouble(why),
        };
        let watched = looked.len();
        for (pod, symptoms) in looked {
            let uid = runtime_uid(&pod).unwrap_or_default().to_owned();
            let Some(page) = self.book.page(&uid) else { continue };
            let before = page.heal.clone();
            match decide(&mut page.heal, &symptoms, &settings.of(&pod), clock::now()) {
                Decision::Leave => {}
                Decision::GiveUp(why) => self.give_up(&pod, &why).await,
                Decision::Restart(part, why) => {
                    acted(&mut page.heal, part, &symptoms, clock::now());
                    if self.saved(Notebook::save) {
                        self.begin_healing(uid, pod, part, why, before);
                    }
                }
            }
        }
        let left_alone = self.book.pages().filter_map(|(uid, page)| {
            let row = known.get(uid)?;
            Some(format!("{} is left alone: {}", row.name(), page.heal.gave_up.as_ref()?))
        });
        let left_alone: Vec<String> = left_alone.collect();
        if left_alone.is_empty() {
            self.part.good_with(format!("{watched} pods are watched"));
        } else {
            self.part.trouble(left_alone.join("; "));
        }
    }

    /// The pods that are to be healed if they need it, and how they are. Those at work are left out.
    async fn symptoms(
        &mut self,
        known: &BTreeMap<&str, &Row>,
        settings: &heal::Settings,
    ) -> Result<Vec<(Value, Symptoms)>, String> {
        let read = |reader: &crate::cache::Reader| Ok((reader.all("v1/pods")?, reader.all("v1/events")?));
        let (pods, events) = self.hand.cache.read(read).await.map_err(|e| e.to_string())?;
        let runtime = &self.hand.runtime;
        let observed = observe(runtime, pods, clock::now()).await;
        observed.runtime.map_err(|error| error.to_string())?;
        let live = live(&observed.state);
        self.addresses.keep(&observed.state.sandboxes.iter().map(|sandbox| sandbox.id.as_str()).collect());
        let mut found = Vec::new();
        for pod in observed.pods {
            let Some(uid) = runtime_uid(&pod) else { continue };
            let wanted = known.contains_key(uid) && settings.of(&pod).enabled;
            if !wanted || self.healing.contains(uid) {
                continue;
            }
            let symptoms = look::examine(runtime, &mut self.addresses, &pod, live.get(uid), &events).await;
            let symptoms = symptoms.map_err(|error| error.to_string())?;
            found.push((pod, symptoms));
        }
        Ok(found)
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
            What::Obeyed(order, outcome) => {
                if let Some(page) = self.book.page(&uid) {
                    page.orders.begun = None;
                }
                self.saved(Notebook::save);
                let what =
                    if order.part == restart::Part::Whole { "the whole pod" } else { "its containers" };
                let (kind, reason, message) = match outcome {
                    Ok(runs) => {
                        (Kind::Normal, "Restarted", format!("{what} restarted by {}: {runs}", order.given))
                    }
                    Err(Error::Refused(why)) => {
                        (Kind::Warning, "RestartRefused", format!("not restarted by {}: {why}", order.given))
                    }
                    Err(error) => {
                        (Kind::Warning, "RestartFailed", format!("restart by {}: {error}", order.given))
                    }
                };
                self.say(&pod, kind, reason, &message).await;
            }
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
        self.rest = Some(Instant::now() + self.settings.borrow().look());
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

    /// Orders that had begun when the daemon ended: nobody knows how far they came, and a value counts once.
    async fn tell_interrupted(&mut self) {
        let begun: Vec<(String, String)> = self
            .book
            .pages()
            .filter_map(|(uid, page)| Some((uid.to_owned(), page.orders.begun.take()?)))
            .collect();
        if begun.is_empty() {
            return;
        }
        self.saved(Notebook::save);
        let pods = self.hand.cache.read(|reader| reader.all("v1/pods")).await.unwrap_or_default();
        for (uid, given) in begun {
            if let Some(pod) = pods.iter().find(|pod| runtime_uid(pod) == Some(&uid)) {
                let message =
                    format!("edge ended while it restarted the pod by {given}: it is not done again");
                self.say(pod, Kind::Warning, "RestartFailed", &message).await;
            }
        }
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

/// Carries an order out, waiting a while for a kubelet or a runtime that is away.
async fn obey(hand: &Hand, pod: &Value, part: restart::Part) -> Result<String, Error> {
    let until = Instant::now() + ORDER_WAITS;
    let plan = loop {
        match hand.stop(pod, part.clone()).await {
            Err(error) if error.passes() && Instant::now() < until => tokio::time::sleep(RETRY).await,
            stopped => break stopped?,
        }
    };
    hand.wait(pod, &plan).await
}

fn name(pod: &Value) -> String {
    format!("{}/{}", meta::namespace(pod).unwrap_or_default(), meta::name(pod).unwrap_or_default())
}

/// The machine's id of this boot; empty where it has none.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"));
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}
