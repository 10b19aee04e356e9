//! The way in: roots, then the manifest, then the two lists. Nothing is believed before the step ahead of it held,
//! and nothing is read twice: lists are copied as they are hashed, and the copy is what is used.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;

use super::list::{BlobLine, ListReader};
use super::manifest::{self, List, Manifest};
use super::siblings::{Lying, Siblings};
use super::stick::Stick;
use super::{Error, Fault, name};
use crate::sys::clock;
use crate::sys::digest::{Algorithm, Hasher};
use crate::sys::durable;
use crate::trust::{Chain, LARGEST_ROOT, Refusal, Verified, root_file_name, version_of};

/// What is known of the time that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// What dates of earlier bundles say. It is worth as much as the keys that signed them.
    pub told: Timestamp,
    /// What root keys signed, and what edge saw itself.
    pub sure: Timestamp,
}

impl Passed {
    /// Where no bundle was seen before.
    pub fn sure(sure: Timestamp) -> Self {
        Self { told: Timestamp::UNIX_EPOCH, sure }
    }
}

/// A bundle whose manifest and lists are verified.
pub struct Opened {
    /// Where its blobs are.
    pub stick: Stick,
    /// The roots, as far as the stick leads.
    pub chain: Chain,
    /// What was signed.
    pub manifest: Verified<Manifest>,
    /// `manifest.dsse`, as it was verified.
    pub envelope: Vec<u8>,
    /// `blobs.list`.
    pub blobs: Spool,
    /// `refs.list`.
    pub refs: Spool,
    /// Where what it leaves out may lie.
    siblings: Siblings,
}

/// A bundle whose manifest is verified, and nothing else yet.
pub struct Signed {
    /// Where it is.
    pub stick: Stick,
    /// The roots, as far as the stick leads.
    pub chain: Chain,
    /// What was signed.
    pub manifest: Verified<Manifest>,
    /// `manifest.dsse`, as it was verified.
    pub envelope: Vec<u8>,
}

/// A list that was hashed while it was copied; gone when it is dropped.
pub struct Spool(File);

impl Spool {
    /// A file without a name in `folder`.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn new(folder: &Path) -> Result<Self, Error> {
        durable::folder(folder, 0o700).map_err(Error::Files)?;
        let path = folder.join(format!("spool-{}", uuid::Uuid::new_v4()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| Error::Files(durable::named(e, "create", &path)))?;
        std::fs::remove_file(&path).map_err(|e| Error::Files(durable::named(e, "remove", &path)))?;
        Ok(Self(file))
    }

    /// From its start.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn reader(&self) -> Result<BufReader<File>, Error> {
        let mut file = self.0.try_clone().map_err(Error::Files)?;
        file.rewind().map_err(Error::Files)?;
        Ok(BufReader::with_capacity(64 << 10, file))
    }

    /// For writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.0
    }
}

/// Opens the bundle in `folder` by `chain`, the roots that are believed. `passed` is what is known
/// of time; `scratch` is a folder of this machine's for the lists.
///
/// # Errors
/// [`Error`]; nothing was changed.
pub fn open(folder: &Path, chain: Chain, passed: Passed, scratch: &Path) -> Result<Opened, Error> {
    let Signed { stick, chain, manifest, envelope } = signed(folder, chain, passed)?;
    let blobs = spool(&stick, name::BLOBS_LIST, &manifest.blobs, scratch)?;
    let refs = spool(&stick, name::REFS_LIST, &manifest.refs, scratch)?;
    let siblings = Siblings::of(folder, &manifest);
    Ok(Opened { stick, chain, manifest, envelope, blobs, refs, siblings })
}

/// Verifies the manifest of the bundle in `folder` alone; see [`open`].
///
/// # Errors
/// [`Error`]; nothing was changed.
pub fn signed(folder: &Path, mut chain: Chain, passed: Passed) -> Result<Signed, Error> {
    let stick = Stick::open(folder)?;
    check_format(&stick)?;
    let pinned = chain.current().version;
    let read = |version: u64| stick.small(&[name::TRUST, &root_file_name(version)], LARGEST_ROOT);
    follow(&mut chain, newest_root(&stick)?, read)?;
    let envelope = stick.small(&[name::MANIFEST], manifest::LARGEST)?;
    let envelope = envelope.ok_or_else(|| Fault::Missing(name::MANIFEST.into()))?;
    let manifest = manifest_by(&chain, pinned, &envelope, passed)?;
    Ok(Signed { stick, chain, manifest, envelope })
}

/// Verifies a manifest by the roots that came with it, before the bundle lies anywhere; see [`open`].
///
/// # Errors
/// [`Error`].
pub fn believe(
    mut chain: Chain,
    roots: &BTreeMap<u64, Vec<u8>>,
    envelope: &[u8],
    passed: Passed,
) -> Result<Verified<Manifest>, Error> {
    let pinned = chain.current().version;
    let newest = roots.keys().next_back().copied().unwrap_or_default();
    follow(&mut chain, newest, |version| Ok(roots.get(&version).cloned()))?;
    manifest_by(&chain, pinned, envelope, passed)
}

/// Verifies a manifest by the newest root of `chain`, of which `pinned` was believed before.
fn manifest_by(
    chain: &Chain,
    pinned: u64,
    envelope: &[u8],
    passed: Passed,
) -> Result<Verified<Manifest>, Error> {
    let root = chain.current();
    // What a stolen key said of time goes with the key, as its sequence numbers do.
    let told = if chain.keys_are_new_since(pinned) { Timestamp::UNIX_EPOCH } else { passed.told };
    let passed = told.max(passed.sure);
    root.check_time(passed)?;
    let manifest: Verified<Manifest> =
        root.open(envelope, name::MANIFEST, manifest::PAYLOAD_TYPE, manifest::LARGEST)?;
    manifest.check()?;
    if manifest.root > root.version {
        return Err(Refusal::RootOrder { pinned: root.version, found: manifest.root }.into());
    }
    manifest.check_time(passed, root.expires)?;
    // The machine's clock may only let more in here: a gateway that lay on a shelf knows no other later time.
    manifest.check_step(passed.max(root.created).max(clock::machine()))?;
    Ok(manifest)
}

impl Opened {
    /// Where the files of a blob are: in this bundle, or, of one that it leaves out, in another of the stream beside it.
    ///
    /// # Errors
    /// Where the stick cannot be read.
    pub fn lying(&self, line: &BlobLine) -> Result<Option<Lying<'_>>, Error> {
        if line.files() == 0 {
            return self.siblings.find(line, self.manifest.part_size);
        }
        Ok(Some(Lying { stick: &self.stick, layout: self.manifest.layout, files: line.files() }))
    }

    /// Reads `blobs.list`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn blob_lines(&self) -> Result<ListReader<BufReader<File>>, Error> {
        Ok(ListReader::blobs(self.blobs.reader()?))
    }

    /// Reads `refs.list`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn ref_lines(&self) -> Result<ListReader<BufReader<File>>, Error> {
        Ok(ListReader::refs(self.refs.reader()?))
    }
}

fn check_format(stick: &Stick) -> Result<(), Error> {
    let wanted = format!("{}\n", manifest::FORMAT);
    let Some(bytes) = stick.small(&[name::FORMAT], 256)? else {
        return Err(Fault::Missing(name::FORMAT.into()).into());
    };
    if bytes != wanted.as_bytes() {
        let found = String::from_utf8_lossy(&bytes).trim().chars().take(40).collect();
        return Err(Fault::Format { found, wanted: manifest::FORMAT.into() }.into());
    }
    Ok(())
}

/// Follows the roots that came with a bundle, after making sure that they are of the same line as those pinned.
fn follow(
    chain: &mut Chain,
    newest: u64,
    read: impl Fn(u64) -> Result<Option<Vec<u8>>, Error>,
) -> Result<(), Error> {
    let pinned = chain.current().version;
    if let Some(theirs) = read(pinned)?
        && chain.agrees(pinned, &theirs) == Some(false)
    {
        let what = format!("{}/{}", name::TRUST, root_file_name(pinned));
        return Err(Refusal::Threshold { what, found: 0, needed: 1 }.into());
    }
    chain.follow(newest.max(pinned), read)
}

/// The version of the newest root on the stick.
fn newest_root(stick: &Stick) -> Result<u64, Error> {
    let mut newest = 0;
    stick.names(&[name::TRUST], |file| {
        let version = version_of(file).ok_or_else(|| Fault::Extra(format!("{}/{file}", name::TRUST)))?;
        newest = newest.max(version);
        Ok(())
    })?;
    Ok(newest)
}

/// Copies a list while hashing it, and only as many bytes as are signed.
fn spool(stick: &Stick, file: &'static str, list: &List, scratch: &Path) -> Result<Spool, Error> {
    let mut from = stick.sized(&[file], list.size)?.take(list.size);
    let mut spool = Spool::new(scratch)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    let mut lines = 0;
    loop {
        let read = from.read(&mut buffer).map_err(|e| stick.broken(e, "read", file))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        lines += buffer[..read].iter().filter(|b| **b == b'\n').count() as u64;
        spool.file().write_all(&buffer[..read]).map_err(Error::Files)?;
    }
    if hasher.finish() != list.digest || lines != list.lines {
        return Err(Fault::Digest(file.into()).into());
    }
    Ok(spool)
}
