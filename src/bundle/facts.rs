//! What is taken of an index, and how large a manifest may be.

use crate::oci::{Descriptor, LARGEST, ParsedManifest, Platform};
use crate::sys::digest::Digest;

/// The largest manifest of an image, in bytes.
pub const LARGEST_IMAGE_MANIFEST: u64 = LARGEST as u64;

/// The manifests of an index that `platforms` run, with what attests to them; all of them where none is given.
pub fn chosen<'a>(parsed: &'a ParsedManifest, platforms: &[Platform]) -> Vec<&'a Descriptor> {
    if platforms.is_empty() {
        return parsed.manifests.iter().collect();
    }
    let runs = |d: &Descriptor| match &d.platform {
        Some(theirs) => runs(platforms, theirs),
        // What names no platform, such as an artifact, is for all.
        None => true,
    };
    let kept: Vec<&Digest> = parsed.manifests.iter().filter(|d| runs(d)).map(|d| &d.digest).collect();
    parsed.manifests.iter().filter(|d| runs(d) || d.attests_one_of(&kept)).collect()
}

/// Whether one of `platforms` runs images for `theirs`.
pub fn runs(platforms: &[Platform], theirs: &Platform) -> bool {
    platforms.iter().any(|mine| mine.rank(theirs).is_some())
}
