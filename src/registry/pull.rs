//! Pull-through: what is not here is fetched from an upstream that is configured, once for all who wait.
//!
//! A fetch belongs to nobody: a client that hangs up does not end it. What is here is never asked for again
//! before it is answered, and nothing an upstream says removes anything.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use super::places::Awake;
use super::reply::Body;
use super::{Sources, referrers};
use crate::oci::{Error as OciError, ParsedManifest};
use crate::store::{Absent, Error as StoreError, NewManifest, Owner, Store};
use crate::sys::digest::Digest;

mod behind;
pub(super) mod transfer;

pub use behind::is_whole;
use transfer::Transfer;

/// How often a tag is looked up again behind the answer, and an image completed.
const REVALIDATE: Duration = Duration::from_secs(60);
/// Names whose last look-up is remembered.
const LOOKED: usize = 10_000;
/// Fetches at once of manifests, and of blobs. Anybody may ask, and a fetch outlives who asked.
const AT_ONCE: usize = 8;
/// Fetches that wait for those; beyond them the answer is "not here" at once, and clients go on to the registry itself.
const WAITING: usize = 64;
/// Images at once that are fetched whole to take the place of others; each takes one place of those for blobs.
const RENEWED_AT_ONCE: usize = 2;
/// How long what an upstream has not got is not asked for again.
const ABSENT: Duration = Duration::from_secs(60);

pub(super) struct Pull(Arc<Inner>);

struct Inner {
    store: Store,
    sources: Sources,
    manifests: Mutex<HashMap<(String, Sought), watch::Receiver<bool>>>,
    blobs: Mutex<HashMap<Digest, Arc<Transfer>>>,
    looked: Mutex<HashMap<(String, String), Instant>>,
    /// Tags that are being looked up again.
    renewing: Mutex<HashSet<(String, String)>>,
    /// What an upstream has not got, and since when that is known.
    absent: Mutex<HashMap<(String, Absence), Instant>>,
    /// Places for those who ask only whether a blob is there.
    heads: Semaphore,
    /// Places for fetches of manifests, which large blobs do not take.
    small: Semaphore,
    /// Places for fetches of blobs.
    large: Semaphore,
    /// Places for images that are fetched to take the place of others.
    renewals: Semaphore,
    awake: Awake,
}

/// What an upstream has not got: a digest may be that of a manifest and of no blob.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Absence {
    Manifest(Digest),
    Blob(Digest),
}

/// A manifest whose bytes are as its digest says.
struct Known {
    bytes: Bytes,
    digest: Digest,
    parsed: ParsedManifest,
}

/// What is looked for in a repository upstream.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Sought {
    /// A manifest, by tag or digest.
    Manifest(String),
    /// All manifests that are about this one.
    About(Digest),
}

impl Pull {
    pub(super) fn new(store: Store, sources: Sources, awake: Awake) -> Self {
        Self(Arc::new(Inner {
            store,
            sources,
            manifests: Mutex::default(),
            blobs: Mutex::default(),
            looked: Mutex::default(),
            renewing: Mutex::default(),
            absent: Mutex::default(),
            heads: Semaphore::new(AT_ONCE + WAITING),
            small: Semaphore::new(AT_ONCE),
            large: Semaphore::new(AT_ONCE),
            renewals: Semaphore::new(RENEWED_AT_ONCE),
            awake,
        }))
    }

    pub(super) fn sources(&self) -> &Sources {
        &self.0.sources
    }

    /// Fetches a manifest into the store, if an upstream that may be asked has it.
    pub(super) async fn manifest(&self, names: &[String], name: &str) {
        let Some(repository) = self.0.sources.first_ready(names) else { return };
        let fetched = self.0.clone().fetch_once(repository.clone(), Sought::Manifest(name.to_owned()));
        let Some(mut done) = fetched else { return };
        // An error means that the fetch ended without a word; the store says what is there.
        let _ = done.wait_for(|done| *done).await;
    }

    /// Fetches the manifests that are about `subject` into the store, if an upstream that may be asked lists any, and
    /// was not asked lately. Waits for them only if `wait`: what is here is answered at once.
    pub(super) async fn referrers(&self, names: &[String], subject: &Digest, wait: bool) {
        let inner = &self.0;
        let Some(repository) = inner.sources.first_ready(names) else { return };
        let fetched = inner.clone().fetch_once(repository.clone(), Sought::About(subject.clone()));
        let Some(mut done) = fetched else { return };
        if wait {
            let _ = done.wait_for(|done| *done).await;
        }
    }

    /// A blob that is not here, as it comes in: its size if that is known, and its bytes.
    pub(super) async fn blob(&self, names: &[String], digest: &Digest) -> Option<(Option<u64>, Body)> {
        let repository = self.0.sources.first_ready(names)?;
        let transfer = self.transfer(repository, digest)?;
        transfer.follow().await
    }

    /// The size of a blob that an upstream has, if it says that; `None` where none has it or too many ask.
    pub(super) async fn head_blob(&self, names: &[String], digest: &Digest) -> Option<Option<u64>> {
        let inner = &self.0;
        let repository = inner.sources.first_ready(names)?;
        if inner.is_absent(repository, Absence::Blob(digest.clone())) {
            return None;
        }
        let _waits = inner.heads.try_acquire().ok()?;
        let _place = inner.small.acquire().await.ok()?;
        let (upstream, path) = inner.sources.ready(repository)?;
        let asked = inner.sources.client().ok()?.head_blob(&upstream, path, digest).await;
        inner.sources.note(&upstream, &asked);
        if matches!(asked, Err(OciError::NotFound(_))) {
            inner.note_absent(repository, Absence::Blob(digest.clone()));
        }
        asked.ok()
    }

    /// The transfer of a blob that is under way, or a new one. `None` where too many wait, or the upstream has no such
    /// blob.
    fn transfer(&self, repository: &str, digest: &Digest) -> Option<Arc<Transfer>> {
        let mut blobs = self.0.blobs();
        if let Some(transfer) = blobs.get(digest) {
            return Some(transfer.clone());
        }
        if blobs.len() >= AT_ONCE + WAITING || self.0.is_absent(repository, Absence::Blob(digest.clone())) {
            return None;
        }
        let transfer = self.0.clone().begin_blob(repository.to_owned(), digest.clone());
        blobs.insert(digest.clone(), transfer.clone());
        Some(transfer)
    }
}

impl Inner {
    /// Whether a name was not looked after lately; notes that it is now.
    fn is_due(&self, repository: &str, name: &str) -> bool {
        let key = (repository.to_owned(), name.to_owned());
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.get(&key).is_some_and(|at| at.elapsed() < REVALIDATE) {
            return false;
        }
        if looked.len() >= LOOKED {
            looked.clear();
        }
        looked.insert(key, Instant::now());
        true
    }

    /// Whether the upstream said lately that it has no such manifest or blob. What a tag stands for may change at any
    /// time, so only digests are remembered.
    fn is_absent(&self, repository: &str, what: Absence) -> bool {
        let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (repository.to_owned(), what);
        absent.get(&key).is_some_and(|since| since.elapsed() < ABSENT)
    }

    fn note_absent(&self, repository: &str, what: Absence) {
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        if absent.len() >= LOOKED {
            absent.clear();
        }
        absent.insert((repository.to_owned(), what), Instant::now());
    }

    /// Fetches a manifest, or joins the fetch that is under way. True once it is over, however it went; `None` where too
    /// many wait, the upstream has none, or it was asked lately what is about a manifest.
    fn fetch_once(self: Arc<Self>, repository: String, sought: Sought) -> Option<watch::Receiver<bool>> {
        let key = (repository, sought);
        let mut running = self.running();
        if let Some(done) = running.get(&key) {
            return Some(done.clone());
        }
        let digest = match &key.1 {
            Sought::Manifest(name) => name.parse::<Digest>().ok(),
            // Asked with the lock held: who comes between this and the fetch would find neither, and wait for nothing.
            Sought::About(subject) if !self.is_due(&key.0, &format!("about {subject}")) => return None,
            Sought::About(_) => None,
        };
        let is_absent = digest.is_some_and(|digest| self.is_absent(&key.0, Absence::Manifest(digest)));
        if running.len() >= AT_ONCE + WAITING || is_absent {
            return None;
        }
        let (tell, done) = watch::channel(false);
        running.insert(key.clone(), done.clone());
        drop(running);
        let stay = self.awake.stay();
        tokio::spawn(async move {
            let place = self.small.acquire().await;
            let (fetched, name) = match &key.1 {
                Sought::Manifest(name) => (self.fetch_manifest(&key.0, name).await, name.clone()),
                Sought::About(subject) => {
                    (self.fetch_referrers(&key.0, subject).await, format!("referrers of {subject}"))
                }
            };
            if let Err(error) = fetched {
                tracing::info!(repository = key.0, name, error, "not fetched");
            }
            drop(place);
            self.running().remove(&key);
            tell.send_replace(true);
            drop(stay);
        });
        Some(done)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<(String, Sought), watch::Receiver<bool>>> {
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch_referrers(self: &Arc<Self>, repository: &str, subject: &Digest) -> Result<(), String> {
        let Some((upstream, path)) = self.sources.ready(repository) else { return Ok(()) };
        let client = self.sources.client()?;
        let listed = referrers::listed(client, &upstream, path, subject).await;
        self.sources.note(&upstream, &listed);
        for descriptor in listed.map_err(|error| error.to_string())? {
            let (store, wanted, name) =
                (self.store.clone(), repository.to_owned(), descriptor.digest.to_string());
            let here = tokio::task::spawn_blocking(move || store.manifest(&wanted, &name)).await;
            if !matches!(here, Ok(Ok(Some(_)))) {
                // One that does not come takes no other with it.
                let fetched = self.fetch_manifest(repository, descriptor.digest.as_str()).await;
                if let Err(error) = fetched {
                    tracing::info!(repository, digest = %descriptor.digest, error, "not fetched");
                    continue;
                }
            }
            // Whoever lists what is about an image wants it, and offline it is of no use without what it links to.
            Pull(self.clone()).complete(repository, &descriptor.digest);
        }
        Ok(())
    }

    async fn fetch_manifest(&self, repository: &str, name: &str) -> Result<(), String> {
        let Some(fetched) = self.ask_manifest(repository, name).await? else { return Ok(()) };
        let tag = (!name.contains(':')).then_some(name);
        self.keep(repository, vec![(tag.map(str::to_owned), fetched)], Absent::Allowed).await
    }

    /// A manifest from the upstream; `None` where that rests.
    async fn ask_manifest(&self, repository: &str, name: &str) -> Result<Option<Known>, String> {
        let Some((upstream, path)) = self.sources.ready(repository) else { return Ok(None) };
        let fetched = self.sources.client()?.manifest(&upstream, path, name).await;
        self.sources.note(&upstream, &fetched);
        if let (Err(OciError::NotFound(_)), Ok(digest)) = (&fetched, name.parse::<Digest>()) {
            self.note_absent(repository, Absence::Manifest(digest));
        }
        let fetched = fetched.map_err(|error| error.to_string())?;
        let parsed = ParsedManifest::parse(&fetched.bytes, &fetched.media_type).map_err(|e| e.to_string())?;
        Ok(Some(Known { bytes: fetched.bytes, digest: fetched.digest, parsed }))
    }

    /// Stores manifests in this order, each under a tag or its digest alone.
    async fn keep(
        &self,
        repository: &str,
        manifests: Vec<(Option<String>, Known)>,
        absent: Absent,
    ) -> Result<(), String> {
        let (store, repository) = (self.store.clone(), repository.to_owned());
        let stored = tokio::task::spawn_blocking(move || {
            manifests.iter().try_for_each(|(tag, known)| {
                store.put_manifest(NewManifest {
                    repository: &repository,
                    tag: tag.as_deref(),
                    bytes: &known.bytes,
                    digest: &known.digest,
                    facts: known.parsed.facts(),
                    owner: Owner::PullThrough,
                    absent,
                    asked: false,
                })
            })
        });
        match stored.await {
            Ok(Ok(())) => Ok(()),
            // A bundle, the mirror or a client brought the tag meanwhile, and goes before.
            Ok(Err(StoreError::Owned { .. })) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("a task ended unexpectedly".into()),
        }
    }

    fn begin_blob(self: Arc<Self>, repository: String, digest: Digest) -> Arc<Transfer> {
        let (transfer, mut progress) = Transfer::new();
        let stay = self.awake.stay();
        tokio::spawn(async move {
            let place = self.large.acquire().await;
            let mut result = self.fetch_blob(&repository, &digest, &progress).await;
            if matches!(result, Ok(false)) {
                tracing::warn!(repository, %digest, "what an earlier fetch left was damaged: fetched anew");
                // Those who follow were given some of it. Whoever asks from now on follows the new one.
                let (anew, next) = Transfer::new();
                self.blobs().insert(digest.clone(), anew);
                std::mem::replace(&mut progress, next).end(false);
                result = self.fetch_blob(&repository, &digest, &progress).await;
            }
            drop(place);
            // Whoever asks from now on finds it in the store, or tries again.
            self.blobs().remove(&digest);
            if let Err(error) = &result {
                tracing::info!(repository, %digest, error, "not fetched");
            }
            progress.end(matches!(result, Ok(true)));
            drop(stay);
        });
        transfer
    }

    fn blobs(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Transfer>>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False where it is to be tried again.
    async fn fetch_blob(
        &self,
        repository: &str,
        digest: &Digest,
        progress: &transfer::Progress,
    ) -> Result<bool, String> {
        let rests = || "the upstream rests".to_owned();
        let (upstream, path) = self.sources.ready(repository).ok_or_else(rests)?;
        let (client, to) = (self.sources.client()?, (&self.store, Some(repository)));
        let fetched = transfer::fetch(client, &upstream, path, digest, to, progress).await;
        fetched.map_err(|error| {
            if let transfer::Failure::Upstream(error) = &error {
                self.sources.failed(&upstream, error);
                if matches!(error, OciError::NotFound(_)) {
                    self.note_absent(repository, Absence::Blob(digest.clone()));
                }
            }
            error.to_string()
        })
    }
}
