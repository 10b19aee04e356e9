//! What hangs on an image that is pulled: signatures, attestations, bills of materials, found by the referrers API and by
//! cosign's tags. They come after the image, since each is of use only beside it; one that does not come takes neither
//! the image nor the others with it.

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
/// The most that is taken of one image, by the referrers API.
const MOST: usize = 256;
/// After so many failures the rest is left: the upstream may be gone, and each try takes its time.
const FAILURES: usize = 16;

/// What was fetched.
#[derive(Default)]
pub(super) struct Attached {
    /// Digests, or tags where that is what they are found by.
    pub(super) names: Vec<String>,
    /// Bytes that were fetched for them.
    pub(super) fetched: u64,
    /// What did not come, and why.
    pub(super) warnings: Vec<String>,
    /// How many were taken, or tried, that the referrers API lists.
    referrers: usize,
}

impl Attached {
    /// Notes how something ended; whether there is to be more.
    fn goes_on<T>(&mut self, what: &str, result: Result<T, ImageError>) -> bool {
        if let Err(error) = result {
            self.warnings.push(format!("{what} did not come with the image: {error}"));
            if self.warnings.len() == FAILURES {
                self.warnings.push("what else may be about the image was not asked for any more".to_owned());
            }
        }
        self.warnings.len() < FAILURES
    }

    /// Whether another one may be taken that the referrers API lists.
    fn has_room(&mut self) -> bool {
        self.referrers += 1;
        if self.referrers == MOST + 1 {
            self.warnings.push(format!("more than {MOST} things are about the image, the rest was left"));
        }
        self.referrers <= MOST
    }
}

impl From<'_> {
    /// Fetches all that hangs on `subjects`, as far as it comes.
    pub(super) async fn attached(
        &self,
        reference: &Reference,
        subjects: Vec<Digest>,
        progress: &Progress,
    ) -> Attached {
        let mut attached = Attached::default();
        for subject in &subjects {
            for tag in ENDS.map(|end| format!("{}{end}", ParsedManifest::referrers_tag(subject))) {
                let came = match self.client.head_manifest(&self.upstream, self.path, &tag).await {
                    Ok(_) => self.tagged(reference, &tag, progress, &mut attached).await,
                    Err(OciError::NotFound(_)) => Ok(()),
                    Err(error) => Err(error.into()),
                };
                if !attached.goes_on(&tag, came) {
                    return attached;
                }
            }
        }
        let mut round = subjects;
        for _ in 0..DEPTH {
            let mut next = Vec::new();
            for subject in round {
                let listed = referrers::listed(self.client, &self.upstream, self.path, &subject).await;
                let (found, failed) = match listed {
                    Ok(found) => (found, Ok(())),
                    Err(error) => (Vec::new(), Err(error.into())),
                };
                if !attached.goes_on(&format!("what is about {subject}"), failed) {
                    return attached;
                }
                for found in found {
                    if attached.names.contains(&found.digest.to_string()) {
                        continue;
                    }
                    if !attached.has_room() {
                        return attached;
                    }
                    let came = self.referrer(reference, &found.digest, progress, &mut attached).await;
                    let is_here = came.is_ok();
                    if !attached.goes_on(found.digest.as_str(), came) {
                        return attached;
                    }
                    if is_here {
                        next.push(found.digest);
                    }
                }
            }
            round = next;
        }
        attached
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_and_referrers_have_a_bound() {
        let mut attached = Attached::default();
        for _ in 1..FAILURES {
            assert!(attached.goes_on("it", Err::<(), _>(ImageError::Ended)));
        }
        assert!(attached.goes_on("it", Ok(())));
        assert!(!attached.goes_on("it", Err::<(), _>(ImageError::Ended)));
        let mut attached = Attached::default();
        assert!((0..MOST).all(|_| attached.has_room()) && attached.warnings.is_empty());
        assert!(!attached.has_room());
        assert_eq!(attached.warnings.len(), 1);
    }
}
