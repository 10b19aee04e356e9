//! Where the parts of a node are and keep what they have. All that is written lies below one folder.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::{Error, Program};
use crate::sys::durable;

/// The snap and the folder that all its revisions share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The snap's content, by a path that a refresh does not change, such as `/snap/edge/current`.
    pub snap: PathBuf,
    /// `$SNAP_COMMON`.
    pub common: PathBuf,
}

impl Places {
    /// Of a snap that is mounted at `revision` (`$SNAP`): the path of a revision would be gone after a refresh.
    pub fn of(revision: &Path, common: PathBuf) -> Self {
        let snap = revision.parent().map_or_else(|| revision.to_path_buf(), |all| all.join("current"));
        Self { snap, common }
    }

    /// Whether the snap has these parts: whether it is of the node flavour.
    pub fn are_there(&self) -> bool {
        self.snap.join("usr/bin/kubelet").exists()
    }

    /// Below the snap's own folder.
    pub(super) fn own(&self, path: &str) -> PathBuf {
        self.common.join(path)
    }

    /// The socket of containerd, as kubelet and edge are told it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.own("run/containerd/containerd.sock").display())
    }

    /// Makes a folder, with those above it, and leaves one that is there as it is.
    pub(super) fn make(&self, path: &str, mode: u32) -> io::Result<PathBuf> {
        let folder = self.own(path);
        if !folder.is_dir() {
            durable::folder(&folder, mode)?;
        }
        Ok(folder)
    }

    /// Writes a file that is edge's own, unless it holds just this.
    pub(super) fn write(&self, path: &str, text: &str) -> io::Result<PathBuf> {
        let file = self.own(path);
        if std::fs::read_to_string(&file).is_ok_and(|had| had == text) {
            return Ok(file);
        }
        durable::write(&file, text.as_bytes(), 0o644)?;
        Ok(file)
    }

    /// What such a file holds, if it can be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.own(path)).ok().filter(|text| !text.is_empty())
    }

    /// A program of the snap, which finds its helpers (runc, `mount`, `iptables`) there first.
    pub(super) fn program(&self, path: &str, arguments: Vec<String>) -> Result<Program, Error> {
        let program = self.snap.join(path);
        if !program.exists() {
            return Err(Error::Absent(program));
        }
        let mut search = OsString::new();
        for folder in ["usr/bin", "usr/sbin"] {
            search.push(self.snap.join(folder));
            search.push(":");
        }
        search.push("/usr/sbin:/usr/bin:/sbin:/bin");
        let environment = vec![
            ("PATH", search),
            ("XTABLES_LIBDIR", self.snap.join("usr/lib/xtables").into_os_string()),
            // Where containerd's shim lays what runc is to run in an exec. The one that snapd names is not there.
            ("XDG_RUNTIME_DIR", self.make("run", 0o700)?.into_os_string()),
        ];
        Ok(Program { path: program, arguments, environment, lacks: None })
    }
}
