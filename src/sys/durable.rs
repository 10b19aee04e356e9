//! Files that survive a power cut: written beside, synced, renamed, and the folder synced.
//!
//! The order is that of a journaled replace: content first, name second. A reader sees the old
//! file or the new one, never half of either.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Replaces the file at `path` by `bytes` with permissions `mode` (such as `0o600`), durably.
///
/// # Errors
/// The operation that failed, with the path in its text. The old file is untouched then.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = beside(path)?;
    let written = write_beside(&beside, bytes, mode).and_then(|()| std::fs::rename(&beside, path));
    if let Err(e) = written {
        // The half-written file is of no use to anybody, and the first error is the one to tell.
        let _ = std::fs::remove_file(&beside);
        return Err(named(e, "write", path));
    }
    sync_folder_of(path)
}

/// Removes a file durably. A file that is not there is no error.
///
/// # Errors
/// Anything but "not found", with the path.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_folder_of(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(named(e, "remove", path)),
    }
}

/// Makes a folder and those above it; the last one has permissions `mode`, also if it was there. A folder that snapd made
/// for a snap stays as it is: AppArmor lets a strict snap change all that is within, and not the folder itself.
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
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
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

/// The same error with what was tried and where, since `io::Error` tells neither.
pub fn named(error: io::Error, operation: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {operation} `{}`: {error}", path.display()))
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

fn write_beside(beside: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(beside)?;
    // The mode given to open is cut by the umask, and ignored where the file was there already.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` names no file", path.display()))
    })?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.new", std::process::id()));
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
