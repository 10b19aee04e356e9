//! Which APIs there are: read once a day, so that kubectl works in an outage with whoever never ran
//! it before.

use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};

use super::Shared;
use super::answer::{self, Body};
use super::caller::{Caller, NODE};
use super::upstream::As;
use crate::cache::{Cache, Document, Reader, today};
use crate::kube::{self, Encoding};

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

/// What clients that do not know the aggregated form ask for in many requests.
fn older_form(whole: &Document, path: &str) -> Option<Document> {
    let aggregated = serde_json::from_slice(&whole.body).ok()?;
    let body = kube::discovery::plain(&aggregated, path)?.to_string().into_bytes();
    Some(Document { kind: Encoding::Json.content_type().to_owned(), etag: String::new(), body })
}

/// GET of a path that is no resource: discovery, the version.
pub async fn document(cache: &Cache, caller: &Caller, path: &str, accept: &str) -> Response<Body> {
    let (identity, path, variant) = (caller.identity(), path.to_owned(), variant(accept));
    let named = path.clone();
    let read = move |reader: &Reader| {
        if let Some(document) = reader.document(&identity, &path, variant)? {
            return Ok(Some(document));
        }
        if let Some(document) = reader.document(&identity, &path, PLAIN)? {
            return Ok(Some(document));
        }
        let Some(source) = kube::discovery::source(&path) else { return Ok(None) };
        let whole = reader.document(&identity, source, WHOLE)?;
        Ok(whole.and_then(|whole| older_form(&whole, &path)))
    };
    match cache.read(read).await {
        Ok(Some(document)) => answer::with_type(StatusCode::OK, &document.kind, answer::full(document.body)),
        Ok(None) => {
            let why = format!("the cloud is away and `{named}` was never read while it was there");
            answer::unavailable(&why, Encoding::Json)
        }
        Err(error) => answer::unavailable(&error.to_string(), Encoding::Json),
    }
}
