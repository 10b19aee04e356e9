//! Whether the booted slot is good, and what follows where it is not.
//!
//! An entry that is found good gets all of its tries back instead of losing its counter: so a system that rots later is
//! given up too.

use super::entry::Entry;
use super::esp::{Esp, Found, entries};
use super::identity::Identity;
use super::places::TRIES;
use super::record::{Record, Recorded};
use super::slot::{Slot, State, Status};
use super::{Error, Places, firmware};
use crate::sys::durable;

/// What a boot was judged to be where somebody gave its system up.
const ROLLED_BACK: &str = "rolled back";

/// What was done with the booted slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The slot.
    pub slot: Slot,
    /// Its entry from now on.
    pub entry: String,
}

/// Where to turn when the booted slot is not healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// To a new boot: the same slot is tried again so often, then the other one.
    Reboot {
        /// Tries left.
        left: u32,
        /// The other one, which was good.
        other: Slot,
    },
    /// Nowhere; why.
    Nowhere(String),
}

/// Notes that the booted slot is healthy. `None` where somebody gave it up in this boot: it stays so.
///
/// # Errors
/// Where its entry is not found or cannot be renamed.
pub fn arm(places: &Places) -> Result<Option<Outcome>, Error> {
    let status = Status::read(places)?;
    let booted = status.booted;
    let found = booted_entry(places, &status)?;
    let armed = Entry { left: Some(TRIES), done: 0, ..found.entry };
    let (file, identity) = (armed.name(), Identity::open(places)?);
    if std::fs::read_to_string(places.judged()).is_ok_and(|text| text == ROLLED_BACK) {
        return Ok(None);
    }
    // The name first: it is what counts, and a cut after it leaves a slot that is tried once more.
    if file != found.file {
        Esp::open(places)?.rename(&found.file, &file)?;
    }
    let mut record = Record::read(places)?;
    let noted =
        Recorded { state: State::Good, reason: None, ..noted(places, &record, &status, armed.number) };
    if record.slots.get(&booted) != Some(&noted) || record.highest < armed.number {
        record.slots.insert(booted, noted);
        record.write(&identity)?;
    }
    Ok(Some(Outcome { slot: booted, entry: file }))
}

/// Notes that the booted slot is not healthy, and says where to turn. It is given up with its last try.
///
/// # Errors
/// Where that cannot be noted.
pub fn unhealthy(places: &Places, why: &str) -> Result<Fallback, Error> {
    let status = Status::read(places)?;
    let Some(other) = status.fallback() else {
        let other = status.of(status.booted.other());
        return Ok(Fallback::Nowhere(format!("slot {} is {}", other.slot, other.state.word())));
    };
    let left = booted_entry(places, &status)?.entry.left.unwrap_or(0);
    note(places, &status, if left == 0 { State::Failed } else { State::Trying }, why)?;
    Ok(Fallback::Reboot { left, other })
}

/// Gives the booted slot up, so that the next boot goes to the other one, which was good; says which that is.
///
/// # Errors
/// [`Error::NoOther`] where there is none; nothing is changed then.
pub fn roll_back(places: &Places) -> Result<Slot, Error> {
    let status = Status::read(places)?;
    let other = status.of(status.booted.other());
    let Some(to) = status.fallback() else {
        return Err(Error::NoOther(format!("slot {} is {}", other.slot, other.state.word())));
    };
    let found = booted_entry(places, &status)?;
    let given_up = Entry { left: Some(0), ..found.entry };
    {
        // edge-healthy.service may still be waiting for all parts, and would give it its tries back.
        let _alone = Identity::open(places)?;
        Esp::open(places)?.rename(&found.file, &given_up.name())?;
        durable::write(&places.judged(), ROLLED_BACK.as_bytes(), 0o600)?;
    }
    note(places, &status, State::Failed, "rolled back by hand")?;
    Ok(to)
}

fn note(places: &Places, status: &Status, state: State, why: &str) -> Result<(), Error> {
    let identity = Identity::open(places)?;
    let mut record = Record::read(places)?;
    let number = status.of(status.booted).number.unwrap_or(0);
    let noted = Recorded { state, reason: Some(why.to_owned()), ..noted(places, &record, status, number) };
    record.slots.insert(status.booted, noted);
    record.write(&identity)
}

/// What is noted of the booted slot, or what its own files say: a card's first system was never staged.
fn noted(places: &Places, record: &Record, status: &Status, number: u64) -> Recorded {
    let report = status.of(status.booted);
    let known = record
        .slots
        .get(&status.booted)
        .filter(|noted| noted.number == number && report.verity.as_ref() == Some(&noted.verity_uuid));
    known.cloned().unwrap_or_else(|| Recorded {
        number,
        version: super::Release::read(places).map(|release| release.version).unwrap_or_default(),
        stream: None,
        seq: None,
        manifest_digest: None,
        state: report.state,
        verity_uuid: report.verity.clone().unwrap_or_default(),
        reason: None,
    })
}

/// The entry that was started: by what the loader says, else by the root file system that runs.
fn booted_entry(places: &Places, status: &Status) -> Result<Found, Error> {
    let all = entries(places)?;
    if let Some(started) = firmware::started(places)
        && let Some(found) = all.iter().find(|found| found.entry.number == started.number)
    {
        return Ok(found.clone());
    }
    let file = status.of(status.booted).entry.as_ref();
    let found = file.and_then(|file| all.into_iter().find(|found| found.file == *file));
    found.ok_or_else(|| {
        let why = format!("no boot entry in `{}` boots slot {}", places.entries().display(), status.booted);
        Error::Unfit(why)
    })
}
