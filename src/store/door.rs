//! One store for everybody in a process: opened by the first who needs it, closed with the last.
//!
//! The registry, tasks and the upkeep share uploads, holds and epochs, which two openings would not. On a gateway
//! that serves nothing the store takes no memory.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Error, Inner, Settings, Store};

/// Where the store can be had; cheap to clone.
#[derive(Clone)]
pub struct Door(Arc<Behind>);

struct Behind {
    settings: Settings,
    open: Mutex<Weak<Inner>>,
}

impl Door {
    /// The store that `settings` names, not opened yet.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Behind { settings, open: Mutex::new(Weak::new()) }))
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
        let store = Store::open(self.0.settings.clone())?;
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
