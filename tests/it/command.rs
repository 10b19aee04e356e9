//! Runs the built `edge` with its configuration and state in a folder of the test's own.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A gateway's folders, empty at first.
pub struct Place {
    pub folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.path("etc")).unwrap();
        place.write("etc/edge.toml", "");
        place
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    #[allow(clippy::disallowed_methods, reason = "a test's own file need not survive a power cut")]
    pub fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A file that nobody else can read.
    pub fn secret(&self, below: &str, text: &str) -> PathBuf {
        let path = self.write(below, text);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        path
    }

    pub fn read(&self, below: &str) -> String {
        std::fs::read_to_string(self.path(below)).unwrap()
    }

    /// `edge` with configuration and state in this place and nothing else from the environment.
    pub fn edge(&self, arguments: &[&str]) -> Command {
        let mut command = bare(arguments);
        command.env("EDGE_CONFIG", self.path("etc/edge.toml")).env("EDGE_STATE_DIR", self.path("state"));
        command.env("EDGE_SOCKET", self.path("edge.sock")).current_dir(self.folder.path());
        command
    }

    /// The commands that the daemon is doing: GET /v1/busy.
    pub fn busy(&self) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(edge::daemon::ask_busy(&self.path("edge.sock"))).unwrap()
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.edge(arguments).output().unwrap())
    }
}

/// A daemon of a place; it ends with the value. What it says goes to the place's `daemon.log`.
pub struct Daemon(pub Child);

impl Daemon {
    /// Starts it, and waits until it answers.
    pub fn start(place: &Place) -> Self {
        Self::start_by(place, place.edge(&["daemon"]))
    }

    /// Starts it by another command, which becomes it.
    pub fn start_by(place: &Place, mut command: Command) -> Self {
        let log = File::create(place.path("daemon.log")).unwrap();
        let mut daemon = Self(command.stderr(log).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(30);
        while place.edge(&["status"]).output().unwrap().status.code() != Some(0) {
            let ended = daemon.0.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the daemon does not answer: {ended:?} {}",
                place.read("daemon.log")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `edge` without any of its variables.
pub fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge"));
    command.args(arguments).stdin(Stdio::null());
    for variable in ["EDGE_CONFIG", "EDGE_STATE_DIR", "EDGE_SOCKET", "EDGE_LOG", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command
}

/// What a command said.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Asserts that it went well.
    #[track_caller]
    pub fn good(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Asserts that it failed with `code`, saying `expected` in exactly one line.
    #[track_caller]
    pub fn bad(self, code: i32, expected: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(
            self.err.starts_with("edge: ") && self.err.contains(expected),
            "expected {expected:?}: {self:?}"
        );
    }
}
