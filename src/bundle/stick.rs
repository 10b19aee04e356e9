//! Reading from a stick that nobody trusts: plain files beneath one folder, never through a link, never more than asked.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, Mode, OFlags, fadvise, open, openat};
use rustix::io::Errno;

use super::{Error, Fault, name};
use crate::sys::durable;

/// Entries of a folder of a bundle that are looked at.
const MOST_ENTRIES: usize = 4_000_000;
/// Entries of the folder of bundles. They are kept in memory, before anything is known of who made them.
const MOST_BUNDLES: usize = 10_000;

/// The folder of one bundle.
#[derive(Debug)]
pub struct Stick {
    folder: OwnedFd,
    path: PathBuf,
}

impl Stick {
    /// Opens the folder of a bundle.
    ///
    /// # Errors
    /// Where it is no folder.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = open(path, flags, Mode::empty())
            .map_err(|e| Error::Stick(durable::named(e.into(), "open", path)))?;
        Ok(Self { folder, path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file at `steps` for reading, and its length. `None` where it is not there.
    ///
    /// # Errors
    /// [`Fault::NotAFile`] for a link, a pipe or whatever else lies there.
    pub fn file(&self, steps: &[impl AsRef<str>]) -> Result<Option<(File, u64)>, Error> {
        let shown = steps.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/");
        let Some((last, folders)) = steps.split_last() else { return Ok(None) };
        let mut at: Option<OwnedFd> = None;
        for step in folders {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match self.step(at.as_ref(), step.as_ref(), flags, &shown)? {
                Some(next) => at = Some(next),
                None => return Ok(None),
            }
        }
        // A pipe would let an opening without O_NONBLOCK wait for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
        let Some(found) = self.step(at.as_ref(), last.as_ref(), flags, &shown)? else { return Ok(None) };
        let file = File::from(found);
        let meta = file.metadata().map_err(|e| self.broken(e, "read", &shown))?;
        if !meta.is_file() {
            return Err(Fault::NotAFile(shown).into());
        }
        Ok(Some((file, meta.len())))
    }

    fn step(
        &self,
        at: Option<&OwnedFd>,
        name: &str,
        flags: OFlags,
        shown: &str,
    ) -> Result<Option<OwnedFd>, Error> {
        match openat(at.unwrap_or(&self.folder), name, flags, Mode::empty()) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            // A link, something that is no folder, a socket.
            Err(Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => Err(Fault::NotAFile(shown.into()).into()),
            Err(e) => Err(self.broken(e.into(), "open", shown)),
        }
    }

    /// The file at `steps`, which is signed to have `size` bytes.
    ///
    /// # Errors
    /// [`Fault::Missing`], [`Fault::Size`] before anything of it is read.
    pub fn sized(&self, steps: &[impl AsRef<str>], size: u64) -> Result<File, Error> {
        let shown = || steps.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/");
        let (file, found) = self.file(steps)?.ok_or_else(|| Fault::Missing(shown()))?;
        if found != size {
            return Err(Fault::Size { name: shown(), found, wanted: size }.into());
        }
        Ok(file)
    }

    /// All of a small file, or `None`.
    ///
    /// # Errors
    /// [`Fault::Size`] where it has more than `most` bytes.
    pub fn small(&self, steps: &[&str], most: u64) -> Result<Option<Vec<u8>>, Error> {
        let shown = steps.join("/");
        let Some((file, found)) = self.file(steps)? else { return Ok(None) };
        if found > most {
            return Err(crate::trust::Refusal::TooLarge { what: shown, most }.into());
        }
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes).map_err(|e| self.broken(e, "read", &shown))?;
        Ok(Some(bytes))
    }

    /// Names in the folder at `steps`; none where there is no such folder. Hidden ones, which systems leave on
    /// sticks, are left out.
    ///
    /// # Errors
    /// [`Fault::NotAFile`] where it is a link.
    pub fn names(
        &self,
        steps: &[&str],
        mut each: impl FnMut(&str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let shown = if steps.is_empty() { ".".to_owned() } else { steps.join("/") };
        let mut at: Option<OwnedFd> = None;
        for step in steps {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match self.step(at.as_ref(), step, flags, &shown)? {
                Some(next) => at = Some(next),
                None => return Ok(()),
            }
        }
        let descriptor = at.as_ref().unwrap_or(&self.folder).as_raw_fd();
        let entries = std::fs::read_dir(format!("/proc/self/fd/{descriptor}"))
            .map_err(|e| self.broken(e, "list", &shown))?;
        for (count, entry) in entries.enumerate() {
            let entry = entry.map_err(|e| self.broken(e, "list", &shown))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if count > MOST_ENTRIES {
                return Err(Fault::Extra(format!("{shown}/{name}")).into());
            }
            if !name.starts_with('.') {
                each(&name)?;
            }
        }
        Ok(())
    }

    /// Tells an error of the stick with the file's name.
    pub fn broken(&self, error: io::Error, operation: &str, shown: &str) -> Error {
        Error::Stick(durable::named(error, operation, &self.path.join(shown)))
    }
}

/// Lets go of what the kernel keeps of a file in memory: it is read once, and a gateway is small.
pub fn let_go(file: &File) {
    // Advice: where it is not taken, nothing is lost.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

/// Says that a file is read from its start to its end.
pub fn in_order(file: &File) {
    let _ = fadvise(file, 0, None, Advice::Sequential);
}

/// The bundles of one stream in one place.
#[derive(Clone, Debug)]
pub struct Found {
    newest: PathBuf,
    /// The newest of them first.
    older: Vec<PathBuf>,
}

impl Found {
    fn one(folder: &Path) -> Self {
        Self { newest: folder.to_owned(), older: Vec::new() }
    }

    /// The folder of the bundle with the highest number, whoever it is for; one that was never finished where there is no
    /// other.
    pub fn newest(&self) -> &Path {
        self.all().find(|folder| is_finished(folder)).unwrap_or(&self.newest)
    }

    /// The folders of all of them, the newest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.newest).chain(&self.older).map(PathBuf::as_path)
    }
}

/// Whether whoever made the bundle in `folder` came so far that there is one: what is signed is written last but one. A
/// folder without is what a full or pulled stick leaves.
pub(super) fn is_finished(folder: &Path) -> bool {
    // What cannot be seen is not absent.
    let is_absent = |file: &&str| {
        let found = folder.join(file).symlink_metadata();
        found.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    };
    ![name::MANIFEST, name::COMPLETE].iter().all(is_absent)
}

/// The bundles at `path`: itself, or those in it, by stream. Which of a stream is meant for a gateway only their
/// manifests say: see [`super::Gateway::choose`].
///
/// # Errors
/// [`Error::NotThere`].
pub fn find(path: &Path) -> Result<Vec<Found>, Error> {
    find_among(path, MOST_BUNDLES)
}

fn find_among(path: &Path, most: usize) -> Result<Vec<Found>, Error> {
    if path.join(name::MANIFEST).symlink_metadata().is_ok() {
        return Ok(vec![Found::one(path)]);
    }
    let folder = match path.file_name() {
        Some(last) if last == name::BUNDLES => path.to_owned(),
        _ => path.join(name::BUNDLES),
    };
    // A link could lead anywhere on this machine.
    if std::fs::symlink_metadata(&folder).is_ok_and(|meta| meta.is_symlink()) {
        return Err(Fault::NotAFile(folder.display().to_string()).into());
    }
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            // The folder of a bundle whose manifest is missing is still one.
            if path.join(name::FORMAT).exists() {
                return Ok(vec![Found::one(path)]);
            }
            return Err(Error::NotThere(path.to_owned()));
        }
        Err(e) => return Err(Error::Stick(durable::named(e, "list", &folder))),
    };
    let mut streams = std::collections::BTreeMap::<String, Vec<u64>>::new();
    for (count, entry) in entries.enumerate() {
        if count >= most {
            return Err(Error::TooMany { folder, most });
        }
        let entry = entry.map_err(|e| Error::Stick(durable::named(e, "list", &folder)))?;
        let text = entry.file_name();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if let Some((stream, seq)) = text.to_str().and_then(name::parse_folder).filter(|_| is_folder) {
            streams.entry(stream.to_owned()).or_default().push(seq);
        }
    }
    if streams.is_empty() {
        return Err(Error::NotThere(path.to_owned()));
    }
    let found = streams.into_iter().filter_map(|(stream, mut seqs)| {
        seqs.sort_unstable();
        let mut folders = seqs.iter().rev().map(|seq| folder.join(name::folder(&stream, *seq)));
        Some(Found { newest: folders.next()?, older: folders.collect() })
    });
    Ok(found.collect())
}

/// The bundles of the one stream at `path`.
///
/// # Errors
/// [`Error::Several`].
pub fn find_one(path: &Path) -> Result<Found, Error> {
    let mut found = find(path)?;
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(last), false) => {
            found.push(last);
            let names = found.iter().filter_map(|found| found.newest.file_name());
            let names = names.map(|name| name.to_string_lossy().into_owned());
            let streams = names.collect::<Vec<_>>().join(", ");
            Err(Error::Several { folder: path.to_owned(), streams })
        }
        (None, _) => Err(Error::NotThere(path.to_owned())),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]
mod tests {
    use super::*;

    #[test]
    fn a_stick_of_folders_without_end_is_not_listed_to_its_end() {
        let top = tempfile::tempdir().unwrap();
        let make = |number: usize| {
            std::fs::create_dir_all(top.path().join(format!("{}/a-{number}", name::BUNDLES))).unwrap();
        };
        (0..20).for_each(make);
        assert_eq!(find_among(top.path(), 20).unwrap().len(), 1);
        make(20);
        let refused = find_among(top.path(), 20).unwrap_err();
        assert!(matches!(refused, Error::TooMany { most: 20, .. }), "{refused}");
        // Whoever knows which one it is gives that.
        std::fs::write(top.path().join(format!("{}/a-7/{}", name::BUNDLES, name::MANIFEST)), "").unwrap();
        assert!(find_among(&top.path().join(name::BUNDLES).join("a-7"), 20).is_ok());
    }
}
