//! Which APIs there are: read once a day, so that kubectl works in an outage with whoever never ran
//! it before.

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};

use super::Shared;
use super::answer;
use super::caller::NODE;
use super::upstream::As;
use crate::cache::{Document, today};

/// The form that clients of today ask for first: all groups in one document.
const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
/// What is read.
const PATHS: [&str; 3] = ["/api", "/apis", "/version"];
/// On which day it was read last; empty for never.
pub const META: &str = "discovery";
/// Bytes of a document at the most.
const LIMIT: usize = 8 << 20;

/// The variant of the aggregated form.
pub const WHOLE: &str = "aggregated";

/// The variant of documents that are neither aggregated nor protobuf.
pub const PLAIN: &str = "json";

/// What makes two answers to the same path differ, of all that an Accept header may say.
pub fn variant(accept: &str) -> &'static str {
    let first = accept.split(',').next().unwrap_or_default();
    if accept.contains("as=APIGroupDiscoveryList") {
        WHOLE
    } else if first.contains("protobuf") {
        "protobuf"
    } else {
        PLAIN
    }
}

/// Reads the documents for the node, unless that was done today.
///
/// # Errors
/// Why it was not done; the next time the link comes up is another try.
pub async fn refresh(shared: &Shared) -> Result<(), String> {
    let day = today().to_string();
    let read = shared.cache.read(|reader| reader.meta(META)).await.map_err(|e| e.to_string())?;
    if read.as_ref() == Some(&day) {
        return Ok(());
    }
    for path in PATHS {
        read_one(shared, path).await?;
    }
    shared.cache.commit(move |writer| writer.set_meta(META, &day)).await.map_err(|e| e.to_string())
}

async fn read_one(shared: &Shared, path: &'static str) -> Result<(), String> {
    let known = shared.cache.read(move |reader| reader.document(NODE, path, variant(AGGREGATED))).await;
    let etag = known.ok().flatten().map(|document| document.etag).unwrap_or_default();
    let request = Request::get(path)
        .header(header::ACCEPT, AGGREGATED)
        .header(header::IF_NONE_MATCH, etag)
        .header(header::USER_AGENT, concat!("edge/", env!("CARGO_PKG_VERSION")))
        .body(answer::full(bytes::Bytes::new()))
        .map_err(|e| e.to_string())?;
    let (answered, _place) = shared.upstream.send(As::Node, request).await.map_err(|e| e.to_string())?;
    if answered.status() != StatusCode::OK {
        return match answered.status() {
            StatusCode::NOT_MODIFIED => Ok(()),
            code => Err(format!("`{path}` answers {code}")),
        };
    }
    let text =
        |name| answered.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let (kind, etag) = (text(header::CONTENT_TYPE), text(header::ETAG));
    let body = Limited::new(answered.into_body(), LIMIT).collect().await.map_err(|e| e.to_string())?;
    let document = Document { kind, etag, body: body.to_bytes().to_vec() };
    shared
        .cache
        .commit(move |writer| writer.put_document(NODE, path, variant(AGGREGATED), &document))
        .await
        .map_err(|e| e.to_string())
}
