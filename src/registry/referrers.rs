//! What is about a manifest upstream: signatures, attestations, bills of materials.

use crate::oci::{Client, Descriptor, Error as OciError, ParsedManifest, Upstream};
use crate::sys::digest::Digest;

/// The most that is taken of one subject.
const MOST: usize = 64;

/// What the upstream lists as being about `subject`: by its referrers API, or where it has none, in the index that
/// clients keep in its place under a tag.
///
/// # Errors
/// Where the upstream does not answer.
pub(super) async fn listed(
    client: &Client,
    upstream: &Upstream,
    path: &str,
    subject: &Digest,
) -> Result<Vec<Descriptor>, OciError> {
    let mut found = match client.referrers(upstream, path, subject).await? {
        Some(found) => found,
        None => match client.manifest(upstream, path, &ParsedManifest::referrers_tag(subject)).await {
            // Some other image may bear that tag; then it is no list.
            Ok(fetched) => ParsedManifest::parse(&fetched.bytes, &fetched.media_type)
                .ok()
                .filter(ParsedManifest::is_index)
                .map(|index| index.manifests)
                .unwrap_or_default(),
            Err(OciError::NotFound(_)) => Vec::new(),
            Err(error) => return Err(error),
        },
    };
    if found.len() > MOST {
        tracing::warn!(%subject, listed = found.len(), taken = MOST, "too much is about one manifest");
        found.truncate(MOST);
    }
    Ok(found)
}
