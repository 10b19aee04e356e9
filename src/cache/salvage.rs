//! A copy of what a dying disk still gives of a database and its journal: with zeros for each block that cannot be read,
//! which SQLite finds to be damaged, or, in the journal, to be its end.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Result, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::sys::durable;

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;
/// Bytes that are given up at once: a page of the database, and what file systems count in.
const BLOCK: usize = 4096;

/// Blocks that could not be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unread {
    pub database: u64,
    pub journal: u64,
}

/// Copies the database `from` to `to`, journal included. A file that cannot even be opened is one that is not there, and
/// counts as one block.
///
/// # Errors
/// Where the copy cannot be written, with the path.
pub fn copy(from: &Path, to: &Path) -> Result<Unread> {
    let mut unread = [0, 0];
    // A map of the journal, which is made anew.
    durable::remove(&with(to, "-shm"))?;
    for (suffix, unread) in ["", "-wal"].into_iter().zip(&mut unread) {
        let (from, to) = (with(from, suffix), with(to, suffix));
        durable::remove(&to)?;
        match File::open(&from).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((size, file)) => {
                *unread = copy_file(&file, size, &to).map_err(|e| durable::named(e, "write", &to))?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %from.display(), %error, "nothing of it can be read");
                *unread = 1;
            }
        }
    }
    let [database, journal] = unread;
    Ok(Unread { database, journal })
}

/// The path of a file that SQLite keeps beside a database.
pub(super) fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Errors are of the copy alone.
fn copy_file(from: &File, size: u64, to: &Path) -> Result<u64> {
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let mut piece = vec![0; PIECE];
    let (mut at, mut unread) = (0, 0);
    while at < size {
        let length = usize::try_from(size - at).map_or(PIECE, |left| left.min(PIECE));
        let piece = &mut piece[..length];
        if from.read_exact_at(piece, at).is_err() {
            let mut place = at;
            for block in piece.chunks_mut(BLOCK) {
                if from.read_exact_at(block, place).is_err() {
                    block.fill(0);
                    unread += 1;
                }
                place += block.len() as u64;
            }
        }
        copy.write_all(piece)?;
        at += length as u64;
    }
    Ok(unread)
}
