//! The Raspberry Pi's two boot partitions: `boot_a` has the kernel of slot a, `boot_b` that of slot b.
//!
//! Its boot loader starts what `autoboot.txt` says, and once, after `reboot "0 tryboot"`, the other one. It clears that flag
//! before it starts anything, so whatever ends a trial leads back: a crash, the watchdog, the power. It counts nothing, so
//! the initrd counts the boots of what is started by itself (`config/appliance.tries`).
//!
//! - `spare` on identity: the slot that the initrd may turn to, while there is one
//! - `boots` on identity: the boots since the last that was good, the initrd's
//! - `given-up` on identity: the system that the initrd turned away from

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::armed::{Fallback, Outcome, ROLLED_BACK, noted};
use super::autoboot::{Autoboot, started};
use super::entry::VerityId;
use super::esp::Esp;
use super::identity::Identity;
use super::places::TRIES;
use super::record::{Record, Recorded};
use super::slot::{Slot, SlotReport, State, Status};
use super::{Error, Places, Release, fat, loader, mend, partition, run, stage, starter};
use crate::sys::{durable, failpoint};

/// The slot that the initrd may turn to.
pub(super) const SPARE: &str = "spare";
const BOOTS: &str = "boots";
const GIVEN_UP: &str = "given-up";
/// What systemd gives the kernel as it starts the machine anew, and the kernel the boot loader.
const PARAMETER: &str = "/run/systemd/reboot-param";
const ASKED: &str = "0 tryboot\n";
/// Why a slot failed that was tried and of which nothing was heard.
const NOT_UP: &str = "it was tried once, and did not come up";
const USED_UP: &str = "it used up its tries";

/// What there is to judge by. Of two, the first is slot a's.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The slot that is booted.
    pub booted: Slot,
    /// The slot that is started by itself.
    pub by_itself: Option<Slot>,
    /// The ids of the root file systems that the boot partitions boot.
    pub boots: [Option<VerityId>; 2],
    /// The ids of the hash trees.
    pub on_disk: [Option<VerityId>; 2],
    /// What the initrd turned away from.
    pub given_up: Option<VerityId>,
    /// Boots of this slot since the last good one, this one included, where they are counted.
    pub counted: Option<u32>,
    /// What was noted.
    pub record: &'a Record,
}

/// Judges. Pure.
pub fn judge(seen: Seen<'_>) -> Status {
    let slots = Slot::BOTH.map(|slot| report(seen, slot));
    let staged = slots.iter().find(|report| report.state == State::Staged);
    let itself =
        seen.by_itself.filter(|slot| slots.iter().any(|one| one.slot == *slot && one.entry.is_some()));
    let next = staged.map(|report| report.slot).or(itself);
    Status { booted: seen.booted, next, slots, damage: Vec::new() }
}

fn report(seen: Seen<'_>, slot: Slot) -> SlotReport {
    let of = |two: [Option<VerityId>; 2]| if slot == Slot::A { two[0] } else { two[1] };
    let id = of(seen.on_disk);
    let is_whole = id.is_some() && of(seen.boots) == id;
    let booted = seen.booted == slot;
    let is_given_up = id.is_some() && seen.given_up == id;
    // A note about another system than the one that is there tells nothing of this one.
    let noted = seen.record.slots.get(&slot).filter(|noted| noted.verity() == id);
    let (state, why) = match noted.map(|noted| noted.state) {
        Some(State::Good) if booted && !is_given_up => (State::Good, None),
        _ if booted => (State::Trying, None),
        Some(State::Failed) => (State::Failed, None),
        _ if !is_whole => (State::Empty, None),
        Some(_) if is_given_up => (State::Failed, Some(USED_UP)),
        Some(State::Trying) => (State::Failed, Some(NOT_UP)),
        Some(state) => (state, None),
        // Nothing is known of it but that it is what was started by itself, which only a good one is.
        None if seen.by_itself == Some(slot) => (State::Good, None),
        None => (State::Failed, None),
    };
    SlotReport {
        slot,
        booted,
        state,
        entry: is_whole.then(|| label(slot)),
        number: noted.map(|noted| noted.number),
        tries_left: seen.counted.filter(|_| booted).map(|done| TRIES.saturating_sub(done)),
        version: noted.map(|noted| noted.version.clone()).filter(|version| !version.is_empty()),
        stream: noted.and_then(|noted| noted.stream.clone()),
        seq: noted.and_then(|noted| noted.seq),
        verity: id.map(|id| id.to_string()),
        reason: noted.and_then(|noted| noted.reason.clone()).or_else(|| why.map(str::to_owned)),
        was_good: is_whole && noted.is_some_and(|noted| noted.state == State::Good),
    }
}

/// How the appliance is.
///
/// # Errors
/// Where what lies on its partitions cannot be read.
pub fn status(
    places: &Places,
    booted: Slot,
    on_disk: [Option<VerityId>; 2],
    record: &Record,
) -> Result<Status, Error> {
    let word = |path: PathBuf| std::fs::read_to_string(path).ok();
    let damage = mend::told(places);
    // What is known to be damaged has failed; nothing can be gone back to by way of it where that could not be noted either.
    let is_lost = |slot: Slot| {
        let is_told = slot != booted && damage.iter().any(|damage| damage.slot == Some(slot));
        is_told && starter::is_needed(places, slot, booted)
    };
    let seen = Seen {
        booted,
        by_itself: by_itself(places)?,
        boots: Slot::BOTH.map(|slot| boots(places, slot).filter(|_| !is_lost(slot))),
        on_disk,
        given_up: word(places.identity().join(GIVEN_UP)).and_then(|text| VerityId::parse(text.trim())),
        counted: counted(places),
        record,
    };
    Ok(Status { damage, ..judge(seen) })
}

/// The boot partition of a slot.
///
/// # Errors
/// [`Error::NoPartition`].
pub fn device(places: &Places, slot: Slot) -> Result<PathBuf, Error> {
    partition::device(places, &label(slot))
}

/// Its name.
pub(super) fn label(slot: Slot) -> String {
    format!("boot_{slot}")
}

/// The id of the root file system that the boot partition at `path` boots; `head` are the first bytes, where the medium does
/// not have them yet.
///
/// # Errors
/// Those of reading.
pub fn verity_of(path: &Path, head: &[u8]) -> io::Result<Option<VerityId>> {
    let line = fat::read(&File::open(path)?, head, b"CMDLINE TXT")?;
    Ok(line.and_then(|line| VerityId::of_command_line(&String::from_utf8_lossy(&line))))
}

/// What the boot partition of a slot boots. One that cannot be read boots nothing that is known.
fn boots(places: &Places, slot: Slot) -> Option<VerityId> {
    let read = device(places, slot)
        .and_then(|device| verity_of(&device, &[]).map_err(|e| durable::named(e, "read", &device).into()));
    read.unwrap_or_else(|error: Error| {
        tracing::warn!(%slot, %error, "a boot partition cannot be read, and counts as damaged");
        None
    })
}

/// The slot that is started by itself; `None` where `autoboot.txt` names neither, or cannot be read.
fn by_itself(places: &Places) -> Result<Option<Slot>, Error> {
    let read = Autoboot::read(places).unwrap_or_else(|error| {
        tracing::warn!(%error, "`autoboot.txt` counts as damaged");
        None
    });
    let Some(autoboot) = read else { return Ok(None) };
    for slot in Slot::BOTH {
        if partition::number(places, &label(slot))? == autoboot.by_itself {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

/// What `autoboot.txt` says where `slot` is started by itself.
///
/// # Errors
/// [`Error::NoPartition`].
pub(super) fn autoboot(places: &Places, slot: Slot) -> Result<Autoboot, Error> {
    let number = |slot: Slot| partition::number(places, &label(slot));
    Ok(Autoboot { by_itself: number(slot)?, tried: number(slot.other())? })
}

/// As the initrd counted this boot; it counts none that is a trial.
fn counted(places: &Places) -> Option<u32> {
    std::fs::read_to_string(places.at("/run/edge-boots")).ok()?.trim().parse().ok()
}

/// Whether another system can be tried from here, and its boot partition takes it.
///
/// # Errors
/// [`Error::Unfit`].
pub fn check_kernel(places: &Places, release: &Release, size: u64, slot: Slot) -> Result<(), Error> {
    if !release.tryboot {
        let why = "the kernel of the system that runs cannot ask the boot loader for a trial (`tryboot`)";
        return Err(Error::Unfit(format!(
            "{why} hint: write the card anew, with an image whose kernel can: Raspberry Pi's own"
        )));
    }
    let room = partition::size(&device(places, slot)?)?;
    if room < size {
        let why = format!("partition `{}` has {room} bytes, and the system needs {size}", label(slot));
        return Err(Error::Unfit(format!("{why} hint: write the card anew with this system's image")));
    }
    Ok(())
}

/// Makes the slot that is not booted one that nothing boots, by taking its boot partition's first sector: first it is no
/// longer what the initrd may turn to.
///
/// # Errors
/// [`Error::Unfit`] where the boot loader would not start the running system by itself, and `slot` still starts.
pub fn clear(places: &Places, slot: Slot) -> Result<u64, Error> {
    let running = slot.other();
    let kept = partition::verity_id(places, running)?;
    // Nobody may turn to the slot from here on, nor note it as a spare.
    let _first = Esp::first(places)?;
    let whole = mend::ensure(places, running);
    let is_started = by_itself(places)? == Some(running) && kept.is_some() && boots(places, running) == kept;
    if whole.is_err() || !is_started {
        if Status::read(places)?.of(slot).is_spare() {
            whole.map_err(|_| stage::still_starts(slot))?;
            let why =
                format!("`autoboot.txt` or partition `{}` is not what starts slot {running}", label(running));
            return Err(Error::Unfit(format!("{why}, which runs: nothing is written")));
        }
        // Nothing is lost: the slot that is written does not start either. Its trial is of what `autoboot.txt` does not start.
        tracing::warn!(slot = %running, "another system is written, since what runs may not start again");
        autoboot(places, running)?.write(places)?;
    }
    let identity = Identity::open(places)?;
    let device = device(places, slot)?;
    identity.remove(SPARE)?;
    failpoint::pass("spare-gone");
    loader::write_head(&device, &[0; fat::SECTOR])?;
    mend::forget(places, &identity, slot)?;
    // The same system may come again, and is tried again then.
    let given_up = std::fs::read_to_string(places.identity().join(GIVEN_UP)).unwrap_or_default();
    if VerityId::parse(given_up.trim()) != kept {
        identity.remove(GIVEN_UP)?;
    }
    Ok(Record::read(places)?.highest + 1)
}

/// Notes that the booted slot is healthy, and has it started by itself from now on.
///
/// # Errors
/// [`Error::Unfit`] where the boot loader says that it started another one's partition.
pub fn arm(places: &Places) -> Result<Option<Outcome>, Error> {
    let status = Status::read(places)?;
    let booted = status.booted;
    let wanted = autoboot(places, booted)?;
    let _first = Esp::first(places)?;
    let identity = Identity::open(places)?;
    if std::fs::read_to_string(places.judged()).is_ok_and(|text| text == ROLLED_BACK) {
        return Ok(None);
    }
    if by_itself(places)? != Some(booted) && started(places) != Some(wanted.by_itself) {
        let told = started(places).map_or("none".to_owned(), |number| number.to_string());
        let why = format!("slot {booted} runs, and the boot loader says that it started partition {told}");
        return Err(Error::Unfit(format!("{why}, not {}: `autoboot.txt` stays as it is", wanted.by_itself)));
    }
    // What is started first: it is what counts, and a cut after it leaves a slot that is tried once more.
    wanted.write(places)?;
    let mut record = Record::read(places)?;
    let before = record.clone();
    let number = status.of(booted).number.unwrap_or(record.highest + 1);
    let good = Recorded { state: State::Good, reason: None, ..noted(places, &record, &status, number) };
    record.slots.insert(booted, good);
    // It was tried, and here we are again.
    if let Some(other) = record.slots.get_mut(&booted.other())
        && other.state == State::Trying
    {
        other.state = State::Failed;
        other.reason.get_or_insert_with(|| NOT_UP.to_owned());
    }
    record.highest = record.highest.max(number);
    if record != before {
        record.write(&identity)?;
    }
    identity.remove(BOOTS)?;
    let ours = status.of(booted).verity.as_deref().and_then(VerityId::parse);
    let given_up = std::fs::read_to_string(places.identity().join(GIVEN_UP)).unwrap_or_default();
    if VerityId::parse(given_up.trim()).is_some_and(|id| Some(id) == ours) {
        identity.remove(GIVEN_UP)?;
    }
    note_spare(places, &identity)?;
    // Before anybody else may judge this boot otherwise.
    super::judged(places)?;
    Ok(Some(Outcome { slot: booted, entry: label(booted) }))
}

/// Has the initrd know which slot it may turn to.
fn note_spare(places: &Places, identity: &Identity<'_>) -> Result<(), Error> {
    let status = Status::read(places)?;
    let (spare, other) =
        (status.fallback().map(|slot| format!("{slot}\n")), status.of(status.booted.other()));
    let known = std::fs::read_to_string(places.identity().join(SPARE)).ok();
    // What was good, and does not read as such now, is mended by the look that follows, which goes by `spare`; an import
    // that writes it has taken that away.
    let record = Record::read(places)?;
    let is_mended = record.slots.get(&other.slot).is_some_and(|noted| {
        noted.state == State::Good
            && noted.boot.is_some()
            && other.verity.as_ref() == Some(&noted.verity_uuid)
    });
    if spare.is_none()
        && is_mended
        && known.as_deref().map(str::trim) == Some(other.slot.to_string().as_str())
    {
        return Ok(());
    }
    match spare {
        spare if spare == known => Ok(()),
        Some(slot) => identity.write(SPARE, slot.as_bytes(), 0o600),
        None => identity.remove(SPARE),
    }
}

/// Notes that the booted slot is not healthy. Where it is tried, any start leads back; else the last of its tries gives it up.
///
/// # Errors
/// Where that cannot be noted.
pub fn unhealthy(places: &Places, why: &str) -> Result<Fallback, Error> {
    let status = Status::read(places)?;
    let booted = status.booted;
    let Some(other) = status.fallback() else {
        let other = status.of(booted.other());
        return Ok(Fallback::Nowhere(format!("slot {} is {}", other.slot, other.state.word())));
    };
    let is_trial = by_itself(places)? == Some(other);
    // What nobody counts would be tried for ever.
    let left = if is_trial { 0 } else { status.of(booted).tries_left.unwrap_or(0) };
    if left == 0 {
        let _first = Esp::first(places)?;
        if Status::read(places)?.fallback() != Some(other) {
            return Ok(Fallback::Nowhere(format!("slot {other} is being written")));
        }
        if let Err(error) = mend::ensure(places, other) {
            return Ok(Fallback::Nowhere(error.to_string()));
        }
        let _alone = Identity::open(places)?;
        autoboot(places, other)?.write(places)?;
    }
    note(places, &status, if left == 0 { State::Failed } else { State::Trying }, why)?;
    Ok(Fallback::Reboot { left, other })
}

/// Gives the booted slot up by hand.
///
/// # Errors
/// [`Error::NoOther`]; nothing is changed then.
pub fn roll_back(places: &Places) -> Result<Slot, Error> {
    let status = Status::read(places)?;
    let other = status.of(status.booted.other());
    let Some(to) = status.fallback() else {
        return Err(Error::NoOther(format!("slot {} is {}", other.slot, other.state.word())));
    };
    {
        // edge-healthy.service may still be waiting for all parts, and would turn back.
        let _first = Esp::first(places)?;
        if Status::read(places)?.fallback() != Some(to) {
            return Err(Error::NoOther(format!("slot {to} is being written")));
        }
        mend::ensure(places, to).map_err(|error| Error::NoOther(error.to_string()))?;
        let _alone = Identity::open(places)?;
        autoboot(places, to)?.write(places)?;
        durable::write(&places.judged(), ROLLED_BACK.as_bytes(), 0o600)?;
    }
    note(places, &status, State::Failed, "rolled back by hand")?;
    Ok(to)
}

fn note(places: &Places, status: &Status, state: State, why: &str) -> Result<(), Error> {
    let identity = Identity::open(places)?;
    let mut record = Record::read(places)?;
    let number = status.of(status.booted).number.unwrap_or(record.highest + 1);
    let noted = Recorded { state, reason: Some(why.to_owned()), ..noted(places, &record, status, number) };
    record.slots.insert(status.booted, noted);
    record.write(&identity)
}

/// Has the restart that is under way try the system that is staged.
///
/// # Errors
/// Where that cannot be noted: what is not known to be tried is not tried.
pub fn begin_trial(places: &Places) -> Result<Option<Slot>, Error> {
    let status = Status::read(places)?;
    let other = status.booted.other();
    if status.of(other).state != State::Staged {
        return Ok(None);
    }
    // Only a restart keeps the boot loader's flag: no power off, and none of systemd alone (soft-reboot.target).
    let jobs = run::run("systemctl", &["list-jobs", "--no-legend", "--plain"])?;
    if !jobs.split_ascii_whitespace().any(|word| word == "reboot.target") {
        return Ok(None);
    }
    ask(places, other)?;
    Ok(Some(other))
}

fn ask(places: &Places, slot: Slot) -> Result<(), Error> {
    let identity = Identity::open(places)?;
    let mut record = Record::read(places)?;
    if let Some(noted) = record.slots.get_mut(&slot) {
        noted.state = State::Trying;
    }
    // Noted first: a system that hangs is tried once, and not at each restart.
    record.write(&identity)?;
    failpoint::pass("trial-noted");
    let parameter = places.at(PARAMETER);
    if let Some(folder) = parameter.parent() {
        std::fs::create_dir_all(folder).map_err(|e| durable::named(e, "make folder", folder))?;
    }
    Ok(durable::write(&parameter, ASKED.as_bytes(), 0o644)?)
}

#[cfg(test)]
#[path = "tryboot_tests.rs"]
pub(super) mod tests;
