//! One image: what its tag stands for upstream, what of it is missing here, and fetching that in an order in which
//! nothing ever points at what is not there: blobs, images, index; what is attached to them comes last.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::error::Failure;
use super::fetch::{Source, Wire};
use super::plan::Terms;
use crate::oci::{Descriptor, ParsedManifest, Walk, media};
use crate::sys::digest::Digest;

/// Blobs of one image that are fetched at the same time; the run's own limit goes before.
const BLOBS: usize = 16;

/// A manifest, here or on its way.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
    pub(super) parsed: ParsedManifest,
    /// Whether it is in the store.
    here: bool,
}

impl Known {
    #[cfg(test)]
    pub(super) fn of(digest: Digest, bytes: Bytes, parsed: ParsedManifest) -> Self {
        Self { digest, bytes, parsed, here: true }
    }
}

/// All of an image that is wanted, and what of that is not here.
#[derive(Clone, Debug)]
pub(super) struct Closure {
    /// Children before their parents; the image itself is the last.
    pub(super) manifests: Vec<Known>,
    /// Blobs that are not here.
    pub(super) missing: Vec<Descriptor>,
}

impl Closure {
    /// What has to travel, in bytes each.
    pub(super) fn coming(&self) -> impl Iterator<Item = (&Digest, u64)> {
        let manifests = self.manifests.iter().filter(|known| !known.here);
        let manifests = manifests.map(|known| (&known.digest, known.bytes.len() as u64));
        self.missing.iter().map(|blob| (&blob.digest, blob.size)).chain(manifests)
    }

    /// Whether all of it is here.
    pub(super) fn is_here(&self) -> bool {
        self.missing.is_empty() && self.manifests.iter().all(|known| known.here)
    }

    /// Bytes of all of it.
    pub(super) fn size(&self) -> u64 {
        let mut seen = BTreeSet::new();
        let blobs = self.manifests.iter().flat_map(|known| known.parsed.blobs());
        let blobs: u64 = blobs.filter(|blob| seen.insert(blob.digest.clone())).map(|blob| blob.size).sum();
        blobs + self.manifests.iter().map(|known| known.bytes.len() as u64).sum::<u64>()
    }
}

/// What an upstream's tag stands for.
pub(super) async fn resolve(wire: &Wire, source: &Source, name: &str) -> Result<Digest, Failure> {
    if let Ok(digest) = name.parse() {
        return Ok(digest);
    }
    let host = &source.upstream.host;
    let head = wire
        .ask(host, async || wire.client.head_manifest(&source.upstream, &source.path, name).await)
        .await?;
    match head.digest {
        Some(digest) => Ok(digest),
        // A registry that does not say it has to be asked for the whole.
        None => {
            let ask = async || wire.client.manifest(&source.upstream, &source.path, name).await;
            Ok(wire.ask(host, ask).await?.digest)
        }
    }
}

/// What belongs to an image. With `local`, nobody is asked: a manifest that is not here is a failure.
pub(super) async fn closure(
    wire: &Wire,
    source: Option<&Source>,
    digest: &Digest,
    terms: &Terms,
) -> Result<Closure, Failure> {
    let mut closure = Closure { manifests: Vec::new(), missing: Vec::new() };
    let mut walk = Walk::of(digest.clone(), "");
    while let Some(step) = walk.next() {
        let known = manifest(wire, source, &step.digest).await?;
        walk.follow(&step, known.bytes.len(), &known.parsed, children(&known.parsed, terms)?)?;
        closure.manifests.push(known);
    }
    // Parents were met before their children.
    closure.manifests.reverse();
    let mut met = BTreeSet::new();
    for known in &closure.manifests {
        for blob in known.parsed.blobs() {
            if met.insert(blob.digest.clone()) && !wire.has(&blob.digest).await? {
                closure.missing.push(blob.clone());
            }
        }
    }
    Ok(closure)
}

/// The images of an index that the platforms need, with the attestations that are about them.
fn children<'a>(index: &'a ParsedManifest, terms: &Terms) -> Result<Vec<&'a Descriptor>, Failure> {
    // An index of something that runs nowhere, such as one of charts or of attachments, is taken whole.
    let placed =
        index.manifests.iter().any(|child| child.platform.as_ref().is_some_and(|p| p.os != "unknown"));
    if terms.platforms.is_empty() || !placed {
        return Ok(index.manifests.iter().collect());
    }
    let chosen = index.for_platforms(&terms.platforms);
    if chosen.is_empty() {
        let list = |platforms: Vec<String>| platforms.join(", ");
        let there = index.manifests.iter().filter_map(|child| child.platform.as_ref());
        return Err(Failure::Platform {
            wanted: list(terms.platforms.iter().map(ToString::to_string).collect()),
            there: list(there.filter(|p| p.os != "unknown").map(ToString::to_string).collect()),
        });
    }
    Ok(chosen)
}

/// A manifest that is here and whole.
pub(super) async fn here(wire: &Wire, digest: &Digest) -> Result<Option<Known>, Failure> {
    let wanted = digest.clone();
    let found = wire
        .blocking(move |store| {
            let Some(found) = store.manifest_of(&wanted)? else { return Ok(None) };
            Ok(found.blob.intact()?.map(|bytes| (bytes, found.media_type)))
        })
        .await?;
    let Some((bytes, media_type)) = found else { return Ok(None) };
    let parsed = ParsedManifest::parse(&bytes, &media_type)?;
    Ok(Some(Known { digest: digest.clone(), bytes: bytes.into(), parsed, here: true }))
}

/// A manifest that is here, or else from the source.
pub(super) async fn manifest(
    wire: &Wire,
    source: Option<&Source>,
    digest: &Digest,
) -> Result<Known, Failure> {
    if let Some(known) = here(wire, digest).await? {
        return Ok(known);
    }
    let Some(source) = source else {
        let why = format!("`{digest}` is not here");
        return Err(Failure::Upstream { why, unreachable: false, absent: true });
    };
    let ask = async || wire.client.manifest(&source.upstream, &source.path, digest.as_str()).await;
    let fetched = wire.ask(&source.upstream.host, ask).await?;
    wire.note(fetched.bytes.len());
    let parsed = ParsedManifest::parse(&fetched.bytes, &fetched.media_type)?;
    Ok(Known { digest: digest.clone(), bytes: fetched.bytes, parsed, here: false })
}

/// Fetches what is missing, blobs first.
pub(super) async fn fetch(wire: &Wire, source: &Source, closure: &Closure, of: &str) -> Result<(), Failure> {
    // Smallest first would leave the long one for last.
    let mut missing: Vec<&Descriptor> = closure.missing.iter().collect();
    missing.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    stream::iter(missing.into_iter().map(|blob| wire.blob(source, blob, of)))
        .buffer_unordered(BLOBS)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    for known in closure.manifests.iter().filter(|known| !known.here) {
        let (bytes, digest, facts) = (known.bytes.clone(), known.digest.clone(), known.parsed.facts());
        wire.blocking(move |store| store.add_manifest(&bytes, &digest, facts)).await?;
    }
    Ok(())
}

/// The images of an index that were fetched for it, and itself: what signatures may be about.
pub(super) fn subjects(closure: &Closure) -> Vec<Digest> {
    let images = closure.manifests.iter().filter(|known| {
        let index = matches!(known.parsed.media_type.as_str(), media::OCI_INDEX | media::DOCKER_LIST);
        index || known.parsed.subject.is_none()
    });
    images.map(|known| known.digest.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(children: &[(&str, &str, Option<usize>)]) -> ParsedManifest {
        let digest = |at: usize| Digest::sha256(&[u8::try_from(at).unwrap()]);
        let manifests: Vec<serde_json::Value> = children
            .iter()
            .enumerate()
            .map(|(at, (os, architecture, about))| {
                let mut child = serde_json::json!({"mediaType": media::OCI_MANIFEST, "size": 1, "digest": digest(at),
                    "platform": {"os": os, "architecture": architecture}});
                if let Some(about) = about {
                    child["annotations"] = serde_json::json!({"vnd.docker.reference.digest": digest(*about)});
                }
                child
            })
            .collect();
        let text =
            serde_json::json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": manifests});
        ParsedManifest::parse(text.to_string().as_bytes(), "").unwrap()
    }

    #[test]
    fn attestations_come_with_the_platforms_that_are_wanted() {
        let unknown = "unknown";
        let parsed = index(&[
            ("linux", "amd64", None),
            ("linux", "arm64", None),
            (unknown, unknown, Some(0)),
            (unknown, unknown, Some(1)),
        ]);
        let digest = |at: u8| Digest::sha256(&[at]);
        let terms = |platforms: &[&str]| Terms {
            platforms: platforms.iter().map(|p| p.parse().unwrap()).collect(),
            ..Terms::default()
        };
        let chosen = children(&parsed, &terms(&["linux/arm64"])).unwrap();
        assert_eq!(chosen.iter().map(|child| &child.digest).collect::<Vec<_>>(), [&digest(1), &digest(3)]);
        assert_eq!(children(&parsed, &terms(&[])).unwrap().len(), 4);
        let failure = children(&parsed, &terms(&["linux/riscv64"])).unwrap_err().to_string();
        assert_eq!(failure, "it has no image for linux/riscv64, only for linux/amd64, linux/arm64");
    }
}
