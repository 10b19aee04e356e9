//! A git server with one repository, a working folder of it, and a gateway that mirrors it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{Done, Place};

/// A free port of this machine.
fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs git with nobody's configuration.
pub fn git(folder: &Path, arguments: &[&str]) -> Done {
    let mut command = Command::new("/usr/bin/git");
    command.args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]);
    command.args(["-c", "gc.auto=0", "-c", "advice.detachedHead=false", "-c", "protocol.file.allow=always"]);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0");
    command.env("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z").env("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z");
    Done::of(command.output().unwrap())
}

/// A server with one repository, `config.git`, a working folder of it, and a gateway.
pub struct Forge {
    pub place: Place,
    folder: tempfile::TempDir,
    server: Option<Child>,
    pub port: u16,
    registry: u16,
}

impl Drop for Forge {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Forge {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("root")).unwrap();
        git(folder.path(), &["init", "-q", "--bare", "root/config.git"]).good();
        git(folder.path(), &["init", "-q", "work"]).good();
        git(&folder.path().join("work"), &["remote", "add", "origin", "../root/config.git"]).good();
        let mut forge = Self { place: Place::new(), folder, server: None, port: port(), registry: port() };
        forge.run();
        forge
    }

    /// Starts the server, again.
    pub fn run(&mut self) {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/git_server.py"));
        command.arg(self.root()).arg(self.port.to_string()).arg(self.folder.path().join("log"));
        self.server = Some(command.spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "the server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn upstream(&self) -> String {
        format!("http://127.0.0.1:{}/config.git", self.port)
    }

    /// The address of the mirrored one.
    pub fn mirrored(&self) -> String {
        format!("http://127.0.0.1:{}/git/config.git", self.registry)
    }

    pub fn work(&self, arguments: &[&str]) -> Done {
        git(&self.folder.path().join("work"), arguments).good()
    }

    /// Another folder beside.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Commits a file and says the commit.
    pub fn commit(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.folder.path().join("work").join(name), bytes).unwrap();
        self.work(&["add", "."]);
        self.work(&["commit", "-q", "-m", name]);
        self.work(&["rev-parse", "HEAD"]).out.trim().to_owned()
    }

    pub fn push(&self) {
        self.work(&[
            "push",
            "-q",
            "--force",
            "--prune",
            "origin",
            "refs/heads/*:refs/heads/*",
            "refs/tags/*:refs/tags/*",
        ]);
    }

    /// What the server does to the next packs.
    pub fn fault(&self, fault: &str) {
        std::fs::write(self.root().join(".fault"), fault).unwrap();
    }

    pub fn configure(&self, rule: &str, more: &str) {
        let listen = format!(
            "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:{}\"\n",
            self.registry
        );
        let rule = format!(
            "{more}\n[[mirror.git]]\nname = \"config\"\nurl = \"{}\"\n{rule}\n{listen}",
            self.upstream()
        );
        self.place.write("etc/edge.toml", &rule);
    }

    pub fn sync(&self, more: &[&str]) -> (i32, Value) {
        let arguments: Vec<&str> = ["mirror", "sync", "-o", "json"].iter().chain(more).copied().collect();
        let done = self.place.run(&arguments);
        let summary = serde_json::from_str(&done.out).unwrap_or_else(|_| panic!("no summary: {done:?}"));
        (done.code, summary)
    }

    /// The requests to the server since the last call.
    pub fn requests(&self) -> Vec<String> {
        let path = self.folder.path().join("log");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, "").unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The refs here, as the repository's own files have them, read by git.
    pub fn here(&self) -> Vec<String> {
        let folder = self.place.path("state/git/config.git");
        let listed = git(&folder, &["for-each-ref", "--format=%(objectname) %(refname)"]).good();
        listed.out.lines().map(str::to_owned).collect()
    }

    /// All of it is here and sound, as git says.
    pub fn sound(&self) {
        let folder = self.place.path("state/git/config.git");
        git(&folder, &["fsck", "--full", "--strict", "--no-dangling"]).good();
    }
}

/// The states of a summary's refs, `refs/heads/main new`.
pub fn turns(summary: &Value) -> Vec<String> {
    let changes = summary["git"][0]["changes"].as_array().unwrap();
    changes
        .iter()
        .map(|c| format!("{} {}", c["ref"].as_str().unwrap(), c["turn"].as_str().unwrap()))
        .collect()
}
