//! Endpoints of this node's pods while the cloud is away: after a reboot pods have other addresses, and the controller
//! that writes them into EndpointSlices is in the cloud.
//!
//! Only what is kept is changed, for those who watch it here. The cloud is told of the pods alone, whose controller
//! then writes the same; its own objects replace these when they are read again.

use serde_json::{Value, json};

use super::watch::Edit;
use crate::cache::{CacheError, Object, ObjectKey, Writer};
use crate::kube::meta;

/// An object that was read in two versions is kept as two: kube-proxy reads the older one up to Kubernetes 1.20.
const SLICES: [&str; 2] = ["discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1beta1/endpointslices"];
const ENDPOINTS: &str = "v1/endpoints";

/// Brings every endpoint that is `pod` to the address and state that the pod has now.
///
/// # Errors
/// When the cache cannot be read or written.
pub fn follow(writer: &mut Writer, edits: &mut Vec<Edit>, pod: &Object) -> Result<(), CacheError> {
    let seen = Seen::of(&pod.body);
    for resource in SLICES.into_iter().chain([ENDPOINTS]) {
        for object in writer.objects_in(resource, &pod.key.namespace)? {
            let anyway = publishes_not_ready(writer, &object)?;
            let mut body = object.body.clone();
            let changed = match resource {
                ENDPOINTS => follow_endpoints(&mut body, &pod.uid, &seen, anyway),
                _ => follow_slice(&mut body, &pod.uid, &seen, anyway),
            };
            if !changed {
                continue;
            }
            // Without a version, so that the cloud's object counts as news even where it has not changed there.
            let now = Object { version: String::new(), ..writer.changed(&object, body)? };
            writer.put_local(&[], &now)?;
            edits.push(Edit::modified(object, now));
        }
    }
    Ok(())
}

/// Whether the Service wants its pods found before they are ready.
fn publishes_not_ready(writer: &Writer, endpoints: &Object) -> Result<bool, CacheError> {
    let named = meta::label(&endpoints.body, "kubernetes.io/service-name").unwrap_or(&endpoints.key.name);
    let (namespace, name) = (endpoints.key.namespace.clone(), named.to_owned());
    let service = writer.object(&ObjectKey { resource: "v1/services".to_owned(), namespace, name })?;
    let wish =
        service.as_ref().and_then(|(_, service)| service.body.pointer("/spec/publishNotReadyAddresses"));
    Ok(wish.and_then(Value::as_bool).unwrap_or(false))
}

/// A pod, as far as its endpoints tell of it.
struct Seen {
    addresses: Vec<String>,
    ready: bool,
    terminating: bool,
}

impl Seen {
    fn of(pod: &Value) -> Self {
        let texts = |pointer: &str, field: &str| -> Vec<String> {
            let all = pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
            all.filter_map(|one| one.get(field)?.as_str().map(str::to_owned)).collect()
        };
        let mut addresses = texts("/status/podIPs", "ip");
        if addresses.is_empty() {
            addresses.extend(pod.pointer("/status/podIP").and_then(Value::as_str).map(str::to_owned));
        }
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        let is_ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
        Self {
            addresses,
            ready: conditions.into_iter().any(is_ready),
            terminating: meta::deletion_timestamp(pod).is_some(),
        }
    }

    fn address(&self, family: &str) -> Option<&String> {
        self.addresses.iter().find(|ip| ip.contains(':') == (family == "IPv6"))
    }
}

fn is_of(endpoint: &Value, uid: &str) -> bool {
    endpoint.pointer("/targetRef/uid").and_then(Value::as_str) == Some(uid)
}

fn follow_slice(slice: &mut Value, uid: &str, pod: &Seen, anyway: bool) -> bool {
    let family = slice.get("addressType").and_then(Value::as_str).unwrap_or_default().to_owned();
    let all = slice.get_mut("endpoints").and_then(Value::as_array_mut);
    let mut changed = false;
    for endpoint in all.into_iter().flatten().filter(|endpoint| is_of(endpoint, uid)) {
        let mut now = endpoint.clone();
        if let Some(address) = pod.address(&family) {
            now["addresses"] = json!([address]);
        }
        let ready = anyway || (pod.ready && !pod.terminating);
        let serving = anyway || pod.ready;
        now["conditions"] = json!({"ready": ready, "serving": serving, "terminating": pod.terminating});
        changed |= now != *endpoint;
        *endpoint = now;
    }
    changed
}

fn follow_endpoints(endpoints: &mut Value, uid: &str, pod: &Seen, anyway: bool) -> bool {
    let before = endpoints.clone();
    let subsets = endpoints.get_mut("subsets").and_then(Value::as_array_mut);
    for subset in subsets.into_iter().flatten() {
        let mut found = Vec::new();
        for field in ["addresses", "notReadyAddresses"] {
            let Some(list) = subset.get_mut(field).and_then(Value::as_array_mut) else { continue };
            found.extend(list.iter().filter(|one| is_of(one, uid)).cloned());
            list.retain(|one| !is_of(one, uid));
        }
        let field = if anyway || (pod.ready && !pod.terminating) { "addresses" } else { "notReadyAddresses" };
        for mut one in found {
            if let Some(address) = pod.addresses.first() {
                one["ip"] = json!(address);
            }
            match subset.get_mut(field).and_then(Value::as_array_mut) {
                Some(list) => list.push(one),
                None => subset[field] = json!([one]),
            }
        }
        for field in ["addresses", "notReadyAddresses"] {
            if let Some(subset) = subset.as_object_mut()
                && subset.get(field).and_then(Value::as_array).is_some_and(Vec::is_empty)
            {
                subset.remove(field);
            }
        }
    }
    *endpoints != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ip: &str, ready: &str) -> Seen {
        Seen::of(&json!({"metadata": {"name": "p"}, "status": {"podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": ready}]}}))
    }

    #[test]
    fn a_slice_follows_its_pod_and_no_other() {
        let mut slice = json!({"addressType": "IPv4", "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"uid": "a"}, "nodeName": "n"},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}, "targetRef": {"uid": "b"}}]});
        assert!(follow_slice(&mut slice, "a", &pod("10.0.0.9", "True"), false));
        assert_eq!(slice["endpoints"][0]["addresses"], json!(["10.0.0.9"]));
        assert_eq!(slice["endpoints"][0]["nodeName"], "n");
        assert_eq!(slice["endpoints"][1]["addresses"], json!(["10.0.0.2"]));
        assert!(!follow_slice(&mut slice, "a", &pod("10.0.0.9", "True"), false), "nothing new");
        assert!(follow_slice(&mut slice, "a", &pod("10.0.0.9", "False"), false));
        assert_eq!(slice["endpoints"][0]["conditions"]["ready"], false);
        assert!(
            follow_slice(&mut slice, "a", &pod("10.0.0.9", "False"), true),
            "the Service wants it all the same"
        );
        assert!(!follow_slice(&mut slice, "c", &pod("10.0.0.9", "True"), false));
    }

    #[tokio::test]
    async fn slices_of_both_versions_follow() {
        let folder = tempfile::tempdir().unwrap();
        let cache = crate::cache::Cache::open(folder.path(), folder.path()).unwrap().cache;
        let read = cache.commit(|writer| {
            for resource in SLICES {
                let meta = json!({"name": "s", "namespace": "ns", "uid": resource, "resourceVersion": "1"});
                let body = json!({"metadata": meta, "addressType": "IPv4", "endpoints":
                    [{"addresses": ["10.0.0.1"], "targetRef": {"uid": "a"}}]});
                writer.put_single("one", &Object::new(resource, body).unwrap())?;
            }
            let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "a"},
                "status": {"podIP": "10.0.0.9"}});
            follow(writer, &mut Vec::new(), &Object::new("v1/pods", pod).unwrap())?;
            let slices = SLICES.map(|resource| writer.objects_in(resource, "ns"));
            slices
                .into_iter()
                .map(|all| Ok(all?.remove(0).body["endpoints"][0]["addresses"].clone()))
                .collect()
        });
        let addresses: Vec<Value> = read.await.unwrap();
        assert_eq!(addresses, [json!(["10.0.0.9"]), json!(["10.0.0.9"])]);
    }

    #[test]
    fn endpoints_move_between_ready_and_not() {
        let mut endpoints = json!({"subsets": [{"ports": [{"port": 1}],
            "addresses": [{"ip": "10.0.0.1", "targetRef": {"uid": "a"}}, {"ip": "10.0.0.2", "targetRef": {"uid": "b"}}]}]});
        assert!(follow_endpoints(&mut endpoints, "a", &pod("10.0.0.9", "False"), false));
        assert_eq!(endpoints["subsets"][0]["notReadyAddresses"][0]["ip"], "10.0.0.9");
        assert_eq!(endpoints["subsets"][0]["addresses"].as_array().unwrap().len(), 1);
        assert!(follow_endpoints(&mut endpoints, "a", &pod("10.0.0.9", "True"), false));
        assert_eq!(endpoints["subsets"][0]["addresses"][1]["ip"], "10.0.0.9");
        assert!(endpoints["subsets"][0].get("notReadyAddresses").is_none());
    }
}
