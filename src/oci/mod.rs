//! References, manifests, platforms, archives of images, and the client of upstream registries.
//!
//! Knows the OCI specifications and what Docker had before them; keeps nothing of its own on disk. Bytes of manifests
//! are never written anew: what is parsed is looked at, and what came is what goes on.

mod archive;
pub mod chart;
mod client;
mod credentials;
mod headers;
mod helper;
mod manifest;
mod platform;
mod reference;
mod walk;

pub use archive::{Archive, ArchiveError, ArchiveWriter, Entry as ArchiveEntry, Form as ArchiveForm};
pub use client::{
    Client, ClientSettings, Error, FetchedBlob, FetchedFile, FetchedManifest, HeadManifest, RateLimit, Site,
    Upstream, clean, proxy_fault,
};
pub use credentials::{Credential, Credentials};
pub use manifest::{
    Descriptor, ImageIndex, LARGEST, LARGEST_IMAGE, ManifestError, ParsedManifest, facts_of, media,
};
pub use platform::Platform;
pub(crate) use reference::is_host;
pub use reference::{Reference, ReferenceError, canonical_host, is_repository_path, is_tag};
pub use walk::{Boundless, DEEPEST, Step, Walk};
