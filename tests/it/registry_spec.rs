//! Every MUST of the OCI distribution specification 1.1 that the tests beside this one do not come upon by themselves,
//! in the order of its sections. It stands in for the specification's own suite, whose Go module the module proxy does
//! not give out.

use edge::sys::digest::{Algorithm, Digest};
use reqwest::Method;
use serde_json::{Value, json};

use crate::registry::{INDEX, MANIFEST, Running, code, header, image, serve, writable};

const REPO: &str = "conformance/some-repo";

async fn status(edge: &Running, method: Method, path: &str) -> u16 {
    edge.send(method, path, &[], b"").await.status().as_u16()
}

async fn json_of(edge: &Running, path: &str) -> Value {
    serde_json::from_str(&edge.get(path).await.text().await.unwrap()).unwrap()
}

#[tokio::test]
async fn pull() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let config = edge.push_blob(REPO, b"{}").await;
    let manifest = image(&config, &[&config]);
    let pushed = edge.push_manifest(REPO, "tagtest0", &manifest).await;
    let digest = header(&pushed, "docker-content-digest").to_owned();
    let absent = Digest::sha256(b"absent");
    for (path, expected) in [
        (format!("/v2/{REPO}/manifests/tagtest0"), 200),
        (format!("/v2/{REPO}/manifests/{digest}"), 200),
        (format!("/v2/{REPO}/manifests/.INVALID_MANIFEST_NAME"), 404),
        (format!("/v2/{REPO}/manifests/{absent}"), 404),
        (format!("/v2/{REPO}/blobs/{config}"), 200),
        (format!("/v2/{REPO}/blobs/{absent}"), 404),
    ] {
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(status(&edge, method.clone(), &path).await, expected, "{method} {path}");
        }
    }
    let nameless = format!("/v2/{REPO}/manifests/.INVALID_MANIFEST_NAME");
    assert_eq!(code(edge.get(&nameless).await).await, "MANIFEST_UNKNOWN");
    assert_eq!(status(&edge, Method::DELETE, &nameless).await, 404);
    let (kind, text) = (&[("content-type", MANIFEST)], manifest.to_string());
    assert_eq!(edge.send(Method::PUT, &nameless, kind, text.as_bytes()).await.status(), 400);
    let got = edge.get(&format!("/v2/{REPO}/manifests/{digest}")).await;
    assert_eq!((header(&got, "docker-content-digest"), header(&got, "content-type")), (&*digest, MANIFEST));
    let head = edge.send(Method::HEAD, &format!("/v2/{REPO}/blobs/{config}"), &[], b"").await;
    assert_eq!(
        (header(&head, "content-length"), header(&head, "docker-content-digest")),
        ("2", config.as_str())
    );
    // A blob of one repository is not there in another.
    assert_eq!(status(&edge, Method::GET, &format!("/v2/another/repo/blobs/{config}")).await, 404);
    edge.stop().await;
}

#[tokio::test]
async fn push() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let bytes = b"conformance blob";
    let digest = Digest::sha256(bytes);
    let begin = format!("/v2/{REPO}/blobs/uploads/");

    // POST then PUT; the location may be followed as it is, and names the upload, then the blob.
    let begun = edge.send(Method::POST, &begin, &[("content-length", "0")], b"").await;
    assert_eq!(begun.status(), 202);
    let location = header(&begun, "location").to_owned();
    let headers = [("content-type", "application/octet-stream")];
    let put = edge.send(Method::PUT, &format!("{location}?digest={digest}"), &headers, bytes).await;
    assert_eq!(put.status(), 201);
    assert_eq!(edge.get(header(&put, "location")).await.bytes().await.unwrap(), &bytes[..]);

    // One POST; a wrong digest is refused and nothing is kept.
    let posted = edge.send(Method::POST, &format!("{begin}?digest={digest}"), &headers, bytes).await;
    assert_eq!((posted.status().as_u16(), header(&posted, "location").is_empty()), (201, false));
    let wrong = Digest::sha256(b"other");
    let refused = edge.send(Method::POST, &format!("{begin}?digest={wrong}"), &headers, bytes).await;
    assert_eq!(refused.status(), 400);
    assert_eq!(code(refused).await, "DIGEST_INVALID");
    assert_eq!(status(&edge, Method::HEAD, &format!("/v2/{REPO}/blobs/{wrong}")).await, 404);

    // Chunks: in order, with ranges; the state can be asked for; a chunk out of order changes nothing.
    let begun = edge.send(Method::POST, &begin, &[], b"").await;
    let location = header(&begun, "location").to_owned();
    let first = edge.send(Method::PATCH, &location, &[("content-range", "0-4")], &bytes[..5]).await;
    assert_eq!((first.status().as_u16(), header(&first, "range")), (202, "0-4"));
    let location = header(&first, "location").to_owned();
    let again = edge.send(Method::PATCH, &location, &[("content-range", "0-4")], &bytes[..5]).await;
    assert_eq!(again.status(), 416);
    let state = edge.get(&location).await;
    assert_eq!((state.status().as_u16(), header(&state, "range")), (204, "0-4"));
    let rest = edge.send(Method::PATCH, &location, &[("content-range", "5-15")], &bytes[5..]).await;
    assert_eq!((rest.status().as_u16(), header(&rest, "range")), (202, "0-15"));
    let done = edge.send(Method::PUT, &format!("{location}?digest={digest}"), &[], b"").await;
    assert_eq!(done.status(), 201);

    // An upload that is given up is gone.
    let begun = edge.send(Method::POST, &begin, &[], b"").await;
    let location = header(&begun, "location").to_owned();
    assert_eq!(status(&edge, Method::DELETE, &location).await, 204);
    assert_eq!(status(&edge, Method::GET, &location).await, 404);
    assert_eq!(status(&edge, Method::PATCH, &location).await, 404);

    // A mount from elsewhere, without a source, and of what is not there: 201 or an upload.
    let mounted = format!("/v2/conformance/other/blobs/uploads/?mount={digest}");
    let mount = edge.send(Method::POST, &format!("{mounted}&from={REPO}"), &[], b"").await;
    assert_eq!(mount.status(), 201);
    assert_eq!(edge.get(header(&mount, "location")).await.bytes().await.unwrap(), &bytes[..]);
    assert_eq!(status(&edge, Method::POST, &mounted).await, 201);
    let absent = format!("/v2/conformance/other/blobs/uploads/?mount={wrong}&from={REPO}");
    assert_eq!(status(&edge, Method::POST, &absent).await, 202);
    edge.stop().await;
}

#[tokio::test]
async fn manifests_of_every_shape() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let config = edge.push_blob(REPO, b"{}").await;
    // Without layers, with an artifact type, with a subject that is not there.
    let subject = json!({"mediaType": MANIFEST, "digest": Digest::sha256(b"none"), "size": 4});
    let mut artifact = image(&config, &[]);
    artifact["artifactType"] = json!("application/vnd.nobody.strikes-a-pose.v1");
    artifact["subject"] = subject.clone();
    let pushed = edge.push_manifest(REPO, "no-layers", &artifact).await;
    assert_eq!(
        (pushed.status().as_u16(), header(&pushed, "oci-subject")),
        (201, subject["digest"].as_str().unwrap())
    );
    // Under sha512, by digest; the bytes come back as they were.
    let text = image(&config, &[]).to_string();
    let long = Digest::of(Algorithm::Sha512, text.as_bytes());
    let path = format!("/v2/{REPO}/manifests/{long}");
    let put = edge.send(Method::PUT, &path, &[("content-type", MANIFEST)], text.as_bytes()).await;
    assert_eq!(put.status(), 201);
    let got = edge.get(&format!("/v2/{REPO}/manifests/{long}")).await;
    assert_eq!(header(&got, "docker-content-digest"), long.as_str());
    assert_eq!(got.text().await.unwrap(), text);
    // A sparse index, and an empty one.
    let sparse = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [subject]});
    assert_eq!(edge.push_manifest(REPO, "sparse", &sparse).await.status(), 201);
    let empty = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
    assert_eq!(edge.push_manifest(REPO, "empty", &empty).await.status(), 201);
    assert_eq!(
        edge.get(&format!("/v2/{REPO}/manifests/sparse")).await.text().await.unwrap(),
        sparse.to_string()
    );
    // What links to nothing that is there is refused; so is one that is not what it says.
    let dangling = image(&Digest::sha256(b"dangling"), &[]);
    assert_eq!(code(edge.push_manifest(REPO, "dangling", &dangling).await).await, "MANIFEST_BLOB_UNKNOWN");
    let path = format!("/v2/{REPO}/manifests/{}", Digest::sha256(b"another"));
    let lies = edge.send(Method::PUT, &path, &[("content-type", MANIFEST)], text.as_bytes()).await;
    assert_eq!(code(lies).await, "DIGEST_INVALID");
    edge.stop().await;
}

#[tokio::test]
async fn content_discovery() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let config = edge.push_blob(REPO, b"{}").await;
    for tag in ["test3", "test1", "test0", "test2"] {
        assert_eq!(edge.push_manifest(REPO, tag, &image(&config, &[])).await.status(), 201);
    }
    let list = format!("/v2/{REPO}/tags/list");
    let tags = |value: &Value| {
        value["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = json_of(&edge, &list).await;
    assert_eq!(
        (all["name"].as_str().unwrap(), tags(&all)),
        (REPO, ["test0", "test1", "test2", "test3"].map(str::to_owned).to_vec())
    );
    assert_eq!(tags(&json_of(&edge, &format!("{list}?n=2")).await).len(), 2);
    assert_eq!(tags(&json_of(&edge, &format!("{list}?n=2&last=test1")).await), ["test2", "test3"]);
    assert_eq!(tags(&json_of(&edge, &format!("{list}?last=test3")).await), Vec::<String>::new());
    // Beside a tag in the path, those in the query are not made, and not said to be.
    let text = image(&config, &[]).to_string();
    let path = format!("/v2/{REPO}/manifests/test0?tag=test4");
    let put = edge.send(Method::PUT, &path, &[("content-type", MANIFEST)], text.as_bytes()).await;
    assert_eq!((put.status().as_u16(), header(&put, "oci-tag")), (201, ""));
    assert_eq!(tags(&json_of(&edge, &format!("{list}?last=test3")).await), Vec::<String>::new());
    let none = edge.get(&format!("{list}?n=0")).await;
    assert_eq!((none.status().as_u16(), header(&none, "link")), (200, ""));
    // Referrers: an index, also where there is nothing; no sense in asking about what is no digest.
    let about = Digest::sha256(image(&config, &[]).to_string().as_bytes());
    for subject in [about.clone(), Digest::sha256(b"nothing is known of this")] {
        let answer = edge.get(&format!("/v2/{REPO}/referrers/{subject}")).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, INDEX));
        let index: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(INDEX)));
        assert_eq!(index["manifests"], json!([]));
    }
    assert_eq!(status(&edge, Method::GET, &format!("/v2/{REPO}/referrers/sha256:bad")).await, 400);
    // An index may refer too, and what it is comes from its own artifact type.
    let mut index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
    index["subject"] = json!({"mediaType": MANIFEST, "digest": about, "size": 2});
    index["artifactType"] = json!("x/y");
    edge.push_manifest(REPO, Digest::sha256(index.to_string().as_bytes()).as_str(), &index).await;
    let found = json_of(&edge, &format!("/v2/{REPO}/referrers/{about}")).await;
    assert_eq!(
        (&found["manifests"][0]["mediaType"], &found["manifests"][0]["artifactType"]),
        (&json!(INDEX), &json!("x/y"))
    );
    edge.stop().await;
}

#[tokio::test]
async fn content_management() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let config = edge.push_blob(REPO, b"{}").await;
    let pushed = edge.push_manifest(REPO, "one", &image(&config, &[])).await;
    let digest = header(&pushed, "docker-content-digest").to_owned();
    edge.push_manifest(REPO, "two", &image(&config, &[])).await;
    let at = |name: &str| format!("/v2/{REPO}/manifests/{name}");
    assert_eq!(status(&edge, Method::DELETE, &at("one")).await, 202);
    assert_eq!(status(&edge, Method::GET, &at("one")).await, 404);
    assert_eq!(status(&edge, Method::GET, &at("two")).await, 200, "a tag goes alone");
    assert_eq!(status(&edge, Method::DELETE, &at("one")).await, 404);
    assert_eq!(status(&edge, Method::DELETE, &at(&digest)).await, 202);
    assert_eq!(status(&edge, Method::GET, &at("two")).await, 404, "a manifest takes its tags along");
    let tags = json_of(&edge, &format!("/v2/{REPO}/tags/list")).await;
    assert_eq!(tags["tags"], json!([]));
    let blob = format!("/v2/{REPO}/blobs/{config}");
    assert_eq!(status(&edge, Method::DELETE, &blob).await, 202);
    assert_eq!(status(&edge, Method::GET, &blob).await, 404);
    assert_eq!(status(&edge, Method::DELETE, &blob).await, 404);
    // What is not an endpoint, or not a method of one.
    let upload = edge.send(Method::POST, &format!("/v2/{REPO}/blobs/uploads/"), &[], b"").await;
    let upload = header(&upload, "location").to_owned();
    for (method, path, allowed) in [
        (Method::POST, at("one"), "GET, HEAD, PUT, DELETE"),
        (Method::PUT, blob, "GET, HEAD, DELETE"),
        (Method::GET, format!("/v2/{REPO}/blobs/uploads/"), "POST"),
        (Method::POST, upload, "GET, PATCH, PUT, DELETE"),
        (Method::DELETE, format!("/v2/{REPO}/tags/list"), "GET, HEAD"),
        (Method::PUT, "/api/charts".to_owned(), "GET, HEAD, POST"),
        (Method::POST, "/api/charts/a/1.0.0".to_owned(), "GET, HEAD, DELETE"),
        (Method::GET, "/api/prov".to_owned(), "POST"),
        (Method::POST, "/git/a.git/info/refs".to_owned(), "GET, HEAD"),
        (Method::GET, "/git/a.git/git-upload-pack".to_owned(), "POST"),
    ] {
        let refused = edge.send(method.clone(), &path, &[], b"").await;
        let told = (refused.status().as_u16(), header(&refused, "allow"));
        assert_eq!(told, (405, allowed), "{method} {path}");
        if path.starts_with("/v2/") {
            let told = edge.send(Method::OPTIONS, &path, &[], b"").await;
            assert_eq!((told.status().as_u16(), header(&told, "allow")), (204, allowed), "{path}");
        }
    }
    assert_eq!(status(&edge, Method::GET, "/v2/no/endpoint").await, 404);
    edge.stop().await;
}
