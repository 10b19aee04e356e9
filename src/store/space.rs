//! How much may still be written: the file system's free space less a reserve.

use std::sync::atomic::Ordering;

use super::{Error, Store};

/// Inodes left below which nothing new is begun.
const INODES: u64 = 128;

impl Store {
    /// Refuses when `bytes` more would eat into the reserve.
    ///
    /// # Errors
    /// [`Error::Full`], or that the free space cannot be read.
    pub fn room_for(&self, bytes: u64) -> Result<(), Error> {
        let settings = &self.inner.settings;
        let folder = &settings.folder;
        let stat = rustix::fs::statvfs(folder)
            .map_err(|e| crate::sys::durable::named(e.into(), "read the free space of", folder))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let needed = bytes.saturating_add(self.inner.reserve.load(Ordering::Relaxed));
        let inodes = stat.f_files == 0 || stat.f_favail >= INODES;
        if free < needed || !inodes {
            return Err(Error::Full { folder: folder.display().to_string(), free, needed });
        }
        Ok(())
    }
}
