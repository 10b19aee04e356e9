//! What a write carries: an object or a patch, whatever its encoding.

use http::header;
use serde_json::Value;

use super::local::Write;
use super::statuses;
use crate::cache::FieldManager;
use crate::kube::patch::{self, PatchType};
use crate::kube::{Encoding, Verb, codec};

/// What a write carries.
#[derive(Clone, Debug)]
pub enum Input {
    /// An object, or the options of a deletion; null if there is no body.
    Object(Value),
    /// A patch of some kind.
    Patch(PatchType, Value),
    /// A configuration for server-side apply, and whose it is.
    Apply(FieldManager, Value),
}

/// The content type of server-side apply; JSON is YAML too.
const APPLY: &str = "application/apply-patch+yaml";

impl Input {
    /// Reads the body of a write, and says what of it this edge has no table for: that is missing then.
    ///
    /// # Errors
    /// Why it cannot be understood here.
    pub fn of(write: &Write<'_>) -> Result<(Self, Option<String>), String> {
        if content_type(write) == Encoding::Protobuf.content_type() && !write.body.is_empty() {
            let decoded = codec::decode(write.body).map_err(|e| e.to_string())?;
            return Ok((Self::Object(decoded.value), decoded.unknown));
        }
        Ok((Self::of_json(write)?, None))
    }

    fn of_json(write: &Write<'_>) -> Result<Self, String> {
        let kind = content_type(write);
        if write.body.is_empty() {
            return Ok(Self::Object(Value::Null));
        }
        if write.request.verb == Verb::Patch && kind == APPLY {
            return Self::applied(write);
        }
        let value = serde_json::from_slice(write.body).map_err(|e| format!("the body is not JSON: {e}"))?;
        if write.request.verb != Verb::Patch {
            return Ok(Self::Object(value));
        }
        match PatchType::of(kind) {
            Some(kind) => Ok(Self::Patch(kind, value)),
            None => Err(format!("a patch of type `{kind}` needs the cloud, which is away")),
        }
    }

    fn applied(write: &Write<'_>) -> Result<Self, String> {
        let query = &write.request.query;
        let Some(name) = query.field_manager.clone() else {
            return Err("fieldManager is required for apply patch".to_owned());
        };
        let text = std::str::from_utf8(write.body).map_err(|e| format!("the body is no text: {e}"))?;
        let value = serde_saphyr::from_str(text).map_err(|e| format!("the body is no YAML: {e}"))?;
        Ok(Self::Apply(FieldManager { name, force: query.force.unwrap_or_default() }, value))
    }

    /// The object after this write. Of what the same manager has applied `before`, what is applied no more is taken away.
    ///
    /// # Errors
    /// Why the patch does not fit.
    pub fn apply(&self, to: &Value, before: Option<&Value>) -> Result<Value, String> {
        match self {
            Self::Apply(_, value) => statuses::apply(to, value, before),
            Self::Object(value) => Ok(value.clone()),
            Self::Patch(how, value) => patch::apply(*how, to, value).map_err(|e| e.to_string()),
        }
    }

    /// The version that the write is about, if it says one.
    pub fn version(&self) -> Option<&str> {
        let (Self::Object(value) | Self::Patch(_, value) | Self::Apply(_, value)) = self;
        let says = |at: &str| value.pointer(at).and_then(Value::as_str);
        says("/preconditions/resourceVersion")
            .or_else(|| says("/metadata/resourceVersion"))
            .filter(|version| !matches!(*version, "" | "0"))
    }

    /// The uid that the object must have, if the write says one.
    pub fn uid(&self) -> Option<&str> {
        match self {
            Self::Object(value) => {
                value.pointer("/preconditions/uid").or_else(|| value.pointer("/metadata/uid"))
            }
            Self::Patch(_, value) | Self::Apply(_, value) => value.pointer("/metadata/uid"),
        }
        .and_then(Value::as_str)
        .filter(|uid| !uid.is_empty())
    }
}

fn content_type<'a>(write: &Write<'a>) -> &'a str {
    let kind = write.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim()
}
