//! `edge join` and `edge leave` through the built binary: what they write, what they put back, and what
//! they refuse. What needs a real API server (signing requests) is in `cluster`.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::command::{Daemon, Done};
use crate::join_scene::{Gateway, leaf, mode};

#[test]
fn join_takes_the_credentials_over_and_leave_puts_everything_back() {
    let gateway = Gateway::new();
    let pair = gateway.cloud.node(2090);
    gateway.arm(&pair);
    let from = gateway.conf_with_current();
    let before = gateway.outside();
    let done = gateway.join(&from, &[]).good();

    let cloud = gateway.credentials("etc/cloud.kubeconfig");
    assert_eq!(cloud.address(), ("192.0.2.1", 6443));
    assert_eq!(cloud.client.as_ref().unwrap().chain_pem, pair.chain);
    assert!(
        cloud.files[1..].iter().all(|file| file.starts_with(gateway.place.path("state/cloud"))),
        "{cloud:?}"
    );
    let kubelet = gateway.credentials("etc/kubelet.kubeconfig");
    assert_eq!((kubelet.address(), kubelet.node_name()), (("127.0.0.1", 6445), Some("ship-7")));
    let local = kubelet.client.unwrap().leaf().unwrap();
    assert!(gateway.local_ca().has_signed(&local));
    for (path, expected) in [
        ("etc/cloud.kubeconfig", 0o600),
        ("etc/kubelet.kubeconfig", 0o600),
        ("state/cloud", 0o700),
        ("state/cloud/client-current.pem", 0o600),
        ("state/join.json", 0o600),
        ("state/pki/ca.key", 0o600),
    ] {
        assert_eq!(mode(&gateway.place.path(path)), expected, "{path}");
    }
    let config = gateway.place.read("etc/edge.toml");
    assert!(config.starts_with("# mine\n[cloud]\nprobe-interval = \"7s\" # slow\nkubeconfig = "), "{config}");
    assert!(gateway.current().symlink_metadata().is_err(), "kubelet would prefer it");
    let kubeconfig = gateway.place.path("etc/kubelet.kubeconfig");
    for expected in [
        "node `ship-7` is joined".into(),
        format!("--kubeconfig={}", kubeconfig.canonicalize().unwrap().display()),
        "systemctl enable edge".into(),
    ] {
        assert!(done.out.contains::<&str>(&expected), "{done:?}");
    }
    assert!(!gateway.place.read("state/join.json").contains("PRIVATE"));

    gateway.place.write("state/cache.db", "secrets");
    gateway.place.write("state/cache.db-wal", "secrets");
    gateway.leave().good();
    assert_eq!(gateway.outside(), before);
    let mut left: Vec<_> = std::fs::read_dir(gateway.place.path("state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["lock", "pki"], "the local authority is kept for ever, and nothing else");
    let again = gateway.leave().good();
    assert!(again.out.contains("not joined"), "{again:?}");
}

#[test]
fn joining_twice_changes_nothing() {
    let gateway = Gateway::new();
    gateway.arm(&gateway.cloud.node(2090));
    let from = gateway.conf_with_current();
    let before = gateway.outside();
    gateway.join(&from, &[]).good();
    let joined = gateway.outside();
    gateway.join(&from, &[]).good();
    assert_eq!(gateway.outside(), joined, "the certificate it names was moved aside by the first");

    // Kubelet has started and rotated: edge signed it.
    let local = gateway.local_ca().issue_client("system:node:ship-7", "system:nodes").unwrap();
    std::fs::remove_file(gateway.place.path("pki/kubelet-client-2026.pem.x")).ok();
    let dated = gateway.place.write("pki/kubelet-client-local.pem", &format!("{}{}", local.chain, local.key));
    symlink(&dated, gateway.current()).unwrap();
    let cloud = gateway.place.read("state/cloud/client-current.pem");
    gateway.join(&from, &[]).good();
    assert_eq!(
        gateway.place.read("state/cloud/client-current.pem"),
        cloud,
        "a local one is not taken for the cloud's"
    );
    assert_eq!(std::fs::read_link(gateway.current()).unwrap(), dated, "and stays where kubelet looks for it");

    gateway.leave().good();
    std::fs::remove_file(dated).unwrap();
    assert_eq!(gateway.outside(), before);
}

#[test]
fn in_place_over_kubelet_s_own_kubeconfig() {
    let gateway = Gateway::new();
    let from = gateway.conf_inline(&gateway.cloud.node(2090));
    std::fs::set_permissions(gateway.place.path(&from), std::fs::Permissions::from_mode(0o640)).unwrap();
    let before = gateway.outside();
    let out = ["--kubelet-kubeconfig", from.as_str()];
    gateway.join(&from, &out).good();
    assert_eq!(gateway.credentials(&from).address(), ("127.0.0.1", 6445));
    let joined = gateway.outside();
    gateway.join(&from, &out).good();
    gateway.join(&from, &[]).good();
    assert_eq!(gateway.outside(), joined);

    // The proxy moves: kubelet's kubeconfig is written anew, from the credentials that edge has.
    gateway.place.run(&["config", "set", "proxy.listen=127.0.0.1:7445"]).good();
    gateway.join(&from, &[]).good();
    assert_eq!(gateway.credentials(&from).address(), ("127.0.0.1", 7445));
    assert_eq!(gateway.credentials("etc/cloud.kubeconfig").address(), ("192.0.2.1", 6443));

    gateway.place.write("etc/edge.toml", "# mine\n[cloud]\nprobe-interval = \"7s\" # slow\n");
    gateway.leave().good();
    assert_eq!(gateway.outside(), before);
}

#[test]
fn leave_gives_the_newest_certificate_back() {
    let gateway = Gateway::new();
    gateway.arm(&gateway.cloud.node(2090));
    gateway.join(&gateway.conf_with_current(), &[]).good();
    let newest = gateway.cloud.node(2095);
    gateway.place.write("state/cloud/client-current.pem", &format!("{}{}", newest.chain, newest.key));
    let done = gateway.leave().good();
    assert!(done.out.contains("the cloud's newest certificate is in"), "{done:?}");
    let dated = std::fs::read_link(gateway.current()).unwrap();
    assert!(dated.file_name().unwrap().to_str().unwrap().starts_with("kubelet-client-20"), "{dated:?}");
    assert_eq!(
        dated.parent(),
        Some(std::path::Path::new("")),
        "a bare name: a snap sees the folder elsewhere"
    );
    assert_eq!(mode(&gateway.current().with_file_name(&dated)), 0o600);
    assert_eq!(
        gateway.place.read("pki/kubelet-client-current.pem"),
        format!("{}{}", newest.chain, newest.key)
    );
    assert!(!gateway.place.path("pki/kubelet-client-current.pem.before-edge").exists());
}

#[test]
fn leave_takes_away_what_only_edge_accepts() {
    let gateway = Gateway::new();
    let from = gateway.conf_inline(&gateway.cloud.node(2090));
    gateway.join(&from, &[]).good();
    let local = gateway.local_ca().issue_client("system:node:ship-7", "system:nodes").unwrap();
    gateway.arm(&local);
    gateway.leave().good();
    assert!(gateway.current().symlink_metadata().is_err(), "it would beat the kubeconfig's certificate");
}

#[test]
fn after_the_cloud_s_certificate_died_a_new_kubeconfig_is_taken_and_the_rest_kept() {
    let gateway = Gateway::new();
    let pair = gateway.cloud.node(2090);
    gateway.arm(&pair);
    let from = gateway.conf_with_current();
    let before = gateway.outside();
    gateway.join(&from, &[]).good();
    gateway.place.write("state/cache.db", "pods");
    let (ca, kubelet) =
        (gateway.place.read("state/pki/ca.crt"), gateway.place.read("etc/kubelet.kubeconfig"));
    let dead = gateway.cloud.node(2021);
    gateway.place.write("state/cloud/client-current.pem", &format!("{}{}", dead.chain, dead.key));
    gateway.join(&from, &[]).bad(2, "the cloud's certificate expired at 2021-01-01T00:00:00Z");

    let fresh = gateway.cloud.node(2095);
    let fresh_from = gateway.conf_inline(&fresh);
    gateway.join(&fresh_from, &[]).good();
    assert!(gateway.place.read("state/cloud/client-current.pem").starts_with(leaf(&fresh)));
    assert_eq!(gateway.place.read("state/cache.db"), "pods");
    assert_eq!(gateway.place.read("state/pki/ca.crt"), ca);
    assert_eq!(gateway.place.read("etc/kubelet.kubeconfig"), kubelet, "kubelet need not be restarted");

    // An older one again does not replace what edge has.
    let old_from = gateway.conf_inline(&pair);
    gateway.join(&old_from, &[]).good();
    assert!(gateway.place.read("state/cloud/client-current.pem").starts_with(leaf(&fresh)));

    std::fs::remove_file(gateway.place.path(&fresh_from)).unwrap();
    gateway.leave().good();
    let after = gateway.outside();
    for line in before.iter().filter(|line| !line.contains("current.pem")) {
        assert!(after.contains(line), "{line}\nnot in {after:#?}");
    }
    assert!(std::fs::read_to_string(gateway.current()).unwrap().starts_with(leaf(&fresh)));
}

#[test]
fn what_join_refuses_is_one_line_and_changes_nothing() {
    let gateway = Gateway::new();
    let cloud = &gateway.cloud;
    let good = gateway.conf_inline(&cloud.node(2090));
    let given = |name: &str, text: &str| {
        gateway.place.write(name, text);
        name.to_owned()
    };
    let expired = given("expired", &cloud.inline(&cloud.node(2021)));
    let early = given("early", &cloud.inline(&cloud.issue("system:node:ship-7", (2080, 2090))));
    let admin = given("admin", &cloud.inline(&cloud.issue("admin", (2020, 2090))));
    let empty = given("empty", "");
    let exec = given("exec", &cloud.kubeconfig("exec: {command: x}"));
    let token = given("token", &cloud.kubeconfig("token: abc"));
    let before = gateway.outside();
    let cases: [(&[&str], i32, &str); 11] = [
        (&["none"], 2, "none` is not there hint: give the node's own kubeconfig"),
        (&[&empty], 2, "has no `current-context`"),
        (&[&expired], 2, "expired at 2021-01-01T00:00:00Z hint: get a new kubeconfig"),
        (&[&early], 2, "is valid from 2080-01-01T00:00:00Z"),
        (&[&admin], 2, "is for `admin`, which is no node"),
        (&[&exec], 2, "has `exec`, which edge refuses"),
        (&[&good, "--node-name", "ship-8"], 2, "is for node `ship-7`, not `ship-8`"),
        (&[&token, "--node-name", "Ship_7"], 2, "`Ship_7` is no node name"),
        (&[&good, "--timeout", "soon"], 2, "invalid value 'soon'"),
        (
            &[&token, "--node-name", "a", "--timeout", "0s"],
            1,
            "no certificate from the cloud: the signing request `node-csr-",
        ),
        (&[], 2, "--from <KUBECONFIG>"),
    ];
    for (arguments, code, expected) in cases {
        let from = if arguments.is_empty() {
            &["join"][..]
        } else {
            &["join", "--kubelet-cert-dir", "pki", "--from"]
        };
        let mut command = gateway.place.edge(&[from, arguments].concat());
        let done = Done::of(command.output().unwrap());
        // Progress lines may come before the one that tells the failure.
        let last = done.err.lines().last().unwrap_or_default().to_owned();
        Done { err: last, ..done }.bad(code, expected);
        assert_eq!(gateway.outside(), before, "{arguments:?}");
    }
}

#[test]
fn a_joined_gateway_is_not_joined_as_another() {
    let gateway = Gateway::new();
    let from = gateway.conf_inline(&gateway.cloud.node(2090));
    gateway.join(&from, &[]).good();
    let joined = gateway.outside();
    gateway
        .join(&from, &["--node-name", "ship-8"])
        .bad(2, "joined as node `ship-7`, not `ship-8` hint: run `edge leave` first");
    gateway.join(&from, &["--kubelet-kubeconfig", "other"]).bad(2, "is joined with kubelet's kubeconfig `");
    let run = |arguments: &[&str]| gateway.place.run(arguments);
    run(&["join", "--from", &from, "--kubelet-cert-dir", "elsewhere"])
        .bad(2, "is joined with kubelet's certificates in `");
    assert_eq!(gateway.outside(), joined);
    gateway
        .place
        .write("other.conf", &gateway.cloud.inline(&gateway.cloud.issue("system:node:b", (2020, 2090))));
    gateway.join("other.conf", &[]).bad(2, "joined as node `ship-7`, not `b`");

    gateway.place.write("state/join.json", "{");
    gateway.join(&from, &[]).bad(1, "join.json` is damaged: ");
    gateway.leave().bad(1, "join.json` is damaged: ");
}

#[test]
fn kubelet_s_new_kubeconfig_is_not_the_cloud_s() {
    let gateway = Gateway::new();
    gateway.join(&gateway.conf_inline(&gateway.cloud.node(2090)), &[]).good();
    let copy = gateway.place.read("etc/kubelet.kubeconfig");
    gateway.leave().good();
    gateway.place.write("copy", &copy);
    gateway.join("copy", &[]).bad(2, "points at edge itself");
}

#[test]
fn a_daemon_that_runs_takes_part_at_once() {
    let gateway = Gateway::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let serves = || TcpStream::connect(("127.0.0.1", port)).is_ok();
    let config = format!("[proxy]\nlisten = \"127.0.0.1:{port}\"\n[registry]\nlisten = \"127.0.0.1:0\"\n");
    gateway.place.write("etc/edge.toml", &config);
    let from = gateway.conf_inline(&gateway.cloud.node(2090));
    let before = gateway.outside();
    let daemon = Daemon::start(&gateway.place);
    let status = || -> serde_json::Value {
        serde_json::from_str(&gateway.place.run(&["status", "-o", "json"]).good().out).unwrap()
    };
    assert!(!serves(), "there is no cloud yet");
    for _ in 0..2 {
        let done = gateway.join(&from, &[]).good();
        assert!(done.out.contains("edge serves already"), "{done:?}");
        assert!(serves());
        assert_eq!(status()["cloud"]["node"], "ship-7");
        gateway.join(&from, &[]).good();
        assert!(serves(), "joined twice");

        gateway.leave().good();
        assert!(!serves(), "it serves a cloud that was left");
        let after = status();
        assert_eq!((&after["link"]["state"], &after["cloud"]), (&"none".into(), &serde_json::Value::Null));
        assert_eq!(after["cache"]["resources"], serde_json::json!([]));
        let outside =
            |lines: Vec<String>| lines.into_iter().filter(|l| !l.contains("edge.sock")).collect::<Vec<_>>();
        assert_eq!(outside(gateway.outside()), outside(before.clone()));
        assert!(!gateway.place.path("state/join.json").exists());
        assert!(!gateway.place.path("state/cloud/client-current.pem").exists());
    }
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let done = gateway.join(&from, &[]).good();
    assert!(
        done.out.contains("edge must be restarted before it serves this cloud: cannot listen on"),
        "{done:?}"
    );
    drop((taken, daemon));
    let _again = Daemon::start(&gateway.place);
    assert!(serves());
}

/// Only what the cloud's kubeconfig names is renewed, and it names files by their path.
#[test]
fn a_state_folder_that_was_copied_is_all_that_is_needed() {
    let gateway = Gateway::new();
    gateway
        .place
        .write("etc/edge.toml", "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n");
    gateway.place.write("etc/kubelet.kubeconfig", "what kubelet had");
    let from = gateway.conf_inline(&gateway.cloud.node(2090));
    gateway.join(&from, &[]).good();
    let moved = |arguments: &[&str]| {
        let mut command = gateway.place.edge(arguments);
        command.env("EDGE_STATE_DIR", gateway.place.path("moved"));
        command
    };
    let copy = |to: &str| {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(gateway.place.path("state")).arg(gateway.place.path(to));
        assert!(copy.status().unwrap().success());
    };
    copy("moved");
    // One that is older is no copy: what the kubeconfig names is newer.
    copy("kept");
    let newer = gateway.cloud.node(2095);
    gateway.place.write("state/cloud/client-current.pem", &format!("{}{}", newer.chain, newer.key));
    let cloud = || -> serde_json::Value {
        serde_json::from_str(&gateway.place.run(&["status", "-o", "json"]).good().out).unwrap()
    };
    let named =
        |below: &str| gateway.place.read("etc/cloud.kubeconfig").contains(&format!("/{below}/cloud/"));
    let daemon = Daemon::start_by(&gateway.place, moved(&["daemon"]));
    let status = cloud();
    assert_eq!(status["cloud"]["certificateRenews"], serde_json::Value::Null, "{status}");
    assert!(
        status["errors"].to_string().contains("in another state folder, and nobody renews it"),
        "{status}"
    );
    assert!(named("state"));
    drop(daemon);
    // Nor is one for another cloud than that which the kubeconfig trusts by now.
    copy("other");
    std::fs::remove_dir_all(gateway.place.path("state")).unwrap();
    std::fs::rename(gateway.place.path("other"), gateway.place.path("state")).unwrap();
    let same = gateway.place.read("kept/cloud/client-current.pem");
    gateway.place.write("state/cloud/client-current.pem", &same);
    let authority = gateway.place.read("kept/cloud/ca.crt");
    gateway.place.write("state/cloud/ca.crt", &format!("{authority}{authority}"));
    let daemon = Daemon::start_by(&gateway.place, moved(&["daemon"]));
    assert!(named("state"));
    drop(daemon);
    // The same, and then only the copy is left.
    for gone in [false, true] {
        std::fs::remove_dir_all(gateway.place.path("state")).unwrap();
        if !gone {
            std::fs::rename(gateway.place.path("kept"), gateway.place.path("state")).unwrap();
        }
        let text = gateway.place.read("etc/cloud.kubeconfig").replace("/moved/cloud/", "/state/cloud/");
        gateway.place.write("etc/cloud.kubeconfig", &text);
        let _daemon = Daemon::start_by(&gateway.place, moved(&["daemon"]));
        let status = cloud();
        assert!(status["cloud"]["certificateRenews"].is_string(), "{status}");
        assert!(named("moved") && !named("state"));
    }
    Done::of(moved(&["leave"]).output().unwrap()).good();
    assert_eq!(gateway.place.read("etc/kubelet.kubeconfig"), "what kubelet had");
}

#[test]
fn leave_refuses_before_it_touches_anything_when_a_copy_is_missing() {
    let gateway = Gateway::new();
    gateway.place.write("etc/kubelet.kubeconfig", "what kubelet had");
    gateway.join(&gateway.conf_inline(&gateway.cloud.node(2090)), &[]).good();
    let joined = gateway.outside();
    let copy = gateway.place.path("state/backup/kubelet.kubeconfig");
    let kept = std::fs::read_to_string(&copy).unwrap();
    std::fs::remove_file(&copy).unwrap();
    gateway.leave().bad(1, "cannot leave: `");
    assert_eq!(gateway.outside(), joined);
    gateway.place.write("state/backup/kubelet.kubeconfig", &kept);
    gateway.leave().good();
    assert_eq!(gateway.place.read("etc/kubelet.kubeconfig"), "what kubelet had");
}

/// For where the state folder goes and no leave came before, as with a snap that is removed while it is disabled.
#[test]
fn what_kubelet_had_lies_beside_while_joined() {
    let gateway = Gateway::new();
    gateway.place.write("etc/kubelet.kubeconfig", "what kubelet had");
    let before = gateway.outside();
    let from = gateway.conf_inline(&gateway.cloud.node(2090));
    let beside = gateway.place.path("etc/kubelet.kubeconfig.before-edge");
    gateway.join(&from, &[]).good();
    assert_eq!(
        (std::fs::read_to_string(&beside).unwrap().as_str(), mode(&beside)),
        ("what kubelet had", 0o600)
    );
    gateway.leave().good();
    assert!(!beside.exists() && before.iter().all(|line| gateway.outside().contains(line)));
}

/// The proxy moves with the daemon's next start, and so does kubelet: joined before that, it must not be told the old port.
#[test]
fn a_daemon_that_runs_writes_kubelet_the_port_of_its_next_start() {
    let gateway = Gateway::new();
    let config = "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n";
    gateway.place.write("etc/edge.toml", config);
    let from = gateway.conf_inline(&gateway.cloud.node(2090));
    let _daemon = Daemon::start(&gateway.place);
    gateway.join(&from, &[]).good();
    gateway.place.run(&["config", "set", "proxy.listen=127.0.0.1:7445"]).good();
    for from in [&from, "etc/kubelet.kubeconfig"] {
        let done = gateway.join(from, &[]).good();
        assert_eq!(gateway.credentials("etc/kubelet.kubeconfig").address(), ("127.0.0.1", 7445));
        assert!(done.out.contains("systemctl restart edge && systemctl restart kubelet\n"), "{done:?}");
        assert!(
            done.out.contains("it listens on 127.0.0.1:0 until then, and kubelet is to ask 127.0.0.1:7445"),
            "{done:?}"
        );
    }
}

#[test]
fn killed_at_any_moment_both_can_be_run_again() {
    let gateway = Gateway::new();
    gateway.place.write("etc/kubelet.kubeconfig", "what kubelet had");
    gateway.arm(&gateway.cloud.node(2090));
    let from = gateway.conf_with_current();
    let before = gateway.outside();
    let join = ["join", "--from", &from, "--kubelet-cert-dir", "pki"];
    let mut interrupted = 0;
    for round in 0..40 {
        for command in [&join[..], &["leave"]] {
            let mut child =
                gateway.place.edge(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // The moment to kill at is what is varied; nothing is waited for.
            std::thread::sleep(Duration::from_micros(500 * round));
            child.kill().unwrap();
            interrupted += usize::from(!child.wait().unwrap().success());
            let kubelet_has_a_way = gateway.current().exists()
                || gateway.place.read("etc/kubelet.kubeconfig").contains("https://127.0.0.1:6445");
            assert!(kubelet_has_a_way, "round {round}, {command:?}");
        }
        gateway.join(&from, &[]).good();
        assert_eq!(gateway.credentials("etc/cloud.kubeconfig").node_name(), Some("ship-7"), "round {round}");
        gateway.leave().good();
        assert_eq!(gateway.outside(), before, "round {round}");
    }
    assert!(interrupted > 20, "only {interrupted} were killed in time");
}

/// What was done is told though one of containerd's files is somebody else's by now; and that is no failure.
#[test]
fn leave_says_what_it_did_and_what_it_left_alone() {
    let gateway = Gateway::new();
    let from = gateway.conf_inline(&gateway.cloud.node(2090));
    gateway.join(&from, &[]).good();
    let certs = gateway.place.path("certs.d");
    let text = format!(
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{}\"\n",
        certs.display()
    );
    gateway.place.write("containerd.toml", &text);
    let configure = ["registry", "configure-containerd", "--containerd-config", "containerd.toml"];
    gateway.place.run(&[&configure[..], &["--host", "quay.io", "--host", "gcr.io"]].concat()).good();
    let edited = gateway.place.write("certs.d/gcr.io/hosts.toml", "server = \"https://gcr.io\"\n");
    let left = gateway.leave().good();
    assert!(left.out.starts_with("node `ship-7` is given back; `"), "{left:?}");
    assert!(left.out.ends_with("\nthen: systemctl restart kubelet\n"), "{left:?}");
    let stays = format!("edge: `{}` was changed since edge wrote it, and stays\n", edited.display());
    assert_eq!(left.err, stays);
    assert!(!certs.join("quay.io").exists() && edited.exists());
    let again = gateway.leave().good();
    assert_eq!(again.out, "this gateway is not joined; there is nothing to give back\n");
    assert_eq!(again.err, stays);
}
