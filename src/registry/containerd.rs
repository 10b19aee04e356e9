//! Pointing containerd at edge: `hosts.toml` for each registry, `config_path` where it is not set, and the way back.
//!
//! edge goes first and the real registry stays the last resort, so that what edge does not know goes on working.
//! Whatever is replaced is kept below the state folder first, and `undo` puts it back.

mod documents;
mod reach;
mod record;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::oci::Upstream;
use crate::sys::durable;

use documents::Certificates;
pub use reach::reach;
use record::Record;

/// Where containerd is told to look for `hosts.toml` where nothing says so yet.
const CERTS: &str = "/etc/containerd/certs.d";
/// The file of a registry there, in a folder of the registry's name.
const HOSTS: &str = "hosts.toml";

/// What to write, and where.
#[derive(Clone, Debug)]
pub struct ContainerdSettings {
    /// containerd's own configuration, `/etc/containerd/config.toml`.
    pub config: PathBuf,
    /// Where what is replaced is kept, such as `/var/lib/edge/containerd`.
    pub backup: PathBuf,
    /// Where containerd reaches edge, `http://127.0.0.1:5000`.
    pub edge: String,
    /// The certificate of the authority that vouches for edge, where that is none of the system's.
    pub authority: Option<PathBuf>,
    /// The registries that edge goes before. A host of `_default` stands for all that have no file of their own.
    pub hosts: Vec<Upstream>,
    /// Who is asked when edge has not got it.
    pub last_resort: LastResort,
}

/// Who is asked when edge has not got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastResort {
    /// The real registry.
    Registry,
    /// Nobody: edge alone.
    Nobody,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerdReport {
    /// Files that were written or removed; with a check, those that differ.
    pub changed: Vec<PathBuf>,
    /// Files that somebody else changed since, which were left alone.
    pub left_alone: Vec<PathBuf>,
    /// containerd reads `hosts.toml` anew with each pull, its own configuration only when it starts.
    pub restart: bool,
}

/// Why containerd's configuration was not touched.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file is no TOML.
    #[error("cannot read `{path}`: {why}")]
    Toml {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// containerd ignores `hosts.toml` then, or refuses to start.
    #[error(
        "`{0}` has a legacy `registry.mirrors` or `registry.configs.HOST.tls` section hint: move it to hosts.toml files, then try again"
    )]
    Legacy(PathBuf),
    /// A file of certificates is none.
    #[error("cannot read `{path}`: {why}")]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// edge's certificate is for none of the names that containerd could reach it by.
    #[error(
        "`{path}` is for none of {names} hint: write the name that it is for under registry.own-hosts, with the port"
    )]
    Name {
        /// The certificate.
        path: PathBuf,
        /// The names.
        names: String,
    },
    /// Nobody vouches for edge's certificate.
    #[error("containerd would not believe `{path}`: {why} hint: name the file of its authority with --ca")]
    Unbelieved {
        /// The certificate.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The notes of what was replaced are damaged.
    #[error("cannot read `{path}`: {why} hint: what was replaced lies in the same folder")]
    Record {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A file and what it should hold.
struct Wanted {
    path: PathBuf,
    text: String,
    is_config: bool,
}

/// What `configure` would change.
///
/// # Errors
/// [`ContainerdError`].
pub fn check(settings: &ContainerdSettings) -> Result<ContainerdReport, ContainerdError> {
    let mut report = ContainerdReport::default();
    for wanted in wanted(settings)? {
        if read(&wanted.path)?.as_deref() != Some(&wanted.text) {
            report.restart |= wanted.is_config;
            report.changed.push(wanted.path);
        }
    }
    Ok(report)
}

/// Writes what is missing, and keeps what was there.
///
/// # Errors
/// [`ContainerdError`]; everything is read and made before the first file is written.
pub fn configure(settings: &ContainerdSettings) -> Result<ContainerdReport, ContainerdError> {
    let wanted = wanted(settings)?;
    let mut record = Record::read(&settings.backup)?;
    let mut report = ContainerdReport::default();
    for wanted in wanted {
        let before = read(&wanted.path)?;
        if before.as_deref() == Some(&wanted.text) {
            continue;
        }
        // Noted before it is done: a power cut between the two leaves a note too many, which undo sees through.
        record.keep(&wanted.path, before.as_deref(), &wanted.text)?;
        if let Some(folder) = wanted.path.parent() {
            durable::folder(folder, 0o755)?;
        }
        write(&wanted.path, &wanted.text)?;
        report.restart |= wanted.is_config;
        report.changed.push(wanted.path);
    }
    Ok(report)
}

/// Puts back what `configure` replaced. A file that somebody changed since is left alone.
///
/// # Errors
/// [`ContainerdError`].
pub fn undo(settings: &ContainerdSettings) -> Result<ContainerdReport, ContainerdError> {
    let mut record = Record::read(&settings.backup)?;
    let mut report = ContainerdReport::default();
    for path in record.paths() {
        let now = read(&path)?;
        let before = record.before(&path)?;
        if now == before {
            record.forget(&path)?;
            continue;
        }
        if !now.as_deref().is_some_and(|now| record.is_ours(&path, now)) {
            report.left_alone.push(path);
            continue;
        }
        match before {
            Some(text) => write(&path, &text)?,
            None => {
                durable::remove(&path)?;
                // The registry's folder goes with its only file; one that holds more stays.
                if !is_config(&path)
                    && let Some(folder) = path.parent()
                {
                    let _ = std::fs::remove_dir(folder);
                }
            }
        }
        record.forget(&path)?;
        report.restart |= is_config(&path);
        report.changed.push(path);
    }
    Ok(report)
}

/// Whether a file that was replaced is containerd's own configuration, wherever that lay.
fn is_config(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name != HOSTS)
}

/// The registries of whose images containerd asks edge first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PointedHere {
    hosts: BTreeSet<String>,
    /// The folder of the file for all that have none of their own.
    others: Option<PathBuf>,
}

impl PointedHere {
    /// Whether containerd asks edge for images of `host`, such as `quay.io` or `quay.io:443`.
    pub fn has(&self, host: &str) -> bool {
        // As containerd looks: a port may be written `host_port_`.
        let with_port = host.rsplit_once(':').map(|(name, port)| format!("{name}_{port}_"));
        let own = |folder: &Path| {
            [Some(host), with_port.as_deref()].into_iter().flatten().any(|name| folder.join(name).exists())
        };
        self.hosts.contains(host) || self.others.as_deref().is_some_and(|folder| !own(folder))
    }
}

/// What `configure` wrote, as far as nobody has changed it since. `backup` is where what was replaced is kept.
///
/// # Errors
/// [`ContainerdError`].
pub fn pointed_here(backup: &Path) -> Result<PointedHere, ContainerdError> {
    let record = Record::read(backup)?;
    let mut here = PointedHere::default();
    for path in record.paths().into_iter().filter(|path| !is_config(path)) {
        let is_ours = read(&path)?.is_some_and(|now| record.is_ours(&path, &now));
        let host = path.parent().and_then(Path::file_name).and_then(OsStr::to_str);
        match host.filter(|_| is_ours) {
            Some("_default") => here.others = path.ancestors().nth(2).map(Path::to_path_buf),
            Some(host) => drop(here.hosts.insert(host.to_owned())),
            None => {}
        }
    }
    Ok(here)
}

/// Whether notes of what was replaced lie in `backup`.
///
/// # Errors
/// [`ContainerdError`].
pub fn is_noted(backup: &Path) -> Result<bool, ContainerdError> {
    Ok(!Record::read(backup)?.paths().is_empty())
}

/// What [`undo`] would do: the files that it would put back, and those that it would leave alone.
///
/// # Errors
/// [`ContainerdError`].
pub fn check_undo(settings: &ContainerdSettings) -> Result<ContainerdReport, ContainerdError> {
    let record = Record::read(&settings.backup)?;
    let mut report = ContainerdReport::default();
    for path in record.paths() {
        let now = read(&path)?;
        if now == record.before(&path)? {
            continue;
        }
        if now.is_some_and(|now| record.is_ours(&path, &now)) {
            report.restart |= is_config(&path);
            report.changed.push(path);
        } else {
            report.left_alone.push(path);
        }
    }
    Ok(report)
}

fn wanted(settings: &ContainerdSettings) -> Result<Vec<Wanted>, ContainerdError> {
    let before = read(&settings.config)?.unwrap_or_default();
    let (config, certs) = documents::config(&settings.config, &before)?;
    let mut wanted = Vec::new();
    for host in &settings.hosts {
        let folder = folder_of(&certs, &host.host)?;
        let path = folder.join(HOSTS);
        // What others wrote there stays behind edge, also when this is done again.
        let original = Record::read(&settings.backup)?.before_or(&path, read(&path)?)?;
        let beside = Certificates::among(names_in(&folder)?);
        let text = documents::hosts(&path, original.as_deref().unwrap_or_default(), &beside, host, settings)?;
        wanted.push(Wanted { path, text, is_config: false });
    }
    // Last, so that containerd finds the files when it is told of them.
    wanted.push(Wanted { path: settings.config.clone(), text: config, is_config: true });
    Ok(wanted)
}

/// The folder in which containerd looks for a registry: `HOST_PORT_` goes before `HOST:PORT` where it is there.
fn folder_of(certs: &Path, host: &str) -> Result<PathBuf, ContainerdError> {
    if let Some((name, port)) = host.rsplit_once(':').filter(|(name, _)| !name.is_empty()) {
        let folder = certs.join(format!("{name}_{port}_"));
        if durable::exists(&folder)? {
            return Ok(folder);
        }
    }
    Ok(certs.join(host))
}

/// The names of the files in a folder; none where there is no folder.
fn names_in(folder: &Path) -> Result<Vec<String>, ContainerdError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(durable::named(e, "list", folder).into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| durable::named(e, "list", folder))?;
        // A link to a file is as good as one.
        if entry.path().is_file() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

fn read(path: &Path) -> Result<Option<String>, ContainerdError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(durable::named(e, "read", path).into()),
    }
}

/// Replaces a file. Whoever could not read what was there, which may hold a password, cannot read the new one either: it is
/// mostly the same, and so is what comes back later.
fn write(path: &Path, text: &str) -> Result<(), ContainerdError> {
    let before = match std::fs::metadata(path) {
        Ok(before) => before,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Ok(durable::write(path, text.as_bytes(), 0o644)?);
        }
        Err(e) => return Err(durable::named(e, "look at", path).into()),
    };
    durable::write(path, text.as_bytes(), before.mode() & 0o777)?;
    let owner = |meta: &std::fs::Metadata| (meta.uid(), meta.gid());
    if std::fs::metadata(path).is_ok_and(|now| owner(&now) != owner(&before))
        && let Err(error) = std::os::unix::fs::chown(path, Some(before.uid()), Some(before.gid()))
    {
        // Root reads it all the same, as containerd does.
        tracing::warn!(path = %path.display(), %error, "its owner is not the one that it had");
    }
    Ok(())
}
