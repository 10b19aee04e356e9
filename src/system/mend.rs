//! What starts this machine, read again while it runs: what starts each slot (`starter`), and what is read before that (`first`). No
//! hash tree covers it, so what rots there would be found by the boot that does not come. What is otherwise than it was written
//! is told, and made again what it was, from a copy on the data.
//!
//! Looks at the slot that runs and at the one that may be turned to, in a boot that was found good; never at one that is being
//! written, which is neither. Who turns to the other slot, or writes over it, has looked just before.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::armed::{self, Judged, ROLLED_BACK};
use super::identity::Identity;
use super::loader::Loader;
use super::record::{Record, Recorded};
use super::slot::{Slot, State, Status};
use super::starter::{Starter, is_needed};
use super::{Error, Places, Release, copies, esp, first, stage, tryboot};
use crate::sys::durable;
use crate::sys::mounts::Writable;

/// What the last look found damaged; of the boot alone.
const TOLD: &str = "/run/edge/boot-damage.json";
pub(super) const HINT: &str = "hint: the card is worn: write another one";
/// What is said of it, and found again in what was noted.
const OTHERWISE: &str = " reads otherwise than it was written";

/// Something that reads otherwise than it was written, and could not be mended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Damage {
    /// The slot that it starts; `None` of what is read before that.
    pub slot: Option<Slot>,
    /// What it is, for people.
    pub what: String,
}

/// What a look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// What was otherwise than it was written, and is mended.
    pub mended: Vec<String>,
    /// What still is.
    pub damaged: Vec<Damage>,
    /// What could not be read this time, and so is not known to be lost.
    pub unread: Vec<String>,
}

/// Looks, and mends what it can. `None` where nothing is to be looked at: a boot that was not found good yet may be none that
/// is kept.
///
/// # Errors
/// [`Error::NotAppliance`]; what starts the slot that runs cannot be read at all, or the copies cannot be written.
pub fn mend_boot(places: &Places) -> Result<Option<Looked>, Error> {
    let loader = Loader::of(places)?;
    let Some(booted) = settled(places)? else { return Ok(None) };
    let mut looked = Looked::default();
    if let Err(error) = first::look(places, loader, booted, &mut looked) {
        looked.unread.push(error.to_string());
    }
    let (mut kept, mut failed, mut all) = (Vec::new(), None, true);
    // What runs last: whether there is a way back from it is known then.
    for slot in [booted.other(), booted].into_iter().filter(|slot| is_needed(places, *slot, booted)) {
        match look_at_slot(places, slot, booted, &mut looked) {
            Ok(copy) => kept.extend(copy),
            Err(error) if slot == booted => failed = Some(error),
            Err(error) => {
                looked.unread.push(format!("slot {slot}, which does not run: {error}"));
                all = false;
            }
        }
    }
    tell_all(places, booted, &mut looked)?;
    if let Some(error) = failed {
        return Err(error);
    }
    if all {
        copies::remove_others(places, &kept)?;
    }
    turn_back(places, booted, &mut looked)?;
    Ok(Some(looked))
}

/// The copy of what starts `slot`, where it is known what that is.
fn look_at_slot(
    places: &Places,
    slot: Slot,
    booted: Slot,
    looked: &mut Looked,
) -> Result<Option<PathBuf>, Error> {
    let Some(starter) = Starter::known(places, slot, booted)? else { return Ok(None) };
    let copy = starter.copy(places);
    if matches!(copies::reads(&starter.path, &starter.sum), Ok(true)) {
        // Data that takes none is no reason not to look at the rest.
        if let Err(error) = copies::keep(&starter.path, &copy, &starter.sum) {
            tracing::warn!(%slot, %error, "no copy of what starts a slot is kept: it could not be mended");
        }
        return Ok(Some(copy));
    }
    // Somebody may have begun to write the slot meanwhile: nobody begins from here on. What is found is told also where the
    // first partition cannot be written.
    let _lock = places.lock("esp.lock")?;
    if !is_needed(places, slot, booted) || Starter::known(places, slot, booted)?.as_ref() != Some(&starter) {
        return Ok(Some(copy));
    }
    match mend(places, &starter, booted)? {
        Mended::Whole => {}
        Mended::Now => {
            let what = starter.words();
            looked.mended.push(format!("{what} read otherwise than it was written, and is mended"));
        }
        Mended::Lost(what) => looked.damaged.push(Damage { slot: Some(slot), what }),
    }
    Ok(Some(copy))
}

enum Mended {
    Whole,
    Now,
    Lost(String),
}

/// Reads what starts a slot, and makes it again what it was. `esp.lock` is held.
fn mend(places: &Places, starter: &Starter, booted: Slot) -> Result<Mended, Error> {
    let read = copies::reads(&starter.path, &starter.sum);
    if matches!(read, Ok(true)) {
        return Ok(Mended::Whole);
    }
    let Err(error) = starter.mend(places) else { return Ok(Mended::Now) };
    // What could not be read may be well: it is looked at again.
    read?;
    // The card took no write just now, and the way back is there.
    if starter.slot != booted && is_kept(places, starter) {
        return Err(error);
    }
    Ok(Mended::Lost(lost(places, starter, booted, &error)))
}

/// Whether it can be mended once the card takes a write.
fn is_kept(places: &Places, starter: &Starter) -> bool {
    matches!(copies::reads(&starter.copy(places), &starter.sum), Ok(true))
}

/// What is told of what is not mended; nothing turns to it from now on.
fn lost(places: &Places, starter: &Starter, booted: Slot, error: &Error) -> String {
    let (slot, other) = (starter.slot, booted.other());
    let fails = "the machine may not start again: ";
    let hint = if slot == other {
        format!("hint: nothing turns to it: `edge bundle import` of a system writes slot {other}")
    } else if Status::read(places).is_ok_and(|status| status.fallback().is_some()) {
        format!("hint: {fails}{}", stage::TURN_BACK)
    } else if starter.loader == Loader::RaspberryPi && !Release::read(places).is_ok_and(|here| here.tryboot) {
        // It takes no other system.
        HINT.to_owned()
    } else {
        format!("hint: {fails}`edge bundle import` of another system writes slot {other}")
    };
    let what = format!("{}{OTHERWISE}, and is not mended: {error} {hint}", starter.words());
    if slot == other
        && let Err(error) = note_lost(places, starter, &what)
    {
        tracing::warn!(%slot, %error, "it cannot be noted for the next boot that what starts a slot is damaged");
    }
    what
}

/// Has nothing turn to the slot from now on, neither the boot loader nor edge, in this boot and after it.
fn note_lost(places: &Places, starter: &Starter, why: &str) -> Result<(), Error> {
    {
        let identity = Identity::open(places)?;
        if starter.loader == Loader::RaspberryPi {
            identity.remove(tryboot::SPARE)?;
        }
        let mut record = Record::read(places)?;
        if let Some(noted) = record.slots.get_mut(&starter.slot) {
            noted.state = State::Failed;
            noted.reason = Some(why.to_owned());
        }
        record.write(&identity)?;
    }
    if starter.loader == Loader::SystemdBoot {
        // That it failed is noted first, as of all that is given up.
        let _writable = Writable::new(&places.esp())?;
        std::fs::remove_file(&starter.path).map_err(|e| durable::named(e, "remove", &starter.path))?;
        esp::sync(&places.esp())?;
    }
    Ok(())
}

/// UEFI turns from no entry that cannot be started, so where what runs is lost and the other slot is not, the next boot goes
/// there.
fn turn_back(places: &Places, booted: Slot, looked: &mut Looked) -> Result<(), Error> {
    if Loader::of(places)? != Loader::SystemdBoot {
        return Ok(());
    }
    let Some(damage) = looked.damaged.iter_mut().find(|damage| damage.slot == Some(booted)) else {
        return Ok(());
    };
    if Status::read(places)?.fallback().is_none()
        || Starter::known(places, booted, booted)?.is_some_and(|starter| is_kept(places, &starter))
    {
        return Ok(());
    }
    let bare = damage.what.split(" hint: ").next().unwrap_or_default().to_owned();
    let hint = format!("hint: `edge bundle import` of a system writes slot {booted}");
    match armed::give_up(places, &format!("{bare} {hint}"), Judged::Already) {
        Ok(to) => damage.what = format!("{bare} hint: the next boot goes to slot {to}"),
        Err(error) => tracing::warn!(%error, "the slot that runs does not start again, and is not given up"),
    }
    tell(places, &looked.damaged)
}

/// Whether what starts `slot` is whole, where that is known, or made so. `esp.lock` is held, and identity is not.
///
/// # Errors
/// It is neither, or cannot be read; told and noted as by a look.
pub(super) fn ensure(places: &Places, slot: Slot) -> Result<(), Error> {
    let booted = places.booted()?;
    if !is_needed(places, slot, booted) {
        return Ok(());
    }
    let Some(starter) = Starter::known(places, slot, booted)? else { return Ok(()) };
    match mend(places, &starter, booted)? {
        Mended::Whole => Ok(()),
        Mended::Now => {
            tracing::warn!("{} read otherwise than it was written, and is mended", starter.words());
            Ok(())
        }
        Mended::Lost(what) => {
            let mut damaged = told(places);
            damaged.retain(|damage| damage.slot != Some(slot));
            damaged.push(Damage { slot: Some(slot), what: what.clone() });
            tell(places, &damaged)?;
            Err(Error::Unfit(what))
        }
    }
}

/// The same for who is about to turn to `slot`: from what does not start nothing may lead back.
///
/// # Errors
/// It is not whole; nothing may turn to it.
pub(super) fn ensure_before_turning(places: &Places, slot: Slot) -> Result<(), Error> {
    let _lock = places.lock("esp.lock")?;
    ensure(places, slot)
}

/// What the last look of this boot found damaged.
pub fn told(places: &Places) -> Vec<Damage> {
    let bytes = std::fs::read(places.at(TOLD)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Forgets what was told of a slot that is about to be written; that it failed stays noted.
///
/// # Errors
/// Where it cannot be noted.
pub(super) fn forget(places: &Places, identity: &Identity<'_>, slot: Slot) -> Result<(), Error> {
    let mut record = Record::read(places)?;
    if let Some(noted) = record.slots.get_mut(&slot).filter(|noted| is_lost(noted)) {
        noted.reason = None;
        record.write(identity)?;
    }
    let mut damaged = told(places);
    damaged.retain(|damage| damage.slot != Some(slot));
    tell(places, &damaged)
}

/// Tells what was found, and of the other slot what holds still: since it was looked at somebody may have begun to write it.
fn tell_all(places: &Places, booted: Slot, looked: &mut Looked) -> Result<(), Error> {
    let other = booted.other();
    let _alone = places.lock("esp.lock")?;
    looked.damaged.retain(|damage| damage.slot != Some(other) || is_needed(places, other, booted));
    let noted = Record::read(places)?.slots.remove(&other).filter(is_lost);
    if let Some(what) = noted.and_then(|noted| noted.reason)
        && looked.damaged.iter().all(|damage| damage.slot != Some(other))
    {
        looked.damaged.push(Damage { slot: Some(other), what });
    }
    tell(places, &looked.damaged)
}

/// Whether it failed because what starts it is damaged.
fn is_lost(noted: &Recorded) -> bool {
    noted.state == State::Failed && noted.reason.as_ref().is_some_and(|why| why.contains(OTHERWISE))
}

fn tell(places: &Places, damaged: &[Damage]) -> Result<(), Error> {
    let path = places.at(TOLD);
    if !damaged.is_empty() {
        durable::folder(&places.at("/run/edge"), 0o700)?;
        return Ok(durable::write(&path, &serde_json::to_vec(damaged).unwrap_or_default(), 0o600)?);
    }
    Ok(durable::remove(&path)?)
}

/// The slot that runs, where it was found good in this boot and not given up since.
pub(super) fn settled(places: &Places) -> Result<Option<Slot>, Error> {
    // Asked each minute until then: the card is left alone.
    if !std::fs::read_to_string(places.judged()).is_ok_and(|text| text != ROLLED_BACK) {
        return Ok(None);
    }
    let status = Status::read(places)?;
    Ok(Some(status.booted).filter(|booted| status.of(*booted).state == State::Good))
}

#[cfg(test)]
#[path = "mend_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "mend_efi_tests.rs"]
mod efi_tests;
