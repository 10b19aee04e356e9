//! The partition that outlives a reset: mounted read only, writable for the moment of a write, by one process at a
//! time. It is not encrypted, and keys lie on it: what goes is overwritten, since a file system only forgets where it lay.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::Flock;

use super::intake::KEPT;
use super::{Error, Places};
use crate::sys::durable;
use crate::sys::mounts::Writable;

/// Identity while it can be written.
#[derive(Debug)]
pub struct Identity<'a> {
    places: &'a Places,
    // Read only again before the next one may begin.
    _writable: Writable,
    _lock: Flock<File>,
}

impl<'a> Identity<'a> {
    /// Waits until nobody else writes, and makes it writable until this is dropped.
    ///
    /// # Errors
    /// Where it may not be.
    pub fn open(places: &'a Places) -> Result<Self, Error> {
        let lock = places.lock("system.lock")?;
        let writable = Writable::new(&places.identity())?;
        Ok(Self { places, _writable: writable, _lock: lock })
    }

    /// Replaces a file durably; a key or a file of the owner's is overwritten, too.
    ///
    /// # Errors
    /// The old one is untouched then.
    pub fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), Error> {
        let path = self.places.identity().join(name);
        // What others read meanwhile of a record is the old one or the new one.
        let is_secret = name.contains(".key") || Path::new(name).starts_with(KEPT);
        let before = if is_secret { held(&path) } else { Ok(None) };
        durable::write(&path, bytes, mode)?;
        // What was asked for is done.
        if let Err(error) = before.and_then(|before| blank(before, &path)) {
            tracing::warn!(%error, "what a file of identity held before may still be on the medium");
        }
        Ok(())
    }

    /// Removes a file durably, if it is there.
    ///
    /// # Errors
    /// Where it cannot be removed or overwritten.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.places.identity().join(name);
        let before = held(&path);
        durable::remove(&path)?;
        Ok(before.and_then(|before| blank(before, &path))?)
    }
}

/// What lies at a path, held while it loses its name.
fn held(path: &Path) -> io::Result<Option<File>> {
    match File::options().write(true).custom_flags(nix::libc::O_NOFOLLOW).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(durable::named(e, "overwrite", path)),
    }
}

fn blank(file: Option<File>, path: &Path) -> io::Result<()> {
    let Some(mut file) = file else { return Ok(()) };
    let blanked = file.metadata().and_then(|meta| {
        file.write_all(&vec![0; usize::try_from(meta.len()).unwrap_or(0)])?;
        file.sync_all()
    });
    blanked.map_err(|e| durable::named(e, "overwrite", path))
}
