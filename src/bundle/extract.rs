//! One file that rides along, taken out of a bundle: for an update of edge itself, or for whatever else an operator
//! sent.
//!
//! It is found by its name among what is signed; that name never leads anywhere on the stick. Bytes are hashed while
//! they are written beside the target, and bear its name only when they are what was signed. Nothing is ever replaced.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::Serialize;

use super::copy::part_of;
use super::import::Gateway;
use super::list::{BlobLine, Purpose, RefLine};
use super::open::Opened;
use super::readback::PartHash;
use super::stick::{in_order, let_go};
use super::{Error, Fault, name};
use crate::sys::beside::Beside;
use crate::sys::digest::{Algorithm, Digest, Hasher};
use crate::sys::durable;
use crate::sys::progress::{Item, Progress, Unit};
use crate::trust::Chain;

/// A file that was taken out.
#[derive(Clone, Debug, Serialize)]
pub struct Extracted {
    /// Its name in the bundle.
    pub name: String,
    /// Where it is now.
    pub path: PathBuf,
    /// What the depot sent it for.
    pub purpose: Purpose,
    /// What its bytes hash to.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// What is signed of a file.
struct Signed {
    purpose: Purpose,
    content: Digest,
    size: u64,
}

impl Gateway {
    /// Writes the file `wanted` of the bundle in `folder` to `to`, or into it if that is a folder. What the bundle
    /// leaves out because this gateway has it comes from the store. `chain` is what to believe, if not the pinned
    /// roots.
    ///
    /// # Errors
    /// [`Error`]; nothing is left at `to` then.
    pub fn extract(
        &self,
        folder: &Path,
        wanted: &str,
        to: &Path,
        chain: Option<Chain>,
        progress: &Progress,
    ) -> Result<Extracted, Error> {
        let opened = self.believed(folder, chain)?;
        let signed = find(&opened, wanted)?;
        let path = if to.is_dir() { to.join(wanted) } else { to.to_owned() };
        let mut target = Target::beside(&path, signed.content.algorithm())?;
        let mut item = progress.item(format!("extract {wanted}"), Some(signed.size), Unit::Bytes);
        match line_of(&opened, &signed.content)?.filter(|line| line.files() > 0) {
            Some(line) => from_stick(&opened, &line, &mut target, &mut item)?,
            None => self.copy_stored(wanted, &signed, &mut target, &mut item)?,
        }
        target.settle(&signed.content, wanted)?;
        item.done();
        let Signed { purpose, content, size } = signed;
        Ok(Extracted { name: wanted.to_owned(), path, purpose, digest: content, size })
    }

    fn copy_stored(
        &self,
        wanted: &str,
        signed: &Signed,
        target: &mut Target,
        item: &mut Item,
    ) -> Result<(), Error> {
        let here = self.store.blob(None, &signed.content)?;
        let file = here.ok_or_else(|| Error::NotCarried(wanted.to_owned()))?.open()?;
        let (beside, mut hashers) = (Beside::start()?, target.lend());
        beside.read(&file, signed.size, &mut hashers, Error::Files, |piece| {
            item.add(piece.len() as u64);
            target.write(piece)
        })?;
        target.give_back(hashers);
        Ok(())
    }
}

/// What is signed of the file `wanted`.
fn find(opened: &Opened, wanted: &str) -> Result<Signed, Error> {
    let mut there = Vec::new();
    let mut lines = opened.ref_lines()?;
    while let Some(line) = lines.next_ref()? {
        if let RefLine::File { name, purpose, size, content, .. } = line {
            if name == wanted {
                return Ok(Signed { purpose, content, size });
            }
            there.push(name);
        }
    }
    Err(Error::NoFile { name: wanted.to_owned(), there })
}

/// The line of a blob in `blobs.list`.
pub(super) fn line_of(opened: &Opened, content: &Digest) -> Result<Option<BlobLine>, Error> {
    let mut lines = opened.blob_lines()?;
    while let Some(line) = lines.next_blob(opened.manifest.part_size)? {
        if line.digest == *content {
            return Ok(Some(line));
        }
    }
    Ok(None)
}

fn from_stick(opened: &Opened, line: &BlobLine, target: &mut Target, item: &mut Item) -> Result<(), Error> {
    let (beside, mut hashers) = (Beside::start()?, target.lend());
    pour(opened, line, &beside, &mut hashers, &mut |piece| {
        item.add(piece.len() as u64);
        target.write(piece)
    })?;
    target.give_back(hashers);
    Ok(())
}

/// Hands `take` all bytes of a blob that lies on the stick, and hashes them by `hashers`; each part is what was signed
/// of it.
pub(super) fn pour(
    opened: &Opened,
    line: &BlobLine,
    beside: &Beside,
    hashers: &mut Vec<Hasher>,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let part_size = opened.manifest.part_size;
    let lying = opened.lying(line)?.ok_or_else(|| Fault::Missing(line.digest.to_string()))?;
    for index in 0..lying.files {
        let (steps, file) = part_of(&lying, part_size, line, index)?;
        in_order(&file);
        let part = PartHash::of(&line.carried, index);
        part.begin(hashers);
        let length = name::part_length(line.size, part_size, index);
        let broken = |e| lying.stick.broken(e, "read", &steps.join("/"));
        beside.read(&file, length, hashers, broken, &mut *take)?;
        part.check(hashers, &steps)?;
        let_go(&file);
    }
    Ok(())
}

/// A file on its way to its name. Dropped before it has that, it is gone.
struct Target {
    path: PathBuf,
    beside: PathBuf,
    file: File,
    /// What hashes its bytes; lent while they are written.
    hashers: Vec<Hasher>,
    named: bool,
}

impl Target {
    fn beside(path: &Path, algorithm: Algorithm) -> Result<Self, Error> {
        let Some(last) = path.file_name() else {
            return Err(Error::Usage(format!("`{}` names no file", path.display())));
        };
        if path.symlink_metadata().is_ok() {
            return Err(Error::Taken(path.to_owned()));
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(last);
        hidden.push(format!(".{}.part", uuid::Uuid::new_v4().simple()));
        let beside = path.with_file_name(hidden);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&beside);
        let file = file.map_err(|e| Error::Files(durable::named(e, "create", path)))?;
        let hashers = vec![Hasher::new(algorithm)];
        Ok(Self { path: path.to_owned(), beside, file, hashers, named: false })
    }

    /// Whoever writes hashes what it writes by these, and gives them back.
    fn lend(&mut self) -> Vec<Hasher> {
        std::mem::take(&mut self.hashers)
    }

    fn give_back(&mut self, hashers: Vec<Hasher>) {
        self.hashers = hashers;
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|e| Error::Files(durable::named(e, "write", &self.path)))
    }

    /// Gives it its name, if its bytes are those signed and nobody took the name meanwhile.
    fn settle(mut self, signed: &Digest, wanted: &str) -> Result<(), Error> {
        let written = self.hashers.pop().map(Hasher::finish);
        if written.as_ref() != Some(signed) {
            return Err(Fault::Digest(wanted.to_owned()).into());
        }
        self.file.sync_all().map_err(|e| Error::Files(durable::named(e, "sync", &self.path)))?;
        match renameat2(AT_FDCWD, &self.beside, AT_FDCWD, &self.path, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Err(Error::Taken(self.path.clone())),
            // A file system that cannot do it in one step.
            Err(Errno::EINVAL | Errno::ENOSYS) if self.path.symlink_metadata().is_err() => {
                let renamed = std::fs::rename(&self.beside, &self.path);
                renamed.map_err(|e| Error::Files(durable::named(e, "write", &self.path)))?;
            }
            Err(e) => return Err(Error::Files(durable::named(e.into(), "write", &self.path))),
        }
        self.named = true;
        durable::sync_folder_of(&self.path).map_err(Error::Files)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.named {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&self.beside);
        }
    }
}
