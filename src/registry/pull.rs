//! Pull-through: what is not here is fetched from an upstream that is configured, once for all who wait.
//!
//! A fetch belongs to nobody: a client that hangs up does not end it. What is here is never asked for again
//! before it is answered, and nothing an upstream says removes anything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Settings;
use super::manifests::facts_of;
use super::reply::Body;
use crate::oci::{Client, Error as OciError, ParsedManifest, Upstream};
use crate::store::{Absent, Error as StoreError, NewManifest, Owner, Store};
use crate::sys::digest::Digest;

mod transfer;

use transfer::Transfer;

/// How long an upstream that could not be reached is left alone.
const REST: Duration = Duration::from_secs(15);
/// How often a tag is looked up again behind the answer.
const REVALIDATE: Duration = Duration::from_secs(60);
/// Tags whose last look-up is remembered.
const LOOKED: usize = 10_000;

pub(super) struct Pull(Arc<Inner>);

struct Inner {
    store: Store,
    client: Client,
    /// By host.
    upstreams: HashMap<String, Source>,
    online: AtomicBool,
    manifests: Mutex<HashMap<(String, String), watch::Receiver<bool>>>,
    blobs: Mutex<HashMap<Digest, Arc<Transfer>>>,
    looked: Mutex<HashMap<(String, String), Instant>>,
}

struct Source {
    upstream: Upstream,
    /// Until when it is left alone.
    rests: Mutex<Option<Instant>>,
}

impl Source {
    fn is_resting(&self) -> bool {
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.is_some_and(|until| Instant::now() < until)
    }

    /// Notes how an attempt went, so that those that follow do not wait for a dead upstream.
    fn note(&self, error: &OciError) {
        let rest = match error {
            OciError::RateLimited { wait, .. } => *wait,
            error if error.is_unreachable() => REST,
            _ => return,
        };
        *self.rests.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + rest);
    }
}

impl Pull {
    pub(super) fn new(store: Store, client: Client, settings: &Settings) -> Self {
        let upstreams: &[Upstream] = if settings.pull_through { &settings.upstreams } else { &[] };
        let source = |upstream: &Upstream| Source { upstream: upstream.clone(), rests: Mutex::new(None) };
        Self(Arc::new(Inner {
            store,
            client,
            upstreams: upstreams.iter().map(|u| (u.host.clone(), source(u))).collect(),
            online: AtomicBool::new(true),
            manifests: Mutex::default(),
            blobs: Mutex::default(),
            looked: Mutex::default(),
        }))
    }

    pub(super) fn set_online(&self, online: bool) {
        self.0.online.store(online, Ordering::Relaxed);
    }

    /// Fetches a manifest into the store, if an upstream that may be asked has it.
    pub(super) async fn manifest(&self, names: &[String], name: &str) {
        let Some(repository) = self.0.first_source(names) else { return };
        let mut done = self.0.clone().fetch_once(repository, name.to_owned());
        // An error means that the fetch ended without a word; the store says what is there.
        let _ = done.wait_for(|done| *done).await;
    }

    /// Looks up again what a tag stands for upstream, if that was not done lately. Returns at once.
    pub(super) fn revalidate(&self, repository: &str, tag: &str) {
        let inner = &self.0;
        if tag.contains(':') || inner.source(repository).is_none() {
            return;
        }
        let key = (repository.to_owned(), tag.to_owned());
        let mut looked = inner.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.get(&key).is_some_and(|at| at.elapsed() < REVALIDATE) {
            return;
        }
        if looked.len() >= LOOKED {
            looked.clear();
        }
        looked.insert(key, Instant::now());
        drop(looked);
        let (inner, repository, tag) = (inner.clone(), repository.to_owned(), tag.to_owned());
        tokio::spawn(async move {
            if inner.is_stale(&repository, &tag).await {
                let _ = inner.fetch_once(repository, tag).wait_for(|done| *done).await;
            }
        });
    }

    /// A blob that is not here, as it comes in: its size if that is known, and its bytes.
    pub(super) async fn blob(&self, names: &[String], digest: &Digest) -> Option<(Option<u64>, Body)> {
        let repository = self.0.first_source(names)?;
        let transfer = {
            let mut blobs = self.0.blobs.lock().unwrap_or_else(PoisonError::into_inner);
            match blobs.get(digest) {
                Some(transfer) => transfer.clone(),
                None => {
                    let transfer = self.0.clone().begin_blob(repository, digest.clone());
                    blobs.insert(digest.clone(), transfer.clone());
                    transfer
                }
            }
        };
        transfer.follow().await
    }
}

impl Inner {
    /// The upstream of a repository, if one is configured and may be asked now.
    fn source(&self, repository: &str) -> Option<&Source> {
        let (host, _) = repository.split_once('/')?;
        let source = self.upstreams.get(host)?;
        (self.online.load(Ordering::Relaxed) && !source.is_resting()).then_some(source)
    }

    fn first_source(&self, names: &[String]) -> Option<String> {
        names.iter().find(|name| self.source(name).is_some()).cloned()
    }

    /// Fetches a manifest, or joins the fetch that is under way. True once it is over, however it went.
    fn fetch_once(self: Arc<Self>, repository: String, name: String) -> watch::Receiver<bool> {
        let key = (repository, name);
        let mut running = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = running.get(&key) {
            return done.clone();
        }
        let (tell, done) = watch::channel(false);
        running.insert(key.clone(), done.clone());
        drop(running);
        tokio::spawn(async move {
            if let Err(error) = self.fetch_manifest(&key.0, &key.1).await {
                tracing::info!(repository = key.0, name = key.1, error, "not fetched");
            }
            self.manifests.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            tell.send_replace(true);
        });
        done
    }

    async fn fetch_manifest(&self, repository: &str, name: &str) -> Result<(), String> {
        let Some(source) = self.source(repository) else { return Ok(()) };
        let path = repository.split_once('/').map_or(repository, |(_, path)| path);
        let fetched = self.client.manifest(&source.upstream, path, name).await.map_err(|error| {
            source.note(&error);
            error.to_string()
        })?;
        let parsed = ParsedManifest::parse(&fetched.bytes, &fetched.media_type).map_err(|e| e.to_string())?;
        let (store, repository, name) = (self.store.clone(), repository.to_owned(), name.to_owned());
        let stored = tokio::task::spawn_blocking(move || {
            store.put_manifest(NewManifest {
                repository: &repository,
                tag: (!name.contains(':')).then_some(name.as_str()),
                bytes: &fetched.bytes,
                digest: &fetched.digest,
                facts: facts_of(&parsed),
                owner: Owner::PullThrough,
                absent: Absent::Allowed,
            })
        });
        match stored.await {
            Ok(Ok(())) => Ok(()),
            // A bundle or the mirror brought the tag meanwhile, and goes before.
            Ok(Err(StoreError::Owned { .. })) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("a task ended unexpectedly".into()),
        }
    }

    /// Whether the upstream has something else under a tag than the store.
    async fn is_stale(&self, repository: &str, tag: &str) -> bool {
        let Some(source) = self.source(repository) else { return false };
        let path = repository.split_once('/').map_or(repository, |(_, path)| path);
        let there = match self.client.head_manifest(&source.upstream, path, tag).await {
            Ok(head) => head.digest,
            Err(error) => {
                source.note(&error);
                return false;
            }
        };
        let (store, repository, tag) = (self.store.clone(), repository.to_owned(), tag.to_owned());
        let here = tokio::task::spawn_blocking(move || store.manifest(&repository, &tag)).await;
        let here = here.ok().and_then(Result::ok).flatten().map(|manifest| manifest.blob.digest);
        there.is_some() && there != here
    }

    fn begin_blob(self: Arc<Self>, repository: String, digest: Digest) -> Arc<Transfer> {
        let (transfer, progress) = Transfer::new();
        tokio::spawn(async move {
            let result = self.fetch_blob(&repository, &digest, &progress).await;
            // Whoever asks from now on finds it in the store, or tries again.
            self.blobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
            if let Err(error) = &result {
                tracing::info!(repository, %digest, error, "not fetched");
            }
            progress.end(result.is_ok());
        });
        transfer
    }

    async fn fetch_blob(
        &self,
        repository: &str,
        digest: &Digest,
        progress: &transfer::Progress,
    ) -> Result<(), String> {
        let Some(source) = self.source(repository) else { return Err("the upstream rests".into()) };
        let path = repository.split_once('/').map_or(repository, |(_, path)| path);
        let fetched =
            transfer::fetch(&self.client, &source.upstream, path, digest, &self.store, progress).await;
        let upload = fetched.map_err(|error| {
            if let transfer::Failure::Upstream(error) = &error {
                source.note(error);
            }
            error.to_string()
        })?;
        let (digest, repository) = (digest.clone(), repository.to_owned());
        let committed = tokio::task::spawn_blocking(move || upload.commit(&digest, Some(&repository)));
        match committed.await {
            Ok(result) => result.map(|_| ()).map_err(|error| error.to_string()),
            Err(_) => Err("a task ended unexpectedly".into()),
        }
    }
}
