//! Copies of what starts the slots, on the data, and how something is made what its copy is.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::record::Sum;
use super::{Error, Places, esp, stage};
use crate::sys::mounts::Writable;
use crate::sys::{durable, failpoint};

/// The folder of the copies. Who falls back looks here too, and knows of no other state folder.
const COPIES: &str = "/var/lib/edge/boot";
/// Bytes compared at once. What the kernel writes at once of a partition is a part of it.
const PIECE: usize = 64 << 10;
/// The first bytes, which are written last: what the kernel writes at once, with the first sector.
const HEAD: usize = 4 << 10;
/// The data has room for so many times a copy, or none is kept.
const ROOM: u64 = 4;

/// Where the copies lie.
pub(super) fn folder(places: &Places) -> PathBuf {
    places.at(COPIES)
}

/// Whether `path` begins with those bytes, as its medium has them; asked once more where it does not: a card may fail for a
/// moment. What is not there does not.
///
/// # Errors
/// Where it could not be read each time: it is not known then that anything is lost.
pub(super) fn reads(path: &Path, sum: &Sum) -> Result<bool, Error> {
    let look = || match stage::read_back(path, &[], sum.size) {
        Ok(found) => Ok(found == sum.digest),
        Err(Error::Files(e)) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    };
    let first = look();
    if matches!(first, Ok(true)) {
        return first;
    }
    match (first, look()) {
        (_, Ok(true)) => Ok(true),
        (Ok(_), Ok(_)) => Ok(false),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// Whether a copy is whole. One that cannot be read is none.
fn is_copy(copy: &Path, sum: &Sum) -> bool {
    reads(copy, sum).unwrap_or(false)
}

/// Makes a partition what its copy is: only what differs is written, its first bytes last. A cut leaves no more of it damaged
/// than was.
///
/// # Errors
/// Where no copy is whole, or it does not come to the medium.
pub(super) fn bring_over(device: &Path, copy: &Path, sum: &Sum) -> Result<(), Error> {
    if !is_copy(copy, sum) {
        return Err(none());
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
    if reads(device, sum)? { Ok(()) } else { Err(Error::ReadBack(device.display().to_string())) }
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

/// Makes a file of the first partition what its copy is. It is whole beside it before it takes its place: where its sectors are
/// worn, others are taken. `esp.lock` is held.
///
/// # Errors
/// Where no copy is whole, or it does not come to the medium.
pub(super) fn replace(places: &Places, path: &Path, copy: &Path, sum: &Sum) -> Result<(), Error> {
    if !is_copy(copy, sum) {
        return Err(none());
    }
    let _writable = Writable::new(&places.esp())?;
    let beside = path.with_extension("part");
    let written = copied(copy, &beside, sum).and_then(|()| esp::sync(&places.esp()));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&beside);
        return Err(error);
    }
    failpoint::pass("entry-beside");
    if let Err(e) = std::fs::rename(&beside, path) {
        let _ = std::fs::remove_file(&beside);
        return Err(durable::named(e, "rename", &beside).into());
    }
    esp::sync(&places.esp())?;
    if reads(path, sum)? { Ok(()) } else { Err(Error::ReadBack(path.display().to_string())) }
}

/// Keeps a copy of what is whole, where the data has room for it and there is none.
///
/// # Errors
/// Where the data does not take it.
pub(super) fn keep(path: &Path, copy: &Path, sum: &Sum) -> Result<(), Error> {
    if is_copy(copy, sum) {
        return Ok(());
    }
    let folder = copy.parent().unwrap_or(Path::new("/"));
    durable::folder(folder, 0o700)?;
    let stat =
        rustix::fs::statvfs(folder).map_err(|e| durable::named(e.into(), "read the room of", folder))?;
    if stat.f_bavail.saturating_mul(stat.f_frsize) < ROOM * sum.size {
        tracing::warn!(folder = %folder.display(), "too little room for a copy of what starts a slot: it could not be mended");
        return Ok(());
    }
    let beside = copy.with_extension("part");
    copied(path, &beside, sum)?;
    std::fs::rename(&beside, copy).map_err(|e| durable::named(e, "rename", &beside))?;
    Ok(durable::sync_folder_of(copy)?)
}

/// Copies the first bytes of `from` to a file, which has them on its medium then.
fn copied(from: &Path, to: &Path, sum: &Sum) -> Result<(), Error> {
    let failed = |e| durable::named(e, "write", to);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(to).map_err(failed)?;
    let mut bytes = File::open(from).map_err(|e| durable::named(e, "open", from))?.take(sum.size);
    io::copy(&mut bytes, &mut file).and_then(|_| file.sync_all()).map_err(failed)?;
    if reads(to, sum)? { Ok(()) } else { Err(Error::ReadBack(to.display().to_string())) }
}

/// Removes the copies of systems that are in no slot any more.
///
/// # Errors
/// Where one cannot be removed.
pub(super) fn remove_others(places: &Places, kept: &[PathBuf]) -> Result<(), Error> {
    for entry in std::fs::read_dir(folder(places)).into_iter().flatten().flatten() {
        if !kept.contains(&entry.path()) {
            durable::remove(&entry.path())?;
        }
    }
    Ok(())
}

fn none() -> Error {
    Error::Unfit("no copy of it is whole".into())
}
