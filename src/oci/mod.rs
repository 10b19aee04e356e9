//! References, manifests, platforms, and the client of upstream registries.
//!
//! Knows the OCI specifications and what Docker had before them; keeps nothing on disk. Bytes of manifests
//! are never written anew: what is parsed is looked at, and what came is what goes on.

pub mod chart;
mod client;
mod credentials;
mod manifest;
mod platform;
mod reference;

pub use client::{
    Client, ClientSettings, Error, FetchedBlob, FetchedFile, FetchedManifest, HeadManifest, RateLimit, Site,
    Upstream,
};
pub use credentials::{Credential, Credentials};
pub use manifest::{Descriptor, ImageIndex, LARGEST, ManifestError, ParsedManifest, media};
pub use platform::Platform;
pub use reference::{Reference, ReferenceError, canonical_host, is_repository_path, is_tag};
