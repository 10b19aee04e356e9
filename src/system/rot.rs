//! Whether the root that runs can be read, before it is found good.
//!
//! A root that does not agree with its hash tree, or has a sector that cannot be read, restarts the machine when that is
//! read. Where that is after the boot was found good, each boot would give the tries back that the last one used up, and the
//! good slot be started never. So after a boot that did not end by itself all of the root is read first, where there is
//! another slot to turn to: the restart then comes while the tries count. So it is where the booted slot has its tries for
//! the second time: what used them up may have been rot, and the boots of the other slot since then ended as they should.

use std::fs::File;
use std::io::{ErrorKind, Read as _};

use rustix::fs::{Advice, fadvise};

use super::armed::ONCE_MORE;
use super::slot::Status;
use super::{Error, Places};
use crate::sys::durable;

/// Lies on the data from when a boot is judged until it ends as it should: edge-healthy.service removes it then.
const UNDER_WAY: &str = "/var/lib/edge-boot";
/// The verified root.
const ROOT: &str = "/dev/mapper/root";
/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// Reads the root where the last boot did not end as it should, or where this slot had used its tries up and got them
/// back. Bytes that were read; 0 where none had to be.
///
/// # Errors
/// It cannot be read, or what tells of the last boot cannot.
pub fn check_root(places: &Places) -> Result<u64, Error> {
    let note = places.at(UNDER_WAY);
    let cut_short = note.exists();
    if !cut_short {
        match durable::write(&note, b"", 0o600) {
            // Full data is no fault of the root.
            Err(error) if durable::is_full(&error) => {
                tracing::warn!(%error, "whether this boot ends as it should will not be known");
            }
            written => written?,
        }
    }
    let status = Status::read(places)?;
    let once_more = status.of(status.booted).reason.as_deref() == Some(ONCE_MORE);
    if !(cut_short || once_more) || status.fallback().is_none() {
        return Ok(0);
    }
    let path = places.at(ROOT);
    let failed = |e| durable::named(e, "read", &path);
    let mut file = File::open(&path).map_err(failed)?;
    let mut buffer = vec![0; PIECE];
    let mut read = 0_u64;
    loop {
        let more = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(more) => more as u64,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(failed(e).into()),
        };
        // A gateway has little memory, and nobody needs all of this in it.
        let _ = fadvise(&file, read, std::num::NonZeroU64::new(more), Advice::DontNeed);
        read += more;
    }
    Ok(read)
}
