//! The same bundle in an OCI registry: an index of artifacts whose layers are the bundle's files.
//!
//! Nothing in the registry is trusted: what is pulled becomes a folder as a stick has it, and names come from the
//! signed lists, never from the registry.

mod pull;
mod transfer;

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use super::list::{BlobLine, Carried, ListReader};
use super::manifest::{LARGEST, Manifest};
use super::stick::Stick;
use super::{Error, Fault, name};
use crate::oci::{Client, Error as OciError, Reference, Upstream, media};
use crate::sys::digest::Digest;
use crate::sys::progress::{Progress, Unit};
use crate::trust::{gateway, version_of};
pub use pull::{Pinned, pull};
use transfer::ask;

/// What the artifacts are.
const ARTIFACT: &str = "application/vnd.edge.bundle.v1";
/// What a layer is called.
const TITLE: &str = "org.opencontainers.image.title";
/// Layers of one artifact: keeps its manifest well below the 4 MiB that registries take.
const LAYERS: usize = 4_000;

/// A place in a registry.
pub struct Registry {
    client: Client,
    upstream: Upstream,
    reference: Reference,
    /// Where it is told how far the work is, and what it waits for.
    progress: Progress,
}

impl Registry {
    /// Reads `oci://host/path:tag`; `at` says where such a host is.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is none.
    pub fn new(text: &str, client: Client, at: impl FnOnce(&str) -> Upstream) -> Result<Self, Error> {
        let bare = text.strip_prefix("oci://");
        let bare = bare.ok_or_else(|| Error::Usage(format!("`{text}` does not begin with `oci://`")))?;
        let reference: Reference = bare.parse().map_err(|e| Error::Usage(format!("{e}")))?;
        Ok(Self { client, upstream: at(&reference.host), reference, progress: Progress::silent() })
    }

    /// Tells `progress` of what is done there.
    #[must_use]
    pub fn telling(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    fn wrong(&self, why: impl Into<String>) -> Error {
        Error::Artifact { reference: self.reference.to_string(), why: why.into() }
    }
}

/// Puts the bundle in `folder` into the registry; says the index's digest.
///
/// # Errors
/// [`Error`]; what was sent by then is found again by the next try.
pub async fn push(registry: &Registry, folder: &Path) -> Result<Digest, Error> {
    let stick = Stick::open(folder)?;
    let manifest = claimed(&stick)?;
    let mut item = registry.progress.item("push", Some(manifest.totals.carried_bytes), Unit::Bytes);
    let mut index = Vec::new();
    let mut layers = small_files(registry, &stick).await?;
    for (file, list) in [(name::BLOBS_LIST, &manifest.blobs), (name::REFS_LIST, &manifest.refs)] {
        let steps = [file.to_owned()];
        layers.push(send_file(registry, &stick, &steps, &list.digest, list.size).await?);
    }
    let mut lines = ListReader::blobs(BufReader::new(stick.sized(&[name::BLOBS_LIST], manifest.blobs.size)?));
    while let Some(line) = lines.next_blob(manifest.part_size)? {
        for part in parts(&manifest, &line) {
            layers.push(send_file(registry, &stick, &part.steps, &part.digest, part.size).await?);
            item.add(part.size);
            if layers.len() >= LAYERS {
                index.push(send_artifact(registry, std::mem::take(&mut layers)).await?);
            }
        }
    }
    index.push(send_artifact(registry, layers).await?);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_INDEX,
        "artifactType": ARTIFACT,
        "manifests": index,
        "annotations": {"vnd.edge.bundle.stream": manifest.stream, "vnd.edge.bundle.seq": manifest.seq.to_string()},
    });
    let bytes = index.to_string().into_bytes();
    let digest = Digest::sha256(&bytes);
    let tag = registry.reference.tag.as_deref().unwrap_or("latest");
    let (upstream, path) = (&registry.upstream, &registry.reference.path);
    let bytes = Bytes::from(bytes);
    let send =
        async || registry.client.push_manifest(upstream, path, tag, media::OCI_INDEX, bytes.clone()).await;
    ask(registry, send).await?;
    item.done();
    Ok(digest)
}

fn claimed(stick: &Stick) -> Result<Manifest, Error> {
    let bytes = stick.small(&[name::MANIFEST], LARGEST)?;
    let bytes = bytes.ok_or_else(|| Fault::Missing(name::MANIFEST.into()))?;
    let manifest: Manifest = gateway::peek(&bytes, name::MANIFEST, LARGEST)?;
    manifest.check()?;
    Ok(manifest)
}

/// A file of a blob.
struct Part {
    steps: Vec<String>,
    digest: Digest,
    size: u64,
}

fn parts(manifest: &Manifest, line: &BlobLine) -> Vec<Part> {
    let count = line.files();
    let hash = |index: u64| match &line.carried {
        Carried::Parts(hashes) => usize::try_from(index).ok().and_then(|at| hashes.get(at)).cloned(),
        _ => None,
    };
    let part = |index| Part {
        steps: name::part(manifest.layout, &line.digest, count, index),
        digest: hash(index).unwrap_or_else(|| line.digest.clone()),
        size: name::part_length(line.size, manifest.part_size, index),
    };
    (0..count).map(part).collect()
}

async fn small_files(registry: &Registry, stick: &Stick) -> Result<Vec<Value>, Error> {
    let mut layers = Vec::new();
    let mut files = vec![vec![name::FORMAT.to_owned()], vec![name::MANIFEST.to_owned()]];
    stick.names(&[name::TRUST], |root| {
        files.extend(version_of(root).map(|_| vec![name::TRUST.to_owned(), root.to_owned()]));
        Ok(())
    })?;
    for steps in files {
        let path: Vec<&str> = steps.iter().map(String::as_str).collect();
        let bytes = stick.small(&path, LARGEST)?.ok_or_else(|| Fault::Missing(steps.join("/")))?;
        layers.push(send(registry, bytes, &steps.join("/")).await?);
    }
    Ok(layers)
}

async fn send(registry: &Registry, bytes: Vec<u8>, title: &str) -> Result<Value, Error> {
    let (digest, size) = (Digest::sha256(&bytes), bytes.len() as u64);
    let (upstream, path) = (&registry.upstream, &registry.reference.path);
    let bytes = Bytes::from(bytes);
    if !ask(registry, async || registry.client.has_blob(upstream, path, &digest).await).await? {
        let send = async || {
            let body = stream::iter([Ok(bytes.clone())]);
            registry.client.push_blob(upstream, path, &digest, size, body).await
        };
        ask(registry, send).await?;
    }
    Ok(layer(&digest, size, title))
}

async fn send_file(
    registry: &Registry,
    stick: &Stick,
    steps: &[String],
    digest: &Digest,
    size: u64,
) -> Result<Value, Error> {
    let (upstream, path) = (&registry.upstream, &registry.reference.path);
    // Looked for first, sent or not: it is to be what is signed.
    let whole = stick.sized(steps, size)?;
    if !ask(registry, async || registry.client.has_blob(upstream, path, digest).await).await? {
        // Each try reads it from its start.
        let whole = &whole;
        let send = async || {
            let at = |(file, at): (File, u64)| async move {
                let mut piece = vec![0; 256 << 10];
                let read = file.read_at(&mut piece, at)?;
                piece.truncate(read);
                Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(piece), (file, at + read as u64))))
            };
            let failed = |e: std::io::Error| OciError::Setup(e.to_string());
            let pieces = stream::try_unfold((whole.try_clone().map_err(failed)?, 0), at);
            registry.client.push_blob(upstream, path, digest, size, pieces).await
        };
        ask(registry, send).await?;
    }
    Ok(layer(digest, size, &steps.join("/")))
}

fn layer(digest: &Digest, size: u64, title: &str) -> Value {
    json!({"mediaType": "application/octet-stream", "digest": digest, "size": size, "annotations": {TITLE: title}})
}

async fn send_artifact(registry: &Registry, layers: Vec<Value>) -> Result<Value, Error> {
    let config = send(registry, b"{}".to_vec(), "config").await?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "artifactType": ARTIFACT,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config["digest"], "size": 2},
        "layers": layers,
    });
    let bytes = manifest.to_string().into_bytes();
    let (digest, size) = (Digest::sha256(&bytes), bytes.len());
    let (upstream, path, bytes) = (&registry.upstream, &registry.reference.path, Bytes::from(bytes));
    let send = async || {
        let name = digest.as_str();
        registry.client.push_manifest(upstream, path, name, media::OCI_MANIFEST, bytes.clone()).await
    };
    ask(registry, send).await?;
    Ok(json!({"mediaType": media::OCI_MANIFEST, "artifactType": ARTIFACT, "digest": digest, "size": size}))
}
