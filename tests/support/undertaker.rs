//! The folder and control groups of one cluster, and their removal, also when the test process is killed.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

const BURY: &str = include_str!("undertaker.sh");
const PREFIX: &str = "edge-it-";

/// The ground that one cluster stands on.
pub struct Ground {
    pub dir: PathBuf,
    /// The control group, from the root of each hierarchy, without a slash.
    pub group: String,
    undertaker: Option<Child>,
}

impl Ground {
    /// Makes the folder and the control groups, after sweeping those of dead runs.
    pub fn new() -> Result<Self> {
        static SWEPT: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(1);
        SWEPT.call_once(sweep);
        let group = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = base().join(&group);
        std::fs::create_dir_all(dir.join("logs"))
            .with_context(|| format!("cannot make `{}`", dir.display()))?;
        let undertaker = Some(bury(&dir, &group)?);
        Ok(Self { dir, group, undertaker })
    }

    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Makes a control group below the cluster's own, in every hierarchy; its path from the root.
    pub fn make_group(&self, name: &str) -> Result<String> {
        let path = format!("{}/{name}", self.group);
        for root in hierarchies() {
            let _ = std::fs::write(root.join("cgroup.subtree_control"), "+cpuset +cpu +io +memory +pids");
            let group = root.join(&self.group);
            std::fs::create_dir_all(&group).with_context(|| format!("cannot make `{}`", group.display()))?;
            // cgroup v2 hands controllers down, v1's cpuset its cores; each ignores the other's file.
            let _ = std::fs::write(group.join("cgroup.subtree_control"), "+cpuset +cpu +io +memory +pids");
            if root.ends_with("cpuset") {
                std::fs::write(group.join("cgroup.clone_children"), "1")?;
            }
            std::fs::create_dir_all(root.join(&path))?;
        }
        Ok(format!("/{path}"))
    }

    /// Removes the groups below one, as a reboot does. Their processes are gone already.
    pub fn clear_group(&self, name: &str) {
        for root in hierarchies() {
            let top = root.join(&self.group).join(name);
            let _ = Command::new("find")
                .arg(&top)
                .args(["-mindepth", "1", "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
                .output();
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(mut undertaker) = self.undertaker.take() {
            drop(undertaker.stdin.take());
            let _ = undertaker.wait();
        }
    }
}

fn base() -> PathBuf {
    std::env::var_os("EDGE_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// The roots of the control group hierarchies: one of v2, or the many of v1.
fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return vec![top.to_owned()];
    }
    let entries = std::fs::read_dir(top).into_iter().flatten().flatten();
    // Links are second names (`cpu` for `cpu,cpuacct`).
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn bury(dir: &Path, group: &str) -> Result<Child> {
    Command::new("bash")
        .args(["-c", BURY, "undertaker"])
        .args([dir.as_os_str(), group.as_ref()])
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot run `bash`")
}

/// Buries clusters whose test process is gone and whose undertaker was killed too.
fn sweep() {
    for entry in std::fs::read_dir(base()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
            && let Ok(mut child) = bury(&entry.path(), &name)
        {
            let _ = child.stdin.take().map(|mut input| input.write_all(b""));
            let _ = child.wait();
        }
    }
}
