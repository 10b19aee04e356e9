//! Content by digest on disk, and everything that is known of it in `store.db`.
//!
//! # Layout on disk, below the folder given
//! - `blobs/<alg>/<xx>/<hex>`: a blob; there only after its bytes were hashed, synced and renamed
//! - `uploads/<id>`: a transfer under way; survives a restart
//! - `quarantine/<alg>-<hex>`: what no longer matches its digest, until that is here again or nobody needs it
//! - `store.db`: repositories, manifests' facts, refs, generations, charts, pins, trust state
//!
//! # Rules
//! - One thread writes (`writer`), in transactions that several callers share; readers only read.
//! - A blob is visible when its row says so, and the row is committed after the file is durable.
//! - A ref has one owner; the effective ref of a name is that of the first owner in the order bundle,
//!   mirror, pull-through, push. Bundles and the mirror change all their refs at once (a generation).
//! - Nothing here knows registries, HTTP or the format of a manifest: callers say what a manifest links to.
//!
//! Every call blocks on the disk: asynchronous callers use `tokio::task::spawn_blocking`.

mod blob;
mod chart;
mod database;
mod door;
mod error;
mod gc;
mod generation;
mod intake;
mod lived;
mod manifest;
mod needs;
mod note;
mod owned;
mod quarantine;
mod refs;
mod settle;
mod space;
mod untagged;
mod upload;
mod used;
mod verify;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::digest::Digest;
use crate::sys::durable;

pub use blob::{Blob, BlobSummary};
pub use chart::{Chart, NewChart, Replace};
pub use door::Door;
pub use error::Error;
pub use gc::{GcPlan, GcSettings, Hold};
pub use generation::{Generation, StateChart, StateItem, StateOf, StateRef, TrustUpdate};
pub use intake::{Incoming, Intake, Landing};
pub use manifest::{Absent, Manifest, NewManifest, Referrer};
pub use needs::Closure;
pub use quarantine::Aside;
pub use refs::{Owner, Ref, Repository};
pub use upload::{Ready, Upload, UploadId};
pub use verify::{Held, VerifyReport, VerifySettings};

pub use crate::sys::facts::{Child, Facts, Kind};
#[doc(hidden)]
pub use crate::sys::failpoint;

/// What the store needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The folder that everything lies in, such as `/var/lib/edge/store`.
    pub folder: PathBuf,
    /// Bytes of the file system that uploads leave free, so that the database can always commit.
    pub reserve: u64,
}

impl Settings {
    /// The store below the state folder, with the default reserve of 64 MiB.
    pub fn below(state_folder: &Path) -> Self {
        Self { folder: state_folder.join("store"), reserve: 64 << 20 }
    }
}

/// A handle to the store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    /// In place of that of the settings: it may change.
    reserve: Arc<AtomicU64>,
    readers: database::Readers,
    writer: writer::Writer,
    uploads: upload::Sessions,
    used: used::Used,
    holds: gc::Holds,
    /// When it was opened.
    opened: lived::Moment,
    /// Rises with every commit that changes what a name stands for.
    epoch: AtomicU64,
    /// The same for charts alone.
    chart_epoch: AtomicU64,
}

impl Inner {
    fn new(settings: Settings, readers: database::Readers, writer: writer::Writer) -> Self {
        Self {
            reserve: Arc::new(AtomicU64::new(settings.reserve)),
            readers,
            writer,
            uploads: upload::Sessions::default(),
            used: used::Used::default(),
            holds: gc::Holds::default(),
            opened: lived::Moment::now(),
            epoch: AtomicU64::new(0),
            chart_epoch: AtomicU64::new(0),
            settings,
        }
    }
}

impl Store {
    /// Opens the store, or makes an empty one. The caller holds the lock on the state folder.
    ///
    /// # Errors
    /// Where the folder or the database cannot be made, opened or migrated.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let reserve = Arc::new(AtomicU64::new(settings.reserve));
        Self::open_with(settings, reserve)
    }

    fn open_with(settings: Settings, reserve: Arc<AtomicU64>) -> Result<Self, Error> {
        for folder in ["", "blobs/sha256", "blobs/sha512", "uploads", "quarantine"] {
            durable::folder(&settings.folder.join(folder), 0o700)?;
        }
        let path = settings.folder.join("store.db");
        let connection = database::open_writer(&path)?;
        let (readers, writer) = (database::Readers::new(path), writer::Writer::start(connection)?);
        let inner = Inner { reserve, ..Inner::new(settings, readers, writer) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens a store that is there for reading alone, whoever else has it open. `None` where there is none.
    ///
    /// # Errors
    /// Where the database cannot be opened. Every change is [`Error::ForReading`].
    pub fn open_for_reading(settings: Settings) -> Result<Option<Self>, Error> {
        let path = settings.folder.join("store.db");
        if !durable::exists(&path)? {
            return Ok(None);
        }
        let readers = database::Readers::new(path);
        // Opened now, so that what is wrong with the file is told once.
        readers.read(|_| Ok(()))?;
        Ok(Some(Self { inner: Arc::new(Inner::new(settings, readers, writer::Writer::none())) }))
    }

    /// The same as [`Store::epoch`] for charts alone.
    pub fn chart_epoch(&self) -> u64 {
        self.inner.chart_epoch.load(Ordering::Acquire)
    }

    /// A number that differs whenever what names of images stand for may have changed: what was read
    /// under an epoch may be answered from memory for as long as it stays.
    pub fn epoch(&self) -> u64 {
        self.inner.epoch.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.inner.epoch.fetch_add(1, Ordering::AcqRel);
    }

    fn charts_changed(&self) {
        self.inner.chart_epoch.fetch_add(1, Ordering::AcqRel);
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let algorithm = digest.algorithm().name();
        self.inner.settings.folder.join("blobs").join(algorithm).join(&hex[..2]).join(hex)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.inner.settings.folder).finish()
    }
}
