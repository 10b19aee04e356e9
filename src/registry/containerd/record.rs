//! What was replaced, so that it can be put back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ContainerdError, read};
use crate::sys::digest::Digest;
use crate::sys::durable;

/// The notes, and the folder that they lie in.
pub(super) struct Record {
    folder: PathBuf,
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    /// The file in the folder that holds what was there; none where there was nothing.
    before: Option<String>,
    /// Hashes of what edge wrote there, the last one last.
    wrote: Vec<Digest>,
}

impl Record {
    pub(super) fn read(folder: &Path) -> Result<Self, ContainerdError> {
        let path = folder.join("replaced.json");
        let entries = match read(&path)? {
            Some(text) => serde_json::from_str(&text)
                .map_err(|e| ContainerdError::Record { path: path.clone(), why: e.to_string() })?,
            None => BTreeMap::new(),
        };
        Ok(Self { folder: folder.to_owned(), entries })
    }

    /// Notes that a file is about to be replaced. What was there before edge came is kept once.
    pub(super) fn keep(
        &mut self,
        path: &Path,
        before: Option<&str>,
        text: &str,
    ) -> Result<(), ContainerdError> {
        durable::folder(&self.folder, 0o700)?;
        let wrote = Digest::sha256(text.as_bytes());
        let ours = self.entries.get(path).is_some_and(|entry| {
            before.is_some_and(|before| entry.wrote.contains(&Digest::sha256(before.as_bytes())))
        });
        if ours {
            if let Some(entry) = self.entries.get_mut(path) {
                entry.wrote.push(wrote);
            }
        } else {
            let name = match before {
                Some(before) => {
                    let name =
                        format!("{}.before", Digest::sha256(path.as_os_str().as_encoded_bytes()).hex());
                    durable::write(&self.folder.join(&name), before.as_bytes(), 0o600)?;
                    Some(name)
                }
                None => None,
            };
            self.entries.insert(path.to_owned(), Entry { before: name, wrote: vec![wrote] });
        }
        self.write()
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.entries.keys().cloned().collect()
    }

    /// What was there before edge came.
    pub(super) fn before(&self, path: &Path) -> Result<Option<String>, ContainerdError> {
        match self.entries.get(path).and_then(|entry| entry.before.as_ref()) {
            Some(name) => read(&self.folder.join(name)),
            None => Ok(None),
        }
    }

    /// What others have written into a file: what is there now, or, if that is edge's, what was before.
    pub(super) fn before_or(
        &self,
        path: &Path,
        now: Option<String>,
    ) -> Result<Option<String>, ContainerdError> {
        if now.as_deref().is_some_and(|now| self.is_ours(path, now)) { self.before(path) } else { Ok(now) }
    }

    pub(super) fn is_ours(&self, path: &Path, text: &str) -> bool {
        self.entries.get(path).is_some_and(|entry| entry.wrote.contains(&Digest::sha256(text.as_bytes())))
    }

    pub(super) fn forget(&mut self, path: &Path) -> Result<(), ContainerdError> {
        let entry = self.entries.remove(path);
        self.write()?;
        if let Some(name) = entry.and_then(|entry| entry.before) {
            durable::remove(&self.folder.join(name))?;
        }
        Ok(())
    }

    fn write(&self) -> Result<(), ContainerdError> {
        let path = self.folder.join("replaced.json");
        let text = serde_json::to_string_pretty(&self.entries)
            .map_err(|e| ContainerdError::Record { path: path.clone(), why: e.to_string() })?;
        Ok(durable::write(&path, text.as_bytes(), 0o600)?)
    }
}
