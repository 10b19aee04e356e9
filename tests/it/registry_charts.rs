//! The chart repository, with helm itself and by ChartMuseum's API.

use std::path::{Path, PathBuf};

use edge::registry::Settings;
use edge::sys::digest::Digest;
use reqwest::Method;
use serde_json::Value;

use crate::registry::{Running, serve, writable};
use crate::registry_clients::{run, tool};

/// helm with a home of its own, so that tests do not share a list of repositories.
async fn helm(home: &Path, arguments: &[&str]) -> String {
    let home = home.display();
    let homes = [
        format!("HELM_CACHE_HOME={home}/cache"),
        format!("HELM_CONFIG_HOME={home}/config"),
        format!("HELM_DATA_HOME={home}/data"),
    ];
    let helm = tool("helm").display().to_string();
    let mut all: Vec<&str> = homes.iter().map(String::as_str).collect();
    all.push(&helm);
    all.extend(arguments);
    run("env", &all).await
}

/// A packed chart, made by helm.
async fn package(home: &Path, name: &str, version: &str) -> PathBuf {
    let source = home.join("source").join(name);
    std::fs::create_dir_all(source.join("templates")).unwrap();
    let yaml =
        format!("apiVersion: v2\nname: {name}\nversion: {version}\ndescription: A test\nkeywords: [a]\n");
    std::fs::write(source.join("Chart.yaml"), yaml).unwrap();
    std::fs::write(source.join("values.yaml"), "image: nginx\n").unwrap();
    std::fs::write(
        source.join("templates/map.yaml"),
        "kind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\n",
    )
    .unwrap();
    let to = home.join("packed");
    helm(home, &["package", &source.display().to_string(), "-d", &to.display().to_string()]).await;
    to.join(format!("{name}-{version}.tgz"))
}

async fn post(edge: &Running, path: &str, body: &[u8]) -> (u16, String) {
    let answer = edge.send(Method::POST, path, &[], body).await;
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_adds_searches_pulls_and_renders() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let edge = serve(home, writable()).await;
    let mut packed = Vec::new();
    for version in ["1.2.0", "1.10.0", "1.10.0+build.7"] {
        let path = package(home, "my-app", version).await;
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(post(&edge, "/team/api-charts/api/charts", &bytes).await.0, 404, "no such endpoint");
        assert_eq!(post(&edge, "/api/team/stable/charts", &bytes).await, (201, "{\"saved\":true}".into()));
        packed.push(bytes);
    }
    let url = format!("{}/team/stable", edge.url);
    helm(home, &["repo", "add", "edge", &url]).await;
    let found: Value =
        serde_json::from_str(&helm(home, &["search", "repo", "edge/", "-l", "-o", "json"]).await).unwrap();
    let versions: Vec<&str> =
        found.as_array().unwrap().iter().map(|f| f["version"].as_str().unwrap()).collect();
    // helm does not order versions that differ in their build alone.
    let (mut newest, oldest) = (versions[..2].to_vec(), versions[2]);
    newest.sort_unstable();
    assert_eq!((newest, oldest), (vec!["1.10.0", "1.10.0+build.7"], "1.2.0"));
    let to = home.join("pulled");
    std::fs::create_dir(&to).unwrap();
    let pulled = to.display().to_string();
    for (version, bytes) in [("1.2.0", &packed[0]), ("1.10.0+build.7", &packed[2])] {
        helm(home, &["pull", "edge/my-app", "--version", version, "-d", &pulled]).await;
        assert_eq!(&std::fs::read(to.join(format!("my-app-{version}.tgz"))).unwrap(), bytes, "byte for byte");
    }
    // Charts that others packed, with scalars that YAML takes for something else than text.
    for (name, more) in [
        (
            "odd",
            "appVersion: 1.10\nkeywords: [5, b]\nannotations: {a: true}\nkubeVersion: [1]\nAppVersion: 2\n",
        ),
        ("even", "appVersion: v1\n"),
    ] {
        let yaml = format!("apiVersion: v2\nname: {name}\nversion: 1.0.0\n{more}");
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        let mut header = tar::Header::new_gnu();
        header.set_size(yaml.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{name}/Chart.yaml"), yaml.as_bytes()).unwrap();
        let bytes = tar.into_inner().unwrap().finish().unwrap();
        assert_eq!(post(&edge, "/api/team/stable/charts", &bytes).await.0, 201);
    }
    helm(home, &["repo", "update"]).await;
    let found: Value =
        serde_json::from_str(&helm(home, &["search", "repo", "edge/", "-o", "json"]).await).unwrap();
    let mut found: Vec<_> =
        found.as_array().unwrap().iter().map(|f| [&f["name"], &f["app_version"]]).collect();
    found.sort_by_key(|row| row[0].to_string());
    assert_eq!(found, [["edge/even", "v1"], ["edge/my-app", ""], ["edge/odd", "1.10"]]);
    let rendered = helm(home, &["template", "x", "edge/my-app", "--version", "1.2.0"]).await;
    assert!(rendered.contains("kind: ConfigMap"), "{rendered}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_pushes_and_pulls_charts_as_images() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let edge = serve(home, writable()).await;
    let path = package(home, "my-app", "0.1.0+b1").await;
    let at = format!("oci://127.0.0.1:{}/charts", edge.port);
    helm(home, &["push", &path.display().to_string(), &at, "--plain-http"]).await;
    assert_eq!(edge.get("/v2/charts/my-app/manifests/0.1.0_b1").await.status(), 200);
    let to = home.join("pulled");
    std::fs::create_dir(&to).unwrap();
    let (name, pulled) = (format!("{at}/my-app"), to.display().to_string());
    helm(home, &["pull", &name, "--version", "0.1.0+b1", "-d", &pulled, "--plain-http"]).await;
    assert_eq!(std::fs::read(to.join("my-app-0.1.0+b1.tgz")).unwrap(), std::fs::read(path).unwrap());
    edge.stop().await;
}

/// A provenance is replaced only where that is asked for, and never by that of other bytes or another chart.
async fn provenance_stays_with_its_chart(edge: &Running, vouch: &str, first: &[u8], other: &[u8]) {
    let kept = async || edge.get("/charts/my-app-1.0.0.tgz.prov").await.text().await.unwrap();
    let of = |digest: &Digest| {
        vouch.replace("other-2", "my-app-1").replace("sha256:x", digest.as_str()).into_bytes()
    };
    let (before, signed) = (kept().await, of(&Digest::sha256(first)));
    let (status, why) = post(edge, "/api/prov", &signed).await;
    assert_eq!(
        (status, why.contains("provenance file of chart `my-app-1.0.0` is there already")),
        (409, true)
    );
    assert_eq!(kept().await, before);
    assert_eq!(post(edge, "/api/prov?force", &signed).await.0, 201);
    assert_eq!(kept().await.as_bytes(), signed);
    let (status, why) = post(edge, "/api/prov?force", &of(&Digest::sha256(other))).await;
    assert_eq!((status, why.contains("not of `my-app-1.0.0.tgz`")), (400, true), "{why}");
    assert_eq!(kept().await.as_bytes(), signed);
    assert_eq!(post(edge, "/api/prov", vouch.replace("other", "none").as_bytes()).await.0, 404);
    // With a chart that it does not vouch for.
    let (kind, body) = form(first, &String::from_utf8(of(&Digest::sha256(other))).unwrap());
    let sent = edge.send(Method::POST, "/api/charts?force", &[("content-type", kind)], &body).await;
    assert_eq!(sent.status(), 400);
    assert_eq!(kept().await.as_bytes(), signed);
}

/// A chart and its provenance in one form: the content type, and the body.
fn form(chart: &[u8], provenance: &str) -> (&'static str, Vec<u8>) {
    let mut form = Vec::new();
    for (name, bytes) in [("chart", chart), ("prov", provenance.as_bytes())] {
        let part = format!("--xx\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n");
        form.extend_from_slice(part.as_bytes());
        form.extend_from_slice(bytes);
        form.extend_from_slice(b"\r\n");
    }
    form.extend_from_slice(b"--xx--\r\n");
    ("multipart/form-data; boundary=xx", form)
}

#[tokio::test(flavor = "multi_thread")]
async fn chartmuseums_api_is_answered_as_chartmuseum_does() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let edge = serve(home, writable()).await;
    let first = std::fs::read(package(home, "my-app", "1.0.0").await).unwrap();
    let other = std::fs::read(package(home, "other", "2.0.0").await).unwrap();
    assert_eq!(post(&edge, "/api/charts", &first).await.0, 201);
    let (status, why) = post(&edge, "/api/charts", &first).await;
    assert_eq!((status, why.contains("there already")), (409, true), "{why}");
    assert_eq!(post(&edge, "/api/charts?force", &first).await.0, 201);
    assert_eq!(post(&edge, "/api/charts", b"no chart").await.0, 400);

    let vouch = "-----BEGIN PGP SIGNED MESSAGE-----\n\n...\nfiles:\n  other-2.0.0.tgz: sha256:x\n";
    let (kind, body) = form(&other, vouch);
    let sent = edge.send(Method::POST, "/api/charts", &[("content-type", kind)], &body).await;
    assert_eq!(sent.status(), 201);
    assert_eq!(edge.get("/charts/other-2.0.0.tgz.prov").await.text().await.unwrap(), vouch);
    assert_eq!(edge.get("/charts/other-2.0.0.tgz").await.bytes().await.unwrap(), &other[..]);
    assert_eq!(post(&edge, "/api/prov", vouch.replace("other-2", "my-app-1").as_bytes()).await.0, 201);
    assert_eq!(edge.get("/charts/my-app-1.0.0.tgz.prov").await.status(), 200);
    provenance_stays_with_its_chart(&edge, vouch, &first, &other).await;

    let list = |path: &'static str| {
        let edge = &edge;
        async move { serde_json::from_str::<Value>(&edge.get(path).await.text().await.unwrap()).unwrap() }
    };
    assert_eq!(list("/api/charts").await.as_object().unwrap().len(), 2);
    assert_eq!(list("/api/charts?offset=1&limit=1").await["other"][0]["version"], "2.0.0");
    assert_eq!(list("/api/charts/my-app").await[0]["urls"][0], "charts/my-app-1.0.0.tgz");
    assert_eq!(list("/api/charts/my-app/1.0.0").await["description"], "A test");
    assert_eq!(list("/api/charts/none").await["error"], "chart not found");
    for (path, status) in [
        ("/api/charts/my-app/1.0.0", 200),
        ("/api/charts/my-app/9", 404),
        ("/api/charts/none", 404),
        ("/health", 200),
    ] {
        assert_eq!(edge.send(Method::HEAD, path, &[], b"").await.status(), status, "{path}");
    }

    let index = edge.get("/index.yaml").await;
    let etag = index.headers()["etag"].to_str().unwrap().to_owned();
    assert!(index.text().await.unwrap().contains("\"other\":["));
    let same = edge.send(Method::GET, "/index.yaml", &[("if-none-match", &etag)], b"").await;
    assert_eq!(same.status(), 304);
    let deleted = edge.send(Method::DELETE, "/api/charts/other/2.0.0", &[], b"").await;
    assert_eq!(deleted.text().await.unwrap(), "{\"deleted\":true}");
    assert_eq!(edge.send(Method::DELETE, "/api/charts/other/2.0.0", &[], b"").await.status(), 404);
    let changed = edge.send(Method::GET, "/index.yaml", &[("if-none-match", &etag)], b"").await;
    assert_eq!(changed.status(), 200);
    assert!(!changed.text().await.unwrap().contains("other"));
    edge.stop().await;

    let edge = serve(home, Settings::default()).await;
    assert_eq!(post(&edge, "/api/charts", &other).await.0, 403, "writing is off");
    assert_eq!(edge.get("/charts/my-app-1.0.0.tgz").await.status(), 200);
    edge.stop().await;
}
