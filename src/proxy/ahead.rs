//! Reads for the kubelet what its pods need and what it will not ask for again by itself.
//!
//! A kubelet that runs has its tokens in memory, never reads an immutable ConfigMap or Secret twice, looks at
//! volumes when it likes, and waits long after it was refused. So when offline mode is turned on under a running kubelet, or records were lost, a
//! reboot in an outage would find holes. Only what is not kept is asked for: with all of it there, nothing is sent.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;

use super::answer::Accept;
use super::caller::{Caller, NODE};
use super::forward::{Call, Outcome, Payload};
use super::replay::Wanted as List;
use super::{Shared, discovery, token};
use crate::cache::{CacheError, ObjectKey, Reader, TokenKey};
use crate::kube::needs::{Needs, attachment, driver_tokens, volume_secrets};
use crate::kube::{GroupVersionResource, Request as KubeRequest, meta};

const ACCEPT: &str = "application/vnd.kubernetes.protobuf,application/json";

/// A TokenRequest, and where it is made.
struct Token {
    path: String,
    key: TokenKey,
    body: Value,
}

/// What the pods of this node need.
#[derive(Default)]
struct Wanted {
    objects: Vec<ObjectKey>,
    tokens: Vec<Token>,
}

/// What every kubelet watches, with what it asks for of each: none of its pods starts without them.
const LISTS: [(&str, &str); 5] = [
    ("/api/v1/nodes", "metadata.name"),
    ("/api/v1/pods", "spec.nodeName"),
    ("/api/v1/services", ""),
    ("/apis/node.k8s.io/v1/runtimeclasses", ""),
    ("/apis/storage.k8s.io/v1/csidrivers", ""),
];

/// Reads what is missing; gives how much that was.
///
/// # Errors
/// Why not all of it was read.
pub async fn read(shared: &Shared) -> Result<usize, String> {
    let node = node_name(shared);
    discovery::refresh(shared).await?;
    let mut count = 0;
    for (path, field) in LISTS {
        count += usize::from(read_list(shared, path, field, &node).await?);
    }
    let mut asked = BTreeSet::new();
    // The volume behind a claim is known once the claim is, and its Secrets and driver once the volume is.
    for _ in 0..3 {
        shared.cache.flush_own().await.map_err(|e| e.to_string())?;
        let node = node.clone();
        let missing = shared.cache.read(move |reader| missing(reader, &node)).await;
        let mut missing = missing.map_err(|e| e.to_string())?;
        // What the cloud does not have is missing still.
        missing.objects.retain(|key| asked.insert(key.clone()));
        if missing.objects.is_empty() && missing.tokens.is_empty() {
            break;
        }
        count += missing.objects.len() + missing.tokens.len();
        for key in &missing.objects {
            read_object(shared, key).await?;
        }
        for token in missing.tokens {
            ask_token(shared, token).await?;
        }
    }
    shared.cache.flush_own().await.map_err(|e| e.to_string())?;
    Ok(count)
}

/// A kubelet that was refused for a while waits for up to half a minute before it asks again.
async fn read_list(shared: &Shared, path: &str, field: &str, node: &str) -> Result<bool, String> {
    let query = if field.is_empty() { String::new() } else { format!("fieldSelector={field}%3D{node}") };
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let call = call(Method::GET, &target)?;
    let Some(request) = call.request.resource() else { return Ok(false) };
    let wanted = List::of(NODE, request).map_err(|e| e.to_string())?;
    let known = shared.cache.read(move |reader| wanted.find(reader)).await.map_err(|e| e.to_string())?;
    if known.is_some() {
        return Ok(false);
    }
    ask(shared, call, Bytes::new()).await.map(|()| true)
}

/// What must not be forgotten though nobody asks for it.
#[derive(Debug)]
pub struct Needed {
    /// What the kubelet reads when the pods of this node start, whether it is kept or not.
    pub objects: Vec<ObjectKey>,
    /// The uids of these pods, whose programs read what they need when they start.
    pub pods: Vec<String>,
}

const ATTACHMENTS: &str = "storage.k8s.io/v1/volumeattachments";

/// The versions of DRA's claims that a kubelet asks for.
const CLAIMS: [&str; 3] = ["v1", "v1beta2", "v1beta1"];

/// What the pods of this node need. Beside what is read ahead, this is what the kubelet reads where the cluster has it:
/// service accounts for the credentials of images, claims for devices, and how volumes are attached.
///
/// # Errors
/// When the cache cannot be read.
pub fn needed(reader: &Reader, node: &str) -> Result<Needed, CacheError> {
    let (mut objects, mut uids) = (wanted(reader, node)?.objects, Vec::new());
    let pods = reader.all("v1/pods")?;
    for pod in pods.iter().filter(|pod| runs_on(pod, node)) {
        let namespace = meta::namespace(pod).unwrap_or_default();
        uids.extend(meta::uid(pod).filter(|uid| !uid.is_empty()).map(str::to_owned));
        objects.push(key("v1/serviceaccounts", namespace, account(pod)));
        let lists = ["/spec/resourceClaims", "/status/resourceClaimStatuses"].map(|at| pod.pointer(at));
        let lists = lists.into_iter().flatten().filter_map(Value::as_array);
        let claims = lists.flatten().chain(pod.pointer("/status/extendedResourceClaimStatus"));
        for name in claims.filter_map(|claim| claim.get("resourceClaimName")?.as_str()) {
            let of = |version| key(&format!("resource.k8s.io/{version}/resourceclaims"), namespace, name);
            objects.extend(CLAIMS.map(of));
        }
    }
    for attachment in reader.all(ATTACHMENTS)? {
        let text = |at: &str| attachment.pointer(at).and_then(Value::as_str);
        // One that says no volume is of a volume that a pod names itself.
        let volume = text("/spec/source/persistentVolumeName");
        let is_needed =
            volume.is_none_or(|volume| objects.contains(&key("v1/persistentvolumes", "", volume)));
        if text("/spec/nodeName") == Some(node) && is_needed {
            objects.extend(meta::name(&attachment).map(|name| key(ATTACHMENTS, "", name)));
        }
    }
    Ok(Needed { objects, pods: uids })
}

fn key(resource: &str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { resource: resource.into(), namespace: namespace.into(), name: name.into() }
}

/// The service account of a pod.
fn account(pod: &Value) -> &str {
    pod.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or("default")
}

/// The node's name, as its credentials have it.
pub fn node_name(shared: &Shared) -> String {
    shared.upstream.node_name().unwrap_or_default()
}

fn wanted(reader: &Reader, node: &str) -> Result<Wanted, CacheError> {
    let mut wanted = Wanted::default();
    wanted.objects.push(key("storage.k8s.io/v1/csinodes", "", node));
    let pods = reader.all("v1/pods")?;
    for pod in pods.iter().filter(|pod| runs_on(pod, node)) {
        let namespace = meta::namespace(pod).unwrap_or_default();
        let mut needs = Needs::of(pod);
        let named = [("v1/configmaps", &needs.configmaps), ("v1/secrets", &needs.secrets)];
        for (resource, names) in named {
            wanted.objects.extend(names.iter().map(|name| key(resource, namespace, name)));
        }
        for claim in &needs.claims {
            let claim = key("v1/persistentvolumeclaims", namespace, claim);
            let bound = reader.object(&claim)?;
            let volume = bound.as_ref().and_then(|claim| claim.body.pointer("/spec/volumeName"));
            let volume = volume.and_then(Value::as_str).map(|name| key("v1/persistentvolumes", "", name));
            wanted.objects.push(claim);
            let Some(volume) = volume else { continue };
            if let Some(known) = reader.object(&volume)? {
                let name = known.body.pointer("/spec/csi/driver").and_then(Value::as_str);
                wanted.objects.extend(mounted_by(reader, &known.body, name, node)?);
                needs.drivers.extend(name.map(str::to_owned));
            }
            wanted.objects.push(volume);
        }
        for name in &needs.drivers {
            let driver = reader.object(&driver(name))?;
            needs.tokens.extend(driver.iter().flat_map(|driver| driver_tokens(pod, &driver.body)));
        }
        wanted.tokens.extend(needs.tokens.into_iter().filter_map(|body| token_of(pod, namespace, body)));
    }
    wanted.objects.sort();
    wanted.objects.dedup();
    Ok(wanted)
}

/// What the kubelet reads each time that it mounts this volume, of the driver of this name, and at no other.
fn mounted_by(
    reader: &Reader,
    volume: &Value,
    name: Option<&str>,
    node: &str,
) -> Result<Vec<ObjectKey>, CacheError> {
    let secrets = volume_secrets(volume);
    let mut objects: Vec<_> = secrets.iter().map(|(of, name)| key("v1/secrets", of, name)).collect();
    let driver = name.map(|name| reader.object(&driver(name))).transpose()?.flatten();
    let attached = attachment(volume, driver.as_ref().map(|driver| &driver.body), node);
    objects.extend(attached.map(|name| key(ATTACHMENTS, "", &name)));
    Ok(objects)
}

/// A storage driver, as every kubelet lists them.
fn driver(name: &str) -> ObjectKey {
    key("storage.k8s.io/v1/csidrivers", "", name)
}

/// A pod of this node that has not come to its end. (A mirror of a static pod needs nothing of the cloud.)
fn runs_on(pod: &Value, node: &str) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node)
        && !matches!(phase, Some("Succeeded" | "Failed"))
        && meta::deletion_timestamp(pod).is_none()
        && meta::annotation(pod, "kubernetes.io/config.mirror").is_none()
}

fn token_of(pod: &Value, namespace: &str, body: Value) -> Option<Token> {
    let account = account(pod);
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let request = KubeRequest::parse("POST", &path, "");
    let key = token::key(request.resource()?, &body);
    Some(Token { path, key, body })
}

fn missing(reader: &Reader, node: &str) -> Result<Wanted, CacheError> {
    let all = wanted(reader, node)?;
    let mut missing = Wanted::default();
    for key in all.objects {
        if reader.get(NODE, &key)?.is_none() {
            missing.objects.push(key);
        }
    }
    for token in all.tokens {
        if reader.token(&token.key)?.is_none() {
            missing.tokens.push(token);
        }
    }
    Ok(missing)
}

async fn read_object(shared: &Shared, key: &ObjectKey) -> Result<(), String> {
    let gvr: GroupVersionResource =
        key.resource.parse().map_err(|_| format!("`{}` is no resource", key.resource))?;
    let namespace = (!key.namespace.is_empty()).then_some(key.namespace.as_str());
    let path = gvr.path(namespace, Some(&key.name));
    let call = call(Method::GET, &path)?;
    ask(shared, call, Bytes::new()).await
}

async fn ask_token(shared: &Shared, token: Token) -> Result<(), String> {
    let mut call = call(Method::POST, &token.path)?;
    call.head.headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    call.head.extensions.insert(token::Asked(token.key));
    ask(shared, call, token.body.to_string().into()).await
}

/// A request as the kubelet would make it.
fn call(method: Method, target: &str) -> Result<Call, String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = KubeRequest::parse(method.as_str(), path, query);
    let head = Request::builder()
        .method(method)
        .uri(target)
        .header(header::ACCEPT, ACCEPT)
        .header(header::USER_AGENT, concat!("edge/", env!("CARGO_PKG_VERSION")))
        .body(())
        .map_err(|e| e.to_string())?;
    Ok(Call { head: head.into_parts().0, caller: Caller::Kubelet, request, accept: Accept::parse(ACCEPT) })
}

/// Asks, and keeps the answer by the way that every answer goes. What the cloud has not, or does not show to this
/// node, the kubelet would not get either.
async fn ask(shared: &Shared, call: Call, body: Bytes) -> Result<(), String> {
    let path = call.head.uri.path().to_owned();
    match shared.forward(&call, &mut Payload::Whole(body), true).await {
        Outcome::Outage(_) => Err("the cloud is away".to_owned()),
        Outcome::Answer(answer) => {
            let code = answer.status();
            answer.into_body().collect().await.map_err(|e| e.to_string())?;
            match code {
                StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => {
                    tracing::debug!(path, %code, "not read ahead");
                    Ok(())
                }
                code if code.is_success() => Ok(()),
                code => Err(format!("`{path}` answers {code}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cache::{Cache, Object};

    #[tokio::test]
    async fn what_kubelet_reads_once_for_a_pod_is_needed_as_long_as_the_pod_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let meta = |name: &str| json!({"name": name, "namespace": "ns", "uid": format!("uid-{name}")});
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        let pod = |name: &str, node: &str| {
            let spec = json!({"nodeName": node, "serviceAccountName": "a", "volumes": volumes,
                "resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}]});
            let status = json!({"extendedResourceClaimStatus": {"resourceClaimName": "extended"}});
            Object::new("v1/pods", json!({"metadata": meta(name), "spec": spec, "status": status})).unwrap()
        };
        let attachment = |name: &str, volume: &str| {
            let spec = json!({"nodeName": "n", "source": {"persistentVolumeName": volume}});
            let body = json!({"metadata": {"name": name}, "spec": spec});
            Object::new(ATTACHMENTS, body).unwrap()
        };
        let claim = json!({"metadata": meta("c"), "spec": {"volumeName": "pv"}});
        let stage = json!({"namespace": "ceph", "name": "stage"});
        let volume = json!({"metadata": {"name": "pv", "uid": "uid-pv"},
            "spec": {"csi": {"driver": "rbd.csi", "volumeHandle": "h", "nodeStageSecretRef": stage}}});
        let driver = json!({"metadata": {"name": "rbd.csi", "uid": "uid-driver"},
            "spec": {"tokenRequests": [{"audience": "vault", "expirationSeconds": 600}]}});
        let kept = [
            pod("here", "n"),
            pod("elsewhere", "m"),
            attachment("attached", "pv"),
            attachment("of-before", "old"),
            Object::new("v1/persistentvolumeclaims", claim).unwrap(),
            Object::new("v1/persistentvolumes", volume).unwrap(),
            Object::new("storage.k8s.io/v1/csidrivers", driver).unwrap(),
        ];
        cache.commit(move |w| kept.iter().try_for_each(|object| w.put_single(NODE, object))).await.unwrap();
        let needed = cache.read(|reader| needed(reader, "n")).await.unwrap();
        assert_eq!(needed.pods, ["uid-here"]);
        let has = |resource: &str, name: &str| {
            needed.objects.iter().any(|key| key.resource == resource && key.name == name)
        };
        assert!(has("v1/persistentvolumes", "pv") && has("v1/serviceaccounts", "a"));
        let claims = "resource.k8s.io/v1/resourceclaims";
        assert!(has(claims, "gpu") && has(claims, "extended"));
        let secret = key("v1/secrets", "ceph", "stage");
        assert!(needed.objects.contains(&secret), "the volume is mounted by it: {needed:?}");
        assert!(has(ATTACHMENTS, "attached") && !has(ATTACHMENTS, "of-before"));

        let missing = cache.read(|reader| missing(reader, "n")).await.unwrap();
        assert!(missing.objects.contains(&secret), "it is read where it is not kept: {:?}", missing.objects);
        assert!(missing.objects.iter().any(|key| key.resource == ATTACHMENTS), "{:?}", missing.objects);
        let tokens: Vec<_> = missing.tokens.iter().map(|token| &token.key).collect();
        assert_eq!(tokens.len(), 1, "{tokens:?}");
        assert_eq!((&*tokens[0].audiences, tokens[0].expiration), ("vault", 600));
        assert_eq!((&*tokens[0].account, &*tokens[0].bound), ("a", "Pod/uid-here"));
    }
}
