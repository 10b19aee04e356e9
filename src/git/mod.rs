//! Git repositories on disk: bare ones of packs and one file of refs, which git itself can read too.
//!
//! # Layout
//! - `repository`: a folder, its refs, and how they change in one go; `repack`: its packs made one
//! - `objects`: objects of its packs; `walk`: what hangs on what, and what must not be taken;
//!   `cut`: where history is cut
//! - `pack`: takes a pack from others, makes one for others; one that comes is cut into entries (`receive`), its objects are
//!   named (`resolve`, `delta`), and it gets its index (`index`)
//! - `pkt`: the lines that both sides of git's protocols speak (pure)
//!
//! Refuses loose objects, worktrees and names that would leave their folder. SHA-1 alone, with the detection of
//! collisions that git has. Asks nobody and answers nobody: that is the mirror's and the registry's.

pub mod cut;
mod delta;
mod index;
mod objects;
pub mod pack;
pub mod pkt;
mod receive;
mod repack;
mod repository;
mod resolve;
pub mod walk;

use std::path::PathBuf;

pub use objects::{Objects, Reader};
pub use repository::{BRANCHES, Incoming, KEPT, Refs, Repository, TAGS, folder, is_name, is_ref, read_refs};

/// An object's name.
pub type Oid = gix_hash::ObjectId;
/// What an object is.
pub type Kind = gix_object::Kind;

/// Why a repository cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its files.
    #[error("{0}")]
    File(std::io::Error),
    /// There is none.
    #[error("there is no repository at `{0}`")]
    Absent(PathBuf),
    /// A file of it is not what it should be.
    #[error("`{path}` is damaged: {why} hint: remove this repository's folder and run `edge mirror sync`")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A pack that cannot be taken, or not be made.
    #[error("{0}")]
    Pack(String),
    /// Something hangs on an object that is not there.
    #[error("object {0} is not there")]
    Missing(Oid),
    /// An object that could do harm where it is checked out, or that is none.
    #[error("object {id}: {why}")]
    Refused {
        /// Which.
        id: Oid,
        /// Why.
        why: String,
    },
}

impl Error {
    /// Whether no space is left.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::File(e) if matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
    }
}

/// The name in its usual form, 40 digits.
///
/// # Errors
/// [`None`] for anything else.
pub fn oid(text: &[u8]) -> Option<Oid> {
    if text.len() != 40 {
        return None;
    }
    Oid::from_hex(text).ok()
}
