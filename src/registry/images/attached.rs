//! What hangs on an image that is pulled: signatures, attestations, bills of materials, found by the referrers API and by
//! cosign's tags. They come after the image, since each is of use only beside it.

use super::ImageError;
use super::fetch::From;
use super::import::keep;
use super::plan::{Plan, Wanted};
use crate::oci::{Error as OciError, ParsedManifest, Reference};
use crate::registry::referrers;
use crate::sys::digest::Digest;
use crate::sys::progress::Progress;

/// The ends of the tags under which cosign keeps what it signs and attests.
const ENDS: [&str; 3] = [".sig", ".att", ".sbom"];
/// Things about things about things.
const DEPTH: u32 = 3;

/// What was fetched.
#[derive(Default)]
pub(super) struct Attached {
    /// Digests, or tags where that is what they are found by.
    pub(super) names: Vec<String>,
    /// Bytes that were fetched for them.
    pub(super) fetched: u64,
}

impl From<'_> {
    /// Fetches all that hangs on `subjects`.
    pub(super) async fn attached(
        &self,
        reference: &Reference,
        subjects: Vec<Digest>,
        progress: &Progress,
    ) -> Result<Attached, ImageError> {
        let mut attached = Attached::default();
        for subject in &subjects {
            for tag in ENDS.map(|end| format!("{}{end}", ParsedManifest::referrers_tag(subject))) {
                match self.client.head_manifest(&self.upstream, self.path, &tag).await {
                    Ok(_) => self.tagged(reference, &tag, progress, &mut attached).await?,
                    Err(OciError::NotFound(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let mut round = subjects;
        for _ in 0..DEPTH {
            let mut next = Vec::new();
            for subject in round {
                for found in referrers::listed(self.client, &self.upstream, self.path, &subject).await? {
                    if !attached.names.contains(&found.digest.to_string()) {
                        self.referrer(reference, &found.digest, progress, &mut attached).await?;
                        next.push(found.digest);
                    }
                }
            }
            round = next;
        }
        Ok(attached)
    }

    async fn tagged(
        &self,
        reference: &Reference,
        tag: &str,
        progress: &Progress,
        attached: &mut Attached,
    ) -> Result<(), ImageError> {
        let named = Reference { tag: Some(tag.to_owned()), digest: None, ..reference.clone() };
        let plan = self.plan(&named, &Wanted::All).await?;
        attached.fetched += self.blobs(&plan, progress).await?;
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || keep(&store, &named, plan))
            .await
            .map_err(|_| ImageError::Ended)??;
        attached.names.push(tag.to_owned());
        Ok(())
    }

    async fn referrer(
        &self,
        reference: &Reference,
        digest: &Digest,
        progress: &Progress,
        attached: &mut Attached,
    ) -> Result<(), ImageError> {
        let named = Reference { tag: None, digest: Some(digest.clone()), ..reference.clone() };
        let plan = self.plan(&named, &Wanted::All).await?;
        attached.fetched += self.blobs(&plan, progress).await?;
        let (store, repository) = (self.store.clone(), reference.repository());
        let kept = tokio::task::spawn_blocking(move || {
            let Plan { mut manifests, .. } = plan;
            let Some(root) = manifests.pop() else { return Ok(()) };
            for child in &manifests {
                store.add_manifest(&child.bytes, &child.digest, child.parsed.facts())?;
            }
            store.add_referrer(&repository, &root.bytes, &root.digest, root.parsed.facts())
        });
        kept.await.map_err(|_| ImageError::Ended)??;
        attached.names.push(digest.to_string());
        Ok(())
    }
}
