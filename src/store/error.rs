//! What can go wrong in the store.

use std::io;

use crate::sys::digest::Digest;

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Writing would eat into the reserve that keeps the database able to commit.
    #[error(
        "`{folder}` is full: {free} bytes are free, {needed} are needed hint: free space, or run `edge gc`"
    )]
    Full {
        /// The store's folder.
        folder: String,
        /// Bytes free.
        free: u64,
        /// Bytes wanted, with the reserve.
        needed: u64,
    },
    /// A file cannot be read or written; the text names it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The database refused.
    #[error("cannot {operation} in `store.db`")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// SQLite's own words.
        source: rusqlite::Error,
    },
    /// The transaction that held the change could not be committed.
    #[error("cannot commit to `store.db`: {0}")]
    Commit(String),
    /// It was opened for reading alone.
    #[error("the store is open for reading alone")]
    ForReading,
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
    /// What arrived is not what was announced.
    #[error("the content is `{actual}`, not `{expected}`")]
    DigestMismatch {
        /// What was announced.
        expected: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// No such upload; it may have been finished or given up.
    #[error("there is no upload `{0}`")]
    UploadUnknown(String),
    /// Somebody else is writing to it.
    #[error("the upload `{0}` is being written to by another request")]
    UploadBusy(String),
    /// A manifest links to a blob that is not here.
    #[error("the blob `{0}` is not here")]
    BlobUnknown(Digest),
    /// The name has an owner that goes before the one who wants to change it.
    #[error("`{repository}:{name}` belongs to {owner} hint: change it there")]
    Owned {
        /// The repository.
        repository: String,
        /// Tag or digest.
        name: String,
        /// Whose it is.
        owner: String,
    },
    /// It is part of what an owner has that goes before the one who wants to remove it.
    #[error("`{digest}` is part of `{name}`, which belongs to {owner} hint: change it there")]
    Needed {
        /// The manifest or blob.
        digest: Digest,
        /// What it is part of, `repository:tag` or `repository@digest`.
        name: String,
        /// Whose that is.
        owner: String,
    },
    /// The same version of a chart is there, and replacing it was not asked for.
    #[error("chart `{name}-{version}` is there already")]
    ChartExists {
        /// The chart's name.
        name: String,
        /// Its version.
        version: String,
    },
    /// The chart has a provenance file, and replacing it was not asked for.
    #[error("the provenance file of chart `{name}-{version}` is there already")]
    ProvenanceExists {
        /// The chart's name.
        name: String,
        /// Its version.
        version: String,
    },
    /// There is no older generation to go back to.
    #[error("{owner} has no generation {wanted}")]
    GenerationUnknown {
        /// Whose generations.
        owner: String,
        /// The one asked for.
        wanted: u64,
    },
    /// A bundle's sequence number is not above the highest seen.
    #[error("sequence {seq} of stream `{stream}` is not above {highest}, the highest seen")]
    Rollback {
        /// The stream.
        stream: String,
        /// What came.
        seq: u64,
        /// What was seen.
        highest: u64,
    },
}

impl Error {
    /// Whether it came of a full file system, whoever noticed.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io(e) => matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
            Self::Database { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            _ => false,
        }
    }

    /// Whether it came of a file system that cannot be written to now.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Io(e) => e.kind() == io::ErrorKind::ReadOnlyFilesystem,
            Self::Database { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::ReadOnly)
            }
            _ => false,
        }
    }
}

/// Names the operation that a database error interrupted.
pub(super) trait During<T> {
    /// `operation` reads after "cannot".
    fn during(self, operation: &'static str) -> Result<T, Error>;
}

impl<T> During<T> for Result<T, rusqlite::Error> {
    fn during(self, operation: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Database { operation, source })
    }
}
