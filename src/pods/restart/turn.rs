//! One restart of a pod at a time, whoever does it: a lock for each pod, held by `edge pod restart` and by the daemon
//! alike. The kernel lets go of it when the process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::sys::durable;

/// Between two tries.
const LOOK: Duration = Duration::from_millis(50);

/// The right to stop a pod. Dropping it gives it up.
#[derive(Debug)]
pub struct Turn {
    path: PathBuf,
    _file: Flock<File>,
}

impl Turn {
    /// Waits for the turn on the pod that the kubelet runs under `uid`; the locks lie in `folder`. `who` is what others
    /// are told; `held` is told once who has it, if somebody does.
    ///
    /// # Errors
    /// The lock cannot be made or opened.
    pub async fn take(folder: &Path, uid: &str, who: &str, mut held: impl FnMut(&str)) -> io::Result<Self> {
        durable::folder(folder, 0o700)?;
        let path = folder.join(uid);
        let mut told = false;
        loop {
            match attempt(&path, who)? {
                Ok(turn) => return Ok(turn),
                Err(holder) if !told && !holder.is_empty() => {
                    held(&holder);
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Who is restarting a pod now, by the locks in `folder`.
///
/// # Errors
/// The folder or a lock cannot be read.
pub fn at_work(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(durable::named(e, "list", folder)),
    };
    let mut holders = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| durable::named(e, "list", folder))?.path();
        // Shared, so that two who ask do not take each other for a restart.
        let Ok(file) = File::open(&path) else { continue };
        if let Err((mut file, Errno::EWOULDBLOCK)) = Flock::lock(file, FlockArg::LockSharedNonblock) {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(|e| durable::named(e, "read", &path))?;
            holders.push(holder);
        }
    }
    Ok(holders)
}

impl Drop for Turn {
    fn drop(&mut self) {
        // While it is still locked: whoever locks the old file afterwards sees that it has no name any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The turn, or who has it.
fn attempt(path: &Path, who: &str) -> io::Result<Result<Turn, String>> {
    let failed = |e| durable::named(e, "open", path);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    match Flock::lock(file.map_err(failed)?, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            let same = |named: std::fs::Metadata, open: std::fs::Metadata| named.ino() == open.ino();
            if !std::fs::metadata(path).ok().zip(file.metadata().ok()).is_some_and(|(a, b)| same(a, b)) {
                return Ok(Err(String::new()));
            }
            file.set_len(0)
                .and_then(|()| write!(*file, "{who} (pid {})", std::process::id()))
                .map_err(failed)?;
            Ok(Ok(Turn { path: path.to_path_buf(), _file: file }))
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            Ok(Err(if holder.is_empty() { "another process".to_owned() } else { holder }))
        }
        Err((_, e)) => Err(durable::named(e.into(), "lock", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_hears_who_has_it_and_waits() {
        let folder = tempfile::tempdir().unwrap();
        let first = Turn::take(folder.path(), "uid", "edge daemon", |_| panic!()).await.unwrap();
        Turn::take(folder.path(), "other", "edge daemon", |_| panic!("another pod")).await.unwrap();
        let mut heard = String::new();
        let second =
            Turn::take(folder.path(), "uid", "edge pod restart", |holder| holder.clone_into(&mut heard));
        let free = async {
            tokio::time::sleep(LOOK).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(second, free);
        assert!(heard.starts_with("edge daemon (pid "), "{heard}");
        let second = second.unwrap();
        assert_eq!(
            at_work(folder.path()).unwrap(),
            [format!("edge pod restart (pid {})", std::process::id())]
        );
        drop(second);
        assert_eq!(at_work(folder.path()).unwrap(), [""; 0]);
        assert_eq!(at_work(&folder.path().join("none")).unwrap(), [""; 0]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
