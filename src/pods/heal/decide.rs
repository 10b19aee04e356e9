//! The rules of self-heal, on values.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Settings, Symptoms};

/// What is remembered of a pod between two looks, by its uid; kept on disk, so that a reboot does not start anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Memory {
    /// Restart counts at the last look.
    seen: Option<BTreeMap<String, u32>>,
    /// Failed starts within the window.
    failures: Vec<Timestamp>,
    /// Since when the shared context is broken.
    broken_since: Option<Timestamp>,
    /// Restarts that were tried since the pod was last well.
    pub restarts: u32,
    /// What was tried last.
    last: Option<(Timestamp, Part)>,
    /// Nothing more is tried.
    pub gave_up: bool,
}

/// What is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The containers.
    Containers,
    /// The sandbox, too.
    Whole,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Leave,
    /// Restart it, then call [`acted`].
    Restart(Part, String),
    /// Tell that nothing more is tried; said once.
    GiveUp(String),
}

/// Decides on a pod at `now`. `settings` are those of this pod.
pub fn decide(memory: &mut Memory, symptoms: &Symptoms, settings: &Settings, now: Timestamp) -> Decision {
    note(memory, symptoms, settings.window, now);
    let left_alone = symptoms.ending || (symptoms.is_static && !settings.static_pods);
    if !settings.enabled || left_alone {
        return Decision::Leave;
    }
    let Some(why) = reason(memory, symptoms, settings, now) else {
        recover(memory, settings.window, now);
        return Decision::Leave;
    };
    if memory.gave_up || waits(memory, settings.back_off, now) {
        return Decision::Leave;
    }
    if memory.restarts >= settings.max_restarts {
        memory.gave_up = true;
        return Decision::GiveUp(format!("{why}, and {} restarts did not help", memory.restarts));
    }
    // Where nothing runs, the kubelet is at it already, and only a new sandbox can make a difference.
    let part = if memory.last.is_some() || !symptoms.runs { Part::Whole } else { Part::Containers };
    Decision::Restart(part, why)
}

/// Remembers that `part` was restarted at `now`.
pub fn acted(memory: &mut Memory, part: Part, now: Timestamp) {
    memory.last = Some((now, part));
    memory.restarts += 1;
    memory.failures.clear();
    memory.broken_since = None;
}

fn note(memory: &mut Memory, symptoms: &Symptoms, window: Duration, now: Timestamp) {
    let before = memory.seen.replace(symptoms.restarts.clone());
    // The first look has nothing to compare with; the restarts of the past are the past's.
    if let Some(before) = before {
        for name in &symptoms.failing {
            let restarts = symptoms.restarts.get(name).copied().unwrap_or(0);
            let more = restarts.saturating_sub(before.get(name).copied().unwrap_or(0));
            memory.failures.extend((0..more.min(100)).map(|_| now));
        }
    }
    memory.failures.retain(|at| within(*at, window, now));
    memory.broken_since = symptoms.broken.map(|_| memory.broken_since.unwrap_or(now));
}

fn reason(memory: &Memory, symptoms: &Symptoms, settings: &Settings, now: Timestamp) -> Option<String> {
    if let (Some(broken), Some(since)) = (symptoms.broken, memory.broken_since)
        && !within(since, settings.broken_for, now)
    {
        return Some(format!("{} for {} s", broken.reason(), now.duration_since(since).as_secs()));
    }
    let failures = memory.failures.len();
    let many = u32::try_from(failures).unwrap_or(u32::MAX) >= settings.failures;
    many.then(|| format!("{failures} failed starts within {} s", settings.window.as_secs()))
}

/// A pod that has been without a failure for a whole window since the last restart is well again.
fn recover(memory: &mut Memory, window: Duration, now: Timestamp) {
    let quiet = memory.failures.is_empty() && memory.broken_since.is_none();
    if quiet && memory.last.is_some_and(|(at, _)| !within(at, window, now)) {
        (memory.restarts, memory.last, memory.gave_up) = (0, None, false);
    }
}

fn waits(memory: &Memory, back_off: Duration, now: Timestamp) -> bool {
    let doubled = back_off.saturating_mul(1 << memory.restarts.saturating_sub(1).min(10));
    memory.last.is_some_and(|(at, _)| within(at, doubled, now))
}

/// Whether `at` lies less than `span` before `now`. A time in the future, of a clock that was set back, does not.
fn within(at: Timestamp, span: Duration, now: Timestamp) -> bool {
    let age = now.duration_since(at);
    !age.is_negative() && age.unsigned_abs() < span
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::heal::Broken;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn on() -> Settings {
        Settings { enabled: true, ..Settings::default() }
    }

    fn crashed(restarts: u32) -> Symptoms {
        Symptoms {
            restarts: BTreeMap::from([("main".to_owned(), restarts)]),
            failing: vec!["main".to_owned()],
            runs: true,
            ..Symptoms::default()
        }
    }

    fn no_network() -> Symptoms {
        Symptoms { broken: Some(Broken::NetworkNamespace), runs: true, ..Symptoms::default() }
    }

    #[test]
    fn failures_within_the_window_restart_containers_then_the_whole_then_nothing() {
        let (mut memory, settings) = (Memory::default(), on());
        let mut done = Vec::new();
        for minute in 0..240 {
            let now = at(minute * 60);
            match decide(&mut memory, &crashed(u32::try_from(minute).unwrap() + 40), &settings, now) {
                Decision::Leave => {}
                Decision::Restart(part, _) => {
                    acted(&mut memory, part, now);
                    done.push((minute, Some(part)));
                }
                Decision::GiveUp(why) => {
                    assert!(why.ends_with("3 restarts did not help"), "{why}");
                    done.push((minute, None));
                }
            }
        }
        // 5 failures at 1 a minute, then each time 5 more and the doubled back-off of 5, 10 and 20 minutes.
        let expected =
            [(5, Some(Part::Containers)), (10, Some(Part::Whole)), (20, Some(Part::Whole)), (40, None)];
        assert_eq!(done, expected);
    }

    #[test]
    fn restarts_of_before_the_first_look_and_restarts_in_order_do_not_count() {
        let mut memory = Memory::default();
        assert_eq!(decide(&mut memory, &crashed(900), &on(), at(0)), Decision::Leave);
        let in_order = Symptoms { failing: Vec::new(), ..crashed(950) };
        assert_eq!(decide(&mut memory, &in_order, &on(), at(60)), Decision::Leave);
    }

    #[test]
    fn failures_that_are_rare_do_not_count() {
        let mut memory = Memory::default();
        for hour in 0..100 {
            let symptoms = crashed(u32::try_from(hour).unwrap());
            assert_eq!(decide(&mut memory, &symptoms, &on(), at(hour * 3600)), Decision::Leave);
        }
    }

    #[test]
    fn a_broken_context_is_given_time_to_mend() {
        let mut memory = Memory::default();
        assert_eq!(decide(&mut memory, &no_network(), &on(), at(0)), Decision::Leave);
        assert_eq!(decide(&mut memory, &no_network(), &on(), at(299)), Decision::Leave);
        assert_eq!(decide(&mut memory, &Symptoms::default(), &on(), at(299)), Decision::Leave);
        assert_eq!(decide(&mut memory, &no_network(), &on(), at(300)), Decision::Leave, "counted anew");
        let decision = decide(&mut memory, &no_network(), &on(), at(600));
        assert!(matches!(decision, Decision::Restart(Part::Containers, _)), "{decision:?}");
    }

    #[test]
    fn where_nothing_runs_only_the_whole_helps() {
        let mut memory = Memory::default();
        let symptoms = Symptoms { runs: false, ..no_network() };
        decide(&mut memory, &symptoms, &on(), at(0));
        let decision = decide(&mut memory, &symptoms, &on(), at(300));
        assert!(matches!(decision, Decision::Restart(Part::Whole, _)), "{decision:?}");
    }

    #[test]
    fn off_deleted_and_static_pods_are_left_alone() {
        let ending = Symptoms { ending: true, ..no_network() };
        let from_file = Symptoms { is_static: true, ..no_network() };
        for (settings, symptoms, touched) in [
            (Settings::default(), no_network(), false),
            (on(), ending, false),
            (on(), from_file.clone(), false),
            (Settings { static_pods: true, ..on() }, from_file, true),
        ] {
            let mut memory = Memory::default();
            decide(&mut memory, &symptoms, &settings, at(0));
            let decision = decide(&mut memory, &symptoms, &settings, at(1000));
            assert_eq!(decision != Decision::Leave, touched, "{symptoms:?}");
        }
    }

    #[test]
    fn memory_survives_a_reboot_and_a_quiet_window_heals_it() {
        let mut memory = Memory::default();
        decide(&mut memory, &no_network(), &on(), at(0));
        decide(&mut memory, &no_network(), &on(), at(300));
        acted(&mut memory, Part::Containers, at(300));
        let text = serde_json::to_string(&memory).unwrap();
        let mut memory: Memory = serde_json::from_str(&text).unwrap();
        assert_eq!(memory.restarts, 1);
        decide(&mut memory, &Symptoms::default(), &on(), at(600));
        assert_eq!(memory.restarts, 1, "not a whole window yet");
        decide(&mut memory, &Symptoms::default(), &on(), at(901));
        assert_eq!(memory.restarts, 0);
    }
}
