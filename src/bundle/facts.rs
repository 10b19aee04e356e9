//! What a manifest links to: for the store, and for whoever walks down from an image.

use crate::oci::{Descriptor, LARGEST, ParsedManifest, Platform};
use crate::store::{Child, Facts, Kind};
use crate::sys::digest::Digest;

/// The largest manifest of an image, in bytes.
pub const LARGEST_IMAGE_MANIFEST: u64 = LARGEST as u64;
/// What an attestation names the image that it is about with.
const ABOUT: &str = "vnd.docker.reference.digest";

/// What the store keeps of a manifest.
pub fn facts_of(parsed: &ParsedManifest) -> Facts {
    let child = |kind| move |d: &Descriptor| Child { digest: d.digest.clone(), size: d.size, kind };
    let blobs = parsed.blobs().map(child(Kind::Blob));
    let manifests = parsed.manifests.iter().map(child(Kind::Manifest));
    Facts {
        media_type: parsed.media_type.clone(),
        artifact_type: parsed.artifact_type.clone(),
        subject: parsed.subject.as_ref().map(|subject| (subject.digest.clone(), subject.size)),
        annotations: parsed.annotations.as_ref().map(|annotations| annotations.get().to_owned()),
        children: blobs.chain(manifests).collect(),
    }
}

/// The manifests of an index that `platforms` run, with what attests to them; all of them where none is given.
pub fn chosen<'a>(parsed: &'a ParsedManifest, platforms: &[Platform]) -> Vec<&'a Descriptor> {
    if platforms.is_empty() {
        return parsed.manifests.iter().collect();
    }
    let runs = |d: &Descriptor| match &d.platform {
        Some(theirs) => platforms.iter().any(|mine| mine.rank(theirs).is_some()),
        // What names no platform, such as an artifact, is for all.
        None => true,
    };
    let kept: Vec<&Digest> = parsed.manifests.iter().filter(|d| runs(d)).map(|d| &d.digest).collect();
    let attests = |d: &Descriptor| {
        let about = d.annotations.get(ABOUT).and_then(|text| text.parse::<Digest>().ok());
        about.is_some_and(|about| kept.contains(&&about))
    };
    parsed.manifests.iter().filter(|d| runs(d) || attests(d)).collect()
}
