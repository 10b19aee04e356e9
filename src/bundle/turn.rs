//! One after another: imports of a gateway, bundles of a stream, bundles on a stick. Whoever comes second waits, and says
//! so; the kernel gives the turn on, however its holder ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Error;
use super::put::Folder;
use crate::sys::durable;
use crate::sys::progress::Progress;

/// Between two looks of one who waits.
const AGAIN: Duration = Duration::from_millis(500);

/// Held until it is dropped.
pub(super) type Turn = Flock<File>;

/// Waits until no other import of this gateway is under way; `scratch` is its folder for that.
///
/// # Errors
/// Where the lock file cannot be made; [`Error::CalledOff`].
pub(super) fn import(scratch: &Path, progress: &Progress) -> Result<Turn, Error> {
    by_file(scratch, "import.lock", "another import is under way; waiting until it has ended", progress)
}

/// Waits until this depot makes no other bundle of `stream`: each has a number of its own, and is told only at its end.
///
/// # Errors
/// Where the lock file cannot be made; [`Error::CalledOff`].
pub(super) fn make(records: &Path, stream: &str, progress: &Progress) -> Result<Turn, Error> {
    let told = format!("another bundle of stream `{stream}` is being made; waiting until that has ended");
    by_file(records, &format!("{stream}.lock"), &told, progress)
}

/// Waits until nobody else writes a bundle on the stick `to`: what is not finished there would look like left over, and the
/// room that is free would count for both. What is locked is the stick's folder of `bundles`: a snap may not lock the top.
///
/// # Errors
/// [`Error::Stick`] where it cannot be locked; [`Error::CalledOff`].
pub(super) fn write(bundles: Folder, to: &Path, progress: &Progress) -> Result<Turn, Error> {
    let told = format!("another bundle is being written to `{}`; waiting until that has ended", to.display());
    wait(bundles.into_file(), &told, progress, |e| Error::Stick(durable::named(e.into(), "lock", to)))
}

fn by_file(folder: &Path, name: &str, told: &str, progress: &Progress) -> Result<Turn, Error> {
    durable::folder(folder, 0o700).map_err(Error::Files)?;
    let path = folder.join(name);
    let failed = |e: std::io::Error| Error::Files(durable::named(e, "lock", &path));
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    wait(opened.map_err(failed)?, told, progress, |e| failed(e.into()))
}

/// Looks again and again, as the kernel's own wait would not end where nobody wants the work any more.
fn wait(
    mut file: File,
    told: &str,
    progress: &Progress,
    failed: impl Fn(Errno) -> Error,
) -> Result<Turn, Error> {
    let mut waits = false;
    loop {
        if waits && !progress.is_heard() {
            return Err(Error::CalledOff);
        }
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(turn) => return Ok(turn),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, e)) => return Err(failed(e)),
        };
        if !waits {
            progress.note(told);
        }
        waits = true;
        std::thread::sleep(AGAIN);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]
mod tests {
    use super::*;

    type Waits<'a> = &'a (dyn Fn(&Progress) -> Result<Turn, Error> + Sync);

    #[test]
    fn who_waits_and_is_called_off_gets_no_turn() {
        let folder = tempfile::tempdir().unwrap();
        let (scratch, bundles) = (folder.path(), folder.path().join("edge-bundle"));
        let of_stick = |progress: &Progress| write(Folder::make(&bundles)?, scratch, progress);
        let silent = Progress::silent();
        let held = [import(scratch, &silent), make(scratch, "main", &silent), of_stick(&silent)];
        assert!(held.iter().all(Result::is_ok), "{held:?}");
        let turns: [Waits<'_>; 3] =
            [&|one| import(scratch, one), &|one| make(scratch, "main", one), &of_stick];
        std::thread::scope(|scope| {
            let (sender, ended) = std::sync::mpsc::channel();
            for turn in turns {
                let (progress, mut heard) = Progress::channel();
                let sender = sender.clone();
                scope.spawn(move || sender.send(turn(&progress).map(drop)));
                assert!(heard.blocking_recv().is_some(), "nobody is told of the wait");
            }
            let got: Vec<_> = turns.iter().map(|_| ended.recv_timeout(AGAIN * 40)).collect();
            drop(held);
            for one in got {
                assert!(matches!(one, Ok(Err(Error::CalledOff))), "{one:?}");
            }
        });
    }
}
