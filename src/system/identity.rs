//! The partition that outlives a reset: mounted read only, writable for the moment of a write, by one process at a
//! time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{Flock, FlockArg};

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
        let folder = places.at("/run/edge");
        std::fs::create_dir_all(&folder).map_err(|e| durable::named(e, "make folder", &folder))?;
        let path = folder.join("system.lock");
        let failed = |e: std::io::Error| durable::named(e, "lock", &path);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| failed(e.into()))?;
        let writable = Writable::new(&places.identity())?;
        Ok(Self { places, _writable: writable, _lock: lock })
    }

    /// Replaces a file durably.
    ///
    /// # Errors
    /// The old one is untouched then.
    pub fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), Error> {
        Ok(durable::write(&self.places.identity().join(name), bytes, mode)?)
    }

    /// Removes a file durably, if it is there.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        Ok(durable::remove(&self.places.identity().join(name))?)
    }
}
