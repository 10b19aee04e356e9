//! What verification set aside, fetched again from an upstream that is configured. What none has waits for a push.

use serde::Serialize;

use super::ImageError;
use super::fetch::fetch_again;
use crate::oci::ParsedManifest;
use crate::registry::Sources;
use crate::store::{Kind, Store};
use crate::sys::digest::Digest;

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Mended {
    /// Here again.
    pub mended: Vec<Digest>,
    /// Still missing, each with why.
    pub left: Vec<(Digest, String)>,
}

/// Fetches blobs and manifests again.
///
/// # Errors
/// Where the store cannot be read; an upstream's failure is in the result.
pub async fn mend(store: &Store, sources: &Sources, digests: &[Digest]) -> Result<Mended, ImageError> {
    let mut result = Mended::default();
    for digest in digests {
        let (reading, wanted) = (store.clone(), digest.clone());
        let places = tokio::task::spawn_blocking(move || reading.places_of(&wanted)).await;
        let places = places.map_err(|_| ImageError::Ended)??;
        let mut why = "no upstream is configured for it; push it again".to_owned();
        let mut mended = false;
        for (repository, kind) in &places {
            let Some((upstream, path)) = sources.of(repository) else { continue };
            let client = sources.client().map_err(ImageError::Client)?;
            let fetched = match kind {
                Kind::Blob => fetch_again(client, &upstream, repository, path, digest, store).await,
                Kind::Manifest => manifest(client, &upstream, path, digest, store).await,
            };
            match fetched {
                Ok(()) => {
                    mended = true;
                    break;
                }
                Err(error) => why = error.to_string(),
            }
        }
        if mended {
            result.mended.push(digest.clone());
        } else {
            result.left.push((digest.clone(), why));
        }
    }
    Ok(result)
}

async fn manifest(
    client: &crate::oci::Client,
    upstream: &crate::oci::Upstream,
    path: &str,
    digest: &Digest,
    store: &Store,
) -> Result<(), ImageError> {
    let fetched = client.manifest(upstream, path, digest.as_str()).await?;
    let parsed = ParsedManifest::parse(&fetched.bytes, &fetched.media_type)
        .map_err(|source| ImageError::Manifest { digest: digest.clone(), source })?;
    let (store, digest) = (store.clone(), digest.clone());
    let stored =
        tokio::task::spawn_blocking(move || store.add_manifest(&fetched.bytes, &digest, parsed.facts()));
    Ok(stored.await.map_err(|_| ImageError::Ended)??)
}
