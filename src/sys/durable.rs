//! Files that survive a power cut: written beside, synced, renamed, and the folder synced.
//!
//! The order is that of a journaled replace: content first, name second. A reader sees the old
//! file or the new one, never half of either.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::failpoint;

/// Replaces the file at `path` by `bytes` with permissions `mode` (such as `0o600`), durably. What a power cut leaves
/// beside it, which may be a key, goes with the next write, or with [`remove`].
///
/// # Errors
/// The operation that failed, with the path in its text. The old file is untouched then.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = beside(path)?;
    let failed = |e| named(e, "write", path);
    // Locked until it has its name or is gone.
    let mut file = loop {
        let options = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode)
            .custom_flags(NO_LINK)
            .clone();
        if let Some(file) = own(&options, &beside).map_err(failed)? {
            break file;
        }
    };
    let written = fill(&mut file, bytes, mode).and_then(|()| {
        failpoint::pass("beside-written");
        std::fs::rename(&beside, path)
    });
    if let Err(e) = written {
        // The half-written file is of no use to anybody, and the first error is the one to tell.
        let _ = std::fs::remove_file(&beside);
        return Err(failed(e));
    }
    sync_folder_of(path)
}

/// Removes a file durably, and what a write that was cut off has left beside it. A file that is not there is no error.
///
/// # Errors
/// Anything but "not found", with the path.
pub fn remove(path: &Path) -> io::Result<()> {
    let failed = |e| named(e, "remove", path);
    let is_gone = |removed: io::Result<()>| match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    };
    let mut gone = is_gone(std::fs::remove_file(path)).map_err(failed)?;
    let beside = beside(path)?;
    let options = OpenOptions::new().read(true).custom_flags(NO_LINK).clone();
    loop {
        match own(&options, &beside) {
            Ok(Some(_file)) => {
                gone |= is_gone(std::fs::remove_file(&beside)).map_err(failed)?;
                break;
            }
            // Somebody wrote meanwhile.
            Ok(None) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(named(e, "remove", &beside)),
        }
    }
    if gone { sync_folder_of(path) } else { Ok(()) }
}

/// Makes a folder and those above it; the last one has permissions `mode`, also if it was there. A folder that snapd made
/// for a snap stays as it is: AppArmor lets a strict snap change all that is within, and not the folder itself. So does one
/// on a disk that became read-only: what is in it is needed all the same.
///
/// # Errors
/// With the path.
pub fn folder(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .and_then(|()| std::fs::metadata(path))
        .and_then(|meta| {
            if meta.permissions().mode() & 0o7777 == mode || is_snapds(path) {
                return Ok(());
            }
            match std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)) {
                Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                    tracing::warn!(folder = %path.display(), "its permissions stay as they are: {e}");
                    Ok(())
                }
                set => set,
            }
        })
        .map_err(|e| named(e, "make folder", path))
}

/// Whether a path is `/var/snap/NAME/common`.
fn is_snapds(path: &Path) -> bool {
    path.strip_prefix("/var/snap")
        .is_ok_and(|rest| rest.components().count() == 2 && rest.ends_with("common"))
}

/// Syncs the folder that holds `path`, so that a rename or removal in it is on disk.
///
/// # Errors
/// With the folder's path.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| named(e, "sync", folder))
}

/// Brings the whole file system of the folder `path` to its medium, and has the drive flush what it holds in its cache: for
/// FAT `syncfs` alone does not, and FAT's own table lies in no file.
///
/// # Errors
/// With the path; also where a write failed behind our back.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    let synced = File::open(path).and_then(|folder| {
        nix::unistd::syncfs(&folder)?;
        folder.sync_all()
    });
    synced.map_err(|e| named(e, "sync", path))
}

/// The same error with what was tried and where, since `io::Error` tells neither.
pub fn named(error: io::Error, operation: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {operation} `{}`: {error}", path.display()))
}

/// Whether the disk or its file system does not give what is there, as opposed to a process that lacks something. Of an
/// error as the system gave it: [`named`] keeps its words alone.
pub fn is_unreadable(error: &io::Error) -> bool {
    use nix::errno::Errno::{EBADMSG, EIO, EUCLEAN};
    error
        .raw_os_error()
        .is_some_and(|code| [EIO, EBADMSG, EUCLEAN].contains(&nix::errno::Errno::from_raw(code)))
}

/// Whether there was no room for it, or not for this user.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether something is at `path`.
///
/// # Errors
/// Where that cannot be seen, which is not the same as nothing being there; the text names the path.
pub fn exists(path: &Path) -> io::Result<bool> {
    path.try_exists().map_err(|e| {
        let hint = if e.kind() == io::ErrorKind::PermissionDenied { " hint: run as root" } else { "" };
        let named = named(e, "look for", path);
        io::Error::new(named.kind(), format!("{named}{hint}"))
    })
}

/// A name that somebody else may have made is not followed.
const NO_LINK: i32 = nix::libc::O_NOFOLLOW;

/// Opens the file beside another and waits until nobody else writes it; `None` where it has got another name or was removed
/// by then.
fn own(options: &OpenOptions, beside: &Path) -> io::Result<Option<File>> {
    use std::os::unix::fs::MetadataExt as _;
    let file = options.open(beside)?;
    match file.lock() {
        // A file system without locks has no two writers of one file.
        Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(Some(file)),
        locked => locked?,
    }
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(beside) {
        Ok(there) => Ok(((there.dev(), there.ino()) == (ours.dev(), ours.ino())).then_some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn fill(file: &mut File, bytes: &[u8], mode: u32) -> io::Result<()> {
    // The mode given to open is cut by the umask, and ignored where the file was there already.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The one file that a file is written to before it gets its name.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` names no file", path.display()))
    })?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    Ok(path.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_snapd_made_for_a_snap_is_snapds() {
        for (path, is) in [
            ("/var/snap/edge/common", true),
            ("/var/snap/edge_two/common/", true),
            ("/var/snap/edge/common/cloud", false),
            ("/var/snap/common", false),
            ("/var/lib/edge/common", false),
            ("/srv/var/snap/edge/common", false),
        ] {
            assert_eq!(is_snapds(Path::new(path)), is, "{path}");
        }
    }

    #[test]
    fn replaces_content_and_mode_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        write(&path, b"one", 0o644).unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_cut_off_goes_with_the_next_write_and_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, beside) = (folder.path().join("key"), folder.path().join(".key.new"));
        let left = || {
            let mut names: Vec<_> =
                std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let cut_off = || {
            let mut file = File::create(&beside).unwrap();
            file.write_all(b"an older and longer key").unwrap();
            file.set_permissions(std::fs::Permissions::from_mode(0o644)).unwrap();
        };
        cut_off();
        write(&path, b"key", 0o600).unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), left()), (b"key".to_vec(), vec!["key".into()]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for there in [true, false] {
            cut_off();
            if !there {
                std::fs::remove_file(&path).unwrap();
            }
            remove(&path).unwrap();
            assert!(left().is_empty(), "{there}: {:?}", left());
            write(&path, b"key", 0o600).unwrap();
        }
        // Nothing is written through a link that lies in the way.
        let elsewhere = folder.path().join("elsewhere");
        write(&elsewhere, b"theirs", 0o600).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &beside).unwrap();
        write(&path, b"key", 0o600).unwrap_err();
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"theirs");
    }

    #[test]
    fn of_many_writers_at_once_each_writes_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let is_whole = |bytes: &[u8]| {
            bytes.len() == 3000 + usize::from(bytes[0]) && bytes.iter().all(|b| *b == bytes[0])
        };
        std::thread::scope(|scope| {
            for n in 0..8_u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..40 {
                        write(path, &vec![n; 3000 + usize::from(n)], 0o600).unwrap();
                        match std::fs::read(path) {
                            Ok(found) => assert!(is_whole(&found), "{} bytes", found.len()),
                            Err(e) => assert_eq!(e.kind(), io::ErrorKind::NotFound),
                        }
                        if n == 7 {
                            remove(path).unwrap();
                        }
                    }
                });
            }
        });
        write(&path, &[1; 3001], 0o600).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_seen_is_not_taken_for_absent() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        assert!(!exists(&file).unwrap());
        write(&file, b"one", 0o600).unwrap();
        assert!(exists(&file).unwrap());
        let below = file.join("store.db");
        assert!(exists(&below).unwrap_err().to_string().contains(&below.display().to_string()));
    }

    #[test]
    fn a_failed_write_names_the_path_and_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(&folder.path().join("no/such/file"), b"x", 0o600).unwrap_err();
        assert!(error.to_string().contains("no/such/file"), "{error}");
    }
}
