//! What a Raspberry Pi's boot loader reads, read again while the machine runs: the boot partitions, and `autoboot.txt`. No hash
//! tree covers them and that boot loader counts nothing, so what rots there would be found by the boot that does not come.
//! What is otherwise than it was written is told, and made again what it was.
//!
//! A boot partition is known by its digest: that of the bundle that brought it, or, of a card's first system, what it had when
//! that was found good. Its bytes come from a copy on the data. Only what differs is written, and its first sector last.
//!
//! Looks at the slot that runs and at the one that may be turned to, in a boot that was found good; never at one that is being
//! written, which is neither.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

use super::armed::ROLLED_BACK;
use super::entry::VerityId;
use super::esp::Esp;
use super::identity::Identity;
use super::loader::Loader;
use super::record::{Record, Recorded, Sum};
use super::slot::{Slot, State, Status};
use super::{Error, Places, autoboot, partition, stage, tryboot};
use crate::sys::{durable, failpoint};

/// The folder of the copies, below the state folder.
const COPIES: &str = "boot";
/// What the last look found damaged; of the boot alone.
const TOLD: &str = "/run/edge/boot-damage.json";
/// Bytes compared at once. What the kernel writes at once of a partition is a part of it.
const PIECE: usize = 64 << 10;
/// The first bytes, which are written last: what the kernel writes at once, with the first sector.
const HEAD: usize = 4 << 10;
/// The data has room for so many times a copy, or none is kept.
const ROOM: u64 = 4;
const HINT: &str = "hint: the card is worn: write another one";

/// Something that reads otherwise than it was written, and could not be mended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Damage {
    /// The slot that it starts; `None` of `autoboot.txt`.
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
}

/// Looks, and mends what it can; `state_dir` is where the copies lie. `None` where nothing is to be looked at: other boot
/// loaders count, and a boot that was not found good yet may be none that is kept.
///
/// # Errors
/// [`Error::NotAppliance`]; what lies on its partitions cannot be read at all, or the copies cannot be written.
pub fn mend_boot(places: &Places, state_dir: &Path) -> Result<Option<Looked>, Error> {
    if Loader::of(places)? != Loader::RaspberryPi {
        return Ok(None);
    }
    let Some(booted) = settled(places)? else { return Ok(None) };
    let (copies, mut looked) = (state_dir.join(COPIES), Looked::default());
    look_at_autoboot(places, booted, &mut looked)?;
    let (mut kept, mut failed, mut unseen) = (Vec::new(), None, false);
    // What runs last: whether there is a way back from it is known then.
    for slot in [booted.other(), booted].into_iter().filter(|slot| is_needed(places, *slot, booted)) {
        match look_at_slot(places, slot, booted, &copies, &mut looked) {
            Ok(copy) => kept.extend(copy),
            Err(error) if slot == booted => failed = Some(error),
            Err(error) => {
                tracing::warn!(%slot, %error, "the slot that does not run cannot be looked at");
                unseen = true;
            }
        }
    }
    tell_all(places, booted, &mut looked)?;
    match failed {
        Some(error) => Err(error),
        None if unseen => Ok(Some(looked)),
        None => remove_others(&copies, &kept).map(|()| Some(looked)),
    }
}

/// The copy of what starts `slot`, where it is known what that is.
fn look_at_slot(
    places: &Places,
    slot: Slot,
    booted: Slot,
    copies: &Path,
    looked: &mut Looked,
) -> Result<Option<PathBuf>, Error> {
    let Some((id, sum)) = known(places, slot, booted)? else { return Ok(None) };
    let copy = copies.join(format!("{id}.img"));
    look_at_boot(places, slot, booted, (&sum, &copy), looked)?;
    Ok(Some(copy))
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
    if let Some(noted) = record.slots.get_mut(&slot).filter(|noted| is_lost(noted, slot)) {
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
    let noted = Record::read(places)?.slots.remove(&other).filter(|noted| is_lost(noted, other));
    if let Some(what) = noted.and_then(|noted| noted.reason)
        && looked.damaged.iter().all(|damage| damage.slot != Some(other))
    {
        looked.damaged.push(Damage { slot: Some(other), what });
    }
    tell(places, &looked.damaged)
}

/// Whether it failed because what starts it is damaged.
fn is_lost(noted: &Recorded, slot: Slot) -> bool {
    noted.state == State::Failed && noted.reason.as_ref().is_some_and(|why| why.starts_with(&otherwise(slot)))
}

fn otherwise(slot: Slot) -> String {
    format!("partition `{}` reads otherwise than it was written", tryboot::label(slot))
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
fn settled(places: &Places) -> Result<Option<Slot>, Error> {
    // Asked each minute until then: the card is left alone.
    if !std::fs::read_to_string(places.judged()).is_ok_and(|text| text != ROLLED_BACK) {
        return Ok(None);
    }
    let status = Status::read(places)?;
    Ok(Some(status.booted).filter(|booted| status.of(*booted).state == State::Good))
}

/// Whether the machine needs what starts `slot`: it runs, or the initrd may turn to it. That it may goes before anything of a
/// slot is written.
pub(super) fn is_needed(places: &Places, slot: Slot, booted: Slot) -> bool {
    let spare = std::fs::read_to_string(places.identity().join(tryboot::SPARE)).unwrap_or_default();
    slot == booted || spare.trim() == slot.to_string()
}

/// What the boot partition of `slot` is known to hold. Of a system that no bundle brought: what it holds now that it is good.
fn known(places: &Places, slot: Slot, booted: Slot) -> Result<Option<(VerityId, Sum)>, Error> {
    let Some(id) = partition::verity_id(places, slot)? else { return Ok(None) };
    let noted = Record::read(places)?.slots.remove(&slot).filter(|noted| noted.verity() == Some(id));
    match noted.map(|noted| noted.boot) {
        Some(Some(sum)) => Ok(Some((id, sum))),
        Some(None) if slot == booted => Ok(Some((id, note(places, slot, id)?))),
        _ => Ok(None),
    }
}

fn note(places: &Places, slot: Slot, id: VerityId) -> Result<Sum, Error> {
    let device = tryboot::device(places, slot)?;
    let size = content(&device).map_err(|e| durable::named(e, "read", &device))?;
    let sum = Sum { digest: stage::read_back(&device, &[], size)?, size };
    let identity = Identity::open(places)?;
    let mut record = Record::read(places)?;
    if let Some(noted) = record.slots.get_mut(&slot).filter(|noted| noted.verity() == Some(id)) {
        noted.boot = Some(sum.clone());
        record.write(&identity)?;
    }
    Ok(sum)
}

/// Bytes of a partition but for the zeros at its end, in whole MiB.
fn content(device: &Path) -> io::Result<u64> {
    const MIB: u64 = 1 << 20;
    let file = File::open(device)?;
    let whole = partition::size(device).map_err(io::Error::other)?;
    let mut piece = vec![0; 1 << 20];
    let mut end = whole;
    while end > 0 {
        let begin = (end - 1) / MIB * MIB;
        let piece = &mut piece[..usize::try_from(end - begin).unwrap_or_default()];
        file.read_exact_at(piece, begin)?;
        if piece.iter().any(|byte| *byte != 0) {
            break;
        }
        end = begin;
    }
    Ok(end)
}

fn look_at_boot(
    places: &Places,
    slot: Slot,
    booted: Slot,
    (sum, copy): (&Sum, &Path),
    looked: &mut Looked,
) -> Result<(), Error> {
    let device = tryboot::device(places, slot)?;
    if is_whole(&device, sum) {
        // Data that takes none is no reason not to look at the rest.
        if !is_whole(copy, sum)
            && let Err(error) = keep(&device, copy, sum)
        {
            tracing::warn!(%slot, %error, "no copy of a boot partition is kept: it could not be mended");
        }
        return Ok(());
    }
    // Somebody may have begun to write the slot meanwhile: nobody begins from here on.
    let _first = Esp::first(places)?;
    if !is_needed(places, slot, booted) || known(places, slot, booted)?.is_none_or(|(_, now)| now != *sum) {
        return Ok(());
    }
    let Err(error) = mend(&device, copy, sum) else {
        let what = format!("partition `{}`", tryboot::label(slot));
        looked.mended.push(format!("{what} read otherwise than it was written, and is mended"));
        return Ok(());
    };
    let other = booted.other();
    let hint = if slot == other {
        format!("nothing turns to it: `edge bundle import` of a system writes slot {other}")
    } else if Status::read(places).is_ok_and(|status| status.fallback().is_some()) {
        format!("the machine may not start again: {}", stage::TURN_BACK)
    } else {
        format!("the machine may not start again: `edge bundle import` of another system writes slot {other}")
    };
    let what = format!("{}, and is not mended: {error} hint: {hint}", otherwise(slot));
    if slot == other
        && let Err(error) = note_lost(places, slot, &what)
    {
        tracing::warn!(%slot, %error, "it cannot be noted for the next boot that a boot partition is damaged");
    }
    looked.damaged.push(Damage { slot: Some(slot), what });
    Ok(())
}

/// Has nothing turn to the slot from now on, neither the initrd nor edge, in this boot and after it.
fn note_lost(places: &Places, slot: Slot, why: &str) -> Result<(), Error> {
    let identity = Identity::open(places)?;
    identity.remove(tryboot::SPARE)?;
    let mut record = Record::read(places)?;
    if let Some(noted) = record.slots.get_mut(&slot) {
        noted.state = State::Failed;
        noted.reason = Some(why.to_owned());
    }
    record.write(&identity)
}

/// Whether `path` begins with those bytes, as its medium has them.
fn is_whole(path: &Path, sum: &Sum) -> bool {
    stage::read_back(path, &[], sum.size).is_ok_and(|found| found == sum.digest)
}

/// Makes a partition what its copy is. A cut leaves no more of it damaged than was.
fn mend(device: &Path, copy: &Path, sum: &Sum) -> Result<(), Error> {
    if !is_whole(copy, sum) {
        return Err(Error::Unfit("no copy of it is whole".into()));
    }
    let failed = |e| durable::named(e, "write", device);
    let from = File::open(copy).map_err(|e| durable::named(e, "open", copy))?;
    let to = OpenOptions::new().read(true).write(true).open(device).map_err(failed)?;
    let head = sum.size.min(HEAD as u64);
    let mut at = head;
    while at < sum.size {
        let end = (at / PIECE as u64 + 1) * PIECE as u64;
        bring(&from, &to, at, end.min(sum.size)).map_err(failed)?;
        at = end;
    }
    to.sync_all().map_err(failed)?;
    failpoint::pass("boot-mended");
    bring(&from, &to, 0, head).and_then(|()| to.sync_all()).map_err(failed)?;
    if is_whole(device, sum) { Ok(()) } else { Err(Error::ReadBack(device.display().to_string())) }
}

/// Brings the bytes from `at` to `end` over, where they differ. What cannot be read may be written all the same.
fn bring(from: &File, to: &File, at: u64, end: u64) -> io::Result<()> {
    let mut wanted = vec![0; usize::try_from(end - at).unwrap_or_default()];
    let mut found = wanted.clone();
    from.read_exact_at(&mut wanted, at)?;
    if to.read_exact_at(&mut found, at).is_ok() && found == wanted {
        return Ok(());
    }
    to.write_all_at(&wanted, at)
}

/// Keeps a copy of a partition that is whole, where the data has room for it.
fn keep(device: &Path, copy: &Path, sum: &Sum) -> Result<(), Error> {
    let folder = copy.parent().unwrap_or(Path::new("/"));
    durable::folder(folder, 0o700)?;
    let stat =
        rustix::fs::statvfs(folder).map_err(|e| durable::named(e.into(), "read the room of", folder))?;
    if stat.f_bavail.saturating_mul(stat.f_frsize) < ROOM * sum.size {
        tracing::warn!(folder = %folder.display(), "too little room for a copy of a boot partition: it could not be mended");
        return Ok(());
    }
    let beside = copy.with_extension("part");
    let failed = |e| durable::named(e, "write", &beside);
    let mut options = OpenOptions::new();
    let mut to = options.write(true).create(true).truncate(true).mode(0o600).open(&beside).map_err(failed)?;
    let mut from = File::open(device).map_err(failed)?.take(sum.size);
    io::copy(&mut from, &mut to).and_then(|_| to.sync_all()).map_err(failed)?;
    if !is_whole(&beside, sum) {
        return Err(Error::ReadBack(beside.display().to_string()));
    }
    std::fs::rename(&beside, copy).map_err(failed)?;
    Ok(durable::sync_folder_of(copy)?)
}

/// Removes the copies of systems that are in no slot any more.
fn remove_others(copies: &Path, kept: &[PathBuf]) -> Result<(), Error> {
    for entry in std::fs::read_dir(copies).into_iter().flatten().flatten() {
        if !kept.contains(&entry.path()) {
            durable::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// What `autoboot.txt` says as edge writes it is right, whichever slot it names: who had it name the other one meant it.
fn look_at_autoboot(places: &Places, booted: Slot, looked: &mut Looked) -> Result<(), Error> {
    let texts =
        [tryboot::autoboot(places, booted)?.text(), tryboot::autoboot(places, booted.other())?.text()];
    let is_right =
        || autoboot_as_it_lies(places).is_ok_and(|found| texts.iter().any(|text| found == text.as_bytes()));
    if is_right() {
        return Ok(());
    }
    let mended = Esp::first(places).and_then(|_first| {
        // Somebody may have rolled back meanwhile.
        match settled(places)? {
            Some(_) if !is_right() => tryboot::autoboot(places, booted)?.write(places).map(|()| true),
            _ => Ok(false),
        }
    });
    let what = "`autoboot.txt` read otherwise than it was written";
    match mended {
        Ok(false) => {}
        Ok(true) if is_right() => {
            looked.mended.push(format!("{what}, and is mended: it starts slot {booted}"))
        }
        Ok(true) => {
            looked.damaged.push(Damage { slot: None, what: format!("{what}, and does so again {HINT}") })
        }
        Err(error) => {
            looked
                .damaged
                .push(Damage { slot: None, what: format!("{what}, and is not mended: {error} {HINT}") });
        }
    }
    Ok(())
}

/// Its bytes, as the medium has them.
fn autoboot_as_it_lies(places: &Places) -> io::Result<Vec<u8>> {
    let mut file = File::open(autoboot::path(places))?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut bytes = Vec::new();
    file.by_ref().take(autoboot::LARGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "mend_tests.rs"]
mod tests;
