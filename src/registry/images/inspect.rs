//! One image in detail.

use serde_json::{Value, json};

use super::ImageError;
use super::list::{kind, parsed, platforms, time};
use crate::oci::{Descriptor, ParsedManifest};
use crate::store::{Ref, Store};
use crate::sys::digest::Digest;

/// What is known of an image, as `edge image inspect -o json` has it.
///
/// # Errors
/// [`ImageError::Unknown`] where it is not here.
pub fn inspect(
    store: &Store,
    name: &str,
    pods: impl Fn(&str, &Digest) -> Vec<String>,
) -> Result<Value, ImageError> {
    let found = super::find(store, name)?;
    let full = found.name();
    let (repository, manifest) = (found.repository, found.manifest);
    let digest = &manifest.blob.digest;
    let names: Vec<Ref> =
        store.refs(Some(&repository))?.into_iter().filter(|found| found.digest == *digest).collect();
    let read = parsed(store, digest, &manifest.media_type)?;
    let closure = store.closure(digest)?;
    let mut needed = pods(&full, digest);
    // Its own names are told as such.
    let own: Vec<String> = names.iter().map(Ref::written).collect();
    needed.extend(store.needed_by(digest)?.into_iter().filter(|needed| !own.contains(needed)));
    let referrers: Vec<Value> = store
        .referrers(&repository, digest)?
        .into_iter()
        .map(|r| json!({"digest": r.digest, "artifactType": r.artifact_type, "size": r.size}))
        .collect();
    let names: Vec<Value> = names
        .iter()
        .map(|found| {
            json!({"tag": found.name, "from": found.owner.to_string(), "stored": time(found.stored),
                   "used": time(found.used)})
        })
        .collect();
    let mut told = json!({
        "repository": repository,
        "digest": digest,
        "mediaType": manifest.media_type,
        "size": closure.bytes,
        "missing": closure.absent,
        "names": names,
        "neededBy": needed,
        "referrers": referrers,
    });
    if let Some(read) = read {
        told["kind"] = json!(kind(&read));
        told["platforms"] = json!(platforms(store, &read)?);
        told["manifests"] = match read.is_index() {
            true => index(store, &read)?,
            false => json!([single(store, digest, &read)?]),
        };
    }
    Ok(told)
}

/// Each image of an index, here or not.
fn index(store: &Store, read: &ParsedManifest) -> Result<Value, ImageError> {
    let mut manifests = Vec::new();
    for descriptor in &read.manifests {
        let mut told = match parsed(store, &descriptor.digest, &descriptor.media_type)? {
            Some(child) => single(store, &descriptor.digest, &child)?,
            None => json!({"digest": descriptor.digest, "here": false}),
        };
        if let Some(platform) = &descriptor.platform {
            told["platform"] = json!(platform.to_string());
        }
        manifests.push(told);
    }
    Ok(Value::Array(manifests))
}

fn single(store: &Store, digest: &Digest, read: &ParsedManifest) -> Result<Value, ImageError> {
    let described = |descriptor: &Descriptor| -> Result<Value, ImageError> {
        let here = store.blob(None, &descriptor.digest)?.is_some();
        Ok(json!({"digest": descriptor.digest, "mediaType": descriptor.media_type,
                  "size": descriptor.size, "here": here}))
    };
    let layers: Vec<Value> = read.layers.iter().map(described).collect::<Result<_, _>>()?;
    let config = read.config.as_ref().map(described).transpose()?;
    let platform = platforms(store, read)?.into_iter().next();
    Ok(json!({"digest": digest, "here": true, "platform": platform, "config": config, "layers": layers}))
}
