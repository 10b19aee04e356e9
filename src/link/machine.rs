//! The rules of the link as a function on values: evidence and time in, state and probes out.

use std::time::Duration;

use tokio::time::Instant;

/// Failed probes in a row, after a failed request, that make an outage.
const FAILURES: u32 = 2;
/// Time between probes while it is unclear what is so.
const RECHECK: Duration = Duration::from_secs(1);
/// Successful probes in a row that end an outage.
const SUCCESSES: u32 = 2;
/// Changes within this time make the link a flapping one, which must be good for longer.
const FLAPPING: Duration = Duration::from_secs(300);
/// The most successes asked of a flapping link.
const SUCCESSES_FLAPPING: u32 = 6;

/// What the link owner believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Belief {
    /// Just started; nobody was asked.
    Starting,
    /// Answers come.
    Online,
    /// No answers come, for this reason.
    Offline(String),
}

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum Evidence {
    /// A request failed in a way that may mean an outage.
    Suspicion(String),
    /// A request was answered although this is an outage.
    Sign,
    /// A probe was answered.
    Answered,
    /// A probe failed.
    Failed(String),
    /// A probe was not answered in time, and other answers came meanwhile: it is slow, or full.
    Heard(String),
}

/// State of the link and when to probe next.
#[derive(Debug)]
pub(super) struct Machine {
    pub belief: Belief,
    interval: Duration,
    failures: u32,
    successes: u32,
    /// When the belief changed, lately.
    changes: Vec<Instant>,
    /// When to probe next; `None` while answers come by themselves.
    pub next: Option<Instant>,
}

impl Machine {
    pub fn new(interval: Duration, was_offline: Option<String>, now: Instant) -> Self {
        let belief = was_offline.map_or(Belief::Starting, Belief::Offline);
        Self { belief, interval, failures: 0, successes: 0, changes: Vec::new(), next: Some(now) }
    }

    /// Takes one piece of evidence; true if the belief changed.
    pub fn take(&mut self, evidence: Evidence, now: Instant) -> bool {
        let before = self.belief.clone();
        match evidence {
            Evidence::Suspicion(_) if self.belief == Belief::Online => {
                self.next = Some(self.next.map_or(now, |next| next.min(now)));
            }
            Evidence::Suspicion(_) => {}
            Evidence::Sign => self.next = self.next.map(|next| next.min(now)),
            Evidence::Answered => self.answered(now),
            Evidence::Heard(_) if self.belief == Belief::Online => {
                self.failures = 0;
                self.next = Some(now + self.interval);
            }
            Evidence::Failed(why) | Evidence::Heard(why) => self.failed(why, now),
        }
        let changed = std::mem::discriminant(&before) != std::mem::discriminant(&self.belief);
        if changed {
            self.changes.retain(|at| now.duration_since(*at) < FLAPPING);
            self.changes.push(now);
            (self.failures, self.successes) = (0, 0);
        }
        changed
    }

    fn answered(&mut self, now: Instant) {
        self.failures = 0;
        match self.belief {
            Belief::Starting => self.belief = Belief::Online,
            Belief::Online => {}
            Belief::Offline(_) => {
                self.successes += 1;
                if self.successes >= self.successes_needed(now) {
                    self.belief = Belief::Online;
                }
            }
        }
        self.next = match self.belief {
            Belief::Online => None,
            _ => Some(now + RECHECK),
        };
    }

    fn failed(&mut self, why: String, now: Instant) {
        self.successes = 0;
        self.failures += 1;
        let needed = if self.belief == Belief::Online { FAILURES } else { 1 };
        if self.failures >= needed {
            self.belief = Belief::Offline(why);
        }
        let pause = if matches!(self.belief, Belief::Offline(_)) { self.interval } else { RECHECK };
        self.next = Some(now + pause);
    }

    /// The first answer after a start is enough; a link that came and went lately must hold longer.
    fn successes_needed(&self, now: Instant) -> u32 {
        if self.changes.is_empty() {
            return 1;
        }
        let lately = self.changes.iter().filter(|at| now.duration_since(**at) < FLAPPING).count();
        u32::try_from(lately).unwrap_or(SUCCESSES_FLAPPING).clamp(SUCCESSES, SUCCESSES_FLAPPING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn machine(was_offline: Option<&str>) -> (Machine, Instant) {
        let now = Instant::now();
        (Machine::new(INTERVAL, was_offline.map(Into::into), now), now)
    }

    fn fail() -> Evidence {
        Evidence::Failed("refused".into())
    }

    #[test]
    fn a_start_is_decided_by_its_first_probe() {
        let (mut m, now) = machine(None);
        assert_eq!(m.next, Some(now));
        assert!(m.take(Evidence::Answered, now));
        assert_eq!((&m.belief, m.next), (&Belief::Online, None));
        let (mut m, now) = machine(None);
        assert!(m.take(fail(), now));
        assert_eq!(m.belief, Belief::Offline("refused".into()));
        assert_eq!(m.next, Some(now + INTERVAL));
    }

    #[test]
    fn one_failure_is_no_outage_and_a_good_probe_forgets_it() {
        let (mut m, now) = machine(None);
        m.take(Evidence::Answered, now);
        m.take(Evidence::Suspicion("reset".into()), now);
        assert_eq!(m.next, Some(now));
        assert!(!m.take(fail(), now));
        assert!(!m.take(Evidence::Answered, now));
        assert!(!m.take(fail(), now));
        assert!(m.take(fail(), now));
    }

    #[test]
    fn while_answers_come_a_late_probe_is_no_outage_and_is_repeated_until_one_is_answered() {
        let (mut m, now) = machine(None);
        m.take(Evidence::Answered, now);
        m.take(Evidence::Suspicion("slow".into()), now);
        for _ in 0..5 {
            assert!(!m.take(fail(), now));
            assert!(!m.take(Evidence::Heard("late".into()), now));
            assert_eq!(m.next, Some(now + INTERVAL));
        }
        assert!(!m.take(fail(), now));
        assert!(m.take(fail(), now), "silence is one");
        assert!(!m.take(Evidence::Heard("late".into()), now), "and ends with an answered probe alone");
        m.take(Evidence::Answered, now);
        assert!(m.take(Evidence::Answered, now));
    }

    #[test]
    fn a_suspicion_offline_changes_nothing() {
        let (mut m, now) = machine(Some("before the reboot"));
        m.take(fail(), now);
        let next = m.next;
        assert!(!m.take(Evidence::Suspicion("x".into()), now));
        assert_eq!(m.next, next);
    }

    #[test]
    fn a_sign_of_life_is_looked_into_at_once_and_is_no_proof() {
        let (mut m, now) = machine(Some("before the reboot"));
        m.take(fail(), now);
        assert_eq!(m.next, Some(now + INTERVAL));
        assert!(!m.take(Evidence::Sign, now));
        assert_eq!(m.next, Some(now));
        let (mut m, now) = machine(None);
        m.take(Evidence::Answered, now);
        m.take(Evidence::Sign, now);
        assert_eq!(m.next, None, "online nothing is asked");
    }

    #[test]
    fn an_outage_ends_after_two_answers_and_a_flapping_one_after_more() {
        let (mut m, mut now) = machine(None);
        m.take(Evidence::Answered, now);
        let mut needed = Vec::new();
        for _ in 0..3 {
            m.take(fail(), now);
            m.take(fail(), now);
            let mut answers = 0;
            while m.belief != Belief::Online {
                now += RECHECK;
                m.take(Evidence::Answered, now);
                answers += 1;
            }
            needed.push(answers);
        }
        assert_eq!(needed, [2, 4, 6]);
        now += FLAPPING;
        m.take(fail(), now);
        m.take(fail(), now);
        m.take(Evidence::Answered, now);
        m.take(Evidence::Answered, now);
        assert_eq!(m.belief, Belief::Online, "calm again");
    }
}
