//! What was changed here of an object, as a difference from what the cloud has of it; and what becomes of that when the
//! cloud's own news takes the place of the object (`cache/edits.rs`).

use serde_json::{Value, json};

use crate::cache::{Author, CacheError, Change, ChangeKind, NewChange, Object, ObjectKey, Rebased};
use crate::kube::patch::{self, PatchType};
use crate::kube::schema;

/// What a change says of the object: of a client's nothing but the status, for others may have changed the rest.
///
/// # Errors
/// As [`difference`].
pub fn told(what: &NewChange, base: &Value, now: &Value) -> Result<Option<Value>, CacheError> {
    match what.author {
        Author::Node => difference(base, now, &what.uid),
        Author::Client(_) => difference(base, &with_status_of(&what.key, base, now), &what.uid),
    }
}

/// The patch that brings the cloud's object to where it is here, bound to its uid; `None` if there
/// is no difference. Versions and managed fields are the cloud's alone.
///
/// # Errors
/// When the two are of kinds that have no such patch.
pub fn difference(base: &Value, now: &Value, uid: &str) -> Result<Option<Value>, CacheError> {
    let strip = |object: &Value| {
        let mut object = object.clone();
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["resourceVersion", "managedFields", "generation"] {
                meta.remove(field);
            }
        }
        object
    };
    let (base, now) = (strip(base), strip(now));
    let made = if is_known(&base) {
        patch::diff(&base, &now).map_err(|e| CacheError::Refused(e.to_string()))?
    } else {
        patch::merge_diff(&base, &now)
    };
    let Some(mut patch) = made else { return Ok(None) };
    patch["metadata"]["uid"] = json!(uid);
    Ok(Some(patch))
}

/// `object` with what a client may say of it through its status, taken from `other`. A node's annotations belong to that,
/// and a pod's, with its labels: network plugins tell there how they are reached. Of all else that is written there the
/// cloud takes nothing, or not always, and nor is it shown here.
pub fn with_status_of(key: &ObjectKey, object: &Value, other: &Value) -> Value {
    let mut object = object.clone();
    let take = |object: &mut Value, parent: &str, field: &str| {
        let Some(fields) = object.pointer_mut(parent).and_then(Value::as_object_mut) else { return };
        match other.pointer(&format!("{parent}/{field}")) {
            Some(value) => fields.insert(field.to_owned(), value.clone()),
            None => fields.remove(field),
        };
    };
    take(&mut object, "", "status");
    for field in beside_status(key) {
        take(&mut object, "/metadata", field);
    }
    object
}

/// The metadata that an API server takes through `status`, as its strategies for these kinds have it.
pub fn beside_status(key: &ObjectKey) -> &'static [&'static str] {
    match key.resource.as_str() {
        "v1/nodes" => &["annotations"],
        "v1/pods" => &["annotations", "labels"],
        _ => &[],
    }
}

/// Of each patch what it begins with and says once `object` is the cloud's, with its row: as commits are moved from one
/// branch onto another. Where both are of one field the cloud's stay: the link is in use, and who told the cloud something
/// through it may have known better.
///
/// # Errors
/// One of them does not fit what it begins with.
pub fn move_onto(object: &Object, edits: &[&Change], known: &Value) -> Result<Vec<Rebased>, CacheError> {
    let parse = |text: Option<&[u8]>| {
        serde_json::from_slice::<Value>(text.unwrap_or_default())
            .map_err(|source| CacheError::Body { key: object.key.to_string(), source })
    };
    let mut moved = Vec::new();
    let mut onto = object.body.clone();
    for (at, Change { id, what, attempts, .. }) in edits.iter().enumerate() {
        let base = parse(what.base.as_deref())?;
        let said = match (what.kind, what.body.as_deref()) {
            (ChangeKind::Patch, Some(patch)) => patched(&base, &parse(Some(patch))?)?,
            // What was applied is told as it is; the next one began with what that made of the object.
            (ChangeKind::Apply, _) if at + 1 < edits.len() => parse(edits[at + 1].what.base.as_deref())?,
            _ => known.clone(),
        };
        let news = difference(&base, &onto, &object.uid)?;
        let after = news.map_or(Ok(said.clone()), |news| patched(&said, &news))?;
        // What the cloud has put off is told as it is, or not at all.
        if what.kind == ChangeKind::Patch && (what.body.is_none() || *attempts == 0) {
            moved.push(match told(what, &onto, &after)? {
                Some(rest) => (*id, onto, Some(rest)),
                // The next round finds nothing left of it, and lets it go.
                None => (*id, object.body.clone(), None),
            });
        }
        onto = after;
    }
    Ok(moved)
}

/// `object` with a patch that [`difference`] has made.
fn patched(object: &Value, patch: &Value) -> Result<Value, CacheError> {
    let kind = if is_known(object) { PatchType::Strategic } else { PatchType::Merge };
    patch::apply(kind, object, patch).map_err(|e| CacheError::Refused(e.to_string()))
}

/// Whether lists of such objects are merged by Kubernetes' own rules.
fn is_known(object: &Value) -> bool {
    let word = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    schema::kind(word("apiVersion"), word("kind")).is_some()
}

#[cfg(test)]
#[path = "difference_tests.rs"]
mod tests;
