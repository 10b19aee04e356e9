//! How this board boots, and so what makes a slot one that is tried, good or given up. Boards are told apart here alone: what
//! `esp`, `uki`, `firmware` and `armed` know is systemd-boot's, and what `tryboot`, `autoboot` and `fat` know the Raspberry
//! Pi's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::armed::{self, Fallback, Outcome};
use super::entry::{Entry, VerityId};
use super::esp::{self, Esp};
use super::places::TRIES;
use super::slot::{Seen, Slot, Status, judge};
use super::{Error, Places, Record, Release, fat, mend, partition, tryboot, uki};
use crate::sys::{durable, failpoint};

/// What starts a system on this board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loader {
    /// UEFI starts systemd-boot, which counts the tries of each entry in its file's name.
    #[default]
    SystemdBoot,
    /// That of the Raspberry Pi, which tries one of two boot partitions once, when it is asked to.
    RaspberryPi,
}

impl Loader {
    /// That of this machine.
    ///
    /// # Errors
    /// [`Error::NotAppliance`] for another machine; where the image does not say it.
    pub fn of(places: &Places) -> Result<Self, Error> {
        places.booted()?;
        Ok(Release::read(places)?.loader)
    }

    /// When a system that is staged is tried, for people.
    pub fn when(self) -> &'static str {
        match self {
            Self::SystemdBoot => "the next boot tries it",
            Self::RaspberryPi => "`systemctl reboot` tries it once, and power off and on does not",
        }
    }

    /// In what a listing says which slot is started when: of the slot that is, and of the one that runs and is not. A
    /// Raspberry Pi's restart tries what is `staged`, and every other start leads to what runs.
    pub fn next_words(self, staged: bool) -> [&'static str; 2] {
        match (self, staged) {
            (Self::RaspberryPi, true) => ["next restart, once", "running, and after power off and on"],
            _ => ["next boot", "running, not the next boot"],
        }
    }

    /// Whether a system can be staged at all, and its kernel has room.
    ///
    /// # Errors
    /// [`Error::Unfit`].
    pub(super) fn check_kernel(
        self,
        places: &Places,
        release: &Release,
        size: u64,
        slot: Slot,
    ) -> Result<(), Error> {
        match self {
            Self::SystemdBoot => esp::check_room(places, size, slot),
            Self::RaspberryPi => tryboot::check_kernel(places, release, size, slot),
        }
    }

    /// Makes `slot` one that nothing boots; the number of what will be staged there.
    ///
    /// # Errors
    /// [`Error::Unfit`] before anything is changed; where that does not come to the medium.
    pub(super) fn clear(self, places: &Places, slot: Slot) -> Result<u64, Error> {
        match self {
            Self::SystemdBoot => esp::clear(places, slot),
            Self::RaspberryPi => tryboot::clear(places, slot),
        }
    }

    /// Begins the kernel of system `number`.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(super) fn kernel(self, places: &Places, slot: Slot, number: u64) -> Result<Kernel, Error> {
        Ok(match self {
            Self::SystemdBoot => Kernel::Entry { esp: Esp::open(places)?, number },
            Self::RaspberryPi => Kernel::Partition(tryboot::device(places, slot)?),
        })
    }
}

/// A kernel that is being staged: nothing boots it before it is finished.
#[derive(Debug)]
pub(super) enum Kernel {
    /// A file beside the boot entries, under a name that no loader takes.
    Entry {
        /// Held, and writable, until it is finished.
        esp: Esp,
        /// The entry's.
        number: u64,
    },
    /// A boot partition, whose first sector comes last.
    Partition(PathBuf),
}

impl Kernel {
    /// Where it is written.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Entry { esp, number } => esp.path(&esp::unfinished(*number)),
            Self::Partition(device) => device.clone(),
        }
    }

    /// How many of its first bytes are kept back until it is finished.
    pub fn kept_back(&self) -> usize {
        match self {
            Self::Entry { .. } => 0,
            Self::Partition(_) => fat::SECTOR,
        }
    }

    /// Opens it to be written.
    ///
    /// # Errors
    /// With its path.
    pub fn create(&self) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        options.write(true);
        if matches!(self, Self::Entry { .. }) {
            options.create(true).truncate(true).custom_flags(nix::libc::O_NOFOLLOW);
        }
        let path = self.path();
        Ok(options.open(&path).map_err(|e| durable::named(e, "open", &path))?)
    }

    /// Brings what else belongs to its file to the medium.
    ///
    /// # Errors
    /// Where it does not take it.
    pub fn sync(&self) -> Result<(), Error> {
        match self {
            Self::Entry { esp, .. } => esp.sync(),
            Self::Partition(_) => Ok(()),
        }
    }

    /// The id of the root file system that it boots; `head` is what was kept back of it.
    ///
    /// # Errors
    /// Those of reading.
    pub fn verity(&self, head: &[u8]) -> io::Result<Option<VerityId>> {
        match self {
            Self::Entry { .. } => uki::verity_of(&self.path()),
            Self::Partition(device) => tryboot::verity_of(device, head),
        }
    }

    /// Makes it one that is booted, by the last change of all; its name from now on.
    ///
    /// # Errors
    /// Where that does not come to the medium.
    pub fn finish(&self, head: &[u8]) -> Result<String, Error> {
        match self {
            Self::Entry { esp, number } => {
                let entry = Entry::fresh(*number, TRIES).name();
                esp.rename(&esp::unfinished(*number), &entry)?;
                Ok(entry)
            }
            Self::Partition(device) => {
                write_head(device, head)?;
                Ok(device.display().to_string())
            }
        }
    }
}

/// Writes the first bytes of a boot partition, as one.
///
/// # Errors
/// [`Error::ReadBack`]; those of the medium.
pub(super) fn write_head(device: &Path, head: &[u8]) -> Result<(), Error> {
    let failed = |e| durable::named(e, "write", device);
    let file = OpenOptions::new().read(true).write(true).open(device).map_err(failed)?;
    failpoint::pass("head");
    file.write_all_at(head, 0).and_then(|()| file.sync_all()).map_err(failed)?;
    failpoint::pass("head-written");
    let mut found = vec![0; head.len()];
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(|e| failed(e.into()))?;
    file.read_exact_at(&mut found, 0).map_err(failed)?;
    if found == head { Ok(()) } else { Err(Error::ReadBack(device.display().to_string())) }
}

impl Status {
    /// How the appliance below `places` is. A hash tree that cannot be read, in the slot that does not run, is none.
    ///
    /// # Errors
    /// [`Error::NotAppliance`] for another machine; where the booted slot's hash tree cannot be read.
    pub fn read(places: &Places) -> Result<Self, Error> {
        let (booted, loader) = (places.booted()?, Loader::of(places)?);
        let ours = partition::verity_id(places, booted)?;
        let other = partition::verity_id(places, booted.other()).unwrap_or_else(|error| {
            tracing::warn!(slot = %booted.other(), %error, "the slot that does not run cannot be read, and counts as empty");
            None
        });
        let on_disk = match booted {
            Slot::A => [ours, other],
            Slot::B => [other, ours],
        };
        let record = Record::read(places)?;
        match loader {
            Loader::SystemdBoot => {
                let entries = esp::entries(places)?;
                let seen = Seen { booted, entries: &entries, on_disk, record: &record };
                Ok(Self { damage: mend::told(places), ..judge(seen) })
            }
            Loader::RaspberryPi => tryboot::status(places, booted, on_disk, &record),
        }
    }
}

/// Notes that the booted slot is healthy. `None` where somebody gave it up in this boot: it stays so.
///
/// # Errors
/// Where what boots it is not found, or cannot be noted.
pub fn arm(places: &Places) -> Result<Option<Outcome>, Error> {
    match Loader::of(places)? {
        Loader::SystemdBoot => armed::arm(places),
        Loader::RaspberryPi => tryboot::arm(places),
    }
}

/// Notes that the booted slot is not healthy, and says where to turn. It is given up with its last try.
///
/// # Errors
/// Where that cannot be noted.
pub fn unhealthy(places: &Places, why: &str) -> Result<Fallback, Error> {
    match Loader::of(places)? {
        Loader::SystemdBoot => armed::unhealthy(places, why),
        Loader::RaspberryPi => tryboot::unhealthy(places, why),
    }
}

/// Gives the booted slot up, so that the next boot goes to the other one, which was good; says which that is.
///
/// # Errors
/// [`Error::NoOther`] where there is none; nothing is changed then.
pub fn roll_back(places: &Places) -> Result<Slot, Error> {
    match Loader::of(places)? {
        Loader::SystemdBoot => armed::roll_back(places),
        Loader::RaspberryPi => tryboot::roll_back(places),
    }
}

/// Where the machine is about to start anew: asks the boot loader to try the system that is staged, if there is one and it
/// must be asked. The slot that is tried.
///
/// # Errors
/// Where it cannot be asked, or that cannot be noted: then nothing is tried.
pub fn begin_trial(places: &Places) -> Result<Option<Slot>, Error> {
    match Loader::of(places)? {
        Loader::SystemdBoot => Ok(None),
        Loader::RaspberryPi => tryboot::begin_trial(places),
    }
}
