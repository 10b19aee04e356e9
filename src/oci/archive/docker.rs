//! What `docker save` writes: a manifest.json that names a configuration and layers by their path.

use std::io::Read;

use serde::Deserialize;
use serde_json::json;

use super::{Archive, ArchiveError};
use crate::oci::manifest::{Descriptor, media};
use crate::sys::digest::{Algorithm, Digest, Hasher};

/// Layers that one image may have.
const MOST_LAYERS: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// Makes a manifest for each image, and notes where its blobs lie.
pub(super) fn read(archive: &mut Archive, text: &[u8]) -> Result<(), ArchiveError> {
    let images: Vec<Image> = serde_json::from_slice(text)
        .map_err(|e| archive.wrong(format!("has a manifest.json that cannot be read: {e}")))?;
    for image in images {
        if image.layers.len() > MOST_LAYERS {
            return Err(archive.wrong(format!("holds an image of more than {MOST_LAYERS} layers")));
        }
        let config = note(archive, &image.config)?;
        let mut layers = Vec::new();
        for path in &image.layers {
            let layer = note(archive, path)?;
            let packed = if layer.packed { "+gzip" } else { "" };
            layers.push(json!({
                "mediaType": format!("application/vnd.oci.image.layer.v1.tar{packed}"),
                "digest": layer.digest, "size": layer.size,
            }));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.digest, "size": config.size,
            },
            "layers": layers,
        });
        let bytes = manifest.to_string().into_bytes();
        let digest = Digest::sha256(&bytes);
        let descriptor = Descriptor {
            media_type: media::OCI_MANIFEST.into(),
            digest: digest.clone(),
            size: bytes.len() as u64,
            artifact_type: None,
            platform: None,
            urls: Vec::new(),
            annotations: Default::default(),
        };
        archive.made.insert(digest, bytes);
        let names = image.repo_tags.unwrap_or_default();
        if names.is_empty() {
            archive.images.push((None, descriptor.clone()));
        }
        archive.images.extend(names.into_iter().map(|name| (Some(name), descriptor.clone())));
    }
    Ok(())
}

struct Noted {
    digest: Digest,
    size: u64,
    packed: bool,
}

/// Hashes a file of the archive, and notes that its digest lies there.
fn note(archive: &mut Archive, path: &str) -> Result<Noted, ArchiveError> {
    let failed = |source| ArchiveError::Io { path: archive.path.clone(), source };
    let Some((size, mut reader)) = archive.source.read(path).map_err(failed)? else {
        return Err(archive.wrong(format!("lacks `{path}`, which its manifest.json names")));
    };
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    let mut packed = None;
    loop {
        let read = reader.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        packed = packed.or(Some(buffer.starts_with(&[0x1f, 0x8b])));
        hasher.update(&buffer[..read]);
    }
    drop(reader);
    let digest = hasher.finish();
    archive.places.insert(digest.clone(), path.to_owned());
    Ok(Noted { digest, size, packed: packed.unwrap_or(false) })
}
