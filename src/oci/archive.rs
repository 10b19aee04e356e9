//! Archives of images: OCI layouts, as folders or tars, and docker's own tars.
//!
//! Read by digest, so that whoever stores what is in them checks it. What docker wrote has no manifests: those are
//! made here, the same ones each time. Written are OCI layouts that docker can load too.

mod docker;
mod source;
mod write;

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::manifest::{Descriptor, LARGEST};
use crate::sys::digest::Digest;
use source::Source;

pub use write::{ArchiveWriter, Entry, Form};

/// The annotation in which containerd, and docker from 25 on, keep an image's full name.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// The specification's annotation: a tag, or what the tool that wrote it makes of it.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read or written.
    #[error("cannot use `{path}`: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is none.
    #[error("`{path}` {why}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Bytes in it are not what their digest says.
    #[error("`{path}` is damaged: `{digest}` is not what its digest says")]
    Damaged {
        /// Which archive.
        path: PathBuf,
        /// Which of its blobs.
        digest: Digest,
    },
}

impl ArchiveError {
    /// Whether bytes were not what their digest says.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// How many bytes there are, and the bytes.
pub type Piece<'a> = (u64, Box<dyn Read + Send + 'a>);

/// An archive, opened; its contents are read when they are asked for.
pub struct Archive {
    path: PathBuf,
    source: Source,
    /// The names of images, as they stand there, and what they stand for. One without a name is there too.
    pub images: Vec<(Option<String>, Descriptor)>,
    /// Where blobs lie that are not called by their digest.
    places: HashMap<Digest, String>,
    /// Manifests that were made here.
    made: HashMap<Digest, Vec<u8>>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

impl Archive {
    /// Opens a folder or a tar, also one compressed by gzip, which is unpacked into `scratch` first; `room` refuses where
    /// so many bytes more have no room there. Errors name it as `called`, which is what a person knows it by.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn open(
        path: &Path,
        called: &Path,
        scratch: &Path,
        room: &dyn Fn(u64) -> io::Result<()>,
    ) -> Result<Self, ArchiveError> {
        let failed = |source| ArchiveError::Io { path: called.to_owned(), source };
        let source = Source::open(path, scratch, room).map_err(failed)?;
        let (places, made) = (HashMap::new(), HashMap::new());
        let mut archive = Self { path: called.to_owned(), source, images: Vec::new(), places, made };
        if let Some(text) = archive.small("index.json")? {
            let index: Index = serde_json::from_slice(&text)
                .map_err(|e| archive.wrong(format!("has an index.json that cannot be read: {e}")))?;
            archive.images = index.manifests.into_iter().map(named).collect();
        } else if let Some(text) = archive.small("manifest.json")? {
            docker::read(&mut archive, &text)?;
        } else {
            return Err(archive.wrong("is no archive of images: it has no index.json and no manifest.json"));
        }
        Ok(archive)
    }

    /// The bytes of a blob and how many they are, if it is there. They are not checked.
    ///
    /// # Errors
    /// [`ArchiveError::Io`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<Piece<'_>>, ArchiveError> {
        if let Some(bytes) = self.made.get(digest) {
            return Ok(Some((bytes.len() as u64, Box::new(&bytes[..]))));
        }
        let usual = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        let name = self.places.get(digest).unwrap_or(&usual);
        self.source.read(name).map_err(|source| ArchiveError::Io { path: self.path.clone(), source })
    }

    /// A manifest, if it is there and is what its digest says.
    ///
    /// # Errors
    /// [`ArchiveError::Content`] for one that is not, or is too large.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some((size, reader)) = self.blob(digest)? else { return Ok(None) };
        if size > LARGEST as u64 {
            return Err(self.wrong(format!("holds a manifest of {size} bytes hint: the most is {LARGEST}")));
        }
        let bytes = self.take(reader)?;
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return Err(ArchiveError::Damaged { path: self.path.clone(), digest: digest.clone() });
        }
        Ok(Some(bytes))
    }

    /// A file of an archive's own, if it is there.
    fn small(&self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let found = self.source.read(name);
        match found.map_err(|source| ArchiveError::Io { path: self.path.clone(), source })? {
            None => Ok(None),
            Some((size, _)) if size > LARGEST as u64 => {
                Err(self.wrong(format!("has a {name} of {size} bytes hint: the most is {LARGEST}")))
            }
            Some((_, reader)) => self.take(reader).map(Some),
        }
    }

    fn take(&self, reader: impl Read) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::new();
        let read = reader.take(LARGEST as u64).read_to_end(&mut bytes);
        read.map_err(|source| ArchiveError::Io { path: self.path.clone(), source })?;
        Ok(bytes)
    }

    fn wrong(&self, why: impl Into<String>) -> ArchiveError {
        ArchiveError::Content { path: self.path.clone(), why: why.into() }
    }
}

fn named(mut descriptor: Descriptor) -> (Option<String>, Descriptor) {
    let full = descriptor.annotations.remove(IMAGE_NAME);
    let name = full.or_else(|| descriptor.annotations.remove(REF_NAME));
    (name.filter(|name| !name.is_empty()), descriptor)
}
