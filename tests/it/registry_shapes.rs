//! Manifests of every shape that the specification's own suite has, sparse ones too: each set is pushed, listed, read,
//! found by referrers and deleted.

use edge::registry::Settings;
use edge::sys::digest::{Algorithm, Digest};
use reqwest::Method;
use serde_json::{Value, json};

use crate::registry::{INDEX, MANIFEST, Running, code, header, serve, writable};
use crate::registry_suite::{REPO, Way, blob};

const EMPTY_JSON: &str = "application/vnd.oci.empty.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn manifest(name: &str) -> String {
    format!("/v2/{REPO}/manifests/{name}")
}

/// A set of blobs and manifests that belong together; children stand before what links to them.
struct Set {
    algorithm: Algorithm,
    blobs: Vec<Vec<u8>>,
    manifests: Vec<(Vec<u8>, Vec<&'static str>)>,
    /// Of each subject: the digest, type and annotations of what refers to it.
    referrers: Vec<(Digest, Digest, Option<&'static str>, Value)>,
}

impl Set {
    fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, blobs: Vec::new(), manifests: Vec::new(), referrers: Vec::new() }
    }

    fn descriptor(&self, media_type: &str, bytes: &[u8]) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(self.algorithm, bytes), "size": bytes.len()})
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        self.blobs.push(bytes.to_vec());
        self.descriptor(media_type, bytes)
    }

    fn image(&mut self, unique: &str, layers: usize) -> Value {
        let config = self.blob(CONFIG, format!("{{\"config\":\"{unique}\"}}").as_bytes());
        let layers: Vec<Value> =
            (0..layers).map(|n| self.blob(LAYER, format!("{unique} layer {n}").as_bytes())).collect();
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
    }

    fn artifact(&mut self, unique: &str, artifact_type: &'static str) -> Value {
        let config = self.blob(EMPTY_JSON, b"{}");
        let layer = self.blob("application/vnd.example+type", unique.as_bytes());
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": artifact_type, "config": config, "layers": [layer]})
    }

    fn add(&mut self, manifest: &Value, tags: &[&'static str]) -> Value {
        let bytes = manifest.to_string().into_bytes();
        let mut descriptor = self.descriptor(manifest["mediaType"].as_str().unwrap(), &bytes);
        self.manifests.push((bytes, tags.to_vec()));
        descriptor["platform"] = json!({"os": "linux", "architecture": "amd64"});
        descriptor
    }

    fn add_about(
        &mut self,
        subject: &Value,
        mut manifest: Value,
        of: Option<&'static str>,
        tags: &[&'static str],
    ) {
        manifest["subject"] = subject.clone();
        let descriptor = self.add(&manifest, tags);
        let digest = |value: &Value| value["digest"].as_str().unwrap().parse::<Digest>().unwrap();
        self.referrers.push((digest(subject), digest(&descriptor), of, manifest["annotations"].clone()));
    }
}

fn index(manifests: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
}

/// The sets of the suite, by its names for them.
fn sets() -> Vec<(&'static str, Set)> {
    let mut all = Vec::new();
    let mut make = |name: &'static str, fill: &dyn Fn(&mut Set)| {
        let mut set = Set::new(Algorithm::Sha256);
        fill(&mut set);
        all.push((name, set));
    };
    make("image", &|set| {
        let image = set.image("image", 2);
        set.add(&image, &["image"]);
    });
    make("large manifest", &|set| {
        let mut image = set.image("large", 1);
        let many: serde_json::Map<String, Value> =
            (0..390).map(|n| (format!("large-annotation-{n}"), "A".repeat(10_000).into())).collect();
        image["annotations"] = Value::Object(many);
        set.add(&image, &["large-manifest"]);
    });
    make("nested index", &|set| {
        let images = ["a", "b", "c", "d"].map(|name| set.image(name, 1));
        let children = images.map(|image| set.add(&image, &[]));
        let inner = [&children[..2], &children[2..]].map(index);
        let inner = inner.map(|index| set.add(&index, &[]));
        set.add(&index(&inner), &["index-of-index"]);
    });
    make("empty index", &|set| drop(set.add(&index(&[]), &["index"])));
    make("artifact index", &|set| {
        let artifacts = ["x", "y"].map(|name| set.artifact(name, "application/vnd.example.one"));
        let children = artifacts.map(|artifact| set.add(&artifact, &[]));
        let mut top = index(&children);
        top["artifactType"] = json!("application/vnd.example.one");
        set.add(&top, &["artifact-index"]);
    });
    make("artifact without layers", &|set| {
        let config = set.blob(EMPTY_JSON, b"{}");
        let artifact = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.one",
            "config": config, "layers": [config]});
        set.add(&artifact, &["artifact-without-layers"]);
    });
    make("artifacts with subject", &|set| {
        let image = set.image("subject", 1);
        let subject = set.add(&image, &["image"]);
        let plain = set.image("refers without a type", 1);
        set.add_about(&subject, plain, Some(CONFIG), &[]);
        for (of, tag) in [("application/vnd.example.one", "first"), ("application/vnd.example.two", "second")]
        {
            let mut artifact = set.artifact(of, of);
            artifact["annotations"] = json!({"org.example": "hello", "which": of});
            set.add_about(&subject, artifact, Some(of), &[tag]);
        }
    });
    make("index with subject", &|set| {
        let subject = set.add(&index(&[]), &["index"]);
        let mut about = index(&[]);
        about["artifactType"] = json!("application/vnd.example.one");
        set.add_about(&subject, about, Some("application/vnd.example.one"), &["tagged-artifact"]);
        let mut untyped = index(&[]);
        untyped["annotations"] = json!({"a": "b"});
        set.add_about(&subject, untyped, None, &[]);
    });
    make("missing subject", &|set| {
        let subject = set.descriptor(MANIFEST, b"missing content");
        let artifact = set.artifact("missing", "application/vnd.example.one");
        set.add_about(&subject, artifact, Some("application/vnd.example.one"), &["tagged-artifact"]);
    });
    make("data field", &|set| {
        let mut image = set.image("data", 1);
        image["config"]["data"] = json!("eyJjb25maWciOiJkYXRhIn0=");
        set.add(&image, &["data-field"]);
    });
    make("non-distributable layers", &|set| {
        let mut image = set.image("foreign", 1);
        let mut foreign =
            set.descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", b"never here");
        foreign["urls"] = json!(["https://store.example.com/blobs/x"]);
        image["layers"].as_array_mut().unwrap().insert(0, foreign);
        set.add(&image, &["non-distributable-image"]);
    });
    make("custom fields", &|set| {
        let mut image = set.image("custom", 1);
        image["org.example.extra"] = json!({"deep": [1, 2.5, null]});
        let child = set.add(&image, &[]);
        let mut top = index(&[child]);
        top["org.example.extra"] = json!("x");
        set.add(&top, &["custom-fields"]);
    });
    make("no layers", &|set| {
        let image = set.image("none", 0);
        set.add(&image, &["no-layers"]);
    });
    make("sparse", &|set| {
        let image = set.image("a layer is not here", 2);
        set.blobs.pop();
        set.add(&image, &["sparse-image"]);
        let whole = set.image("whole", 1);
        let children = [set.add(&whole, &[]), set.descriptor(MANIFEST, b"not here")];
        set.add(&index(&children), &["sparse-index"]);
    });
    make("sha512", &|set| {
        set.algorithm = Algorithm::Sha512;
        let images = ["e", "f"].map(|name| set.image(name, 1));
        let children = images.map(|image| set.add(&image, &[]));
        set.add(&index(&children), &[]);
    });
    all
}

async fn push(edge: &Running, name: &str, set: &Set, tag_parameter: bool) {
    for bytes in &set.blobs {
        let digest = Digest::of(set.algorithm, bytes);
        let pushed = edge.push_by(Way::PostPut, &digest, bytes, false).await;
        assert_eq!(pushed.status(), 201, "{name}");
    }
    for (bytes, tags) in &set.manifests {
        let value: Value = serde_json::from_slice(bytes).unwrap();
        let media_type = value["mediaType"].as_str().unwrap();
        let digest = Digest::of(set.algorithm, bytes);
        let parameters: Vec<String> = tags.iter().map(|tag| format!("tag={tag}&tag={tag}-too")).collect();
        let mut names = vec![match tag_parameter {
            true => format!("{digest}?{}", parameters.join("&")),
            false => digest.to_string(),
        }];
        names.extend(tags.iter().filter(|_| !tag_parameter).map(|tag| (*tag).to_owned()));
        for at in names {
            let pushed = edge.send(Method::PUT, &manifest(&at), &[("content-type", media_type)], bytes).await;
            assert_eq!(pushed.status(), 201, "{name}: {at}");
            assert_eq!(header(&pushed, "docker-content-digest"), digest.as_str());
            assert_eq!(
                header(&pushed, "oci-subject"),
                value["subject"]["digest"].as_str().unwrap_or_default()
            );
            if tag_parameter {
                let told: Vec<_> = pushed.headers().get_all("oci-tag").iter().collect();
                assert_eq!(told.len(), 2 * tags.len(), "{name}");
            }
            edge.reads(header(&pushed, "location"), media_type, &digest, bytes).await;
        }
    }
}

async fn read(edge: &Running, name: &str, set: &Set) {
    let listed = edge.get(&format!("/v2/{REPO}/tags/list")).await.text().await.unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    for (bytes, tags) in &set.manifests {
        let value: Value = serde_json::from_slice(bytes).unwrap();
        let media_type = value["mediaType"].as_str().unwrap();
        let digest = Digest::of(set.algorithm, bytes);
        edge.reads(&manifest(digest.as_str()), media_type, &digest, bytes).await;
        for tag in tags {
            assert!(listed["tags"].as_array().unwrap().contains(&json!(tag)), "{name}: {tag}");
            edge.reads(&manifest(tag), media_type, &digest, bytes).await;
        }
    }
    for bytes in &set.blobs {
        let digest = Digest::of(set.algorithm, bytes);
        edge.reads(&blob(REPO, &digest), "application/octet-stream", &digest, bytes).await;
    }
    for (subject, digest, of, annotations) in &set.referrers {
        let mut paths = vec![format!("/v2/{REPO}/referrers/{subject}")];
        let encoded = of.map(|of| of.replace('+', "%2B"));
        paths.extend(encoded.map(|of| format!("/v2/{REPO}/referrers/{subject}?artifactType={of}")));
        for path in paths {
            let answer = edge.get(&path).await;
            assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, INDEX));
            let filtered = path.contains('?');
            assert_eq!(header(&answer, "oci-filters-applied"), if filtered { "artifactType" } else { "" });
            let found: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            let found = found["manifests"].as_array().unwrap();
            assert!(!filtered || found.iter().all(|one| one["artifactType"] == json!(of)), "{path}");
            let one = found.iter().find(|one| one["digest"] == json!(digest)).unwrap_or_else(|| {
                panic!("{name}: {digest} is not among the referrers of {subject}: {found:?}")
            });
            assert_eq!((&one["artifactType"], &one["annotations"]), (&json!(of), annotations), "{name}");
        }
    }
}

async fn delete(edge: &Running, set: &Set, tag_parameter: bool) {
    for tag in set.manifests.iter().flat_map(|(_, tags)| tags) {
        edge.delete(&manifest(tag)).await;
        if tag_parameter {
            edge.delete(&manifest(&format!("{tag}-too"))).await;
        }
    }
    for (bytes, _) in set.manifests.iter().rev() {
        edge.delete(&manifest(Digest::of(set.algorithm, bytes).as_str())).await;
    }
    for (subject, ..) in &set.referrers {
        let left = edge.get(&format!("/v2/{REPO}/referrers/{subject}")).await.text().await.unwrap();
        assert!(left.contains("\"manifests\":[]"), "{left}");
    }
    for bytes in &set.blobs {
        edge.delete(&blob(REPO, &Digest::of(set.algorithm, bytes))).await;
    }
}

#[tokio::test]
async fn manifests_of_every_shape_sparse_ones_too() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), Settings { push_sparse: true, ..writable() }).await;
    let nothing = edge.get(&format!("/v2/{REPO}/referrers/{}", Digest::sha256(b"x"))).await;
    assert_eq!((nothing.status().as_u16(), header(&nothing, "content-type")), (200, INDEX));
    for (name, set) in sets() {
        push(&edge, name, &set, false).await;
        read(&edge, name, &set).await;
        delete(&edge, &set, false).await;
    }
    // What is pushed by digest gets its tags from the query, under either hash.
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let mut set = Set::new(algorithm);
        let image = set.image("tagged by the query", 1);
        let child = set.add(&image, &["child"]);
        set.add(&index(&[child]), &["top"]);
        push(&edge, "tag parameters", &set, true).await;
        read(&edge, "tag parameters", &set).await;
        delete(&edge, &set, true).await;
    }
    edge.stop().await;
}

#[tokio::test]
async fn what_a_sparse_image_lacks_is_taken_only_where_that_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let (name, set) = sets().into_iter().find(|(name, _)| *name == "sparse").unwrap();
    let edge = serve(folder.path(), writable()).await;
    let (bytes, _) = &set.manifests[0];
    for blob in &set.blobs {
        edge.push_blob(REPO, blob).await;
    }
    let content_type = [("content-type", MANIFEST)];
    let refused = edge.send(Method::PUT, &manifest("sparse-image"), &content_type, bytes).await;
    assert_eq!(refused.status(), 400, "{name}");
    assert_eq!(code(refused).await, "MANIFEST_BLOB_UNKNOWN");
    edge.stop().await;

    let edge = serve(folder.path(), Settings { push_sparse: true, ..writable() }).await;
    let taken = edge.send(Method::PUT, &manifest("sparse-image"), &content_type, bytes).await;
    assert_eq!(taken.status(), 201);
    // What is not here is told so, and comes into its place when it is pushed.
    let late = b"a layer is not here layer 1";
    assert_eq!(edge.get(&blob(REPO, &Digest::sha256(late))).await.status(), 404);
    let digest = edge.push_blob(REPO, late).await;
    edge.reads(&blob(REPO, &digest), "application/octet-stream", &digest, late).await;
    edge.stop().await;
}
