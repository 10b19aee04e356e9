//! The snap where something is in the way: a file that somebody spoiled, a command that holds the state.

use edge::sys::lock::StateLock;

use crate::snap_hooks::{Daemon, Snap};

/// systemd gives up on a snap's service that ends a few times in a row; so it does not end.
#[test]
fn a_daemon_waits_for_what_is_put_right_by_hand() {
    let snap = Snap::new();
    snap.install();
    let daemon = snap.daemon();
    let file = snap.path("common/edge.toml");
    snap.until("the installed configuration is in force", || file.exists());
    drop(daemon);
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "offline-mode = maybe\n").unwrap();
    let log = std::fs::File::create(snap.path("daemon.log")).unwrap();
    let mut command = snap.command("bin/edge", "service", &["daemon"]);
    let mut daemon = Daemon(command.stderr(log).spawn().unwrap());
    let said = |words: &str| std::fs::read_to_string(snap.path("daemon.log")).unwrap().contains(words);
    snap.until("the file is told of", || said("edge.toml") && said("edge waits 60 s"));
    let held = StateLock::take(&snap.path("common"), "edge bundle import").unwrap();
    std::fs::write(&file, good).unwrap();
    snap.until("the lock is told of", || said("is in use by edge bundle import (pid "));
    assert!(daemon.0.try_wait().unwrap().is_none());
    drop(held);
    snap.until("the daemon answers", || snap.edge(&["status"]).code == 0);
    assert!(daemon.0.try_wait().unwrap().is_none(), "the same process");
}

#[test]
fn validate_looks_at_the_file_of_the_snap() {
    let snap = Snap::new();
    snap.install();
    let file = snap.path("common/edge.toml");
    std::fs::write(&file, "offline-mode = maybe\n").unwrap();
    snap.edge(&["config", "validate"]).bad(2, &file.display().to_string());
    std::fs::write(&file, "offline-mode = false\n").unwrap();
    assert_eq!(snap.edge(&["config", "validate"]).good().out, format!("`{}` is good\n", file.display()));
}
