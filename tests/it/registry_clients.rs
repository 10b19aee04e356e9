//! Real clients against the registry: skopeo from Debian, crane from its Go module.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::registry::{Running, image, serve, writable};
use crate::registry_pull::DockerRegistry;
use edge::sys::digest::Digest;

/// A tool that `scripts/parts.d/registry-clients` built.
pub fn tool(name: &str) -> PathBuf {
    let parts = std::env::var("EDGE_PARTS").unwrap_or_else(|_| "/var/cache/edge-parts".into());
    let path = Path::new(&parts).join("tools/bin").join(name);
    assert!(path.exists(), "{} is missing hint: run scripts/parts.d/registry-clients", path.display());
    path
}

/// Runs a program off the test's own runtime, which the registry needs meanwhile.
pub async fn run(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("HOME", std::env::temp_dir());
    let shown = format!("{command:?}");
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(status.success(), "{shown}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// An OCI layout with one real image of one layer.
pub fn layout(folder: &Path) {
    let put = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        let path = folder.join("blobs/sha256").join(digest.hex());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        digest
    };
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    tar.append_data(&mut header, "hello", &b"hello"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let diff = Digest::sha256(&tar);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, &tar).unwrap();
    let layer_bytes = gzip.finish().unwrap();
    let layer = put(&layer_bytes);
    let config_bytes = format!(
        r#"{{"architecture":"arm64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff}"]}}}}"#
    );
    let config = put(config_bytes.as_bytes());
    let mut manifest = image(&config, &[&layer]);
    manifest["config"]["size"] = config_bytes.len().into();
    manifest["layers"][0]["size"] = layer_bytes.len().into();
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip".into();
    let manifest = manifest.to_string();
    let digest = put(manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{digest}","size":{}}}]}}"#,
        crate::registry::MANIFEST,
        manifest.len()
    );
    std::fs::write(folder.join("index.json"), index).unwrap();
    std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

async fn digest_of(edge: &Running, path: &str) -> String {
    let got = edge.get(path).await;
    assert_eq!(got.status(), 200, "{path}");
    got.headers()["docker-content-digest"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_pushes_copies_inspects_and_deletes() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("layout");
    layout(&source);
    let edge = serve(folder.path(), writable()).await;
    let at = format!("docker://127.0.0.1:{}", edge.port);
    let (from, to) = (format!("oci:{}", source.display()), format!("{at}/my/app:1"));
    run("skopeo", &["copy", "--dest-tls-verify=false", &from, &to]).await;
    let digest = digest_of(&edge, "/v2/my/app/manifests/1").await;
    let inspected = run("skopeo", &["inspect", "--tls-verify=false", &to]).await;
    assert!(inspected.contains(&digest) && inspected.contains("arm64"), "{inspected}");
    let listed = run("skopeo", &["list-tags", "--tls-verify=false", &format!("{at}/my/app")]).await;
    assert!(listed.contains("\"1\""), "{listed}");

    let upstream = DockerRegistry::start(folder.path()).await;
    let peer = format!("docker://127.0.0.1:{}/copied:1", upstream.port);
    run("skopeo", &["copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", &to, &peer]).await;
    let back = format!("{at}/quay.io/back/app:1");
    run("skopeo", &["copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", &peer, &back])
        .await;
    assert_eq!(digest_of(&edge, "/v2/back/app/manifests/1?ns=quay.io").await, digest, "byte for byte");

    run("skopeo", &["delete", "--tls-verify=false", &to]).await;
    assert_eq!(edge.get("/v2/my/app/manifests/1").await.status(), 404);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crane_validates_what_it_pushed() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("layout");
    layout(&source);
    let edge = serve(folder.path(), writable()).await;
    let at = format!("127.0.0.1:{}", edge.port);
    let crane = tool("crane");
    let (name, copied) = (format!("{at}/my/app:1"), format!("{at}/other/app:2"));
    run(&crane, &["push", "--insecure", &source.display().to_string(), &name]).await;
    run(&crane, &["validate", "--insecure", "--remote", &name]).await;
    run(&crane, &["copy", "--insecure", &name, &copied]).await;
    run(&crane, &["tag", "--insecure", &copied, "3"]).await;
    assert_eq!(run(&crane, &["ls", "--insecure", &format!("{at}/other/app")]).await, "2\n3\n");
    assert_eq!(run(&crane, &["catalog", "--insecure", &at]).await, "my/app\nother/app\n");
    let digest = run(&crane, &["digest", "--insecure", &copied]).await;
    assert_eq!(digest.trim(), digest_of(&edge, "/v2/my/app/manifests/1").await);
    run(&crane, &["delete", "--insecure", &format!("{at}/other/app@{}", digest.trim())]).await;
    assert_eq!(edge.get("/v2/other/app/manifests/2").await.status(), 404);
    edge.stop().await;
}
