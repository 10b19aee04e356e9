//! Answers that are made here, in the encoding the client asked for.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use super::upstream::BodyError;
use crate::kube::{Encoding, status};

/// The body of an answer on its way to a client.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Seconds after which a client may try again what needs the cloud.
const RETRY_AFTER: u32 = 5;

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

/// A `Status` of kind Failure, with its code as the response's.
pub fn failure(value: &Value, encoding: Encoding) -> Response<Body> {
    let code = value.get("code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok());
    let code = code.and_then(|c| StatusCode::from_u16(c).ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = object(code, value, encoding);
    let retry = value.pointer("/details/retryAfterSeconds").and_then(Value::as_u64);
    if let Some(seconds) = retry {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// 503 with a time to come back: what needs the cloud, while it is away.
pub fn unavailable(why: &str, encoding: Encoding) -> Response<Body> {
    failure(&status::service_unavailable(why, Some(RETRY_AFTER)), encoding)
}

/// A body that could not be finished; the client sees its connection break.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub struct Broken;
