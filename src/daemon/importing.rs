//! Says that what came with the image is being imported: edge-fallback.service waits for it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::sys::durable;
use crate::system::Places;

/// There while what came with the image is imported, and after it where that took long; its time is when it last came further.
const IMPORTING: &str = "/run/edge-importing";
/// How often it is told that it did: the fallback takes 15 minutes without for an import that hangs, and gives the boot as
/// many to be found good afterwards.
const TOUCHED: Duration = Duration::from_secs(20);

/// The note, while it is held.
pub(super) struct Mark {
    path: PathBuf,
    begun: Instant,
    touched: Instant,
}

impl Mark {
    /// It is begun.
    pub fn new(places: &Places) -> Self {
        let now = Instant::now();
        let mark = Self { path: places.at(IMPORTING), begun: now, touched: now };
        mark.touch();
        mark
    }

    /// Something was done.
    pub fn come_further(&mut self) {
        if self.touched.elapsed() >= TOUCHED {
            self.touched = Instant::now();
            self.touch();
        }
    }

    fn touch(&self) {
        // An import that ends within the timer's half hour does not need it.
        if let Err(error) = durable::write(&self.path, b"", 0o600) {
            tracing::warn!(%error, "it is not noted that bundles are being imported");
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // The timer may run out now, and this boot has its time to be found good.
        if self.begun.elapsed() >= TOUCHED {
            self.touch();
        } else if let Err(error) = durable::remove(&self.path) {
            tracing::warn!(%error, "it is noted still that bundles are being imported");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_that_took_long_leaves_its_boot_time_to_be_found_good() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::below(root.path());
        std::fs::create_dir(places.at("/run")).unwrap();
        let path = places.at(IMPORTING);
        let mark = Mark::new(&places);
        assert!(path.exists());
        drop(mark);
        assert!(!path.exists());
        let mut mark = Mark::new(&places);
        mark.begun = Instant::now().checked_sub(TOUCHED).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        drop(mark);
        assert_ne!(std::fs::metadata(&path).unwrap().modified().unwrap(), old);
    }
}
