//! The EFI system partition: which entries it has, and their change. FAT has no journal: whatever is changed is on the
//! medium before anything follows that rests on it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::entry::{Entry, VerityId};
use super::identity::Identity;
use super::slot::{Slot, Status};
use super::{Error, Places, Record, mend, partition, stage, uki};
use crate::sys::durable;
use crate::sys::mounts::Writable;

/// A boot entry that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What its name says.
    pub entry: Entry,
    /// Its file's name.
    pub file: String,
    /// The root file system that it boots; `None` where it cannot be told.
    pub verity: Option<VerityId>,
}

/// All boot entries of ours. Where there is no folder of them there are none. One that cannot be read boots nothing
/// that is known: it may be of the slot that does not run, and a good system is not given up for a bad sector there.
///
/// # Errors
/// Where they cannot be listed.
pub fn entries(places: &Places) -> Result<Vec<Found>, Error> {
    let folder = places.entries();
    let listed = match std::fs::read_dir(&folder) {
        Ok(listed) => listed,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(durable::named(e, "list", &folder).into()),
    };
    let mut found = Vec::new();
    for one in listed {
        let one = one.map_err(|e| durable::named(e, "list", &folder))?;
        let Some(file) = one.file_name().to_str().map(str::to_owned) else { continue };
        if let Some(entry) = Entry::parse(&file) {
            let verity = uki::verity_of(&one.path()).unwrap_or_else(|error| {
                tracing::warn!(path = %one.path().display(), %error, "a boot entry cannot be read, and counts as damaged");
                None
            });
            found.push(Found { entry, file, verity });
        }
    }
    found.sort_by_key(|found| found.entry.number);
    Ok(found)
}

/// What a FAT needs beside a file's bytes, in bytes.
const SLACK: u64 = 1 << 20;
/// Of a kernel that is not finished yet.
const UNFINISHED: &str = ".part";

/// The name of the kernel of entry `number` before it is one.
pub fn unfinished(number: u64) -> String {
    format!("edge-{number}{UNFINISHED}")
}

/// Whether the kernel of another system for `slot`, of `size` bytes, has room.
///
/// # Errors
/// [`Error::Unfit`] where it has none.
pub fn check_room(places: &Places, size: u64, slot: Slot) -> Result<(), Error> {
    let esp = places.esp();
    let stat =
        rustix::fs::statvfs(&esp).map_err(|e| durable::named(e.into(), "read the free space of", &esp))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let gained: u64 =
        superseded(places, slot)?.iter().filter_map(|path| path.metadata().ok()).map(|m| m.len()).sum();
    let needed = size + SLACK;
    if free + gained < needed {
        let why =
            format!("the EFI system partition has {} bytes free, and {needed} are needed", free + gained);
        return Err(Error::Unfit(format!(
            "{why} hint: remove what does not belong there from `{}`",
            esp.display()
        )));
    }
    Ok(())
}

/// What of the boot entries goes when `slot` is written: those that boot it, those that boot nothing that is there, and
/// kernels that were never finished.
fn superseded(places: &Places, slot: Slot) -> Result<Vec<PathBuf>, Error> {
    let kept = partition::verity_id(places, slot.other())?;
    let boots = |found: &Found| found.verity.is_some() && found.verity == kept;
    let all = entries(places)?;
    // Nothing is lost where the slot that is written does not start either.
    if !all.iter().any(boots) && Status::read(places)?.of(slot).is_spare() {
        let why = format!(
            "no boot entry in `{}` is known to boot slot {}",
            places.entries().display(),
            slot.other()
        );
        return Err(Error::Unfit(format!("{why}, which runs: nothing is written")));
    }
    // One that cannot be read now may be well at the next boot.
    let running = Record::read(places)?.slots.remove(&slot.other()).filter(|noted| noted.verity() == kept);
    let running = running.map(|noted| noted.number);
    let old = all.into_iter().filter(|found| !boots(found) && Some(found.entry.number) != running);
    let mut paths: Vec<PathBuf> = old.map(|found| places.entries().join(found.file)).collect();
    let listed = std::fs::read_dir(places.entries()).into_iter().flatten().flatten();
    let unfinished = |path: &PathBuf| path.extension().is_some_and(|extension| extension == &UNFINISHED[1..]);
    paths.extend(listed.map(|entry| entry.path()).filter(unfinished));
    Ok(paths)
}

/// Removes what boots `slot`; the number of the next entry.
///
/// # Errors
/// [`Error::Unfit`] before anything is changed; where that does not come to the medium.
pub fn clear(places: &Places, slot: Slot) -> Result<u64, Error> {
    let record = Record::read(places)?;
    let highest = entries(places)?.iter().map(|found| found.entry.number).max().unwrap_or(0);
    let esp = Esp::open(places)?;
    if let Err(error) = mend::ensure(places, slot.other()) {
        if Status::read(places)?.of(slot).is_spare() {
            return Err(stage::still_starts(slot));
        }
        tracing::warn!(%error, "another system is written, since what runs may not start again");
    }
    let old = superseded(places, slot)?;
    mend::forget(places, &Identity::open(places)?, slot)?;
    for path in old {
        std::fs::remove_file(&path).map_err(|e| durable::named(e, "remove", &path))?;
    }
    esp.sync()?;
    Ok(highest.max(record.highest) + 1)
}

/// The partition while it can be written, by one at a time. Whoever needs identity too opens that afterwards.
#[derive(Debug)]
pub struct Esp {
    folder: PathBuf,
    // Read only again before the next one may begin.
    _writable: Writable,
    _lock: Flock<File>,
}

impl Esp {
    /// Waits until nobody else writes, and makes it writable until this is dropped.
    ///
    /// # Errors
    /// Where it may not be.
    pub fn open(places: &Places) -> Result<Self, Error> {
        let esp = Self { folder: places.entries(), ..Self::first(places)? };
        std::fs::create_dir_all(&esp.folder).map_err(|e| durable::named(e, "make folder", &esp.folder))?;
        Ok(esp)
    }

    /// The same of a board whose boot loader knows no entries: what is changed lies at the top of it.
    ///
    /// # Errors
    /// Where it may not be written.
    pub fn first(places: &Places) -> Result<Self, Error> {
        let lock = places.lock("esp.lock")?;
        let (folder, _writable) = (places.esp(), Writable::new(&places.esp())?);
        Ok(Self { _writable, folder, _lock: lock })
    }

    /// A file in its folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Gives an entry another name.
    ///
    /// # Errors
    /// It has the one or the other then.
    pub fn rename(&self, file: &str, to: &str) -> Result<(), Error> {
        if file != to {
            let path = self.path(file);
            std::fs::rename(&path, self.path(to)).map_err(|e| durable::named(e, "rename", &path))?;
        }
        self.sync()
    }

    /// Brings everything to the medium.
    ///
    /// # Errors
    /// Where it does not take it.
    pub fn sync(&self) -> Result<(), Error> {
        sync(&self.folder)
    }
}

/// Brings the whole file system of the folder `path` to its medium.
///
/// # Errors
/// Where it does not take it.
pub fn sync(path: &Path) -> Result<(), Error> {
    Ok(durable::sync_file_system(path)?)
}

#[cfg(test)]
mod tests {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::*;
    use crate::sys::drive::Drive;

    /// An update is told as staged then, and a power cut must not lose it.
    #[test]
    fn the_drive_itself_is_told_to_flush() {
        let drive = Drive::mounted();
        sync(drive.folder()).unwrap();
        assert_eq!(drive.flushes(), 1);
    }

    /// Of two that overlap, the first to end must not take the partition from the other one.
    #[test]
    fn it_stays_writable_for_whoever_writes() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::below(root.path());
        let esp = places.esp();
        std::fs::create_dir_all(&esp).unwrap();
        mount(Some("none"), &esp, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
        let writes = |name: &'static str| {
            let places = places.clone();
            std::thread::spawn(move || {
                for _ in 0..30 {
                    let esp = Esp::open(&places)?;
                    let path = esp.path(name);
                    durable::write(&path, name.as_bytes(), 0o600)?;
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    durable::remove(&path)?;
                }
                Ok::<(), Error>(())
            })
        };
        let ended = [writes("a"), writes("b"), writes("c")].map(|thread| thread.join().unwrap());
        let after = File::create(esp.join("later")).map(drop);
        umount2(&esp, MntFlags::MNT_DETACH).unwrap();
        for end in ended {
            end.unwrap();
        }
        assert_eq!(after.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    }
}
