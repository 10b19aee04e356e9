//! What a manifest says of itself and links to, without its format: what reads manifests gives it, what keeps them takes it.

use super::digest::Digest;

/// What a manifest says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Such as `application/vnd.oci.image.manifest.v1+json`.
    pub media_type: String,
    /// What the referrers API filters by.
    pub artifact_type: Option<String>,
    /// The manifest that this one is about, and its size.
    pub subject: Option<(Digest, u64)>,
    /// Its annotations, as a JSON object.
    pub annotations: Option<String>,
    /// What it links to.
    pub children: Vec<Child>,
}

/// Something that a manifest links to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Which.
    pub digest: Digest,
    /// Bytes, as the manifest has it.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
}

/// What a link points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A configuration or a layer.
    Blob,
    /// A manifest of an index.
    Manifest,
}
