//! What is done behind an answer: images completed, and tags looked up again. Nobody waits for it.
//!
//! An image that is whole here gives its tag up only for one that is whole, too: the link may go at any time, and half
//! of a new image starts no pod.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use super::{AT_ONCE, Inner, Known, Pull, Sought, WAITING};
use crate::oci::{DEEPEST, Descriptor, LARGEST, ParsedManifest, Platform, Walk};
use crate::store::{Absent, Error as StoreError, Store};
use crate::sys::digest::Digest;

impl Pull {
    /// Fetches what is still missing of an image that a client takes, behind the answer. A client that has a layer
    /// from elsewhere never asks for it, and would be told offline that it is not here. Returns at once.
    pub(in crate::registry) fn complete(&self, repository: &str, digest: &Digest) {
        let inner = &self.0;
        if inner.sources.of(repository).is_none() || !inner.is_due(repository, digest.as_str()) {
            return;
        }
        let (pull, repository, digest) = (Self(inner.clone()), repository.to_owned(), digest.clone());
        let stay = inner.awake.stay();
        tokio::spawn(async move {
            let _stay = stay;
            let wanted = digest.clone();
            let missing = match pull.0.blocking(move |store| missing(store, &wanted)).await {
                Ok(missing) => missing,
                Err(error) => {
                    tracing::warn!(repository, %digest, error, "what is missing of an image is not fetched");
                    return;
                }
            };
            for digest in missing {
                if pull.0.sources.ready(&repository).is_none() {
                    return;
                }
                let Some(transfer) = pull.transfer(&repository, &digest) else { return };
                transfer.ended().await;
            }
        });
    }

    /// Looks up again what a tag stands for upstream, if that was not done lately. Returns at once.
    pub(in crate::registry) fn revalidate(&self, repository: &str, tag: &str) {
        let inner = &self.0;
        if tag.contains(':') || inner.sources.ready(repository).is_none() {
            return;
        }
        let Some(turn) = Turn::take(inner, repository, tag) else { return };
        if !inner.is_due(repository, tag) {
            return;
        }
        let (pull, repository, tag) = (Self(inner.clone()), repository.to_owned(), tag.to_owned());
        let stay = inner.awake.stay();
        tokio::spawn(async move {
            if let Err(error) = pull.renew(&repository, &tag).await {
                tracing::info!(repository, tag, error, "a tag that moved upstream stays where it was");
            }
            drop((turn, stay));
        });
    }

    /// Has a tag stand for what it does upstream.
    async fn renew(&self, repository: &str, tag: &str) -> Result<(), String> {
        let inner = &self.0;
        let Some(moved) = inner.moved(repository, tag).await else { return Ok(()) };
        let (wanted, name) = (repository.to_owned(), tag.to_owned());
        let here = inner.blocking(move |store| whole(store, &wanted, &name, &mut BTreeSet::new(), 0)).await?;
        if here.is_empty() {
            // Nothing is lost: what clients ask for comes when they do.
            let fetched = inner.clone().fetch_once(repository.to_owned(), Sought::Manifest(tag.to_owned()));
            if let Some(mut done) = fetched {
                let _ = done.wait_for(|done| *done).await;
            }
            return Ok(());
        }
        let _place = inner.renewals.acquire().await;
        // However long it takes, what came is not collected before something refers to it.
        let _hold = inner.store.hold();
        let manifests = self.image(repository, moved, &here).await?;
        let named = |(at, known): (usize, Known)| ((at == 0).then(|| tag.to_owned()), known);
        // Children go before what links to them.
        let manifests = manifests.into_iter().enumerate().map(named).rev().collect();
        inner.keep(repository, manifests, Absent::Refused).await
    }

    /// All manifests of an image for these platforms, the image itself first, once all of their blobs are here.
    async fn image(
        &self,
        repository: &str,
        digest: Digest,
        platforms: &[Platform],
    ) -> Result<Vec<Known>, String> {
        let (mut manifests, mut walk) = (Vec::new(), Walk::of(digest, ""));
        while let Some(step) = walk.next() {
            let known = self.0.known(repository, &step.digest).await?;
            let children = chosen(&known.parsed, platforms);
            if known.parsed.is_index() && children.is_empty() {
                let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
                return Err(format!("`{}` has no image for {}", step.digest, names.join(", ")));
            }
            let followed = walk.follow(&step, known.bytes.len(), &known.parsed, children);
            followed.map_err(|error| error.to_string())?;
            manifests.push(known);
        }
        for blob in manifests.iter().flat_map(|known| known.parsed.blobs()) {
            self.bring(repository, &blob.digest).await?;
        }
        Ok(manifests)
    }

    /// Fetches a blob unless it is here.
    async fn bring(&self, repository: &str, digest: &Digest) -> Result<(), String> {
        for fetched in [false, true] {
            let wanted = digest.clone();
            if self.0.blocking(move |store| store.blob(None, &wanted)).await?.is_some() {
                return Ok(());
            }
            if !fetched && let Some(transfer) = self.transfer(repository, digest) {
                transfer.ended().await;
            }
        }
        Err(format!("`{digest}` did not come"))
    }
}

/// The right to look up a tag again, which one at a time has.
struct Turn(Arc<Inner>, (String, String));

impl Turn {
    /// `None` while somebody has it, or where too many wait.
    fn take(inner: &Arc<Inner>, repository: &str, tag: &str) -> Option<Self> {
        let key = (repository.to_owned(), tag.to_owned());
        let mut renewing = inner.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let free = renewing.len() < AT_ONCE + WAITING && renewing.insert(key.clone());
        free.then(|| Self(inner.clone(), key))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.renewing.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Inner {
    /// What a tag stands for upstream, if that is something else than here.
    async fn moved(&self, repository: &str, tag: &str) -> Option<Digest> {
        let (upstream, path) = self.sources.ready(repository)?;
        let client = self.sources.client().ok()?;
        let place = self.small.acquire().await;
        let head = client.head_manifest(&upstream, path, tag).await;
        self.sources.note(&upstream, &head);
        let there = match head.ok()?.digest {
            Some(digest) => digest,
            // A registry that does not say it has to be asked for the whole.
            None => {
                let whole = client.manifest(&upstream, path, tag).await;
                self.sources.note(&upstream, &whole);
                whole.ok()?.digest
            }
        };
        drop(place);
        let (repository, tag) = (repository.to_owned(), tag.to_owned());
        let here = self.blocking(move |store| store.manifest(&repository, &tag)).await.ok()?;
        (here.map(|manifest| manifest.blob.digest).as_ref() != Some(&there)).then_some(there)
    }

    /// A manifest, from the store or the upstream.
    async fn known(&self, repository: &str, digest: &Digest) -> Result<Known, String> {
        let wanted = digest.clone();
        let here = self.blocking(move |store| {
            let Some(manifest) = store.manifest_of(&wanted)? else { return Ok(None) };
            Ok(manifest.blob.read().ok().map(|bytes| (bytes, manifest.media_type)))
        });
        if let Some((bytes, media_type)) = here.await?
            && Digest::of(digest.algorithm(), &bytes) == *digest
        {
            let parsed = ParsedManifest::parse(&bytes, &media_type).map_err(|e| e.to_string())?;
            return Ok(Known { bytes: bytes.into(), digest: digest.clone(), parsed });
        }
        let _place = self.small.acquire().await;
        let fetched = self.ask_manifest(repository, digest.as_str()).await?;
        fetched.ok_or_else(|| "the upstream rests".to_owned())
    }

    /// Runs what waits for the disk off the network's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(|_| "a task ended unexpectedly".to_owned())?.map_err(|error| error.to_string())
    }
}

/// The blobs of an image that are not here; none of an index, whose images clients choose.
fn missing(store: &Store, digest: &Digest) -> Result<Vec<Digest>, StoreError> {
    let Some(manifest) = store.blob(None, digest)? else { return Ok(Vec::new()) };
    let Ok(parsed) = ParsedManifest::parse(&manifest.read()?, "") else { return Ok(Vec::new()) };
    let mut missing = Vec::new();
    for blob in parsed.blobs() {
        if store.blob(None, &blob.digest)?.is_none() {
            missing.push(blob.digest.clone());
        }
    }
    Ok(missing)
}

/// Whether all is here of an image, by tag or digest, that this machine needs to run it.
///
/// # Errors
/// Where the store cannot be read.
pub fn is_whole(store: &Store, repository: &str, name: &str) -> Result<bool, StoreError> {
    let platforms = whole(store, repository, name, &mut BTreeSet::new(), 0)?;
    Ok(platforms.iter().any(|image| Platform::own().rank(image).is_some()))
}

/// The platforms for which all is here of an image, by tag or digest; none where it is whole for no machine.
/// What was `seen` is not looked at again, however many descriptors name it.
fn whole(
    store: &Store,
    repository: &str,
    name: &str,
    seen: &mut BTreeSet<Digest>,
    depth: usize,
) -> Result<Vec<Platform>, StoreError> {
    let Some(manifest) = store.manifest(repository, name)? else { return Ok(Vec::new()) };
    // What cannot be read cannot be served either.
    let Ok(bytes) = manifest.blob.read() else { return Ok(Vec::new()) };
    let Ok(parsed) = ParsedManifest::parse(&bytes, &manifest.media_type) else { return Ok(Vec::new()) };
    if !parsed.is_index() {
        for blob in parsed.blobs() {
            if store.blob(Some(repository), &blob.digest)?.is_none() {
                return Ok(Vec::new());
            }
        }
        return Ok(vec![platform_of(store, &parsed)?.unwrap_or_else(Platform::own)]);
    }
    let mut platforms = Vec::new();
    for child in parsed.manifests.iter().filter(|_| depth < DEEPEST) {
        if !seen.insert(child.digest.clone()) {
            continue;
        }
        let found = whole(store, repository, child.digest.as_str(), seen, depth + 1)?;
        match &child.platform {
            // An attestation is no image.
            Some(platform) if platform.os == "unknown" => {}
            Some(platform) if !found.is_empty() => platforms.push(platform.clone()),
            Some(_) => {}
            None => platforms.extend(found),
        }
    }
    Ok(platforms)
}

/// What the configuration of an image says of where it runs.
fn platform_of(store: &Store, parsed: &ParsedManifest) -> Result<Option<Platform>, StoreError> {
    let Some(config) = &parsed.config else { return Ok(None) };
    let config = store.blob(None, &config.digest)?.filter(|blob| blob.size <= LARGEST as u64);
    let platform = config.and_then(|blob| serde_json::from_slice::<Platform>(&blob.read().ok()?).ok());
    Ok(platform.filter(|platform| !platform.os.is_empty()))
}

/// The images of an index for these platforms, as far as it has any; those that name no platform where it has none.
fn chosen<'a>(index: &'a ParsedManifest, platforms: &[Platform]) -> Vec<&'a Descriptor> {
    let mut children: Vec<&Descriptor> = Vec::new();
    for child in platforms.iter().filter_map(|platform| index.choose(platform)) {
        if !children.iter().any(|known| known.digest == child.digest) {
            children.push(child);
        }
    }
    if children.is_empty() {
        children.extend(index.manifests.iter().filter(|child| child.platform.is_none()));
    }
    children
}
