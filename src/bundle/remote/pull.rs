//! Fetching a bundle. What its keys have not signed is not even fetched where a root is pinned; elsewhere the import judges.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;

use super::transfer::{ask, fetch, lacking};
use super::{ARTIFACT, Registry, TITLE, parts};
use crate::bundle::create::check_room;
use crate::bundle::list::ListReader;
use crate::bundle::manifest::{self, LARGEST, Layout, Manifest};
use crate::bundle::open::{Passed, believe};
use crate::bundle::recall::recalled;
use crate::bundle::{Error, name, readback};
use crate::oci::Error as OciError;
use crate::store::{Settings, Store};
use crate::sys::clock;
use crate::sys::digest::Digest;
use crate::sys::durable;
use crate::sys::progress::Unit;
use crate::trust::{Anchor, AnchorError, Chain, LARGEST_ROOT, gateway, root_file_name, version_of};

/// Bytes of all roots of a bundle at the most: they are kept in memory until they are verified.
const LARGEST_ROOTS: u64 = 64 * LARGEST_ROOT;

/// What this machine believes of roots, and of time.
pub struct Pinned {
    chain: Chain,
    passed: Passed,
}

impl Pinned {
    /// Read from disk, whoever has the store open. `None` where no root is pinned. A store that was lost, or came back from a
    /// backup, is as much as what lies beside it; see [`super::super::recall`].
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Trust`], [`Error::Files`] where that cannot be read.
    pub fn below(state_dir: &Path) -> Result<Option<Self>, Error> {
        let store = Store::open_for_reading(Settings::below(state_dir))?;
        let (version, floor) = recalled(state_dir, store.as_ref())?;
        let chain = match Anchor::below(state_dir).load(Some(version)) {
            Ok(chain) => chain,
            Err(AnchorError::NotPinned) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let told = Timestamp::from_second(floor).unwrap_or(Timestamp::UNIX_EPOCH);
        let sure = clock::floor().max(chain.current().created);
        Ok(Some(Self { chain, passed: Passed { told, sure } }))
    }
}

/// Fetches a bundle into `to`, as if it were a stick; what is there already, and hashes to what it should, is not fetched
/// again. By what is `pinned` its signatures are checked before any of it is written; and never is more begun than there
/// is room for.
///
/// # Errors
/// [`Error`]; the next try goes on where this one ended.
pub async fn pull(registry: &Registry, to: &Path, pinned: Option<Pinned>) -> Result<PathBuf, Error> {
    let first = first_layers(registry).await?;
    let envelope = fetch_small(registry, &first, name::MANIFEST, LARGEST).await?;
    let manifest: Manifest = gateway::peek(&envelope, name::MANIFEST, LARGEST)?;
    manifest.check()?;
    let roots = fetch_roots(registry, &first).await?;
    if let Some(Pinned { chain, passed }) = pinned {
        believe(chain, &roots, &envelope, passed)?;
    }
    let folder = to.join(name::BUNDLES).join(name::folder(&manifest.stream, manifest.seq));
    make(&folder.join(name::TRUST))?;
    for (version, root) in &roots {
        put(&folder, &format!("{}/{}", name::TRUST, root_file_name(*version)), root)?;
    }
    let lists = [(name::BLOBS_LIST, &manifest.blobs), (name::REFS_LIST, &manifest.refs)];
    let missing = lists.iter().map(|(file, list)| lacking(&folder.join(file), list.size)).sum();
    if missing > 0 {
        check_room(to, &manifest.stream, missing, 2)?;
    }
    for (file, list) in lists {
        fetch(registry, &folder.join(file), &list.digest, list.size, &mut None).await?;
    }
    let list = folder.join(name::BLOBS_LIST);
    let lines = || {
        let file = File::open(&list).map_err(|e| Error::Stick(durable::named(e, "open", &list)))?;
        Ok::<_, Error>(ListReader::blobs(BufReader::new(file)))
    };
    check_blobs(lines()?, &manifest, to, &folder)?;
    let mut item = registry.progress.item("pull", Some(manifest.totals.carried_bytes), Unit::Bytes);
    let mut lines = lines()?;
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

/// Whether the blobs that are listed come to what the manifest says, and there is room for those that are not there yet.
fn check_blobs(
    mut lines: ListReader<BufReader<File>>,
    manifest: &Manifest,
    to: &Path,
    folder: &Path,
) -> Result<(), Error> {
    let (mut bytes, mut missing, mut files) = (0_u64, 0_u64, 0_u64);
    while let Some(line) = lines.next_blob(manifest.part_size)? {
        for part in parts(manifest, &line) {
            bytes = bytes.saturating_add(part.size);
            let lacks = lacking(&folder.join(part.steps.join("/")), part.size);
            missing = missing.saturating_add(lacks);
            files += u64::from(lacks > 0);
        }
    }
    if bytes != manifest.totals.carried_bytes {
        return Err(lines.fault("the list does not come to what the manifest says").into());
    }
    if files == 0 {
        return Ok(());
    }
    check_room(to, &manifest.stream, missing, files)
}

/// The layers of the index's first artifact, in which all small files are.
async fn first_layers(registry: &Registry) -> Result<Vec<(String, Digest, u64)>, Error> {
    let (client, upstream, path) = (&registry.client, &registry.upstream, &registry.reference.path);
    let index =
        ask(registry, async || client.manifest(upstream, path, registry.reference.name()).await).await?;
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

/// All roots that came, by version.
async fn fetch_roots(
    registry: &Registry,
    layers: &[(String, Digest, u64)],
) -> Result<BTreeMap<u64, Vec<u8>>, Error> {
    let version = |title: &str| title.strip_prefix(name::TRUST)?.strip_prefix('/').and_then(version_of);
    let versions: BTreeSet<u64> = layers.iter().filter_map(|(title, ..)| version(title)).collect();
    let (mut roots, mut bytes) = (BTreeMap::new(), 0);
    for version in versions {
        let title = format!("{}/{}", name::TRUST, root_file_name(version));
        let root = fetch_small(registry, layers, &title, LARGEST_ROOT).await?;
        bytes += root.len() as u64;
        if bytes > LARGEST_ROOTS {
            return Err(registry.wrong(format!("its roots have more than {LARGEST_ROOTS} bytes")));
        }
        roots.insert(version, root);
    }
    Ok(roots)
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
