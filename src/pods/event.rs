//! An Event about a pod, as `kubectl describe` and `kubectl get events` show it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::view::runtime_uid;
use crate::kube::meta;

/// How an event is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// For the record.
    Normal,
    /// Somebody should look.
    Warning,
}

/// A `v1` Event of edge's on `node` about `pod`. `reason` is one word in upper camel case.
pub fn event(pod: &Value, node: &str, kind: Kind, reason: &str, message: &str, now: Timestamp) -> Value {
    let (namespace, name) = (meta::namespace(pod).unwrap_or_default(), meta::name(pod).unwrap_or_default());
    let kind = match kind {
        Kind::Normal => "Normal",
        Kind::Warning => "Warning",
    };
    let at = Timestamp::from_second(now.as_second()).unwrap_or_default().to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": namespace},
        // As the kubelet does it: events of a static pod are about the file's uid.
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name,
                           "uid": runtime_uid(pod).unwrap_or_default()},
        "type": kind,
        "reason": reason,
        "message": message,
        "source": {"component": "edge", "host": node},
        "reportingComponent": "edge",
        "reportingInstance": node,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_the_pod_that_the_kubelet_runs() {
        let pod = json!({"metadata": {"name": "a", "namespace": "ns", "uid": "mirror",
            "annotations": {"kubernetes.io/config.mirror": "file", "kubernetes.io/config.hash": "file"}}});
        let now = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        let event = event(&pod, "node-1", Kind::Warning, "SelfHealGaveUp", "why", now);
        assert_eq!(event["metadata"]["name"], "a.17979cfe3d7ed4c0");
        assert_eq!(event["involvedObject"]["uid"], "file");
        assert_eq!(event["lastTimestamp"], "2023-11-14T22:13:20Z");
        assert_eq!(event["type"], "Warning");
    }
}
