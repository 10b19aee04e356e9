//! The hooks of the snap and the daemon beside them, against a stand-in of `snapctl`: see `snap_scene.rs`.
//!
//! The real snapd is in `snap_real.rs`; here are the moments that it cannot be brought to.

use std::fs::Permissions;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use edge::sys::lock::StateLock;
use serde_json::json;

use crate::command::Done;
use crate::snap_real::{Build, binary_for};
use crate::snap_scene::Snap;

/// Exactly one line, and exit code 1.
#[track_caller]
fn refused(done: Done, expected: &str) {
    done.bad(1, expected);
}

#[test]
fn a_change_takes_effect_within_a_second_in_the_same_process() {
    live_change(&Snap::new());
}

#[test]
fn the_arm64_binary_does_the_same() {
    on_arm64(Build::Quick);
}

#[test]
#[ignore = "of a build that takes minutes: scripts/test --long"]
fn what_ships_for_arm64_does_the_same() {
    on_arm64(Build::Gateway);
}

fn on_arm64(build: Build) {
    let binary = binary_for(build, "arm64");
    let all: [fn(&Snap); 13] = [
        live_change,
        refusals,
        while_down,
        older_name,
        nothing_changed,
        uncommitted,
        snapd_away,
        daemon_hangs,
        busy,
        migrates,
        upgrades,
        health,
        config_set,
    ];
    for hooks in all {
        hooks(&Snap::of(binary.clone(), Some("/usr/bin/qemu-aarch64-static")));
    }
}

fn live_change(snap: &Snap) {
    snap.install();
    let mut daemon = snap.daemon();
    // The first configuration is put into force by the daemon, so that what follows is a change of it.
    snap.until("the installed configuration is in force", || snap.path("common/edge.toml").exists());
    assert_eq!(snap.in_force("cloud.probe-interval"), "5s");
    assert_eq!(snap.status()["offlineMode"], true);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let registry = json!(free.to_string());
    snap.set(&[("registry.listen", registry.clone()), ("offline-mode", json!("false"))]).good();
    // The daemon's own word, and what it does: the file is written before it is read.
    let waited = snap.until("the daemon has taken the change", || {
        snap.status()["offlineMode"] == false && TcpStream::connect(free).is_ok()
    });
    assert!(waited < Duration::from_secs(snap.emulator.map_or(1, |_| 60)), "{waited:?}");
    assert_eq!(snap.in_force("offline-mode"), "false");
    assert_eq!(snap.in_force("registry.listen"), registry.as_str().unwrap());
    // snapd shows the new value already.
    assert_eq!(snap.status()["waitsForStart"], json!([]));
    snap.set(&[("cloud.probe-interval", json!("7s"))]).good();
    snap.until("it is told what waits", || snap.status()["waitsForStart"] == json!(["cloud.probe-interval"]));
    let told = snap.edge(&["status"]).good().out;
    assert!(told.contains("Waits         `cloud.probe-interval`: from the next start, `"), "{told}");
    snap.set(&[("cloud.probe-interval", json!("5s"))]).good();
    snap.until("nothing waits", || snap.status()["waitsForStart"] == json!([]));
    assert!(daemon.0.try_wait().unwrap().is_none(), "the same process goes on");
    assert!(!snap.path("common/edge.toml.prepared").exists());
}

/// `mirror.proxy` may hold a password, and snapd shows its values to root alone.
#[test]
fn the_configuration_is_for_roots_eyes() {
    let snap = Snap::new();
    snap.install();
    let mode = |below: &str| std::fs::metadata(snap.path(below)).unwrap().permissions().mode() & 0o777;
    snap.set(&[("mirror.proxy", json!("http://user:secret@proxy.test:3128"))]).good();
    assert_eq!(mode("common/edge.toml.prepared"), 0o600);
    let daemon = snap.daemon();
    snap.until("it is in force", || snap.path("common/edge.toml").exists());
    assert_eq!(mode("common/edge.toml"), 0o600);
    drop(daemon);
    // As an older edge left it.
    std::fs::set_permissions(snap.path("common/edge.toml"), Permissions::from_mode(0o644)).unwrap();
    let _daemon = snap.daemon();
    assert_eq!(mode("common/edge.toml"), 0o600);
}

#[test]
fn what_is_wrong_is_one_line_and_nothing_changes() {
    refusals(&Snap::new());
}

fn refusals(snap: &Snap) {
    snap.install();
    let _daemon = snap.daemon();
    snap.until("the installed configuration is in force", || snap.path("common/edge.toml").exists());
    let (before, files) = (snap.committed(), snap.files());
    for (key, value, told) in [
        ("offline-mode", json!("maybe"), "key `offline-mode` is `maybe`, expected `true` or `false`"),
        ("colour", json!("red"), "unknown key `colour`"),
        ("proxy.listen", json!("0.0.0.0:1"), "key `proxy.listen` is `0.0.0.0:1`, expected a loopback"),
        ("cloud", json!(3), "key `cloud` is `3`, expected a section"),
        ("mirror.schedule", json!("every day"), "key `mirror.schedule`"),
        (
            "mirror.images",
            json!([{"repository": "registry.test/a", "tags": {"regex": "["}}]),
            "key `mirror.images",
        ),
    ] {
        refused(snap.set(&[("cloud.probe-interval", json!("9s")), (key, value)]), told);
    }
    let both = [("offline-mode", json!(false)), ("kubelet.offline-mode", json!(true))];
    refused(snap.set(&both), "two names of one key");
    assert_eq!((snap.committed(), snap.files()), (before, files));
    assert_eq!(snap.in_force("cloud.probe-interval"), "5s");
}

#[test]
fn the_older_name_sets_the_key_and_snapd_shows_what_is_in_force() {
    older_name(&Snap::new());
}

fn older_name(snap: &Snap) {
    snap.install();
    assert_eq!(snap.committed()["offline-mode"], true, "defaults are set");
    assert_eq!(snap.committed()["state-dir"], snap.path("common").to_str().unwrap());
    let _daemon = snap.daemon();
    snap.set(&[("kubelet.offline-mode", json!(false))]).good();
    snap.until("it is in force", || snap.in_force("offline-mode") == "false");
    assert_eq!(snap.committed()["offline-mode"], false);
    assert_eq!(snap.committed()["kubelet"].get("offline-mode"), None);
}

#[test]
fn nothing_changed_is_no_write_and_quick() {
    nothing_changed(&Snap::new());
}

fn nothing_changed(snap: &Snap) {
    snap.install();
    let daemon = snap.daemon();
    snap.until("the installed configuration is in force", || snap.path("common/edge.toml").exists());
    let (before, files) = (snap.committed(), snap.files());
    let gets = || {
        let calls = std::fs::read_to_string(snap.path("calls.log")).unwrap();
        calls.lines().filter(|call| call.starts_with("hook [\"get\"")).count()
    };
    let asked = gets();
    let quickest = (0..5).map(|_| {
        let began = Instant::now();
        snap.set(&[]).good();
        began.elapsed()
    });
    let quickest = quickest.min().unwrap();
    // Of the debug build, with Python for snapctl; `snap_real.rs` measures a static one on a real snapd.
    let limit = snap.emulator.map_or(300, |_| 20_000);
    assert!(quickest < Duration::from_millis(limit), "{quickest:?}");
    assert_eq!((snap.committed(), snap.files()), (before, files));
    let calls = std::fs::read_to_string(snap.path("calls.log")).unwrap();
    let last: Vec<&str> = calls.lines().rev().take(5).collect();
    assert!(last.iter().all(|call| call.starts_with("hook [\"get\"")), "told nothing: {last:?}");
    assert_eq!(gets(), asked + 5, "asked once each");
    // Whoever holds the state is not waited for.
    drop(daemon);
    let _held = StateLock::take(&snap.path("common"), "edge bundle import").unwrap();
    let began = Instant::now();
    snap.set(&[("cloud.probe-interval", json!("6s"))]).good();
    assert!(began.elapsed() < Duration::from_millis(10 * limit), "{:?}", began.elapsed());
}

#[test]
fn nothing_is_applied_before_snapd_has_committed() {
    uncommitted(&Snap::new());
}

fn uncommitted(snap: &Snap) {
    snap.install();
    let _daemon = snap.daemon();
    snap.until("the installed configuration is in force", || snap.path("common/edge.toml").exists());
    // The hook ends well, and snapd does not commit: a later hook of the same change failed, or it was killed.
    snap.hook_over("configure", &snap.staged(&[("offline-mode", json!(false))])).good();
    assert!(snap.path("common/edge.toml.prepared").exists());
    // The daemon has looked at least three times by then, and left everything as it is.
    let looks = || std::fs::read_to_string(snap.path("calls.log")).unwrap().matches("app [").count();
    let before = looks();
    snap.until("the daemon has looked", || looks() >= before + 3);
    assert_eq!(snap.in_force("offline-mode"), "true");
    assert_eq!(snap.status()["offlineMode"], true);
    // The next change replaces it.
    snap.set(&[("cloud.probe-interval", json!("8s"))]).good();
    snap.until("the next is in force", || snap.in_force("cloud.probe-interval") == "8s");
    assert_eq!(snap.in_force("offline-mode"), "true");
    assert!(!snap.path("common/edge.toml.prepared").exists());
}

#[test]
fn without_a_daemon_it_is_checked_kept_and_applied_at_the_start() {
    while_down(&Snap::new());
}

fn while_down(snap: &Snap) {
    snap.install();
    refused(snap.set(&[("offline-mode", json!(7))]), "key `offline-mode` is `7`");
    snap.set(&[("cloud.probe-interval", json!("11s"))]).good();
    assert!(!snap.path("common/edge.toml").exists(), "a hook puts nothing into force");
    let _daemon = snap.daemon();
    assert_eq!(snap.in_force("cloud.probe-interval"), "11s", "before the daemon answers");
    // What was never committed is not applied by a start either.
    drop(_daemon);
    snap.hook_over("configure", &snap.staged(&[("cloud.probe-interval", json!("12s"))])).good();
    let _daemon = snap.daemon();
    assert_eq!(snap.in_force("cloud.probe-interval"), "11s");
}

#[test]
fn a_snapd_that_is_away_holds_no_start_up() {
    snapd_away(&Snap::new());
}

fn snapd_away(snap: &Snap) {
    snap.install();
    std::fs::write(snap.path("down"), "").unwrap();
    let _daemon = snap.daemon();
    assert!(snap.path("common/edge.toml.prepared").exists(), "kept until snapd can be asked");
    std::fs::remove_file(snap.path("down")).unwrap();
    snap.until("it is in force", || snap.path("common/edge.toml").exists());
}

#[test]
fn a_daemon_that_hangs_holds_no_hook_up() {
    daemon_hangs(&Snap::new());
}

fn daemon_hangs(snap: &Snap) {
    snap.install();
    let daemon = snap.daemon();
    snap.until("the installed configuration is in force", || snap.path("common/edge.toml").exists());
    let pid = nix::unistd::Pid::from_raw(daemon.0.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    snap.set(&[("cloud.probe-interval", json!("13s"))]).good();
    let limit = snap.emulator.map_or(8, |_| 60);
    assert!(began.elapsed() < Duration::from_secs(limit), "{:?}", began.elapsed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    snap.until("it is in force", || snap.in_force("cloud.probe-interval") == "13s");
}

#[test]
fn a_refresh_is_refused_while_a_command_holds_the_state() {
    busy(&Snap::new());
}

fn busy(snap: &Snap) {
    snap.install();
    let held = edge::sys::lock::StateLock::take(&snap.path("common"), "edge bundle import").unwrap();
    refused(snap.hook("pre-refresh"), "edge bundle import (pid ");
    drop(held);
    std::fs::create_dir_all(snap.path("common/run/restart")).unwrap();
    let turn = snap.path("common/run/restart/uid");
    std::fs::write(&turn, "`edge pod restart` (pid 7)").unwrap();
    let file = std::fs::File::open(&turn).unwrap();
    let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    refused(snap.hook("pre-refresh"), "`edge pod restart` (pid 7) is restarting a pod");
    drop(held);
    snap.hook("pre-refresh").good();
    let _daemon = snap.daemon();
    snap.hook("pre-refresh").good();
}

#[test]
fn a_refresh_to_an_older_layout_fails_and_to_this_one_migrates() {
    migrates(&Snap::new());
}

fn migrates(snap: &Snap) {
    snap.install();
    let stamp =
        |layout: u32| snap.write("common/layout.json", &json!({"layout": layout, "version": "9.1.0"}));
    snap.hook("post-refresh").good();
    stamp(99);
    refused(snap.hook("post-refresh"), "the state has layout 99 of edge 9.1.0");
    stamp(1);
    // Databases of the first release are brought up to date, before a daemon starts.
    let older = |below: &str, dumps: &[&str]| {
        std::fs::create_dir_all(snap.path(below).parent().unwrap()).unwrap();
        let file = rusqlite::Connection::open(snap.path(below)).unwrap();
        dumps.iter().for_each(|dump| file.execute_batch(dump).unwrap());
        file.pragma_update(None, "user_version", 1).unwrap();
    };
    let version = |below: &str| -> usize {
        let file = rusqlite::Connection::open(snap.path(below)).unwrap();
        file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    };
    older("common/cache.db", &[include_str!("../../src/cache/fixtures/v1.sql")]);
    let store =
        [include_str!("../../src/store/schema/1.sql"), include_str!("../../src/store/fixtures/v1.sql")];
    older("common/store/store.db", &store);
    snap.hook("post-refresh").good();
    assert!(version("common/cache.db") > 1 && version("common/store/store.db") > 1);
    for file in ["cache.db", "cache.db-wal", "cache.db-shm"] {
        let _ = std::fs::remove_file(snap.path("common").join(file));
    }
    // What is damaged is the daemon's, which tells of it for as long as it runs.
    snap.write("common/cache.db", &json!("no database ".repeat(1000)));
    snap.hook("post-refresh").good();
    let names = || snap.files().into_iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>();
    assert!(!names().iter().any(|name| name.contains("damaged") || name.contains("frozen")), "{:?}", names());
    let daemon = snap.daemon();
    assert!(snap.status()["errors"].to_string().contains("damaged"), "{}", snap.status());
    drop(daemon);
    for (file, _) in snap.files() {
        if file.file_name().unwrap().to_string_lossy().starts_with("cache.db") {
            std::fs::remove_file(file).unwrap();
        }
    }
    // One that is no file refuses the refresh.
    std::fs::create_dir(snap.path("common/cache.db")).unwrap();
    refused(snap.hook("post-refresh"), "cache.db");
    std::fs::remove_dir(snap.path("common/cache.db")).unwrap();
    snap.hook("post-refresh").good();
    let written = std::fs::read_to_string(snap.path("common/layout.json")).unwrap();
    assert!(written.contains(env!("CARGO_PKG_VERSION")), "{written}");
}

#[test]
fn an_upgrade_adds_new_keys_and_keeps_the_users() {
    upgrades(&Snap::new());
}

fn upgrades(snap: &Snap) {
    snap.install();
    // As the revision before left it: without a key that this one has.
    let mut older = snap.committed();
    older["registry"].as_object_mut().unwrap().remove("pull-through").unwrap();
    older["cloud"]["probe-interval"] = json!("42s");
    snap.write("committed.json", &older);
    snap.hook("post-refresh").good();
    snap.hook("configure").good();
    assert_eq!(snap.committed()["registry"]["pull-through"], true);
    assert_eq!(snap.committed()["cloud"]["probe-interval"], "42s");
    // A value that this revision does not take refuses the refresh.
    older["cloud"]["probe-interval"] = json!("0s");
    snap.write("committed.json", &older);
    refused(snap.hook("post-refresh"), "the configuration does not fit: key `cloud.probe-interval` is `0s`");
}

#[test]
fn health_is_what_status_knows() {
    health(&Snap::new());
}

/// snapd ends the hook after 30 seconds, and undoes the refresh.
#[test]
fn the_health_of_a_daemon_that_hangs_is_told_in_time() {
    let snap = Snap::new();
    snap.install();
    let daemon = snap.daemon();
    let pid = nix::unistd::Pid::from_raw(daemon.0.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    snap.hook("check-health").good();
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    let told = snap.told_health();
    assert_eq!(told[0], "error");
    assert!(told[1].as_str().unwrap().contains("daemon does not answer"), "{told}");
}

fn health(snap: &Snap) {
    snap.install();
    let health = || snap.told_health();
    snap.hook("check-health").good();
    assert_eq!(health()[0], "error");
    assert!(health()[1].as_str().unwrap().contains("daemon does not answer"), "{}", health());
    let _daemon = snap.daemon();
    snap.hook("check-health").good();
    let report = snap.status();
    let expected = if report["errors"].as_array().unwrap().is_empty() { "okay" } else { "error" };
    assert_eq!(health()[0], expected, "{report}");
}

/// Somebody changed the file, or a command was cut off before it told the daemon.
#[test]
fn what_the_file_has_already_reaches_a_daemon_that_has_something_else() {
    let snap = Snap::new();
    snap.install();
    let _daemon = snap.daemon();
    let file = snap.path("common/edge.toml");
    snap.until("the installed configuration is in force", || file.exists());
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("offline-mode = true\n", "offline-mode = false\n")).unwrap();
    assert_eq!(snap.status()["offlineMode"], true);
    snap.set(&[("offline-mode", json!(false))]).good();
    snap.until("the daemon has it", || snap.status()["offlineMode"] == false);
    assert_eq!(snap.in_force("offline-mode"), "false");
}

#[test]
fn what_config_set_changes_snapd_shows_and_the_next_hook_keeps() {
    config_set(&Snap::new());
}

fn config_set(snap: &Snap) {
    snap.install();
    let daemon = snap.daemon();
    snap.until("the installed configuration is in force", || snap.path("common/edge.toml").exists());
    let done = snap.edge(&["config", "set", "cloud.probe-interval=21s", "offline-mode=false"]).good();
    assert!(done.err.contains("the daemon has read it"), "{done:?}");
    assert_eq!(snap.committed()["cloud"]["probe-interval"], "21s");
    assert_eq!(snap.committed()["offline-mode"], false);
    let files = snap.files();
    snap.set(&[]).good();
    assert_eq!(snap.files(), files, "nothing has changed for the hook");
    drop(daemon);
    let done = snap.edge(&["config", "set", "cloud.probe-interval=22s"]).good();
    assert!(done.err.contains("next start"), "{done:?}");
}

/// The value of the hook is committed, and is in no file yet, when a command changes the file.
#[test]
fn what_a_command_changes_before_the_start_loses_nothing_that_snapd_committed() {
    let snap = Snap::new();
    snap.install();
    drop(snap.daemon());
    snap.until("the installed configuration is in force", || snap.path("common/edge.toml").exists());
    snap.set(&[("cloud.probe-interval", json!("31s"))]).good();
    snap.edge(&["config", "set", "registry.pull-through=false"]).good();
    assert_eq!(snap.in_force("cloud.probe-interval"), "5s", "nobody runs yet");
    let daemon = snap.daemon();
    assert_eq!(snap.committed()["cloud"]["probe-interval"], "31s");
    for (key, value) in [("cloud.probe-interval", "31s"), ("registry.pull-through", "false")] {
        assert_eq!(snap.in_force(key), value, "{key}");
    }
    drop(daemon);
    // A change that snapd never committed stays out beside such a command too.
    snap.hook_over("configure", &snap.staged(&[("cloud.probe-interval", json!("32s"))])).good();
    snap.edge(&["config", "set", "registry.pull-through=true"]).good();
    let _daemon = snap.daemon();
    for (key, value) in [("cloud.probe-interval", "31s"), ("registry.pull-through", "true")] {
        assert_eq!(snap.in_force(key), value, "{key}");
    }
}

#[test]
fn a_hook_outside_a_snap_says_so() {
    crate::command::Place::new().run(&["hook", "configure"]).bad(1, "no snap");
}
