//! `join.json`: what join changed outside the state folder, so that leave can put it back. No secrets.
//!
//! It is written before each change it tells of. An entry whose change did not happen is harmless:
//! putting back what was never replaced changes nothing.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::sys::durable;

const SCHEMA: u32 = 1;
/// The folder of the copies.
const BACKUP: &str = "backup";

/// What was done to this gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Record {
    schema: u32,
    /// The node's name.
    pub node_name: String,
    /// When it was joined for the first time.
    pub joined: jiff::Timestamp,
    /// The cloud's kubeconfig that edge wrote.
    pub cloud_kubeconfig: Replaced,
    /// Kubelet's kubeconfig that edge wrote.
    pub kubelet_kubeconfig: Replaced,
    /// The folder where kubelet keeps what it rotates.
    pub kubelet_cert_dir: PathBuf,
    /// Kubelet's rotated certificate was moved aside from there.
    pub disarmed: bool,
    /// Fingerprint of the certificate that was taken over; `None` if edge asked for it itself.
    pub taken: Option<String>,
}

/// A file that edge wrote over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Replaced {
    /// Where.
    pub path: PathBuf,
    /// The copy of what was there, and its permissions. `None` if nothing was.
    pub backup: Option<Backup>,
}

/// A copy in the state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Backup {
    /// Where the copy is.
    pub path: PathBuf,
    /// The permissions to put it back with.
    pub mode: u32,
}

impl Replaced {
    /// Copies what is at `path` into `<state_dir>/backup`, durably, before anything is written over it.
    pub fn keep(state_dir: &Path, path: &Path, name: &str) -> Result<Self, Error> {
        let folder = state_dir.join(BACKUP);
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Ok(Self { path: path.to_path_buf(), backup: None });
            }
            Err(e) => return Err(Error::File(durable::named(e, "read", path))),
        };
        let mode = std::fs::metadata(path).map_or(0o600, |meta| meta.permissions().mode() & 0o777);
        let copy = folder.join(name);
        durable::folder(&folder, 0o700).map_err(Error::File)?;
        durable::write(&copy, &bytes, 0o600).map_err(Error::File)?;
        Ok(Self { path: path.to_path_buf(), backup: Some(Backup { path: copy, mode }) })
    }

    /// Whether it can be put back: refuses before anything is touched.
    pub fn check(&self) -> Result<(), Error> {
        match &self.backup {
            Some(backup) if !backup.path.exists() => {
                Err(Error::BackupMissing { backup: backup.path.clone(), path: self.path.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Puts back what was there. `true` if there is a file now, `false` if there was none and is none.
    pub fn restore(&self) -> Result<bool, Error> {
        let Some(backup) = &self.backup else {
            return durable::remove(&self.path).map(|()| false).map_err(Error::File);
        };
        let bytes =
            std::fs::read(&backup.path).map_err(|e| Error::File(durable::named(e, "read", &backup.path)))?;
        if bytes.is_empty() {
            return durable::remove(&self.path).map(|()| false).map_err(Error::File);
        }
        durable::write(&self.path, &bytes, backup.mode).map(|()| true).map_err(Error::File)
    }

    /// Lays what was there beside it, too: the state folder may go without a leave, as that of a snap which is removed while
    /// it is disabled. What lies there already may be the only one left of such.
    pub(super) fn lay_beside(&self) -> Result<(), Error> {
        let Some(backup) = &self.backup else { return Ok(()) };
        let beside = self.beside();
        if durable::exists(&beside).map_err(Error::File)? {
            return Ok(());
        }
        match std::fs::read(&backup.path) {
            Ok(bytes) if bytes.is_empty() => Ok(()),
            Ok(bytes) => durable::write(&beside, &bytes, 0o600).map_err(Error::File),
            // That it is lost is said by a leave.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::File(durable::named(e, "read", &backup.path))),
        }
    }

    /// Removes what was laid beside, if it is what was put back, and what a write of it that was cut off has left.
    pub(super) fn clear_beside(&self) -> Result<(), Error> {
        let Some(backup) = &self.backup else { return Ok(()) };
        let beside = self.beside();
        let is_same = match (std::fs::read(&beside), std::fs::read(&backup.path)) {
            (Ok(laid), Ok(kept)) => laid == kept,
            (Err(e), _) => e.kind() == ErrorKind::NotFound,
            (Ok(_), Err(_)) => false,
        };
        if is_same { durable::remove(&beside).map_err(Error::File) } else { Ok(()) }
    }

    fn beside(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".before-edge");
        name.into()
    }
}

impl Record {
    /// A first record: the copies are made, nothing is written over yet.
    pub fn begin(
        state_dir: &Path,
        node_name: &str,
        cloud_kubeconfig: &Path,
        kubelet_kubeconfig: &Path,
        kubelet_cert_dir: &Path,
    ) -> Result<Self, Error> {
        Ok(Self {
            schema: SCHEMA,
            node_name: node_name.to_owned(),
            joined: crate::sys::clock::now(),
            cloud_kubeconfig: Replaced::keep(state_dir, cloud_kubeconfig, "cloud.kubeconfig")?,
            kubelet_kubeconfig: Replaced::keep(state_dir, kubelet_kubeconfig, "kubelet.kubeconfig")?,
            kubelet_cert_dir: kubelet_cert_dir.to_path_buf(),
            disarmed: false,
            taken: None,
        })
    }

    /// Reads it. `None` if this gateway is not joined.
    pub fn read(state_dir: &Path) -> Result<Option<Self>, Error> {
        let path = Self::path(state_dir);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::File(durable::named(e, "read", &path))),
        };
        let damaged = |why: String| Error::Record { path: path.clone(), why };
        let mut record: Self = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if record.schema != SCHEMA {
            return Err(damaged(format!("its schema is {}, and this edge knows {SCHEMA}", record.schema)));
        }
        // Where the state folder was copied, the copies lie beside the record, and the old ones may be gone.
        for replaced in [&mut record.cloud_kubeconfig, &mut record.kubelet_kubeconfig] {
            if let Some(backup) = &mut replaced.backup
                && let Some(name) = backup.path.file_name()
            {
                backup.path = state_dir.join(BACKUP).join(name);
            }
        }
        Ok(Some(record))
    }

    /// Writes it, durably.
    pub fn write(&self, state_dir: &Path) -> Result<(), Error> {
        let path = Self::path(state_dir);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::Record { path: path.clone(), why: e.to_string() })?;
        text.push(b'\n');
        durable::write(&path, &text, 0o600).map_err(Error::File)
    }

    /// Forgets that this gateway was joined. The record goes first: copies without a record are leftovers,
    /// and a record without its copies could not be put back.
    pub fn clear(state_dir: &Path) -> Result<(), Error> {
        durable::remove(&Self::path(state_dir)).map_err(Error::File)?;
        let backup = state_dir.join(BACKUP);
        match std::fs::remove_dir_all(&backup) {
            Ok(()) => durable::sync_folder_of(&backup).map_err(Error::File),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::File(durable::named(e, "remove", &backup))),
        }
    }

    fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("join.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubelet_had_outlives_a_lost_state_folder_and_a_later_join() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubelet.conf");
        let beside = folder.path().join("kubelet.conf.before-edge");
        let put = |text: &str| durable::write(&path, text.as_bytes(), 0o600).unwrap();
        let keep = |state: &str| Replaced::keep(&folder.path().join(state), &path, "kubelet").unwrap();
        put("kubelet's own");
        let first = keep("first");
        first.lay_beside().unwrap();
        put("edge's");
        // The first state folder is lost here; leaving puts back what the second join found.
        let second = keep("second");
        second.lay_beside().unwrap();
        put("edge's second");
        second.restore().unwrap();
        second.clear_beside().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "edge's");
        assert_eq!(std::fs::read_to_string(&beside).unwrap(), "kubelet's own");
        first.clear_beside().unwrap();
        assert!(!beside.exists());
    }
}
