//! Whether the booted slot is good, and what follows where it is not, with systemd-boot.
//!
//! An entry that is found good gets all of its tries back instead of losing its counter: so a system that rots later is
//! given up too.
//!
//! systemd-boot starts an entry that was given up where none has tries left, the highest number first. So no such entry
//! stays beside a good one: a few power cuts would start what is known to be broken, and nothing would lead back. One that
//! was good gets its tries back first, once.

use std::io::ErrorKind;

use super::entry::Entry;
use super::esp::{Esp, Found, entries};
use super::identity::Identity;
use super::places::TRIES;
use super::record::{Record, Recorded};
use super::slot::{Slot, State, Status};
use super::{Error, Places, firmware, mend};
use crate::sys::durable;

/// What a boot was judged to be where somebody gave its system up.
pub(super) const ROLLED_BACK: &str = "rolled back";
/// Why a slot is tried that had used its tries up.
pub(super) const ONCE_MORE: &str = "it was good and had no tries left, and gets them back once";

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
    let (file, esp) = (armed.name(), Esp::open(places)?);
    let identity = Identity::open(places)?;
    if std::fs::read_to_string(places.judged()).is_ok_and(|text| text == ROLLED_BACK) {
        return Ok(None);
    }
    // The name first: it is what counts, and a cut after it leaves a slot that is tried once more.
    if file != found.file {
        esp.rename(&found.file, &file)?;
    }
    let mut record = Record::read(places)?;
    let noted =
        Recorded { state: State::Good, reason: None, ..noted(places, &record, &status, armed.number) };
    if record.slots.get(&booted) != Some(&noted) || record.highest < armed.number {
        record.slots.insert(booted, noted);
        record.write(&identity)?;
    }
    remove_given_up(places, &esp, &identity, &mut record, &file)?;
    // Before anybody else may judge this boot otherwise.
    super::judged(places)?;
    Ok(Some(Outcome { slot: booted, entry: file }))
}

/// Removes every entry without tries left but `good`, and but the other slot's where that was good: power cuts may have
/// used its tries up, so it gets them back once, and stays what can be gone back to. That the other slot failed is noted
/// first: without its entry nothing else would say so, and a stick would stage the same again.
fn remove_given_up(
    places: &Places,
    esp: &Esp,
    identity: &Identity<'_>,
    record: &mut Record,
    good: &str,
) -> Result<(), Error> {
    let all = entries(places)?;
    let mut given_up: Vec<Found> =
        all.into_iter().filter(|found| !found.entry.is_tried() && found.file != good).collect();
    if given_up.is_empty() {
        return Ok(());
    }
    let status = Status::read(places)?;
    let other = status.of(status.booted.other());
    if other.was_good
        && other.reason.as_deref() != Some(ONCE_MORE)
        && let Some(at) = given_up.iter().position(|found| other.entry.as_ref() == Some(&found.file))
    {
        let found = given_up.remove(at);
        let fresh = Entry::fresh(found.entry.number, TRIES).name();
        // The name first, as above: a cut after it leaves a slot that may get them back once more.
        esp.rename(&found.file, &fresh)?;
        tracing::info!(entry = fresh, "a boot entry that was good and had no tries left gets them back once");
        if let Some(noted) = record.slots.get_mut(&other.slot) {
            noted.reason = Some(ONCE_MORE.to_owned());
            record.write(identity)?;
        }
    } else if other.state == State::Failed
        && let (Some(number), Some(verity)) = (other.number, other.verity.clone())
    {
        let known = record
            .slots
            .get(&other.slot)
            .filter(|known| known.number == number && known.verity_uuid == verity);
        let known = known.cloned().unwrap_or_else(|| Recorded::unknown(number, verity));
        if known.state != State::Failed {
            let reason = known.reason.clone().or_else(|| Some("it used up its tries".into()));
            record.slots.insert(other.slot, Recorded { state: State::Failed, reason, ..known });
            record.write(identity)?;
        }
    }
    for found in given_up {
        let path = esp.path(&found.file);
        match std::fs::remove_file(&path) {
            Ok(()) => tracing::info!(entry = found.file, "a boot entry that was given up is removed"),
            // An import that stages another system removes it too.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(durable::named(e, "remove", &path).into()),
        }
    }
    esp.sync()
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
    if left == 0 {
        if let Err(error) = mend::ensure_before_turning(places, other) {
            return Ok(Fallback::Nowhere(error.to_string()));
        }
        give_tries(places, &status)?;
    }
    note(places, &status, if left == 0 { State::Failed } else { State::Trying }, why)?;
    Ok(Fallback::Reboot { left, other })
}

/// Gives the booted slot up, so that the next boot goes to the other one, which was good; says which that is.
///
/// # Errors
/// [`Error::NoOther`] where there is none; nothing is changed then.
pub fn roll_back(places: &Places) -> Result<Slot, Error> {
    give_up(places, "rolled back by hand", Judged::Perhaps)
}

/// Whether edge-healthy.service has judged this boot already. What looks at it later may not write where that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// And does so no more.
    Already,
    /// It may still be waiting for all parts, and would give the tries back.
    Perhaps,
}

/// The same, for the reason `why`.
///
/// # Errors
/// [`Error::NoOther`] where there is none that starts.
pub(super) fn give_up(places: &Places, why: &str, judged: Judged) -> Result<Slot, Error> {
    let status = Status::read(places)?;
    let other = status.of(status.booted.other());
    let Some(to) = status.fallback() else {
        return Err(Error::NoOther(format!("slot {} is {}", other.slot, other.state.word())));
    };
    mend::ensure_before_turning(places, to).map_err(|error| Error::NoOther(error.to_string()))?;
    let found = booted_entry(places, &status)?;
    give_tries(places, &status)?;
    let given_up = Entry { left: Some(0), ..found.entry };
    {
        let esp = Esp::open(places)?;
        let _alone = Identity::open(places)?;
        esp.rename(&found.file, &given_up.name())?;
        if judged == Judged::Perhaps {
            durable::write(&places.judged(), ROLLED_BACK.as_bytes(), 0o600)?;
        }
    }
    note(places, &status, State::Failed, why)?;
    Ok(to)
}

/// Gives the other slot its tries back where it was good and has none: power cuts use tries up as well as faults do, and
/// without any the loader would start the booted slot again. Once: where it is not found good, it was no power cut.
fn give_tries(places: &Places, status: &Status) -> Result<(), Error> {
    let other = status.of(status.booted.other());
    let (Some(file), Some(Some(entry))) = (&other.entry, other.entry.as_deref().map(Entry::parse)) else {
        return Ok(());
    };
    if entry.is_tried() {
        return Ok(());
    }
    let esp = Esp::open(places)?;
    let identity = Identity::open(places)?;
    let mut record = Record::read(places)?;
    if let Some(noted) = record.slots.get_mut(&other.slot) {
        noted.state = State::Trying;
        noted.reason = Some(ONCE_MORE.to_owned());
        record.write(&identity)?;
    }
    esp.rename(file, &Entry::fresh(entry.number, TRIES).name())
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
pub(super) fn noted(places: &Places, record: &Record, status: &Status, number: u64) -> Recorded {
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
        boot: None,
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
    // One that reads otherwise by now is known by its number.
    let noted = Record::read(places)?.slots.remove(&status.booted);
    let number = noted
        .filter(|noted| status.of(status.booted).verity.as_ref() == Some(&noted.verity_uuid))
        .map(|noted| noted.number);
    let is_it = |found: &&Found| match file {
        Some(file) => found.file == *file,
        None => Some(found.entry.number) == number,
    };
    all.iter().find(is_it).cloned().ok_or_else(|| {
        let why = format!("no boot entry in `{}` boots slot {}", places.entries().display(), status.booted);
        Error::Unfit(why)
    })
}
