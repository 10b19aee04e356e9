//! The one owner of Online and Offline.
//!
//! As long as requests are answered nothing is asked, so an idle link costs nothing: a probe is sent
//! only after something failed, or while the link is down. The rules are in `machine`; this is the task
//! that runs them.

mod machine;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use machine::{Belief, Evidence, Machine};

/// What the link is, for everybody to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Where it stands.
    pub phase: Phase,
    /// Since when, as wall time.
    pub since: jiff::Timestamp,
}

/// Where the link stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not known yet: the first probe is on its way.
    Starting,
    /// The cloud answers.
    Online,
    /// The cloud answers again; what changed here is being told to it first.
    Replaying,
    /// The cloud does not answer, for this reason.
    Offline(String),
}

impl Phase {
    /// Whether clients are answered from the cache.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Offline(_) | Self::Replaying)
    }
}

impl LinkState {
    /// Whether requests go to the cloud.
    pub fn is_online(&self) -> bool {
        self.phase == Phase::Online
    }
}

/// Waits until the link is in an outage; false if it has no owner any more.
pub async fn outage(follow: &mut watch::Receiver<LinkState>) -> bool {
    follow.wait_for(|state| state.phase.is_outage()).await.is_ok()
}

/// Waits until the cloud is back; false if the link has no owner any more.
pub async fn online(follow: &mut watch::Receiver<LinkState>) -> bool {
    follow.wait_for(LinkState::is_online).await.is_ok()
}

/// Asks the cloud for a sign of life; the error says why there was none.
pub type Probe = Arc<dyn Fn(Patience) -> BoxFuture<'static, Result<(), Silence>> + Send + Sync>;

/// How long a sign of life may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Requests wait for what comes of it.
    Short,
    /// Nobody does: what a slow link needs.
    Long,
}

/// Why there was no sign of life.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Silence {
    /// The cloud is not to be had: something said so.
    #[error("{0}")]
    Told(String),
    /// Nothing came in time.
    #[error("{0}")]
    Late(String),
}

/// Where it is noted that answers come from the cloud; cheap to clone and to call.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Noted>);

#[derive(Debug)]
struct Noted {
    count: AtomicU64,
    /// Milliseconds from `begun` to the last time.
    last: AtomicU64,
    begun: std::time::Instant,
}

impl Default for Noted {
    fn default() -> Self {
        let (count, last) = Default::default();
        Self { count, last, begun: std::time::Instant::now() }
    }
}

impl Heard {
    /// Something of an answer has just come.
    pub fn note(&self) {
        let since = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.fetch_max(since, Ordering::Relaxed);
        self.0.count.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was.
    pub fn count(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }

    /// When it was last; `None` if it never was.
    pub fn last(&self) -> Option<std::time::Instant> {
        let last = Duration::from_millis(self.0.last.load(Ordering::Relaxed));
        (self.count() > 0).then(|| self.0.begun + last)
    }
}

/// What has to be done between the cloud's return and everybody's use of it.
pub type Replay = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// A handle on the link; cheap to clone.
#[derive(Clone, Debug)]
pub struct Link {
    state: watch::Receiver<LinkState>,
    /// When a probe was answered last.
    answers: watch::Receiver<Option<Instant>>,
    evidence: mpsc::Sender<Evidence>,
    /// When somebody doubted last.
    doubted: Arc<Mutex<Option<Instant>>>,
    heard: Heard,
}

impl Link {
    /// The link, and the task that owns it. `was_offline` is the reason of an outage that lasted
    /// when the daemon last ran, and since when it does: then nobody waits for the first probe.
    pub fn new(
        interval: Duration,
        was_offline: Option<(String, jiff::Timestamp)>,
        probe: Probe,
        replay: Replay,
    ) -> (Self, Owner) {
        let (why, since) = was_offline.unzip();
        let machine = Machine::new(interval, why, Instant::now());
        // A clock that stepped back does not have an outage begin in the future.
        let now = crate::sys::clock::now();
        let since = since.map_or(now, |since| since.min(now));
        let (state, watched) = watch::channel(LinkState { phase: phase_of(&machine.belief), since });
        let (answered, answers) = watch::channel(None);
        let (evidence, inbox) = mpsc::channel(16);
        let heard = Heard::default();
        let link = Self { state: watched, answers, evidence, doubted: Arc::default(), heard: heard.clone() };
        (link, Owner { machine, state, answered, inbox, probe, replay, heard })
    }

    /// The state now.
    pub fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    /// To follow the state.
    pub fn follow(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// A request failed in a way that may mean an outage. Never waits.
    pub fn suspect(&self, why: String) {
        // A full inbox holds enough suspicion already.
        let _ = self.evidence.try_send(Evidence::Suspicion(why));
    }

    /// The same of a failure that has other causes too: looked into once in `time`. Never waits.
    pub fn doubt(&self, why: String, time: Duration) {
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        if doubted.is_none_or(|at| at.elapsed() >= time) {
            *doubted = Some(Instant::now());
            self.suspect(why);
        }
    }

    /// A request was answered although the link counts as away: it is worth a look. Never waits.
    pub fn saw_life(&self) {
        let _ = self.evidence.try_send(Evidence::Sign);
    }

    /// Where to note what comes from the cloud: a probe that is late meanwhile is no sign of an outage.
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// Whether a probe was answered so lately.
    pub fn answered_within(&self, time: Duration) -> bool {
        self.answers.borrow().is_some_and(|at| at.elapsed() < time)
    }

    /// Reports a failure and waits for what the link makes of it: an outage, or a probe that was
    /// answered; at most `patience`.
    pub async fn examine(&self, why: String, patience: Duration) -> LinkState {
        let mut state = self.state.clone();
        let mut answers = self.answers.clone();
        answers.mark_unchanged();
        self.suspect(why);
        let verdict = async {
            tokio::select! {
                _ = outage(&mut state) => {}
                _ = answers.changed() => {}
            }
        };
        let _ = tokio::time::timeout(patience, verdict).await;
        self.state()
    }

    /// Waits until the link is not what it was at `seen`, or for `patience`.
    pub async fn changed_from(&self, seen: &LinkState, patience: Duration) -> LinkState {
        let mut follow = self.state.clone();
        let _ = tokio::time::timeout(patience, follow.wait_for(|now| now != seen)).await;
        self.state()
    }
}

/// The task behind a [`Link`].
pub struct Owner {
    machine: Machine,
    state: watch::Sender<LinkState>,
    answered: watch::Sender<Option<Instant>>,
    inbox: mpsc::Receiver<Evidence>,
    probe: Probe,
    replay: Replay,
    heard: Heard,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owner").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl Owner {
    /// Runs until every handle is gone.
    pub async fn run(mut self) {
        loop {
            let evidence = match self.machine.next {
                Some(at) => tokio::select! {
                    said = self.inbox.recv() => match said {
                        Some(said) => said,
                        None => return,
                    },
                    () = tokio::time::sleep_until(at) => self.ask().await,
                },
                None => match self.inbox.recv().await {
                    Some(said) => said,
                    None => return,
                },
            };
            if let Evidence::Suspicion(why) = &evidence {
                tracing::debug!(why, "is the cloud still there?");
            }
            let answered = matches!(evidence, Evidence::Answered | Evidence::Heard(_));
            if self.machine.take(evidence, Instant::now()) {
                self.enter().await;
            }
            self.tell();
            if answered {
                self.answered.send_replace(Some(Instant::now()));
            }
        }
    }

    async fn ask(&self) -> Evidence {
        let before = self.heard.count();
        let patience = match self.machine.belief {
            Belief::Offline(_) => Patience::Long,
            Belief::Starting | Belief::Online => Patience::Short,
        };
        match (self.probe)(patience).await {
            Ok(()) => Evidence::Answered,
            Err(Silence::Late(why)) if self.heard.count() != before => Evidence::Heard(why),
            Err(silence) => Evidence::Failed(silence.to_string()),
        }
    }

    /// The belief changed: on the way to Online, what changed here is replayed first.
    async fn enter(&mut self) {
        match &self.machine.belief {
            Belief::Online => {
                self.set(Phase::Replaying);
                if let Err(why) = (self.replay)().await {
                    tracing::warn!(why, "the cloud went away again before it was told what changed");
                    self.machine.take(Evidence::Failed(why.clone()), Instant::now());
                    self.machine.take(Evidence::Failed(why), Instant::now());
                } else {
                    tracing::info!("online");
                }
            }
            Belief::Offline(why) => tracing::warn!(why, "offline"),
            Belief::Starting => {}
        }
    }

    fn tell(&self) {
        self.set(phase_of(&self.machine.belief));
    }

    fn set(&self, phase: Phase) {
        self.state.send_if_modified(|state| {
            if state.phase == phase {
                return false;
            }
            if state.phase.is_outage() != phase.is_outage() || state.phase == Phase::Starting {
                state.since = crate::sys::clock::now();
            }
            state.phase = phase;
            true
        });
    }
}

fn phase_of(belief: &Belief) -> Phase {
    match belief {
        Belief::Starting => Phase::Starting,
        Belief::Online => Phase::Online,
        Belief::Offline(why) => Phase::Offline(why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn when_the_cloud_was_heard_last_is_known() {
        let heard = Heard::default();
        assert_eq!(heard.last(), None);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let before = std::time::Instant::now();
        heard.note();
        // To the millisecond.
        assert!(heard.last().unwrap() + Duration::from_millis(1) >= before);
    }

    /// A full link: a new connection takes longer than a probe waits, and what is under way goes on.
    #[tokio::test]
    async fn a_probe_that_is_late_while_answers_come_is_no_outage() {
        let asked = Arc::<AtomicU64>::default();
        let count = asked.clone();
        let probe: Probe = Arc::new(move |patience| {
            let first = count.fetch_add(1, Ordering::Relaxed) == 0;
            Box::pin(async move {
                if first {
                    return Ok(());
                }
                assert_eq!(patience, Patience::Short);
                tokio::time::sleep(Duration::from_millis(200)).await;
                Err(Silence::Late("no answer".into()))
            })
        });
        let replay: Replay = Arc::new(|| Box::pin(std::future::ready(Ok(()))));
        let (link, owner) = Link::new(Duration::from_millis(20), None, probe, replay);
        let running = tokio::spawn(owner.run());
        assert!(online(&mut link.follow()).await);
        link.suspect("no answer".into());
        while asked.load(Ordering::Relaxed) < 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            link.heard().note();
            assert!(link.state().is_online());
        }
        // Nothing comes any more.
        let gone = tokio::time::timeout(Duration::from_secs(30), async { outage(&mut link.follow()).await });
        assert!(gone.await.unwrap());
        running.abort();
    }
}
