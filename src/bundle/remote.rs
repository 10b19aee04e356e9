//! The same bundle in an OCI registry: an index of artifacts whose layers are the bundle's files.
//!
//! Nothing in the registry is trusted: what is pulled becomes a folder as a stick has it, and names come from the
//! signed lists, never from the registry.

mod transfer;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use super::list::{BlobLine, Carried, ListReader};
use super::manifest::{self, LARGEST, Layout, Manifest};
use super::stick::Stick;
use super::{Error, Fault, name, readback};
use crate::oci::{Client, Error as OciError, Reference, Upstream, media};
use crate::sys::digest::Digest;
use crate::sys::durable;
use crate::sys::progress::{Progress, Unit};
use crate::trust::{LARGEST_ROOT, gateway, root_file_name, version_of};
use transfer::{ask, fetch};

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

/// Fetches a bundle into `to`, as if it were a stick; what is there already, and hashes to what it should, is not fetched
/// again.
///
/// # Errors
/// [`Error`]; the next try goes on where this one ended.
pub async fn pull(registry: &Registry, to: &Path) -> Result<PathBuf, Error> {
    let first = first_layers(registry).await?;
    let envelope = fetch_small(registry, &first, name::MANIFEST, LARGEST).await?;
    let manifest: Manifest = gateway::peek(&envelope, name::MANIFEST, LARGEST)?;
    manifest.check()?;
    let folder = to.join(name::BUNDLES).join(name::folder(&manifest.stream, manifest.seq));
    make(&folder.join(name::TRUST))?;
    for version in roots(&first) {
        let title = format!("{}/{}", name::TRUST, root_file_name(version));
        put(&folder, &title, &fetch_small(registry, &first, &title, LARGEST_ROOT).await?)?;
    }
    let mut item = registry.progress.item("pull", Some(manifest.totals.carried_bytes), Unit::Bytes);
    for (file, list) in [(name::BLOBS_LIST, &manifest.blobs), (name::REFS_LIST, &manifest.refs)] {
        fetch(registry, &folder.join(file), &list.digest, list.size, &mut None).await?;
    }
    let list = folder.join(name::BLOBS_LIST);
    let file = File::open(&list).map_err(|e| Error::Stick(durable::named(e, "open", &list)))?;
    let mut lines = ListReader::blobs(BufReader::new(file));
    let mut made = BTreeSet::new();
    while let Some(line) = lines.next_blob(manifest.part_size)? {
        for part in parts(&manifest, &line) {
            let path = folder.join(part.steps.join("/"));
            if let Some(parent) = path.parent()
                && made.insert(parent.to_owned())
            {
                make(parent)?;
            }
            fetch(registry, &path, &part.digest, part.size, &mut Some(&mut item)).await?;
        }
    }
    if manifest.layout == Layout::Flat {
        put(&folder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    }
    put(&folder, name::FORMAT, format!("{}\n", manifest::FORMAT).as_bytes())?;
    put(&folder, name::MANIFEST, &envelope)?;
    put(&folder, name::COMPLETE, b"pulled\n")?;
    readback::sync(&folder)?;
    item.done();
    Ok(folder)
}

/// The layers of the index's first artifact, in which all small files are.
async fn first_layers(registry: &Registry) -> Result<Vec<(String, Digest, u64)>, Error> {
    let (client, upstream, path) = (&registry.client, &registry.upstream, &registry.reference.path);
    let index = ask(registry, async || client.manifest(upstream, path, registry.reference.name()).await).await?;
    let index: Value = serde_json::from_slice(&index.bytes).map_err(|e| registry.wrong(e.to_string()))?;
    if index["artifactType"] != ARTIFACT {
        return Err(registry.wrong("it is another kind of artifact"));
    }
    let first = index["manifests"][0]["digest"].as_str().and_then(|text| text.parse::<Digest>().ok());
    let first = first.ok_or_else(|| registry.wrong("its index is empty"))?;
    let artifact = ask(registry, async || client.manifest(upstream, path, first.as_str()).await).await?;
    let artifact: Value =
        serde_json::from_slice(&artifact.bytes).map_err(|e| registry.wrong(e.to_string()))?;
    let layers = artifact["layers"].as_array().cloned().unwrap_or_default();
    let read = |layer: &Value| {
        let digest = layer["digest"].as_str()?.parse().ok()?;
        Some((layer["annotations"][TITLE].as_str()?.to_owned(), digest, layer["size"].as_u64()?))
    };
    Ok(layers.iter().filter_map(read).collect())
}

fn roots(layers: &[(String, Digest, u64)]) -> Vec<u64> {
    let name = |title: &str| title.strip_prefix(name::TRUST)?.strip_prefix('/').and_then(version_of);
    layers.iter().filter_map(|(title, ..)| name(title)).collect()
}

async fn fetch_small(
    registry: &Registry,
    layers: &[(String, Digest, u64)],
    title: &str,
    most: u64,
) -> Result<Vec<u8>, Error> {
    let found = layers.iter().find(|(name, _, size)| name == title && *size <= most);
    let (_, digest, _) = found.ok_or_else(|| registry.wrong(format!("it has no `{title}`")))?;
    let whole = async || {
        let mut blob = registry.client.blob(&registry.upstream, &registry.reference.path, digest, 0).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = blob.next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > most {
                return Err(OciError::TooLarge { url: title.to_owned(), most });
            }
        }
        Ok(bytes)
    };
    let bytes = ask(registry, whole).await?;
    if Digest::of(digest.algorithm(), &bytes) != *digest {
        return Err(registry.wrong(format!("`{title}` is not what its digest says")));
    }
    Ok(bytes)
}

fn make(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|e| Error::Stick(durable::named(e, "make", path)))
}

fn put(folder: &Path, file: &str, bytes: &[u8]) -> Result<(), Error> {
    durable::write(&folder.join(file), bytes, 0o644).map_err(Error::Stick)
}
