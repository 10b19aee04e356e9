//! The snap where something is in the way: a file that somebody spoiled, a command that holds the state.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use edge::pods::pins::Mark;
use edge::sys::lock::StateLock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::command::Done;
use crate::join_scene::Cloud;
use crate::snap_scene::{Daemon, Snap};

const KUBELETS: &str = "what kubelet had";

/// A snap whose gateway has joined a cloud, without a daemon.
pub fn joined() -> Snap {
    let snap = Snap::new();
    snap.install();
    let cloud = Cloud::new();
    std::fs::write(snap.path("given.conf"), cloud.inline(&cloud.node(2090))).unwrap();
    std::fs::write(snap.path("kubelet.conf"), KUBELETS).unwrap();
    let at = |name: &str| snap.path(name).display().to_string();
    let (from, kubeconfig, pki) = (at("given.conf"), at("kubelet.conf"), at("pki"));
    snap.edge(&["join", "--from", &from, "--kubelet-kubeconfig", &kubeconfig, "--kubelet-cert-dir", &pki])
        .good();
    assert!(std::fs::read_to_string(&kubeconfig).unwrap().contains("https://127.0.0.1:"));
    snap
}

/// Of the node flavour, `snap stop edge` would stop kubelet and containerd; and a daemon that runs is no hindrance.
#[test]
fn kubelets_files_are_not_disconnected_while_joined_and_the_remedy_stops_nothing() {
    let snap = joined();
    let told = snap.hook("disconnect-plug-kubelet");
    assert!(told.err.ends_with(" hint: `edge leave` first\n"), "{told:?}");
    told.bad(1, "kubelet's credentials are edge's");
    snap.edge(&["leave"]).good();
    snap.hook("disconnect-plug-kubelet").good();
}

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

/// A refresh that is undone gives snapd's values back, and runs no hook of the older revision: it finds the file as the
/// newer one wrote it.
#[test]
fn a_file_of_a_newer_edge_gives_way_to_what_snapd_has() {
    let snap = Snap::new();
    snap.install();
    let file = snap.path("common/edge.toml");
    let daemon = snap.daemon();
    snap.until("the installed configuration is in force", || file.exists());
    drop(daemon);
    let good = std::fs::read_to_string(&file).unwrap();
    let newer = good.replace("offline-mode = true\n", "offline-mode = false\ncolour = \"red\"\n");
    assert_ne!(newer, good);
    for waits in [false, true] {
        std::fs::write(&file, &newer).unwrap();
        if waits {
            std::fs::write(snap.path("common/edge.toml.prepared"), &newer).unwrap();
        }
        let _daemon = snap.daemon();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), good);
        assert!(!snap.path("common/edge.toml.prepared").exists());
    }
    let log = std::fs::read_to_string(snap.path("daemon.log")).unwrap();
    assert!(log.contains("colour") && log.contains("the file is of a newer edge"), "{log}");
}

/// A root that was packed into the snap is believed from the first start on, and never in the place of another one.
#[test]
fn the_root_that_came_with_the_snap_is_pinned_where_none_is() {
    let snap = Snap::new();
    let keys = |name: &str| {
        snap.edge(&["bundle", "keygen", "--out", snap.path(name).to_str().unwrap()]).good();
        snap.path(name).join("1.root.json")
    };
    let (shipped, other) = (keys("keys"), keys("other"));
    std::fs::copy(&shipped, snap.path("snap/1.root.json")).unwrap();
    snap.install();
    let pinned = || -> serde_json::Value {
        serde_json::from_str(&snap.edge(&["trust", "show", "-o", "json"]).good().out).unwrap()
    };
    let daemon = snap.daemon();
    snap.until("the root is pinned", || !pinned()["root"].is_null());
    let first = pinned();
    snap.edge(&["trust", "pin", other.to_str().unwrap()]).bad(3, "root");
    drop(daemon);
    // A snap of another depot changes nothing.
    std::fs::copy(&other, snap.path("snap/1.root.json")).unwrap();
    let _daemon = snap.daemon();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(pinned(), first);
    assert!(!std::fs::read_to_string(snap.path("daemon.log")).unwrap().contains("is pinned"));
}

/// A gadget's values are those of the first start, which comes before the configure hook: some keys wait for the next start.
#[test]
fn the_first_start_is_with_what_a_gadget_sets() {
    let snap = Snap::new();
    let mut committed = snap.committed();
    committed["cloud"]["probe-interval"] = "17s".into();
    snap.write("committed.json", &committed);
    for hook in ["install", "default-configure"] {
        snap.hook(hook).good();
    }
    let _daemon = snap.daemon();
    let file = snap.path("common/edge.toml");
    assert!(std::fs::read_to_string(&file).unwrap().contains("probe-interval = \"17s\""));
    let before = file.metadata().unwrap().modified().unwrap();
    snap.hook("configure").good();
    assert_eq!(file.metadata().unwrap().modified().unwrap(), before, "nothing is left to change");
    assert!(!snap.path("common/edge.toml.prepared").exists());
}

/// The refresh may be what mends it.
#[test]
fn a_refresh_waits_for_no_daemon_that_hangs_and_for_no_file_that_somebody_spoiled() {
    let snap = Snap::new();
    snap.install();
    let daemon = snap.daemon();
    let file = snap.path("common/edge.toml");
    snap.until("the installed configuration is in force", || file.exists());
    std::fs::write(&file, "offline-mode = maybe\n").unwrap();
    assert!(snap.hook("pre-refresh").good().err.contains("edge: the defaults are taken: "));
    let pid = nix::unistd::Pid::from_raw(daemon.0.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    let done = snap.hook("pre-refresh").good();
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert!(done.err.contains("the daemon does not answer"), "{done:?}");
    drop(daemon);
    snap.hook("post-refresh").good();
    snap.hook("configure").good();
    let _daemon = snap.daemon();
    assert!(std::fs::read_to_string(&file).unwrap().contains("offline-mode = true"));
}

/// A mirror may run for days, and goes on the next time where it was.
#[test]
fn a_refresh_cuts_off_a_mirror_and_waits_for_a_pull() {
    let snap = Snap::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let image = format!("{}/a", silent.local_addr().unwrap());
    let mut committed = snap.committed();
    committed["mirror"]["images"] = serde_json::json!([{"repository": image, "tags": {"exact": ["1"]}}]);
    snap.write("committed.json", &committed);
    snap.install();
    let _daemon = snap.daemon();
    let at_work = |arguments: &[&str]| {
        let mut command = snap.command("bin/edge", "app", arguments);
        let command = Daemon(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let mut asked = None;
        snap.until("the upstream is asked", || {
            asked = silent.accept().ok();
            asked.is_some()
        });
        (command, asked)
    };
    let mirror = at_work(&["mirror", "sync"]);
    snap.hook("pre-refresh").good();
    let pull = at_work(&["image", "pull", &format!("{image}:1")]);
    snap.hook("pre-refresh")
        .bad(1, "edge: `edge image pull` is running hint: refresh again when it has ended");
    drop((mirror, pull));
}

/// snapd runs no post-refresh when it reverts.
#[test]
fn a_state_of_a_newer_layout_is_refused_after_a_revert_too() {
    let snap = Snap::new();
    snap.install();
    snap.write("common/layout.json", &serde_json::json!({"layout": 99, "version": "9.1.0"}));
    snap.hook("configure").bad(1, "the state has layout 99 of edge 9.1.0");
    let log = std::fs::File::create(snap.path("daemon.log")).unwrap();
    let mut command = snap.command("bin/edge", "service", &["daemon"]);
    let _daemon = Daemon(command.stderr(log).spawn().unwrap());
    let said = || std::fs::read_to_string(snap.path("daemon.log")).unwrap();
    snap.until("the layout is told of", || said().contains("the state has layout 99 of edge 9.1.0"));
    assert!(!snap.path("common/run/edge.sock").exists());
    snap.write("common/layout.json", &serde_json::json!({"layout": 1, "version": "0.1.0"}));
    snap.until("the daemon answers", || snap.edge(&["status"]).code == 0);
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

/// snapd removes the snap whatever its hook says: kubelet must not be left with a proxy that is gone.
#[test]
fn a_removal_gives_everything_back_whatever_is_in_the_way() {
    let has = |snap: &Snap| std::fs::read_to_string(snap.path("kubelet.conf")).unwrap();
    let snap = joined();
    std::fs::write(snap.path("common/edge.toml"), "offline-mode = maybe\n").unwrap();
    let said = snap.hook("remove").err;
    assert_eq!(has(&snap), KUBELETS, "{said}");
    assert!(said.contains("the configuration is not known, and its defaults were taken: "), "{said}");
    assert!(!snap.path("common/join.json").exists());

    // A command that ends in time is waited for, and another one is not for ever.
    let snap = joined();
    let held = StateLock::take(&snap.path("common"), "edge bundle import").unwrap();
    let ends = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        drop(held);
    });
    let said = snap.hook("remove").err;
    ends.join().unwrap();
    assert_eq!(has(&snap), KUBELETS, "{said}");
    assert!(!said.contains("in use"), "{said}");

    let snap = joined();
    let _held = StateLock::take(&snap.path("common"), "edge bundle import").unwrap();
    let done = snap.hook("remove");
    assert_eq!(has(&snap), KUBELETS, "{done:?}");
    assert!(done.code == 1 && done.err.lines().count() == 1, "{done:?}");
    assert!(done.err.contains("in use by edge bundle import (pid "), "{done:?}");
    assert!(done.err.contains("and everything was given back beside it"), "{done:?}");
}

/// snapd's snapshot of what was removed is made after the hook: a daemon that is told of a kubeconfig which is gone would not start.
#[test]
fn what_is_restored_after_a_removal_names_no_cloud_that_was_left() {
    let snap = joined();
    assert_ne!(snap.committed()["cloud"]["kubeconfig"], json!(null));
    snap.hook("remove").good();
    assert_eq!(snap.committed()["cloud"].get("kubeconfig"), None);
    let file = std::fs::read_to_string(snap.path("common/edge.toml")).unwrap();
    assert!(!file.contains("kubeconfig"), "{file}");
    let _daemon = snap.daemon();
    assert_eq!(snap.status()["link"]["state"], "none");
}

/// A containerd that has stopped still has its pins, and nobody but edge knows which are edge's.
#[test]
fn images_that_may_still_be_pinned_are_told() {
    let snap = joined();
    let endpoint = format!("runtime.endpoint=unix://{}", snap.path("none.sock").display());
    snap.edge(&["config", "set", &endpoint]).good();
    snap.hook("disconnect-plug-containerd").good();
    let mark = Mark::below(&snap.path("common"));
    mark.set().unwrap();
    let hint = "hint: `snap set edge runtime.pin-images=false` or `edge leave` first";
    snap.hook("disconnect-plug-containerd").bad(1, hint);
    let why = "images may still be pinned: no container runtime at `unix://";
    let left = snap.edge(&["leave"]);
    assert!(left.code == 1 && left.err.contains(why), "{left:?}");
    assert!(left.out.contains("is given back"), "{left:?}");
    snap.hook("remove").bad(1, why);
    mark.clear().unwrap();
    snap.edge(&["leave"]).good();
    snap.hook("remove").good();
    snap.hook("disconnect-plug-containerd").good();
}

/// What was kept cannot be removed while somebody reads it, as on a full disk; nothing else waits for that.
#[test]
fn offline_mode_that_cannot_forget_holds_no_other_setting_up_and_tries_again() {
    let snap = joined();
    // The ports of the host are not this test's.
    snap.edge(&["config", "set", "proxy.in-cluster=false"]).good();
    let _daemon = snap.daemon();
    let errors = || snap.status()["errors"].to_string();
    let left = "offline mode is off, and what was kept is still on the disk: ";
    let reader = rusqlite::Connection::open(snap.path("common/cache.db")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    reader.query_row("SELECT count(*) FROM meta", [], |_| Ok(())).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let registry = json!(free.to_string());
    snap.set(&[("offline-mode", json!(false)), ("registry.listen", registry)]).good();
    let waited = snap.until("the registry listens there", || TcpStream::connect(free).is_ok());
    assert!(waited < Duration::from_secs(4), "it waited for the reader: {waited:?}");
    snap.until("it is told", || errors().contains(left));
    assert_eq!(snap.status()["offlineMode"], false);
    reader.execute_batch("ROLLBACK").unwrap();
    snap.until("it is tried again", || !errors().contains(left));
}

/// A join changes the file, and tells snapd last: by then the terminal may be closed, or snapd away.
#[test]
fn a_join_and_a_leave_that_snapd_was_never_told_of_outlive_the_next_hook() {
    let snap = joined();
    let mut committed = snap.committed();
    let told = committed["cloud"].as_object_mut().unwrap().remove("kubeconfig").expect("the join told snapd");
    snap.write("committed.json", &committed);
    for _ in 0..2 {
        snap.hook("configure").good();
        assert_eq!(snap.committed()["cloud"]["kubeconfig"], told);
        assert_eq!(snap.edge(&["config", "get", "cloud.kubeconfig"]).good().out.trim_end(), told);
        let waits = std::fs::read_to_string(snap.path("common/edge.toml.prepared")).unwrap();
        assert!(waits.contains("\nkubeconfig = "), "{waits}");
    }

    let record = std::fs::read(snap.path("common/join.json")).unwrap();
    // One that cannot be read ends neither the membership nor any other change.
    std::fs::write(snap.path("common/join.json"), "half").unwrap();
    let said = snap.set(&[("cloud.probe-interval", json!("9s"))]).good().err;
    assert!(said.contains("edge: whether this node has joined a cloud is not known, and `"), "{said}");
    assert_eq!(snap.committed()["cloud"]["kubeconfig"], told);
    std::fs::write(snap.path("common/join.json"), &record).unwrap();
    snap.edge(&["leave"]).good();
    let mut committed = snap.committed();
    committed["cloud"]["kubeconfig"] = told.clone();
    snap.write("committed.json", &committed);
    let said = snap.hook("configure").good().err;
    assert!(said.contains("edge: `cloud.kubeconfig` is unset: this node left the cloud, and `"), "{said}");
    assert_eq!(snap.committed()["cloud"].get("kubeconfig"), None);
    let waits = std::fs::read_to_string(snap.path("common/edge.toml.prepared")).unwrap();
    assert!(!waits.contains("kubeconfig = "), "{waits}");
    // A join that was cut short between its record and its files: a daemon that is told of them would not start.
    std::fs::write(snap.path("common/join.json"), record).unwrap();
    assert!(!Path::new(told.as_str().unwrap()).exists());
    committed["cloud"].as_object_mut().unwrap().remove("kubeconfig");
    snap.write("committed.json", &committed);
    snap.hook("configure").good();
    assert_eq!(snap.committed()["cloud"].get("kubeconfig"), None);
    std::fs::remove_file(snap.path("common/join.json")).unwrap();
    // One that somebody else wrote is the owner's.
    let own = snap.path("common/own.kubeconfig");
    committed["cloud"]["kubeconfig"] = own.to_str().unwrap().into();
    snap.write("committed.json", &committed);
    snap.hook("configure").good();
    assert_eq!(snap.committed()["cloud"]["kubeconfig"], own.to_str().unwrap());
}

/// A daemon that cannot write its state does not start, and one that starts on another has forgotten what was joined.
#[test]
fn the_state_moves_only_where_a_daemon_finds_it() {
    let snap = joined();
    let moved = snap.path("data").display().to_string();
    let strict = "but a strict snap keeps its state below `";
    let change = format!("state-dir={moved}");
    let asked = |to: &str| {
        let mut staged = snap.committed();
        staged["state-dir"] = to.into();
        Done::of(snap.hook_command("configure", &staged).output().unwrap())
    };
    asked(&moved).bad(1, strict);
    snap.edge(&["config", "set", &change]).bad(2, strict);
    let below = snap.path("common/state").display().to_string();
    let forgotten = "/common` says how hint: `edge leave` first, and join again from there";
    asked(&below).bad(1, forgotten);
    snap.edge(&["config", "set", &format!("state-dir={below}")]).bad(2, forgotten);
    std::fs::create_dir_all(&below).unwrap();
    std::fs::copy(snap.path("common/join.json"), snap.path("common/state/join.json")).unwrap();
    asked(&below).good();
    // The classic snap reaches everything.
    std::fs::create_dir_all(snap.path("snap/meta")).unwrap();
    snap.edge(&["leave"]).good();
    // As snapcraft writes it, and as edge-pack does.
    let packed =
        serde_json::json!({"name": "edge", "version": "1", "confinement": "classic", "grade": "stable"});
    for described in ["name: edge\nconfinement: classic\n", &serde_json::to_string_pretty(&packed).unwrap()] {
        std::fs::write(snap.path("snap/meta/snap.yaml"), described.replace("classic", "strict")).unwrap();
        asked(&moved).bad(1, strict);
        std::fs::write(snap.path("snap/meta/snap.yaml"), described).unwrap();
        asked(&moved).good();
    }
}

/// A snap, its daemon, and a file that the daemon may not read. AppArmor denies it to a strict snap's, which the hook cannot
/// know; here root lacks the right to read what is closed to its owner.
fn denied() -> (Snap, Daemon, String) {
    let snap = Snap::new();
    snap.install();
    let closed = snap.path("closed.kubeconfig");
    std::fs::write(&closed, "").unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
    let daemon = snap.daemon_by(&["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]);
    snap.until("the installed configuration is in force", || snap.path("common/edge.toml").exists());
    (snap, daemon, closed.display().to_string())
}

#[test]
fn a_file_that_the_daemon_may_not_read_is_refused_before_snapd_has_it() {
    let (snap, daemon, at) = denied();
    let (before, held) = (snap.committed(), std::fs::read(snap.path("common/edge.toml")).unwrap());
    let set = |value: &str| snap.set(&[("cloud.kubeconfig", json!(value))]);
    let told = set(&at);
    assert_eq!(told.err.lines().count(), 1, "{told:?}");
    told.bad(1, &format!("`cloud.kubeconfig`: cannot read `{at}`: Permission denied"));
    assert_eq!(snap.committed(), before);
    assert_eq!(std::fs::read(snap.path("common/edge.toml")).unwrap(), held);
    drop(daemon);
    let _daemon = snap.daemon();
    set(&at).good();
    // What is not there may come later.
    set(&snap.path("later.kubeconfig").display().to_string()).good();
}

/// It took no answer in time, and refuses what the hook has then left on disk.
#[test]
fn what_a_daemon_refuses_late_is_refused_again() {
    let (snap, daemon, at) = denied();
    let id = Pid::from_raw(daemon.0.id().cast_signed());
    kill(id, Signal::SIGSTOP).unwrap();
    let waits = snap.path("common/edge.toml.prepared");
    let value = [("cloud.kubeconfig", json!(at))];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            snap.until("the hook has given up asking", || waits.exists());
            kill(id, Signal::SIGCONT).unwrap();
        });
        snap.set(&value).bad(1, "`cloud.kubeconfig`: cannot read");
    });
    assert!(!waits.exists());
    snap.set(&value).bad(1, "`cloud.kubeconfig`: cannot read");
}
