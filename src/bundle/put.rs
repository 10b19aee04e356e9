//! Writing a few files into a folder of a stick. The folder is opened once and all goes through that handle: whoever
//! holds the stick may put a link in its place at any time, and root would write wherever that leads.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, fsync, mkdir, open, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::{Error, Fault};
use crate::sys::durable;

/// A folder that is no link.
#[derive(Debug)]
pub struct Folder {
    handle: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder on the stick, and makes it if it is not there.
    ///
    /// # Errors
    /// [`Fault::NotAFile`] for a link or a file in its place.
    pub fn make(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut opened = open(path, flags, Mode::empty());
        if opened.as_ref().is_err_and(|e| *e == Errno::NOENT) {
            match mkdir(path, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(Error::Stick(durable::named(e.into(), "make", path))),
            }
            opened = open(path, flags, Mode::empty());
        }
        match opened {
            Ok(handle) => Ok(Self { handle, path: path.to_owned() }),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(Fault::NotAFile(path.display().to_string()).into()),
            Err(e) => Err(Error::Stick(durable::named(e.into(), "open", path))),
        }
    }

    /// The folder itself, to be locked.
    pub(super) fn into_file(self) -> File {
        self.handle.into()
    }

    /// Replaces the file `name`: written beside it, synced, renamed. Never through a link that lies there.
    ///
    /// # Errors
    /// [`Error::Stick`]; those of `write`.
    pub fn replace(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let part = format!("{name}.part");
        let failed = |operation: &'static str, e: Errno| {
            Error::Stick(durable::named(e.into(), operation, &self.path.join(&part)))
        };
        match unlinkat(&self.handle, &part, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(failed("remove", e)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(&self.handle, &part, flags, Mode::from_raw_mode(0o644));
        let mut file = File::from(opened.map_err(|e| failed("create", e))?);
        write(&mut file)?;
        fsync(&file).map_err(|e| failed("sync", e))?;
        renameat(&self.handle, &part, &self.handle, name).map_err(|e| failed("rename", e))?;
        fsync(&self.handle).map_err(|e| Error::Stick(durable::named(e.into(), "sync", &self.path)))?;
        Ok(self.path.join(name))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_link_in_the_folders_place_leads_nowhere_not_even_later() {
        let stick = tempfile::tempdir().unwrap();
        let at = |below: &str| stick.path().join(below);
        std::fs::create_dir(at("elsewhere")).unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), at("link")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for taken in ["link", "file"] {
            let refused = Folder::make(&at(taken)).unwrap_err();
            assert!(matches!(refused, Error::Content(Fault::NotAFile(_))), "{refused}");
        }
        let folder = Folder::make(&at("edge-receipts")).unwrap();
        // Between two steps somebody puts a link there, and one in the file's place.
        let text = |file: &mut File| file.write_all(b"text").map_err(Error::Stick);
        std::os::unix::fs::symlink(at("elsewhere/hit"), at("edge-receipts/b.part")).unwrap();
        folder.replace("a", text).unwrap();
        std::fs::rename(at("edge-receipts"), at("moved")).unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), at("edge-receipts")).unwrap();
        assert_eq!(folder.replace("b", text).unwrap(), at("edge-receipts/b"));
        assert_eq!(std::fs::read(at("moved/a")).unwrap(), b"text");
        assert_eq!(std::fs::read(at("moved/b")).unwrap(), b"text");
        assert_eq!(std::fs::read_dir(at("elsewhere")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(at("moved")).unwrap().count(), 2, "nothing is left half made");
    }
}
