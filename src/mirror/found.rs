//! The images that Kubernetes objects name. Pure.
//!
//! Pod templates are known by their shape, whatever kind holds them: lists of containers, and volumes that are
//! images. Where custom resources name images is told by patterns; what is found by one is a guess until it was
//! asked for upstream.

use serde_json::Value;

use crate::oci::Reference;
use crate::sys::yaml;

/// An image that an object names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// As it is written.
    pub(super) image: String,
    /// Where: `Deployment shop/web: spec.template.spec.containers[0].image`.
    pub(super) at: String,
    /// It may be something else.
    pub(super) guessed: bool,
}

/// The lists of a pod template whose entries have an `image`.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// All images that the objects of a YAML stream name.
///
/// # Errors
/// That it is no YAML, and where not.
pub(super) fn in_yaml(text: &str, custom: &[String]) -> Result<Vec<Found>, String> {
    let documents: Vec<Value> = yaml::read_all(text)?;
    Ok(documents.iter().flat_map(|document| in_object(document, custom)).collect())
}

/// All images that an object names, or each object of a list.
pub(super) fn in_object(object: &Value, custom: &[String]) -> Vec<Found> {
    let is_list = object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    if let Some(items) = object["items"].as_array().filter(|_| is_list) {
        return items.iter().flat_map(|item| in_object(item, custom)).collect();
    }
    let mut found = Vec::new();
    let name = title(object);
    walk(object, &mut Vec::new(), &mut |path, image| {
        found.push(Found { image: image.to_owned(), at: format!("{name}: {path}"), guessed: false });
    });
    for pattern in custom {
        let parts: Vec<&str> = pattern.split('.').collect();
        matching(object, &parts, &mut Vec::new(), &mut |path, image| {
            let known = found.iter().any(|found| found.image == image);
            if !known && image.parse::<Reference>().is_ok() {
                found.push(Found { image: image.to_owned(), at: format!("{name}: {path}"), guessed: true });
            }
        });
    }
    found
}

fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, namespace, name) = (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
    let slash = if namespace.is_empty() { "" } else { "/" };
    format!("{kind} {namespace}{slash}{name}").trim().to_owned()
}

fn walk(value: &Value, path: &mut Vec<String>, tell: &mut dyn FnMut(String, &str)) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                path.push(key.clone());
                if CONTAINERS.contains(&key.as_str()) {
                    each(inner, path, &["image"], tell);
                }
                if key == "volumes" {
                    each(inner, path, &["image", "reference"], tell);
                }
                // What was applied last is a copy, and no part of the object.
                if key != "annotations" && key != "managedFields" {
                    walk(inner, path, tell);
                }
                path.pop();
            }
        }
        Value::Array(items) => {
            for (at, inner) in items.iter().enumerate() {
                path.push(format!("[{at}]"));
                walk(inner, path, tell);
                path.pop();
            }
        }
        _ => {}
    }
}

/// The text at `field` of each entry of a list.
fn each(list: &Value, path: &[String], field: &[&str], tell: &mut dyn FnMut(String, &str)) {
    for (at, entry) in list.as_array().into_iter().flatten().enumerate() {
        let text = field.iter().try_fold(entry, |value, key| value.get(key)).and_then(Value::as_str);
        // A template that was never filled in is no image.
        if let Some(text) = text.filter(|text| !text.is_empty() && !text.contains(['{', '$'])) {
            tell(format!("{}[{at}].{}", joined(path), field.join(".")), text);
        }
    }
}

/// The texts that a path with `*` for any key or place leads to.
fn matching(value: &Value, parts: &[&str], path: &mut Vec<String>, tell: &mut dyn FnMut(String, &str)) {
    let Some((part, rest)) = parts.split_first() else {
        if let Some(text) = value.as_str() {
            tell(joined(path), text);
        }
        return;
    };
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields.iter().filter(|(key, _)| *part == "*" || *key == part) {
                path.push(key.clone());
                matching(inner, rest, path, tell);
                path.pop();
            }
        }
        // `a.b` passes through a list as `a.*.b` does.
        Value::Array(items) => {
            let rest = if *part == "*" { rest } else { parts };
            for (at, inner) in items.iter().enumerate() {
                path.push(format!("[{at}]"));
                matching(inner, rest, path, tell);
                path.pop();
            }
        }
        _ => {}
    }
}

fn joined(path: &[String]) -> String {
    path.join(".").replace(".[", "[")
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
  annotations: {"last": "containers: [{image: no}]"}
spec:
  template:
    spec:
      initContainers: [{name: a, image: "busybox:1.36"}]
      containers:
      - {name: web, image: "quay.io/shop/web:2.1"}
      - {name: hole, image: "{{ .Values.image }}"}
      volumes:
      - {name: data, image: {reference: "quay.io/shop/data:1"}}
      - {name: other, emptyDir: {}}
---
apiVersion: v1
kind: List
items:
- {kind: Pod, metadata: {name: p}, spec: {ephemeralContainers: [{image: debug:1}]}}
---
apiVersion: x.io/v1
kind: Database
metadata: {name: db}
spec: {image: "postgres:17", parts: [{image: "exporter:1"}], size: "10Gi", note: "not an image!"}
"#;

    #[test]
    fn templates_of_every_kind_are_found_and_custom_places_are_guesses() {
        let custom = ["spec.image", "spec.parts.image", "spec.note"].map(str::to_owned);
        let found = in_yaml(YAML, &custom).unwrap();
        let told: Vec<(&str, &str, bool)> =
            found.iter().map(|f| (f.image.as_str(), f.at.as_str(), f.guessed)).collect();
        let expected = [
            ("quay.io/shop/web:2.1", "Deployment shop/web: spec.template.spec.containers[0].image", false),
            ("busybox:1.36", "Deployment shop/web: spec.template.spec.initContainers[0].image", false),
            (
                "quay.io/shop/data:1",
                "Deployment shop/web: spec.template.spec.volumes[0].image.reference",
                false,
            ),
            ("debug:1", "Pod p: spec.ephemeralContainers[0].image", false),
            ("postgres:17", "Database db: spec.image", true),
            ("exporter:1", "Database db: spec.parts[0].image", true),
        ];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for one in expected {
            assert!(told.contains(&one), "{one:?} in {told:?}");
        }
        assert!(in_yaml("a: [", &[]).is_err());
    }
}
