//! Pull-through from Debian's docker-registry, and what happens when it goes away.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edge::registry::{Settings, UpstreamRow};
use edge::sys::digest::Digest;
use reqwest::Method;

use crate::mirror::noise;
use crate::registry::{Running, client, image, serve};
use crate::support::Authority;

/// A docker-registry on a free port, on files below a folder.
pub struct DockerRegistry {
    child: Child,
    pub port: u16,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl DockerRegistry {
    /// Its log, which names every request, goes to `<folder>/log`.
    pub async fn start(folder: &Path) -> Self {
        Self::start_with(folder, "", "").await
    }

    /// The same over TLS, with a certificate of `authority` and a section that says who is let in.
    pub async fn start_secure(folder: &Path, authority: &Authority, auth: &str) -> Self {
        let pair = authority.server(&["127.0.0.1"]).unwrap();
        std::fs::write(folder.join("far.crt"), pair.certificate).unwrap();
        std::fs::write(folder.join("far.key"), pair.key).unwrap();
        let at = folder.display();
        let tls = format!(", tls: {{certificate: {at}/far.crt, key: {at}/far.key}}");
        Self::start_with(folder, &tls, auth).await
    }

    /// The same with a part of its `http` section, and a section of its own.
    pub async fn start_with(folder: &Path, tls: &str, auth: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}/data}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '127.0.0.1:{port}'{tls}}}\n{auth}",
            folder.display()
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("docker-registry is installed hint: run scripts/parts.d/registry-clients");
        let until = Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < until, "docker-registry does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { child, port }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Pushes an image with one layer; says the layer.
    pub async fn push(&self, repository: &str, tag: &str, layer: &[u8]) -> (Digest, String) {
        let client = client();
        let mut digests = Vec::new();
        for bytes in [b"{}", layer] {
            let digest = Digest::sha256(bytes);
            let begun =
                client.post(format!("{}/v2/{repository}/blobs/uploads/", self.url())).send().await.unwrap();
            let location = begun.headers()["location"].to_str().unwrap();
            let between = if location.contains('?') { '&' } else { '?' };
            let put = client
                .put(format!("{location}{between}digest={digest}"))
                .body(bytes.to_vec())
                .send()
                .await
                .unwrap();
            assert_eq!(put.status(), 201);
            digests.push(digest);
        }
        let mut manifest = image(&digests[0], &[&digests[1]]);
        manifest["layers"][0]["size"] = layer.len().into();
        let text = manifest.to_string();
        let put = client
            .put(format!("{}/v2/{repository}/manifests/{tag}", self.url()))
            .header("content-type", crate::registry::MANIFEST)
            .body(text.clone());
        assert_eq!(put.send().await.unwrap().status(), 201);
        (digests.remove(1), text)
    }
}

fn through(upstream: &DockerRegistry) -> Settings {
    let row = UpstreamRow::new("registry.example", &upstream.url());
    Settings { upstreams: vec![row], ..Settings::default() }
}

async fn text(edge: &Running, path: &str) -> (u16, String) {
    let answer = edge.get(path).await;
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_is_fetched_once_for_all_and_stays_when_the_upstream_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(folder.path()).await;
    let layer: Vec<u8> = (0..8_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
    let (digest, manifest) = upstream.push("team/app", "1", &layer).await;
    let edge = serve(&folder.path().join("edge"), through(&upstream)).await;

    let by_tag = "/v2/team/app/manifests/1?ns=registry.example";
    let all = futures_util::future::join_all((0..8).map(|_| text(&edge, by_tag))).await;
    assert!(all.iter().all(|got| *got == (200, manifest.clone())));
    let blob = format!("/v2/team/app/blobs/{digest}?ns=registry.example");
    let mut gone = edge.get(&blob).await;
    assert!(gone.chunk().await.unwrap().is_some());
    drop(gone); // A client that hangs up does not end the fetch.
    let all = futures_util::future::join_all((0..8).map(|_| edge.get(&blob))).await;
    for answer in all {
        assert_eq!(answer.headers()["content-length"], "8000000");
        assert_eq!(Digest::sha256(&answer.bytes().await.unwrap()), digest);
    }
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let asked = |what: &str| {
        log.lines()
            .filter(|line| line.contains("\"GET ") && line.contains(what) && !line.contains("level="))
            .count()
    };
    assert_eq!(asked("/manifests/1"), 1, "{log}");
    assert_eq!(asked(&format!("/blobs/{digest}")), 1, "{log}");

    drop(upstream);
    assert_eq!(text(&edge, by_tag).await, (200, manifest));
    assert_eq!(edge.get(&blob).await.bytes().await.unwrap().len(), 8_000_000);
    let first = edge.get("/v2/team/app/manifests/2?ns=registry.example").await;
    assert_eq!(first.status(), 404);
    let begun = Instant::now();
    for path in
        ["/v2/team/app/manifests/3?ns=registry.example".into(), blob.replace(digest.hex(), &"0".repeat(64))]
    {
        assert_eq!(edge.get(&path).await.status(), 404);
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "a dead upstream is not asked again at once");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_upstream_is_noticed_behind_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(folder.path()).await;
    let (_, old) = upstream.push("team/app", "latest", b"old").await;
    let edge = serve(&folder.path().join("edge"), through(&upstream)).await;
    let path = "/v2/team/app/manifests/latest?ns=registry.example";
    assert_eq!(text(&edge, path).await.1, old);
    let (_, new) = upstream.push("team/app", "latest", b"new").await;
    assert_eq!(text(&edge, path).await.1, old, "the answer does not wait for the upstream");
    let until = Instant::now() + Duration::from_secs(10);
    while text(&edge, path).await.1 != new {
        assert!(Instant::now() < until, "the new one never came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_configured_is_asked_and_only_while_online() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(folder.path()).await;
    upstream.push("team/app", "1", b"layer").await;
    let edge = serve(&folder.path().join("edge"), through(&upstream)).await;
    let own = format!("/v2/team/app/manifests/1?ns=127.0.0.1:{}", upstream.port);
    assert_eq!(edge.get(&own).await.status(), 404, "ns is a key to look up, never an address to dial");
    edge.registry.sources().set_online(false);
    let path = "/v2/team/app/manifests/1?ns=registry.example";
    let begun = Instant::now();
    assert_eq!(edge.get(path).await.status(), 404, "nothing is known of the upstream: not here, at once");
    assert!(begun.elapsed() < Duration::from_millis(500));
    // Asked behind the answer, it shows that it is nearer than the cloud.
    let until = Instant::now() + Duration::from_secs(10);
    while edge.get(path).await.status() != 200 {
        assert!(Instant::now() < until, "an upstream that can be reached is not used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    edge.registry.sources().set_online(true);
    let head = edge.send(Method::HEAD, path, &[], b"").await;
    assert_eq!(head.status(), 200);
    assert!(head.headers().contains_key("docker-content-digest"));
    let refused = edge.send(Method::DELETE, path, &[], b"").await;
    assert_eq!(refused.status(), 405);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_two_images_share_is_served_for_both_whoever_fetched_it() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(folder.path()).await;
    let layer = noise(1, 100_000);
    for repository in ["team/one", "team/two", "team/none"] {
        upstream.push_image(repository, repository.trim_start_matches("team/"), &[&layer]).await;
    }
    let edge = serve(&folder.path().join("edge"), through(&upstream)).await;
    let at = |what: String| format!("/v2/team/{what}?ns=registry.example");
    // HEAD alone: nothing is fetched behind the answer.
    for image in ["one", "two"] {
        let head = edge.send(Method::HEAD, &at(format!("{image}/manifests/{image}")), &[], b"").await;
        assert_eq!(head.status(), 200);
    }
    let blob = |repository: &str| at(format!("{repository}/blobs/{}", Digest::sha256(&layer)));
    assert_eq!(edge.get(&blob("one")).await.bytes().await.unwrap(), layer);
    drop(upstream);
    let second = edge.get(&blob("two")).await;
    assert_eq!(second.status(), 200, "its manifest links to it");
    assert_eq!(second.bytes().await.unwrap(), layer);
    assert_eq!(edge.get(&blob("none")).await.status(), 404, "no manifest of that repository is here");
    edge.stop().await;
}
