//! From bytes that are whole, hashed and synced to a blob that is noted; and what becomes of them where it is not.

use super::upload::Ready;
use super::writer::Batch;
use super::{Blob, Error, Store, blob};
use crate::sys::digest::Digest;

impl Store {
    /// Stores a small blob whole.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::DigestMismatch`].
    pub fn add_blob(&self, repository: Option<&str>, digest: &Digest, bytes: &[u8]) -> Result<Blob, Error> {
        self.place_in(repository, self.stage(digest, bytes)?)
    }

    /// Brings something small to disk, to be placed. Nothing of it is left where that fails.
    pub(super) fn stage(&self, digest: &Digest, bytes: &[u8]) -> Result<Ready, Error> {
        let mut upload = self.begin_upload(digest.algorithm(), bytes.len() as u64)?;
        match upload.write(bytes) {
            Ok(()) => upload.finish(digest),
            Err(e) => {
                upload.cancel();
                Err(e)
            }
        }
    }

    /// Has the writer make `change`, which places what is ready. Where that fails nobody would ever name its bytes again,
    /// and they are removed, unless it is to stay.
    pub(super) fn settle<T: Send + 'static>(
        &self,
        mut ready: Ready,
        change: impl FnOnce(&mut Batch<'_>, &Ready) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let left = (!ready.stays).then(|| ready.path.clone());
        // Held until its file has gone from where it was, one way or the other.
        let _claim = ready.claim.take();
        let settled = self.inner.writer.write(move |batch| change(batch, &ready));
        if let (Err(_), Some(path)) = (&settled, left) {
            // Renamed already, or stale one day; the first error is the one to tell.
            let _ = std::fs::remove_file(path);
        }
        settled
    }

    /// Makes a blob of what is ready, which can be fetched through `repository` if one is given.
    pub(super) fn place_in(&self, repository: Option<&str>, ready: Ready) -> Result<Blob, Error> {
        let (store, repository) = (self.clone(), repository.map(str::to_owned));
        let (digest, size) = (ready.digest.clone(), ready.size);
        let id = self.settle(ready, move |batch, ready| {
            let id = store.place(batch, ready)?;
            if let Some(repository) = repository {
                let repository = blob::repository_id(batch.tx, &repository)?;
                blob::add_member(batch.tx, repository, id, blob::BLOB)?;
            }
            Ok(id)
        })?;
        self.touch(id);
        Ok(self.found(&digest, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Absent, Facts, NewManifest, Owner, Settings, Upload};
    use crate::sys::digest::Algorithm;
    use crate::sys::durable;

    #[test]
    fn what_cannot_be_placed_is_not_left_in_uploads() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { folder: folder.path().join("store"), reserve: 0 };
        let store = Store::open(settings).unwrap();
        let digest = Digest::sha256(b"bytes");
        let facts = || Facts { media_type: "m".into(), ..Facts::default() };
        // A file where its folder would be.
        let shard = store.blob_path(&digest).parent().unwrap().to_owned();
        durable::write(&shard, b"", 0o600).unwrap();
        let uploaded = |mut upload: Upload| {
            upload.write(b"bytes").unwrap();
            upload.commit(&digest, Some("app")).map(drop)
        };
        store.add_blob(None, &digest, b"bytes").unwrap_err();
        uploaded(store.begin_upload(Algorithm::Sha256, 5).unwrap()).unwrap_err();
        store.add_manifest(b"bytes", &digest, facts()).unwrap_err();
        store.add_referrer("app", b"bytes", &digest, facts()).unwrap_err();
        let new = NewManifest {
            repository: "app",
            tag: None,
            bytes: b"bytes",
            digest: &digest,
            facts: facts(),
            owner: Owner::Push,
            absent: Absent::Refused,
            asked: false,
        };
        store.put_manifest(new).unwrap_err();
        let left = || std::fs::read_dir(folder.path().join("store/uploads")).unwrap().count();
        assert_eq!(left(), 0);
        // What came over a link is not fetched twice.
        uploaded(store.fetch_upload(&digest, 5).unwrap()).unwrap_err();
        assert_eq!(left(), 1);
        durable::remove(&shard).unwrap();
        let fetched = store.fetch_upload(&digest, 5).unwrap();
        assert_eq!(fetched.offset(), 5);
        fetched.commit(&digest, None).unwrap();
        assert_eq!(left(), 0);
    }

    #[test]
    fn nobody_has_an_upload_again_that_is_becoming_a_blob_nor_one_that_is_fetched() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { folder: folder.path().join("store"), reserve: 0 };
        let store = Store::open(settings).unwrap();
        let digest = Digest::sha256(b"bytes");
        let mut upload = store.begin_upload(Algorithm::Sha256, 5).unwrap();
        let id = upload.id();
        upload.write(b"bytes").unwrap();
        let ready = upload.finish(&digest).unwrap();
        assert!(matches!(store.resume_upload(id), Err(Error::UploadBusy(_))));
        assert_eq!(store.place_in(None, ready).unwrap().read().unwrap(), b"bytes");
        assert!(matches!(store.resume_upload(id), Err(Error::UploadUnknown(_))));
        for bytes in (0..200_u8).map(|n| [n]) {
            let digest = Digest::sha256(&bytes);
            let mut half = store.fetch_upload(&digest, 2).unwrap();
            half.write(&bytes).unwrap();
            let id = half.id();
            drop(half);
            assert!(matches!(store.resume_upload(id), Err(Error::UploadUnknown(_))), "anybody can tell {id}");
            assert_eq!(store.left_upload(&digest).unwrap().unwrap().offset(), 1);
        }
    }
}
