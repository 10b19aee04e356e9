//! Views of objects that clients may ask for instead of the objects: bare metadata, and tables.

use serde_json::{Value, json};

use crate::kube::negotiate::Shape;
use crate::kube::{ResourceRequest, meta};

/// The view of one object.
pub fn one(shape: Shape, _request: &ResourceRequest, object: Value) -> Value {
    match shape {
        Shape::Object | Shape::Table => object,
        Shape::PartialMetadata | Shape::PartialMetadataList => metadata(object),
    }
}

/// The view of a list.
pub fn list(shape: Shape, request: &ResourceRequest, objects: Vec<Value>, version: &str) -> Value {
    let kind = objects.first().and_then(meta::kind).unwrap_or_default().to_owned();
    let items: Vec<Value> = objects.into_iter().map(|object| one(shape, request, object)).collect();
    let (api_version, kind) = match shape {
        Shape::Object | Shape::Table => (request.gvr.api_version(), format!("{kind}List")),
        _ => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned()),
    };
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"resourceVersion": version}, "items": items})
}

fn metadata(mut object: Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"].take()})
}
