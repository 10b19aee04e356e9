//! Answers that are made here, in the encoding the client asked for.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use super::upstream::BodyError;
use crate::kube::Encoding;
use crate::kube::negotiate::{self, Shape};
use crate::kube::status::Failure;
use crate::kube::stream::{WatchKind, watch_event};

/// The body of an answer on its way to a client.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// What a watch's client is told when it must read everything anew.
pub const EXPIRED: &str = "The resourceVersion for the provided watch is too old.";

/// What an answer that is made here looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// How it is written: JSON wherever the client takes it, for that is how objects are kept.
    pub encoding: Encoding,
    /// What is made of the objects.
    pub shape: Shape,
}

impl Accept {
    /// Reads an Accept header.
    pub fn parse(header: &str) -> Self {
        let accepted = negotiate::accepted(Some(header));
        let shape = accepted.first().map_or(Shape::Object, |wanted| wanted.shape);
        let mut encodings = accepted.iter().filter(|w| w.shape == shape).map(|w| w.encoding);
        let json = encodings.clone().next().is_none() || encodings.any(|e| e == Encoding::Json);
        Self { encoding: if json { Encoding::Json } else { Encoding::Protobuf }, shape }
    }
}

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An object, encoded as asked; one that has no protobuf form goes out as JSON.
pub fn object(code: StatusCode, value: &Value, encoding: Encoding) -> Response<Body> {
    let (kind, bytes) = encode(value, encoding);
    with_type(code, kind, full(bytes))
}

/// The Content-Type and bytes of an object.
pub fn encode(value: &Value, encoding: Encoding) -> (&'static str, Vec<u8>) {
    match encoding.encode(value) {
        Ok(bytes) => (encoding.content_type(), bytes),
        Err(error) => {
            tracing::debug!(%error, "answered in JSON");
            (Encoding::Json.content_type(), value.to_string().into_bytes())
        }
    }
}

/// A body with its Content-Type.
pub fn with_type(code: StatusCode, kind: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    if let Ok(kind) = HeaderValue::from_str(kind) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    // As an API server says it, so that no cache in between keeps it.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A refusal, with its code as the response's.
pub fn failure(failure: &Failure, encoding: Encoding) -> Response<Body> {
    let code = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = object(code, &failure.body(), encoding);
    if let Some(seconds) = failure.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// 503: what needs the cloud, while it is away. It names no time to come back: client-go would wait it out inside the
/// call, ten times over, whatever is asked, and who waits may be all of kubelet's volumes or a person's `kubectl`.
pub fn unavailable(why: &str, encoding: Encoding) -> Response<Body> {
    failure(&Failure::unavailable(why), encoding)
}

/// 504: a write that may have reached the cloud, and of which nobody says what became of it. Whoever asked must look,
/// and must not ask again unseen.
pub fn unknown(why: &str, encoding: Encoding) -> Response<Body> {
    failure(&Failure::timeout(format!("the cloud may have done it: {why}"), None), encoding)
}

/// What a list or watch is answered that goes on from where nothing is known any more: its client reads everything anew.
/// A watch hears it as an API server says it, in an event.
pub fn expired(is_watch: bool, encoding: Encoding) -> Response<Body> {
    let expired = Failure::expired(EXPIRED);
    match watch_event(WatchKind::Error, &expired.body(), encoding) {
        Ok(event) if is_watch => with_type(StatusCode::OK, encoding.watch_content_type(), full(event)),
        _ => failure(&expired, encoding),
    }
}

/// A body that could not be finished; the client sees its connection break.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub struct Broken;
