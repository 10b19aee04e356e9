//! Uploads: bytes that arrive piece by piece, hashed as they come, and become a blob at the end.
//!
//! An upload is a file named by its id. It survives a restart: the hash is computed again from the
//! file. One caller at a time has it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Blob, Error, Store, failpoint, intake};
use crate::sys::digest::{Algorithm, Digest, Hasher};
use crate::sys::durable;

/// Names an upload: a client's at random, so that it cannot be guessed; one that is fetched by its blob.
pub type UploadId = uuid::Uuid;

/// Bytes after which the free space is looked at again.
const LOOK: u64 = 8 << 20;

/// What is remembered of uploads that this process has seen.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<UploadId, Session>>);

enum Session {
    /// Somebody has it.
    Busy,
    /// Nobody has it; the hash of its first bytes.
    Idle(Box<Hasher>, u64),
}

/// An upload that this caller has to itself. Dropped, it can be taken up again.
pub struct Upload {
    store: Store,
    id: UploadId,
    path: PathBuf,
    file: File,
    /// `None` once it is finished or given up.
    hasher: Option<Hasher>,
    algorithm: Algorithm,
    offset: u64,
    looked: u64,
}

/// Keeps everybody from an upload that is whole: until it was renamed its file can be found, and whoever opened that
/// could write to the blob. Dropped, the upload is over.
pub(super) struct Claim {
    store: Store,
    id: UploadId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.store.sessions().remove(&self.id);
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.id)
    }
}

/// An upload that is whole, hashed and synced, and has only to be renamed.
#[derive(Debug)]
pub struct Ready {
    pub(super) path: PathBuf,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Where it cannot be placed it stays: it is that of [`Store::fetch_upload`], and whoever fetches the blob next finds
    /// it; or it was set aside.
    pub(super) stays: bool,
    /// What is no upload that could be taken up again needs none.
    pub(super) claim: Option<Claim>,
}

impl Store {
    /// Begins an upload whose digest will be of `algorithm` (any other works too, and costs a second
    /// reading). `size` is what is announced, 0 if nothing is.
    ///
    /// # Errors
    /// [`Error::Full`] where there is no room.
    pub fn begin_upload(&self, algorithm: Algorithm, size: u64) -> Result<Upload, Error> {
        self.create_upload(UploadId::new_v4(), algorithm, size)
    }

    /// The one upload of a blob that is fetched from elsewhere: taken up where an earlier one broke off, also in an
    /// earlier process.
    ///
    /// # Errors
    /// [`Error::Full`] where there is no room, [`Error::UploadBusy`] while somebody else fetches it.
    pub fn fetch_upload(&self, digest: &Digest, size: u64) -> Result<Upload, Error> {
        match self.left_upload(digest)? {
            None => self.create_upload(fetch_id(digest), digest.algorithm(), size),
            Some(upload) if upload.offset() > size => {
                upload.cancel();
                self.create_upload(fetch_id(digest), digest.algorithm(), size)
            }
            Some(upload) => self.room_for(size - upload.offset()).map(|()| upload),
        }
    }

    /// What an earlier [`Store::fetch_upload`] of a blob left, if anything, for those who do not know yet how large the
    /// blob is. What cannot be read any more is nothing: it is removed, and the blob comes anew.
    ///
    /// # Errors
    /// [`Error::UploadBusy`] while somebody else fetches it.
    pub fn left_upload(&self, digest: &Digest) -> Result<Option<Upload>, Error> {
        let id = fetch_id(digest);
        match self.reopen_upload(id) {
            Ok(upload) => Ok(Some(upload)),
            Err(Error::UploadUnknown(_)) => Ok(None),
            Err(Error::Io(error)) => {
                // Where that fails too, as on a file system that cannot be written to, the first error says more.
                if std::fs::remove_file(self.upload_path(id)).is_err() {
                    return Err(Error::Io(error));
                }
                tracing::warn!(%digest, %error, "what was fetched of a blob cannot be read, and comes anew");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn create_upload(&self, id: UploadId, algorithm: Algorithm, size: u64) -> Result<Upload, Error> {
        self.room_for(size)?;
        let path = self.upload_path(id);
        failpoint::pass("upload-create");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| durable::named(e, "create", &path))?;
        self.sessions().insert(id, Session::Busy);
        let hasher = Some(Hasher::new(algorithm));
        Ok(Upload { store: self.clone(), id, path, file, hasher, algorithm, offset: 0, looked: 0 })
    }

    /// Takes up an upload of [`Store::begin_upload`] again, also one that an earlier process began.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`], also for one of [`Store::fetch_upload`], whose name anybody can tell; or
    /// [`Error::UploadBusy`] while another request has it, or it is becoming a blob.
    pub fn resume_upload(&self, id: UploadId) -> Result<Upload, Error> {
        if id.get_version() != Some(uuid::Version::Random) {
            return Err(Error::UploadUnknown(id.to_string()));
        }
        self.reopen_upload(id)
    }

    fn reopen_upload(&self, id: UploadId) -> Result<Upload, Error> {
        let path = self.upload_path(id);
        let known = match self.sessions().insert(id, Session::Busy) {
            Some(Session::Busy) => return Err(Error::UploadBusy(id.to_string())),
            Some(Session::Idle(hasher, offset)) => Some((*hasher, offset)),
            None => None,
        };
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let resumed = opened.and_then(|mut file| {
            let (hasher, offset) = match known {
                Some(known) => known,
                None => hash_file(&mut file, Algorithm::Sha256)?,
            };
            file.set_len(offset)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok((file, hasher, offset))
        });
        match resumed {
            Ok((file, hasher, offset)) => {
                let algorithm = hasher.algorithm();
                let hasher = Some(hasher);
                Ok(Upload { store: self.clone(), id, path, file, hasher, algorithm, offset, looked: offset })
            }
            Err(e) => {
                self.sessions().remove(&id);
                if e.kind() == io::ErrorKind::NotFound {
                    return Err(Error::UploadUnknown(id.to_string()));
                }
                Err(durable::named(e, "open", &path).into())
            }
        }
    }

    fn upload_path(&self, id: UploadId) -> PathBuf {
        self.inner.settings.folder.join("uploads").join(id.to_string())
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Session>> {
        self.inner.uploads.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes uploads that nobody has written to since `before` (seconds since 1970, by the machine's clock). What an intake
    /// wrote is left to the next intake: it may be waiting to land, whatever its time says.
    pub(super) fn drop_stale_uploads(&self, before: i64) -> Result<u64, Error> {
        use std::os::unix::fs::MetadataExt;
        let folder = self.inner.settings.folder.join("uploads");
        let mut dropped = 0;
        for entry in std::fs::read_dir(&folder).map_err(|e| durable::named(e, "list", &folder))? {
            let Ok(entry) = entry else { continue };
            if entry.file_name().to_string_lossy().starts_with(intake::PREFIX) {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            let id = entry.file_name().to_str().and_then(|name| name.parse::<UploadId>().ok());
            let busy = id.is_some_and(|id| matches!(self.sessions().get(&id), Some(Session::Busy)));
            if meta.mtime() >= before || busy {
                continue;
            }
            let path = entry.path();
            match std::fs::remove_file(&path) {
                Ok(()) => dropped += 1,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(durable::named(e, "remove", &path).into()),
            }
            if let Some(id) = id {
                self.sessions().remove(&id);
            }
        }
        Ok(dropped)
    }
}

impl Upload {
    /// Its name.
    pub fn id(&self) -> UploadId {
        self.id
    }

    /// Bytes taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// A second handle to its bytes, for readers that follow while it grows.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub fn reader(&self) -> Result<File, Error> {
        Ok(File::open(&self.path).map_err(|e| durable::named(e, "open", &self.path))?)
    }

    /// Takes the next bytes. After an error nothing of them was taken.
    ///
    /// # Errors
    /// [`Error::Full`] where there is no room.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.offset + bytes.len() as u64 > self.looked + LOOK || self.looked == 0 {
            self.store.room_for(bytes.len() as u64)?;
            self.looked = self.offset + 1;
        }
        if let Err(e) = self.file.write_all(bytes) {
            // What was half written is cut off again; should that fail too, the next try starts at the offset all the same.
            let _ = self.file.set_len(self.offset);
            let _ = self.file.seek(SeekFrom::Start(self.offset));
            return Err(durable::named(e, "write", &self.path).into());
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Checks the digest, and brings the bytes to disk.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`], or that it cannot be read or synced; the upload is gone then.
    pub fn finish(mut self, digest: &Digest) -> Result<Ready, Error> {
        let hasher = match self.hasher.take() {
            Some(hasher) if self.algorithm == digest.algorithm() => hasher,
            _ => match hash_file(&mut self.file, digest.algorithm()) {
                Ok((hasher, _)) => hasher,
                // Nobody could take it up again: what was hashed of it is gone.
                Err(e) => {
                    self.remove();
                    return Err(durable::named(e, "read", &self.path).into());
                }
            },
        };
        let actual = hasher.finish();
        if actual != *digest {
            self.remove();
            return Err(Error::DigestMismatch { expected: digest.clone(), actual });
        }
        failpoint::pass("upload-sync");
        let synced = self.file.sync_all();
        failpoint::pass("upload-synced");
        if let Err(e) = synced {
            self.remove();
            return Err(durable::named(e, "sync", &self.path).into());
        }
        Ok(Ready {
            path: self.path.clone(),
            digest: actual,
            size: self.offset,
            stays: self.id == fetch_id(digest),
            claim: Some(Claim { store: self.store.clone(), id: self.id }),
        })
    }

    /// Finishes it as a blob, which can be fetched through `repository` if one is given.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`], or that it cannot be noted; the upload is gone then, unless it is one that is fetched
    /// and whole.
    pub fn commit(self, digest: &Digest, repository: Option<&str>) -> Result<Blob, Error> {
        let store = self.store.clone();
        store.place_in(repository, self.finish(digest)?)
    }

    /// Gives it up; its bytes are removed.
    pub fn cancel(mut self) {
        self.hasher = None;
        self.remove();
    }

    fn remove(&mut self) {
        // One that stays is removed as stale later.
        let _ = std::fs::remove_file(&self.path);
        // Last: who found the file before would write to one that has no name.
        self.store.sessions().remove(&self.id);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(hasher) = self.hasher.take() {
            self.store.sessions().insert(self.id, Session::Idle(Box::new(hasher), self.offset));
        }
    }
}

/// The name of the one upload of a blob that is fetched, never that of a client's.
fn fetch_id(digest: &Digest) -> UploadId {
    let mut name = [0; 16];
    for (byte, pair) in name.iter_mut().zip(digest.hex().as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).ok();
        *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0);
    }
    uuid::Builder::from_custom_bytes(name).into_uuid()
}

/// The hash of a whole file from its start, and its length.
fn hash_file(file: &mut File, algorithm: Algorithm) -> io::Result<(Hasher, u64)> {
    let mut hasher = Hasher::new(algorithm);
    let length = read_through(file, |piece| {
        hasher.update(piece);
        true
    })?;
    Ok((hasher, length))
}

/// Hands a file's bytes from its start to `take` until that says false, and says how many there were.
pub(super) fn read_through(file: &mut File, mut take: impl FnMut(&[u8]) -> bool) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; 256 << 10];
    let mut length = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(n) => {
                length += n as u64;
                if !take(&buffer[..n]) {
                    return Ok(length);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Whether a file's bytes still hash to `digest`.
pub(super) fn matches(path: &Path, digest: &Digest) -> io::Result<bool> {
    let mut file = File::open(path)?;
    Ok(hash_file(&mut file, digest.algorithm())?.0.finish() == *digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_that_cannot_be_read_is_gone_and_not_busy_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let settings = crate::store::Settings { folder: folder.path().join("store"), reserve: 0 };
        let store = Store::open(settings).unwrap();
        let mut upload = store.begin_upload(Algorithm::Sha256, 0).unwrap();
        upload.write(b"bytes").unwrap();
        // Another algorithm has the file read again, which this handle cannot.
        upload.file = OpenOptions::new().write(true).open(&upload.path).unwrap();
        let (id, path) = (upload.id(), upload.path.clone());
        assert!(matches!(upload.finish(&Digest::of(Algorithm::Sha512, b"bytes")), Err(Error::Io(_))));
        assert!(matches!(store.resume_upload(id), Err(Error::UploadUnknown(_))));
        assert!(!path.exists());
    }
}
