//! Intake: many blobs at once, as a bundle's import brings them, at the price of two syncs for the lot.
//!
//! Bytes are hashed as they are written. A batch is synced as a whole, then renamed and noted in one transaction.
//! What an interrupted intake leaves behind in `uploads/` bears a name of its own and goes when the next one begins.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::OptionalExtension;
use rustix::fs::{Advice, fadvise};

use super::error::During;
use super::manifest::Absent;
use super::upload::Ready;
use super::{Error, Facts, Hold, Store, blob, failpoint, generation};
use crate::sys::digest::{Digest, Hasher};
use crate::sys::direct::Direct;
use crate::sys::durable;

/// What names in `uploads/` begin with.
pub(super) const PREFIX: &str = "intake-";
/// How long somebody may take from a blob to the manifest that names it.
const RECENT: Duration = Duration::from_secs(600);
/// Bytes after which the free space is looked at again.
const LOOK: u64 = 32 << 20;

/// A blob that nobody has, and no manifest, chart or pin needs.
pub(super) const UNNEEDED: &str = "SELECT id FROM blob b WHERE digest = ?1 AND state <> 0
    AND NOT EXISTS (SELECT 1 FROM ref WHERE blob = b.id) AND NOT EXISTS (SELECT 1 FROM member WHERE blob = b.id)
    AND NOT EXISTS (SELECT 1 FROM link WHERE child = b.id) AND NOT EXISTS (SELECT 1 FROM pin WHERE blob = b.id)
    AND NOT EXISTS (SELECT 1 FROM chart WHERE blob = b.id) AND NOT EXISTS (SELECT 1 FROM chart WHERE provenance = b.id)";

/// Takes blobs in. The caller sees to it that there is one at a time. While it lives, what came with it is not collected.
pub struct Intake {
    store: Store,
    hold: Hold,
    folder: PathBuf,
    handle: File,
}

/// A blob on its way in. Dropped before [`Incoming::finish`], its bytes are removed.
pub struct Incoming<'a> {
    intake: &'a Intake,
    path: PathBuf,
    file: Direct,
    /// What hashes its bytes, unless the caller does.
    hasher: Option<Hasher>,
    landing: bool,
    digest: Digest,
    size: u64,
    looked: u64,
}

/// A blob whose bytes are written and right, and not yet synced.
#[derive(Debug)]
pub struct Landing {
    ready: Ready,
    facts: Option<Facts>,
}

impl Landing {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.ready.size
    }

    /// Which.
    pub fn digest(&self) -> &Digest {
        &self.ready.digest
    }

    /// How many others it links to, 0 if it is no manifest.
    pub fn links(&self) -> usize {
        self.facts.as_ref().map_or(0, |facts| facts.children.len())
    }
}

impl Store {
    /// Begins an intake, and removes what an interrupted one left.
    ///
    /// # Errors
    /// Where the folder cannot be read or cleared.
    pub fn intake(&self) -> Result<Intake, Error> {
        let folder = self.inner.settings.folder.join("uploads");
        for entry in std::fs::read_dir(&folder).map_err(|e| durable::named(e, "list", &folder))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                let path = entry.path();
                std::fs::remove_file(&path).map_err(|e| durable::named(e, "remove", &path))?;
            }
        }
        let handle = File::open(&folder).map_err(|e| durable::named(e, "open", &folder))?;
        Ok(Intake { store: self.clone(), hold: self.hold(), folder, handle })
    }

    /// Refuses when `bytes` more would eat into the reserve.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn check_room(&self, bytes: u64) -> Result<(), Error> {
        self.room_for(bytes)
    }
}

impl Intake {
    /// Begins a blob of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn begin(&self, digest: &Digest, size: u64) -> Result<Incoming<'_>, Error> {
        self.store.room_for(size)?;
        let path = self.folder.join(format!("{PREFIX}{}-{}", digest.algorithm().name(), digest.hex()));
        failpoint::pass("intake-create");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| durable::named(e, "create", &path))?;
        let file = Direct::new(file, size);
        let hasher = Some(Hasher::new(digest.algorithm()));
        let digest = digest.clone();
        Ok(Incoming { intake: self, path, file, hasher, landing: false, digest, size: 0, looked: 0 })
    }

    /// Brings a batch to disk and makes it visible, all of it or nothing.
    ///
    /// # Errors
    /// Where it cannot be synced, renamed or noted.
    pub fn land(&self, landings: Vec<Landing>) -> Result<(), Error> {
        failpoint::pass("intake-sync");
        nix::unistd::syncfs(&self.handle).map_err(|e| durable::named(e.into(), "sync", &self.folder))?;
        failpoint::pass("intake-synced");
        let store = self.store.clone();
        // None of them counts as used by this process, as others do that come: the hold keeps them for as long as it lives.
        self.store.inner.writer.write(move |batch| {
            for landing in &landings {
                match &landing.facts {
                    Some(facts) => store.note_manifest(batch, &landing.ready, facts, Absent::Allowed)?,
                    None => store.place(batch, &landing.ready)?,
                };
            }
            Ok(())
        })?;
        // Names may lead to some of them already: those had been set aside.
        self.store.changed();
        self.store.charts_changed();
        Ok(())
    }

    /// Removes blobs again that came in and that nothing refers to; says how many went. What another manifest links to stays:
    /// a ref may point at that one soon; and so does what somebody else brought or asked for lately. While another transfer is under way all of them stay, and a collection finds them:
    /// that one may have found them here and left them out of what it brings.
    ///
    /// A blob goes once no manifest links to it, so whoever wants all of them to go asks until none does.
    ///
    /// # Errors
    /// Where the database or the files cannot be changed.
    pub fn forget(&self, digests: Vec<Digest>) -> Result<usize, Error> {
        let (store, own) = (self.store.clone(), self.hold.id);
        let gone = self.store.inner.writer.write(move |batch| {
            let mut gone = Vec::new();
            if store.inner.holds.has_other(own) {
                return Ok(gone);
            }
            let others: BTreeSet<i64> = store.recently_used(RECENT).into_iter().collect();
            for digest in digests {
                let unneeded: Option<i64> = batch
                    .tx
                    .prepare_cached(UNNEEDED)
                    .and_then(|mut q| q.query_row([digest.as_str()], |r| r.get(0)).optional())
                    .during("find a blob")?;
                let Some(id) = unneeded.filter(|id| !others.contains(id)) else { continue };
                for statement in [
                    "DELETE FROM link WHERE parent = ?1",
                    "DELETE FROM manifest WHERE blob = ?1",
                    "UPDATE blob SET state = 0 WHERE id = ?1",
                    "DELETE FROM blob WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM manifest WHERE subject = ?1)",
                ] {
                    batch.tx.execute(statement, [id]).during("forget a blob")?;
                }
                gone.push(digest);
            }
            Ok(gone)
        })?;
        let count = gone.len();
        self.store.remove_files(gone)?;
        Ok(count)
    }

    /// The first that is not here of the configuration and layers of a manifest that has landed.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] where the manifest is not here itself.
    pub fn absent(&self, manifest: &Digest) -> Result<Option<Digest>, Error> {
        self.store.inner.readers.read(|c| {
            let id = blob::here(c, manifest)?.ok_or_else(|| Error::BlobUnknown(manifest.clone()))?;
            generation::absent(c, id)
        })
    }

    /// Whether a blob is here already, so that it need not come.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn has(&self, digest: &Digest) -> Result<bool, Error> {
        self.store.inner.readers.read(|c| Ok(blob::here(c, digest)?.is_some()))
    }
}

impl Incoming<'_> {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Error::Full`] where there is no room.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.size + bytes.len() as u64 > self.looked + LOOK {
            self.intake.store.room_for(bytes.len() as u64)?;
            self.looked = self.size;
        }
        self.file.write(bytes).map_err(|e| durable::named(e, "write", &self.path))?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Leaves it to the caller to hash what is written, for [`Incoming::finish_as`].
    #[must_use]
    pub fn hashed_by_caller(mut self) -> Self {
        self.hasher = None;
        self
    }

    /// Checks the digest. `facts` make it a manifest.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`]; its bytes are removed then.
    pub fn finish(mut self, facts: Option<Facts>) -> Result<Landing, Error> {
        match self.hasher.take().map(Hasher::finish) {
            Some(actual) => self.finish_as(actual, facts),
            None => Err(Error::Closed),
        }
    }

    /// The same, where the caller has hashed all that was written: to `actual`.
    ///
    /// # Errors
    /// As of [`Incoming::finish`].
    pub fn finish_as(mut self, actual: Digest, facts: Option<Facts>) -> Result<Landing, Error> {
        if actual != self.digest {
            return Err(Error::DigestMismatch { expected: self.digest.clone(), actual });
        }
        self.landing = true;
        // Advice that has the kernel begin to write now, and not only when the batch is synced.
        let _ = fadvise(self.file.file(), 0, None, Advice::DontNeed);
        let ready =
            Ready { path: self.path.clone(), digest: actual, size: self.size, stays: false, claim: None };
        Ok(Landing { ready, facts })
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        if !self.landing {
            // One that stays goes when the next intake begins.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
