//! The walk from an image to all manifests below it, within bounds that no stranger's index exceeds.

use std::collections::BTreeSet;

use super::manifest::{Descriptor, LARGEST_IMAGE, ParsedManifest};
use crate::sys::digest::Digest;

/// Indexes within indexes that are looked into.
pub const DEEPEST: usize = 4;

/// Why a walk ends before its end.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Boundless {
    /// Indexes in indexes in indexes.
    #[error("`{0}` is not taken: its indexes lie too deep in one another")]
    TooDeep(Digest),
    /// Manifests that would fill the memory.
    #[error(
        "`{0}` is not taken: the manifests of this image have more than {LARGEST_IMAGE} bytes hint: take fewer of its platforms"
    )]
    TooLarge(Digest),
}

/// A manifest that the walk asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub digest: Digest,
    /// As its parent says; empty if nobody said.
    pub media_type: String,
    /// Indexes that it lies in.
    pub depth: usize,
}

/// A walk: who goes on it reads what [`Walk::next`] asks for, and says with [`Walk::follow`] where it goes from
/// there. Each manifest is asked for once, however many descriptors name it, and parents come before their children.
#[derive(Clone, Debug)]
pub struct Walk {
    waiting: Vec<Step>,
    asked: BTreeSet<Digest>,
    /// Bytes of the manifests that were read.
    bytes: usize,
}

impl Walk {
    /// From this image on.
    pub fn of(digest: Digest, media_type: &str) -> Self {
        let asked = BTreeSet::from([digest.clone()]);
        Self { waiting: vec![Step { digest, media_type: media_type.to_owned(), depth: 0 }], asked, bytes: 0 }
    }

    /// The next manifest to read.
    #[expect(clippy::should_implement_trait, reason = "what comes depends on what was read of the last")]
    pub fn next(&mut self) -> Option<Step> {
        self.waiting.pop()
    }

    /// Takes what was read for a step, of `bytes`, and goes on with these `children` of it.
    ///
    /// # Errors
    /// [`Boundless`]; the walk is to be given up then.
    pub fn follow<'a>(
        &mut self,
        step: &Step,
        bytes: usize,
        parsed: &ParsedManifest,
        children: impl IntoIterator<Item = &'a Descriptor>,
    ) -> Result<(), Boundless> {
        self.bytes += bytes;
        if self.bytes > LARGEST_IMAGE {
            return Err(Boundless::TooLarge(step.digest.clone()));
        }
        if parsed.is_index() && step.depth >= DEEPEST {
            return Err(Boundless::TooDeep(step.digest.clone()));
        }
        let new = children.into_iter().filter(|child| self.asked.insert(child.digest.clone()));
        self.waiting.extend(new.map(|child| Step {
            digest: child.digest.clone(),
            media_type: child.media_type.clone(),
            depth: step.depth + 1,
        }));
        Ok(())
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

    /// What was read on the walk from the last of these, and how it ended.
    fn walked(all: &[Vec<u8>]) -> (Vec<Digest>, Result<(), Boundless>) {
        let mut walk = Walk::of(Digest::sha256(all.last().unwrap()), "");
        let mut read = Vec::new();
        while let Some(step) = walk.next() {
            let bytes = all.iter().find(|bytes| Digest::sha256(bytes) == step.digest).unwrap();
            let parsed = ParsedManifest::parse(bytes, &step.media_type).unwrap();
            read.push(step.digest.clone());
            if let Err(error) = walk.follow(&step, bytes.len(), &parsed, &parsed.manifests) {
                return (read, Err(error));
            }
        }
        (read, Ok(()))
    }

    #[test]
    fn a_manifest_that_ten_thousand_descriptors_name_comes_once() {
        let image = image(1000, 0);
        let top = index(&[&image], 10_000);
        let (read, end) = walked(&[image.clone(), top.clone()]);
        assert_eq!((read, end), (vec![Digest::sha256(&top), Digest::sha256(&image)], Ok(())));
        let (one, other) = (index(&[&image], 1), index(&[&image], 2));
        let (mut read, end) = walked(&[image.clone(), one.clone(), other.clone(), index(&[&one, &other], 3)]);
        assert_eq!((read.len(), end), (4, Ok(())));
        read.sort();
        read.dedup();
        assert_eq!(read.len(), 4);
    }

    #[test]
    fn what_would_fill_the_memory_is_refused() {
        let mut all: Vec<Vec<u8>> = (0..8).map(|name| image((4 << 20) - 1000, name)).collect();
        all.push(index(&all.iter().take(3).collect::<Vec<_>>(), 1));
        assert_eq!(walked(&all).1, Ok(()));
        all.pop();
        all.push(index(&all.iter().collect::<Vec<_>>(), 1));
        let (read, end) = walked(&all);
        let last = read[5].clone();
        assert_eq!((read.len(), end), (6, Err(Boundless::TooLarge(last))), "nothing is read after that");
    }

    #[test]
    fn indexes_lie_in_one_another_so_deep_and_no_deeper() {
        let mut nested = vec![image(0, 0)];
        for _ in 0..DEEPEST {
            nested.push(index(&[nested.last().unwrap()], 1));
        }
        assert_eq!(walked(&nested).1, Ok(()));
        nested.push(index(&[nested.last().unwrap()], 1));
        assert_eq!(walked(&nested).1, Err(Boundless::TooDeep(Digest::sha256(&nested[1]))));
    }
}
