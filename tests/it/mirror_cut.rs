//! The network is cut in the middle of transfers: a real docker-registry on a machine of its own, a cable that is pulled.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use edge::sys::digest::Digest;
use serde_json::{Value, json};

use crate::mirror::{noise, size_of};
use crate::registry::MANIFEST;
use crate::support::keys::{Authority, Pair};
use crate::support::machine::Machine;

pub const UPSTREAM: &str = "10.9.0.1";
pub const GATEWAY: &str = "10.9.0.2";

/// Two machines and a cable.
pub struct Ground {
    pub upstream: Machine,
    pub gateway: Machine,
    registry: Child,
    pub folder: tempfile::TempDir,
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.registry.kill();
        let _ = self.registry.wait();
    }
}

/// A registry that ends with the value.
pub struct Tls(Child);

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Ground {
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let boot = |name: &str| Machine::boot(name, &folder.path().join(name), folder.path());
        let (upstream, gateway) = (boot("upstream")?, boot("gateway")?);
        let (ours, theirs) = (upstream.init().to_string(), gateway.init().to_string());
        let cable =
            ["link", "add", "eth0", "netns", &ours, "type", "veth", "peer", "name", "eth0", "netns", &theirs];
        ensure!(Command::new("ip").args(cable).status()?.success(), "no cable between the machines");
        for (machine, address) in [(&upstream, UPSTREAM), (&gateway, GATEWAY)] {
            machine.shell(&format!("ip addr add {address}/24 dev eth0; ip link set eth0 up"))?;
        }
        let data = folder.path().join("registry");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: ':5001'}}\n",
            data.display()
        );
        upstream.write("/etc/registry.yml", &config)?;
        let mut command = upstream.command(&["docker-registry", "serve", "/etc/registry.yml"]);
        let registry = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let ground = Self { upstream, gateway, registry, folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while ground.upstream.output(&["curl", "-sf", "http://127.0.0.1:5001/v2/"])?.status.code() != Some(0)
        {
            ensure!(Instant::now() < deadline, "docker-registry does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(ground)
    }

    fn push(&self, bytes: &[u8], to: &str, kind: &str) -> Result<()> {
        let file = self.folder.path().join("push");
        std::fs::write(&file, bytes)?;
        let script =
            format!("curl -sf -X PUT -H 'Content-Type: {kind}' --data-binary @{} \"{to}\"", file.display());
        self.upstream.shell(&script).map(|_| ())
    }

    fn push_blob(&self, bytes: &[u8]) -> Result<Digest> {
        self.push_blob_to("a/b", bytes)
    }

    fn push_blob_to(&self, repository: &str, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::sha256(bytes);
        let begin = format!(
            "curl -sf -X POST -D - -o /dev/null http://127.0.0.1:5001/v2/{repository}/blobs/uploads/ | tr -d '\\r' | sed -n 's/^Location: //p'"
        );
        let at = self.upstream.shell(&begin)?.trim().to_owned();
        self.push(bytes, &format!("{at}&digest={digest}"), "application/octet-stream")?;
        Ok(digest)
    }

    /// Pushes an image with one layer.
    pub fn push_image(&self, repository: &str, tag: &str, layer: &[u8]) -> Result<()> {
        let text = json!({"architecture": "amd64", "os": "linux"}).to_string();
        let config = self.push_blob_to(repository, text.as_bytes())?;
        let digest = self.push_blob_to(repository, layer)?;
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": text.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": layer.len()}]});
        let to = format!("http://127.0.0.1:5001/v2/{repository}/manifests/{tag}");
        self.push(manifest.to_string().as_bytes(), &to, MANIFEST)
    }

    /// The same registry over TLS, on a port of its own.
    pub fn serve_tls(&self, port: u16, pair: &Pair) -> Result<Tls> {
        let at = |name: &str| format!("/etc/{port}.{name}");
        self.upstream.write(&at("crt"), &pair.certificate)?;
        self.upstream.write(&at("key"), &pair.key)?;
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: ':{port}', tls: {{certificate: {}, key: {}}}}}\n",
            self.folder.path().join("registry").display(),
            at("crt"),
            at("key")
        );
        self.upstream.write(&at("yml"), &config)?;
        let mut command = self.upstream.command(&["docker-registry", "serve", &at("yml")]);
        let tls = Tls(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self
            .upstream
            .output(&["curl", "-skf", &format!("https://127.0.0.1:{port}/v2/")])?
            .status
            .success()
        {
            ensure!(Instant::now() < deadline, "docker-registry does not answer over TLS");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(tls)
    }

    fn cable(&self, state: &str) -> Result<()> {
        self.upstream.run(&["ip", "link", "set", "eth0", state]).map(|_| ())
    }
}

#[test]
fn a_cable_that_is_pulled_in_the_middle_loses_no_byte() -> Result<()> {
    let ground = Ground::start()?;
    let layers = [noise(1, 4_000_000), noise(2, 4_000_000)];
    let config = ground.push_blob(b"{\"os\":\"linux\"}")?;
    let mut descriptors = Vec::new();
    for layer in &layers {
        let digest = ground.push_blob(layer)?;
        descriptors.push(json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": layer.len()}));
    }
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 14}});
    ground.push(manifest.to_string().as_bytes(), "http://127.0.0.1:5001/v2/a/b/manifests/1", MANIFEST)?;
    let state = ground.folder.path().join("state");
    let toml = ground.folder.path().join("edge.toml");
    let rule =
        format!("[[mirror.images]]\nrepository = \"{UPSTREAM}:5001/a/b\"\ntags = {{ exact = [\"1\"] }}\n");
    let (toml_text, state_text) = (toml.display().to_string(), state.display().to_string());
    let edge = env!("CARGO_BIN_EXE_edge");
    let sync = [edge, "--config", &toml_text, "--state-dir", &state_text, "mirror", "sync", "-o", "json"];

    // Plain HTTP to another machine is not spoken unasked.
    std::fs::write(&toml, &rule)?;
    let refused = ground.gateway.output(&sync)?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    ensure!(!String::from_utf8_lossy(&refused.stdout).contains("\"new\""));

    std::fs::write(&toml, format!("[mirror]\nbandwidth-limit = \"2MiB/s\"\n{rule}insecure = true\n"))?;
    let mut run = ground.gateway.command(&sync).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let uploads = state.join("store/uploads");
    let deadline = Instant::now() + Duration::from_secs(30);
    while size_of(&uploads) < 2_000_000 {
        ensure!(Instant::now() < deadline && run.try_wait()?.is_none(), "nothing came");
        std::thread::sleep(Duration::from_millis(20));
    }
    ground.cable("down")?;
    let before = size_of(&uploads);
    // Back before the run gives up: it goes on by itself. Frozen connections break only after a while, so they are reset.
    ground.cable("up")?;
    let _ = ground.gateway.output(&["ss", "-K", "dst", UPSTREAM])?;
    let output = run.wait_with_output()?;
    let summary: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(output.status.success(), "{summary}");
    ensure!(
        summary["bytes"].as_u64().is_some_and(|bytes| bytes < 8_700_000),
        "what came before the cut came once: {summary}"
    );
    ensure!(before < 8_000_000, "the cut was in the middle");

    // A cable that stays out: the run ends and says so, and what is here stays.
    ground.cable("down")?;
    let output = ground.gateway.output(&sync)?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let summary: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(summary["images"][0]["state"] == "failed" && summary["generation"].is_null(), "{summary}");
    let list = [edge, "--config", &toml_text, "--state-dir", &state_text, "mirror", "list", "-o", "json"];
    let listed: Value = serde_json::from_slice(&ground.gateway.output(&list)?.stdout)?;
    ensure!(listed[0]["digest"].is_string() && listed[0]["error"].is_string(), "{listed}");

    // A disk without room: one line, nothing half, and all comes once there is room.
    ground.cable("up")?;
    ground.gateway.shell("mkdir -p /run/small && mount -t tmpfs -o size=66m none /run/small")?;
    std::fs::write(&toml, format!("{rule}insecure = true\n"))?;
    let sync = [edge, "--config", &toml_text, "--state-dir", "/run/small", "mirror", "sync", "-o", "json"];
    let output = ground.gateway.output(&sync)?;
    let summary: Value = serde_json::from_slice(&output.stdout)?;
    let why = summary["images"][0]["error"].as_str().unwrap_or_default();
    ensure!(output.status.code() == Some(1) && why.contains("is full"), "{summary}");
    ensure!(summary["generation"].is_null(), "{summary}");
    ground.gateway.shell("mount -o remount,size=200m /run/small")?;
    let output = ground.gateway.output(&sync)?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

#[test]
fn only_a_named_authority_is_trusted_and_no_certificate_past_its_end() -> Result<()> {
    let ground = Ground::start()?;
    let config = ground.push_blob(b"{\"os\":\"linux\"}")?;
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 14}});
    ground.push(manifest.to_string().as_bytes(), "http://127.0.0.1:5001/v2/a/b/manifests/1", MANIFEST)?;
    let authority = Authority::new("private")?;
    let _good = ground.serve_tls(5443, &authority.server(&[UPSTREAM])?)?;
    let _late = ground.serve_tls(5444, &authority.server_until(&[UPSTREAM], (2001, 1, 1))?)?;
    let (toml, pem) = (ground.folder.path().join("edge.toml"), ground.folder.path().join("ca.pem"));
    std::fs::write(&pem, authority.certificate())?;
    let state = ground.folder.path().join("state").display().to_string();
    let sync = |port: u16, mirror: &str| -> Result<(Option<i32>, Value)> {
        let rule = format!(
            "{mirror}[[mirror.images]]\nrepository = \"{UPSTREAM}:{port}/a/b\"\ntags = {{ exact = [\"1\"] }}\n"
        );
        std::fs::write(&toml, rule)?;
        let edge = env!("CARGO_BIN_EXE_edge");
        let toml = toml.display().to_string();
        let output = ground.gateway.output(&[
            edge,
            "--config",
            &toml,
            "--state-dir",
            &state,
            "mirror",
            "sync",
            "-o",
            "json",
        ])?;
        Ok((output.status.code(), serde_json::from_slice(&output.stdout)?))
    };
    let named = format!("[mirror]\nauthorities = [\"{}\"]\n", pem.display());
    let (code, stranger) = sync(5443, "")?;
    ensure!(code == Some(1), "{stranger}");
    let (code, late) = sync(5444, &named)?;
    let why = late["images"][0]["error"].as_str().unwrap_or_default();
    ensure!(code == Some(1) && why.to_lowercase().contains("expired"), "{late}");
    let (code, good) = sync(5443, &named)?;
    ensure!(code == Some(0) && good["images"][0]["state"] == "new", "{good}");
    Ok(())
}

#[test]
fn plain_http_to_one_server_is_not_for_whom_it_leads_to() -> Result<()> {
    let ground = Ground::start()?;
    ground.push_image("c/d", "1", &noise(1, 2000))?;
    ground.gateway.write("/etc/hosts", &format!("127.0.0.1 localhost\n{UPSTREAM} far.example\n"))?;
    // The registry stands in for a web server that has the manifests.
    let image = |host: &str| format!("{{image: '{host}:5001/c/d:1'}}");
    let pod = format!("kind: Pod\nspec: {{containers: [{}, {}]}}\n", image(UPSTREAM), image("far.example"));
    let manifests = ground.push_blob(pod.as_bytes())?;
    let rule = format!(
        "[[mirror.manifests]]\nurl = \"http://{UPSTREAM}:5001/v2/a/b/blobs/{manifests}\"\ninsecure = true\n"
    );
    let toml = ground.folder.path().join("edge.toml");
    let (config, state) =
        (toml.display().to_string(), ground.folder.path().join("state").display().to_string());
    let sync = |rules: &str| -> Result<(Option<i32>, Vec<String>)> {
        std::fs::write(&toml, rules)?;
        let edge = [env!("CARGO_BIN_EXE_edge"), "--config", &config, "--state-dir", &state];
        let output = ground.gateway.output(&[&edge[..], &["mirror", "sync", "-o", "json"]].concat())?;
        Ok((output.status.code(), crate::mirror::states(&serde_json::from_slice(&output.stdout)?)))
    };
    let (code, states) = sync(&rule)?;
    ensure!(code == Some(1) && states == ["d:1 new", "d:1 failed"], "{code:?} {states:?}");
    let named = "[[mirror.images]]\nrepository = \"far.example:5001/x\"\ntags = { exact = [\"1\"] }\ninsecure = true\n";
    let (_, states) = sync(&format!("{rule}{named}"))?;
    ensure!(states == ["d:1 unchanged", "d:1 new", "x:1 failed"], "{states:?}");
    Ok(())
}
