//! What belongs to an image: its manifests, children first, and their blobs.

use std::collections::BTreeMap;
use std::fmt;

use super::ImageError;
use crate::oci::{Descriptor, ParsedManifest, Platform, Step, Walk};
use crate::sys::digest::Digest;

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
        match self {
            Self::All => index.manifests.iter().collect(),
            Self::Platforms(platforms) => index.for_platforms(platforms),
        }
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
}

impl Plan {
    /// Adds the manifest that was read for a step of `walk`, which goes on with what is wanted of it.
    pub(super) fn take(
        &mut self,
        walk: &mut Walk,
        step: Step,
        bytes: Vec<u8>,
        wanted: &Wanted,
    ) -> Result<(), ImageError> {
        let parsed = ParsedManifest::parse(&bytes, &step.media_type)
            .map_err(|source| ImageError::Manifest { digest: step.digest.clone(), source })?;
        walk.follow(&step, bytes.len(), &parsed, wanted.of(&parsed))?;
        self.blobs.extend(parsed.blobs().map(|blob| (blob.digest.clone(), blob.size)));
        self.manifests.push(Planned { digest: step.digest, bytes, parsed });
        Ok(())
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
        let (mut plan, mut walk) = (Self::default(), Walk::of(digest.clone(), media_type));
        while let Some(step) = walk.next() {
            match read(&step.digest)? {
                Some(bytes) => plan.take(&mut walk, step, bytes, wanted)?,
                None if step.depth == 0 => return Err(ImageError::Missing(step.digest)),
                None => {}
            }
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
