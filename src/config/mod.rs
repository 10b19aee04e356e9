//! edge.toml and snap keys to Config.
//!
//! Owns the names of keys and what a value must look like. What a value means is each room's own:
//! this room only fills their settings. Refuses to take half of a file: everything in it is checked
//! before anything is used.

mod document;
mod edit;
mod error;
mod file;
pub mod json;
mod names;
pub mod quantity;
mod rows;
mod rules;
mod slot;
pub mod snap;
mod table;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::sys::durable;
use crate::{bundle, cri, mirror, node, pods, proxy, registry, system};

pub use document::{sample, to_toml};
pub use edit::{Change, edit};
pub use error::{Error, Problem};
pub use names::{AT_START, is_at_start};
pub use rows::Rows;
pub use slot::Slot;
pub use table::{KEYS, Key};

/// Where the configuration lies if nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/edge/edge.toml";
/// The control socket if nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/edge/edge.sock";

/// Everything edge is told, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from; it need not exist.
    pub file: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Where a copy of the cache is made that its disk lets nobody write: in memory.
    pub refuge: PathBuf,
    /// Where kubelet has the logs of pods.
    pub pod_logs: PathBuf,
    /// Where kubelet keeps the certificate that it rotates.
    pub kubelet_pki: PathBuf,
    /// Whether edge sees less of the host than root does, whoever starts it: a strict snap.
    pub is_strict: bool,
    /// Whether anything is cached, or served from the cache.
    pub offline_mode: bool,
    /// The folder of everything that edge keeps.
    pub state_dir: PathBuf,
    /// `[cloud]`. The proxy is off without a kubeconfig in it.
    pub cloud: proxy::CloudSettings,
    /// `[proxy]`.
    pub proxy: proxy::Settings,
    /// `[runtime]`.
    pub runtime: cri::Settings,
    /// `[registry]`.
    pub registry: registry::Settings,
    /// `[pods]`.
    pub pods: pods::Settings,
    /// `[mirror]` and its lists.
    pub mirror: mirror::Settings,
    /// `[bundle]`.
    pub bundle: bundle::Settings,
    /// `[system]`.
    pub system: system::Settings,
    /// `[node]`.
    pub node: node::Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file: PathBuf::from(DEFAULT_FILE),
            socket: PathBuf::from(DEFAULT_SOCKET),
            refuge: PathBuf::from("/run/edge"),
            pod_logs: PathBuf::from("/var/log/pods"),
            kubelet_pki: PathBuf::from("/var/lib/kubelet/pki"),
            is_strict: false,
            offline_mode: true,
            state_dir: PathBuf::from("/var/lib/edge"),
            cloud: proxy::CloudSettings::default(),
            proxy: proxy::Settings::default(),
            runtime: cri::Settings::default(),
            registry: registry::Settings::default(),
            pods: pods::Settings::default(),
            mirror: mirror::Settings::default(),
            bundle: bundle::Settings::default(),
            system: system::Settings::default(),
            node: node::Settings::default(),
        }
    }
}

/// What flags and environment say; they win over the file. Flags are already merged over the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The configuration file. Named so, it must exist.
    pub config: Option<PathBuf>,
    /// The state folder.
    pub state_dir: Option<PathBuf>,
    /// The control socket.
    pub socket: Option<PathBuf>,
    /// The top of an appliance's file system; another one than `/` for tests alone.
    pub system_root: Option<PathBuf>,
    /// The snap that edge runs in, if it does.
    pub snap: Option<Snap>,
    /// The proxy to other machines, where the file names none.
    pub proxy: Option<String>,
    /// What is asked without it.
    pub no_proxy: Option<String>,
}

/// What edge must know of its snap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snap {
    /// The folder that all revisions share, `$SNAP_COMMON`.
    pub common: PathBuf,
    /// Its folder in memory, `/run/snap.NAME`, which snapd lets it make.
    pub memory: PathBuf,
    /// Which revision runs, `$SNAP_REVISION`, where that is told.
    pub revision: Option<String>,
    /// snapd's command for programs inside a snap.
    pub snapctl: PathBuf,
    /// Whether it is kept to its own folders: all snaps of edge but the classic one.
    pub is_strict: bool,
    /// Of the snap's node flavour alone.
    pub node: Option<SnapNode>,
    /// The trust root that was packed into it.
    pub root: Option<PathBuf>,
}

impl Snap {
    /// The trust root, in the snap's content.
    pub const ROOT: &str = "1.root.json";
}

/// The parts of a node that a snap has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapNode {
    /// The snap's content, by a path that a refresh does not change.
    pub content: PathBuf,
    /// Where its containerd listens.
    pub endpoint: String,
}

impl Overrides {
    /// The configuration file in force.
    pub fn file(&self) -> PathBuf {
        self.defaults().file
    }

    /// The control socket, which the file does not name: it can be asked while the file is wrong.
    pub fn control_socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.defaults().socket)
    }

    /// What holds where the file says nothing. A snap has all its files in its own folder.
    pub fn defaults(&self) -> Config {
        let mut config = Config::default();
        if let Some(snap) = &self.snap {
            config.file = snap.common.join("edge.toml");
            config.socket = snap.common.join("run/edge.sock");
            config.refuge.clone_from(&snap.memory);
            config.state_dir.clone_from(&snap.common);
            config.is_strict = snap.is_strict;
            if snap.is_strict {
                // Where it sees the host's folder.
                config.kubelet_pki = PathBuf::from("/var/lib/snapd/hostfs/var/lib/kubelet/pki");
            }
            if let Some(node) = &snap.node {
                config.runtime.endpoint.clone_from(&node.endpoint);
                config.pod_logs = snap.common.join("log/pods");
                config.kubelet_pki = snap.common.join("kubelet/pki");
            }
        }
        if let Some(file) = &self.config {
            config.file.clone_from(file);
        }
        config
    }
}

impl Config {
    /// Reads and checks the configuration: flag, environment, file, default, in this order. Rooms are given what others
    /// are told where they are told nothing themselves.
    ///
    /// # Errors
    /// One line. A file that is not there is an error only if it was named.
    pub fn load(overrides: &Overrides) -> Result<Self, Error> {
        let mut config = Self::written(overrides)?;
        config.share(overrides);
        Ok(config)
    }

    /// The same with `text` in place of what the file holds today.
    ///
    /// # Errors
    /// As for [`Config::parse`].
    pub fn load_text(overrides: &Overrides, text: &str) -> Result<Self, Error> {
        let mut config = Self::over(overrides, text)?;
        config.share(overrides);
        Ok(config)
    }

    /// The same for people: no key has a value that nobody gave it.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn written(overrides: &Overrides) -> Result<Self, Error> {
        let file = overrides.file();
        let text = match read(&file)? {
            Some(text) => text,
            None if overrides.config.is_some() => return Err(Error::Missing(file)),
            None => String::new(),
        };
        Self::over(overrides, &text)
    }

    /// What holds without a file that the caller may not read: the defaults, and what flags and environment say.
    ///
    /// # Errors
    /// As for [`Config::parse`].
    pub fn unread(overrides: &Overrides) -> Result<Self, Error> {
        Self::load_text(overrides, "")
    }

    fn over(overrides: &Overrides, text: &str) -> Result<Self, Error> {
        let mut config = Self::parse_over(overrides.defaults(), text)?;
        if let Some(folder) = &overrides.state_dir {
            config.state_dir.clone_from(folder);
        }
        if let Some(socket) = &overrides.socket {
            config.socket.clone_from(socket);
            config.refuge = socket.parent().unwrap_or(Path::new("/run")).to_path_buf();
        }
        if let Some(root) = &overrides.system_root {
            config.system.root.clone_from(root);
        }
        Ok(config)
    }

    /// What pull-through asks upstreams with, the mirror asks with too, but for what it is told otherwise.
    fn share(&mut self, overrides: &Overrides) {
        let (registry, mirror) = (&mut self.registry, &mut self.mirror);
        if registry.proxy.is_none() {
            registry.proxy.clone_from(&overrides.proxy);
            registry.no_proxy = registry.no_proxy.take().or_else(|| overrides.no_proxy.clone());
        }
        if mirror.proxy.is_none() {
            mirror.proxy.clone_from(&registry.proxy);
            mirror.no_proxy = mirror.no_proxy.take().or_else(|| registry.no_proxy.clone());
        }
        if mirror.docker_config.is_none() {
            mirror.docker_config.clone_from(&registry.docker_config);
        }
        if mirror.authorities.is_empty() {
            mirror.authorities.clone_from(&registry.authorities);
        }
    }

    /// Checks `text` as the content of `file`.
    ///
    /// # Errors
    /// One line that names the file, the key, the value and what was expected.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        Self::parse_over(Self { file: file.to_path_buf(), ..Self::default() }, text)
    }

    /// Checks `text` as the content of the file that `defaults` names, over what they hold.
    ///
    /// # Errors
    /// As for [`Config::parse`].
    pub fn parse_over(mut defaults: Self, text: &str) -> Result<Self, Error> {
        let document = file::parse(&defaults.file, text)?;
        match file::fill(&document, &mut defaults) {
            Ok(()) => Ok(defaults),
            Err(problem) => Err(Error::Content { file: defaults.file, problem }),
        }
    }

    /// The value of a key, as `edge.toml` has it. `Ok(None)` if it is not set and has no default.
    ///
    /// # Errors
    /// An unknown key.
    pub fn get(&self, key: &str) -> Result<Option<toml_edit::Value>, Error> {
        let known = names::find(key).ok_or_else(|| {
            Error::Given(Problem::Unknown { key: key.to_owned(), nearest: names::nearest(key) })
        })?;
        Ok(known.slot.show(&mut self.clone()))
    }

    /// The files that it names to be read, each with its key; not those of a list.
    pub fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let mut shown = self.clone();
        let named = KEYS.iter().map(|key| (key.path, key.slot.file(&mut shown)));
        named.filter_map(|(key, file)| Some((key, file?))).collect()
    }

    /// Where turns to restart a pod are taken: beside the control socket, so that a boot forgets them.
    pub fn turns(&self) -> PathBuf {
        self.socket.with_file_name("restart")
    }

    fn from_document(file: &Path, document: &toml_edit::DocumentMut) -> Result<Self, Error> {
        let mut config = Self { file: file.to_path_buf(), ..Self::default() };
        file::fill(document, &mut config)
            .map_err(|problem| Error::Content { file: file.to_path_buf(), problem })?;
        Ok(config)
    }
}

/// The text of `file`; `None` if it is not there.
fn read(file: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::File(durable::named(e, "read", file))),
    }
}

#[cfg(test)]
mod slot_tests;
#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
