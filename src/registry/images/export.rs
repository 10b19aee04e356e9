//! Images from the store into archives.

use std::path::Path;

use serde::Serialize;

use super::ImageError;
use super::plan::{Plan, Wanted};
use crate::oci::{ArchiveEntry, ArchiveForm, ArchiveWriter};
use crate::store::Store;
use crate::sys::digest::Digest;
use crate::sys::progress::{Progress, Unit};

/// An image that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Its full name.
    pub name: String,
    /// What it stands for.
    pub digest: Digest,
    /// Bytes of its blobs.
    pub bytes: u64,
}

/// Writes images to an OCI layout at `path`, which docker can load too where it is a tar. What an index links to and is
/// not here is left out.
///
/// # Errors
/// [`ImageError`]; nothing is at `path` then.
pub fn export(
    store: &Store,
    names: &[String],
    path: &Path,
    form: ArchiveForm,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Vec<Exported>, ImageError> {
    let _hold = store.hold();
    let mut planned = Vec::new();
    for name in names {
        let super::Found { reference, manifest, .. } = super::find(store, name)?;
        let plan = Plan::make(&manifest.blob.digest, &manifest.media_type, wanted, |digest| {
            Ok(store.blob(None, digest)?.map(|blob| blob.read()).transpose()?)
        })?;
        plan.refuse_empty(name, wanted)?;
        planned.push((reference, manifest.media_type, plan));
    }
    let mut writer = ArchiveWriter::create(path, form)?;
    let mut exported = Vec::new();
    for (reference, media_type, plan) in planned {
        let mut item = progress.item(reference.to_string(), Some(plan.bytes()), Unit::Bytes);
        for digest in plan.blobs.keys() {
            let blob = store.blob(None, digest)?.ok_or_else(|| ImageError::Missing(digest.clone()))?;
            writer.blob(digest, blob.size, blob.open()?)?;
            item.add(blob.size);
        }
        for manifest in &plan.manifests {
            writer.blob(&manifest.digest, manifest.bytes.len() as u64, &manifest.bytes[..])?;
        }
        let Some(root) = plan.root() else { continue };
        writer.image(ArchiveEntry {
            name: reference.to_string(),
            tag: reference.tag.clone(),
            digest: root.digest.clone(),
            media_type,
            size: root.bytes.len() as u64,
            docker: loadable(&plan),
        });
        exported.push(Exported {
            name: reference.to_string(),
            digest: root.digest.clone(),
            bytes: plan.bytes(),
        });
        item.done();
    }
    writer.finish()?;
    Ok(exported)
}

/// The one image that docker can load: its format knows no indexes.
fn loadable(plan: &Plan) -> Option<(Digest, Vec<Digest>)> {
    let mut images = plan.manifests.iter().filter_map(|manifest| {
        let config = manifest.parsed.config.as_ref()?;
        let image =
            config.media_type.contains("image.config") || config.media_type.contains("container.image");
        let layers = manifest.parsed.layers.iter().map(|layer| layer.digest.clone()).collect();
        image.then(|| (config.digest.clone(), layers))
    });
    images.next_back()
}
