//! Writing an archive: an OCI layout with the names that containerd looks for, and docker's manifest.json beside it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{ArchiveError, IMAGE_NAME, REF_NAME};
use crate::sys::digest::Digest;

/// An image of the archive's index.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its full name, with its tag.
    pub name: String,
    /// Its tag, if it has one.
    pub tag: Option<String>,
    /// The manifest or index.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub size: u64,
    /// Configuration and layers of the one image that docker can load of it.
    pub docker: Option<(Digest, Vec<Digest>)>,
}

/// Writes one; it takes its place when it is whole.
pub struct ArchiveWriter {
    path: PathBuf,
    beside: PathBuf,
    to: To,
    written: HashSet<Digest>,
    entries: Vec<Entry>,
}

enum To {
    Tar(Box<tar::Builder<BufWriter<File>>>),
    Folder,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A tar.
    Tar,
    /// A folder.
    Folder,
}

impl ArchiveWriter {
    /// Begins beside `path`, which must not be there yet.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn create(path: &Path, form: Form) -> Result<Self, ArchiveError> {
        if path.exists() {
            let why = "is there already hint: remove it, or choose another name".to_owned();
            return Err(ArchiveError::Content { path: path.to_owned(), why });
        }
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".part");
        let beside = path.with_file_name(name);
        let failed = |source| ArchiveError::Io { path: beside.clone(), source };
        let to = match form {
            Form::Tar => {
                let file = File::create(&beside).map_err(failed)?;
                To::Tar(Box::new(tar::Builder::new(BufWriter::with_capacity(256 << 10, file))))
            }
            Form::Folder => {
                match std::fs::remove_dir_all(&beside) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
                    _ => {}
                }
                std::fs::create_dir(&beside).map_err(failed)?;
                To::Folder
            }
        };
        Ok(Self { path: path.to_owned(), beside, to, written: HashSet::new(), entries: Vec::new() })
    }

    /// Adds a blob, once.
    ///
    /// # Errors
    /// [`ArchiveError::Io`].
    pub fn blob(&mut self, digest: &Digest, size: u64, reader: impl Read) -> Result<(), ArchiveError> {
        if !self.written.insert(digest.clone()) {
            return Ok(());
        }
        let name = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        self.file(&name, size, reader)
    }

    /// Adds an image, whose blobs are added too, before or after.
    pub fn image(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Writes the index, and puts the archive where it was asked for.
    ///
    /// # Errors
    /// [`ArchiveError::Io`].
    pub fn finish(mut self) -> Result<(), ArchiveError> {
        let index = self.index().to_string();
        let docker = self.docker().to_string();
        let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
        for (name, text) in [("oci-layout", layout), ("index.json", index), ("manifest.json", docker)] {
            self.file(name, text.len() as u64, text.as_bytes())?;
        }
        let failed = |source| ArchiveError::Io { path: self.path.clone(), source };
        if let To::Tar(builder) = std::mem::replace(&mut self.to, To::Folder) {
            let mut buffered = builder.into_inner().map_err(failed)?;
            buffered.flush().map_err(failed)?;
            buffered.get_ref().sync_all().map_err(failed)?;
        }
        std::fs::rename(&self.beside, &self.path).map_err(failed)?;
        crate::sys::durable::sync_folder_of(&self.path).map_err(failed)
    }

    fn index(&self) -> Value {
        let manifests: Vec<Value> = self
            .entries
            .iter()
            .map(|entry| {
                let mut annotations = json!({ IMAGE_NAME: entry.name });
                if let Some(tag) = &entry.tag {
                    annotations[REF_NAME] = json!(tag);
                }
                json!({"mediaType": entry.media_type, "digest": entry.digest, "size": entry.size,
                       "annotations": annotations})
            })
            .collect();
        json!({"schemaVersion": 2, "mediaType": crate::oci::media::OCI_INDEX, "manifests": manifests})
    }

    fn docker(&self) -> Value {
        let place = |digest: &Digest| format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        let images = self.entries.iter().filter_map(|entry| {
            let (config, layers) = entry.docker.as_ref()?;
            let tags: Vec<&String> = entry.tag.iter().map(|_| &entry.name).collect();
            let layers: Vec<String> = layers.iter().map(place).collect();
            Some(json!({"Config": place(config), "RepoTags": tags, "Layers": layers}))
        });
        images.collect()
    }

    fn file(&mut self, name: &str, size: u64, mut reader: impl Read) -> Result<(), ArchiveError> {
        let failed = |source| ArchiveError::Io { path: self.beside.clone(), source };
        match &mut self.to {
            To::Tar(builder) => {
                let mut header = tar::Header::new_gnu();
                header.set_size(size);
                header.set_mode(0o644);
                header.set_entry_type(tar::EntryType::Regular);
                builder.append_data(&mut header, name, reader).map_err(failed)
            }
            To::Folder => {
                let path = self.beside.join(name);
                let mut write = || -> io::Result<()> {
                    if let Some(folder) = path.parent() {
                        std::fs::create_dir_all(folder)?;
                    }
                    let mut file = File::create(&path)?;
                    io::copy(&mut reader, &mut file)?;
                    file.sync_all()
                };
                write().map_err(failed)
            }
        }
    }
}

impl Drop for ArchiveWriter {
    fn drop(&mut self) {
        // What was not finished is of no use; after a rename there is nothing here any more.
        let _ = match self.to {
            To::Tar(_) => std::fs::remove_file(&self.beside),
            To::Folder => std::fs::remove_dir_all(&self.beside),
        };
    }
}
