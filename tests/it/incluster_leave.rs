//! The interface for pods goes with the cloud, where no daemon runs to take it away as well.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::command::Done;
use crate::join_scene::Gateway;
use crate::snap_life::joined;

/// A network of its own.
struct Space(Child);

impl Space {
    fn new() -> Self {
        let space = Self(Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap());
        let begun = Instant::now();
        let own = || std::fs::read_link(format!("/proc/{}/ns/net", space.0.id())).ok();
        while own() == std::fs::read_link("/proc/self/ns/net").ok() || own().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(10), "no network of its own");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(space.ip(&["link", "set", "lo", "up"]).code, 0);
        space
    }

    /// The same command, in this network.
    fn within(&self, command: &Command) -> Command {
        let mut inner = Command::new("nsenter");
        inner.args(["--target", &self.0.id().to_string(), "--net"]).arg(command.get_program());
        inner.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inner.env(name, value),
                None => inner.env_remove(name),
            };
        }
        inner
    }

    fn ip(&self, words: &[&str]) -> Done {
        let mut command = Command::new("ip");
        Done::of(self.within(command.args(words)).output().unwrap())
    }

    fn has_interface(&self) -> bool {
        self.ip(&["link", "show", "edge-api"]).code == 0
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn leaving_without_a_daemon_takes_the_interface_away() {
    let (space, gateway) = (Space::new(), Gateway::new());
    let from = gateway.conf_inline(&gateway.cloud.node(2090));
    gateway.join(&from, &[]).good();
    let log = std::fs::File::create(gateway.place.path("daemon.log")).unwrap();
    let mut daemon = space.within(&gateway.place.edge(&["daemon"])).stderr(log).spawn().unwrap();
    let begun = Instant::now();
    while !space.has_interface() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", gateway.place.read("daemon.log"));
        std::thread::sleep(Duration::from_millis(50));
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(space.has_interface(), "pods keep their way while a daemon is started anew");
    Done::of(space.within(&gateway.place.edge(&["leave"])).output().unwrap()).good();
    assert!(!space.has_interface());
}

#[test]
fn removing_the_snap_takes_the_interface_away() {
    let (space, snap) = (Space::new(), joined());
    assert_eq!(space.ip(&["link", "add", "edge-api", "type", "bridge"]).code, 0);
    let said = Done::of(space.within(&snap.hook_command("remove", &snap.committed())).output().unwrap());
    assert!(!space.has_interface(), "{said:?}");
}

#[test]
fn what_makes_the_interface_is_not_disconnected_while_it_is_there() {
    let (space, snap) = (Space::new(), joined());
    let hook = || {
        let hook = snap.hook_command("disconnect-plug-network-control", &snap.committed());
        Done::of(space.within(&hook).output().unwrap())
    };
    hook().good();
    assert_eq!(space.ip(&["link", "add", "edge-api", "type", "bridge"]).code, 0);
    let told = hook();
    assert!(
        told.err.contains(" hint: `edge leave` first, or `snap set edge proxy.in-cluster=false` and "),
        "{told:?}"
    );
    told.bad(1, "pods of this node have interface `edge-api`");
    Done::of(space.within(&snap.command("bin/edge", "app", &["leave"])).output().unwrap()).good();
    hook().good();
}

#[test]
fn a_daemon_that_leads_pods_here_no_more_takes_the_interface_away() {
    let (space, gateway) = (Space::new(), Gateway::new());
    let from = gateway.conf_inline(&gateway.cloud.node(2090));
    gateway.join(&from, &[]).good();
    gateway.place.run(&["config", "set", "proxy.in-cluster=false"]).good();
    assert_eq!(space.ip(&["link", "add", "edge-api", "type", "bridge"]).code, 0);
    let log = std::fs::File::create(gateway.place.path("daemon.log")).unwrap();
    let mut daemon = space.within(&gateway.place.edge(&["daemon"])).stderr(log).spawn().unwrap();
    let begun = Instant::now();
    while space.has_interface() && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(!space.has_interface(), "{}", gateway.place.read("daemon.log"));
}
