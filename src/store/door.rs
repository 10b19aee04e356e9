//! One store for everybody in a process: opened by the first who needs it, closed with the last.
//!
//! The registry, tasks and the upkeep share uploads, holds and epochs, which two openings would not. On a gateway
//! that serves nothing the store takes no memory.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Error, Inner, Settings, Store};

/// Where the store can be had; cheap to clone.
#[derive(Clone)]
pub struct Door(Arc<Behind>);

struct Behind {
    settings: Settings,
    reserve: Arc<AtomicU64>,
    open: Mutex<Weak<Inner>>,
}

impl Door {
    /// The store that `settings` names, not opened yet.
    pub fn new(settings: Settings) -> Self {
        let reserve = Arc::new(AtomicU64::new(settings.reserve));
        Self(Arc::new(Behind { settings, reserve, open: Mutex::new(Weak::new()) }))
    }

    /// From now on so many bytes of the file system are left free, by a store that is open too.
    pub fn set_reserve(&self, bytes: u64) {
        self.0.reserve.store(bytes, Ordering::Relaxed);
    }

    /// The store; blocks on the disk where nobody has it open.
    ///
    /// # Errors
    /// What [`Store::open`] says.
    pub fn open(&self) -> Result<Store, Error> {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inner) = open.upgrade() {
            return Ok(Store { inner });
        }
        let store = Store::open_with(self.0.settings.clone(), self.0.reserve.clone())?;
        *open = Arc::downgrade(&store.inner);
        Ok(store)
    }

    /// The folder of the store.
    pub fn folder(&self) -> &Path {
        &self.0.settings.folder
    }

    /// Whether anything was ever stored.
    pub fn is_used(&self) -> bool {
        self.0.settings.folder.join("store.db").exists()
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Door").field(&self.0.settings.folder).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_that_changes_counts_for_a_store_that_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let door = Door::new(Settings { reserve: 0, ..Settings::below(folder.path()) });
        let open = door.open().unwrap();
        open.room_for(1).unwrap();
        door.set_reserve(1 << 60);
        assert!(open.room_for(1).unwrap_err().is_full());
        drop(open);
        assert!(door.open().unwrap().room_for(1).unwrap_err().is_full(), "and for the next one");
    }
}
