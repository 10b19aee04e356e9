//! Writes that are taken here while the cloud is away.

use std::time::Duration;

use http_body_util::BodyExt as _;

use super::*;
use crate::cache::Object;
use crate::kube::{Request, codec};
use crate::proxy::decide::{Action, Who, decide};
use crate::proxy::stand_in::newer;
use crate::proxy::watch::BACKLOG;

struct Node {
    writes: LocalWrites,
    _folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let (edits, _) = broadcast::channel(BACKLOG);
        Self { writes: LocalWrites::new(cache, edits, Arc::new(Notify::new())), _folder: folder }
    }

    /// What kubelet hears of a body that it posts in protobuf.
    async fn post(&self, local: Local, path: &str, body: Bytes) -> (u16, Value) {
        let request = Request::parse("POST", path, "");
        let mut headers = HeaderMap::new();
        let kind = http::HeaderValue::from_static("application/vnd.kubernetes.protobuf");
        headers.insert(http::header::CONTENT_TYPE, kind);
        let request = request.resource().unwrap();
        let write = Write { request, headers: &headers, body: &body, encoding: Encoding::Protobuf };
        let answered = self.writes.answer(local, &Caller::Kubelet, write).await;
        let code = answered.status().as_u16();
        let body = answered.into_body().collect().await.unwrap().to_bytes();
        (code, codec::decode(&body).unwrap().whole().unwrap())
    }
}

/// Kubelet mounts a volume that was enlarged, and the driver has grown what is on it.
#[tokio::test]
async fn a_volume_that_is_to_grow_is_mounted_without_the_cloud() {
    let node = Node::new();
    let path = "/api/v1/namespaces/ns/persistentvolumeclaims/c/status";
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": "ns", "uid": "u", "resourceVersion": "7"},
        "spec": {"volumeName": "pv", "resources": {"requests": {"storage": "2Gi"}}},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"},
            "allocatedResourceStatuses": {"storage": "NodeResizePending"},
            "conditions": [{"type": "FileSystemResizePending", "status": "True"}]}});
    let known = Object::new("v1/persistentvolumeclaims", claim).unwrap();
    node.writes.cache.commit(move |writer| writer.put_single(crate::cache::NODE, &known)).await.unwrap();
    let patch = async |version: &str, status: Value| {
        let request = Request::parse("PATCH", path, "");
        let mut headers = HeaderMap::new();
        let kind = http::HeaderValue::from_static("application/strategic-merge-patch+json");
        headers.insert(http::header::CONTENT_TYPE, kind);
        let body = json!({"metadata": {"resourceVersion": version}, "status": status}).to_string().into();
        let request = request.resource().unwrap();
        let write = Write { request, headers: &headers, body: &body, encoding: Encoding::Json };
        let Action::Local(local) = decide(&Request::parse("PATCH", path, ""), Who::Kubelet, true, false)
        else {
            panic!("it is refused");
        };
        let answered = node.writes.answer(local, &Caller::Kubelet, write).await;
        let code = answered.status().as_u16();
        let body = answered.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice::<Value>(&body).unwrap())
    };
    let begun = json!({"allocatedResourceStatuses": {"storage": "NodeResizeInProgress"}});
    let (code, now) = patch("7", begun).await;
    assert_eq!((code, &now["status"]["capacity"]["storage"]), (200, &json!("1Gi")), "{now}");
    let version = now["metadata"]["resourceVersion"].as_str().unwrap();
    let done = json!({"capacity": {"storage": "2Gi"}, "allocatedResourceStatuses": null,
        "conditions": [{"$patch": "delete", "type": "FileSystemResizePending"}]});
    assert_eq!(patch("7", done.clone()).await.0, 409, "of before it began");
    let (code, now) = patch(version, done).await;
    assert_eq!((code, &now["status"]["capacity"]["storage"]), (200, &json!("2Gi")), "{now}");
    assert_eq!(now["spec"]["volumeName"], "pv");
    let waiting = node.writes.cache.read(|reader| reader.changes()).await.unwrap();
    let [change] = &waiting[..] else { panic!("{waiting:?}") };
    let base: Value = serde_json::from_slice(change.what.base.as_deref().unwrap()).unwrap();
    let told = crate::proxy::difference::told(&change.what, &base, &now).unwrap().unwrap();
    assert_eq!((&*change.what.subresource, &told["metadata"]), ("status", &json!({"uid": "u"})));
    assert_eq!(told["status"]["capacity"], json!({"storage": "2Gi"}), "{told}");
}

const TOKEN: &str = "/api/v1/namespaces/ns/serviceaccounts/sa/token";

fn token_request() -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": ["a"], "expirationSeconds": 3607}})
}

/// A kubelet of a later release, after a reboot without the cloud.
#[tokio::test]
async fn a_newer_kubelet_has_its_tokens_and_events_and_no_object_is_kept_without_a_part_of_it() {
    let node = Node::new();
    let (code, token) = node.post(Local::Token, TOKEN, newer(&token_request())).await;
    assert_eq!((code, &token["spec"]["audiences"]), (201, &json!(["a"])), "{token}");
    let event = json!({"apiVersion": "v1", "kind": "Event", "reason": "Started", "type": "Normal",
        "metadata": {"name": "e", "namespace": "ns"},
        "involvedObject": {"kind": "Pod", "namespace": "ns", "name": "p", "uid": "u"}});
    let (code, told) = node.post(Local::Event, "/api/v1/namespaces/ns/events", newer(&event)).await;
    assert_eq!((code, &told["reason"]), (201, &json!("Started")), "{told}");
    let mirror = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n"},
        "metadata": {"name": "static-n", "namespace": "ns", "annotations": {"kubernetes.io/config.mirror": "1"}}});
    let pods = "/api/v1/namespaces/ns/pods";
    let (code, why) = node.post(Local::MirrorPod, pods, newer(&mirror)).await;
    assert_eq!(code, 503, "{why}");
    assert!(why["message"].as_str().unwrap().contains("does not know core/v1.Pod field 99"), "{why}");
    let plain = codec::encode(&mirror).unwrap().into();
    assert_eq!(node.post(Local::MirrorPod, pods, plain).await.0, 201);
}

/// Its placeholder names itself, and is over at once.
#[tokio::test]
async fn a_token_is_a_placeholder_only_where_there_never_was_one() {
    use base64::Engine as _;
    let node = Node::new();
    let body = || Bytes::from(codec::encode(&token_request()).unwrap());
    let begun = crate::sys::clock::now();
    let (code, answered) = node.post(Local::Token, TOKEN, body()).await;
    assert_eq!(code, 201);
    let text = answered["status"]["token"].as_str().unwrap();
    let signature = text.rsplit('.').next().unwrap();
    let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signature).unwrap();
    assert!(String::from_utf8(signature).unwrap().starts_with("placeholder"));
    let ends: jiff::Timestamp = answered["status"]["expirationTimestamp"].as_str().unwrap().parse().unwrap();
    assert!(ends <= crate::sys::clock::now() && begun.as_second() - ends.as_second() <= 1, "{ends}");
    let request = Request::parse("POST", TOKEN, "");
    let key = token::key(request.resource().unwrap(), &token_request());
    let mut real = token_request();
    real["status"] = json!({"token": "real", "expirationTimestamp": "2026-01-01T00:00:00Z"});
    let kept = real.to_string();
    node.writes.cache.commit(move |writer| writer.put_token(&key, kept.as_bytes())).await.unwrap();
    let (code, answered) = node.post(Local::Token, TOKEN, body()).await;
    assert_eq!((code, &answered["status"]), (201, &real["status"]));
}

/// kubelet asks so whether somebody may use its port.
#[tokio::test]
async fn nobody_is_cleared_while_the_cloud_is_away() {
    let node = Node::new();
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "t"}});
    let body = codec::encode(&review).unwrap().into();
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (code, answered) = node.post(Local::Review, path, body).await;
    assert_eq!((code, &answered["kind"]), (201, &json!("TokenReview")));
    assert_ne!(answered["status"]["authenticated"], true);
    assert_eq!(answered["status"]["error"], "the cloud is away");
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "admin", "resourceAttributes": {"verb": "get", "resource": "nodes"}}});
    let body = codec::encode(&review).unwrap().into();
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let (code, answered) = node.post(Local::Review, path, body).await;
    assert_eq!((code, &answered["kind"]), (201, &json!("SubjectAccessReview")));
    assert_ne!(answered["status"]["allowed"], true);
    assert_eq!(answered["status"]["reason"], "the cloud is away");
}

/// A kubelet that is restarted, or one whose deadline passes on a slow card.
#[tokio::test]
async fn who_watches_is_told_of_a_change_whose_writer_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Running"},
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "1"}});
    let known = Object::new("v1/pods", pod).unwrap();
    let key = known.key.clone();
    cache.commit(move |writer| writer.put_single("node", &known)).await.unwrap();
    let (edits, mut watcher) = broadcast::channel(BACKLOG);
    let waiting = Arc::new(Notify::new());
    let writes = LocalWrites::new(cache.clone(), edits, waiting.clone());
    let (held, hold) = std::sync::mpsc::channel::<()>();
    let slow = cache.clone();
    let slow = tokio::spawn(async move {
        let job = move |_: &mut Writer| {
            hold.recv().unwrap();
            Ok(())
        };
        slow.commit(job).await
    });
    tokio::task::yield_now().await;
    let said = json!({"status": {"phase": "Failed"}});
    let input = Input::Patch(crate::kube::patch::PatchType::Merge, said);
    let write = writes.edit(key, Some("status".to_owned()), input);
    tokio::time::timeout(Duration::from_millis(50), write).await.expect_err("the card is slow");
    held.send(()).unwrap();
    slow.await.unwrap().unwrap();
    let told = tokio::time::timeout(Duration::from_secs(10), watcher.recv());
    let told = told.await.expect("it is on disk, and nobody was told").unwrap();
    assert_eq!(told.object.body["status"]["phase"], "Failed");
    tokio::time::timeout(Duration::from_secs(1), waiting.notified()).await.expect("it waits for the cloud");
}
