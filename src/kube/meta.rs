//! The metadata every Kubernetes object carries, read off its JSON.
//!
//! Reads only: an absent field, an empty string and a value of the wrong type are all `None`,
//! as they are to Kubernetes' own typed objects.

use serde_json::{Map, Value};

/// `apiVersion`, such as `v1` or `apps/v1`.
pub fn api_version(object: &Value) -> Option<&str> {
    text(object.get("apiVersion"))
}

/// `kind`, such as `Pod`.
pub fn kind(object: &Value) -> Option<&str> {
    text(object.get("kind"))
}

/// `metadata.name`.
pub fn name(object: &Value) -> Option<&str> {
    field(object, "name")
}

/// `metadata.namespace`; `None` for cluster-scoped objects.
pub fn namespace(object: &Value) -> Option<&str> {
    field(object, "namespace")
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> Option<&str> {
    field(object, "uid")
}

/// `metadata.resourceVersion`: opaque, to be compared for equality only.
pub fn resource_version(object: &Value) -> Option<&str> {
    field(object, "resourceVersion")
}

/// `metadata.generation`.
pub fn generation(object: &Value) -> Option<i64> {
    object.get("metadata")?.get("generation")?.as_i64()
}

/// `metadata.creationTimestamp`, as written (RFC 3339, whole seconds).
pub fn creation_timestamp(object: &Value) -> Option<&str> {
    field(object, "creationTimestamp")
}

/// `metadata.deletionTimestamp`, as written; present once deletion was asked for.
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    field(object, "deletionTimestamp")
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    object.get("metadata")?.get("deletionGracePeriodSeconds")?.as_i64()
}

/// `metadata.labels`.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.get("labels")?.as_object()
}

/// One label; an empty value is a value.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

/// `metadata.annotations`.
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.get("annotations")?.as_object()
}

/// One annotation; an empty value is a value.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

/// The entries of `metadata.ownerReferences`.
pub fn owner_references(object: &Value) -> &[Value] {
    list(object.get("metadata").and_then(|m| m.get("ownerReferences")))
}

/// The owner that has `controller: true`.
pub fn controller(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))
}

fn field<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    text(object.get("metadata")?.get(name))
}

pub(super) fn text(value: Option<&Value>) -> Option<&str> {
    value?.as_str().filter(|text| !text.is_empty())
}

pub(super) fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_is_there_and_nothing_else() {
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {
            "name": "a", "namespace": "", "uid": 7, "generation": 3, "labels": {"x": ""},
            "ownerReferences": [{"name": "o"}, {"name": "c", "controller": true}]}});
        assert_eq!((kind(&pod), api_version(&pod), name(&pod)), (Some("Pod"), Some("v1"), Some("a")));
        assert_eq!((namespace(&pod), uid(&pod), resource_version(&pod)), (None, None, None));
        assert_eq!((generation(&pod), label(&pod, "x"), label(&pod, "y")), (Some(3), Some(""), None));
        assert_eq!(controller(&pod).unwrap()["name"], "c");
        assert_eq!(name(&json!("not an object")), None);
    }
}
