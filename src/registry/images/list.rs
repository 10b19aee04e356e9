//! What images are here.

use std::collections::HashMap;

use serde::Serialize;

use super::ImageError;
use crate::oci::{ParsedManifest, Platform};
use crate::store::{Blob, Closure, Ref, Store};
use crate::sys::digest::Digest;

/// One name. `edge image list -o json`; fields are only ever added.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// `<host>/<path>`.
    pub repository: String,
    /// The tag, or the digest of what has none.
    pub tag: String,
    /// What it stands for.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// `image`, `chart` or `artifact`.
    pub kind: &'static str,
    /// The platforms that are here.
    pub platforms: Vec<String>,
    /// Bytes that are here.
    pub size: u64,
    /// Blobs and manifests that it links to and that are not here.
    pub missing: u64,
    /// Whose it is: `push`, `pull-through`, `mirror`, or a bundle's stream.
    pub from: String,
    /// When it was stored; RFC 3339, UTC.
    pub stored: String,
    /// When it was last used, an hour more or less.
    pub used: String,
    /// Who needs it whatever names say: pods as `pod namespace/name`, and other holders.
    pub needed_by: Vec<String>,
}

impl Image {
    /// `<repository>:<tag>`, or with an `@` and the digest.
    pub fn name(&self) -> String {
        let between = if self.tag.contains(':') { '@' } else { ':' };
        format!("{}{between}{}", self.repository, self.tag)
    }
}

/// What a manifest holds, as a listing has it.
#[derive(Clone)]
pub(super) struct Shape {
    pub(super) kind: &'static str,
    pub(super) platforms: Vec<String>,
    closure: Closure,
}

/// All names, in order. `pods` says which pods need an image, by its name and digest.
///
/// # Errors
/// Where the store cannot be read.
pub fn list(store: &Store, pods: impl Fn(&str, &Digest) -> Vec<String>) -> Result<Vec<Image>, ImageError> {
    let mut shapes: HashMap<Digest, Shape> = HashMap::new();
    let mut images = Vec::new();
    for found in store.refs(None)? {
        let shape = match shapes.get(&found.digest) {
            Some(shape) => shape.clone(),
            None => {
                let shape = shape(store, &found)?;
                shapes.insert(found.digest.clone(), shape.clone());
                shape
            }
        };
        let mut image = Image {
            tag: found.name,
            media_type: found.media_type,
            kind: shape.kind,
            platforms: shape.platforms,
            size: shape.closure.bytes,
            missing: shape.closure.absent,
            from: found.owner.to_string(),
            stored: time(found.stored),
            used: time(found.used),
            needed_by: Vec::new(),
            repository: found.repository,
            digest: found.digest,
        };
        image.needed_by = pods(&image.name(), &image.digest);
        let pins = store.needed_by(&image.digest)?;
        let holders = pins.iter().filter_map(|needed| needed.strip_prefix("pin of "));
        // Pods are told one by one above.
        image.needed_by.extend(holders.filter(|holder| *holder != "pods").map(str::to_owned));
        images.push(image);
    }
    Ok(images)
}

fn shape(store: &Store, found: &Ref) -> Result<Shape, ImageError> {
    let closure = store.closure(&found.digest)?;
    let parsed = parsed(store, &found.digest, &found.media_type)?;
    let Some(parsed) = parsed else { return Ok(Shape { kind: "image", platforms: Vec::new(), closure }) };
    Ok(Shape { kind: kind(&parsed), platforms: platforms(store, &parsed)?, closure })
}

/// A manifest that is here; `None` where it is not, or cannot be read.
pub(super) fn parsed(
    store: &Store,
    digest: &Digest,
    media_type: &str,
) -> Result<Option<ParsedManifest>, ImageError> {
    let bytes = store.blob(None, digest)?.and_then(|blob| blob.read().ok());
    Ok(bytes.and_then(|bytes| ParsedManifest::parse(&bytes, media_type).ok()))
}

pub(super) fn kind(parsed: &ParsedManifest) -> &'static str {
    let config = parsed.config.as_ref().map_or("", |config| config.media_type.as_str());
    match config {
        _ if parsed.is_index() => "image",
        config if config.contains("helm.config") => "chart",
        config if config.contains("image.config") || config.contains("container.image") => "image",
        _ => "artifact",
    }
}

/// The platforms of what is here.
pub(super) fn platforms(store: &Store, parsed: &ParsedManifest) -> Result<Vec<String>, ImageError> {
    let mut platforms = Vec::new();
    if parsed.is_index() {
        for descriptor in &parsed.manifests {
            let known = descriptor.platform.as_ref().filter(|platform| platform.os != "unknown");
            if let Some(platform) = known
                && store.blob(None, &descriptor.digest)?.is_some()
            {
                platforms.push(platform.to_string());
            }
        }
        return Ok(platforms);
    }
    let config = parsed.config.as_ref().filter(|_| kind(parsed) == "image");
    if let Some(config) = config
        && let Some(blob) = store.blob(None, &config.digest)?
    {
        platforms.extend(platform_of(&blob));
    }
    Ok(platforms)
}

/// What a configuration says that it runs on.
fn platform_of(blob: &Blob) -> Option<String> {
    let small = blob.size <= crate::oci::LARGEST as u64;
    let platform: Platform = serde_json::from_slice(&small.then(|| blob.read().ok())??).ok()?;
    Some(platform.to_string())
}

pub(super) fn time(seconds: i64) -> String {
    let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Whether a name is meant by a pattern: part of it, or with `*` for anything.
pub fn matches(name: &str, pattern: &str) -> bool {
    if !pattern.contains('*') {
        return name.contains(pattern);
    }
    let mut rest = name;
    let mut parts = pattern.split('*').peekable();
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_mean() {
        for (pattern, matched) in [
            ("nginx", true),
            ("docker.io/*", true),
            ("*:1.27", true),
            ("*nginx*", true),
            ("docker.io/*/nginx:*", true),
            ("quay.io/*", false),
            ("*:1", false),
            ("redis", false),
        ] {
            assert_eq!(matches("docker.io/library/nginx:1.27", pattern), matched, "{pattern}");
        }
    }
}
