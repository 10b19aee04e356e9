//! One program running in a machine, with its log. Starts it, signals it, ends it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::machine::{Machine, only_child};

/// A running program. Dropping it does not end it; the machine's end does.
pub struct Process {
    name: String,
    entry: Child,
    pid: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts `argv` in `machine`, its output appended to `logs/NAME.log`.
    pub fn start(
        machine: &Machine,
        logs: &Path,
        name: &str,
        argv: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let output = append(&log)?;
        let entry = machine
            .command(argv)
            .envs(env.iter().copied().collect::<BTreeMap<_, _>>())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start `{name}`"))?;
        let pid = only_child(entry.id())
            .with_context(|| format!("`{name}` did not start: see {}", log.display()))?;
        Ok(Self { name: name.to_owned(), entry, pid: Pid::from_raw(pid), log })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id as the host sees it.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// All it has said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill(self.pid, signal);
        if signal == Signal::SIGCONT {
            // nsenter stops itself when its child is stopped.
            let _ = kill(Pid::from_raw(self.entry.id().cast_signed()), signal);
        }
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.entry.try_wait(), Ok(None))
    }

    /// Ends it at once, as `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.alive() {
            self.signal(Signal::SIGKILL);
            self.signal(Signal::SIGCONT);
            let _ = self.entry.wait();
        }
    }

    /// Asks it to end with SIGTERM and gives it `grace`; whether it ended by itself.
    pub fn stop(&mut self, grace: Duration) -> bool {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + grace;
        while self.alive() {
            if Instant::now() > deadline {
                self.kill();
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

/// Opens a log to write at its end.
pub fn append(log: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write `{}`", log.display()))
}

/// The last `lines` lines of every log in a folder.
pub fn tails(logs: &Path, lines: usize) -> String {
    let mut text = String::new();
    let mut files: Vec<_> =
        std::fs::read_dir(logs).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let content = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
        let all: Vec<_> = content.lines().collect();
        text += &format!("---- {}\n", file.file_name().unwrap_or_default().to_string_lossy());
        for line in &all[all.len().saturating_sub(lines)..] {
            text += &line.chars().take(400).collect::<String>();
            text.push('\n');
        }
    }
    text
}
