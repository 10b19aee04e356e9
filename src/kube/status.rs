//! `Status` objects: what an API server says when it refuses, in its reasons and words.
//!
//! After apimachinery's `api/errors`. Clients decide by code, reason and details; people read the message.

use serde_json::{Value, json};

/// A refusal. [`Failure::body`] is its `Status` object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The HTTP status.
    pub code: u16,
    /// The reason, which clients decide by; empty where the API server gives none.
    pub reason: &'static str,
    /// What people read.
    pub message: String,
    /// Seconds after which to try again; goes with a `Retry-After` header.
    pub retry_after: Option<u32>,
    /// The object that it is about.
    about: Option<About>,
    causes: Vec<(&'static str, String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct About {
    group: String,
    resource: String,
    name: String,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry_after: None, about: None, causes: Vec::new() }
    }

    /// `resource` is the plural, `group` empty for the core group.
    fn about(mut self, group: &str, resource: &str, name: &str) -> Self {
        self.about = Some(About { group: group.into(), resource: resource.into(), name: name.into() });
        self
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: nobody knows who is calling.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: the caller may not do it; `why` is the sentence behind the name.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(group, resource);
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{what} is forbidden: {why}"),
            _ => format!("{what} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// 404: the object is not there.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(group, resource));
        Self::new(404, "NotFound", message).about(group, resource, name)
    }

    /// 404: the path is not served.
    pub fn path_not_found() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(404, "NotFound", message)
    }

    /// 405: the resource knows no such verb.
    pub fn method_not_allowed(group: &str, resource: &str, verb: &str) -> Self {
        let message =
            format!("{verb} is not supported on resources of kind {:?}", qualified(group, resource));
        Self::new(405, "MethodNotAllowed", message).about(group, resource, "")
    }

    /// 406: none of the accepted types can be written.
    pub fn not_acceptable() -> Self {
        let types = "application/json, application/vnd.kubernetes.protobuf";
        Self::new(406, "NotAcceptable", format!("only the following media types are accepted: {types}"))
    }

    /// 409 to a create: the object is there already.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(group, resource));
        Self::new(409, "AlreadyExists", message).about(group, resource, name)
    }

    /// 409 to an update: the object has changed since it was read, or is another by that name.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(group, resource);
        let message = format!("Operation cannot be fulfilled on {what} {name:?}: {why}");
        Self::new(409, "Conflict", message).about(group, resource, name)
    }

    /// 410 to a list or watch: the version asked for is gone; the client lists anew.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: the body is too large.
    pub fn too_large(message: impl Into<String>) -> Self {
        let message = format!("Request entity too large: {}", message.into());
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415: a body of a type that is not read here; `allowed` are those that are.
    pub fn unsupported_media_type(allowed: &str) -> Self {
        let message = "the body of the request was in an unknown format - accepted media types include: ";
        Self::new(415, "UnsupportedMediaType", format!("{message}{allowed}"))
    }

    /// 422: a field of the object is not valid. `kind` is the singular (`Pod`).
    pub fn invalid(group: &str, kind: &str, name: &str, field: &str, why: &str) -> Self {
        let (what, why) = (qualified(group, kind), format!("Invalid value: {why}"));
        let mut failure = Self::new(422, "Invalid", format!("{what} {name:?} is invalid: {field}: {why}"));
        failure.causes.push(("FieldValueInvalid", why, field.to_owned()));
        failure.about(group, kind, name)
    }

    /// 429: too much at once.
    pub fn too_many_requests(message: impl Into<String>, retry_after: Option<u32>) -> Self {
        Self { retry_after, ..Self::new(429, "TooManyRequests", message) }
    }

    /// 500: something broke here.
    pub fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        let mut failure = Self::new(500, "InternalError", format!("Internal error occurred: {message}"));
        failure.causes.push(("", message, String::new()));
        failure
    }

    /// 503: it cannot be answered now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504: the cloud did not answer in time.
    pub fn timeout(message: impl Into<String>, retry_after: Option<u32>) -> Self {
        let message = format!("Timeout: {}", message.into());
        Self { retry_after, ..Self::new(504, "Timeout", message) }
    }

    /// The `Status` object, as JSON; `Encoding::encode` writes it.
    pub fn body(&self) -> Value {
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code});
        if !self.reason.is_empty() {
            status["reason"] = Value::from(self.reason);
        }
        let mut details = serde_json::Map::new();
        let mut set = |key: &str, value: Value| drop(details.insert(key.to_owned(), value));
        if let Some(About { group, resource, name }) = &self.about {
            for (key, text) in [("group", group), ("kind", resource), ("name", name)] {
                if !text.is_empty() {
                    set(key, Value::from(text.as_str()));
                }
            }
        }
        if let Some(seconds) = self.retry_after {
            set("retryAfterSeconds", Value::from(seconds));
        }
        if !self.causes.is_empty() {
            let cause = |(reason, message, field): &(&str, String, String)| {
                let all = [("reason", *reason), ("message", message.as_str()), ("field", field.as_str())];
                let said = all.into_iter().filter(|(_, text)| !text.is_empty());
                Value::Object(said.map(|(key, text)| (key.to_owned(), Value::from(text))).collect())
            };
            set("causes", self.causes.iter().map(cause).collect());
        }
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }
}

/// `deployments.apps`, or `pods` of the core group.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::Encoding;
    use crate::kube::fixtures::records;

    /// Each against the `Status` that apimachinery's constructor of the same error makes.
    #[test]
    fn as_apimachinery_words_them() {
        let ours = [
            ("badRequest", Failure::bad_request("no")),
            ("unauthorized", Failure::unauthorized()),
            ("forbidden", Failure::forbidden("apps", "deployments", "d", "no")),
            ("forbiddenList", Failure::forbidden("", "pods", "", "no")),
            ("notFound", Failure::not_found("", "pods", "x")),
            ("notFoundGroup", Failure::not_found("apps", "deployments", "x")),
            ("methodNotAllowed", Failure::method_not_allowed("", "pods", "deletecollection")),
            ("alreadyExists", Failure::already_exists("", "nodes", "n")),
            ("conflict", Failure::conflict("coordination.k8s.io", "leases", "l", "it changed")),
            ("expired", Failure::expired("too old")),
            ("tooLarge", Failure::too_large("limit is 3")),
            ("invalid", Failure::invalid("apps", "Deployment", "d", "spec.x", "no")),
            ("tooMany", Failure::too_many_requests("slow down", Some(3))),
            ("internal", Failure::internal("broken")),
            ("unavailable", Failure::unavailable("gone")),
            ("timeout", Failure::timeout("late", Some(7))),
        ];
        let fixtures = include_bytes!("../../tests/fixtures/kube/status.bin.gz");
        let go = records::<2>(fixtures);
        assert_eq!(go.len(), ours.len());
        for (name, failure) in ours {
            let [_, text] = go.iter().find(|r| r[0] == name.as_bytes()).unwrap();
            let want: Value = serde_json::from_slice(text).unwrap();
            let body = failure.body();
            // Details without anything in them say nothing.
            let mut want = want;
            if want["details"] == json!({}) {
                want.as_object_mut().unwrap().remove("details");
            }
            assert_eq!(body, want, "{name}");
            let encoded = Encoding::Protobuf.encode(&body).unwrap();
            assert_eq!(Encoding::Protobuf.decode(&encoded).unwrap().whole().unwrap(), body);
        }
    }
}
