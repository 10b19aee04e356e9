//! A daemon that runs holds one state folder, and the configuration may name another one by now: commands go by the daemon.

use std::path::Path;

use edge::pods::pins::Mark;
use serde_json::json;

use crate::command::{Daemon, Done, Place};
use crate::join_scene::Cloud;
use crate::snap_scene::Snap;

/// `state-dir` waits for the next start. Until then nobody works in the new folder beside the daemon.
#[test]
fn until_the_restart_commands_go_by_the_folder_that_the_daemon_holds() {
    let snap = Snap::new();
    let mut committed = snap.committed();
    // The ports of the host are not this test's, and its containerd neither.
    committed["proxy"]["in-cluster"] = false.into();
    committed["runtime"]["endpoint"] = format!("unix://{}", snap.path("none.sock").display()).into();
    snap.write("committed.json", &committed);
    snap.install();
    let daemon = snap.daemon();
    snap.until("the installed configuration is in force", || snap.path("common/edge.toml").exists());
    let (old, new) = (snap.path("common"), snap.path("common/disk"));
    std::fs::create_dir_all(new.join("store")).unwrap();
    snap.set(&[("state-dir", json!(new))]).good();
    snap.until("it waits", || snap.status()["waitsForStart"] == json!(["state-dir"]));

    let cloud = Cloud::new();
    std::fs::write(snap.path("given.conf"), cloud.inline(&cloud.node(2090))).unwrap();
    std::fs::write(snap.path("kubelet.conf"), "what kubelet had").unwrap();
    std::fs::write(snap.path("containerd.toml"), "version = 2\n").unwrap();
    let at = |name: &str| snap.path(name).display().to_string();
    let (from, kubeconfig, pki, containerd) =
        (at("given.conf"), at("kubelet.conf"), at("pki"), at("containerd.toml"));
    let join = ["join", "--from", &from, "--kubelet-kubeconfig", &kubeconfig, "--kubelet-cert-dir", &pki];
    // The new folder knows nothing of what would be noted in the old one, and nobody would look there again.
    let (was, will) = (old.display(), new.display());
    let differ = format!(
        "the running daemon's state is in `{was}`, but the configuration names `{will}` hint: `snap restart edge.daemon` puts"
    );
    for refused in
        [&join[..], &["leave"], &["registry", "configure-containerd", "--containerd-config", &containerd]]
    {
        snap.edge(refused).bad(2, &differ);
    }
    assert_eq!(std::fs::read_to_string(&kubeconfig).unwrap(), "what kubelet had");
    // What is looked at and changed is what is served.
    let told = format!(
        "edge: the running daemon's state is in `{was}`, which is used; the configuration names `{will}`\n"
    );
    for done in [&["gc"][..], &["image", "list"], &["chart", "list"], &["pod", "get"], &["mirror", "list"]] {
        let said = snap.edge(done).good().err;
        assert!(said.contains(&told), "{done:?}: {said}");
    }
    let left = |folder: &Path| -> Vec<_> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(left(&new), ["store"], "somebody worked there");
    assert!(left(&new.join("store")).is_empty(), "somebody worked there");
    let mark = Mark::below(&old);
    mark.set().unwrap();
    snap.hook("disconnect-plug-containerd").bad(1, "images are pinned in containerd");
    mark.clear().unwrap();
    snap.hook("disconnect-plug-containerd").good();
    // Whoever names a folder means it.
    let named = snap.edge(&["gc", "--state-dir", new.to_str().unwrap()]).good();
    assert!(!named.err.contains("the running daemon's"), "{named:?}");
    assert!(new.join("lock").exists());

    drop(daemon);
    let _daemon = snap.daemon();
    snap.edge(&join).good();
    assert!(new.join("join.json").exists() && !old.join("join.json").exists());
    assert_eq!(snap.edge(&["gc"]).good().err, "");
}

/// A unit may give the daemon a folder that nobody else is told of.
#[test]
fn a_daemon_with_a_folder_of_its_own_is_found_by_its_socket() {
    let place = Place::new();
    let other = place.path("other");
    let listen = "listen = \"127.0.0.1:0\"\n";
    let text = format!("state-dir = {other:?}\n[proxy]\n{listen}[registry]\n{listen}");
    place.write("etc/edge.toml", &text);
    let run =
        |arguments: &[&str]| Done::of(place.edge(arguments).env_remove("EDGE_STATE_DIR").output().unwrap());
    let daemon = Daemon::start(&place);
    // The file is named, and may be another depot's.
    for refused in ["gc", "leave"] {
        run(&[refused]).bad(2, "where the daemon was started with another configuration, say --state-dir");
    }
    assert!(!other.exists());
    // The same folder by another name.
    std::os::unix::fs::symlink(place.path("state"), &other).unwrap();
    assert_eq!(run(&["gc"]).good().err, "");
    drop(daemon);
    std::fs::remove_file(&other).unwrap();
    assert_eq!(run(&["gc"]).good().err, "");
    assert!(other.join("lock").exists(), "nobody answers: the configuration counts");
}
