//! oras and cosign, from Debian, against the registry: what hangs on an image is found again.

use std::path::PathBuf;

use serde_json::Value;

use crate::registry::{serve, writable};
use crate::registry_clients::{layout, run, tool};

/// A program of the parts that `scripts/parts` unpacked.
fn unpacked(name: &str) -> PathBuf {
    let parts = std::env::var("EDGE_PARTS").unwrap_or_else(|_| "/var/cache/edge-parts".into());
    let path = PathBuf::from(parts).join("oci-tools/usr/bin").join(name);
    assert!(path.exists(), "{} is missing hint: run scripts/parts", path.display());
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn oras_pushes_attaches_discovers_and_pulls() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let at = format!("127.0.0.1:{}/team/thing:1", edge.port);
    let oras = unpacked("oras");
    for (name, text) in [("data.txt", "data"), ("sbom.json", "{}"), ("out/x", "")] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let in_folder = |arguments: &[&str]| {
        let line =
            format!("cd {} && exec {} {}", folder.path().display(), oras.display(), arguments.join(" "));
        async move { run("sh", &["-c", &line]).await }
    };
    in_folder(&["push", "--plain-http", &at, "--artifact-type", "x/data", "data.txt:text/plain"]).await;
    in_folder(&["attach", "--plain-http", &at, "--artifact-type", "x/sbom", "sbom.json:application/json"])
        .await;
    let found = in_folder(&["discover", "--plain-http", &at, "-o", "json"]).await;
    let found: Value = serde_json::from_str(&found).unwrap();
    let found = found["manifests"].as_array().or(found["referrers"].as_array()).unwrap();
    assert_eq!((found.len(), &found[0]["artifactType"]), (1, &Value::from("x/sbom")));
    let none =
        in_folder(&["discover", "--plain-http", &at, "-o", "json", "--artifact-type", "x/other"]).await;
    assert!(!none.contains("x/sbom"), "{none}");
    in_folder(&["pull", "--plain-http", &at, "-o", "out"]).await;
    assert_eq!(std::fs::read_to_string(folder.path().join("out/data.txt")).unwrap(), "data");
    let copied = format!("127.0.0.1:{}/other/thing:2", edge.port);
    in_folder(&["cp", "-r", "--from-plain-http", "--to-plain-http", &at, &copied]).await;
    let found = in_folder(&["discover", "--plain-http", &copied, "-o", "json"]).await;
    assert!(found.contains("x/sbom"), "{found}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cosign_signs_and_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("layout");
    layout(&source);
    let edge = serve(folder.path(), writable()).await;
    let name = format!("127.0.0.1:{}/team/app:1", edge.port);
    run(tool("crane"), &["push", "--insecure", &source.display().to_string(), &name]).await;
    let cosign = unpacked("cosign");
    let in_folder = |arguments: String| {
        let line = format!(
            "cd {} && COSIGN_PASSWORD=x exec timeout 60 {} {arguments}",
            folder.path().display(),
            cosign.display()
        );
        async move { run("sh", &["-c", &line]).await }
    };
    in_folder("generate-key-pair".into()).await;
    let flags = "--allow-insecure-registry --allow-http-registry";
    in_folder(format!("sign --yes --tlog-upload=false {flags} --key cosign.key {name}")).await;
    let tags = edge.get("/v2/team/app/tags/list").await.text().await.unwrap();
    assert!(tags.contains(".sig\""), "{tags}");
    let verified =
        in_folder(format!("verify --insecure-ignore-tlog=true {flags} --key cosign.pub {name}")).await;
    assert!(verified.contains("docker-manifest-digest"), "{verified}");
    edge.stop().await;
}
