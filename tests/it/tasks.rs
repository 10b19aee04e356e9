//! A command that changes state works without a daemon and with one, and says who is at work when
//! another command holds the state folder.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use serde_json::Value;

use crate::command::{Daemon, Done, Place};

fn gc(place: &Place) -> Value {
    let done = place.run(&["gc", "--dry-run", "-o", "json"]).good();
    serde_json::from_str(&done.out).unwrap()
}

#[test]
fn a_task_is_done_by_the_command_or_by_the_daemon() {
    let place = Place::new();
    place.write("etc/edge.toml", "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n");
    let alone = gc(&place);
    assert_eq!((&alone["dryRun"], &alone["blobs"]), (&true.into(), &0.into()));
    let daemon = Daemon::start(&place);
    assert_eq!(gc(&place), alone);
    drop(daemon);
    assert_eq!(gc(&place), alone);
}

#[test]
fn a_command_says_who_holds_the_state_folder() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("state")).unwrap();
    let _other = edge::sys::lock::StateLock::take(&place.path("state"), "edge bundle import").unwrap();
    place.run(&["gc"]).bad(1, "is in use by edge bundle import (pid ");
}

#[test]
fn a_daemon_that_does_not_answer_is_named() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("state")).unwrap();
    let _other = edge::sys::lock::StateLock::take(&place.path("state"), "edge daemon").unwrap();
    place.run(&["gc"]).bad(1, "cannot reach the daemon at ");
}

/// What runs on a thread of its own goes on when nobody waits for it, and the snap is not refreshed meanwhile.
#[test]
fn a_command_is_at_work_until_its_work_has_ended() {
    let place = Place::new();
    place.write("etc/edge.toml", "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n");
    let daemon = Daemon::start(&place);
    let until = |what: &str, is: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {}", place.read("daemon.log"));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // Reading it waits for somebody who writes.
    let chart = place.path("chart.tgz");
    nix::unistd::mkfifo(&chart, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let name = chart.display().to_string();
    let mut command = place.edge(&["chart", "add", &name, "--repository", "team"]);
    let mut command = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    until("it begins", &|| place.busy() == ["edge chart add"]);
    // Called off before that, it would never read: nobody can be found writing then.
    let writer = std::cell::OnceCell::new();
    until("it reads", &|| {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(&chart, flags, Mode::empty()).is_ok_and(|open| writer.set(open).is_ok())
    });
    command.kill().unwrap();
    command.wait().unwrap();
    until("it is called off", &|| place.read("daemon.log").contains("a task was called off"));
    assert_eq!(place.busy(), ["edge chart add"]);
    let mut writer = std::fs::File::from(writer.into_inner().unwrap());
    writer.write_all(b"no chart").unwrap();
    drop(writer);
    until("it ends", &|| place.busy().is_empty());
    drop(daemon);
}

fn same_variables(command: &mut Command, of: &Command) {
    for (name, value) in of.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

/// A daemon that sees none of the files in `hidden`, may write none in `fixed`, and has none of root's powers.
fn confined(place: &Place) -> Daemon {
    let script = "mount -t tmpfs none \"$1\" && mount --bind \"$2\" \"$2\" && mount -o remount,ro,bind \"$2\" && \
                  shift 2 && exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
    let edge = place.edge(&["daemon"]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]);
    command.args([place.path("hidden"), place.path("fixed")]).arg(edge.get_program()).args(edge.get_args());
    same_variables(&mut command, &edge);
    Daemon::start_by(place, command)
}

/// systemd gives the daemon a `/tmp` of its own, hides `/home` and lets it write nowhere; files are the caller's all
/// the same.
#[test]
fn a_daemon_that_sees_other_files_takes_and_makes_those_of_whoever_asks() {
    let place = Place::new();
    place.write(
        "etc/edge.toml",
        "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n[bundle]\ngateway = \"ship-7\"\n",
    );
    let at = |below: &str| place.path(below).display().to_string();
    // Someone's own folder, into which root without its powers cannot look.
    let home = place.path("hidden/home");
    for folder in ["hidden/home", "hidden/stick", "hidden/out", "fixed"] {
        std::fs::create_dir_all(place.path(folder)).unwrap();
    }
    crate::registry_clients::layout(&place.path("hidden/home/layout"));
    let (mut tar, mut packed) = (Command::new("tar"), Command::new("tar"));
    tar.args(["-C", &at("hidden/home/layout"), "-cf", &at("hidden/home/images.tar"), "."]);
    assert!(tar.status().unwrap().success());
    place.run(&["bundle", "keygen", "--out", &at("hidden/KEYS")]).good();
    std::fs::copy(place.path("hidden/KEYS/1.root.json"), home.join("1.root.json")).unwrap();
    place.write("hidden/notes.txt", "for the crew");
    let chart = place.write("hidden/chart/app/Chart.yaml", "apiVersion: v2\nname: app\nversion: 1.0.0\n");
    let chart = chart.parent().unwrap().parent().unwrap();
    packed.args(["-C", &chart.display().to_string(), "-czf", &at("hidden/home/app.tgz"), "app"]);
    assert!(packed.status().unwrap().success());
    let digest = edge::sys::digest::Digest::sha256(&std::fs::read(home.join("app.tgz")).unwrap());
    place.write("hidden/home/app.tgz.prov", &format!("...\nfiles:\n  app-1.0.0.tgz: {digest}\n"));
    std::os::unix::fs::chown(&home, Some(1000), Some(1000)).unwrap();
    std::fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).unwrap();

    let daemon = confined(&place);
    let run = |arguments: &[&str]| place.run(arguments).good().out;
    run(&["trust", "pin", &at("hidden/home/1.root.json")]);
    run(&["chart", "add", &at("hidden/home/app.tgz")]);
    assert!(run(&["chart", "inspect", "app"]).contains("provenance   yes"));
    run(&["image", "import", &at("hidden/home/images.tar"), "--name", "quay.io/team/app:2"]);
    for folder in ["hidden/out", "fixed"] {
        run(&["image", "export", "quay.io/team/app:2", "--to", &at(&format!("{folder}/images.tar"))]);
        run(&["image", "export", "quay.io/team/app:2", "--to", &at(&format!("{folder}/layout/"))]);
        assert!(place.path(folder).join("images.tar").metadata().unwrap().len() > 1000);
        run(&["image", "import", &at(&format!("{folder}/layout"))]);
    }
    let (stick, keys) = (at("hidden/stick"), at("hidden/KEYS"));
    let made = run(&[
        "bundle",
        "create",
        "--stream",
        "main",
        "--keys",
        &keys,
        "--to",
        &stick,
        "--file",
        &at("hidden/notes.txt"),
        "-o",
        "json",
    ]);
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["folder"], at("hidden/stick/edge-bundle/main-1"));
    run(&["bundle", "verify", &stick, "--root", &at("hidden/home/1.root.json")]);
    let said = run(&["bundle", "import", &at("hidden/stick/edge-bundle/main-1")]);
    let receipt = at("hidden/stick/edge-receipts/ship-7.main.dsse");
    assert!(said.contains(&receipt) && std::path::Path::new(&receipt).exists(), "{said}");
    run(&["trust", "enrol", &receipt]);
    let said = run(&["bundle", "extract", &stick, "notes.txt", "--to", &at("fixed")]);
    assert!(said.contains(&at("fixed/notes.txt")), "{said}");
    assert_eq!(place.read("fixed/notes.txt"), "for the crew");

    // What is told are the paths that were given, and what is not there is not looked for elsewhere.
    let missing = at("hidden/none.json");
    place.run(&["trust", "pin", &missing]).bad(1, &format!("`{missing}`"));
    let theirs = at("hidden/home/images-2.tar");
    let refused = place.run(&["image", "export", "quay.io/team/app:2", "--to", &theirs]);
    assert!(refused.err.contains("hint: the daemon does it, and may do less than you"), "{refused:?}");
    refused.bad(1, &at("hidden/home/.images-2.tar.part"));
    drop(daemon);
    // Nothing of it is in the daemon's own files, nor left over in the caller's.
    let mut left: Vec<_> =
        std::fs::read_dir(place.path("fixed")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["images.tar", "layout", "notes.txt"]);
}

/// More than one message of the kernel's takes, and more than a shell lets a command open.
#[test]
fn a_bundle_of_many_files_is_made_by_a_daemon_that_sees_others() {
    let place = Place::new();
    place.write("etc/edge.toml", "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n");
    for folder in ["hidden/stick", "fixed"] {
        std::fs::create_dir_all(place.path(folder)).unwrap();
    }
    place.run(&["bundle", "keygen", "--out", &place.path("hidden/KEYS").display().to_string()]).good();
    let file = |number: u32| place.write(&format!("hidden/{number}.conf"), &format!("site {number}"));
    let files: Vec<_> = (0..1200).map(file).collect();
    let _daemon = confined(&place);
    let mut command = Command::new("prlimit");
    let edge = place.edge(&["bundle", "create", "--stream", "main", "-o", "json"]);
    command.arg("--nofile=1024:").arg(edge.get_program()).args(edge.get_args());
    same_variables(&mut command, &edge);
    command.arg("--keys").arg(place.path("hidden/KEYS")).arg("--to").arg(place.path("hidden/stick"));
    for file in &files {
        command.arg("--file").arg(file);
    }
    let made: Value = serde_json::from_str(&Done::of(command.output().unwrap()).good().out).unwrap();
    assert_eq!((&made["refs"], &made["seq"]), (&1200.into(), &1.into()));
}
