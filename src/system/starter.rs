//! What starts a slot, as bytes: a boot partition of a Raspberry Pi, elsewhere the file of a boot entry. Where it lies, and what it
//! is known to hold: by the digest of the bundle that brought it, or, of a card's first system, what it held when that was found
//! good.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::entry::{Entry, VerityId};
use super::identity::Identity;
use super::loader::Loader;
use super::places::TRIES;
use super::record::{Record, Sum};
use super::slot::{Slot, State};
use super::{Error, Places, copies, esp, mend, partition, stage, tryboot, uki};
use crate::sys::durable;

/// What starts a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Starter {
    /// How this board boots.
    pub loader: Loader,
    /// The slot.
    pub slot: Slot,
    /// Its device or file.
    pub path: PathBuf,
    /// The system that is in the slot.
    pub id: VerityId,
    /// What it is known to hold.
    pub sum: Sum,
}

impl Starter {
    /// Of `slot`, where it is known what it holds. Of a system that no bundle brought: what it holds now that it is good.
    ///
    /// # Errors
    /// Where the slot's hash tree cannot be read, or what it holds now can neither be read nor noted.
    pub fn known(places: &Places, slot: Slot, booted: Slot) -> Result<Option<Self>, Error> {
        let Some(id) = partition::verity_id(places, slot)? else { return Ok(None) };
        let noted = Record::read(places)?.slots.remove(&slot).filter(|noted| noted.verity() == Some(id));
        let Some(noted) = noted else { return Ok(None) };
        let loader = Loader::of(places)?;
        let path = match loader {
            Loader::RaspberryPi => tryboot::device(places, slot)?,
            Loader::SystemdBoot => match entry(places, noted.number)? {
                Some(path) => path,
                // What runs has one. The other one's is taken away before anything of its slot is written.
                None if slot == booted => places.entries().join(Entry::fresh(noted.number, TRIES).name()),
                None => return Ok(None),
            },
        };
        let sum = match noted.boot {
            Some(sum) => sum,
            None if mend::settled(places)? == Some(slot) && boots(loader, &path)? == Some(id) => {
                note(places, loader, slot, id, &path)?
            }
            None => return Ok(None),
        };
        Ok(Some(Self { loader, slot, path, id, sum }))
    }

    /// Where its copy is kept.
    pub fn copy(&self, places: &Places) -> PathBuf {
        copies::folder(places).join(format!("{}.img", self.id))
    }

    /// Makes it what its copy is. `esp.lock` is held.
    ///
    /// # Errors
    /// Where no copy is whole, or it does not come to the medium.
    pub fn mend(&self, places: &Places) -> Result<(), Error> {
        let copy = self.copy(places);
        match self.loader {
            Loader::RaspberryPi => copies::bring_over(&self.path, &copy, &self.sum),
            Loader::SystemdBoot => copies::replace(places, &self.path, &copy, &self.sum),
        }
    }

    /// What it is, for people.
    pub fn words(&self) -> String {
        match self.loader {
            Loader::RaspberryPi => format!("partition `{}`", tryboot::label(self.slot)),
            Loader::SystemdBoot => format!("the boot entry of slot {}", self.slot),
        }
    }
}

/// Whether the machine needs what starts `slot`: it runs, or it may be turned to. That it may goes before anything of a slot is
/// written.
pub(super) fn is_needed(places: &Places, slot: Slot, booted: Slot) -> bool {
    if slot == booted {
        return true;
    }
    if matches!(Loader::of(places), Ok(Loader::SystemdBoot)) {
        let noted = Record::read(places).ok().and_then(|mut record| record.slots.remove(&slot));
        return noted.is_some_and(|noted| {
            noted.state != State::Failed && entry(places, noted.number).is_ok_and(|found| found.is_some())
        });
    }
    let spare = std::fs::read_to_string(places.identity().join(tryboot::SPARE)).unwrap_or_default();
    spare.trim() == slot.to_string()
}

/// The file of boot entry `number`, whatever is left of it.
fn entry(places: &Places, number: u64) -> Result<Option<PathBuf>, Error> {
    let found = esp::entries(places)?.into_iter().find(|found| found.entry.number == number);
    Ok(found.map(|found| places.entries().join(found.file)))
}

/// The system that it boots.
fn boots(loader: Loader, path: &Path) -> Result<Option<VerityId>, Error> {
    let read = match loader {
        Loader::RaspberryPi => tryboot::verity_of(path, &[]),
        Loader::SystemdBoot => uki::verity_of(path),
    };
    Ok(read.map_err(|e| durable::named(e, "read", path))?)
}

fn note(places: &Places, loader: Loader, slot: Slot, id: VerityId, path: &Path) -> Result<Sum, Error> {
    let size = match loader {
        Loader::RaspberryPi => content(path),
        Loader::SystemdBoot => path.metadata().map(|data| data.len()),
    };
    let size = size.map_err(|e| durable::named(e, "read", path))?;
    let sum = Sum { digest: stage::read_back(path, &[], size)?, size };
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
