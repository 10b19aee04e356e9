//! Charts from a repository that helm made and nginx serves, the images they refer to, manifests, and a push onwards.

use std::path::Path;

use edge::registry::Settings;
use edge::sys::digest::Digest;
use serde_json::json;

use crate::mirror::{Site, noise, states};
use crate::mirror_sources::{Web, package, write};
use crate::registry::{INDEX, MANIFEST, serve};
use crate::registry_clients::{run, tool};
use crate::registry_pull::DockerRegistry;

/// A repository with `app` 1.0.0 and 2.0.0, made by helm; the image of `app` is at `host`.
async fn repository(folder: &Path, host: &str) -> std::path::PathBuf {
    let (source, root) = (folder.join("app"), folder.join("charts"));
    std::fs::create_dir_all(&root).unwrap();
    for version in ["1.0.0", "2.0.0"] {
        write(
            &source.join("Chart.yaml"),
            &format!("apiVersion: v2\nname: app\nversion: {version}\nappVersion: \"{version}\"\n"),
        );
        write(
            &source.join("values.yaml"),
            &format!(
                "image:\n  repository: {host}/team/app\n  tag: \"\"\nextra:\n  image: {host}/team/none:9\n"
            ),
        );
        write(
            &source.join("templates/pod.yaml"),
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  - name: a\n    image: {host}/team/side:1\n"
            ),
        );
        run(tool("helm"), &["package", &source.display().to_string(), "-d", &root.display().to_string()])
            .await;
    }
    run(tool("helm"), &["repo", "index", &root.display().to_string()]).await;
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn charts_come_with_the_images_they_refer_to_and_helm_gets_them_here() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let root = repository(folder.path(), &site.host()).await;
    std::fs::write(root.join("app-2.0.0.tgz.prov"), "-----BEGIN PGP SIGNED MESSAGE-----\n").unwrap();
    let web = Web::start(folder.path(), &format!("root {};", root.display()));
    site.upstream.push_image("team/app", "2.0.0", &[&noise(1, 5000)]).await;
    site.upstream.push_image("team/side", "1", &[&noise(2, 5000)]).await;
    site.configure(&format!("[[mirror.charts]]\nrepository = \"http://127.0.0.1:{}\"\nname = \"app\"\nversions = \">=2\"\nimages = true\n", web.port));
    let (code, summary) = site.sync(&[]).await;
    assert_eq!(
        (code, states(&summary)),
        (
            0,
            vec!["app:2.0.0 new".into(), "none:9 absent".into(), "side:1 new".into(), "app-2.0.0 new".into()]
        )
    );
    let told = site.edge(&["mirror", "explain", &format!("{}/team/app:2.0.0", site.host())]).await.good().out;
    assert!(told.contains("chart app-2.0.0: values.yaml image"), "{told}");
    let (code, again) = site.sync(&[]).await;
    assert_eq!((code, &again["generation"]), (0, &serde_json::Value::Null), "{again}");

    let edge =
        serve(&site.place.path("state"), Settings { pull_through: false, ..Settings::default() }).await;
    let pulled = folder.path().join("pulled");
    std::fs::create_dir(&pulled).unwrap();
    run(tool("helm"), &["pull", "app", "--repo", &edge.url, "-d", &pulled.display().to_string()]).await;
    let (theirs, ours) =
        (std::fs::read(root.join("app-2.0.0.tgz")), std::fs::read(pulled.join("app-2.0.0.tgz")));
    assert_eq!(theirs.unwrap(), ours.unwrap(), "byte for byte");
    assert_eq!(edge.get("/charts/app-2.0.0.tgz.prov").await.status(), 200);
    edge.stop().await;
    drop(web);
    let (code, summary) = site.sync(&[]).await;
    assert_eq!(code, 1);
    assert_eq!(summary["failures"][0]["rule"].as_str().unwrap().split(' ').next(), Some("charts"));
    let listed = site.edge(&["mirror", "list"]).await.good().out;
    assert!(listed.contains("app-2.0.0") && !listed.contains("no rule wants it"), "{listed}");
}

/// As Bitnami's index is: the packages, whose digests it lists, are in a registry.
#[tokio::test(flavor = "multi_thread")]
async fn charts_that_an_index_says_to_be_in_a_registry_are_packages_here() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (root, charts) = (folder.path().join("root"), format!("oci://{}/charts", site.host()));
    std::fs::create_dir(&root).unwrap();
    let image = format!("image: {}/team/db:17\n", site.host());
    let packed = package(folder.path(), "name: db\nversion: 1.0.0+b1\n", &image).await;
    let file = root.join("db-1.0.0+b1.tgz");
    std::fs::rename(packed, &file).unwrap();
    std::fs::write(root.join("db-1.0.0+b1.tgz.prov"), "files:\n  db-1.0.0+b1.tgz: signed\n").unwrap();
    run(tool("helm"), &["push", &file.display().to_string(), &charts, "--plain-http"]).await;
    run(tool("helm"), &["repo", "index", &root.display().to_string()]).await;
    let index = std::fs::read_to_string(root.join("index.yaml")).unwrap();
    assert!(index.contains("- db-1.0.0+b1.tgz"), "{index}");
    std::fs::write(
        root.join("index.yaml"),
        index.replace("- db-1", &format!("- {charts}/db:1")).replace(".tgz", ""),
    )
    .unwrap();
    let web = Web::start(folder.path(), &format!("root {};", root.display()));
    site.upstream.push_image("team/db", "17", &[&noise(1, 3000)]).await;
    site.configure(&format!(
        "[[mirror.charts]]\nrepository = \"http://127.0.0.1:{}\"\nimages = true\n",
        web.port
    ));
    let expected = vec!["db:17 new".to_owned(), "db-1.0.0+b1 new".to_owned()];
    let (code, dry) = site.sync(&["--dry-run"]).await;
    assert_eq!((code, states(&dry)), (0, expected.clone()), "{dry}");
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, states(&summary)), (0, expected), "{summary}");
    let edge =
        serve(&site.place.path("state"), Settings { pull_through: false, ..Settings::default() }).await;
    let to = folder.path().display().to_string();
    run(tool("helm"), &["pull", "db", "--version", "1.0.0+b1", "--repo", &edge.url, "-d", &to]).await;
    let (theirs, ours) = (std::fs::read(&file), std::fs::read(folder.path().join("db-1.0.0+b1.tgz")));
    assert_eq!(theirs.unwrap(), ours.unwrap(), "byte for byte");
    let provenance = edge.get("/charts/db-1.0.0+b1.tgz.prov").await;
    assert_eq!(provenance.text().await.unwrap(), "files:\n  db-1.0.0+b1.tgz: signed\n");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_name_their_images_and_all_can_be_pushed_onwards() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    site.upstream.push_image("team/web", "1", &[&noise(1, 5000)]).await;
    site.upstream.push_image("team/db", "17", &[&noise(2, 5000)]).await;
    let host = site.host();
    let yaml = format!(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: j}}\nspec: {{jobTemplate: {{spec: {{template: {{spec: {{containers: [{{name: a, image: '{host}/team/web:1'}}]}}}}}}}}}}\n---\napiVersion: x.io/v1\nkind: Db\nmetadata: {{name: d}}\nspec: {{engine: {{image: '{host}/team/db:17'}}, other: {{image: '{host}/team/none:1'}}}}\n"
    );
    write(&folder.path().join("deep/all.yaml"), &yaml);
    site.configure(&format!(
        "[[mirror.manifests]]\npath = \"{}\"\ncustom = [\"spec.*.image\"]\n",
        folder.path().display()
    ));
    let (code, summary) = site.sync(&[]).await;
    assert_eq!(
        (code, states(&summary)),
        (0, vec!["db:17 new".into(), "none:1 absent".into(), "web:1 new".into()])
    );
    let told = site.edge(&["mirror", "explain", &format!("{host}/team/db:17")]).await.good().out;
    assert!(told.contains("Db d: spec.engine.image"), "{told}");

    let target = tempfile::tempdir().unwrap();
    let target = DockerRegistry::start(target.path()).await;
    let to = format!("127.0.0.1:{}/edge", target.port);
    let pushed = site.edge(&["mirror", "push", &to]).await.good().out;
    assert!(pushed.contains("2 of 2 names"), "{pushed}");
    let path = host.replace(':', "-");
    let inspected =
        run("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{to}/{path}/team/web:1")]).await;
    assert!(inspected.contains(summary["images"][2]["digest"].as_str().unwrap()), "{inspected}");
    let again = site.edge(&["mirror", "push", &to]).await.good().out;
    assert!(again.contains("0 B sent"), "{again}");
}

/// docker-registry takes an index only with all that it lists, and knows no charts but those in registries.
#[tokio::test(flavor = "multi_thread")]
async fn charts_and_what_is_here_of_an_index_can_be_pushed_onwards() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let packed = package(folder.path(), "name: db\nversion: 1.0.0+b1\n", "size: 1\n").await;
    let file = root.join("db-1.0.0+b1.tgz");
    std::fs::rename(packed, &file).unwrap();
    std::fs::write(root.join("db-1.0.0+b1.tgz.prov"), "files:\n  db-1.0.0+b1.tgz: signed\n").unwrap();
    run(tool("helm"), &["repo", "index", &root.display().to_string()]).await;
    let web = Web::start(folder.path(), &format!("root {};", root.display()));
    let up = &site.upstream;
    let mut entries = Vec::new();
    for (n, architecture) in [(1, "amd64"), (2, "arm64"), (3, "s390x")] {
        let digest = up.push_image("team/web", architecture, &[&noise(n, 5000)]).await;
        let manifest = format!("http://{}/v2/team/web/manifests/{digest}", site.host());
        let accept = crate::registry::client().get(manifest).header("accept", MANIFEST);
        let size = accept.send().await.unwrap().bytes().await.unwrap().len();
        entries.push(json!({"mediaType": MANIFEST, "digest": digest, "size": size,
            "platform": {"os": "linux", "architecture": architecture}}));
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    up.push_manifest("team/web", "1", &index).await;
    let rules = |platforms: &str| {
        format!(
            "[[mirror.charts]]\nrepository = \"http://127.0.0.1:{}\"\npath = \"stable\"\n[[mirror.images]]\nrepository = \"HOST/team/web\"\n\
             tags = {{ exact = [\"1\"] }}\nplatforms = [{platforms}]\n",
            web.port
        )
    };
    site.configure(&rules("\"linux/arm64\""));
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, states(&summary)), (0, vec!["web:1 new".into(), "db-1.0.0+b1 new".into()]));

    let target = tempfile::tempdir().unwrap();
    let target = DockerRegistry::start(target.path()).await;
    let to = format!("127.0.0.1:{}/edge", target.port);
    let pushed = site.edge(&["mirror", "push", &to]).await.good().out;
    let web_there = format!("{to}/{}/team/web:1", site.host().replace(':', "-"));
    let note = format!(
        "sent in part: {web_there}: without linux/amd64, linux/s390x: the registry takes an index only"
    );
    assert!(pushed.contains("2 of 2 names") && pushed.contains(&note), "{pushed}");
    let raw = |name: String| async move {
        let text =
            run("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]).await;
        (Digest::sha256(text.as_bytes()), serde_json::from_str::<serde_json::Value>(&text).unwrap())
    };
    assert_eq!(json!(raw(web_there.clone()).await.0), entries[1]["digest"]);
    let pulled = folder.path().join("pulled");
    std::fs::create_dir(&pulled).unwrap();
    let (chart, into) = (format!("oci://{to}/charts/stable/db"), pulled.display().to_string());
    run(tool("helm"), &["pull", &chart, "--version", "1.0.0+b1", "--plain-http", "-d", &into]).await;
    let (theirs, ours) = (std::fs::read(&file), std::fs::read(pulled.join("db-1.0.0+b1.tgz")));
    assert_eq!(theirs.unwrap(), ours.unwrap(), "byte for byte");
    let shown = run(tool("helm"), &["show", "chart", &chart, "--version", "1.0.0+b1", "--plain-http"]).await;
    assert!(shown.contains("name: db") && shown.contains("version: 1.0.0+b1"), "{shown}");
    let manifest = raw(format!("{to}/charts/stable/db:1.0.0_b1")).await.1;
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2, "with its signature: {manifest}");
    let again = site.edge(&["mirror", "push", &to]).await.good().out;
    assert!(again.contains("0 B sent"), "{again}");

    // Two of three: an index of those.
    site.configure(&rules("\"linux/arm64\", \"linux/amd64\""));
    assert_eq!(site.sync(&[]).await.0, 0);
    let pushed = site.edge(&["mirror", "push", &to]).await.good().out;
    assert!(pushed.contains("without linux/s390x: "), "{pushed}");
    assert_eq!(raw(web_there).await.1["manifests"], json!(entries[..2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_secret_in_an_address_is_told_nowhere() {
    const SECRET: &str = "s3cr3t";
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    write(
        &root.join("index.yaml"),
        &format!(
            "entries:\n  app:\n  - {{name: app, version: 1.0.0, urls: ['app.tgz?X-Amz-Signature={SECRET}']}}\n"
        ),
    );
    write(&root.join("bad.yaml"), "a: [");
    let web = Web::start(folder.path(), &format!("root {};", root.display()));
    let at = format!("http://127.0.0.1:{}", web.port);
    let manifests = ["none", "bad"]
        .map(|name| format!("[[mirror.manifests]]\nurl = \"{at}/{name}.yaml?private_token={SECRET}\"\n"));
    site.configure(&format!("[[mirror.charts]]\nrepository = \"{at}\"\n{}", manifests.concat()));
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, summary["failed"].as_u64()), (1, Some(3)), "{summary}");
    let log = std::fs::read_to_string(folder.path().join("access.log")).unwrap();
    assert_eq!(log.matches(SECRET).count(), 3, "it is shown where it is for: {log}");
    let text = site.edge(&["mirror", "sync"]).await;
    let mut told = format!("{summary} {} {}", text.out, text.err);
    for command in
        [&["mirror", "list", "-o", "json"][..], &["mirror", "list"], &["status"], &["status", "-o", "json"]]
    {
        let done = site.edge(command).await;
        told.push_str(&format!("{} {}", done.out, done.err));
    }
    told.push_str(&std::fs::read_to_string(site.place.path("state/mirror.json")).unwrap());
    assert!(told.contains(&format!("{at}/none.yaml")) && !told.contains(SECRET), "{told}");
}
