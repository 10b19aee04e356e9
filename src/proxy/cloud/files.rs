//! The cloud's key material on disk, under `<state-dir>/cloud` (0700, every file 0600).
//!
//! A certificate and its key are one file, so that one rename switches both:
//!
//! - `client-current.pem` is in use; the cloud's kubeconfig names it.
//! - `client-next.pem` was issued and has not been accepted by the cloud yet.
//! - `pending.key` is the key of a signing request that is not answered yet.
//! - `ca.crt` is whom to trust as the server.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::kubeconfig::{Kubeconfig, Material};
use super::{ClientCertificate, Error};
use crate::sys::durable;

/// One after the other. Whoever else has the state folder is no process that changes it.
static CHANGING: Mutex<()> = Mutex::new(());

/// As long as it lives nobody else in this process changes the files.
#[derive(Debug)]
pub struct Held(#[allow(dead_code, reason = "it is the lock")] MutexGuard<'static, ()>);

/// The folder and its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudFiles {
    folder: PathBuf,
}

impl CloudFiles {
    /// Those of a state folder. Nothing is made yet.
    pub fn of(state_dir: &Path) -> Self {
        Self { folder: state_dir.join("cloud") }
    }

    /// Those of whichever state folder `config` names, if it is one that a join wrote.
    pub fn named_by(config: &Kubeconfig) -> Option<Self> {
        let file = |material: Option<&Material>| material.and_then(Material::file).map(Path::to_path_buf);
        let certificate = file(config.certificate.as_ref())?;
        let files = Self { folder: certificate.parent()?.to_path_buf() };
        let named = [Some(certificate), file(config.key.as_ref()), file(config.authority.as_ref())];
        (named == [Some(files.current()), Some(files.current()), Some(files.authority())]).then_some(files)
    }

    /// Waits until nobody else changes the files. For those that belong together: a join writes all of another cloud's,
    /// and no renewal for the one before may come between or after.
    pub fn hold() -> Held {
        Held(CHANGING.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Certificate and key in use.
    pub fn current(&self) -> PathBuf {
        self.folder.join("client-current.pem")
    }

    /// Whether `path` is that of the pair in use of any state folder.
    pub fn is_current(path: &Path) -> bool {
        path.parent().and_then(Path::parent).is_some_and(|state| Self::of(state).current() == path)
    }

    /// Certificate and key that the cloud has not accepted yet.
    pub fn next(&self) -> PathBuf {
        self.folder.join("client-next.pem")
    }

    /// The key of an open signing request.
    pub fn pending_key(&self) -> PathBuf {
        self.folder.join("pending.key")
    }

    /// Whom to trust as the server.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Reads one of the pairs. `None` if it is not there.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read_pair(&self, path: &Path) -> Result<Option<ClientCertificate>, Error> {
        match std::fs::read_to_string(path) {
            Ok(text) => ClientCertificate::parse(path, &text, &text).map(Some),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::Read(durable::named(e, "read", path))),
        }
    }

    /// Writes one of the pairs, durably.
    ///
    /// # Errors
    /// With the path; the old file is untouched then.
    pub fn write_pair(&self, path: &Path, pair: &ClientCertificate) -> io::Result<()> {
        self.write(path, pair.both_pem().as_bytes())
    }

    /// Writes any of the files, durably, and the folder if need be.
    ///
    /// # Errors
    /// With the path; the old file is untouched then.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        durable::folder(&self.folder, 0o700)?;
        durable::write(path, bytes, 0o600)
    }

    /// The pair that was issued last takes the place of the one in use.
    ///
    /// # Errors
    /// With the path; the one in use is untouched then.
    pub fn switch(&self, _held: &Held) -> io::Result<()> {
        let current = self.current();
        std::fs::rename(self.next(), &current).map_err(|e| durable::named(e, "rename to", &current))?;
        durable::sync_folder_of(&current)
    }

    /// Removes everything.
    ///
    /// # Errors
    /// With the path.
    pub fn clear(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Ok(()) => durable::sync_folder_of(&self.folder),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(durable::named(e, "remove", &self.folder)),
        }
    }
}
