//! How changes that were made while the cloud was away are put to it, and what its answers mean for them.

use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::upstream::UpBody;
use crate::cache::{Change, ChangeKind};
use crate::kube::{GroupVersionResource, codec, meta, schema};

/// What became of one change.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// The cloud has it; the object after it, where it says so.
    Done(Option<Value>),
    /// What it is about is not there any more, or another of the same name is.
    Gone(String),
    /// It will never be taken.
    Never(String),
    /// Who made it may not, and is not let do so here either.
    Forbidden(String),
    /// Not now; and how many refusals that counts as.
    Later(String, u32),
}

/// The request that puts a change to the cloud.
///
/// # Errors
/// Why there is none.
pub fn request(change: &Change, body: &Value) -> Result<Request<UpBody>, String> {
    let gvr = resource(change)?;
    let mut path = path(&gvr, change, change.what.kind != ChangeKind::Create);
    if !change.what.subresource.is_empty() {
        path.push('/');
        path.push_str(&change.what.subresource);
    }
    if let Some(manager) = &change.what.manager {
        let name = utf8_percent_encode(&manager.name, NON_ALPHANUMERIC);
        path.push_str(&format!("?fieldManager={name}&force={}", manager.force));
    }
    let (method, kind) = match change.what.kind {
        // Custom resources have no merge keys: their API server takes no strategic patch.
        ChangeKind::Patch if schema::kind_of(&gvr.api_version(), &gvr.resource).is_none() => {
            (Method::PATCH, "application/merge-patch+json")
        }
        ChangeKind::Patch => (Method::PATCH, "application/strategic-merge-patch+json"),
        ChangeKind::Apply => (Method::PATCH, "application/apply-patch+yaml"),
        ChangeKind::Create => (Method::POST, "application/json"),
        ChangeKind::Delete => (Method::DELETE, "application/json"),
    };
    let body = if change.what.kind == ChangeKind::Create { without_local_names(body) } else { body.clone() };
    let mut request = build(method, path, body.to_string())?;
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(request)
}

/// The request that reads the object of a change.
///
/// # Errors
/// Why there is none.
pub fn reading(change: &Change) -> Result<Request<UpBody>, String> {
    build(Method::GET, path(&resource(change)?, change, true), String::new())
}

fn resource(change: &Change) -> Result<GroupVersionResource, String> {
    let resource = &change.what.key.resource;
    resource.parse().map_err(|_| format!("`{resource}` is no resource"))
}

fn path(gvr: &GroupVersionResource, change: &Change, is_named: bool) -> String {
    let key = &change.what.key;
    let namespace = (!key.namespace.is_empty()).then_some(key.namespace.as_str());
    gvr.path(namespace, is_named.then_some(key.name.as_str()))
}

fn build(method: Method, path: String, body: String) -> Result<Request<UpBody>, String> {
    let body = Full::new(bytes::Bytes::from(body)).map_err(|never| match never {});
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::ACCEPT, "application/vnd.kubernetes.protobuf,application/json")
        .header(header::USER_AGENT, concat!("edge/", env!("CARGO_PKG_VERSION")))
        .body(body.boxed_unsync())
        .map_err(|e| e.to_string())
}

/// What only a server gives, and gave here for the time being.
fn without_local_names(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["uid", "resourceVersion", "creationTimestamp"] {
            meta.remove(field);
        }
    }
    object
}

/// What an answer holds, in whichever encoding; null where that cannot be read.
pub fn value(bytes: &[u8]) -> Value {
    codec::decode(bytes)
        .and_then(codec::Decoded::whole)
        .ok()
        .or_else(|| serde_json::from_slice(bytes).ok())
        .unwrap_or(Value::Null)
}

/// What an answer of the cloud means for a change.
pub fn fate(change: &Change, code: StatusCode, bytes: &[u8]) -> Fate {
    let value = value(bytes);
    if code.is_success() {
        return Fate::Done((meta::kind(&value) != Some("Status")).then_some(value));
    }
    let said = value.get("message").and_then(Value::as_str).unwrap_or("no reason given");
    let why = format!("{} {said}", code.as_u16());
    match (change.what.kind, code) {
        // Gone already, or there already: what was wanted is so.
        (ChangeKind::Delete, StatusCode::NOT_FOUND) => Fate::Done(None),
        (ChangeKind::Create, StatusCode::CONFLICT) if is_there(&value) => Fate::Done(None),
        // As of a quota that many want to count up at once.
        (ChangeKind::Create, StatusCode::CONFLICT) => Fate::Later(why, 1),
        (ChangeKind::Patch | ChangeKind::Apply, StatusCode::NOT_FOUND) => Fate::Gone(why),
        (_, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY) if is_another(&value) => Fate::Gone(why),
        (_, StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED) => Fate::Later(why, 1),
        (_, StatusCode::FORBIDDEN) => Fate::Forbidden(why),
        (_, code) if code.is_server_error() => Fate::Later(why, 1),
        _ => Fate::Never(why),
    }
}

/// Whether a refusal says that there is an object by that name; one that gives no reason is taken for it.
fn is_there(status: &Value) -> bool {
    status.get("reason").and_then(Value::as_str).is_none_or(|reason| reason == "AlreadyExists")
}

/// Whether a refusal says that the object has another uid: it was deleted and made again under its name.
fn is_another(status: &Value) -> bool {
    let causes = status.pointer("/details/causes").and_then(Value::as_array);
    let field = |cause: &Value| cause.get("field").and_then(Value::as_str) == Some("metadata.uid");
    let said = status.get("message").and_then(Value::as_str).unwrap_or_default();
    causes.is_some_and(|causes| causes.iter().any(field))
        || said.contains("Precondition failed: UID in precondition")
}
