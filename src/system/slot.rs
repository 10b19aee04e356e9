//! The two slots and how each is: a function of what the boot entries, the partitions and the record say. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, VerityId};
use super::esp::Found;
use super::mend::Damage;
use super::record::{Record, Recorded};

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// The one that a card is written with.
    A,
    /// The one that the first update goes to.
    B,
}

impl Slot {
    /// Both, in order.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl FromStr for Slot {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "a" => Ok(Self::A),
            "b" => Ok(Self::B),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// How a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing in it can be booted.
    Empty,
    /// Written and verified; the next boot tries it, on a Raspberry Pi the next restart.
    Staged,
    /// Being tried, or tried before without being found good, and tries are left.
    Trying,
    /// It was healthy.
    Good,
    /// It was given up.
    Failed,
}

impl State {
    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Staged => "staged",
            Self::Trying => "trying",
            Self::Good => "good",
            Self::Failed => "failed",
        }
    }
}

/// What there is to judge by.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The slot that is booted.
    pub booted: Slot,
    /// The boot entries.
    pub entries: &'a [Found],
    /// The ids of the hash trees, of slot a and of slot b.
    pub on_disk: [Option<VerityId>; 2],
    /// What was noted.
    pub record: &'a Record,
}

/// How the appliance is; `edge system status -o json`. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The slot that is booted.
    pub booted: Slot,
    /// The slot that the next boot tries, on a Raspberry Pi the next restart; `None` where no entry boots either.
    pub next: Option<Slot>,
    /// Slot a, then slot b.
    pub slots: [SlotReport; 2],
    /// What the boot loader reads and is damaged, where it was looked at and could not be mended.
    pub damage: Vec<Damage>,
}

/// How one slot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotReport {
    /// Which.
    pub slot: Slot,
    /// Whether it is the one that runs.
    pub booted: bool,
    /// How it is.
    pub state: State,
    /// The file of its boot entry.
    pub entry: Option<String>,
    /// Its entry's number.
    pub number: Option<u64>,
    /// Tries left, where they are counted.
    pub tries_left: Option<u32>,
    /// The image's version, where it is known.
    pub version: Option<String>,
    /// The bundle's stream that brought it.
    pub stream: Option<String>,
    /// The bundle's number.
    pub seq: Option<u64>,
    /// The id of its hash tree.
    pub verity: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
    /// Whether an entry boots it that was good when it was last judged, whatever became of its tries since.
    #[serde(skip)]
    pub was_good: bool,
}

impl Status {
    /// The report of a slot.
    pub fn of(&self, slot: Slot) -> &SlotReport {
        match slot {
            Slot::A => &self.slots[0],
            Slot::B => &self.slots[1],
        }
    }

    /// Whether what runs was never found good, and there is another one to turn to.
    pub fn is_on_trial(&self) -> bool {
        self.of(self.booted).state != State::Good && self.fallback().is_some()
    }

    /// The slot that can be gone back to: the other one, when it was good. Power cuts may have used its tries up.
    pub fn fallback(&self) -> Option<Slot> {
        let other = self.of(self.booted.other());
        other.is_spare().then_some(other.slot)
    }
}

impl SlotReport {
    /// Whether it is good, or was until power cuts used its tries up.
    pub fn is_spare(&self) -> bool {
        self.state == State::Good || self.was_good
    }
}

/// Judges.
pub fn judge(seen: Seen<'_>) -> Status {
    let slots = Slot::BOTH.map(|slot| report(seen, slot));
    // As systemd-boot orders: those without tries last, else by number, the highest first.
    let order = |found: &&Found| (found.entry.is_tried(), found.entry.number, found.entry.left);
    let first = seen.entries.iter().max_by_key(order).and_then(|found| found.verity);
    let next = first.and_then(|id| Slot::BOTH.into_iter().find(|slot| seen.id(*slot) == Some(id)));
    Status { booted: seen.booted, next, slots, damage: Vec::new() }
}

impl<'a> Seen<'a> {
    fn id(&self, slot: Slot) -> Option<VerityId> {
        match slot {
            Slot::A => self.on_disk[0],
            Slot::B => self.on_disk[1],
        }
    }

    /// The entry that boots a slot: the one that names its hash tree, the newest if there are several.
    pub fn entry_of(&self, slot: Slot) -> Option<&'a Found> {
        let id = self.id(slot)?;
        let boots = |found: &&Found| found.verity == Some(id);
        self.entries.iter().filter(boots).max_by_key(|found| (found.entry.number, found.entry.left))
    }
}

fn report(seen: Seen<'_>, slot: Slot) -> SlotReport {
    let id = seen.id(slot);
    let found = seen.entry_of(slot);
    let entry = found.map(|found| found.entry);
    let booted = seen.booted == slot;
    // A note about another system than the one that is there tells nothing of this one.
    let about = |noted: &&Recorded| {
        noted.verity() == id && entry.is_none_or(|entry: Entry| entry.number == noted.number)
    };
    let noted = seen.record.slots.get(&slot).filter(about);
    SlotReport {
        slot,
        booted,
        state: state(entry, booted, noted.map(|noted| noted.state)),
        entry: found.map(|found| found.file.clone()),
        number: entry.map(|entry| entry.number),
        tries_left: entry.and_then(|entry| entry.left),
        version: noted.map(|noted| noted.version.clone()).filter(|version| !version.is_empty()),
        stream: noted.and_then(|noted| noted.stream.clone()),
        seq: noted.and_then(|noted| noted.seq),
        verity: id.map(|id| id.to_string()),
        reason: noted.and_then(|noted| noted.reason.clone()),
        was_good: found.is_some() && noted.is_some_and(|noted| noted.state == State::Good),
    }
}

fn state(entry: Option<Entry>, booted: bool, noted: Option<State>) -> State {
    match (entry, booted, noted) {
        // What runs can be found good whatever became of it before.
        (_, true, Some(State::Good)) => State::Good,
        (_, true, _) => State::Trying,
        // Its entry is taken away once another slot is found good.
        (None, false, Some(State::Failed)) => State::Failed,
        (None, false, _) => State::Empty,
        (Some(entry), false, _) if !entry.is_tried() => State::Failed,
        (Some(_), false, Some(State::Good)) => State::Good,
        // Somebody has blessed it: it is not counted any more.
        (Some(Entry { left: None, .. }), false, _) => State::Good,
        (Some(entry), false, _) if entry.done > 0 => State::Trying,
        (Some(_), false, _) => State::Staged,
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
