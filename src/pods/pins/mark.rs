//! Whether images may be pinned by edge: a file in the state folder, there from before the first pin until none is left.
//! A runtime that cannot be asked may not be taken for one that has no pins.

use std::io;
use std::path::{Path, PathBuf};

use crate::sys::durable;

/// The file's name.
const NAME: &str = "pinned";

/// The mark.
#[derive(Debug, Clone)]
pub struct Mark(PathBuf);

impl Mark {
    /// That of this state folder.
    pub fn below(state_dir: &Path) -> Self {
        Self(state_dir.join(NAME))
    }

    /// Whether images may be pinned. Where that cannot be seen, they may.
    pub fn is_set(&self) -> bool {
        durable::exists(&self.0).unwrap_or(true)
    }

    /// Images are about to be pinned.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(&self) -> io::Result<()> {
        if durable::exists(&self.0)? { Ok(()) } else { durable::write(&self.0, b"", 0o600) }
    }

    /// None is pinned any more.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn clear(&self) -> io::Result<()> {
        if durable::exists(&self.0)? { durable::remove(&self.0) } else { Ok(()) }
    }
}
