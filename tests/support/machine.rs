//! A machine of its own, made of namespaces: its processes, mounts, network, host name and `/run`. Its disk is a
//! folder, so that it can lose power and boot again. Knows nothing of Kubernetes.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::process::append;

const BOOT: &str = include_str!("machine.sh");

/// A running machine. Dropping it cuts the power.
pub struct Machine {
    name: String,
    guardian: Child,
    init: i32,
}

impl Machine {
    /// Boots a machine whose disk is the folder `disk`; what its first process complains of goes to `logs`.
    pub fn boot(name: &str, disk: &Path, logs: &Path) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "not root hint: cluster tests make namespaces, run them as root"
        );
        std::fs::create_dir_all(disk)?;
        let mut guardian = Command::new("unshare")
            .args(["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--propagation", "private"])
            .args(["bash", "-c", BOOT])
            .env("NAME", name)
            .env("DISK", disk)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(append(&logs.join(format!("{name}.boot.log")))?)
            .spawn()
            .context("cannot run `unshare`")?;
        let mut line = String::new();
        let output = guardian.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        ensure!(
            line.trim() == "ready",
            "machine `{name}` did not boot: see `{name}.boot.log` in {}",
            logs.display()
        );
        let init = only_child(guardian.id())?;
        Ok(Self { name: name.to_owned(), guardian, init })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id of its first process, as the host sees it; also how `ip` names its network.
    pub fn init(&self) -> i32 {
        self.init
    }

    /// A command that will run in this machine.
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-m", "-n", "-p", "-u", "-i", "--"]).args(argv);
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Runs a command to its end, whatever that is.
    pub fn output(&self, argv: &[&str]) -> Result<Output> {
        self.command(argv).output().with_context(|| format!("cannot run `{}`", argv.join(" ")))
    }

    /// Runs a command that must succeed; its standard output.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        text(argv, self.output(argv)?)
    }

    /// Runs a script of `sh -e` that must succeed; its standard output.
    pub fn shell(&self, script: &str) -> Result<String> {
        self.run(&["sh", "-ec", script])
    }

    /// Writes a file of this machine, with the folders above it.
    pub fn write(&self, path: &str, content: &str) -> Result<()> {
        let script = "mkdir -p \"$(dirname \"$0\")\" && cat > \"$0\"";
        let argv = ["sh", "-c", script, path];
        let mut child = self.command(&argv).stdin(Stdio::piped()).spawn()?;
        child.stdin.take().context("no input")?.write_all(content.as_bytes())?;
        ensure!(child.wait()?.success(), "cannot write `{path}` in `{}`", self.name);
        Ok(())
    }

    /// The text of a file of this machine.
    pub fn read(&self, path: &str) -> Result<String> {
        self.run(&["cat", path])
    }

    /// Runs code of the test in this machine's network, on a thread of its own.
    pub fn in_network<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let thread = self.beside_in_network(work)?;
        thread.join().map_err(|_| anyhow::anyhow!("a thread in the network of `{}` panicked", self.name))?
    }

    /// The same, while the test goes on.
    pub fn beside_in_network<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let network = File::open(format!("/proc/{}/ns/net", self.init))?;
        Ok(thread::spawn(move || -> Result<T> {
            setns(&network, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        }))
    }

    /// Ends every process of the machine at once, as a power cut does. Its memory, mounts and network go with them.
    pub fn power_off(&mut self) {
        let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
        let _ = self.guardian.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// The one child of a process, as soon as there is one.
pub fn only_child(parent: u32) -> Result<i32> {
    let list = PathBuf::from(format!("/proc/{parent}/task/{parent}/children"));
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        let children = std::fs::read_to_string(&list).unwrap_or_default();
        if let Some(pid) = children.split_whitespace().next() {
            return Ok(pid.parse()?);
        }
        thread::sleep(Duration::from_millis(2));
    }
    bail!("process {parent} has no child")
}

/// Standard output of a command, or an error that holds what it said.
pub fn text(argv: &[&str], output: Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` ended with {}: {}", argv.join(" "), output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
