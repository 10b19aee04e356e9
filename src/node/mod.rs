//! The parts of a node that the snap's node flavour brings: containerd and kubelet, for gateways that have none.
//!
//! Each is a service of the snap, `edge node PART`, which lays out its folders and configuration below the snap's own
//! folder and becomes the program itself. A strict snap's kubelet may mount nowhere else. Owns what is written there, but
//! for the folders `*.d`, `manifests`, `net.d` and `certs.d`, which are the owner's: only in `net.d` it puts a network where
//! there is none.

mod apparmor;
mod clear;
mod containerd;
mod kubelet;
mod places;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::sys::program::one_line;

pub use clear::clear;
pub use kubelet::has_joined;
pub use places::Places;

/// The configuration of the snap's containerd, below `$SNAP_COMMON`: written at each of its starts.
pub fn containerd_config(common: &Path) -> PathBuf {
    common.join(containerd::CONFIG)
}

/// `[node]` of the configuration: which of the parts run, where the snap has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// containerd.
    pub containerd: bool,
    /// kubelet.
    pub kubelet: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { containerd: true, kubelet: true }
    }
}

/// One of the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// containerd, with runc and the CNI plugins.
    Containerd,
    /// kubelet.
    Kubelet,
}

impl Part {
    /// All, in the order in which they start.
    pub const ALL: [Self; 2] = [Self::Containerd, Self::Kubelet];

    /// The name of its service in the snap.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
        }
    }

    /// Whether it is to run.
    pub fn is_wanted(self, settings: &Settings) -> bool {
        match self {
            Self::Containerd => settings.containerd,
            Self::Kubelet => settings.kubelet,
        }
    }
}

/// The program of a part, as it is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// What it is told.
    pub arguments: Vec<String>,
    /// Environment over that of the service.
    pub environment: Vec<(&'static str, OsString)>,
    /// What it has to do without, in one line.
    pub lacks: Option<String>,
}

/// Why a part cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This snap is of another flavour.
    #[error(
        "`{}` is not in this snap hint: only its node flavour has it, see `edge-pack snap --flavour node`",
        .0.display()
    )]
    Absent(PathBuf),
    /// A file of settings is no TOML.
    #[error("`{}`, line {line}: {} hint: containerd does not start before it is mended", path.display(), one_line(why))]
    Settings {
        /// The file.
        path: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A file or folder cannot be made; the text names it.
    #[error(transparent)]
    File(#[from] std::io::Error),
}

/// The cloud that this machine has joined, as kubelet is told of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Joined {
    /// The node's name there.
    pub node_name: String,
    /// What it has each kubelet know, in the words of kubelet's configuration: the cluster's DNS.
    pub settings: Map<String, Value>,
}

/// Lays out what a part needs below the snap's folder; gives the program to become. `boot` tells this boot from others:
/// what containerd remembers of a boot before it is removed. `joined` is the cloud that this machine has joined, if it has
/// and it can be read now.
///
/// # Errors
/// [`Error`]. What was laid out stays, and is taken up by the next start.
pub fn prepare(part: Part, places: &Places, boot: &str, joined: Option<&Joined>) -> Result<Program, Error> {
    match part {
        Part::Containerd => containerd::prepare(places, boot),
        Part::Kubelet => kubelet::prepare(places, joined),
    }
}
