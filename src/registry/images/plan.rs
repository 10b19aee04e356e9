//! What belongs to an image: its manifests, children first, and their blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::ImageError;
use crate::oci::{Descriptor, LARGEST_IMAGE, ParsedManifest, Platform};
use crate::sys::digest::Digest;

/// Indexes within indexes that are looked into.
const DEEPEST: usize = 4;

/// Which images of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All that are there.
    All,
    /// Those that machines of these platforms run best.
    Platforms(Vec<Platform>),
}

impl Wanted {
    /// Those of this machine.
    pub fn here() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", ""),
            "arm" => ("arm", "v7"),
            other => (other, ""),
        };
        let platform =
            Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.into() };
        Self::Platforms(vec![platform])
    }

    /// The manifests of an index that are wanted, with what attests them.
    pub(super) fn of<'a>(&self, index: &'a ParsedManifest) -> Vec<&'a Descriptor> {
        let Self::Platforms(platforms) = self else { return index.manifests.iter().collect() };
        let chosen: Vec<&Digest> =
            platforms.iter().filter_map(|platform| index.choose(platform)).map(|d| &d.digest).collect();
        let attests = |d: &Descriptor| {
            let about = d.annotations.get("vnd.docker.reference.digest");
            about.is_some_and(|about| chosen.iter().any(|digest| digest.as_str() == about))
        };
        index.manifests.iter().filter(|d| chosen.contains(&&d.digest) || attests(d)).collect()
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("any platform"),
            Self::Platforms(platforms) => {
                let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
                f.write_str(&names.join(", "))
            }
        }
    }
}

/// A manifest of a plan.
pub(super) struct Planned {
    pub(super) digest: Digest,
    pub(super) bytes: Vec<u8>,
    pub(super) parsed: ParsedManifest,
}

/// All that belongs to an image.
#[derive(Default)]
pub(super) struct Plan {
    /// Children before those that link to them; the last is the image itself.
    pub(super) manifests: Vec<Planned>,
    /// With the size that manifests give.
    pub(super) blobs: BTreeMap<Digest, u64>,
    /// Manifests that were asked for: each comes once, however many descriptors name it.
    asked: BTreeSet<Digest>,
    /// Bytes of those that came.
    taken: usize,
}

impl Plan {
    /// Adds a manifest that lies in `depth` indexes, and says which others it asks for that nobody asked for yet.
    pub(super) fn take(
        &mut self,
        digest: &Digest,
        media_type: &str,
        bytes: Vec<u8>,
        depth: usize,
        wanted: &Wanted,
    ) -> Result<Vec<Descriptor>, ImageError> {
        self.taken += bytes.len();
        if self.taken > LARGEST_IMAGE {
            return Err(ImageError::TooLarge(digest.clone(), LARGEST_IMAGE));
        }
        let parsed = ParsedManifest::parse(&bytes, media_type)
            .map_err(|source| ImageError::Manifest { digest: digest.clone(), source })?;
        if depth >= DEEPEST && parsed.is_index() {
            return Err(ImageError::TooDeep(digest.clone()));
        }
        self.blobs.extend(parsed.blobs().map(|blob| (blob.digest.clone(), blob.size)));
        let new = wanted.of(&parsed).into_iter().filter(|child| self.asked.insert(child.digest.clone()));
        let children: Vec<Descriptor> = new.cloned().collect();
        self.manifests.push(Planned { digest: digest.clone(), bytes, parsed });
        Ok(children)
    }

    /// Puts children before parents once all were taken, each parent before its children.
    pub(super) fn children_first(&mut self) {
        self.manifests.reverse();
    }

    /// The manifest that was asked for.
    pub(super) fn root(&self) -> Option<&Planned> {
        self.manifests.last()
    }

    /// Bytes of all blobs.
    pub(super) fn bytes(&self) -> u64 {
        self.blobs.values().sum()
    }

    /// Makes the plan by asking `read` for manifests; a child that is not there is left out.
    pub(super) fn make(
        digest: &Digest,
        media_type: &str,
        wanted: &Wanted,
        mut read: impl FnMut(&Digest) -> Result<Option<Vec<u8>>, ImageError>,
    ) -> Result<Self, ImageError> {
        let mut plan = Self::default();
        let mut waiting = vec![(digest.clone(), media_type.to_owned(), 0)];
        while let Some((digest, media_type, depth)) = waiting.pop() {
            let Some(bytes) = read(&digest)? else {
                if depth == 0 {
                    return Err(ImageError::Missing(digest));
                }
                continue;
            };
            let children = plan.take(&digest, &media_type, bytes, depth, wanted)?;
            waiting.extend(children.into_iter().map(|d| (d.digest, d.media_type, depth + 1)));
        }
        plan.children_first();
        Ok(plan)
    }

    /// Refuses an index of which nothing is left.
    pub(super) fn refuse_empty(&self, name: &str, wanted: &Wanted) -> Result<(), ImageError> {
        match self.root() {
            Some(root) if root.parsed.is_index() && self.manifests.len() == 1 => {
                let has: Vec<String> = root
                    .parsed
                    .manifests
                    .iter()
                    .filter_map(|d| d.platform.as_ref().map(ToString::to_string))
                    .collect();
                let has = if has.is_empty() { "none that is here".into() } else { has.join(", ") };
                Err(ImageError::Platform { name: name.into(), wanted: wanted.to_string(), has })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media;

    /// An index of these, `times` each.
    fn index(children: &[&Vec<u8>], times: usize) -> Vec<u8> {
        let one = |bytes: &&Vec<u8>| {
            let digest = Digest::sha256(bytes);
            serde_json::json!({"mediaType": "", "digest": digest, "size": bytes.len()})
        };
        let all: Vec<_> = children.iter().flat_map(|bytes| std::iter::repeat_n(one(bytes), times)).collect();
        let text = serde_json::json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": all});
        text.to_string().into_bytes()
    }

    fn image(padding: usize, name: usize) -> Vec<u8> {
        let config = serde_json::json!({"mediaType": "c", "digest": Digest::sha256(b"{}"), "size": 2});
        let text = serde_json::json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": config,
            "layers": [], "annotations": {"name": name.to_string(), "padding": " ".repeat(padding)}});
        text.to_string().into_bytes()
    }

    /// The plan of the last of these, and how often each was read.
    fn plan(all: &[Vec<u8>]) -> (Result<Plan, ImageError>, BTreeMap<Digest, usize>) {
        let mut reads = BTreeMap::new();
        let plan = Plan::make(&Digest::sha256(all.last().unwrap()), "", &Wanted::All, |digest| {
            *reads.entry(digest.clone()).or_default() += 1;
            Ok(all.iter().find(|bytes| Digest::sha256(bytes) == *digest).cloned())
        });
        (plan, reads)
    }

    #[test]
    fn a_manifest_that_ten_thousand_descriptors_name_comes_once() {
        let image = image(1000, 0);
        let (made, reads) = plan(&[image.clone(), index(&[&image], 10_000)]);
        assert_eq!(made.unwrap().manifests.len(), 2);
        assert_eq!(reads.values().copied().collect::<Vec<usize>>(), [1, 1]);
        // In several indexes it comes once too, before the image that all is about.
        let (one, other) = (index(&[&image], 1), index(&[&image], 2));
        let (made, reads) = plan(&[image.clone(), one.clone(), other.clone(), index(&[&one, &other], 3)]);
        assert_eq!((made.unwrap().manifests.len(), reads.len()), (4, 4));
        assert!(reads.values().all(|times| *times == 1), "{reads:?}");
    }

    #[test]
    fn what_would_fill_the_memory_is_refused() {
        let mut all: Vec<Vec<u8>> = (0..8).map(|name| image((4 << 20) - 1000, name)).collect();
        let few = index(&all.iter().take(3).collect::<Vec<_>>(), 1);
        all.push(few);
        assert_eq!(plan(&all).0.unwrap().manifests.len(), 4);
        all.pop();
        all.push(index(&all.iter().collect::<Vec<_>>(), 1));
        let (refused, reads) = plan(&all);
        assert!(matches!(refused, Err(ImageError::TooLarge(..))), "{:?}", refused.err());
        assert_eq!(reads.len(), 6, "nothing is read after that");

        let mut nested = vec![image(0, 0)];
        for _ in 0..DEEPEST {
            nested.push(index(&[nested.last().unwrap()], 1));
        }
        assert_eq!(plan(&nested).0.unwrap().manifests.len(), DEEPEST + 1);
        nested.push(index(&[nested.last().unwrap()], 1));
        assert!(matches!(plan(&nested).0, Err(ImageError::TooDeep(_))));
    }
}
