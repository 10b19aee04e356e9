//! The lock on the state folder: one process at a time changes what lies in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::durable;

/// Held for as long as it lives; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    _file: nix::fcntl::Flock<File>,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("`{folder}` is in use by {holder}")]
    Held {
        /// The state folder.
        folder: String,
        /// What the holder wrote of itself: its command and process id.
        holder: String,
    },
    /// The lock file cannot be made or opened.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl StateLock {
    /// Takes the lock on `folder` at once, or says who holds it. `who` is what others are told
    /// of the holder, such as `edge daemon`.
    ///
    /// # Errors
    /// [`LockError::Held`] while another process has it.
    pub fn take(folder: &Path, who: &str) -> Result<Self, LockError> {
        durable::folder(folder, 0o700)?;
        let path = folder.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = match options.open(&path) {
            // On a disk that became read-only the lock is as good, and the holder has no name.
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(&path),
            opened => opened,
        }
        .map_err(|e| durable::named(e, "open", &path))?;
        match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                if let Err(error) = sign(&mut file, who) {
                    tracing::debug!(%error, "the holder of the lock is not named");
                }
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                if holder.is_empty() {
                    holder.push_str("another process");
                }
                Err(LockError::Held { folder: folder.display().to_string(), holder })
            }
            Err((_, e)) => Err(durable::named(e.into(), "lock", &path).into()),
        }
    }
}

/// Writes over the name that was there, in its place: a full disk has no room for another.
fn sign(file: &mut File, who: &str) -> io::Result<()> {
    let name = format!("{who} (pid {})", std::process::id());
    file.rewind()?;
    file.write_all(name.as_bytes())?;
    file.set_len(name.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateLock::take(folder.path(), "edge daemon").unwrap();
        let refused = StateLock::take(folder.path(), "edge gc").unwrap_err().to_string();
        assert!(refused.contains("edge daemon (pid "), "{refused}");
        drop(first);
        StateLock::take(folder.path(), "edge gc").unwrap();
    }
}
