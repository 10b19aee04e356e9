//! A command that changes state works without a daemon and with one, and says who is at work when
//! another command holds the state folder.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{Daemon, Place};

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
    command.kill().unwrap();
    command.wait().unwrap();
    until("it is called off", &|| place.read("daemon.log").contains("a task was called off"));
    assert_eq!(place.busy(), ["edge chart add"]);
    std::fs::write(&chart, "no chart").unwrap();
    until("it ends", &|| place.busy().is_empty());
    drop(daemon);
}
