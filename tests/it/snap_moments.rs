//! What the hooks see of a daemon at work, and of what it has written elsewhere: before a refresh, and a disconnection.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bundle::{Scene, put_image};
use crate::snap_scene::Snap;

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_refresh_waits_for_an_import_of_the_daemon() {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    scene.make();
    let snap = Snap::new();
    snap.install();
    let _daemon = snap.daemon();
    snap.edge(&["trust", "pin", &shown(&scene.path("keys/1.root.json"))]).good();
    // The import waits for the store.
    let store = rusqlite::Connection::open(snap.path("common/store/store.db")).unwrap();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    let stick = shown(&scene.stick());
    let mut import = snap.command("bin/edge", "app", &["bundle", "import", &stick]);
    let mut import = import.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    snap.until("the import is at work", || {
        said = snap.hook("pre-refresh").err;
        !said.is_empty()
    });
    assert_eq!(said, "edge: `edge bundle import` is running hint: refresh again when it has ended\n");
    store.execute_batch("ROLLBACK").unwrap();
    assert!(import.wait().unwrap().success());
    // The daemon lets go of it a moment after it has answered.
    snap.until("a refresh may come", || snap.hook("pre-refresh").code == 0);
}

/// How often the daemon has asked what snapd has committed.
fn looks(snap: &Snap) -> usize {
    std::fs::read_to_string(snap.path("calls.log")).unwrap().matches("app [\"get\"").count()
}

/// A revert gives back the values that the older revision had, and starts its daemon before any hook of it.
#[test]
fn a_revert_starts_with_what_the_older_revision_had() {
    let snap = Snap::new();
    snap.install();
    drop(snap.daemon());
    let older = snap.committed();
    std::fs::write(snap.path("revision"), "x2").unwrap();
    let daemon = snap.daemon();
    snap.set(&[("cloud.probe-interval", json!("17s"))]).good();
    let waits = || snap.path("common/edge.toml.prepared").exists();
    snap.until("it is in force", || snap.in_force("cloud.probe-interval") == "17s" && !waits());
    drop(daemon);
    // Of the same revision a start asks nobody: snapd may be away for long.
    let before = looks(&snap);
    drop(snap.daemon());
    assert_eq!(looks(&snap), before);
    snap.write("committed.json", &older);
    std::fs::write(snap.path("revision"), "x1").unwrap();
    let _daemon = snap.daemon();
    assert_eq!(snap.in_force("cloud.probe-interval"), "5s");
}

/// What snapd has then is neither what it had nor what the hook left with the daemon.
#[test]
fn what_is_committed_beside_a_commands_change_is_in_force_at_once() {
    let snap = Snap::new();
    snap.install();
    let _daemon = snap.daemon();
    snap.until("the installed configuration is in force", || snap.path("common/edge.toml").exists());
    let mut staged = snap.staged(&[("offline-mode", json!(false))]);
    snap.hook_over("configure", &staged).good();
    let before = looks(&snap);
    snap.until("the daemon has looked", || looks(&snap) > before + 1);
    // A command has told snapd of its own meanwhile.
    staged["registry"]["pull-through"] = json!(false);
    snap.write("staged.json", &staged);
    snap.commit();
    let took = snap.until("both are in force", || {
        snap.status()["offlineMode"] == false && snap.in_force("registry.pull-through") == "false"
    });
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// The daemon looks every half a minute by itself.
#[test]
fn what_was_connected_is_looked_at_at_once_and_nothing_refuses_a_connection() {
    let snap = Snap::new();
    snap.install();
    let socket = snap.path("c.sock");
    let endpoint = format!("runtime.endpoint=unix://{}", shown(&socket));
    // Without offline mode pins are given free, for which the runtime is asked.
    snap.edge(&["config", "set", &endpoint, "offline-mode=false"]).good();
    let daemon = snap.daemon();
    let pins = || -> Value {
        let parts = snap.status()["parts"].take();
        parts.as_array().unwrap().iter().find(|part| part["part"] == "pins").unwrap()["state"].clone()
    };
    snap.until("nobody was there to be asked", || pins() == "off");
    let runtime = UnixListener::bind(&socket).unwrap();
    runtime.set_nonblocking(true).unwrap();
    let began = Instant::now();
    snap.hook("connect-plug-containerd").good();
    snap.until("the runtime is asked", || runtime.accept().is_ok());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    let file = snap.path("common/edge.toml");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "offline-mode = maybe\n").unwrap();
    for hook in ["connect-plug-containerd", "connect-plug-containerd-config", "connect-plug-kubelet"] {
        assert_eq!(snap.hook(hook).good().err, "", "{hook}");
    }
    std::fs::write(&file, good).unwrap();
    let pid = Pid::from_raw(daemon.0.id().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    let said = snap.hook("connect-plug-kubelet").good().err;
    kill(pid, Signal::SIGCONT).unwrap();
    assert!(said.contains("was not told to look at once: it does not answer within 5 s"), "{said}");
    drop(daemon);
    assert_eq!(snap.hook("connect-plug-kubelet").good().err, "");
}

/// snapd itself asks at install, refresh and revert; a setting that waits for a start comes and goes in between.
#[test]
fn snapd_is_told_how_it_is_after_a_start_and_after_a_change() {
    let snap = Snap::new();
    snap.install();
    let told = snap.path("health.json");
    assert!(!told.exists());
    let _daemon = snap.daemon();
    snap.until("it is told of the start", || told.exists());
    std::fs::remove_file(&told).unwrap();
    snap.set(&[("cloud.probe-interval", serde_json::json!("9s"))]).good();
    snap.until("it is told of the change", || told.exists());
}

#[test]
fn containerd_s_configuration_is_not_disconnected_while_containerd_asks_edge() {
    let snap = Snap::new();
    snap.install();
    snap.hook("disconnect-plug-containerd-config").good();
    let config = snap.path("containerd/config.toml");
    std::fs::create_dir(snap.path("containerd")).unwrap();
    std::fs::write(
        &config,
        format!(
            "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '{}'\n",
            shown(&snap.path("certs.d"))
        ),
    )
    .unwrap();
    let path = shown(&config);
    let words = ["registry", "configure-containerd", "--containerd-config", &path];
    snap.edge(&words).good();
    let done = snap.hook("disconnect-plug-containerd-config");
    done.bad(
        1,
        "is as edge wrote it for containerd, and could not be put back any more hint: `edge leave` undoes it",
    );
    snap.edge(&[&words[..], &["--undo"]].concat()).good();
    snap.hook("disconnect-plug-containerd-config").good();

    // What somebody has changed since is theirs: nothing would put it back, and nobody need wait for that.
    snap.edge(&[&words[..], &["--host", "quay.io"]].concat()).good();
    let hosts = snap.path("certs.d/quay.io/hosts.toml");
    std::fs::write(&hosts, "server = \"https://quay.io\"\n").unwrap();
    let other = snap.path("certs.d/gcr.io/hosts.toml");
    snap.edge(&[&words[..], &["--host", "gcr.io"]].concat()).good();
    snap.hook("disconnect-plug-containerd-config")
        .bad(1, &format!("`{}` is as edge wrote it", shown(&other)));
    let undone = snap.edge(&["leave"]);
    assert!(
        undone.err.contains(&format!("`{}` was changed since edge wrote it", shown(&hosts))),
        "{undone:?}"
    );
    let done = snap.hook("disconnect-plug-containerd-config").good();
    assert_eq!(done.err, format!("edge: `{}` was changed since edge wrote it, and stays\n", shown(&hosts)));
}
