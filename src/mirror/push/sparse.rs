//! An index of which some images are not here, as one for this machine's platform alone is. Edge's own registry takes it
//! as it is; most others take an index only with all that it lists, and get what is here of it instead. Pure.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::mirror::error::Failure;
use crate::mirror::image::Known;
use crate::oci::{Descriptor, Platform};
use crate::sys::digest::Digest;

/// What goes under the tag in place of an index.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Instead {
    pub(super) media_type: String,
    pub(super) bytes: Bytes,
    /// What that is, for people.
    pub(super) note: String,
}

/// What an index lists of which nothing is `here`.
fn missing<'a>(index: &'a Known, here: &BTreeSet<&Digest>) -> Vec<&'a Descriptor> {
    index.parsed.manifests.iter().filter(|child| !here.contains(&child.digest)).collect()
}

/// Whether that is something.
pub(super) fn is_sparse(index: &Known, here: &BTreeSet<&Digest>) -> bool {
    !missing(index, here).is_empty()
}

/// What can be sent where the registry took no part of an index for the whole, which it said with `refusal`: the image
/// that is here, or an index of those that are. `children` are the manifests below it.
///
/// # Errors
/// Where nothing can: a digest stands for all of it.
pub(super) fn instead(
    index: &Known,
    children: &[Known],
    name: &str,
    refusal: &Failure,
) -> Result<Instead, Failure> {
    let here: BTreeSet<&Digest> = children.iter().map(|known| &known.digest).collect();
    let platforms: BTreeSet<String> =
        missing(index, &here).into_iter().filter_map(runs).map(Platform::to_string).collect();
    let platforms = platforms.into_iter().collect::<Vec<_>>().join(", ");
    let kept: Vec<&Descriptor> =
        index.parsed.manifests.iter().filter(|child| here.contains(&child.digest)).collect();
    if name.contains(':') || kept.is_empty() {
        let why = format!(
            "{refusal}: what it lists is not all here ({platforms}) hint: mirror it with `platforms = [\"all\"]`"
        );
        return Err(Failure::Manifest(why));
    }
    let images: Vec<&&Descriptor> = kept.iter().filter(|child| runs(child).is_some()).collect();
    let only = match images[..] {
        [image] => children.iter().find(|known| known.digest == image.digest),
        _ => None,
    };
    let note = format!("without {platforms}: the registry takes an index only with all that it lists");
    if let Some(only) = only {
        let (media_type, bytes) = (only.parsed.media_type.clone(), only.bytes.clone());
        return Ok(Instead { media_type, bytes, note });
    }
    let unreadable = |e: serde_json::Error| Failure::Manifest(e.to_string());
    let mut text: serde_json::Value = serde_json::from_slice(&index.bytes).map_err(unreadable)?;
    if let Some(listed) = text["manifests"].as_array_mut() {
        listed.retain(|child| {
            child["digest"].as_str().is_some_and(|digest| here.iter().any(|one| one.as_str() == digest))
        });
    }
    let bytes = serde_json::to_vec(&text).map_err(unreadable)?.into();
    Ok(Instead { media_type: index.parsed.media_type.clone(), bytes, note })
}

/// The platform of an image; of what attests to one, none.
fn runs(child: &Descriptor) -> Option<&Platform> {
    child.platform.as_ref().filter(|platform| platform.os != "unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{ParsedManifest, media};

    fn known(text: &serde_json::Value) -> Known {
        let bytes: Bytes = text.to_string().into();
        let parsed = ParsedManifest::parse(&bytes, "").unwrap();
        Known::of(Digest::sha256(&bytes), bytes, parsed)
    }

    #[test]
    fn what_is_here_goes_in_place_of_an_index_that_is_not_all_here() {
        let image = |n: u8| {
            known(&serde_json::json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "layers": [],
                "config": {"mediaType": "c", "digest": Digest::sha256(&[n]), "size": 1}}))
        };
        let images = [image(0), image(1), image(2), image(3)];
        let platforms = [("linux", "amd64"), ("linux", "arm64"), ("linux", "s390x"), ("unknown", "unknown")];
        let listed: Vec<_> = images
            .iter()
            .zip(platforms)
            .map(|(one, (os, architecture))| {
                serde_json::json!({"mediaType": media::OCI_MANIFEST, "digest": one.digest, "size": one.bytes.len(),
                    "platform": {"os": os, "architecture": architecture}})
            })
            .collect();
        let index = known(&serde_json::json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX,
            "manifests": listed, "annotations": {"a": "b"}}));
        let refusal = Failure::Manifest("answered 400".into());
        let all: BTreeSet<&Digest> = images.iter().map(|known| &known.digest).collect();
        assert!(!is_sparse(&index, &all) && is_sparse(&index, &BTreeSet::new()));

        // One image, with what attests to it: the image itself, whose digest others know.
        let one = instead(&index, &[images[1].clone(), images[3].clone()], "1.0", &refusal).unwrap();
        assert_eq!((one.bytes, one.media_type.as_str()), (images[1].bytes.clone(), media::OCI_MANIFEST));
        assert!(one.note.starts_with("without linux/amd64, linux/s390x: "), "{}", one.note);
        // Several: an index of them, with all else that the whole one says.
        let some = instead(&index, &[images[0].clone(), images[2].clone()], "1.0", &refusal).unwrap();
        let read = ParsedManifest::parse(&some.bytes, &some.media_type).unwrap();
        let listed: Vec<&Digest> = read.manifests.iter().map(|child| &child.digest).collect();
        assert_eq!(listed, [&images[0].digest, &images[2].digest]);
        assert!(read.annotations.is_some() && some.note.starts_with("without linux/arm64: "));
        for (children, name) in [(&images[..1], index.digest.as_str()), (&[][..], "1.0")] {
            let why = instead(&index, children, name, &refusal).unwrap_err().to_string();
            assert!(why.starts_with("answered 400: what it lists is not all here (linux/"), "{why}");
        }
    }
}
