//! Reading all of a bundle: before a stick is called safe to remove, and for `edge bundle verify`.
//!
//! After a write the page cache would answer in the stick's place, so it is dropped first.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::list::{BlobLine, Carried, ListReader};
use super::manifest::{List, Manifest};
use super::open::Opened;
use super::stick::{Stick, in_order, let_go};
use super::{Error, Fault, name};
use crate::sys::beside::Beside;
use crate::sys::digest::{Algorithm, Digest, Hasher};
use crate::sys::durable;
use crate::sys::progress::{Item, Progress, Unit};

/// Brings everything on the stick of `folder` to its medium.
///
/// # Errors
/// [`Error::Stick`] where a write failed behind our back.
pub fn sync(folder: &Path) -> Result<(), Error> {
    durable::sync_file_system(folder).map_err(Error::Stick)
}

/// Reads back what was just written, from the medium; of `small` the bytes are here still, under the steps to each file.
///
/// # Errors
/// [`Error::ReadBack`] where it is not what was written.
pub fn check(
    folder: &Path,
    manifest: &Manifest,
    small: &[(Vec<String>, &[u8])],
    progress: &Progress,
) -> Result<(), Error> {
    let stick = Stick::open(folder)?;
    let other = |shown: &str| Error::ReadBack(folder.join(shown).display().to_string());
    for (shown, list) in [(name::BLOBS_LIST, &manifest.blobs), (name::REFS_LIST, &manifest.refs)] {
        check_list(&stick, shown, list).map_err(|e| told(e, &other, shown))?;
    }
    for (steps, written) in small {
        let shown = steps.join("/");
        let kept = cold(&stick, steps, written.len() as u64).and_then(|mut file| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|e| stick.broken(e, "read", &shown))?;
            Ok(bytes)
        });
        if kept.map_err(|e| told(e, &other, &shown))? != *written {
            return Err(other(&shown));
        }
    }
    let file = cold(&stick, &[name::BLOBS_LIST], manifest.blobs.size)?;
    let mut lines = ListReader::blobs(BufReader::with_capacity(64 << 10, file));
    let beside = Beside::start()?;
    let mut item = progress.item("read back", Some(manifest.totals.carried_bytes), Unit::Bytes);
    while let Some(line) = lines.next_blob(manifest.part_size)? {
        let checked = check_blob(&stick, manifest, &line, Cache::Dropped, &beside, &mut item);
        checked.map_err(|e| told(e, &other, &line.digest.to_string()))?;
    }
    item.done();
    Ok(())
}

/// Here a fault is the stick's, and not an attack.
fn told(error: Error, other: &impl Fn(&str) -> Error, shown: &str) -> Error {
    match error {
        Error::Content(_) => other(shown),
        error => error,
    }
}

fn cold(stick: &Stick, steps: &[impl AsRef<str>], size: u64) -> Result<File, Error> {
    let file = stick.sized(steps, size)?;
    let_go(&file);
    Ok(file)
}

fn check_list(stick: &Stick, shown: &'static str, list: &List) -> Result<(), Error> {
    let mut file = cold(stick, &[shown], list.size)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.take_all(&mut file).map_err(|e| stick.broken(e, "read", shown))?;
    if hasher.finish() == list.digest { Ok(()) } else { Err(Fault::Digest(shown.into()).into()) }
}

/// Reads every blob of an opened bundle.
///
/// # Errors
/// [`Fault`] for the first one that is not what was signed.
pub fn verify(opened: &Opened, progress: &Progress) -> Result<(), Error> {
    let manifest = &opened.manifest;
    let beside = Beside::start()?;
    let mut item = progress.item("verify", Some(manifest.totals.carried_bytes), Unit::Bytes);
    let mut lines = opened.blob_lines()?;
    while let Some(line) = lines.next_blob(manifest.part_size)? {
        check_blob(&opened.stick, manifest, &line, Cache::Kept, &beside, &mut item)?;
    }
    item.done();
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cache {
    /// The medium itself must answer.
    Dropped,
    /// Memory may.
    Kept,
}

fn check_blob(
    stick: &Stick,
    manifest: &Manifest,
    line: &BlobLine,
    cache: Cache,
    beside: &Beside,
    item: &mut Item,
) -> Result<(), Error> {
    let mut hashers = vec![Hasher::new(line.digest.algorithm())];
    let count = line.files();
    for index in 0..count {
        let steps = name::part(manifest.layout, &line.digest, count, index);
        let length = name::part_length(line.size, manifest.part_size, index);
        let file = stick.sized(&steps, length)?;
        if cache == Cache::Dropped {
            let_go(&file);
        }
        in_order(&file);
        let part = PartHash::of(&line.carried, index);
        part.begin(&mut hashers);
        let broken = |e| stick.broken(e, "read", &steps.join("/"));
        beside.read(&file, length, &mut hashers, broken, |piece| {
            item.add(piece.len() as u64);
            Ok(())
        })?;
        part.check(&mut hashers, &steps)?;
        if cache == Cache::Dropped {
            let_go(&file);
        }
    }
    if count > 0 && hashers.pop().map(Hasher::finish).as_ref() != Some(&line.digest) {
        return Err(Fault::Digest(line.digest.to_string()).into());
    }
    Ok(())
}

/// The hash that is signed for one part, where it is not the blob's own.
pub struct PartHash(Option<Digest>);

impl PartHash {
    /// Of part `index`.
    pub fn of(carried: &Carried, index: u64) -> Self {
        let Carried::Parts(hashes) = carried else { return Self(None) };
        let hash = usize::try_from(index).ok().and_then(|index| hashes.get(index));
        Self(hash.cloned())
    }

    /// Adds what makes it to those that hash the part.
    pub fn begin(&self, hashers: &mut Vec<Hasher>) {
        hashers.extend(self.0.as_ref().map(|_| Hasher::new(Algorithm::Sha256)));
    }

    /// Takes that away again, and says whether the bytes were those signed.
    ///
    /// # Errors
    /// [`Fault::Digest`].
    pub fn check(self, hashers: &mut Vec<Hasher>, steps: &[String]) -> Result<(), Fault> {
        let Some(wanted) = self.0 else { return Ok(()) };
        let made = hashers.pop().map(Hasher::finish);
        if made == Some(wanted) { Ok(()) } else { Err(Fault::Digest(steps.join("/"))) }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]
mod tests {
    use super::*;
    use crate::sys::drive::Drive;

    #[test]
    fn what_a_gateway_looks_at_first_is_read_back_too() {
        let folder = tempfile::tempdir().unwrap();
        let at = |below: &str| folder.path().join(below);
        let manifest = crate::bundle::manifest::tests::manifest();
        let files = ["FORMAT", "trust/1.root.json", "manifest.dsse"];
        std::fs::create_dir(at(name::TRUST)).unwrap();
        for list in [name::BLOBS_LIST, name::REFS_LIST] {
            std::fs::write(at(list), "").unwrap();
        }
        let steps = |file: &str| file.split('/').map(str::to_owned).collect::<Vec<_>>();
        let small = files.map(|file| (steps(file), &b"as it was written"[..]));
        let whole = || files.iter().for_each(|file| std::fs::write(at(file), "as it was written").unwrap());
        let check = || check(folder.path(), &manifest, &small, &Progress::silent());
        for spoiled in files {
            whole();
            check().unwrap();
            type Spoil = fn(&Path) -> std::io::Result<()>;
            let ways: [Spoil; 3] = [
                |path| std::fs::write(path, "as it is not now."),
                |path| std::fs::write(path, "as it was"),
                |path| std::fs::remove_file(path),
            ];
            for spoil in ways {
                spoil(&at(spoiled)).unwrap();
                let told = check().unwrap_err().to_string();
                let wanted = format!("`{}` reads back differently", at(spoiled).display());
                assert!(told.starts_with(&wanted), "{told}");
            }
        }
    }

    #[test]
    fn the_drive_itself_is_told_to_flush() {
        let drive = Drive::mounted();
        sync(drive.folder()).unwrap();
        assert_eq!(drive.flushes(), 1);
    }
}
