//! Upstreams that lie, limit and send elsewhere: a stand-in speaks HTTP, since no real registry can be brought to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use edge::sys::digest::Digest;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::command::{Done, Place};
use crate::mirror::{noise, states};
use crate::registry::MANIFEST;

/// What is answered to a path, in order; the last stays.
type Answers = Arc<Mutex<HashMap<String, Vec<Answer>>>>;

#[derive(Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

pub fn answer(status: u16, body: &[u8]) -> Answer {
    Answer { status, headers: Vec::new(), body: body.to_vec() }
}

impl Answer {
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// Who is let in to the paths that begin so: the `Authorization`, and the status of those who show another.
type Doors = Arc<Mutex<Vec<(String, String, u16)>>>;

/// A server that says what it is told to.
pub struct Liar {
    pub port: u16,
    answers: Answers,
    doors: Doors,
    heard: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl Liar {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let liar = Self {
            port: listener.local_addr().unwrap().port(),
            answers: Answers::default(),
            doors: Doors::default(),
            heard: Arc::default(),
        };
        let (answers, doors, heard) = (liar.answers.clone(), liar.doors.clone(), liar.heard.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, doors, heard) = (answers.clone(), doors.clone(), heard.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let path = request.uri().path().to_owned();
                    heard.lock().unwrap().push((path.clone(), request.headers().clone()));
                    let refusal = refused(&doors.lock().unwrap(), &path, request.headers());
                    let found = refusal.or_else(|| {
                        let mut answers = answers.lock().unwrap();
                        let all = answers.get_mut(&path)?;
                        Some(if all.len() > 1 { all.remove(0) } else { all[0].clone() })
                    });
                    let head = request.method() == http::Method::HEAD;
                    async move { Ok::<_, std::convert::Infallible>(response(found, head)) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        liar
    }

    pub fn say(&self, path: &str, answers: &[Answer]) {
        self.answers.lock().unwrap().insert(path.to_owned(), answers.to_vec());
    }

    /// From now on paths that begin so are for `user`, whose password is `secret`; others with a credential get
    /// `status`.
    pub fn lock(&self, path: &str, user: &str, secret: &str, status: u16) {
        self.doors.lock().unwrap().push((path.to_owned(), basic(user, secret), status));
    }

    /// An image with one layer whose answers are `layer`; the true layer is said to be `true_layer`.
    pub fn image(&self, tag: &str, true_layer: &[u8], layer: &[Answer]) {
        let config = br#"{"os":"linux"}"#;
        let (config_digest, digest) = (Digest::sha256(config), Digest::sha256(true_layer));
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": true_layer.len()}]});
        let text = manifest.to_string();
        let name = Digest::sha256(text.as_bytes());
        let told =
            answer(200, text.as_bytes()).with("content-type", MANIFEST).with("docker-content-digest", &name);
        for by in [tag, name.as_str()] {
            self.say(&format!("/v2/a/b/manifests/{by}"), std::slice::from_ref(&told));
        }
        self.say(&format!("/v2/a/b/blobs/{config_digest}"), &[answer(200, config)]);
        self.say(&format!("/v2/a/b/blobs/{digest}"), layer);
    }

    /// What is answered to a path.
    pub fn body(&self, path: &str) -> Vec<u8> {
        self.answers.lock().unwrap()[path][0].body.clone()
    }

    pub fn heard(&self, end: &str) -> Vec<HeaderMap> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|(path, _)| path.ends_with(end)).map(|(_, headers)| headers.clone()).collect()
    }
}

/// What a user with a password shows.
pub fn basic(user: &str, secret: &str) -> String {
    let pair = format!("{user}:{secret}");
    format!("Basic {}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pair))
}

fn refused(doors: &[(String, String, u16)], path: &str, headers: &HeaderMap) -> Option<Answer> {
    let (_, wanted, status) = doors.iter().find(|(begin, _, _)| path.starts_with(begin))?;
    match headers.get("authorization") {
        Some(shown) if shown == wanted => None,
        Some(_) => Some(answer(*status, b"").with("www-authenticate", "Basic realm=\"x\"")),
        None => Some(answer(401, b"").with("www-authenticate", "Basic realm=\"x\"")),
    }
}

fn response(
    found: Option<Answer>,
    head: bool,
) -> Response<http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>> {
    let found = found.unwrap_or_else(|| answer(404, b"{}"));
    let body = if head { Vec::new() } else { found.body };
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = StatusCode::from_u16(found.status).unwrap();
    for (name, value) in found.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

pub async fn sync(place: &Place, port: u16, tag: &str, more: &str) -> (i32, Value) {
    let rule = format!(
        "[[mirror.images]]\nrepository = \"127.0.0.1:{port}/a/b\"\ntags = {{ exact = [\"{tag}\"] }}\n"
    );
    place.write("etc/edge.toml", &format!("{more}{rule}"));
    let mut command = place.edge(&["mirror", "sync", "-o", "json"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let done = Done::of(output);
    (done.code, serde_json::from_str(&done.out).unwrap_or_else(|_| panic!("{done:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_digest_and_length_are_refused_and_nothing_of_them_is_seen() {
    let (liar, place) = (Liar::start().await, Place::new());
    let layer = noise(1, 50_000);
    let mut wrong = layer.clone();
    wrong[1000] ^= 1;
    let longer: Vec<u8> = layer.iter().copied().chain([1; 5000]).collect();
    for (tag, body, expected) in
        [("wrong", &wrong, "sent `sha256:"), ("longer", &longer, "is larger than 50000 bytes")]
    {
        liar.image(tag, &layer, &[answer(200, body)]);
        let (code, summary) = sync(&place, liar.port, tag, "").await;
        assert_eq!((code, states(&summary)), (1, vec![format!("b:{tag} failed")]));
        let why = summary["images"][0]["error"].as_str().unwrap();
        assert!(why.contains(expected), "{why}");
        assert_eq!(summary["generation"], Value::Null);
    }
    liar.image("late", &layer, &[answer(500, b""), answer(503, b""), answer(200, &layer)]);
    let (code, summary) = sync(&place, liar.port, "late", "").await;
    assert_eq!((code, states(&summary)), (0, vec!["b:late new".to_owned()]), "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_waited_for_if_short_and_told_if_long() {
    let (liar, place) = (Liar::start().await, Place::new());
    let layer = noise(2, 10_000);
    liar.image("1", &layer, &[answer(429, b"").with("retry-after", 1), answer(200, &layer)]);
    let begun = std::time::Instant::now();
    let (code, _) = sync(&place, liar.port, "1", "").await;
    assert_eq!(code, 0);
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
    liar.image("2", &noise(3, 10_000), &[answer(429, b"").with("retry-after", 3600)]);
    let (code, summary) = sync(&place, liar.port, "2", "").await;
    let why = summary["images"][0]["error"].as_str().unwrap();
    assert!(code == 1 && why.contains("limits its answers, again after 20"), "{why}");
    let head = liar.answers.lock().unwrap()["/v2/a/b/manifests/2"][0].clone();
    liar.say("/v2/a/b/manifests/3", &[head.with("ratelimit-remaining", "0;w=21600")]);
    let before = liar.heard.lock().unwrap().len();
    let (code, summary) = sync(&place, liar.port, "3", "").await;
    assert_eq!(code, 1, "{summary}");
    assert_eq!(liar.heard.lock().unwrap().len() - before, 1, "nothing is asked once nothing is left");
}

/// Docker Hub counts manifests alone: of the last that it gives the blobs may be had.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_manifest_that_is_given_brings_its_image() {
    let (liar, place) = (Liar::start().await, Place::new());
    let layer = noise(5, 10_000);
    liar.image("1", &layer, &[answer(200, &layer)]);
    let manifest = Digest::sha256(&liar.body("/v2/a/b/manifests/1"));
    let path = format!("/v2/a/b/manifests/{manifest}");
    let last = liar.answers.lock().unwrap()[&path][0].clone().with("ratelimit-remaining", "0;w=21600");
    liar.say(&path, &[last]);
    let (code, summary) = sync(&place, liar.port, "1", "").await;
    assert_eq!((code, states(&summary)), (0, vec!["b:1 new".to_owned()]), "{summary}");
    let told = summary["images"][0]["warnings"][0].as_str().unwrap();
    assert!(
        told.starts_with("what hangs on it was not all looked for: ") && told.contains("limits its answers"),
        "{told}"
    );
}

/// What was learnt to hang on an image is not forgotten by a run that could not look for it: it would be pruned.
#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_on_an_image_stays_known_while_nobody_can_be_asked() {
    let (liar, place) = (Liar::start().await, Place::new());
    let layer = noise(6, 10_000);
    liar.image("1", &layer, &[answer(200, &layer)]);
    let image = liar.body("/v2/a/b/manifests/1");
    let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": Digest::sha256(bytes), "size": bytes.len()});
    let signature = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x",
        "config": descriptor("application/x", b"{}"), "layers": [], "subject": descriptor(MANIFEST, &image)});
    let signature = signature.to_string().into_bytes();
    let name = Digest::sha256(&signature);
    let index = "application/vnd.oci.image.index.v1+json";
    let listed =
        json!({"schemaVersion": 2, "mediaType": index, "manifests": [descriptor(MANIFEST, &signature)]});
    let referrers = format!("/v2/a/b/referrers/{}", Digest::sha256(&image));
    liar.say(&referrers, &[answer(200, listed.to_string().as_bytes()).with("content-type", index)]);
    liar.say(&format!("/v2/a/b/manifests/{name}"), &[answer(200, &signature).with("content-type", MANIFEST)]);
    liar.say(&format!("/v2/a/b/blobs/{}", Digest::sha256(b"{}")), &[answer(200, b"{}")]);
    let (code, summary) = sync(&place, liar.port, "1", "").await;
    assert_eq!(code, 0, "{summary}");
    let known = || -> Value {
        let told = place.run(&["mirror", "list", "-o", "json"]);
        let told: Value = serde_json::from_str(&told.good().out).unwrap();
        told[0]["attached"].clone()
    };
    assert_eq!(known(), json!([name]));
    let tag = "/v2/a/b/manifests/1";
    let whole = answer(200, &image).with("content-type", MANIFEST);
    liar.say(tag, &[answer(500, b"")]);
    assert_eq!(sync(&place, liar.port, "1", "").await.0, 1);
    assert_eq!(known(), json!([name]), "the cloud was gone");
    liar.say(tag, &[whole]);
    assert_eq!(sync(&place, liar.port, "1", "").await.0, 0);
    assert_eq!(known(), json!([name]), "nothing is new, and it was looked for lately");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_do_not_travel_along_a_redirect() {
    let (liar, elsewhere, place) = (Liar::start().await, Liar::start().await, Place::new());
    let layer = noise(4, 10_000);
    liar.image("1", &layer, &[]);
    let digest = Digest::sha256(&layer);
    let blob = format!("/v2/a/b/blobs/{digest}");
    let to = format!("http://127.0.0.1:{}/signed?token=x", elsewhere.port);
    let wants = answer(401, b"").with("www-authenticate", "Basic realm=\"x\"");
    liar.say(&blob, &[wants.clone(), answer(307, b"").with("location", to)]);
    elsewhere.say("/signed", &[answer(200, &layer)]);
    let config = place.secret(
        "docker.json",
        &format!("{{\"auths\":{{\"127.0.0.1:{}\":{{\"auth\":\"dTpzM2NyM3Q=\"}}}}}}", liar.port),
    );
    let more = format!("[mirror]\ndocker-config = \"{}\"\n", config.display());
    let (code, summary) = sync(&place, liar.port, "1", &more).await;
    assert_eq!(code, 0, "{summary}");
    assert!(liar.heard(&blob).iter().any(|headers| headers.contains_key("authorization")));
    let signed = elsewhere.heard("/signed");
    assert!(!signed.is_empty() && signed.iter().all(|headers| !headers.contains_key("authorization")));
    assert!(!summary.to_string().contains("s3cr3t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_in_the_middle_fail_one_image_and_say_so() {
    let (liar, place) = (Liar::start().await, Place::new());
    for (status, expected) in
        [(403, "is refused"), (404, "is not there"), (401, "is refused"), (500, "answered 500")]
    {
        let tag = format!("s{status}");
        liar.image(&tag, &noise(status, 5000), &[answer(u16::try_from(status).unwrap(), b"")]);
        let (code, summary) = sync(&place, liar.port, &tag, "").await;
        let why = summary["images"][0]["error"].as_str().unwrap();
        assert!(code == 1 && why.contains(expected), "{status}: {why}");
    }
}

/// A tag that moves to an image of which one part is refused: it goes on naming the whole one that was there, and the rest
/// of what came is of use when the upstream thinks better of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_complete_stays_in_use_while_the_new_one_is_refused_in_the_middle() {
    let (liar, place) = (Liar::start().await, Place::new());
    let store = || edge::store::Store::open(edge::store::Settings::below(&place.path("state"))).unwrap();
    let repository = format!("127.0.0.1:{}/a/b", liar.port);
    let mut current = noise(50, 20_000);
    liar.image("1", &current, &[answer(200, &current)]);
    assert_eq!(sync(&place, liar.port, "1", "").await.0, 0);
    for (at, refusal) in [
        answer(401, b""),
        answer(403, b""),
        answer(404, b""),
        answer(429, b"").with("retry-after", 3600),
        answer(500, b""),
        answer(200, &noise(1, 20_000)),
    ]
    .into_iter()
    .enumerate()
    {
        let before = store().manifest(&repository, "1").unwrap().unwrap();
        let next = noise(60 + u32::try_from(at).unwrap(), 20_000);
        liar.image("1", &next, std::slice::from_ref(&refusal));
        let (code, summary) = sync(&place, liar.port, "1", "").await;
        assert_eq!((code, states(&summary)), (1, vec!["b:1 failed".to_owned()]), "{}", refusal.status);
        let opened = store();
        let here = opened.manifest(&repository, "1").unwrap().unwrap();
        assert_eq!(here.blob.digest, before.blob.digest, "{}", refusal.status);
        let layer = opened.blob(None, &Digest::sha256(&current)).unwrap().unwrap();
        assert_eq!(layer.read().unwrap(), current, "all of it is here");
        drop(opened);
        liar.image("1", &next, &[answer(200, &next)]);
        let (code, summary) = sync(&place, liar.port, "1", "").await;
        assert_eq!((code, states(&summary)), (0, vec!["b:1 updated".to_owned()]), "{}", refusal.status);
        current = next;
    }
}

/// What is damaged here and gone there is lost; what is new comes all the same.
#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_manifest_that_upstream_has_no_more_keeps_nothing_new_out() {
    let (liar, place) = (Liar::start().await, Place::new());
    let repository = format!("127.0.0.1:{}/a/b", liar.port);
    let store = || edge::store::Store::open(edge::store::Settings::below(&place.path("state"))).unwrap();
    let layer = noise(70, 5000);
    liar.image("old", &layer, &[answer(200, &layer)]);
    assert_eq!(sync(&place, liar.port, "old", "").await.0, 0);
    let old = store().manifest(&repository, "old").unwrap().unwrap().blob.digest;
    crate::store_damage::rot(&place.path("state"), &old);
    store().verify(&edge::store::VerifySettings::default(), |_| true).unwrap();
    for name in ["old", old.as_str()] {
        liar.say(&format!("/v2/a/b/manifests/{name}"), &[answer(404, b"")]);
    }
    let layer = noise(71, 5000);
    liar.image("new", &layer, &[answer(200, &layer)]);
    let (code, summary) = sync(&place, liar.port, "old\", \"new", "").await;
    assert_eq!((code, states(&summary)), (1, vec!["b:new new".to_owned(), "b:old failed".to_owned()]));
    assert_eq!(summary["generation"], 2, "{summary}");
    assert!(store().manifest(&repository, "new").unwrap().is_some());
    // Pruning takes over what stays, too.
    let rule = format!("[[mirror.images]]\nrepository = \"{repository}\"\ntags = {{ exact = [\"old\"] }}\n");
    place.write("etc/edge.toml", &rule);
    let mut prune = place.edge(&["mirror", "prune", "--yes"]);
    let done = Done::of(tokio::task::spawn_blocking(move || prune.output().unwrap()).await.unwrap()).good();
    assert!(done.out.contains("1 removed, 1 stay"), "{done:?}");
}

/// Ten thousand descriptors of one image are one image, pulled or mirrored.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_names_one_image_ten_thousand_times_asks_for_it_once() {
    let (liar, place) = (Liar::start().await, Place::new());
    let layer = noise(80, 5000);
    liar.image("one", &layer, &[answer(200, &layer)]);
    let one = liar.body("/v2/a/b/manifests/one");
    let (digest, size) = (Digest::sha256(&one), one.len());
    let child = json!({"mediaType": MANIFEST, "digest": digest, "size": size,
        "platform": {"os": "linux", "architecture": "amd64"}});
    let index =
        json!({"schemaVersion": 2, "mediaType": crate::registry::INDEX, "manifests": vec![child; 10_000]});
    let text = index.to_string();
    let told = answer(200, text.as_bytes())
        .with("content-type", crate::registry::INDEX)
        .with("docker-content-digest", Digest::sha256(text.as_bytes()));
    for name in ["many", Digest::sha256(text.as_bytes()).as_str()] {
        liar.say(&format!("/v2/a/b/manifests/{name}"), std::slice::from_ref(&told));
    }
    let name = format!("127.0.0.1:{}/a/b:many", liar.port);
    let mut pull = place.edge(&["image", "pull", &name, "--all-platforms"]);
    Done::of(tokio::task::spawn_blocking(move || pull.output().unwrap()).await.unwrap()).good();
    assert_eq!(liar.heard(&format!("manifests/{digest}")).len(), 1);
    let place = Place::new();
    let (code, summary) = sync(&place, liar.port, "many", "").await;
    assert_eq!((code, states(&summary)), (0, vec!["b:many new".to_owned()]), "{summary}");
    assert_eq!(liar.heard(&format!("manifests/{digest}")).len(), 2);
}
