//! Ways to upstreams on other machines: a proxy that tunnels (tinyproxy, from Debian), and token servers.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::command::Done;
use crate::mirror::{noise, states};
use crate::mirror_cut::{GATEWAY, Ground, UPSTREAM};
use crate::registry_pull::DockerRegistry;
use crate::registry_secure::token_server;
use crate::support::Authority;

/// A tinyproxy on the upstream's machine, which alone knows what `registry.k8s.io` is; it ends with the value.
struct Tunnel<'a> {
    child: Child,
    ground: &'a Ground,
}

impl Drop for Tunnel<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Tunnel<'a> {
    fn start(ground: &'a Ground, port: u16) -> Result<Self> {
        let machine = &ground.upstream;
        machine.write("/etc/hosts", &format!("127.0.0.1 localhost\n{UPSTREAM} registry.k8s.io\n"))?;
        let log = ground.folder.path().join("tinyproxy.log");
        machine.write(
            "/etc/tinyproxy-test.conf",
            &format!(
                "Port {port}\nListen {UPSTREAM}\nTimeout 60\nMaxClients 20\nLogFile \"{}\"\nLogLevel Connect\nAllow {GATEWAY}\n\
                 ConnectPort 443\nBasicAuth ann secret\n",
                log.display()
            ),
        )?;
        let mut command = machine.command(&["tinyproxy", "-d", "-c", "/etc/tinyproxy-test.conf"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let tunnel = Self { child, ground };
        let deadline = Instant::now() + Duration::from_secs(20);
        let at = format!("http://{UPSTREAM}:{port}");
        // It answers whoever asks, if only that it wants a password.
        while ground.gateway.output(&["curl", "-s", &at])?.status.code() == Some(7) {
            ensure!(Instant::now() < deadline, "tinyproxy does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(tunnel)
    }

    /// How often somebody asked for a tunnel to the registry since the last call.
    fn tunnels(&self) -> Result<usize> {
        let log = self.ground.folder.path().join("tinyproxy.log");
        let text = std::fs::read_to_string(&log)?;
        std::fs::write(&log, "")?;
        Ok(text.lines().filter(|line| line.contains("CONNECT registry.k8s.io:443")).count())
    }
}

/// A gateway that knows nobody but the proxy mirrors what Kubernetes itself consists of, and pulls through.
#[test]
fn a_tunnel_leads_to_registries_over_tls() -> Result<()> {
    let ground = Ground::start()?;
    let authority = Authority::new("private")?;
    let _registry = ground.serve_tls(443, &authority.server(&["registry.k8s.io", "127.0.0.1"])?)?;
    ground.push_image("pause", "3.10.2", &noise(1, 300_000))?;
    let tunnel = Tunnel::start(&ground, 8888)?;
    let at = |name: &str| ground.folder.path().join(name).display().to_string();
    std::fs::write(at("ca.pem"), authority.certificate())?;
    let edge = |registry: &str, environment: &[&str], arguments: &[&str]| -> Result<Output> {
        let toml = format!(
            "[registry]\nauthorities = [\"{}\"]\n{registry}\n[mirror.kubernetes]\nversion = \"1.36.3\"\nimages = [\"pause\"]\n\
             [[registry.upstreams]]\nhost = \"registry.k8s.io\"\n",
            at("ca.pem")
        );
        std::fs::write(at("edge.toml"), toml)?;
        let program = env!("CARGO_BIN_EXE_edge");
        let (config, state) = (at("edge.toml"), at("state"));
        let mut argv = vec!["env"];
        argv.extend(environment);
        argv.extend([program, "--config", &config, "--state-dir", &state]);
        argv.extend(arguments);
        ground.gateway.output(&argv)
    };
    let sync = |registry: &str, environment: &[&str]| -> Result<(Option<i32>, Value)> {
        let output = edge(registry, environment, &["mirror", "sync", "-o", "json"])?;
        let summary = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
        Ok((output.status.code(), summary))
    };
    let (good, bad) = ("http://ann:secret@10.9.0.1:8888", "http://ann:wr0ng@10.9.0.1:8888");

    let (code, summary) = sync("", &[])?;
    ensure!(code == Some(1), "nobody knows the name: {summary}");
    let (code, summary) = sync(&format!("proxy = \"{bad}\""), &[])?;
    ensure!(code == Some(1) && !summary.to_string().contains("wr0ng"), "{summary}");
    ensure!(
        summary["images"][0]["error"]
            .as_str()
            .is_some_and(|why| why.contains("407") || why.contains("tunnel")),
        "{summary}"
    );
    let environment = format!("HTTPS_PROXY={good}");
    let (code, summary) = sync("", &[&environment, "NO_PROXY=.k8s.io"])?;
    ensure!(code == Some(1), "asked without the proxy: {summary}");
    tunnel.tunnels()?;

    let (code, summary) = sync("", &[&environment])?;
    ensure!(code == Some(0) && states(&summary) == ["pause:3.10.2 new"], "{summary}");
    ensure!(tunnel.tunnels()? > 0);
    // The key goes before the environment, and the mirror's own before the registry's.
    let wrong = format!("HTTPS_PROXY={bad}");
    let (code, summary) = sync(&format!("proxy = \"{good}\""), &[&wrong])?;
    ensure!(code == Some(0) && states(&summary) == ["pause:3.10.2 unchanged"], "{summary}");
    let (code, summary) = sync(&format!("proxy = \"{bad}\"\n[mirror]\nproxy = \"{good}\""), &[])?;
    ensure!(code == Some(0), "{summary}");
    // Pull-through goes the same way.
    let pull = ["image", "pull", "registry.k8s.io/other:1", "--platform", "linux/amd64"];
    ground.push_image("other", "1", &noise(2, 300_000))?;
    tunnel.tunnels()?;
    let pulled = Done::of(edge(&format!("proxy = \"{good}\""), &[], &pull)?);
    ensure!(pulled.code == 0 && tunnel.tunnels()? > 0, "{pulled:?}");
    let senseless = Done::of(edge("proxy = \"gopher://x\"", &[], &["mirror", "sync"])?);
    ensure!(
        senseless.code == 2 && senseless.err.contains("key `registry.proxy`: `gopher://x` is no proxy hint:"),
        "{senseless:?}"
    );
    Ok(())
}

/// A docker-registry whose tokens come from a server that takes a password, or an identity token as OAuth 2 has it.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_had_for_a_password_or_an_identity_token() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("far").unwrap();
    let (port, bundle) = token_server(&authority, folder.path());
    let auth = format!(
        "auth: {{token: {{realm: 'http://127.0.0.1:{port}/token', service: far, issuer: edge-test, rootcertbundle: '{bundle}'}}}}\n"
    );
    let open = DockerRegistry::start(folder.path()).await;
    open.push_image("team/app", "1", &[&noise(1, 200_000)]).await;
    drop(open);
    let upstream = DockerRegistry::start_with(folder.path(), "", &auth).await;
    let host = format!("127.0.0.1:{}", upstream.port);
    for (credential, good) in [
        ("{}".to_owned(), false),
        (format!("{{\"{host}\": {{\"username\": \"ann\", \"password\": \"wrong\"}}}}"), false),
        (format!("{{\"{host}\": {{\"username\": \"ann\", \"password\": \"secret\"}}}}"), true),
        (format!("{{\"{host}\": {{\"identitytoken\": \"0ther\"}}}}"), false),
        (format!("{{\"{host}\": {{\"identitytoken\": \"1dent1ty\"}}}}"), true),
    ] {
        let place = crate::command::Place::new();
        // The registry's own file is the mirror's too.
        let config = place.secret("docker.json", &format!("{{\"auths\": {credential}}}"));
        place.write(
            "etc/edge.toml",
            &format!(
                "[registry]\ndocker-config = \"{}\"\n[[mirror.images]]\nrepository = \"{host}/team/app\"\ntags = {{ exact = [\"1\"] }}\n",
                config.display()
            ),
        );
        let mut command: Command = place.edge(&["mirror", "sync", "-o", "json"]);
        let done = Done::of(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap());
        assert_eq!(done.code == 0, good, "{credential}: {done:?}");
        assert!(!format!("{done:?}").contains("1dent1ty"));
        if good {
            // Onwards, for which a token of its own is needed.
            let mut push = place.edge(&["mirror", "push", &format!("{host}/copy")]);
            let pushed = Done::of(tokio::task::spawn_blocking(move || push.output().unwrap()).await.unwrap());
            assert!(pushed.code == 0 && pushed.out.contains("1 of 1 names"), "{pushed:?}");
        }
    }
    let place = crate::command::Place::new();
    let config = place.write("docker.json", "{\"auths\": {\"q.io\": {\"identitytoken\": \"t\"}}}");
    let rule = "[[mirror.images]]\nrepository = \"q.io/a\"\ntags = { exact = [\"1\"] }\n";
    place.write("etc/edge.toml", &format!("[mirror]\ndocker-config = \"{}\"\n{rule}", config.display()));
    place.run(&["mirror", "sync"]).bad(2, "holds secrets and has mode 0644 hint: chmod 0600");
}
