//! Files with secrets: nobody but their owner may read them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Error;

/// Refuses a file that others can read or write.
///
/// # Errors
/// [`Error::Content`] with the remedy, [`Error::Read`] where the file is not there.
pub(super) fn check(path: &Path) -> Result<(), Error> {
    let meta = std::fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if meta.mode() & 0o077 != 0 {
        let why = format!(
            "holds secrets and has mode {:04o} hint: chmod 0600 {}",
            meta.mode() & 0o7777,
            path.display()
        );
        return Err(Error::Content { path: path.to_owned(), why });
    }
    Ok(())
}
