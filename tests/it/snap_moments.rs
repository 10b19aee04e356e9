//! What the hooks see of a daemon at work, and of what it has written elsewhere: before a refresh, and a disconnection.

use std::path::Path;
use std::process::Stdio;

use crate::bundle::{Scene, put_image};
use crate::snap_hooks::Snap;

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
