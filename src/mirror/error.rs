//! What can go wrong in the mirror: with one thing that is wanted, and with a run as a whole.

use std::path::PathBuf;

use crate::oci::{Boundless, Error as OciError, ManifestError};
use crate::store::Error as StoreError;

/// Why a run was not begun, or could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting makes no sense.
    #[error("key `{key}`: {why}")]
    Setting {
        /// Which.
        key: String,
        /// Why.
        why: String,
    },
    /// Credentials cannot be read.
    #[error("{0}")]
    Credentials(String),
    /// A file that settings name cannot be read.
    #[error("cannot read `{path}`: {why}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The client for upstreams cannot be set up.
    #[error(transparent)]
    Client(OciError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the last run found cannot be read or written.
    #[error("{0}")]
    Record(String),
    /// Nothing of that name is wanted.
    #[error("no rule wants `{0}` hint: `edge mirror explain` says why")]
    Unwanted(String),
    /// Nothing of that name is known, and not everybody could be asked.
    #[error("it is not known whether a rule wants `{name}`: {why}")]
    Unasked {
        /// Which.
        name: String,
        /// Who could not be asked, and why.
        why: String,
    },
    /// A name that is none.
    #[error("{0}")]
    Name(String),
    /// A git repository here.
    #[error(transparent)]
    Git(#[from] crate::git::Error),
    /// Another run is not over.
    #[error("a mirror run is under way since {0} hint: `edge status` shows how it went")]
    Running(String),
    /// A task ended unexpectedly.
    #[error("a task ended unexpectedly")]
    Ended,
}

impl Error {
    /// Whether it was asked for wrongly.
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Setting { .. } | Self::Unwanted(_) | Self::Name(_) | Self::Credentials(_))
    }
}

/// Why one thing did not come.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Upstream did not give it.
    #[error("{why}")]
    Upstream {
        /// In its words.
        why: String,
        /// No answer, or one that may be another the next time.
        unreachable: bool,
        /// It is not there.
        absent: bool,
    },
    /// The host has had enough of us for now.
    #[error("`{host}` limits its answers, again after {until}")]
    Limited {
        /// Which.
        host: String,
        /// A time, RFC 3339.
        until: String,
    },
    /// The store refused.
    #[error("{why}")]
    Store {
        /// In its words.
        why: String,
        /// No space is left: nothing else need be tried.
        full: bool,
    },
    /// A manifest that edge does not take.
    #[error("{0}")]
    Manifest(String),
    /// An index without an image for a platform.
    #[error("it has no image for {wanted}, only for {there}")]
    Platform {
        /// Which were wanted.
        wanted: String,
        /// Which are there.
        there: String,
    },
    /// The signature that the policy asks for does not hold.
    #[error("{0}")]
    Unsigned(String),
    /// A chart that is none, or not the one that was announced.
    #[error("{0}")]
    Chart(String),
    /// A git repository that cannot be read, there or here.
    #[error("{0}")]
    Git(String),
    /// The run ends before its time.
    #[error("{0}")]
    Stopped(String),
    /// A task ended unexpectedly.
    #[error("a task ended unexpectedly")]
    Ended,
}

impl Failure {
    /// Whether a verification refused it.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Unsigned(_))
    }

    /// Whether another time may be better.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Upstream { unreachable, .. } => *unreachable,
            Self::Limited { .. } | Self::Stopped(_) => true,
            _ => false,
        }
    }

    /// Whether upstream has no such thing.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Upstream { absent: true, .. })
    }
}

impl From<OciError> for Failure {
    fn from(error: OciError) -> Self {
        let absent = matches!(error, OciError::NotFound(_));
        let unreachable = error.is_unreachable();
        Self::Upstream { why: error.to_string().replace("; hint:", " hint:"), unreachable, absent }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let (full, why) = (error.is_full() || error.is_read_only(), error.to_string());
        Self::Store { why: why.replace("; hint:", " hint:"), full }
    }
}

impl From<crate::git::Error> for Failure {
    fn from(error: crate::git::Error) -> Self {
        Self::Git(error.to_string())
    }
}

impl From<Boundless> for Failure {
    fn from(error: Boundless) -> Self {
        Self::Manifest(error.to_string())
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(error.to_string().replace("; hint:", " hint:"))
    }
}
