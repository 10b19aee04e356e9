//! The partition that outlives a reset: mounted read only, writable for the moment of a write, by one process at a
//! time.

use std::fs::File;

use nix::fcntl::Flock;

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
