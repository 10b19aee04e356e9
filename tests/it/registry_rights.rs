//! Who may write, to which address, and large blobs on the way out.

use edge::registry::{Registry, Settings, UpstreamRow};
use edge::store::{Owner, StateOf, StateRef, TrustUpdate};
use edge::sys::digest::Digest;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::mirror_faults::{Liar, answer};
use crate::registry::{INDEX, MANIFEST, Running, code, header, image, serve, writable};
use crate::store;

#[tokio::test]
async fn nobody_writes_without_leave() {
    let folder = tempfile::tempdir().unwrap();
    let push = |edge: &Running, shown: &'static str| {
        let headers: Vec<(&str, &str)> =
            if shown.is_empty() { vec![] } else { vec![("authorization", shown)] };
        let (url, client) = (format!("{}/v2/my/app/blobs/uploads/", edge.url), edge.client.clone());
        async move {
            let mut request = client.post(url);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            request.send().await.unwrap()
        }
    };
    let edge = serve(folder.path(), Settings::default()).await;
    let refused = push(&edge, "").await;
    assert_eq!(refused.status(), 403);
    assert_eq!(code(refused).await, "DENIED");
    // Removing that is off is 405 by the specification, of what is not here too.
    let digest = Digest::sha256(b"one");
    for part in ["manifests/1".to_owned(), format!("manifests/{digest}"), format!("blobs/{digest}")] {
        let refused = edge.send(Method::DELETE, &format!("/v2/my/app/{part}"), &[], b"").await;
        assert_eq!((refused.status().as_u16(), header(&refused, "allow")), (405, "GET, HEAD"), "{part}");
        assert_eq!(code(refused).await, "UNSUPPORTED", "{part}");
    }
    edge.stop().await;

    assert!(Settings { push: true, ..Settings::default() }.check().is_err());
    let htpasswd = folder.path().join("htpasswd");
    std::fs::write(&htpasswd, format!("ann:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, "# of the pipeline\nt0ken\n").unwrap();
    let settings = Settings {
        push: true,
        htpasswd: Some(htpasswd.clone()),
        tokens: Some(tokens.clone()),
        ..Settings::default()
    };
    let refused = Registry::new(store::open(folder.path()), settings.clone(), None).unwrap_err().to_string();
    assert!(refused.contains("htpasswd") && refused.contains("chmod 0600"), "{refused}");
    for path in [&htpasswd, &tokens] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let edge = serve(folder.path(), settings).await;
    let refused = push(&edge, "").await;
    assert_eq!(
        (refused.status().as_u16(), header(&refused, "www-authenticate")),
        (401, "Basic realm=\"edge\"")
    );
    assert_eq!(code(refused).await, "UNAUTHORIZED");
    for (shown, status) in [
        ("Basic YW5uOnNlY3JldA==", 202),
        ("Basic YW5uOnNlY3JldA==", 202),
        ("Bearer t0ken", 202),
        ("Basic YW5uOndyb25n", 401),
        ("Basic Ym9iOnNlY3JldA==", 401),
        ("Bearer # of the pipeline", 401),
        ("Bearer ", 401),
        ("nonsense", 401),
    ] {
        assert_eq!(push(&edge, shown).await.status(), status, "{shown}");
    }
    // `/v2/` asks for a token, which everybody gets, so that clients know when to show a password.
    let asked = edge.get("/v2/").await;
    let realm = format!("Bearer realm=\"{}/token\",service=\"edge\"", edge.url);
    assert_eq!((asked.status().as_u16(), header(&asked, "www-authenticate")), (401, &*realm));
    let token = |shown: Vec<(&'static str, &'static str)>| {
        let edge = &edge;
        async move {
            let got = edge.send(Method::GET, "/token?service=edge", &shown, b"").await;
            let status = got.status().as_u16();
            let told: serde_json::Value = serde_json::from_str(&got.text().await.unwrap()).unwrap();
            (status, format!("Bearer {}", told["token"].as_str().unwrap_or_default()))
        }
    };
    let (_, anybody) = token(vec![]).await;
    let (_, ann) = token(vec![("authorization", "Basic YW5uOnNlY3JldA==")]).await;
    assert_eq!(token(vec![("authorization", "Basic YW5uOndyb25n")]).await.0, 401);
    for (shown, enters, writes) in [(anybody, 200, 401), (ann, 200, 202), ("Bearer other".into(), 401, 401)] {
        let headers = [("authorization", shown.as_str())];
        assert_eq!(edge.send(Method::GET, "/v2/", &headers, b"").await.status(), enters, "{shown}");
        let begun = edge.send(Method::POST, "/v2/my/app/blobs/uploads/", &headers, b"").await;
        assert_eq!(begun.status(), writes, "{shown}");
    }
    assert_eq!(edge.get("/v2/_catalog").await.status(), 200, "reading needs no credential");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_all_before_it_looks_learns_why_it_was_refused() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), Settings::default()).await;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", edge.port)).await.unwrap();
    let length = 30 << 20;
    let head =
        format!("POST /v2/my/app/blobs/uploads/ HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![7; length]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("DENIED"), "{answer}");
    edge.stop().await;
}

#[tokio::test]
async fn a_push_credential_removes_nothing_of_what_a_bundle_brought() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let config = edge.push_blob("team/app", b"{}").await;
    let layer = edge.push_blob("team/app", b"layer").await;
    let child = image(&config, &[&layer]);
    let child_digest = Digest::sha256(child.to_string().as_bytes());
    let of = json!({"mediaType": MANIFEST, "digest": child_digest, "size": child.to_string().len()});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [of]});
    let index_digest = Digest::sha256(index.to_string().as_bytes());
    edge.push_manifest("team/app", child_digest.as_str(), &child).await;
    edge.push_manifest("team/app", "pushed", &index).await;
    edge.stop().await;
    // As an import does at its end.
    let refs =
        vec![StateRef { repository: "team/app".into(), name: "1".into(), digest: index_digest.clone() }];
    let state = StateOf { refs, ..StateOf::default() };
    let owner = Owner::Bundle("main".into());
    store::open(folder.path()).flip(&owner, state, TrustUpdate::default()).unwrap();

    let edge = serve(folder.path(), writable()).await;
    let parts = [
        format!("manifests/{index_digest}"),
        format!("manifests/{child_digest}"),
        format!("blobs/{config}"),
        format!("blobs/{layer}"),
    ]
    .map(|part| format!("/v2/team/app/{part}"));
    for part in &parts {
        let refused = edge.send(Method::DELETE, part, &[], b"").await;
        assert_eq!(refused.status(), 403, "{part}");
        assert_eq!(code(refused).await, "DENIED", "{part}");
    }
    assert_eq!(edge.send(Method::DELETE, "/v2/team/app/manifests/pushed", &[], b"").await.status(), 202);
    for path in ["/v2/team/app/manifests/1"].into_iter().chain(parts.iter().map(String::as_str)) {
        assert_eq!(edge.get(path).await.status(), 200, "{path}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::new(store::open(folder.path()), writable(), None).unwrap();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = registry.serve(listener, None, std::future::pending()).await.unwrap_err();
    assert!(refused.to_string().contains("has no certificate"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_come_exactly_also_on_one_connection_and_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let digest = edge.push_blob("my/app", &bytes).await;
    let path = format!("/v2/my/app/blobs/{digest}");
    for _ in 0..3 {
        let got = edge.get(&path).await;
        assert_eq!(header(&got, "content-length"), "20000000");
        assert_eq!(Digest::sha256(&got.bytes().await.unwrap()), digest);
        assert_eq!(edge.get("/v2/").await.status(), 200);
    }
    let part = edge.send(Method::GET, &path, &[("range", "bytes=4194303-12582913")], b"").await;
    assert_eq!(part.bytes().await.unwrap(), &bytes[4_194_303..=12_582_913]);
    let all = futures_util::future::join_all(
        (0..16).map(|_| async { edge.get(&path).await.bytes().await.unwrap() }),
    )
    .await;
    assert!(all.iter().all(|got| Digest::sha256(got) == digest));
    edge.stop().await;
}

/// docker.io has a `library/x` too, which is not what is pushed under that name.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_alone_has_is_there_to_read_and_missing_to_who_pushes() {
    let (liar, folder) = (Liar::start().await, tempfile::tempdir().unwrap());
    let digest = Digest::sha256(b"layer");
    let path = format!("/v2/library/x/blobs/{digest}");
    liar.say(&path, &[answer(200, b"layer").with("content-length", 5)]);
    let row = UpstreamRow::new("docker.io", &format!("http://127.0.0.1:{}", liar.port));
    let with = |settings: Settings| Settings { upstreams: vec![row.clone()], ..settings };
    let edge = serve(&folder.path().join("reads"), with(Settings::default())).await;
    let head = edge.send(Method::HEAD, &path, &[], b"").await;
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, "5"));
    assert_eq!(header(&head, "docker-content-digest"), digest.as_str());
    edge.stop().await;
    let edge = serve(&folder.path().join("pushes"), with(writable())).await;
    assert_eq!(edge.send(Method::HEAD, &path, &[], b"").await.status(), 404);
    assert_eq!(liar.heard(digest.as_str()).len(), 1, "nothing is fetched, nor told of what is pushed");
    let config = edge.push_blob("library/x", b"{}").await;
    edge.push_blob("library/x", b"layer").await;
    assert_eq!(edge.send(Method::HEAD, &path, &[], b"").await.status(), 200);
    assert_eq!(edge.push_manifest("library/x", "1", &image(&config, &[&digest])).await.status(), 201);
    edge.stop().await;
}
