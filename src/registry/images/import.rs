//! Images from archives into the store.

use serde::Serialize;

use super::ImageError;
use super::plan::{Plan, Wanted};
use crate::oci::{Archive, Reference};
use crate::store::{Absent, NewManifest, Owner, Store};
use crate::sys::digest::Digest;
use crate::sys::progress::{Progress, Unit};

/// An image that was brought in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Its full name.
    pub name: String,
    /// What it stands for.
    pub digest: Digest,
}

/// Brings all images of an archive in. `name` is for what has none in the archive, or only a tag. Nothing has a new name
/// before all of it is here.
///
/// # Errors
/// [`ImageError`]; an archive whose bytes are not what their digests say is refused.
pub fn import(
    store: &Store,
    archive: &Archive,
    name: Option<&str>,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Vec<Imported>, ImageError> {
    let _hold = store.hold();
    let mut brought = Vec::new();
    for (written, descriptor) in &archive.images {
        let reference = named(written.as_deref(), name, archive.images.len())?;
        let full = reference.to_string();
        let media_type = &descriptor.media_type;
        let plan =
            Plan::make(&descriptor.digest, media_type, wanted, |digest| Ok(archive.manifest(digest)?))?;
        plan.refuse_empty(&full, wanted)?;
        blobs(store, archive, &plan, &full, progress)?;
        brought.push((reference, plan));
    }
    let mut imported = Vec::new();
    for (reference, plan) in brought {
        let digest = keep(store, &reference, plan)?;
        imported.push(Imported { name: reference.to_string(), digest });
    }
    Ok(imported)
}

/// What an image of an archive is called here.
fn named(written: Option<&str>, given: Option<&str>, images: usize) -> Result<Reference, ImageError> {
    // A text without a slash and a colon can only be a tag: archives that name images name them in full.
    let full = written.filter(|name| name.contains(['/', ':']));
    match (given, full) {
        (None, Some(full)) => Ok(full.parse()?),
        (None, None) => Err(ImageError::Nameless(match written {
            Some(tag) => format!("an image of the archive has only the tag `{tag}`"),
            None => "an image of the archive has no name".into(),
        })),
        (Some(given), _) => {
            let tagged = given.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
            let tag = written.map(|written| written.rsplit(':').next().unwrap_or(written));
            if !tagged && let Some(tag) = tag {
                return Ok(format!("{given}:{tag}").parse()?);
            }
            if images > 1 {
                let why = format!("the archive holds {images} images, which cannot all be `{given}`;");
                return Err(ImageError::Nameless(why));
            }
            Ok(given.parse()?)
        }
    }
}

/// Stores the blobs that are not here yet.
fn blobs(
    store: &Store,
    archive: &Archive,
    plan: &Plan,
    name: &str,
    progress: &Progress,
) -> Result<(), ImageError> {
    let mut item = progress.item(name, Some(plan.bytes()), Unit::Bytes);
    for (digest, size) in &plan.blobs {
        if store.blob(None, digest)?.is_some() {
            item.add(*size);
            continue;
        }
        let Some((size, mut reader)) = archive.blob(digest)? else {
            return Err(ImageError::Missing(digest.clone()));
        };
        let mut upload = store.begin_upload(digest.algorithm(), size)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = match std::io::Read::read(&mut reader, &mut buffer) {
                Ok(read) => read,
                Err(e) => {
                    upload.cancel();
                    return Err(crate::store::Error::from(e).into());
                }
            };
            if read == 0 {
                break;
            }
            if let Err(e) = upload.write(&buffer[..read]) {
                upload.cancel();
                return Err(e.into());
            }
            item.add(read as u64);
        }
        upload.commit(digest, None)?;
    }
    item.done();
    Ok(())
}

/// Stores the manifests of a plan whose blobs are here, and names the last one.
pub(super) fn keep(store: &Store, reference: &Reference, mut plan: Plan) -> Result<Digest, ImageError> {
    let Some(root) = plan.manifests.pop() else { return Err(ImageError::Ended) };
    for child in &plan.manifests {
        store.add_manifest(&child.bytes, &child.digest, child.parsed.facts())?;
    }
    let repository = reference.repository();
    // A name with a digest and without a tag is kept under its digest.
    let tag = match (&reference.tag, &reference.digest) {
        (Some(tag), _) => Some(tag.as_str()),
        (None, Some(_)) => None,
        (None, None) => Some("latest"),
    };
    store.put_manifest(NewManifest {
        repository: &repository,
        tag,
        bytes: &root.bytes,
        digest: &root.digest,
        facts: root.parsed.facts(),
        owner: Owner::Push,
        absent: Absent::Refused,
        asked: true,
    })?;
    Ok(root.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_called_as_the_archive_says_unless_told_otherwise() {
        let name = |written, given, images| named(written, given, images).map(|name| name.to_string());
        for (written, given, full) in [
            (Some("docker.io/library/a:1"), None, "docker.io/library/a:1"),
            (Some("a:1"), None, "docker.io/library/a:1"),
            (Some("1.2"), Some("q.io/a"), "q.io/a:1.2"),
            (Some("1.2"), Some("q.io/a:9"), "q.io/a:9"),
            (Some("docker.io/library/a:1"), Some("q.io/b"), "q.io/b:1"),
            (None, Some("q.io/a"), "q.io/a:latest"),
        ] {
            assert_eq!(name(written, given, 1).unwrap(), full);
        }
        assert!(name(Some("1.2"), None, 1).unwrap_err().to_string().contains("--name"));
        assert!(name(None, None, 1).is_err());
        assert!(name(None, Some("q.io/a:1"), 2).is_err());
    }
}
