//! Images as people handle them: listed, looked into, brought from archives and upstreams, written to archives.
//!
//! Whoever calls holds the state folder, but for what only reads.

mod attached;
mod export;
mod fetch;
mod import;
mod inspect;
mod list;
mod mend;
mod plan;

use crate::oci::{ArchiveError, Boundless, Error as OciError, ManifestError, Reference, ReferenceError};
use crate::store::{self, Manifest, Store};
use crate::sys::digest::Digest;

pub use export::{Exported, export};
pub use fetch::{Pulled, pull};
pub use import::{Imported, import};
pub use inspect::inspect;
pub use list::{Image, list, matches};
pub use mend::{Mended, mend};
pub use plan::Wanted;

/// Why an image was not brought, written or found.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The upstream.
    #[error(transparent)]
    Upstream(#[from] OciError),
    /// A manifest.
    #[error("`{digest}`: {source}")]
    Manifest {
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A name.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// An image of an archive has no name, or only a tag.
    #[error("{0} hint: give it one with --name REPOSITORY:TAG")]
    Nameless(String),
    /// There is no such image.
    #[error("`{0}` is not here hint: `edge image list` says what is")]
    Unknown(String),
    /// No manifest of the index is for the platforms that were asked for.
    #[error("`{name}` has no image for {wanted} hint: it has {has}")]
    Platform {
        /// Which.
        name: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        has: String,
    },
    /// More of it than is looked into.
    #[error(transparent)]
    Boundless(#[from] Boundless),
    /// What a manifest links to is neither there nor here.
    #[error("`{0}` is missing")]
    Missing(Digest),
    /// The client of upstreams cannot be set up.
    #[error("{0}")]
    Client(String),
    /// A thread was lost.
    #[error("a task ended unexpectedly")]
    Ended,
}

impl ImageError {
    /// Whether bytes were not what their digest says.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Store(store::Error::DigestMismatch { .. }) | Self::Upstream(OciError::Digest { .. }) => {
                true
            }
            Self::Archive(error) => error.is_damage(),
            _ => false,
        }
    }

    /// Whether it was asked for wrongly.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Nameless(_))
    }
}

/// What a person's name of an image leads to.
#[derive(Debug)]
pub struct Found {
    /// The name in its full form.
    pub reference: Reference,
    /// The repository that has it, which may be one without a host.
    pub repository: String,
    /// What the name stands for there.
    pub manifest: Manifest,
}

impl Found {
    /// The name that it is listed by, `repository:tag` or `repository@digest`.
    pub fn name(&self) -> String {
        let between = if self.reference.digest.is_some() { '@' } else { ':' };
        format!("{}{between}{}", self.repository, self.reference.name())
    }
}

/// Finds an image by its name. One without a host is what was pushed so, or an image of docker.io, in the order in which
/// the registry looks for it.
///
/// # Errors
/// [`ImageError::Unknown`] where it is not here.
pub fn find(store: &Store, name: &str) -> Result<Found, ImageError> {
    let reference: Reference = name.parse()?;
    let readings = Reference::without_host(name).map(str::to_owned).into_iter();
    for repository in readings.chain([reference.repository()]) {
        if let Some(manifest) = store.manifest(&repository, reference.name())? {
            return Ok(Found { reference, repository, manifest });
        }
    }
    Err(ImageError::Unknown(reference.to_string()))
}
