//! Views of objects that clients may ask for instead of the objects: bare metadata, and tables.

use serde_json::{Value, json};

use crate::kube::negotiate::Shape;
use crate::kube::stream::ListHead;
use crate::kube::table::{self, Header, Include};
use crate::kube::{ResourceRequest, meta};

/// The view of one object, as an answer of its own or in a watch.
pub fn one(shape: Shape, request: &ResourceRequest, object: Value, header: Header) -> Value {
    match shape {
        Shape::Object => object,
        Shape::PartialMetadata | Shape::PartialMetadataList => table::partial(&object),
        Shape::Table => {
            let head = ListHead {
                kind: meta::kind(&object).unwrap_or_default().to_owned(),
                api_version: request.gvr.api_version(),
                resource_version: meta::resource_version(&object).unwrap_or_default().to_owned(),
                ..ListHead::default()
            };
            table::table(&head, [&object], include(request), header, crate::sys::clock::now())
        }
    }
}

/// The view of a list.
pub fn list(shape: Shape, request: &ResourceRequest, head: &ListHead, objects: &[Value]) -> Value {
    if shape == Shape::Table {
        return table::table(head, objects, include(request), Header::Shown, crate::sys::clock::now());
    }
    let items: Vec<Value> = objects.iter().map(table::partial).collect();
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
        "metadata": {"resourceVersion": head.resource_version}, "items": items})
}

/// What the rows of a table carry; a word that does not exist is taken as not said.
fn include(request: &ResourceRequest) -> Include {
    request.query.other("includeObject").and_then(Include::parse).unwrap_or(Include::Metadata)
}
