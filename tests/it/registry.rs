//! The registry through its socket, requirement by requirement of the OCI distribution specification 1.1.

use std::path::Path;

use edge::registry::{Registry, Settings};
use edge::sys::digest::{Algorithm, Digest};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::store;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry that listens on a free port, and a client of it.
pub struct Running {
    pub url: String,
    pub port: u16,
    pub registry: Registry,
    pub client: Client,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
}

impl Running {
    pub async fn stop(mut self) {
        self.end.take().unwrap().send(()).unwrap();
        self.served.await.unwrap();
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.url) };
        let mut request = self.client.request(method, url).body(body.to_vec());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, &[], b"").await
    }

    pub async fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let pushed = self.send(Method::POST, &path, &[], bytes).await;
        assert_eq!(pushed.status(), StatusCode::CREATED);
        digest
    }

    pub async fn push_manifest(&self, repository: &str, name: &str, manifest: &Value) -> Response {
        let media_type = manifest["mediaType"].as_str().unwrap();
        let path = format!("/v2/{repository}/manifests/{name}");
        self.send(Method::PUT, &path, &[("content-type", media_type)], manifest.to_string().as_bytes()).await
    }
}

pub fn client() -> Client {
    // reqwest is built without a default provider: what is spoken here is plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

pub async fn serve(folder: &Path, settings: Settings) -> Running {
    let store = store::open(folder);
    let registry = Registry::new(store, settings, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let serving = registry.clone();
    let served = tokio::spawn(async move {
        serving.serve(listener, None, async { drop(ended.await) }).await.unwrap();
    });
    Running {
        url: format!("http://127.0.0.1:{port}"),
        port,
        registry,
        client: client(),
        end: Some(end),
        served,
    }
}

pub fn writable() -> Settings {
    Settings { push: true, insecure_loopback_push: true, ..Settings::default() }
}

pub fn image(config: &Digest, layers: &[&Digest]) -> Value {
    let layers: Vec<Value> = layers
        .iter()
        .map(|d| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": d, "size": 5}))
        .collect();
    let config =
        json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2});
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
}

pub fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

pub async fn code(response: Response) -> String {
    let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    body["errors"][0]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn blobs_come_whole_in_chunks_and_as_a_stream_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    assert_eq!(edge.get("/v2/").await.status(), 200);

    let bytes = b"0123456789";
    let digest = Digest::sha256(bytes);
    let begun = edge.send(Method::POST, "/v2/my/app/blobs/uploads/", &[], b"").await;
    assert_eq!(begun.status(), 202);
    let location = header(&begun, "location").to_owned();
    let chunk = edge.send(Method::PATCH, &location, &[("content-range", "0-3")], &bytes[..4]).await;
    assert_eq!((chunk.status().as_u16(), header(&chunk, "range")), (202, "0-3"));
    for (range, piece) in [("6-9", &bytes[6..]), ("0-3", &bytes[..4]), ("4-5", &bytes[4..7])] {
        let refused = edge.send(Method::PATCH, &location, &[("content-range", range)], piece).await;
        assert_eq!((refused.status().as_u16(), header(&refused, "range")), (416, "0-3"), "{range}");
    }
    edge.stop().await;

    let edge = serve(folder.path(), writable()).await;
    let status = edge.get(&location).await;
    assert_eq!((status.status().as_u16(), header(&status, "range")), (204, "0-3"));
    let streamed = edge.send(Method::PATCH, &location, &[], &bytes[4..8]).await;
    assert_eq!(streamed.status(), 202);
    let done = edge
        .send(Method::PUT, &format!("{location}?digest={digest}"), &[("content-range", "8-9")], &bytes[8..])
        .await;
    assert_eq!(done.status(), 201);
    assert_eq!(header(&done, "docker-content-digest"), digest.as_str());
    let blob = header(&done, "location").to_owned();
    assert_eq!(edge.get(&blob).await.bytes().await.unwrap(), &bytes[..]);
    assert_eq!(edge.get(&location).await.status(), 404);

    let head = edge.send(Method::HEAD, &blob, &[], b"").await;
    assert_eq!(
        (header(&head, "content-length"), header(&head, "docker-content-digest")),
        ("10", digest.as_str())
    );
    for (range, status, piece) in
        [("bytes=2-4", 206, &bytes[2..5]), ("bytes=-2", 206, &bytes[8..]), ("bytes=3-", 206, &bytes[3..])]
    {
        let part = edge.send(Method::GET, &blob, &[("range", range)], b"").await;
        assert_eq!(part.status(), status, "{range}");
        assert_eq!(part.bytes().await.unwrap(), piece, "{range}");
    }
    let beyond = edge.send(Method::GET, &blob, &[("range", "bytes=10-")], b"").await;
    assert_eq!((beyond.status().as_u16(), header(&beyond, "content-range")), (416, "bytes */10"));
    edge.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_the_code_of_the_specification() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let digest = Digest::sha256(b"one");
    let put = |path: String, body: &'static [u8]| {
        let edge = &edge;
        async move {
            let begun = edge.send(Method::POST, "/v2/my/app/blobs/uploads/", &[], b"").await;
            edge.send(Method::PUT, &format!("{}{path}", header(&begun, "location")), &[], body).await
        }
    };
    let wrong = put(format!("?digest={digest}"), b"two").await;
    assert_eq!(wrong.status(), 400);
    assert_eq!(code(wrong).await, "DIGEST_INVALID");
    assert_eq!(code(put(String::new(), b"one").await).await, "DIGEST_INVALID");
    assert_eq!(code(put("?digest=sha256:zz".into(), b"one").await).await, "DIGEST_INVALID");
    for (path, status, expected) in [
        (format!("/v2/my/app/blobs/{digest}"), 404, "BLOB_UNKNOWN"),
        (format!("/v2/my/app/manifests/{digest}"), 404, "MANIFEST_UNKNOWN"),
        ("/v2/my/app/manifests/none".into(), 404, "MANIFEST_UNKNOWN"),
        ("/v2/no/such/tags/list".into(), 404, "NAME_UNKNOWN"),
        ("/v2/UPPER/manifests/1".into(), 400, "NAME_INVALID"),
        ("/v2/my/app/blobs/sha256:12".into(), 400, "DIGEST_INVALID"),
        ("/v2/my/app/tags/list?n=x".into(), 400, "UNSUPPORTED"),
        ("/v2/my/app/blobs/uploads/nonsense".into(), 404, "BLOB_UPLOAD_UNKNOWN"),
    ] {
        let refused = edge.get(&path).await;
        assert_eq!(refused.status(), status, "{path}");
        assert_eq!(header(&refused, "content-type"), "application/json");
        assert_eq!(code(refused).await, expected, "{path}");
    }
    let manifest = image(&digest, &[]);
    let missing = edge.push_manifest("my/app", "1", &manifest).await;
    assert_eq!(missing.status(), 400);
    assert_eq!(code(missing).await, "MANIFEST_BLOB_UNKNOWN");
    let schema1 = edge.send(Method::PUT, "/v2/my/app/manifests/1", &[], br#"{"schemaVersion":1}"#).await;
    assert!(schema1.text().await.unwrap().contains("schema 1"));
    let huge = edge.send(Method::PUT, "/v2/my/app/manifests/1", &[], &vec![b' '; (4 << 20) + 1]).await;
    assert_eq!(huge.status(), 413);
    edge.stop().await;
}

#[tokio::test]
async fn manifests_are_kept_byte_for_byte_and_found_by_tag_and_digest() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let config = edge.push_blob("my/app", b"{}").await;
    let spaced = format!("  {}\n", serde_json::to_string_pretty(&image(&config, &[&config])).unwrap());
    let digest = Digest::sha256(spaced.as_bytes());
    for tag in ["2", "10", "1", "latest"] {
        let path = format!("/v2/my/app/manifests/{tag}");
        let pushed = edge.send(Method::PUT, &path, &[("content-type", MANIFEST)], spaced.as_bytes()).await;
        assert_eq!(
            (pushed.status().as_u16(), header(&pushed, "docker-content-digest")),
            (201, digest.as_str())
        );
    }
    // Twice: once from disk, once from memory.
    for name in ["latest", "latest", digest.as_str()] {
        let path = format!("/v2/my/app/manifests/{name}");
        let head = edge.send(Method::HEAD, &path, &[], b"").await;
        assert_eq!(header(&head, "content-length"), spaced.len().to_string());
        let got = edge.get(&path).await;
        assert_eq!(
            (header(&got, "content-type"), header(&got, "docker-content-digest")),
            (MANIFEST, digest.as_str())
        );
        assert_eq!(got.text().await.unwrap(), spaced);
    }
    let page = edge.get("/v2/my/app/tags/list?n=2").await;
    let next = header(&page, "link").to_owned();
    assert_eq!(page.text().await.unwrap(), r#"{"name":"my/app","tags":["1","10"]}"#);
    let next = next.strip_prefix('<').unwrap().split_once('>').unwrap().0;
    let page = edge.get(next).await;
    assert_eq!(header(&page, "link"), "");
    assert_eq!(page.text().await.unwrap(), r#"{"name":"my/app","tags":["2","latest"]}"#);
    assert_eq!(edge.get("/v2/_catalog").await.text().await.unwrap(), r#"{"repositories":["my/app"]}"#);

    assert_eq!(edge.send(Method::DELETE, "/v2/my/app/manifests/10", &[], b"").await.status(), 202);
    assert_eq!(edge.get("/v2/my/app/manifests/10").await.status(), 404);
    assert_eq!(edge.get("/v2/my/app/manifests/1").await.status(), 200);
    let by_digest = format!("/v2/my/app/manifests/{digest}");
    assert_eq!(edge.send(Method::DELETE, &by_digest, &[], b"").await.status(), 202);
    for name in ["1", "2", "latest", digest.as_str()] {
        assert_eq!(edge.get(&format!("/v2/my/app/manifests/{name}")).await.status(), 404, "{name}");
    }
    assert_eq!(edge.send(Method::DELETE, &by_digest, &[], b"").await.status(), 404);
    let blob = format!("/v2/my/app/blobs/{config}");
    assert_eq!(edge.send(Method::DELETE, &blob, &[], b"").await.status(), 202);
    assert_eq!(edge.get(&blob).await.status(), 404);
    edge.stop().await;
}

#[tokio::test]
async fn repositories_are_listed_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    for repository in ["team/b", "a", "team/a", "z"] {
        edge.push_blob(repository, b"{}").await;
    }
    let mut next = "/v2/_catalog?n=3".to_owned();
    for (expected, more) in [(r#"["a","team/a","team/b"]"#, true), (r#"["z"]"#, false)] {
        let page = edge.get(&next).await;
        let link = header(&page, "link").to_owned();
        assert_eq!(page.text().await.unwrap(), format!("{{\"repositories\":{expected}}}"));
        assert_eq!(link.is_empty(), !more, "{link}");
        if more {
            let (path, rel) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
            assert_eq!((path, rel), ("/v2/_catalog?n=3&last=team%2Fb", "; rel=\"next\""));
            path.clone_into(&mut next);
        }
    }
    for (query, expected) in [("n=0", "[]"), ("last=z", "[]"), ("n=1&last=b", r#"["team/a"]"#)] {
        let page = edge.get(&format!("/v2/_catalog?{query}")).await.text().await.unwrap();
        assert_eq!(page, format!("{{\"repositories\":{expected}}}"), "{query}");
    }
    let wrong = edge.get("/v2/_catalog?n=x").await;
    assert_eq!((wrong.status().as_u16(), code(wrong).await.as_str()), (400, "UNSUPPORTED"));
    edge.stop().await;
}

#[tokio::test]
async fn referrers_are_found_before_and_after_their_subject_and_filtered() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let config = edge.push_blob("my/app", b"{}").await;
    let subject = image(&config, &[]);
    let subject_digest = Digest::sha256(subject.to_string().as_bytes());
    let path = format!("/v2/my/app/referrers/{subject_digest}");
    let none = edge.get(&path).await;
    assert_eq!((none.status().as_u16(), header(&none, "content-type")), (200, INDEX));

    let about = json!({"mediaType": MANIFEST, "digest": subject_digest, "size": subject.to_string().len()});
    let mut signature = image(&config, &[]);
    signature["subject"] = about.clone();
    signature["artifactType"] = json!("application/x.signature");
    signature["annotations"] = json!({"who": "me"});
    let mut sbom = image(&config, &[]);
    sbom["subject"] = about.clone();
    let signed = Digest::sha256(signature.to_string().as_bytes());
    let pushed = edge.push_manifest("my/app", signed.as_str(), &signature).await;
    assert_eq!((pushed.status().as_u16(), header(&pushed, "oci-subject")), (201, subject_digest.as_str()));
    edge.push_manifest("my/app", "sbom", &sbom).await;
    edge.push_manifest("my/app", "1", &subject).await;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "artifactType": "x/index", "manifests": [], "subject": about});
    edge.push_manifest("my/app", "index", &index).await;

    let all: Value = serde_json::from_str(&edge.get(&path).await.text().await.unwrap()).unwrap();
    let mut types: Vec<&str> =
        all["manifests"].as_array().unwrap().iter().map(|m| m["artifactType"].as_str().unwrap()).collect();
    types.sort_unstable();
    assert_eq!(types, ["application/vnd.oci.image.config.v1+json", "application/x.signature", "x/index"]);
    let filtered = edge.get(&format!("{path}?artifactType=application/x.signature")).await;
    assert_eq!(header(&filtered, "oci-filters-applied"), "artifactType");
    let filtered: Value = serde_json::from_str(&filtered.text().await.unwrap()).unwrap();
    assert_eq!(filtered["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(filtered["manifests"][0]["digest"], json!(signed));
    assert_eq!(filtered["manifests"][0]["annotations"]["who"], "me");
    assert_eq!(filtered["manifests"][0]["size"], signature.to_string().len());

    edge.send(Method::DELETE, &format!("/v2/my/app/manifests/{signed}"), &[], b"").await;
    let left: Value = serde_json::from_str(&edge.get(&path).await.text().await.unwrap()).unwrap();
    assert_eq!(left["manifests"].as_array().unwrap().len(), 2);
    edge.stop().await;
}

#[tokio::test]
async fn sparse_indexes_sha512_mounts_and_docker_schema_2() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let config = edge.push_blob("my/app", b"{}").await;
    let child = image(&config, &[]);
    let child_digest = Digest::sha256(child.to_string().as_bytes());
    let absent = Digest::sha256(b"absent");
    let of = |digest: &Digest| json!({"mediaType": MANIFEST, "digest": digest, "size": 7});
    let index =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [of(&child_digest), of(&absent)]});
    edge.push_manifest("my/app", child_digest.as_str(), &child).await;
    assert_eq!(edge.push_manifest("my/app", "sparse", &index).await.status(), 201);
    assert_eq!(edge.get("/v2/my/app/manifests/sparse").await.text().await.unwrap(), index.to_string());
    assert_eq!(edge.get(&format!("/v2/my/app/manifests/{child_digest}")).await.status(), 200);
    assert_eq!(edge.get(&format!("/v2/my/app/manifests/{absent}")).await.status(), 404);

    let long = Digest::of(Algorithm::Sha512, b"layer");
    let begun = edge.send(Method::POST, "/v2/my/app/blobs/uploads/", &[], b"").await;
    let done =
        edge.send(Method::PUT, &format!("{}?digest={long}", header(&begun, "location")), &[], b"layer").await;
    assert_eq!(done.status(), 201);
    assert_eq!(edge.get(&format!("/v2/my/app/blobs/{long}")).await.text().await.unwrap(), "layer");
    let manifest = image(&config, &[&long]).to_string();
    let by_sha512 = Digest::of(Algorithm::Sha512, manifest.as_bytes());
    let path = format!("/v2/my/app/manifests/{by_sha512}");
    let pushed = edge.send(Method::PUT, &path, &[("content-type", MANIFEST)], manifest.as_bytes()).await;
    assert_eq!(pushed.status(), 201);
    assert_eq!(edge.get(&path).await.text().await.unwrap(), manifest);

    let mount = format!("/v2/other/app/blobs/uploads/?mount={long}&from=my/app");
    assert_eq!(edge.send(Method::POST, &mount, &[], b"").await.status(), 201);
    assert_eq!(edge.get(&format!("/v2/other/app/blobs/{long}")).await.status(), 200);
    let elsewhere = format!("/v2/other/app/blobs/uploads/?mount={absent}&from=my/app");
    assert_eq!(edge.send(Method::POST, &elsewhere, &[], b"").await.status(), 202);

    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let mut schema2 = image(&config, &[&long]);
    schema2["mediaType"] = json!(docker);
    edge.push_manifest("my/app", "docker", &schema2).await;
    let got = edge.get("/v2/my/app/manifests/docker").await;
    assert_eq!(header(&got, "content-type"), docker);
    assert_eq!(got.text().await.unwrap(), schema2.to_string());
    edge.stop().await;
}

#[tokio::test]
async fn an_image_of_docker_hub_is_one_however_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let config = edge.push_blob("docker.io/library/nginx", b"{}").await;
    edge.push_manifest("docker.io/library/nginx", "1", &image(&config, &[])).await;
    for path in [
        "/v2/library/nginx/manifests/1?ns=docker.io",
        "/v2/library/nginx/manifests/1?ns=registry-1.docker.io",
        "/v2/index.docker.io/library/nginx/manifests/1",
        "/v2/library/nginx/manifests/1",
        "/v2/nginx/manifests/1",
    ] {
        assert_eq!(edge.get(path).await.status(), 200, "{path}");
    }
    assert_eq!(edge.get("/v2/library/nginx/manifests/1?ns=quay.io").await.status(), 404);
    // The next page is of the same upstream, whatever lies under the name without it.
    edge.push_manifest("docker.io/library/nginx", "2", &image(&config, &[])).await;
    let first = edge.get("/v2/library/nginx/tags/list?n=1&ns=docker.io").await;
    let next = "</v2/library/nginx/tags/list?n=1&last=1&ns=docker.io>; rel=\"next\"";
    assert_eq!(header(&first, "link"), next);
    assert_eq!(edge.get(&format!("/v2/library/nginx/blobs/{config}?ns=docker.io")).await.status(), 200);
    assert_eq!(edge.get("/v2/library/nginx/manifests/1?ns=a/../b").await.status(), 400);
    edge.stop().await;
}
