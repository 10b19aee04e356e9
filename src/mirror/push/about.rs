//! What is about a manifest, where the registry has no referrers API: the list that clients keep in its place, under a
//! tag made of the subject's digest (OCI distribution 1.1, "Pushing Manifests with Subject").

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Target, put};
use crate::mirror::error::Failure;
use crate::mirror::fetch::Wire;
use crate::mirror::filter;
use crate::mirror::image::Known;
use crate::oci::{Error as OciError, ParsedManifest, media};
use crate::sys::digest::Digest;

/// Sees to it that a manifest that was sent is found through what it is about, if it is about something.
pub(super) async fn list(wire: &Wire, to: &Target, path: &str, known: &Known) -> Result<(), Failure> {
    let Some(subject) = &known.parsed.subject else { return Ok(()) };
    if has_api(wire, to, path, &subject.digest).await? {
        return Ok(());
    }
    let _alone = to.lists.lock().await;
    let tag = ParsedManifest::referrers_tag(&subject.digest);
    let none = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": []});
    let index = there(wire, to, path, &tag).await?.unwrap_or(none);
    put_more(wire, to, path, &tag, index, vec![descriptor(known)]).await
}

/// Whether what lies under a tag is such a list.
pub(super) fn is_list(name: &str, known: &Known) -> bool {
    known.parsed.is_index() && filter::is_attachment(name) && !name.contains('.')
}

/// Sends such a list as it is, or what the one that is there lacks of it: that may have more, from [`list`] or others.
pub(super) async fn put_list(
    wire: &Wire,
    to: &Target,
    path: &str,
    name: &str,
    known: &Known,
) -> Result<(), Failure> {
    let subject = filter::attached_to(name).and_then(|digest| digest.parse().ok());
    let in_place_of_api = match subject {
        Some(subject) => !has_api(wire, to, path, &subject).await?,
        None => false,
    };
    let _alone = to.lists.lock().await;
    if in_place_of_api && let Some(index) = there(wire, to, path, name).await? {
        return put_more(wire, to, path, name, index, entries(&read(&known.bytes)?)).await;
    }
    put(wire, to, path, name, &known.parsed.media_type, &known.bytes).await
}

/// Whether the registry itself knows what is about something.
async fn has_api(wire: &Wire, to: &Target, path: &str, subject: &Digest) -> Result<bool, Failure> {
    let ask = async || match wire.client.referrers(&to.upstream, path, subject).await {
        // Who lets nobody in there but took the manifest does not know the path.
        Err(OciError::Unauthorized(_)) => Ok(false),
        // Nor does who fails at it.
        Err(OciError::Status { status, .. }) if status.is_server_error() => Ok(false),
        answer => answer.map(|found| found.is_some()),
    };
    wire.ask(&to.upstream.host, ask).await
}

/// The list that is there.
///
/// # Errors
/// Where something else has its tag.
async fn there(wire: &Wire, to: &Target, path: &str, tag: &str) -> Result<Option<Value>, Failure> {
    let host = &to.upstream.host;
    let fetched = match wire.ask(host, async || wire.client.manifest(&to.upstream, path, tag).await).await {
        Ok(fetched) => fetched,
        Err(failure) if failure.is_absent() => return Ok(None),
        Err(failure) => return Err(failure),
    };
    if !ParsedManifest::parse(&fetched.bytes, &fetched.media_type)?.is_index() {
        let why = format!("`{host}/{path}:{tag}` is no list of what is about a manifest");
        return Err(Failure::Manifest(why));
    }
    read(&fetched.bytes).map(Some)
}

fn read(bytes: &Bytes) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).map_err(|e| Failure::Manifest(e.to_string()))
}

fn entries(index: &Value) -> Vec<Value> {
    index["manifests"].as_array().cloned().unwrap_or_default()
}

async fn put_more(
    wire: &Wire,
    to: &Target,
    path: &str,
    tag: &str,
    index: Value,
    more: Vec<Value>,
) -> Result<(), Failure> {
    let Some(index) = with(index, more) else { return Ok(()) };
    let kind = index["mediaType"].as_str().unwrap_or(media::OCI_INDEX);
    put(wire, to, path, tag, kind, &index.to_string().into()).await
}

/// A list with what it lacks of `more`, or nothing where that is all there. Pure.
fn with(mut index: Value, more: Vec<Value>) -> Option<Value> {
    let mut all = entries(&index);
    let before = all.len();
    for one in more {
        if !all.iter().any(|known| known["digest"] == one["digest"]) {
            all.push(one);
        }
    }
    let grown = all.len() > before;
    index["manifests"] = all.into();
    grown.then_some(index)
}

/// How a manifest is listed. Pure.
fn descriptor(known: &Known) -> Value {
    let mut descriptor = json!({
        "mediaType": known.parsed.media_type, "digest": known.digest, "size": known.bytes.len(),
    });
    if let Some(kind) = &known.parsed.artifact_type {
        descriptor["artifactType"] = kind.as_str().into();
    }
    let annotations = known.parsed.annotations.as_ref();
    if let Some(annotations) = annotations.and_then(|text| serde_json::from_str(text.get()).ok()) {
        descriptor["annotations"] = annotations;
    }
    descriptor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_grows_by_what_it_lacks_and_keeps_what_it_says() {
        let bytes: Bytes =
            json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "artifactType": "x/bill",
            "config": {"mediaType": "c", "digest": Digest::sha256(b"c"), "size": 1}, "layers": [],
            "annotations": {"a": "b"}})
            .to_string()
            .into();
        let parsed = ParsedManifest::parse(&bytes, "").unwrap();
        let (digest, size) = (Digest::sha256(&bytes), bytes.len());
        let one = descriptor(&Known::of(digest.clone(), bytes, parsed));
        assert_eq!(
            one,
            json!({"mediaType": media::OCI_MANIFEST, "digest": digest, "size": size, "artifactType": "x/bill",
                "annotations": {"a": "b"}})
        );
        let old = json!({"digest": Digest::sha256(b"old"), "x": 1});
        let list = json!({"schemaVersion": 2, "manifests": [old], "annotations": {"c": "d"}});
        let grown = with(list, vec![one.clone(), one.clone()]).unwrap();
        assert_eq!(grown, json!({"schemaVersion": 2, "manifests": [old, one], "annotations": {"c": "d"}}));
        assert_eq!(with(grown, vec![one]), None);
    }
}
