//! The folder that something is made in: hidden, beside what is made, and gone with this value. One that was interrupted
//! leaves its folder; the next one of the same name removes it. Who works holds a lock on his, so nobody removes it.
//!
//! Where folders cannot be locked, as on some network file systems, nothing of others is removed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

/// The folder.
#[derive(Debug)]
pub struct Work {
    path: PathBuf,
    _lock: Option<Flock<File>>,
}

impl Work {
    /// Makes `.NAME-PID` in `folder`, and removes those of this name that nobody holds.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        // Until ours is locked nobody looks for what is left behind.
        let alone = lock(folder, FlockArg::LockExclusive);
        if alone.is_some() {
            sweep(folder, name);
        }
        let path = folder.join(format!(".{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make `{}`", path.display()))?;
        let lock = lock(&path, FlockArg::LockExclusiveNonblock);
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Files of root, some of them in read-only folders: nothing of them is needed any more, whatever came of it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn sweep(folder: &Path, name: &str) {
    let head = format!(".{name}-");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_one = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix(&head))
            .is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()));
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_one && is_folder && lock(&entry.path(), FlockArg::LockExclusiveNonblock).is_some() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn lock(folder: &Path, how: FlockArg) -> Option<Flock<File>> {
    Flock::lock(File::open(folder).ok()?, how).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interrupted_one_left_is_removed_and_what_another_works_in_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in [".x.img-1/root/etc", ".x.img-2", ".x.img-old", ".y.img-1"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let busy = lock(&at(".x.img-2"), FlockArg::LockExclusive).unwrap();
        let work = Work::new(folder.path(), "x.img").unwrap();
        assert!(!at(".x.img-1").exists());
        assert!(at(".x.img-2").exists() && at(".x.img-old").exists() && at(".y.img-1").exists());
        // Another one at the same time leaves ours.
        sweep(folder.path(), "x.img");
        let ours = work.path().to_owned();
        assert!(ours.exists());
        drop((work, busy));
        assert!(!ours.exists());
    }
}
