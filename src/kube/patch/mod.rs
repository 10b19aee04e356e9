//! Patches: the three kinds that the API server takes from clients, applied, and the strategic one made.
//!
//! Owns what a patch does to an object's JSON. Server-side apply is none of them: it goes by managed fields, which are not
//! kept (`proxy::statuses` does what can be done without).

mod diff;
mod list;
mod strategic;
#[cfg(test)]
mod tests;

pub use diff::{diff, merge_diff};

use serde_json::{Map, Value};

use super::schema::{Card, Field, Form, Message};
use super::{Error, meta, schema};

/// Operations in one JSON patch, as apiserver allows.
const MAX_OPERATIONS: usize = 10_000;
/// Bytes that the `copy` operations of one JSON patch may add, as apiserver allows.
const MAX_COPIED: usize = 3 << 20;

/// A kind of patch, by its `Content-Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatchType {
    /// `application/strategic-merge-patch+json`: by Kubernetes' own rules, with merge keys for lists.
    Strategic,
    /// `application/merge-patch+json`: RFC 7386.
    Merge,
    /// `application/json-patch+json`: RFC 6902.
    Json,
}

impl PatchType {
    /// From a `Content-Type`; `None` for server-side apply and whatever else.
    pub fn of(content_type: &str) -> Option<PatchType> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/strategic-merge-patch+json" => Some(PatchType::Strategic),
            "application/merge-patch+json" => Some(PatchType::Merge),
            "application/json-patch+json" => Some(PatchType::Json),
            _ => None,
        }
    }
}

/// What becomes of `object` under `patch`. A strategic patch needs the object's `apiVersion` and `kind`, and a
/// built-in kind: for others the API server refuses it too.
pub fn apply(patch_type: PatchType, object: &Value, patch: &Value) -> Result<Value, Error> {
    match patch_type {
        PatchType::Merge => {
            let mut merged = object.clone();
            merge(&mut merged, patch);
            Ok(merged)
        }
        PatchType::Json => operate(object, patch),
        PatchType::Strategic => {
            let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
                return Err(refuse("", "object and patch must be JSON objects"));
            };
            let merged = strategic::merge(object.clone(), patch, Place::of(object)?)?;
            Ok(Value::Object(merged))
        }
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

/// RFC 6902.
fn operate(object: &Value, patch: &Value) -> Result<Value, Error> {
    let bad = |reason: String| Error::ApplyPatch { field: String::new(), reason };
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| bad(format!("it is no JSON patch: {e}")))?;
    if patch.0.len() > MAX_OPERATIONS {
        return Err(bad(format!("it has more than {MAX_OPERATIONS} operations")));
    }
    let (mut object, mut copied) = (object.clone(), 0);
    for operation in patch.0 {
        // Copies of copies grow without bound from a few bytes.
        if let json_patch::PatchOperation::Copy(copy) = &operation
            && let Some(source) = object.pointer(copy.from.as_str())
        {
            copied += source.to_string().len();
            if copied > MAX_COPIED {
                return Err(bad(format!("it copies more than {MAX_COPIED} bytes")));
            }
        }
        json_patch::patch_unsafe(&mut object, &[operation]).map_err(|e| bad(e.to_string()))?;
    }
    Ok(object)
}

/// Where in the types a value stands: in a message, or where nothing is known of it.
#[derive(Clone, Copy)]
enum Place {
    Message(&'static Message),
    /// A map from strings, free-form JSON, or a field that is newer than the table.
    Free,
}

impl Place {
    fn of(object: &Map<String, Value>) -> Result<Place, Error> {
        let word = |key: &str| meta::text(object.get(key)).unwrap_or_default();
        let (api_version, kind) = (word("apiVersion"), word("kind"));
        match schema::kind(api_version, kind) {
            Some(kind) => Ok(Place::Message(kind.message.get())),
            None => Err(Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() }),
        }
    }

    fn field(self, key: &str) -> Option<&'static Field> {
        match self {
            Place::Message(message) => message.key(key),
            Place::Free => None,
        }
    }

    /// Where the value of a field, or an element of its list, stands.
    fn under(field: Option<&'static Field>) -> Place {
        match field {
            Some(Field {
                card: Card::Plain | Card::Pointer | Card::Repeated,
                form: Form::Message(id),
                ..
            }) => Place::Message(id.get()),
            _ => Place::Free,
        }
    }
}

fn refuse(field: &str, reason: &str) -> Error {
    Error::ApplyPatch { field: field.to_owned(), reason: reason.to_owned() }
}
