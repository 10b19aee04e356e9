//! The mirror from Debian's docker-registry: what comes, what does not travel twice, what stays when upstream goes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edge::oci::ParsedManifest;
use edge::store::{Settings as StoreSettings, Store};
use edge::sys::digest::Digest;
use serde_json::{Value, json};

use crate::command::{Daemon, Done, Place};
use crate::registry::{INDEX, MANIFEST, client, serve, writable};
use crate::registry_pull::DockerRegistry;

/// A docker-registry to mirror from, and a gateway.
pub struct Site {
    pub upstream: DockerRegistry,
    pub place: Place,
    _folder: tempfile::TempDir,
    log: PathBuf,
}

impl Site {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let upstream = DockerRegistry::start(folder.path()).await;
        let log = folder.path().join("log");
        Self { upstream, place: Place::new(), _folder: folder, log }
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.upstream.port)
    }

    pub fn configure(&self, toml: &str) {
        let listen = "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n";
        self.place.write("etc/edge.toml", &format!("{}\n{listen}", toml.replace("HOST", &self.host())));
    }

    /// Runs a command off the test's own runtime.
    pub async fn edge(&self, arguments: &[&str]) -> Done {
        let mut command = self.place.edge(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        Done::of(output)
    }

    /// `edge mirror sync -o json`, whatever its end.
    pub async fn sync(&self, more: &[&str]) -> (i32, Value) {
        let arguments: Vec<&str> = ["mirror", "sync", "-o", "json"].iter().chain(more).copied().collect();
        let done = self.edge(&arguments).await;
        let summary = serde_json::from_str(&done.out);
        (done.code, summary.unwrap_or_else(|_| panic!("no summary: {done:?}")))
    }

    /// The requests that upstream answered since the last call, `METHOD path status`.
    pub fn requests(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap();
        std::fs::File::options().write(true).open(&self.log).unwrap().set_len(0).unwrap();
        let lines = text.lines().filter(|line| !line.contains("level=") && line.contains(" HTTP/1.1\""));
        lines
            .filter_map(|line| {
                let (_, rest) = line.split_once('"')?;
                let (request, rest) = rest.split_once(" HTTP/1.1\" ")?;
                Some(format!("{request} {}", rest.split(' ').next()?))
            })
            .filter(|line| !line.contains("/v2/ "))
            .collect()
    }

    pub fn store(&self) -> Store {
        Store::open(StoreSettings::below(&self.place.path("state"))).unwrap()
    }
}

/// States by name, `1.0 new`.
pub fn states(summary: &Value) -> Vec<String> {
    let images = summary["images"].as_array().unwrap().iter().chain(summary["charts"].as_array().unwrap());
    let short = |name: &str| name.rsplit('/').next().unwrap().to_owned();
    images
        .map(|one| format!("{} {}", short(one["name"].as_str().unwrap()), one["state"].as_str().unwrap()))
        .collect()
}

/// Bytes that do not compress and are those of `seed`.
pub fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 11) as u8
        })
        .collect()
}

impl DockerRegistry {
    pub async fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let begin = format!("http://127.0.0.1:{}/v2/{repository}/blobs/uploads/", self.port);
        let begun = client().post(begin).send().await.unwrap();
        let location = begun.headers()["location"].to_str().unwrap();
        let between = if location.contains('?') { '&' } else { '?' };
        let put = client().put(format!("{location}{between}digest={digest}")).body(bytes.to_vec());
        assert_eq!(put.send().await.unwrap().status(), 201);
        digest
    }

    pub async fn push_manifest(&self, repository: &str, name: &str, manifest: &Value) -> Digest {
        let text = manifest.to_string();
        let url = format!("http://127.0.0.1:{}/v2/{repository}/manifests/{name}", self.port);
        let kind = manifest["mediaType"].as_str().unwrap().to_owned();
        let put = client().put(url).header("content-type", kind).body(text.clone()).send().await.unwrap();
        assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
        Digest::sha256(text.as_bytes())
    }

    /// An image of these layers; its configuration is its own.
    pub async fn push_image(&self, repository: &str, name: &str, layers: &[&[u8]]) -> Digest {
        let config =
            json!({"architecture": "amd64", "os": "linux", "config": {"Labels": {"name": name}}}).to_string();
        let config_digest = self.push_blob(repository, config.as_bytes()).await;
        let mut descriptors = Vec::new();
        for layer in layers {
            let digest = self.push_blob(repository, layer).await;
            let kind = "application/vnd.oci.image.layer.v1.tar";
            descriptors.push(json!({"mediaType": kind, "digest": digest, "size": layer.len()}));
        }
        let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()});
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors});
        let name = if name.starts_with('@') {
            Digest::sha256(manifest.to_string().as_bytes()).to_string()
        } else {
            name.to_owned()
        };
        self.push_manifest(repository, &name, &manifest).await
    }
}

/// Bytes of all files below a folder.
pub fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_of(&entry.path()),
        other => other.map_or(0, |meta| meta.len()),
    };
    entries.map(size).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_missing_travels_and_what_is_unchanged_costs_one_request() {
    let site = Site::start().await;
    let base = noise(1, 300_000);
    for (tag, seed) in [("1.0.0", 2), ("1.1.0", 3), ("2.0.0", 4), ("edge", 5)] {
        site.upstream.push_image("team/app", tag, &[&base, &noise(seed, 50_000)]).await;
    }
    site.configure("[[mirror.images]]\nrepository = \"HOST/team/app\"\ntags = { exact = [\"edge\"], semver = \">=1.1\" }\n");
    site.requests();

    let dry = site.sync(&["--dry-run"]).await;
    assert_eq!(
        (dry.0, states(&dry.1)),
        (0, vec!["app:1.1.0 new".into(), "app:2.0.0 new".into(), "app:edge new".into()])
    );
    assert!(!site.place.path("state/mirror.json").exists());
    let would = dry.1["bytes"].as_u64().unwrap();
    assert!((450_000..460_000).contains(&would), "a layer that all share is counted once: {would}");
    site.requests();
    let (code, first) = site.sync(&[]).await;
    assert_eq!((code, states(&first)), (0, states(&dry.1)));
    let requests = site.requests();
    let gets = requests.iter().filter(|line| line.starts_with("GET") && line.contains("/blobs/")).count();
    assert_eq!(gets, 7, "three configurations, three layers, one that all share: {requests:#?}");
    let generation = &first["generation"];
    assert_eq!(generation, 1);
    let store = site.store();
    let repository = format!("{}/team/app", site.host());
    assert_eq!(store.tags(&repository, "", 10).unwrap().unwrap(), ["1.1.0", "2.0.0", "edge"]);
    drop(store);

    let (code, again) = site.sync(&[]).await;
    assert_eq!((code, &again["generation"], &again["bytes"]), (0, &Value::Null, &0.into()));
    let requests = site.requests();
    assert_eq!(requests.len(), 4, "one list and a HEAD each: {requests:#?}");

    // A tag that moved, with the daemon running.
    let daemon = Daemon::start(&site.place);
    site.upstream.push_image("team/app", "edge", &[&base, &noise(6, 50_000)]).await;
    let (code, moved) = site.sync(&["app:edge"]).await;
    assert_eq!(
        (code, states(&moved), &moved["generation"]),
        (0, vec!["app:edge updated".to_owned()], &2.into())
    );
    assert!(moved["bytes"].as_u64().unwrap() < 60_000, "the shared layer does not travel again: {moved}");
    drop(daemon);

    let gone = site.edge(&["mirror", "sync", "nothing"]).await;
    gone.bad(2, "no rule wants `nothing`");
    let listed = site.edge(&["mirror", "list"]).await.good().out;
    assert_eq!(listed.lines().count(), 4, "{listed}");
    let told = site.edge(&["mirror", "explain", &format!("{repository}:1.0.0")]).await.good().out;
    assert!(told.contains("out  images") && told.contains("does not fit semver >=1.1"), "{told}");
    let told = site.edge(&["mirror", "explain", &format!("{repository}:2.0.0")]).await.good().out;
    assert!(told.contains("in   images") && told.contains("here:"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_gone_costs_nothing_that_is_here() {
    let mut site = Site::start().await;
    site.upstream.push_image("team/app", "1", &[&noise(1, 1000)]).await;
    site.configure("[[mirror.images]]\nrepository = \"HOST/team/app\"\ntags = { exact = [\"1\", \"2\"] }\n");
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, states(&summary)), (1, vec!["app:1 new".into(), "app:2 failed".into()]));
    assert_eq!(summary["generation"], 1, "the rest went on");
    site.upstream.stop();
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, states(&summary)), (1, vec!["app:1 failed".into(), "app:2 failed".into()]));
    assert_eq!(summary["generation"], Value::Null);
    let repository = format!("{}/team/app", site.host());
    assert_eq!(site.store().tags(&repository, "", 10).unwrap().unwrap(), ["1"]);
    let listed = site.edge(&["mirror", "list"]).await.good().out;
    assert!(listed.contains("app:1") && listed.contains("old") && listed.contains("missing"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_stays_as_it_is_and_only_the_wanted_platforms_come() {
    let site = Site::start().await;
    let (up, repository) = (&site.upstream, "team/multi");
    let arm = up.push_image(repository, "@arm", &[&noise(1, 10_000)]).await;
    let amd = up.push_image(repository, "@amd", &[&noise(2, 10_000)]).await;
    let proof = up.push_image(repository, "@proof", &[b"attestation"]).await;
    let other = up.push_image(repository, "@other", &[b"attestation of amd64"]).await;
    let child = |digest: &Digest, platform: Value, about: Option<&Digest>| {
        let mut child = json!({"mediaType": MANIFEST, "digest": digest, "size": 400, "platform": platform});
        if let Some(about) = about {
            child["annotations"] = json!({"vnd.docker.reference.digest": about, "vnd.docker.reference.type": "attestation-manifest"});
        }
        child
    };
    let unknown = || json!({"os": "unknown", "architecture": "unknown"});
    let children = [
        child(&amd, json!({"os": "linux", "architecture": "amd64"}), None),
        child(&arm, json!({"os": "linux", "architecture": "arm64", "variant": "v8"}), None),
        child(&proof, unknown(), Some(&arm)),
        child(&other, unknown(), Some(&amd)),
    ];
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
    let digest = up.push_manifest(repository, "1", &index).await;
    site.configure("[mirror]\nplatforms = [\"linux/arm64\"]\n[[mirror.images]]\nrepository = \"HOST/team/multi\"\ntags = { exact = [\"1\"] }\n");
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, &summary["images"][0]["digest"]), (0, &json!(digest)));
    let store = site.store();
    let here = |digest: &Digest| store.manifest_of(digest).unwrap().is_some();
    assert_eq!(
        (here(&digest), here(&arm), here(&proof), here(&amd), here(&other)),
        (true, true, true, false, false)
    );
    assert_eq!(
        store.manifest_of(&digest).unwrap().unwrap().blob.read().unwrap(),
        index.to_string().as_bytes()
    );
    drop(store);
    // A depot takes a part of an index for the whole.
    let folder = tempfile::tempdir().unwrap();
    let depot = serve(folder.path(), writable()).await;
    let to = format!("127.0.0.1:{}/edge", depot.port);
    site.edge(&["mirror", "push", &to]).await.good();
    // A platform more: the names stand for what they stood for, and what came is found through the repository.
    site.configure("[mirror]\nplatforms = [\"linux/arm64\", \"linux/amd64\"]\n[[mirror.images]]\nrepository = \"HOST/team/multi\"\ntags = { exact = [\"1\"] }\n");
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, states(&summary)), (0, vec!["multi:1 updated".to_owned()]));
    let (store, name) = (site.store(), format!("{}/team/multi", site.host()));
    for child in [&amd, &other, &arm] {
        let child = store.manifest(&name, child.as_str()).unwrap().expect("a child of the index is served");
        let parsed = ParsedManifest::parse(&child.blob.read().unwrap(), "").unwrap();
        for blob in parsed.blobs() {
            assert!(store.blob(Some(&name), &blob.digest).unwrap().is_some(), "and so is all of it");
        }
    }
    drop(store);
    // Also where the same index was sent before.
    let pushed = site.edge(&["mirror", "push", &to]).await.good().out;
    assert!(pushed.contains("1 of 1 names"), "{pushed}");
    let path = format!("/v2/edge/{}/team/multi", site.host().replace(':', "-"));
    for child in [&amd, &other, &arm] {
        assert_eq!(depot.get(&format!("{path}/manifests/{child}")).await.status(), 200, "{child}");
    }
    let layer = Digest::sha256(&noise(2, 10_000));
    assert_eq!(depot.get(&format!("{path}/blobs/{layer}")).await.status(), 200);
    let again = site.edge(&["mirror", "push", &to]).await.good().out;
    assert!(again.contains("0 B sent"), "{again}");
    depot.stop().await;
    site.configure("[mirror]\nplatforms = [\"linux/riscv64\"]\n[[mirror.images]]\nrepository = \"HOST/team/multi\"\ntags = { exact = [\"1\"] }\n");
    let (code, summary) = site.sync(&[]).await;
    assert_eq!(code, 1);
    let why = summary["images"][0]["error"].as_str().unwrap();
    assert!(why.contains("no image for linux/riscv64, only for linux/amd64, linux/arm64/v8"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_blob_is_taken_up_after_a_kill() {
    let site = Site::start().await;
    let layer = noise(9, 6_000_000);
    site.upstream.push_image("team/big", "1", &[&layer]).await;
    let rule = "[[mirror.images]]\nrepository = \"HOST/team/big\"\ntags = { exact = [\"1\"] }\n";
    site.configure(&format!("[mirror]\nbandwidth-limit = \"2MiB/s\"\n{rule}"));
    let mut child = site.place.edge(&["mirror", "sync"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let uploads = site.place.path("state/store/uploads");
    let deadline = Instant::now() + Duration::from_secs(30);
    while size_of(&uploads) < 2_000_000 {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "nothing came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let half = size_of(&uploads);
    assert!(half < 6_000_000, "the bandwidth limit holds");
    site.configure(rule);
    site.requests();
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, states(&summary)), (0, vec!["big:1 new".to_owned()]));
    let requests = site.requests();
    assert!(requests.iter().any(|line| line.ends_with(" 206") && line.contains("/blobs/")), "{requests:#?}");
    let travelled = summary["bytes"].as_u64().unwrap();
    assert!(travelled < 6_000_000 - half + 10_000, "{travelled} bytes came after {half}");
    assert!(site.store().blob(None, &Digest::sha256(&layer)).unwrap().is_some());
}

#[test]
fn what_makes_no_sense_is_one_line_that_names_the_key() {
    let place = Place::new();
    for (toml, expected) in [
        ("[mirror]\nschedule = \"61 * * * *\"", "key `mirror.schedule`: `61 * * * *` is no line of cron"),
        (
            "[[mirror.images]]\nrepository = \"nginx\"\ntags = { regex = \"(\" }",
            "key `mirror.images[0].tags.regex`: `(` is not a regular expression",
        ),
        (
            "[[mirror.images]]\nrepository = \"nginx\"\ntags = { semver = \"=>1\" }",
            "key `mirror.images[0].tags.semver`",
        ),
        (
            "[[mirror.images]]\nrepository = \"nginx\"\ntags = { globs = \"1*\" }",
            "key `mirror.images[0].tags",
        ),
        ("[[mirror.charts]]\nrepository = \"ftp://x\"", "key `mirror.charts[0].repository`"),
        (
            "[[mirror.manifests]]\ncustom = [\"spec.image\"]",
            "key `mirror.manifests[0]`: it needs either `path` or `url`",
        ),
        ("[mirror.kubernetes]\nversion = \"2.0.0\"", "key `mirror.kubernetes.version`"),
    ] {
        place.write("etc/edge.toml", toml);
        place.run(&["mirror", "sync"]).bad(2, expected);
        assert!(!place.path("state").exists(), "nothing was started");
    }
}

/// docker-registry with users; the credential comes from docker's file or from a helper.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_a_file_or_from_a_helper() {
    let folder = tempfile::tempdir().unwrap();
    let open = DockerRegistry::start(folder.path()).await;
    open.push_image("team/app", "1", &[&noise(1, 1000)]).await;
    drop(open);
    let users = std::process::Command::new("htpasswd").args(["-Bbn", "robot", "s3cret"]).output().unwrap();
    std::fs::write(folder.path().join("users"), users.stdout).unwrap();
    let more = format!("auth: {{htpasswd: {{realm: x, path: {}}}}}\n", folder.path().join("users").display());
    let closed = DockerRegistry::start_with(folder.path(), "", &more).await;
    let host = format!("127.0.0.1:{}", closed.port);
    let helpers = tempfile::tempdir().unwrap();
    let helper = helpers.path().join("docker-credential-vault");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = get ] && [ \"$(cat)\" = {host} ] || exit 1\necho '{{\"ServerURL\":\"x\",\"Username\":\"robot\",\"Secret\":\"s3cret\"}}'\n"
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let auth = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "robot:s3cret");
    for (docker, good) in [
        ("{}".to_owned(), false),
        (format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"{auth}\"}}}}}}"), true),
        (format!("{{\"credHelpers\":{{\"{host}\":\"vault\"}}}}"), true),
        ("{\"credsStore\":\"vault\"}".to_owned(), true),
    ] {
        let place = Place::new();
        let config = place.secret("docker.json", &docker);
        place.write("etc/edge.toml", &format!("[mirror]\ndocker-config = \"{}\"\n[[mirror.images]]\nrepository = \"{host}/team/app\"\ntags = {{ exact = [\"1\"] }}\n", config.display()));
        let mut command = place.edge(&["mirror", "sync", "-o", "json"]);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", helpers.path().display()));
        let done = Done::of(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap());
        assert_eq!(done.code == 0, good, "{docker}: {done:?}");
        assert!(!format!("{done:?}").contains("s3cret"));
    }
}
