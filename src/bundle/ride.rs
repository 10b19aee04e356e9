//! What rides along in a bundle and is not in the store: files, and the system of an appliance.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::gather::{Fact, Gathered, Key, Source, text_of};
use super::list::{Content, Purpose, RefLine};
use super::system::DESCRIPTION;
use crate::oci::media;
use crate::sys::beside::Beside;
use crate::sys::digest::{Algorithm, Digest, Hasher};
use crate::sys::durable;

/// A file that rides along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Riding {
    /// Where it is read.
    pub path: PathBuf,
    /// What it is called in the bundle: the name by which somebody gave it, wherever a link of that name leads.
    pub name: String,
}

impl From<PathBuf> for Riding {
    fn from(path: PathBuf) -> Self {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        Self { path, name }
    }
}

/// A file becomes an OCI artifact of one layer, so that it is stored, kept per generation and served as all else is.
pub(super) fn file(gathered: &mut Gathered, riding: &Riding) -> Result<(), Error> {
    let Riding { path, name } = riding;
    let name = name.clone();
    if !crate::oci::is_tag(&name) {
        let why = format!(
            "`{}` cannot ride along: its name must be letters, digits, `.`, `_` and `-`",
            path.display()
        );
        return Err(Error::Usage(why));
    }
    let (content, size) = hash_path(path)?;
    let purpose = match name.rsplit_once('.') {
        Some((_, "snap")) => Purpose::Snap,
        _ if name.contains(".img") => Purpose::Image,
        _ => Purpose::File,
    };
    let empty = Digest::sha256(b"{}");
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "artifactType": "application/vnd.edge.file.v1",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
        "layers": [{
            "mediaType": "application/octet-stream",
            "digest": content,
            "size": size,
            "annotations": {"org.opencontainers.image.title": name},
        }],
    })
    .to_string()
    .into_bytes();
    let digest = Digest::sha256(&manifest);
    if let Some(other) = gathered.riding.get(&name) {
        if *other == digest {
            return Ok(());
        }
        let why = format!("`{}` cannot ride along: another file has the same name", path.display());
        return Err(Error::Usage(format!(
            "{why} hint: names are told apart without their folders; rename one"
        )));
    }
    gathered.riding.insert(name.clone(), digest.clone());
    let line = RefLine::File { name, purpose, size, content: content.clone(), digest: digest.clone() };
    gathered.names.insert(&text_of(&line), Some((&line.shown(), &digest, media::OCI_MANIFEST)))?;
    for (digest, source, size, kind) in [
        (&content, Source::Path(path.to_owned()), size, Content::Blob),
        (&empty, Source::Bytes(b"{}".to_vec()), 2, Content::Blob),
        (&digest, Source::Bytes(manifest.clone()), manifest.len() as u64, Content::Manifest),
    ] {
        gathered.blobs.insert(Key::of(digest), Fact { size, kind });
        gathered.sources.insert(Key::of(digest), source);
    }
    Ok(())
}

/// A system is no artifact: nobody pulls it, and no store keeps it.
pub(super) fn system(gathered: &mut Gathered, folder: &Path) -> Result<(), Error> {
    let (part, names) = super::system::read(folder)?;
    for (name, file) in names.into_iter().zip(part.files.all()) {
        let path = folder.join(name);
        if hash_path(&path)? != (file.digest.clone(), file.size) {
            let why = format!("`{}` is not what `{}` says of it", path.display(), DESCRIPTION);
            return Err(Error::Usage(format!("{why} hint: give the folder as `edge-pack image` made it")));
        }
        let (key, fact) = (Key::of(&file.digest), Fact { size: file.size, kind: Content::System });
        if gathered.blobs.insert(key.clone(), fact).is_some() {
            return Err(Error::Usage(format!("`{}` goes in as something else already", path.display())));
        }
        gathered.sources.insert(key, Source::Path(path));
    }
    gathered.system = Some(part);
    Ok(())
}

fn hash_path(path: &Path) -> Result<(Digest, u64), Error> {
    let file = File::open(path).map_err(|e| Error::Files(durable::named(e, "open", path)))?;
    let broken = |e| Error::Files(durable::named(e, "read", path));
    let mut hashers = vec![Hasher::new(Algorithm::Sha256)];
    let size = Beside::start()?.read(&file, u64::MAX, &mut hashers, broken, |_| Ok(()))?;
    let digest = hashers.pop().map_or_else(|| Digest::sha256(b""), Hasher::finish);
    Ok((digest, size))
}
