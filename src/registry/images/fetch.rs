//! Images from upstreams into the store, because somebody said so.

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use super::ImageError;
use super::import::keep;
use super::plan::{Plan, Wanted};
use crate::oci::{Client, Error as OciError, Reference, Step, Upstream, Walk};
use crate::registry::Sources;
use crate::registry::pull::transfer::{self, Failure, Transfer};
use crate::store::Store;
use crate::sys::digest::Digest;
use crate::sys::progress::{Progress, Unit};

/// Blobs that are fetched at once.
const AT_ONCE: usize = 3;

/// An image that was pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pulled {
    /// Its full name.
    pub name: String,
    /// What it stands for.
    pub digest: Digest,
    /// Bytes of its blobs.
    pub bytes: u64,
    /// Bytes that were fetched for it.
    pub fetched: u64,
    /// What hangs on it and came with it: digests, or tags.
    pub attached: Vec<String>,
    /// What hangs on it and did not come, and why.
    pub warnings: Vec<String>,
}

/// Where an image comes from.
pub(super) struct From<'a> {
    pub(super) client: &'a Client,
    pub(super) upstream: Upstream,
    pub(super) path: &'a str,
    pub(super) store: &'a Store,
}

/// Fetches an image from its upstream: the one that is configured for its host, or the host itself, which is asked
/// because the image's name says so. It is kept until it is removed.
///
/// # Errors
/// [`ImageError`]; what was fetched by then is found again by the next try.
pub async fn pull(
    store: &Store,
    sources: &Sources,
    reference: &Reference,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Pulled, ImageError> {
    let _hold = store.hold();
    let repository = reference.repository();
    let upstream = sources.of(&repository).map(|(upstream, _)| upstream);
    let upstream = upstream.unwrap_or_else(|| Upstream::of_host(&reference.host));
    let client = sources.client().map_err(ImageError::Client)?;
    let from = From { client, upstream, path: &reference.path, store };
    let plan = from.plan(reference, wanted).await?;
    plan.refuse_empty(&reference.to_string(), wanted)?;
    let fetched = from.blobs(&plan, progress).await?;
    let subjects = plan.manifests.iter().filter(|known| known.parsed.subject.is_none());
    let subjects = subjects.map(|known| known.digest.clone()).collect();
    let (keeping, name, bytes) = (store.clone(), reference.clone(), plan.bytes());
    let kept = tokio::task::spawn_blocking(move || keep(&keeping, &name, plan)).await;
    let digest = kept.map_err(|_| ImageError::Ended)??;
    let attached = from.attached(reference, subjects, progress).await;
    let (fetched, warnings) = (fetched + attached.fetched, attached.warnings);
    Ok(Pulled { name: reference.to_string(), digest, bytes, fetched, attached: attached.names, warnings })
}

impl From<'_> {
    pub(super) async fn plan(&self, reference: &Reference, wanted: &Wanted) -> Result<Plan, ImageError> {
        let root = match &reference.digest {
            Some(digest) => digest.clone(),
            None => self.resolve(reference.name()).await?,
        };
        let (mut plan, mut walk) = (Plan::default(), Walk::of(root, ""));
        while let Some(mut step) = walk.next() {
            let bytes = self.manifest(&mut step).await?;
            plan.take(&mut walk, step, bytes, wanted)?;
        }
        plan.children_first();
        Ok(plan)
    }

    /// What a tag stands for upstream.
    async fn resolve(&self, tag: &str) -> Result<Digest, ImageError> {
        // HEAD first: a manifest that is here already need not be paid for again.
        match self.client.head_manifest(&self.upstream, self.path, tag).await?.digest {
            Some(digest) => Ok(digest),
            None => Ok(self.client.manifest(&self.upstream, self.path, tag).await?.digest),
        }
    }

    /// A manifest that is here, or else from the upstream, which says its media type.
    async fn manifest(&self, step: &mut Step) -> Result<Vec<u8>, ImageError> {
        let (store, digest) = (self.store.clone(), step.digest.clone());
        let here = tokio::task::spawn_blocking(move || {
            store.blob(None, &digest)?.map_or(Ok(None), |blob| blob.intact())
        });
        if let Some(bytes) = here.await.map_err(|_| ImageError::Ended)?? {
            return Ok(bytes);
        }
        let fetched = self.client.manifest(&self.upstream, self.path, step.digest.as_str()).await?;
        step.media_type = fetched.media_type;
        Ok(fetched.bytes.to_vec())
    }

    /// Fetches the blobs that are not here, and says how many bytes those were.
    pub(super) async fn blobs(&self, plan: &Plan, progress: &Progress) -> Result<u64, ImageError> {
        let (store, digests) = (self.store.clone(), plan.blobs.clone());
        let missing = tokio::task::spawn_blocking(move || {
            let mut missing = Vec::new();
            for (digest, size) in digests {
                if store.blob(None, &digest)?.is_none() {
                    missing.push((digest, size));
                }
            }
            Ok::<_, crate::store::Error>(missing)
        });
        let missing = missing.await.map_err(|_| ImageError::Ended)??;
        let fetched = missing.iter().map(|(_, size)| size).sum();
        let fetching =
            missing.into_iter().map(|(digest, size)| async move { self.blob(&digest, size, progress).await });
        stream::iter(fetching).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        Ok(fetched)
    }

    async fn blob(&self, digest: &Digest, size: u64, progress: &Progress) -> Result<(), ImageError> {
        let mut item = progress.item(format!("blob {}", &digest.hex()[..12]), Some(size), Unit::Bytes);
        let (transfer, tell) = Transfer::new();
        let fetch =
            || transfer::fetch(self.client, &self.upstream, self.path, digest, (self.store, None), &tell);
        // Where an earlier try had left something damaged, once more from the start.
        let fetching = async { Ok::<_, Failure>(fetch().await? || fetch().await?) };
        let mut seen = 0;
        let watching = transfer.watch(|written, _| {
            item.add(written.saturating_sub(seen));
            seen = seen.max(written);
        });
        tokio::select! {
            fetched = fetching => if !fetched? { return Err(ImageError::Ended) },
            () = watching => return Err(ImageError::Ended),
        }
        item.add(size.saturating_sub(seen));
        item.done();
        Ok(())
    }
}

impl std::convert::From<Failure> for ImageError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Upstream(error) => Self::Upstream(error),
            Failure::Store(error) => Self::Store(error),
            Failure::Ended => Self::Ended,
        }
    }
}

/// Fetches one blob again, and stores it; for what was damaged.
pub(super) async fn fetch_again(
    client: &Client,
    upstream: &Upstream,
    repository: &str,
    path: &str,
    digest: &Digest,
    store: &Store,
) -> Result<(), ImageError> {
    let (_transfer, tell) = Transfer::new();
    let fetch = || transfer::fetch(client, upstream, path, digest, (store, Some(repository)), &tell);
    // Where an earlier try had left something damaged, once more from the start.
    let fetched = async { Ok::<_, Failure>(fetch().await? || fetch().await?) };
    match fetched.await {
        Ok(true) => Ok(()),
        Ok(false) => Err(ImageError::Ended),
        Err(Failure::Store(crate::store::Error::DigestMismatch { .. })) => {
            Err(OciError::Digest { url: format!("{}/v2/{path}/blobs/{digest}", upstream.url) }.into())
        }
        Err(failure) => Err(failure.into()),
    }
}
