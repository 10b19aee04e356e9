//! The rules of self-heal, on values.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{MOST_FAILURES, Settings, Symptoms};

/// Starts that may be counted ahead.
const AHEAD: u32 = 3;
/// Longer than the kubelet takes to start again what it does not hold back: it tells first that it has ended.
const START: Duration = Duration::from_secs(15);

/// What is remembered of a pod between two looks, by its uid; kept on disk, so that a reboot does not start anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Memory {
    /// Restart counts at the last look.
    seen: Option<BTreeMap<String, u32>>,
    /// Failed starts within the window.
    failures: Vec<Timestamp>,
    /// Since when the kubelet makes a container wait before its next start; set anew when it has failed again.
    held_back_since: Option<Timestamp>,
    /// Failures that were counted for that time.
    missed: u32,
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
    note(memory, symptoms, settings, now);
    if !heals(symptoms, settings) {
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

/// Whether a pod is healed at all, by its own `settings`; of any other there is nothing to tell.
pub fn heals(symptoms: &Symptoms, settings: &Settings) -> bool {
    settings.enabled && !symptoms.ending && (!symptoms.is_static || settings.static_pods)
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
    memory.held_back_since = None;
    memory.broken_since = None;
    memory.seen = Some(symptoms.restarts.iter().map(|(name, count)| (name.clone(), count + 1)).collect());
}

/// The machine has booted: every container starts anew, which is no failure of its own, and so does what was broken.
pub fn booted(memory: &mut Memory) {
    memory.broken_since = None;
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
    memory.held_back_since = None;
}

/// Brings times that lie ahead back to `now`: a gateway without a clock boots in the past, and what was counted
/// before must still count.
fn set_back(memory: &mut Memory, now: Timestamp) {
    let since = memory.broken_since.iter_mut().chain(&mut memory.held_back_since);
    let times = memory.failures.iter_mut().chain(since);
    times.chain(memory.last.as_mut().map(|(at, _)| at)).for_each(|at| *at = (*at).min(now));
}

fn note(memory: &mut Memory, symptoms: &Symptoms, settings: &Settings, now: Timestamp) {
    // The first look has nothing to compare with; the restarts of the past are the past's.
    let before = memory.seen.take().unwrap_or_else(|| symptoms.restarts.clone());
    for name in &symptoms.failing {
        let restarts = symptoms.restarts.get(name).copied().unwrap_or(0);
        let more = restarts.saturating_sub(before.get(name).copied().unwrap_or(restarts));
        let failed = memory.failures.len();
        memory.failures.extend((0..more.min(100)).map(|_| now));
        if memory.failures.len() > failed {
            memory.held_back_since = None;
        }
    }
    // What was counted ahead stays so until the container has been started; a count that began anew is believed.
    let counted = |name: &String, count: u32| match before.get(name) {
        Some(before) if *before > count && before - count <= AHEAD => *before,
        _ => count,
    };
    memory.seen = Some(symptoms.restarts.iter().map(|(n, c)| (n.clone(), counted(n, *c))).collect());
    note_held_back(memory, symptoms, settings, now);
    memory.failures.retain(|at| within(*at, settings.window, now));
    let many = memory.failures.len().saturating_sub(MOST_FAILURES as usize);
    memory.failures.drain(..many);
    memory.broken_since = symptoms.broken.map(|_| memory.broken_since.unwrap_or(now));
}

/// The kubelet doubles its back-off up to five minutes, so that hardly two starts fall into a window: a container that it
/// holds back counts as failing at the rate that is too much.
fn note_held_back(memory: &mut Memory, symptoms: &Symptoms, settings: &Settings, now: Timestamp) {
    if held_back(memory, symptoms).next().is_none() {
        memory.held_back_since = None;
        return;
    }
    if memory.held_back_since.is_none() {
        memory.missed = 0;
    }
    let since = *memory.held_back_since.get_or_insert(now);
    let paces = now.duration_since(since).unsigned_abs().as_millis() / pace(settings).as_millis();
    let paces = u32::try_from(paces).unwrap_or(u32::MAX);
    let more = paces.saturating_sub(memory.missed).min(settings.failures).min(MOST_FAILURES);
    memory.failures.extend((0..more).map(|_| now));
    memory.missed = paces;
}

/// One failure in this time, again and again, is just too much.
fn pace(settings: &Settings) -> Duration {
    (settings.window / settings.failures.max(1)).max(Duration::from_secs(1))
}

/// The containers that the kubelet holds back for their own sake. One that was stopped here and that waits for the start
/// that comes of that has not failed again.
fn held_back<'s>(
    memory: &'s Memory,
    symptoms: &'s Symptoms,
) -> impl Iterator<Item = (&'s str, Option<Duration>)> {
    let started = |name: &str| {
        let seen = memory.seen.as_ref().and_then(|seen| seen.get(name)).copied().unwrap_or(0);
        symptoms.restarts.get(name).is_some_and(|count| *count >= seen)
    };
    symptoms.held_back.iter().map(|(name, ran)| (name.as_str(), *ran)).filter(move |(name, _)| started(name))
}

fn reason(memory: &Memory, symptoms: &Symptoms, settings: &Settings, now: Timestamp) -> Option<String> {
    if let (Some(broken), Some(since)) = (symptoms.broken, memory.broken_since)
        && !within(since, settings.broken_for, now)
    {
        return Some(format!("{} for {} s", broken.reason(), now.duration_since(since).as_secs()));
    }
    let failures = memory.failures.len();
    let many = u32::try_from(failures).unwrap_or(u32::MAX) >= settings.failures;
    if many {
        return Some(format!("{failures} failed starts within {} s", settings.window.as_secs()));
    }
    // It was restarted, was started again, and is where it was: waiting for more of the same would change nothing.
    // What ran for a while before it ended, by itself or at somebody's wish, is the kubelet's to start again.
    let restarted = memory.last.is_some();
    let waits = memory.held_back_since.is_some_and(|since| !within(since, START, now));
    let soon = |ran: Option<Duration>| ran.is_some_and(|ran| ran < pace(settings));
    let (again, _) = held_back(memory, symptoms).find(|(_, ran)| restarted && waits && soon(*ran))?;
    Some(format!("`{again}` has failed again and waits to be started"))
}

/// A pod that has been without a failure for a whole window since the last restart is well again.
fn recover(memory: &mut Memory, window: Duration, now: Timestamp) {
    let quiet =
        memory.failures.is_empty() && memory.broken_since.is_none() && memory.held_back_since.is_none();
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
mod tests;
