//! Every way in which a file can be wrong, and that editing leaves the rest alone.

use std::time::Duration;

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("/etc/edge/edge.toml"), text).map_err(|e| e.to_string())
}

#[test]
fn the_design_s_example_reads() {
    let config = parse(
        r#"
        offline-mode = false
        state-dir = "/data/edge"
        cloud = { kubeconfig = "/etc/edge/cloud.kubeconfig", probe-interval = "1m30s" }
        proxy.listen = "[::1]:7445"
        [runtime]
        endpoint = "unix:///run/other.sock"
        pin-images = false
        [registry]
        listen = "127.0.0.1:5001"
        pull-through = false
        push = true
        insecure-loopback-push = true
        "#,
    )
    .unwrap();
    assert!(!config.offline_mode && !config.runtime.pin_images && !config.registry.pull_through);
    assert_eq!(config.state_dir, Path::new("/data/edge"));
    assert_eq!(config.cloud.kubeconfig.as_deref(), Some(Path::new("/etc/edge/cloud.kubeconfig")));
    assert_eq!(config.cloud.probe_interval, Duration::from_secs(90));
    assert_eq!(config.proxy.listen.to_string(), "[::1]:7445");
    assert_eq!(config.runtime.endpoint, "unix:///run/other.sock");
    assert!(config.registry.push && config.registry.insecure_loopback_push);
}

#[test]
fn what_is_wrong_is_one_line_with_file_key_value_and_expectation() {
    let cases = [
        ("offline-mode = 1", "key `offline-mode` is `1`, expected `true` or `false`"),
        ("offline-mode = \"false\"", "key `offline-mode` is `false`, expected `true` or `false`"),
        ("offline-mode = \"\"\"a\nb\"\"\"", "key `offline-mode` is `a\\nb`, expected `true` or `false`"),
        ("state-dir = \"var/lib\"", "key `state-dir` is `var/lib`, expected an absolute path"),
        ("[cloud]\nkubeconfig = true", "key `cloud.kubeconfig` is `true`, expected an absolute path"),
        (
            "[cloud]\nprobe-interval = \"5x\"",
            "key `cloud.probe-interval` is `5x`, expected a duration from `1s` to `1h`, such as `5s` or `1h30m`",
        ),
        ("cloud.probe-interval = \"999ms\"", "key `cloud.probe-interval` is `999ms`, expected a duration"),
        ("cloud.probe-interval = 5", "key `cloud.probe-interval` is `5`, expected a duration"),
        (
            "[proxy]\nlisten = \"0.0.0.0:6445\"",
            "key `proxy.listen` is `0.0.0.0:6445`, expected a loopback address",
        ),
        ("[proxy]\nlisten = \"127.0.0.1\"", "key `proxy.listen` is `127.0.0.1`, expected a loopback address"),
        (
            "[registry]\nlisten = \"localhost:5000\"",
            "key `registry.listen` is `localhost:5000`, expected an address",
        ),
        ("[runtime]\nendpoint = \"tcp://1\"", "key `runtime.endpoint` is `tcp://1`, expected a unix socket"),
        (
            "[runtime]\nendpoint = \"unix://run/x\"",
            "key `runtime.endpoint` is `unix://run/x`, expected a unix",
        ),
        ("cloud = 3", "key `cloud` is `3`, expected a section"),
        ("[[cloud]]", "key `cloud` is"),
        (
            "[cloud]\nprobe-intervall = \"5s\"",
            "unknown key `cloud.probe-intervall` hint: did you mean `cloud.probe-interval`?",
        ),
        ("colour = 1", "unknown key `colour` hint: `edge config sample` lists all keys"),
        ("[offline-mode]\nx = 1", "key `offline-mode` is `x = 1`, expected `true` or `false`"),
        ("[registry]\npush = true", "key `registry.push` is `true`, which needs a credential"),
        (
            "[registry]\nlisten = \"0.0.0.0:5000\"\npush = true\ninsecure-loopback-push = true",
            "key `registry.listen` is `0.0.0.0:5000`, but `registry.insecure-loopback-push` is `true`",
        ),
        (
            "[registry]\nlisten = \"0.0.0.0:5000\"",
            "key `registry.listen` is `0.0.0.0:5000`, which others can reach, and needs a certificate",
        ),
        (
            "[registry]\ntls-key = \"/k\"",
            "key `registry.tls-key` is `/k`, which needs `registry.tls-certificate`",
        ),
        (
            "[[registry.upstreams]]\nhost = \"a.io\"\n[[registry.upstreams]]\nhost = \"a.io\"",
            "key `registry.upstreams[1]`: `a.io` is there twice",
        ),
        (
            "[[registry.upstreams]]\nhost = \"a.io\"\nurl = \"a.io\"",
            "key `registry.upstreams[0]`: `a.io` is no address",
        ),
        (
            "[registry]\nlisten = \"127.0.0.1:6445\"",
            "key `registry.listen` is `127.0.0.1:6445`, which `proxy.listen` is already",
        ),
    ];
    for (text, expected) in cases {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(&format!("`/etc/edge/edge.toml`: {expected}")), "{text:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_syntax_error_is_one_line_with_its_number() {
    for (text, start) in [
        ("offline-mode = true\nstate-dir = ", "`/etc/edge/edge.toml` line 2: "),
        ("a = 1\na = 2", "`/etc/edge/edge.toml` line 2: "),
        ("[cloud", "`/etc/edge/edge.toml` line 1: "),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(start) && error.len() > start.len(), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn long_values_are_shortened() {
    let error = parse(&format!("state-dir = \"{}\"", "ä".repeat(500))).unwrap_err();
    assert!(error.contains("...`") && error.len() < 250, "{error}");
}

#[test]
fn every_key_shows_what_it_was_given_and_the_defaults_read_back() {
    let defaults = Config::default();
    assert_eq!(Config::parse(&defaults.file, &to_toml(&defaults)).unwrap(), defaults);
    for key in KEYS {
        let shown = defaults.get(key.path).unwrap();
        assert_eq!(shown.is_none(), key.slot.example().is_some(), "{}: a default or an example", key.path);
    }
}

#[test]
fn the_sample_has_every_key_and_reads_with_and_without_its_comments() {
    let text = sample();
    assert_eq!(parse(&text).unwrap(), Config::default());
    let active: String = text
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned() + "\n"
        })
        .collect();
    let mut expected = Config::default();
    expected.cloud.kubeconfig = Some(PathBuf::from("/etc/edge/cloud.kubeconfig"));
    let registry = &mut expected.registry;
    registry.htpasswd = Some("/etc/edge/htpasswd".into());
    registry.tokens = Some("/etc/edge/tokens".into());
    registry.tls_certificate = Some("/etc/edge/tls.crt".into());
    registry.tls_key = Some("/etc/edge/tls.key".into());
    registry.docker_config = Some("/etc/edge/docker-config.json".into());
    registry.proxy = Some("http://proxy.example.com:3128".into());
    registry.no_proxy = Some("10.0.0.0/8,.example.com".into());
    registry.size_limit = Some(8 << 30);
    (expected.bundle.gateway, expected.bundle.fleet) = (Some("ship-7".into()), Some("north".into()));
    expected.system.stream = Some("main".into());
    let mirror = &mut expected.mirror;
    mirror.schedule = Some("0 2 * * *".into());
    mirror.bandwidth_limit = Some(2 << 20);
    mirror.proxy = Some("http://proxy.example.com:3128".into());
    mirror.no_proxy = Some("10.0.0.0/8,.example.com".into());
    mirror.docker_config = Some("/etc/edge/docker.json".into());
    mirror.kubernetes_version = Some("1.36.3".into());
    assert_eq!(parse(&active).unwrap(), expected);
    for key in KEYS {
        assert!(active.contains(&format!("\n{} = ", key.split().1)), "{}", key.path);
    }
}

#[test]
fn the_sample_in_the_repository_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/edge.toml");
    if std::env::var_os("EDGE_WRITE_SAMPLES").is_some() {
        durable::write(&path, sample().as_bytes(), 0o644).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert_eq!(kept, sample(), "run the tests once with EDGE_WRITE_SAMPLES=1 to write it anew");
}

fn edited(before: &str, changes: &[Change]) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sub/edge.toml");
    if !before.is_empty() {
        durable::folder(path.parent().unwrap(), 0o755).unwrap();
        durable::write(&path, before.as_bytes(), 0o640).unwrap();
    }
    let outcome = edit(&path, changes).map_err(|e| e.to_string());
    let after = std::fs::read_to_string(&path).unwrap_or_default();
    if outcome.is_err() {
        assert_eq!(after, before, "nothing changes when anything is wrong");
    }
    outcome.map(|_| after)
}

fn set(assignment: &str) -> Change {
    Change::assignment(assignment).unwrap()
}

#[test]
fn editing_keeps_comments_and_everything_else() {
    let before = "# mine\noffline-mode = true # for the demo\n\n# the cloud\n[cloud]\nprobe-interval = \"7s\"\n# end\n";
    let after = edited(
        before,
        &[set("offline-mode=false"), set("cloud.kubeconfig=/k"), set("proxy.listen=127.0.0.1:1")],
    )
    .unwrap();
    assert_eq!(
        after,
        "# mine\noffline-mode = false # for the demo\n\n# the cloud\n[cloud]\nprobe-interval = \"7s\"\nkubeconfig = \"/k\"\n\n[proxy]\nlisten = \"127.0.0.1:1\"\n# end\n"
    );
    let back =
        edited(&after, &[Change::Unset("cloud.kubeconfig".into()), Change::Unset("proxy.listen".into())])
            .unwrap();
    assert!(back.contains("[cloud]\nprobe-interval = \"7s\"\n") && !back.contains("[proxy]"), "{back}");
    assert!(back.contains("# mine") && back.contains("# the cloud"), "{back}");
}

#[test]
fn editing_makes_the_file_and_works_on_the_sample() {
    assert_eq!(edited("", &[set("cloud.kubeconfig=/k")]).unwrap(), "[cloud]\nkubeconfig = \"/k\"\n");
    assert_eq!(edited("", &[Change::Unset("cloud.kubeconfig".into())]).unwrap(), "");
    let after = edited(&sample(), &[set("cloud.kubeconfig=/k"), set("offline-mode=false")]).unwrap();
    let config = parse(&after).unwrap();
    assert_eq!(config.cloud.kubeconfig.as_deref(), Some(Path::new("/k")));
    assert!(!config.offline_mode);
    assert_eq!(
        edited("cloud = {}\n", &[set("cloud.kubeconfig=/k")]).unwrap(),
        "cloud = { kubeconfig = \"/k\" }\n"
    );
}

#[test]
fn a_bad_edit_changes_nothing() {
    let good = "offline-mode = true\n";
    for (before, assignment, expected) in [
        (good, "offline-mode=maybe", "key `offline-mode` is `maybe`, expected `true` or `false`"),
        (good, "offline-mod=true", "unknown key `offline-mod` hint: did you mean `offline-mode`?"),
        (good, "proxy.listen=0.0.0.0:1", "key `proxy.listen` is `0.0.0.0:1`, expected a loopback"),
        (good, "registry.push=true", "key `registry.push` is `true`, which needs"),
        ("offline-mode = 3\n", "proxy.listen=127.0.0.1:1", "key `offline-mode` is `3`"),
        ("cloud = 3\n", "cloud.kubeconfig=/k", "key `cloud` is `3`, expected a section"),
    ] {
        let error = edited(before, &[set("state-dir=/tmp/x"), set(assignment)]).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    for text in ["offline-mode", "=true", ""] {
        assert!(Change::assignment(text).unwrap_err().to_string().contains("KEY=VALUE"));
    }
}

#[test]
fn a_key_in_a_nested_section_is_set_and_unset_with_what_leads_to_it() {
    let file = Path::new("/etc/edge/edge.toml");
    let key = Key { path: "a.b.c", slot: Slot::Switch(|c| &mut c.offline_mode), help: "" };
    let mut document = super::file::parse(file, "").unwrap();
    super::edit::set(&mut document, &key, "false").unwrap();
    assert_eq!(document.to_string(), "[a.b]\nc = false\n");
    super::edit::unset(&mut document, &key);
    assert_eq!(document.to_string(), "");
}

#[test]
fn what_upstreams_are_asked_with_is_said_once_and_the_mirror_may_say_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let load = |text: &str, proxy: Option<&str>| {
        let file = folder.path().join("edge.toml");
        durable::write(&file, text.as_bytes(), 0o600).unwrap();
        let overrides = Overrides {
            config: Some(file),
            proxy: proxy.map(str::to_owned),
            no_proxy: Some("env.example".into()),
            ..Overrides::default()
        };
        let config = Config::load(&overrides).unwrap();
        let (registry, mirror) = (config.registry, config.mirror);
        assert_eq!(registry.docker_config.is_some(), mirror.docker_config.is_some());
        let shown = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        [registry.proxy, registry.no_proxy, mirror.proxy, mirror.no_proxy].map(shown).join(" ")
    };
    let (own, docker) = ("[registry]\nproxy = \"http://r\"\n", "docker-config = \"/etc/d.json\"\n");
    let mirror = "[mirror]\nproxy = \"http://m\"\nno-proxy = \"m.example\"\n";
    assert_eq!(load("", None), "- env.example - env.example");
    assert_eq!(load("", Some("http://e")), "http://e env.example http://e env.example");
    assert_eq!(load(&format!("{own}{docker}"), Some("http://e")), "http://r - http://r -");
    assert_eq!(load(&format!("{own}{mirror}"), None), "http://r - http://m m.example");
    assert_eq!(load(mirror, Some("http://e")), "http://e env.example http://m m.example");
    let wrong =
        Config::parse(Path::new("/x"), "[mirror]\nproxy = \"ftp://u:secret@p\"\n").unwrap_err().to_string();
    assert!(
        wrong.contains("key `mirror.proxy`: `p` is no proxy hint:") && !wrong.contains("secret"),
        "{wrong}"
    );
}

#[test]
fn kubelets_certificate_is_where_this_snap_sees_it() {
    let of = |is_strict: bool, node: Option<SnapNode>| {
        let overrides = Overrides { snap: Some(snap(is_strict, node)), ..Overrides::default() };
        let config = Config::load_text(&overrides, "").unwrap();
        (config.kubelet_pki.display().to_string(), config.is_strict)
    };
    let node = SnapNode { content: "/snap/edge/current".into(), endpoint: "unix:///c.sock".into() };
    assert_eq!(Config::default().kubelet_pki, Path::new("/var/lib/kubelet/pki"));
    assert_eq!(of(false, None), ("/var/lib/kubelet/pki".into(), false));
    assert_eq!(of(true, None), ("/var/lib/snapd/hostfs/var/lib/kubelet/pki".into(), true));
    assert_eq!(of(true, Some(node)), ("/common/kubelet/pki".into(), true), "kubelet is its own");
}

fn snap(is_strict: bool, node: Option<SnapNode>) -> Snap {
    let (common, memory) = (PathBuf::from("/common"), PathBuf::from("/run/snap.edge"));
    let (revision, snapctl) = (None, PathBuf::from("/snapctl"));
    Snap { common, memory, revision, snapctl, is_strict, node, root: None }
}

/// Of a snap the socket lies on the disk whose loss the copy is for.
#[test]
fn the_copy_of_a_cache_is_in_memory_also_in_a_snap() {
    let of = |snap: Option<Snap>, socket: Option<&str>| {
        let overrides = Overrides { snap, socket: socket.map(PathBuf::from), ..Overrides::default() };
        Config::load_text(&overrides, "").unwrap().refuge.display().to_string()
    };
    assert_eq!(of(None, None), "/run/edge");
    assert_eq!(of(Some(snap(true, None)), None), "/run/snap.edge");
    assert_eq!(of(Some(snap(false, None)), None), "/run/snap.edge");
    assert_eq!(of(None, Some("/tmp/a/edge.sock")), "/tmp/a");
}

/// snapd shows a refusal to every user of the machine.
#[test]
fn a_refused_value_is_shown_without_its_password_and_with_what_nobody_would_see() {
    for (value, shown) in [
        ("http://user:se/cr@et@proxy:3128\r", "http://...@proxy:3128\\r"),
        ("user:secret@proxy:3128\t", "...@proxy:3128\\t"),
        ("proxy:3128\r", "proxy:3128\\r"),
    ] {
        let refused = parse(&format!("[registry]\nproxy = {}", toml_edit::Value::from(value))).unwrap_err();
        let expected = format!("key `registry.proxy` is `{shown}`, expected a text on one line");
        assert!(refused.contains(&expected), "{refused}");
    }
    for (text, shown) in [
        ("[registry]\nown-hosts = [\"http://u:secret@h\", 7]", "is `[\"http://...@h\", 7]`, expected"),
        (
            "[[registry.upstreams]]\nhost = \"a.io\"\nurl = \"htps://u:secret@a.io\"",
            "`a.io` is no address hint:",
        ),
    ] {
        let refused = parse(text).unwrap_err();
        assert!(refused.contains(shown) && !refused.contains("secret"), "{refused}");
    }
}
