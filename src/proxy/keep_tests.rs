//! What a client is answered in an outage after what it asked, wrote and was refused before: over real connections.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use serde_json::{Value, json};

use super::answer::{Accept, Body, full};
use super::caller::Caller;
use super::forward::Call;
use super::guests::Limits;
use super::refusals::Asked;
use super::stand_in::{Break, Cloud, Door, empty, json as answer};
use crate::cache::{Cache, NODE, Object};
use crate::kube;

/// What the cloud answers, by method and path; `None` once it is away.
type Says = Arc<Mutex<Option<HashMap<String, (u16, Value)>>>>;

const NS: &str = "/api/v1/namespaces/ns";

fn object(kind: &str, name: &str, version: &str) -> Value {
    json!({"apiVersion": "v1", "kind": kind,
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": version}})
}

fn status(reason: &str, details: Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "reason": reason, "details": details})
}

/// What the cloud tells of this namespace it compresses, as an API server does with what is large.
const PACKED: &str = "/api/v1/namespaces/packed/";

async fn pack(answered: Response<Body>) -> Response<Body> {
    let (mut head, body) = answered.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let mut pack = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    pack.write_all(&bytes).unwrap();
    head.headers.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
    Response::from_parts(head, full(pack.finish().unwrap()))
}

struct Scene {
    says: Says,
    door: Door,
    client: SendRequest<Full<Bytes>>,
    cloud: Cloud,
}

impl Scene {
    async fn new() -> Self {
        let says: Says = Arc::new(Mutex::new(Some(HashMap::new())));
        let told = says.clone();
        let answers = move |head: http::request::Parts| {
            let asked = format!("{} {}", head.method, head.uri.path());
            let mut answered = match told.lock().unwrap().as_ref() {
                Some(all) => all
                    .get(&asked)
                    .map_or_else(|| answer(200, &json!({})), |(code, body)| answer(*code, body)),
                None => {
                    let mut broken = answer(200, &json!({}));
                    broken.extensions_mut().insert(Break);
                    broken
                }
            };
            let packs = head.uri.path().starts_with(PACKED);
            Box::pin(async move {
                if packs {
                    answered = pack(answered).await;
                }
                answered
            }) as _
        };
        let cloud = Cloud::new(Arc::new(answers)).await;
        let door = Door::new(&cloud, Limits::PODS, true).await;
        let client = door.two().await;
        Self { says, door, client, cloud }
    }

    /// The daemon ends without notice, and another one begins.
    async fn kill(&mut self) {
        self.door.proxy.shared.cache.flush().await.unwrap();
        let folder = self.cloud.folder.path();
        let cache = Cache::open(folder, folder).unwrap().cache;
        self.door = Door::over(&self.cloud, cache, Limits::PODS, true).await;
        self.client = self.door.two().await;
    }

    async fn ask(&mut self, token: &str, method: &str, path: &str, body: &'static str) -> (u16, String) {
        let wanted = self.door.request(method, path, token).header("content-type", "application/json");
        let wanted = wanted.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap();
        let asked = async {
            let answered = self.client.send_request(wanted).await.unwrap();
            let code = answered.status().as_u16();
            (
                code,
                String::from_utf8(answered.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap(),
            )
        };
        tokio::time::timeout(Duration::from_secs(30), asked)
            .await
            .unwrap_or_else(|_| panic!("{method} {path}"))
    }

    /// The cloud answers so, and the client hears it.
    async fn hears(&mut self, method: &str, path: &str, body: &'static str, code: u16, said: Value) {
        self.says.lock().unwrap().as_mut().unwrap().insert(format!("{method} {path}"), (code, said));
        assert_eq!(self.ask("one", method, path, body).await.0, code, "{method} {path}");
    }

    /// What the client asks for there.
    fn asked(&self, path: &str) -> Asked {
        let wanted = self.door.request("GET", path, "one").body(()).unwrap();
        let caller = Caller::of(false, wanted.headers()).unwrap();
        Asked::of(&caller.identity(), kube::Request::parse("GET", path, "").resource().unwrap()).unwrap()
    }

    /// Nobody else is told more, and what was told is kept.
    async fn cut(&mut self) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.door.proxy.shared.cache.flush().await.unwrap();
        *self.says.lock().unwrap() = None;
    }

    async fn code(&mut self, path: &str) -> u16 {
        self.ask("one", "GET", path, "").await.0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_finds_in_an_outage_what_it_did_before() {
    let mut scene = Scene::new().await;
    let maps = format!("{NS}/configmaps");
    let at = |name: &str| format!("{NS}/configmaps/{name}");
    let absent = |name: &str| status("NotFound", json!({"name": name}));
    scene.hears("GET", &at("made"), "", 404, absent("made")).await;
    scene.hears("POST", &maps, "{}", 201, object("ConfigMap", "made", "5")).await;
    scene.hears("GET", &at("applied"), "", 404, absent("applied")).await;
    scene.hears("PATCH", &at("applied"), "{}", 201, object("ConfigMap", "applied", "6")).await;
    let mut waiting = object("ConfigMap", "waiting", "9");
    waiting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    waiting["metadata"]["finalizers"] = json!(["x.io/y"]);
    let gone = |name: &str| status("", json!({"name": name, "uid": format!("uid-{name}")}));
    for (name, options, said) in [
        ("deleted", "{}", gone("deleted")),
        ("dry", r#"{"dryRun":["All"]}"#, gone("dry")),
        ("other", "{}", status("", json!({"name": "other", "uid": "of one before"}))),
        ("last", "", object("ConfigMap", "last", "8")),
        ("waiting", "", waiting.clone()),
    ] {
        scene.hears("GET", &at(name), "", 200, object("ConfigMap", name, "7")).await;
        scene.hears("DELETE", &at(name), options, 200, said).await;
    }
    scene.cut().await;
    for (name, expected) in [
        ("made", 200),
        ("applied", 200),
        ("deleted", 404),
        ("dry", 200),
        ("other", 200),
        ("last", 404),
        ("waiting", 200),
        ("unknown", 503),
    ] {
        assert_eq!(scene.code(&at(name)).await, expected, "{name}");
    }
    assert!(scene.ask("one", "GET", &at("waiting"), "").await.1.contains("deletionTimestamp"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_may_read_no_more_it_does_not_read_in_an_outage() {
    let mut scene = Scene::new().await;
    let (all, at) = (format!("{NS}/secrets"), |name: &str| format!("{NS}/secrets/{name}"));
    for name in ["refused", "rotated", "same"] {
        scene.hears("GET", &at(name), "", 200, object("Secret", name, "1")).await;
    }
    let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "3"}, "items": []});
    scene.hears("GET", &format!("{NS}/configmaps"), "", 200, list.clone()).await;
    scene.hears("GET", &format!("{NS}/endpoints"), "", 200, list.clone()).await;
    scene.hears("GET", &format!("{NS}/services"), "", 200, list.clone()).await;
    scene.hears("GET", &format!("{NS}/limitranges"), "", 200, list).await;
    let forbidden = status("Forbidden", json!({}));
    // It was refused so for long; the others for the first time, as by an API server that begins.
    for path in [at("refused"), format!("{NS}/configmaps"), format!("{NS}/limitranges")] {
        let begun = Instant::now().checked_sub(Duration::from_secs(120)).unwrap();
        assert!(!scene.door.proxy.shared.refusals.refused(&scene.asked(&path), begun));
    }
    for path in [at("same"), format!("{NS}/endpoints")] {
        scene.hears("GET", &path, "", 403, forbidden.clone()).await;
    }
    // Who has listed once, or by a watch, does nothing else any more.
    for kind in ["endpoints", "limitranges"] {
        let path = format!("{NS}/{kind}");
        scene.says.lock().unwrap().as_mut().unwrap().insert(format!("GET {path}"), (403, forbidden.clone()));
        assert_eq!(scene.code(&format!("{path}?watch=true&sendInitialEvents=true")).await, 403);
    }
    scene.hears("GET", &at("refused"), "", 403, forbidden.clone()).await;
    scene.hears("GET", &format!("{NS}/configmaps"), "", 403, forbidden).await;
    // By something between, which is no word of the cloud's.
    scene.hears("GET", &format!("{NS}/services"), "", 403, json!({})).await;
    // Kubelet reads what its pods mount.
    let kubelets: Vec<Object> = ["refused", "rotated", "same"]
        .into_iter()
        .map(|name| object("Secret", name, if name == "same" { "1" } else { "2" }))
        .filter_map(|body| Object::new("v1/secrets", body))
        .collect();
    let job = move |w: &mut crate::cache::Writer| kubelets.iter().try_for_each(|one| w.put_single(NODE, one));
    scene.door.proxy.shared.cache.commit(job).await.unwrap();
    scene.cut().await;
    for (path, expected) in [
        (at("refused"), 503),
        (at("rotated"), 503),
        (at("same"), 200),
        (format!("{all}?fieldSelector=metadata.name%3Drotated"), 503),
        (format!("{all}?fieldSelector=metadata.name%3Dsame"), 200),
        (format!("{all}?watch=true&fieldSelector=metadata.name%3Drotated"), 503),
        (format!("{NS}/configmaps"), 503),
        (format!("{NS}/limitranges"), 503),
        (format!("{NS}/services"), 200),
        (format!("{NS}/endpoints"), 200),
    ] {
        assert_eq!(scene.code(&path).await, expected, "{path}");
    }
}

/// What it was told last may not have been on disk yet, and is not told again.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_watching_after_an_end_without_notice_reads_anew_once() {
    let mut scene = Scene::new().await;
    let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "3"}, "items": []});
    for kind in ["services", "configmaps", "endpoints"] {
        scene.hears("GET", &format!("{NS}/{kind}"), "", 200, list.clone()).await;
    }
    let watch = |kind: &str| format!("{NS}/{kind}?watch=true&resourceVersion=3");
    let is_expired = async |scene: &mut Scene, path: &str| {
        let (code, text) = scene.ask("one", "GET", path, "").await;
        assert_eq!(code, 200, "{text}");
        text.contains("\"code\":410")
    };
    assert!(!is_expired(&mut scene, &watch("services")).await, "all is kept");
    scene.kill().await;
    let stranger = scene.ask("stranger", "GET", &watch("services"), "").await.1;
    assert!(!stranger.contains("410"), "the cloud says who that is: {stranger}");
    for expected in [true, false] {
        assert_eq!(is_expired(&mut scene, &watch("services")).await, expected);
    }
    assert!(!is_expired(&mut scene, &format!("{NS}/configmaps?watch=true&sendInitialEvents=true")).await);
    assert!(!is_expired(&mut scene, &watch("events")).await, "what is not kept");
    scene.hears("GET", &format!("{NS}/endpoints"), "", 200, list).await;
    assert!(!is_expired(&mut scene, &watch("endpoints")).await, "it was read since");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_what_answers_is_alive_and_not_ready() {
    let mut scene = Scene::new().await;
    scene.hears("GET", &format!("{NS}/configmaps/c"), "", 200, object("ConfigMap", "c", "1")).await;
    scene.cut().await;
    assert_eq!(scene.code(&format!("{NS}/configmaps/c")).await, 200);
    for path in ["/livez", "/healthz", "/healthz?timeout=1s"] {
        assert_eq!(scene.ask("one", "GET", path, "").await, (200, "ok".to_owned()), "{path}");
        assert_eq!(scene.ask("stranger", "GET", path, "").await.0, 401, "{path}");
    }
    assert_eq!(scene.code("/readyz").await, 503);
}

/// Whoever is on this machine can make up a token.
#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_nothing_is_read_of_a_stranger_and_he_is_told_nothing_else() {
    let mut scene = Scene::new().await;
    let maps = format!("{NS}/configmaps");
    scene.hears("GET", &format!("{maps}/c"), "", 200, object("ConfigMap", "c", "1")).await;
    scene.cut().await;
    assert_eq!(scene.code(&format!("{maps}/c")).await, 200);
    let large: &'static str = " ".repeat(4 << 20).leak();
    assert_eq!(scene.ask("one", "POST", &maps, large).await.0, 413, "of one that is known it is read");
    assert_eq!(scene.ask("stranger", "POST", &maps, large).await.0, 401);
    for (token, expected) in [("one", 400), ("stranger", 401)] {
        let wanted = scene.door.request("GET", &maps, token).header("connection", "authorization");
        let answered = scene.door.one().await.unwrap().send_request(wanted.body(empty()).unwrap()).await;
        assert_eq!(answered.unwrap().status(), expected, "{token}");
    }
    let seen = scene.door.proxy.shared.clients.all();
    let refused = seen.values().filter(|seen| seen.last.as_ref().is_some_and(|last| last.code == 401));
    assert_eq!(refused.map(|seen| seen.refused).collect::<Vec<_>>(), [2], "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_came_compressed_is_answered_in_an_outage() {
    let mut scene = Scene::new().await;
    let mut items: Vec<Value> = (0..20).map(|n| object("ConfigMap", &format!("c{n}"), "7")).collect();
    items.iter_mut().for_each(|item| item["metadata"]["namespace"] = "packed".into());
    let list = json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": items});
    let path = format!("{PACKED}configmaps");
    scene.says.lock().unwrap().as_mut().unwrap().insert(format!("GET {path}"), (200, list));
    let wanted = scene.door.request("GET", &path, "one").body(Full::new(Bytes::new())).unwrap();
    let answered = scene.client.send_request(wanted).await.unwrap();
    assert_eq!(answered.headers()[header::CONTENT_ENCODING], "gzip", "the client has it as it came");
    answered.into_body().collect().await.unwrap();
    scene.cut().await;
    let (code, text) = scene.ask("one", "GET", &path, "").await;
    assert_eq!(code, 200, "{text}");
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["items"].as_array().map(Vec::len), Some(20), "{text}");
}

/// An API server that starts refuses what it would not otherwise, and a node's authorizer what belongs to no pod any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_takes_nothing_from_kubelet() {
    let scene = Scene::new().await;
    let kinds =
        HeaderMap::from_iter([(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"))]);
    let mut bearer = HeaderMap::new();
    bearer.insert(header::AUTHORIZATION, header::HeaderValue::from_static("Bearer one"));
    let list = format!("{NS}/secrets");
    for (path, query) in [(&*format!("{NS}/secrets/s"), ""), (&list, ""), (&list, "watch=true")] {
        for (is_kubelet, code, is_kept) in [
            (true, StatusCode::OK, true),
            (true, StatusCode::FORBIDDEN, false),
            (false, StatusCode::FORBIDDEN, true),
            (true, StatusCode::UNAUTHORIZED, false),
            (true, StatusCode::INTERNAL_SERVER_ERROR, false),
        ] {
            let caller = Caller::of(is_kubelet, &bearer).unwrap();
            let request = kube::Request::parse("GET", path, query);
            let head = http::Request::new(()).into_parts().0;
            let call = Call { head, caller, request, accept: Accept::parse("application/json") };
            let recording = scene.door.proxy.shared.recording(&call, code, &kinds);
            assert_eq!(recording.is_some(), is_kept, "{path}?{query} {code} kubelet: {is_kubelet}");
        }
    }
}
