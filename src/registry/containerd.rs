//! Pointing containerd at edge: `hosts.toml` for each registry, `config_path` where it is not set, and the way back.
//!
//! edge goes first and the real registry stays the last resort, so that what edge does not know goes on working.
//! Whatever is replaced is kept below the state folder first, and `undo` puts it back.

mod documents;
mod record;

use std::path::{Path, PathBuf};

use crate::oci::Upstream;
use crate::sys::durable;

use record::Record;

/// Where containerd is told to look for `hosts.toml` where nothing says so yet.
const CERTS: &str = "/etc/containerd/certs.d";

/// What to write, and where.
#[derive(Clone, Debug)]
pub struct ContainerdSettings {
    /// containerd's own configuration, `/etc/containerd/config.toml`.
    pub config: PathBuf,
    /// Where what is replaced is kept, such as `/var/lib/edge/containerd`.
    pub backup: PathBuf,
    /// Where containerd reaches edge, `http://127.0.0.1:5000`.
    pub edge: String,
    /// The certificate of edge's authority, where edge is reached by TLS with a local one.
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
        "`{0}` has a legacy `registry.mirrors` or `registry.configs` section hint: move it to hosts.toml files, then try again"
    )]
    Legacy(PathBuf),
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
        durable::write(&wanted.path, wanted.text.as_bytes(), 0o644)?;
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
            Some(text) => durable::write(&path, text.as_bytes(), 0o644)?,
            None => {
                durable::remove(&path)?;
                // The registry's folder goes with its only file; one that holds more stays.
                if path != settings.config
                    && let Some(folder) = path.parent()
                {
                    let _ = std::fs::remove_dir(folder);
                }
            }
        }
        record.forget(&path)?;
        report.restart |= path == settings.config;
        report.changed.push(path);
    }
    Ok(report)
}

/// Whether anything that edge wrote is noted as not yet put back.
///
/// # Errors
/// [`ContainerdError`].
pub fn is_changed(settings: &ContainerdSettings) -> Result<bool, ContainerdError> {
    Ok(!Record::read(&settings.backup)?.paths().is_empty())
}

fn wanted(settings: &ContainerdSettings) -> Result<Vec<Wanted>, ContainerdError> {
    let before = read(&settings.config)?.unwrap_or_default();
    let (config, certs) = documents::config(&settings.config, &before)?;
    let mut wanted = Vec::new();
    for host in &settings.hosts {
        let path = certs.join(&host.host).join("hosts.toml");
        // What others wrote there stays behind edge, also when this is done again.
        let original = Record::read(&settings.backup)?.before_or(&path, read(&path)?)?;
        let text = documents::hosts(&path, original.as_deref().unwrap_or_default(), host, settings)?;
        wanted.push(Wanted { path, text, is_config: false });
    }
    // Last, so that containerd finds the files when it is told of them.
    wanted.push(Wanted { path: settings.config.clone(), text: config, is_config: true });
    Ok(wanted)
}

fn read(path: &Path) -> Result<Option<String>, ContainerdError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(durable::named(e, "read", path).into()),
    }
}
