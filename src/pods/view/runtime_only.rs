//! A pod that nobody has a copy of but the runtime: static pods before their mirror was seen, and every pod of
//! a gateway whose cache is empty. As much of it as labels and annotations tell.

use serde_json::{Map, Value, json};

use super::Live;
use super::container::time;

/// The object; `None` if the sandbox does not say whose it is.
pub(super) fn pod(uid: &str, live: &Live<'_>) -> Option<Value> {
    let sandbox = live.sandbox?;
    let name = &sandbox.metadata.as_ref()?;
    let own = |(key, _): &(&String, &String)| !key.starts_with("io.kubernetes.");
    let labels: Map<String, Value> =
        sandbox.labels.iter().filter(own).map(|(k, v)| (k.clone(), json!(v))).collect();
    let annotations: Map<String, Value> =
        sandbox.annotations.iter().filter(own).map(|(k, v)| (k.clone(), json!(v))).collect();
    let seen =
        sandbox.annotations.get("kubernetes.io/config.seen").and_then(|t| t.parse::<jiff::Timestamp>().ok());
    let created = seen.map_or(sandbox.created_at, |t| i64::try_from(t.as_nanosecond()).unwrap_or(0));
    let containers: Vec<Value> = live
        .names()
        .filter_map(|name| live.newest(name))
        .filter(|c| c.pod_sandbox_id == sandbox.id)
        .map(|c| {
            let image = c.image.as_ref().map_or("", |i| {
                if i.user_specified_image.is_empty() { &i.image } else { &i.user_specified_image }
            });
            json!({"name": super::live::container_name(c), "image": image})
        })
        .collect();
    let mut metadata = json!({"name": name.name, "namespace": name.namespace, "uid": uid,
                              "creationTimestamp": time(created)});
    if !labels.is_empty() {
        metadata["labels"] = Value::Object(labels);
    }
    if !annotations.is_empty() {
        metadata["annotations"] = Value::Object(annotations);
    }
    Some(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                "spec": {"containers": containers}, "status": {"phase": "Pending", "startTime": time(sandbox.created_at)}}))
}
