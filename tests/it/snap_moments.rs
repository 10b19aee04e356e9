//! What the hooks see of a daemon at work, and of what it has written: the moments around a refresh and a disconnection.

use std::path::Path;
use std::process::Stdio;

use crate::bundle::{Scene, put_image};
use crate::snap_hooks::Snap;

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_refresh_waits_for_an_import_of_the_daemon_and_finds_all_on_disk() {
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
    assert_eq!(said, "edge: `edge bundle import` is running\nhint: refresh again when it has ended\n");
    store.execute_batch("ROLLBACK").unwrap();
    assert!(import.wait().unwrap().success());
    // What lies in the journal of the cache is in the cache after it, for whichever revision reads it next.
    let journal = || std::fs::metadata(snap.path("common/cache.db-wal")).map_or(0, |meta| meta.len());
    snap.until("the cache has a journal", || journal() > 0);
    snap.hook("pre-refresh").good();
    assert_eq!(journal(), 0);
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
    done.bad(1, "containerd asks edge for images, and could not be put back any more");
    snap.edge(&[&words[..], &["--undo"]].concat()).good();
    snap.hook("disconnect-plug-containerd-config").good();
}
