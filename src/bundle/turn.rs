//! One after another: imports of a gateway, bundles of a stream, bundles on a stick. Whoever comes second waits, and says
//! so; the kernel gives the turn on, however its holder ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Error;
use super::put::Folder;
use crate::sys::durable;
use crate::sys::progress::Progress;

/// Held until it is dropped.
pub(super) type Turn = Flock<File>;

/// Waits until no other import of this gateway is under way; `scratch` is its folder for that.
///
/// # Errors
/// Where the lock file cannot be made.
pub(super) fn import(scratch: &Path, progress: &Progress) -> Result<Turn, Error> {
    by_file(scratch, "import.lock", "another import is under way; waiting until it has ended", progress)
}

/// Waits until this depot makes no other bundle of `stream`: each has a number of its own, and is told only at its end.
///
/// # Errors
/// Where the lock file cannot be made.
pub(super) fn make(records: &Path, stream: &str, progress: &Progress) -> Result<Turn, Error> {
    let told = format!("another bundle of stream `{stream}` is being made; waiting until that has ended");
    by_file(records, &format!("{stream}.lock"), &told, progress)
}

/// Waits until nobody else writes a bundle on the stick `to`: what is not finished there would look like left over, and the
/// room that is free would count for both. What is locked is the stick's folder of `bundles`: a snap may not lock the top.
///
/// # Errors
/// [`Error::Stick`] where it cannot be locked.
pub(super) fn write(bundles: Folder, to: &Path, progress: &Progress) -> Result<Turn, Error> {
    let told = format!("another bundle is being written to `{}`; waiting until that has ended", to.display());
    wait(bundles.into_file(), &told, progress)
        .map_err(|e| Error::Stick(durable::named(e.into(), "lock", to)))
}

fn by_file(folder: &Path, name: &str, told: &str, progress: &Progress) -> Result<Turn, Error> {
    durable::folder(folder, 0o700).map_err(Error::Files)?;
    let path = folder.join(name);
    let failed = |e: std::io::Error| Error::Files(durable::named(e, "lock", &path));
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    wait(opened.map_err(failed)?, told, progress).map_err(|e| failed(e.into()))
}

fn wait(file: File, told: &str, progress: &Progress) -> Result<Turn, Errno> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(turn) => Ok(turn),
        Err((file, Errno::EWOULDBLOCK)) => {
            progress.note(told);
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e)
        }
        Err((_, e)) => Err(e),
    }
}
