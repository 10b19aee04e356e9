//! The rules of self-heal, on values.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Settings, Symptoms};

/// Starts that may be counted ahead.
const AHEAD: u32 = 3;

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
    /// Nothing more is tried, and why.
    pub gave_up: Option<String>,
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
    set_back(memory, now);
    note(memory, symptoms, settings.window, now);
    let left_alone = symptoms.ending || (symptoms.is_static && !settings.static_pods);
    if !settings.enabled || left_alone {
        return Decision::Leave;
    }
    let Some(why) = reason(memory, symptoms, settings, now) else {
        recover(memory, settings.window, now);
        return Decision::Leave;
    };
    if memory.gave_up.is_some() || waits(memory, settings.back_off, now) {
        return Decision::Leave;
    }
    if memory.restarts >= settings.max_restarts {
        let tried = if memory.restarts == 1 {
            "a restart".to_owned()
        } else {
            format!("{} restarts", memory.restarts)
        };
        return give_up(memory, format!("{why}, and {tried} did not help"));
    }
    if symptoms.broken.is_some() && !symptoms.is_there {
        let why = format!(
            "{why}, and there is nothing of it yet that could be restarted: the kubelet goes on trying"
        );
        return give_up(memory, why);
    }
    // Where nothing runs, the kubelet is at it already, and only a new sandbox can make a difference.
    let part = if memory.last.is_some() || !symptoms.runs { Part::Whole } else { Part::Containers };
    Decision::Restart(part, why)
}

/// Nothing more is tried until the pod has been well for a while; `why` is said of it meanwhile.
pub fn give_up(memory: &mut Memory, why: String) -> Decision {
    memory.gave_up = Some(why.clone());
    Decision::GiveUp(why)
}

/// Remembers that `part` was restarted at `now`, for the sake of the symptoms. What starts anew for that reason is no
/// failed start.
pub fn acted(memory: &mut Memory, part: Part, symptoms: &Symptoms, now: Timestamp) {
    memory.last = Some((now, part));
    memory.restarts += 1;
    memory.failures.clear();
    memory.broken_since = None;
    memory.seen = Some(symptoms.restarts.iter().map(|(name, count)| (name.clone(), count + 1)).collect());
}

/// The machine has booted: every container starts anew, which is no failure of its own.
pub fn booted(memory: &mut Memory) {
    for count in memory.seen.iter_mut().flat_map(BTreeMap::values_mut) {
        *count += 1;
    }
}

/// Nobody looked for a while, until `now`: what was done last counts as done now, so that a pod must be seen well for a
/// whole window before it is well again.
pub fn resumed(memory: &mut Memory, now: Timestamp) {
    if let Some((at, _)) = &mut memory.last {
        *at = now;
    }
}

/// Brings times that lie ahead back to `now`: a gateway without a clock boots in the past, and what was counted
/// before must still count.
fn set_back(memory: &mut Memory, now: Timestamp) {
    let times = memory.failures.iter_mut().chain(&mut memory.broken_since);
    times.chain(memory.last.as_mut().map(|(at, _)| at)).for_each(|at| *at = (*at).min(now));
}

fn note(memory: &mut Memory, symptoms: &Symptoms, window: Duration, now: Timestamp) {
    // The first look has nothing to compare with; the restarts of the past are the past's.
    let before = memory.seen.take().unwrap_or_else(|| symptoms.restarts.clone());
    for name in &symptoms.failing {
        let restarts = symptoms.restarts.get(name).copied().unwrap_or(0);
        let more = restarts.saturating_sub(before.get(name).copied().unwrap_or(restarts));
        memory.failures.extend((0..more.min(100)).map(|_| now));
    }
    // What was counted ahead stays so until the container has been started; a count that began anew is believed.
    let counted = |name: &String, count: u32| match before.get(name) {
        Some(before) if *before > count && before - count <= AHEAD => *before,
        _ => count,
    };
    memory.seen = Some(symptoms.restarts.iter().map(|(n, c)| (n.clone(), counted(n, *c))).collect());
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
    if quiet && memory.last.is_none_or(|(at, _)| !within(at, window, now)) {
        (memory.restarts, memory.last, memory.gave_up) = (0, None, None);
    }
}

fn waits(memory: &Memory, back_off: Duration, now: Timestamp) -> bool {
    let doubled = back_off.saturating_mul(1 << memory.restarts.saturating_sub(1).min(10));
    memory.last.is_some_and(|(at, _)| within(at, doubled, now))
}

/// Whether `at` lies less than `span` before `now`.
fn within(at: Timestamp, span: Duration, now: Timestamp) -> bool {
    now.duration_since(at).unsigned_abs() < span
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
            is_there: true,
            ..Symptoms::default()
        }
    }

    fn no_network() -> Symptoms {
        let broken = Some(Broken::NetworkNamespace);
        Symptoms { broken, runs: true, is_there: true, ..Symptoms::default() }
    }

    #[test]
    fn failures_within_the_window_restart_containers_then_the_whole_then_nothing() {
        let (mut memory, settings) = (Memory::default(), on());
        let mut done = Vec::new();
        for minute in 0..240 {
            let now = at(minute * 60);
            let symptoms = crashed(u32::try_from(minute).unwrap() + 40);
            match decide(&mut memory, &symptoms, &settings, now) {
                Decision::Leave => {}
                Decision::Restart(part, _) => {
                    acted(&mut memory, part, &symptoms, now);
                    done.push((minute, Some(part)));
                }
                Decision::GiveUp(why) => {
                    assert!(why.ends_with("3 restarts did not help"), "{why}");
                    done.push((minute, None));
                }
            }
        }
        // 5 failures at 1 a minute; then each time the one start that was its own doing, 5 failures more, and the
        // doubled back-off of 5, 10 and 20 minutes.
        let expected =
            [(5, Some(Part::Containers)), (11, Some(Part::Whole)), (21, Some(Part::Whole)), (41, None)];
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
        acted(&mut memory, Part::Containers, &no_network(), at(300));
        let text = serde_json::to_string(&memory).unwrap();
        let mut memory: Memory = serde_json::from_str(&text).unwrap();
        assert_eq!(memory.restarts, 1);
        decide(&mut memory, &Symptoms::default(), &on(), at(600));
        assert_eq!(memory.restarts, 1, "not a whole window yet");
        decide(&mut memory, &Symptoms::default(), &on(), at(901));
        assert_eq!(memory.restarts, 0);
    }

    #[test]
    fn a_boot_in_the_past_forgets_nothing_and_its_starts_are_no_failures() {
        let mut memory = Memory::default();
        decide(&mut memory, &no_network(), &on(), at(0));
        acted(&mut memory, Part::Whole, &no_network(), at(300));
        decide(&mut memory, &crashed(7), &on(), at(300));
        booted(&mut memory);
        for second in 0..100 {
            assert_eq!(decide(&mut memory, &crashed(8), &on(), at(second - 900_000)), Decision::Leave);
        }
        assert_eq!((memory.restarts, memory.failures.len()), (1, 0));
    }

    #[test]
    fn time_in_which_nobody_looked_makes_no_pod_well() {
        let mut memory = Memory::default();
        acted(&mut memory, Part::Whole, &no_network(), at(0));
        let mut looked = memory.clone();
        decide(&mut looked, &Symptoms::default(), &on(), at(5000));
        assert_eq!(looked.restarts, 0);
        resumed(&mut memory, at(5000));
        decide(&mut memory, &Symptoms::default(), &on(), at(5001));
        assert_eq!(memory.restarts, 1);
        decide(&mut memory, &Symptoms::default(), &on(), at(5601));
        assert_eq!(memory.restarts, 0);
    }

    #[test]
    fn of_what_was_never_there_nothing_is_restarted_and_that_is_said_once() {
        let mut memory = Memory::default();
        let symptoms = Symptoms { broken: Some(Broken::Mount), ..Symptoms::default() };
        decide(&mut memory, &symptoms, &on(), at(0));
        let Decision::GiveUp(why) = decide(&mut memory, &symptoms, &on(), at(300)) else { panic!() };
        assert!(why.starts_with("a volume cannot be mounted for 300 s, and there is nothing"), "{why}");
        assert_eq!(decide(&mut memory, &symptoms, &on(), at(600)), Decision::Leave);
        decide(&mut memory, &Symptoms::default(), &on(), at(601));
        assert_eq!(memory.gave_up, None, "it is well again");
    }
}
