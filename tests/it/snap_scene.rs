//! An installed snap beside a stand-in of `snapctl` that keeps snapd's rules: a hook sees the staged values, and they are
//! committed only when it ends well.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::Done;

/// An installed snap of one revision, with its folders in a temporary place.
pub struct Snap {
    folder: tempfile::TempDir,
    pub binary: PathBuf,
    pub emulator: Option<&'static str>,
}

/// A daemon of the snap; it ends with the value.
pub struct Daemon(pub Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Snap {
    pub fn new() -> Self {
        Self::of(env!("CARGO_BIN_EXE_edge").into(), None)
    }

    pub fn of(binary: PathBuf, emulator: Option<&'static str>) -> Self {
        let snap = Self { folder: tempfile::tempdir().unwrap(), binary, emulator };
        std::fs::create_dir_all(snap.path("snap/meta/hooks")).unwrap();
        std::fs::create_dir_all(snap.path("snap/bin")).unwrap();
        std::fs::create_dir_all(snap.path("common")).unwrap();
        symlink(&snap.binary, snap.path("snap/bin/edge")).unwrap();
        snap.write("committed.json", &json!({}));
        // The ports of a test are whichever are free.
        snap.write(
            "committed.json",
            &json!({"proxy": {"listen": "127.0.0.1:0"}, "registry": {"listen": "127.0.0.1:0"}}),
        );
        snap
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub fn write(&self, below: &str, value: &Value) {
        std::fs::write(self.path(below), value.to_string()).unwrap();
    }

    pub fn committed(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("committed.json")).unwrap()).unwrap()
    }

    /// edge called as `program`, as snapd calls what is in a snap.
    pub fn command(&self, program: &str, cookie: &str, arguments: &[&str]) -> Command {
        let called = self.path("snap").join(program);
        let mut command = match self.emulator {
            Some(emulator) => {
                let mut command = Command::new(emulator);
                command.arg("-0").arg(called).arg(&self.binary);
                command
            }
            None => Command::new(called),
        };
        command.args(arguments).env_clear().stdin(Stdio::null()).current_dir("/");
        command.env("PATH", "/usr/bin:/bin").env("SNAP", self.path("snap")).env("SNAP_NAME", "edge");
        command.env("SNAP_COMMON", self.path("common")).env("SNAP_COOKIE", cookie);
        command.env("SNAP_REVISION", std::fs::read_to_string(self.path("revision")).unwrap_or("x1".into()));
        command.env("STAND_IN", self.folder.path());
        command.env("EDGE_SNAPCTL", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/snapctl.py"));
        command
    }

    pub fn edge(&self, arguments: &[&str]) -> Done {
        Done::of(self.command("bin/edge", "app", arguments).output().unwrap())
    }

    /// Runs a hook in a transaction that begins with `staged`. It is left as it is, not committed.
    pub fn hook_over(&self, name: &str, staged: &Value) -> Done {
        Done::of(self.hook_command(name, staged).output().unwrap())
    }

    /// The same, not run yet.
    pub fn hook_command(&self, name: &str, staged: &Value) -> Command {
        self.write("staged.json", staged);
        let link = self.path("snap/meta/hooks").join(name);
        if !link.exists() {
            symlink("../../bin/edge", &link).unwrap();
        }
        self.command(&format!("meta/hooks/{name}"), "hook", &[])
    }

    /// What snapd does when a hook has ended well.
    pub fn commit(&self) {
        std::fs::rename(self.path("staged.json"), self.path("committed.json")).unwrap();
    }

    /// Runs a hook as snapd does: what it set is committed if it ends well.
    pub fn hook(&self, name: &str) -> Done {
        let done = self.hook_over(name, &self.committed());
        if done.code == 0 {
            self.commit();
        }
        done
    }

    /// `snap set edge KEY=VALUE...`
    pub fn set(&self, values: &[(&str, Value)]) -> Done {
        let done = self.hook_over("configure", &self.staged(values));
        if done.code == 0 {
            self.commit();
        }
        done
    }

    pub fn staged(&self, values: &[(&str, Value)]) -> Value {
        let mut staged = self.committed();
        for (key, value) in values {
            let mut place = &mut staged;
            for word in key.split('.') {
                place = &mut place[word];
            }
            *place = value.clone();
        }
        staged
    }

    pub fn install(&self) {
        for hook in ["install", "default-configure", "configure"] {
            self.hook(hook).good();
        }
    }

    pub fn daemon(&self) -> Daemon {
        self.daemon_by(&[])
    }

    /// The daemon, called by another program, which gives it other rights.
    pub fn daemon_by(&self, by: &[&str]) -> Daemon {
        let log = std::fs::File::create(self.path("daemon.log")).unwrap();
        let mut command = self.command("bin/edge", "service", &["daemon"]);
        if let Some((program, arguments)) = by.split_first() {
            let mut around = Command::new(program);
            around.args(arguments).arg(command.get_program()).args(command.get_args());
            around.env_clear().envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
            around.stdin(Stdio::null()).current_dir("/");
            command = around;
        }
        let daemon = Daemon(command.stderr(log).spawn().unwrap());
        self.until("the daemon answers", || self.edge(&["status"]).code == 0);
        daemon
    }

    /// What the file says.
    pub fn in_force(&self, key: &str) -> String {
        self.edge(&["config", "get", key]).good().out.trim_end().to_owned()
    }

    /// What the running daemon says of itself.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.edge(&["status", "-o", "json"]).good().out).unwrap()
    }

    pub fn until(&self, what: &str, mut is: impl FnMut() -> bool) -> Duration {
        let began = Instant::now();
        let limit = self.emulator.map_or(20, |_| 90);
        while !is() {
            let log = std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(limit), "not so in time: {what}\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
        began.elapsed()
    }

    /// Every file below the snap's folder, with the time of its last change.
    pub fn files(&self) -> Vec<(PathBuf, std::time::SystemTime)> {
        let mut found: Vec<_> = std::fs::read_dir(self.path("common"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap()))
            .collect();
        found.sort();
        found
    }

    /// What the hook told snapd last.
    pub fn told_health(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("health.json")).unwrap()).unwrap()
    }
}
