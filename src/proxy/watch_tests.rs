//! What a watch that is answered here tells: each change under a version of its own, and to whoever goes on from one what
//! has happened since.

use http::header;
use tokio::sync::Notify;

use super::*;
use crate::cache::{NODE, ScopeKey, Writer};
use crate::link::Phase;
use crate::proxy::caller::Caller;
use crate::proxy::decide::Local;
use crate::proxy::local::{LocalWrites, Write};

#[test]
fn a_watch_of_no_seconds_is_one_that_does_not_say() {
    let unasked = Duration::from_secs(9);
    for (query, expected) in [("", 9), ("&timeoutSeconds=0", 9), ("&timeoutSeconds=3", 3)] {
        let parsed = crate::kube::Request::parse("GET", "/api/v1/pods", &format!("watch=true{query}"));
        assert_eq!(lasts(parsed.resource().unwrap(), unasked).as_secs(), expected, "{query}");
    }
}

/// This node in an outage, whose kubelet has read its pods at version 10.
struct Place {
    _folder: tempfile::TempDir,
    cache: Cache,
    edits: broadcast::Sender<Edit>,
    writes: LocalWrites,
    link: watch::Sender<LinkState>,
    stop: watch::Sender<u64>,
}

const OWN: &str = "fieldSelector=spec.nodeName%3Dn";
const RUNNING: &str = "fieldSelector=spec.nodeName%3Dn,status.phase%3DRunning";

fn pod(name: &str, version: u64) -> Object {
    let body = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n"}, "status": {"phase": "Pending"},
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": name},
            "resourceVersion": version.to_string()}});
    Object::new("v1/pods", body).unwrap()
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let job = |writer: &mut Writer| {
            for fields in ["spec.nodeName=n", "spec.nodeName=n,status.phase=Running"] {
                let key = ScopeKey {
                    identity: NODE.into(),
                    resource: "v1/pods".into(),
                    namespace: String::new(),
                    labels: String::new(),
                    fields: fields.into(),
                };
                let scope = writer.scope(&key)?;
                if !fields.contains("phase") {
                    writer.put(scope, &pod("p", 7))?;
                    writer.put(scope, &pod("q", 8))?;
                }
                writer.mark_synced(scope, "PodList", "10")?;
            }
            Ok(())
        };
        cache.commit(job).await.unwrap();
        let (edits, _) = broadcast::channel(BACKLOG);
        let writes = LocalWrites::new(cache.clone(), edits.clone(), Arc::new(Notify::new()));
        let state = LinkState { phase: Phase::Offline("cut".into()), since: crate::sys::clock::now() };
        let (link, stop) = (watch::Sender::new(state), watch::Sender::new(0));
        Self { _folder: folder, cache, edits, writes, link, stop }
    }

    /// Begins a watch of pods that lasts a second.
    async fn begin(&self, query: &str) -> Response<Body> {
        self.begin_as(NODE, "/api/v1/pods", query).await
    }

    async fn begin_as(&self, identity: &str, path: &str, query: &str) -> Response<Body> {
        // Who says how long is heard first.
        let query = format!("watch=true&{query}&timeoutSeconds=1");
        let parsed = crate::kube::Request::parse("GET", path, &query);
        let local = LocalWatch {
            cache: self.cache.clone(),
            edits: self.edits.subscribe(),
            link: self.link.subscribe(),
            stop: self.stop.subscribe(),
        };
        local.answer(identity, parsed.resource().unwrap(), Accept::parse("application/json")).await
    }

    /// What such a watch tells: of each event its type, name (of an error its code) and version.
    async fn watch(&self, query: &str) -> Vec<(String, String, String)> {
        told(self.begin(query).await).await
    }

    async fn write(&self, method: &str, path: &str, local: Local, body: Value) -> u16 {
        let parsed = crate::kube::Request::parse(method, path, "");
        let mut headers = http::HeaderMap::new();
        let patch = http::HeaderValue::from_static("application/merge-patch+json");
        if method == "PATCH" {
            headers.insert(header::CONTENT_TYPE, patch);
        }
        let body = Bytes::from(body.to_string());
        let request = parsed.resource().unwrap();
        let write = Write { request, headers: &headers, body: &body, encoding: Encoding::Json };
        self.writes.answer(local, &Caller::Kubelet, write).await.status().as_u16()
    }

    async fn phase(&self, name: &str, phase: &str) {
        let path = format!("/api/v1/namespaces/ns/pods/{name}/status");
        let body = json!({"status": {"phase": phase}});
        assert_eq!(self.write("PATCH", &path, Local::Edit, body).await, 200);
    }

    async fn delete(&self, name: &str) {
        let path = format!("/api/v1/namespaces/ns/pods/{name}");
        assert_eq!(
            self.write("DELETE", &path, Local::DeletePod, json!({"gracePeriodSeconds": 0})).await,
            200
        );
    }

    async fn version(&self, name: &str) -> String {
        let key = pod(name, 0).key;
        let kept = self.cache.read(move |reader| reader.object(&key)).await.unwrap().unwrap();
        kept.shown_version().to_owned()
    }
}

async fn told(answered: Response<Body>) -> Vec<(String, String, String)> {
    let bytes = answered.into_body().collect().await.unwrap().to_bytes();
    let events = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let one = |event: Value| {
        let (kind, object) = (text(&event["type"]), &event["object"]);
        match kind.as_str() {
            "ERROR" => (kind, text(&object["code"]), String::new()),
            _ => (kind, text(&object["metadata"]["name"]), text(&object["metadata"]["resourceVersion"])),
        }
    };
    events.map(|event| one(event.unwrap())).collect()
}

fn names(told: &[(String, String, String)]) -> Vec<(&str, &str)> {
    told.iter().map(|(kind, name, _)| (kind.as_str(), name.as_str())).collect()
}

fn gone() -> Vec<(String, String, String)> {
    vec![("ERROR".into(), "410".into(), String::new())]
}

#[tokio::test]
async fn each_change_has_a_version_of_its_own_and_a_watch_goes_on_behind_it() {
    let place = Place::new().await;
    let watch = place.begin(OWN).await;
    let first = async {
        place.phase("p", "Running").await;
        let first = place.version("p").await;
        place.phase("p", "Failed").await;
        first
    };
    let (first, told) = tokio::join!(first, told(watch));
    let second = place.version("p").await;
    let last = told.last().unwrap();
    assert_eq!((&*last.0, &*last.1, &*last.2), ("MODIFIED", "p", &*second), "{told:?}");
    let number = |version: &str| version::given(version).unwrap();
    assert!(number(&second) > number(&first) && first != "7");
    for (version, expected) in [(&first, vec![("MODIFIED", "p")]), (&second, vec![])] {
        let told = place.watch(&format!("{OWN}&resourceVersion={version}")).await;
        assert_eq!(names(&told), expected, "behind {version}");
    }
    // Whoever has read the cloud's list knows nothing of it.
    let told = place.watch(&format!("{OWN}&resourceVersion=10")).await;
    assert_eq!(told, [("MODIFIED".into(), "p".into(), second.clone())]);
    // Of another outage, or of none.
    let later = (number(&second) + 5).to_string();
    assert_eq!(place.watch(&format!("{OWN}&resourceVersion={later}")).await, gone());
    place.cache.commit(|writer| writer.outdate_versions()).await.unwrap();
    assert_eq!(place.watch(&format!("{OWN}&resourceVersion={second}")).await, gone());
}

#[tokio::test]
async fn a_watch_that_is_behind_what_is_kept_is_told_what_it_missed_or_to_read_anew() {
    let place = Place::new().await;
    // By another process of the same identity.
    place.cache.commit(|writer| writer.put_single(NODE, &pod("q", 20))).await.unwrap();
    let told = place.watch(&format!("{OWN}&resourceVersion=15")).await;
    assert_eq!(told, [("MODIFIED".into(), "q".into(), "20".into())]);
    assert_eq!(place.watch(&format!("{OWN}&resourceVersion=20")).await, []);
    for version in ["9", "abc", "-1"] {
        assert_eq!(place.watch(&format!("{OWN}&resourceVersion={version}")).await, gone(), "{version}");
    }
}

#[tokio::test]
async fn what_comes_to_be_wanted_is_new_and_what_is_wanted_no_more_is_gone() {
    let place = Place::new().await;
    // A disk may be slow to take three changes.
    let watch = place.begin(&format!("{RUNNING}&timeoutSeconds=4")).await;
    let change = async {
        for phase in ["Running", "Failed"] {
            place.phase("p", phase).await;
        }
        place.phase("q", "Running").await;
    };
    let ((), told) = tokio::join!(change, told(watch));
    assert_eq!(names(&told), [("ADDED", "p"), ("DELETED", "p"), ("ADDED", "q")]);
    let told = place.watch(&format!("{RUNNING}&resourceVersion=10")).await;
    assert_eq!(names(&told), [("DELETED", "p"), ("MODIFIED", "q")]);
    // As after a restart.
    assert_eq!(names(&place.watch(RUNNING).await), [("ADDED", "q")]);
}

#[tokio::test]
async fn a_deletion_is_told_by_what_the_object_was() {
    let place = Place::new().await;
    place.delete("p").await;
    let told = place.watch(&format!("{OWN}&resourceVersion=10")).await;
    assert_eq!(names(&told), [("DELETED", "p")]);
    let last = told[0].2.clone();
    assert_eq!(place.watch(&format!("{OWN}&resourceVersion={last}")).await, [], "it is known");
    for (labels, expected) in [("app%3Dp", vec![("DELETED", "p")]), ("app%3Dq", vec![])] {
        let told = place.watch(&format!("{OWN}&labelSelector={labels}&resourceVersion=10")).await;
        assert_eq!(names(&told), expected, "{labels}");
    }
    // Who has it from before it was wanted no more, and who has never wanted it.
    place.phase("q", "Running").await;
    place.phase("q", "Failed").await;
    place.delete("q").await;
    for (phase, expected) in [("Pending", vec!["p", "q"]), ("Unknown", vec![])] {
        let of_phase = format!("{OWN},status.phase%3D{phase}");
        let told = place.watch(&format!("{of_phase}&resourceVersion=10")).await;
        assert_eq!(names(&told).into_iter().map(|(_, name)| name).collect::<Vec<_>>(), expected, "{phase}");
    }
}

/// Nothing waits for the cloud of it then, so nothing is left that tells those who have seen it.
#[tokio::test]
async fn what_came_and_went_in_one_outage_is_forgotten_by_all() {
    let place = Place::new().await;
    let mut mirror = pod("m", 0).body;
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert_eq!(place.write("POST", "/api/v1/namespaces/ns/pods", Local::MirrorPod, mirror).await, 201);
    let seen = place.version("m").await;
    place.delete("m").await;
    assert_eq!(place.watch(&format!("{OWN}&resourceVersion={seen}")).await, gone());
    assert_eq!(place.watch(&format!("{OWN}&resourceVersion=10")).await, [], "it was never in the cloud");
}

/// A client that selects by a label is told that a Secret has lost it, which kubelet has read: not what is in it now.
#[tokio::test]
async fn what_a_client_was_not_told_of_a_secret_is_in_no_event() {
    const CLIENT: &str = "system:serviceaccount:ns:a/u";
    let place = Place::new().await;
    let secret = |version: &str, app: &str| {
        let body = json!({"apiVersion": "v1", "kind": "Secret", "data": {"v": version}, "type": "Opaque",
            "metadata": {"name": "s", "namespace": "ns", "uid": "us", "labels": {"app": app},
                "resourceVersion": version}});
        Object::new("v1/secrets", body).unwrap()
    };
    let key = ScopeKey {
        identity: CLIENT.into(),
        resource: "v1/secrets".into(),
        namespace: "ns".into(),
        labels: "app=x".into(),
        fields: String::new(),
    };
    let job = move |writer: &mut Writer| {
        let scope = writer.scope(&key)?;
        writer.put(scope, &secret("7", "x"))?;
        writer.mark_synced(scope, "SecretList", "10")?;
        writer.put_single(NODE, &secret("20", "y"))
    };
    place.cache.commit(job).await.unwrap();
    let path = "/api/v1/namespaces/ns/secrets";
    let event = async || {
        let answered = place.begin_as(CLIENT, path, "labelSelector=app%3Dx&resourceVersion=10").await;
        let bytes = answered.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice::<Value>(&bytes).unwrap()
    };
    let meta = json!({"name": "s", "namespace": "ns", "uid": "us", "resourceVersion": "20"});
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta});
    assert_eq!(event().await, json!({"type": "DELETED", "object": object}));
    // Of what it was told it hears all.
    place.cache.commit(move |writer| writer.put_single(CLIENT, &secret("20", "y"))).await.unwrap();
    assert_eq!(event().await["object"]["data"]["v"], "20");
}
