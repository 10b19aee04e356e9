//! Tags that move upstream: an image that is whole here gives its tag up only for one that is whole.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edge::registry::{Settings, UpstreamRow};
use edge::sys::digest::Digest;
use reqwest::Method;
use serde_json::{Value, json};

use crate::mirror::noise;
use crate::mirror_faults::{Liar, answer};
use crate::registry::{INDEX, MANIFEST, Running, header, serve};
use crate::registry_pull::DockerRegistry;

const TAG: &str = "/v2/team/app/manifests/latest?ns=registry.example";

fn through(upstream: &DockerRegistry) -> Settings {
    let row = UpstreamRow::new("registry.example", &format!("http://127.0.0.1:{}", upstream.port));
    Settings { upstreams: vec![row], ..Settings::default() }
}

/// Pushes an image for two platforms under the tag; says the index, and the layer of amd64.
async fn push_index(upstream: &DockerRegistry, seed: u32) -> (Digest, Vec<u8>) {
    let layer = noise(seed, 50_000);
    let mut children = Vec::new();
    for (architecture, layer) in [("amd64", &layer), ("arm64", &noise(seed + 1000, 1000))] {
        let child = upstream.push_image("team/app", &format!("@{architecture}{seed}"), &[layer]).await;
        let platform = json!({"os": "linux", "architecture": architecture});
        children.push(json!({"mediaType": MANIFEST, "digest": child, "size": 400, "platform": platform}));
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
    (upstream.push_manifest("team/app", "latest", &index).await, layer)
}

/// What the tag stands for, as kubelet asks with `imagePullPolicy: Always`.
async fn head(edge: &Running) -> Digest {
    let head = edge.send(Method::HEAD, TAG, &[], b"").await;
    assert_eq!(head.status(), 200);
    header(&head, "docker-content-digest").parse().unwrap()
}

/// Waits until the tag stands for it.
async fn until_head_is(edge: &Running, digest: &Digest) {
    let until = Instant::now() + Duration::from_secs(20);
    while head(edge).await != *digest {
        assert!(Instant::now() < until, "the tag never moved");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn get(edge: &Running, kind: &str, digest: &str) -> Vec<u8> {
    let got = edge.get(&format!("/v2/team/app/{kind}/{digest}?ns=registry.example")).await;
    assert_eq!(got.status(), 200, "{kind}/{digest}");
    got.bytes().await.unwrap().to_vec()
}

/// Pulls all of the tag as containerd on amd64 does; says what it stood for.
async fn pull(edge: &Running) -> Digest {
    let digest = head(edge).await;
    let mut manifest: Value = serde_json::from_slice(&get(edge, "manifests", digest.as_str()).await).unwrap();
    if let Some(children) = manifest["manifests"].as_array() {
        let child = children.iter().find(|child| child["platform"]["architecture"] == "amd64").unwrap();
        let child = get(edge, "manifests", child["digest"].as_str().unwrap()).await;
        manifest = serde_json::from_slice(&child).unwrap();
    }
    for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let wanted = blob["digest"].as_str().unwrap();
        assert_eq!(Digest::sha256(&get(edge, "blobs", wanted).await).as_str(), wanted);
    }
    digest
}

/// Requests for blobs and manifests by digest that the upstream answered, `GET path status`.
fn asked(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("log")).unwrap();
    let lines = text.lines().filter(|line| !line.contains("level="));
    lines
        .filter_map(|line| {
            let (request, rest) = line.split_once("\"GET ")?.1.split_once(" HTTP/1.1\" ")?;
            Some(format!("GET {request} {}", rest.split(' ').next()?))
        })
        .collect()
}

/// Where docker-registry keeps a blob's bytes.
fn kept(folder: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    folder.join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_of_a_whole_image_moves_once_the_new_one_is_whole_for_the_same_platforms() {
    let folder = tempfile::tempdir().unwrap();
    let mut upstream = DockerRegistry::start(folder.path()).await;
    let (old, _) = push_index(&upstream, 1).await;
    let edge = serve(&folder.path().join("edge"), through(&upstream)).await;
    assert_eq!(pull(&edge).await, old);
    let (new, _) = push_index(&upstream, 2).await;
    assert_eq!(head(&edge).await, old, "the answer does not wait for the upstream");
    until_head_is(&edge, &new).await;
    upstream.stop();
    assert_eq!(pull(&edge).await, new);
    let other = Digest::sha256(&noise(1002, 1000));
    assert!(asked(folder.path()).iter().all(|line| !line.contains(other.hex())), "nobody here runs arm64");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_of_a_whole_image_stays_while_anything_of_the_new_one_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(folder.path()).await;
    let old = upstream.push_image("team/app", "latest", &[&noise(1, 1000)]).await;
    let place = folder.path().join("edge");
    let edge = serve(&place, through(&upstream)).await;
    assert_eq!(pull(&edge).await, old);
    let (new, layer) = push_index(&upstream, 2).await;
    let layer = Digest::sha256(&layer);
    let (lost, aside) = (kept(folder.path(), &layer), folder.path().join("aside"));
    std::fs::rename(&lost, &aside).unwrap();
    assert_eq!(head(&edge).await, old);
    let until = Instant::now() + Duration::from_secs(20);
    while !asked(folder.path()).iter().any(|line| line.contains(layer.hex()) && line.ends_with(" 404")) {
        assert!(Instant::now() < until, "it was not tried: {:#?}", asked(folder.path()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(upstream);
    for _ in 0..20 {
        assert_eq!(pull(&edge).await, old, "all of the old one is here");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    edge.stop().await;

    // The upstream is whole again, and the next process looks up the tag anew.
    std::fs::rename(&aside, &lost).unwrap();
    let upstream = DockerRegistry::start(folder.path()).await;
    let edge = serve(&place, through(&upstream)).await;
    assert_eq!(head(&edge).await, old);
    until_head_is(&edge, &new).await;
    drop(upstream);
    assert_eq!(pull(&edge).await, new);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_only_looked_up_moves_at_once_and_nothing_else_travels() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(folder.path()).await;
    let (old, _) = push_index(&upstream, 1).await;
    let edge = serve(&folder.path().join("edge"), through(&upstream)).await;
    assert_eq!(head(&edge).await, old);
    let (new, _) = push_index(&upstream, 2).await;
    until_head_is(&edge, &new).await;
    let asked = asked(folder.path());
    assert!(asked.iter().all(|line| line.contains("/manifests/latest ")), "{asked:#?}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_of_a_registry_that_tells_no_digest_is_seen_to_move() {
    let (liar, folder) = (Liar::start().await, tempfile::tempdir().unwrap());
    let image = |seed: u32| {
        let layer = noise(seed, 5000);
        liar.image("latest", &layer, &[answer(200, &layer)]);
        let manifest = liar.body("/v2/a/b/manifests/latest");
        liar.say("/v2/a/b/manifests/latest", &[answer(200, &manifest).with("content-type", MANIFEST)]);
        manifest
    };
    let row = UpstreamRow::new("registry.example", &format!("http://127.0.0.1:{}", liar.port));
    let settings = Settings { upstreams: vec![row], ..Settings::default() };
    let edge = serve(folder.path(), settings).await;
    let path = "/v2/a/b/manifests/latest?ns=registry.example";
    let old = image(1);
    assert_eq!(edge.get(path).await.bytes().await.unwrap(), old);
    let new = image(2);
    let until = Instant::now() + Duration::from_secs(20);
    while edge.get(path).await.bytes().await.unwrap() != new {
        assert!(Instant::now() < until, "the new one never came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    edge.stop().await;
}
