//! The way back. Kubelet first gets what it needs to speak to the cloud by itself; only then is
//! anything of edge's removed.

use std::path::{Path, PathBuf};

use super::Error;
use super::dns::ClusterDns;
use super::kubelet::Rotated;
use super::record::Record;
use crate::proxy::cloud::{ClientCertificate, CloudFiles};
use crate::sys::durable;
use crate::trust::ca::LocalCa;

/// What was put back.
#[derive(Debug)]
pub struct Left {
    /// The node's name.
    pub node_name: String,
    /// The cloud's kubeconfig that join wrote, which `edge.toml` no longer may name.
    pub cloud_kubeconfig: PathBuf,
    /// Kubelet's kubeconfig that join wrote; `true` if what was there before is there again.
    pub kubelet_kubeconfig: (PathBuf, bool),
    /// Where kubelet finds the newest certificate of the cloud, if it was put there.
    pub certificate: Option<PathBuf>,
}

/// First half: kubelet has its own again. `None` if this gateway is not joined.
///
/// # Errors
/// One line; leave can be run again. [`Error::BackupMissing`] comes before anything is touched.
pub fn give_back(state_dir: &Path) -> Result<Option<Left>, Error> {
    let Some(record) = Record::read(state_dir)? else { return Ok(None) };
    record.kubelet_kubeconfig.check()?;
    record.cloud_kubeconfig.check()?;
    let ca = LocalCa::open_or_create(&state_dir.join("pki"))?;
    let files = CloudFiles::of(state_dir);
    let newest = newest(&files)?;
    let certificate = give_certificate(&record, &ca, newest.as_ref())?;
    let restored = record.kubelet_kubeconfig.restore()?;
    record.kubelet_kubeconfig.clear_beside()?;
    Ok(Some(Left {
        node_name: record.node_name,
        cloud_kubeconfig: record.cloud_kubeconfig.path,
        kubelet_kubeconfig: (record.kubelet_kubeconfig.path, restored),
        certificate,
    }))
}

/// What becomes of the cache's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// Nobody has it open: it is removed.
    Closed,
    /// The caller has it open, and has emptied it.
    Emptied,
}

/// Second half: the cloud's key material, its kubeconfig and the cache of its objects are removed, the
/// record of the join last. Without a record, what a leave that was cut short left behind.
///
/// # Errors
/// One line; leave can be run again.
pub fn clear(state_dir: &Path, cached: Cached) -> Result<(), Error> {
    if let Some(record) = Record::read(state_dir)? {
        if cached == Cached::Closed {
            remove_cache(state_dir)?;
        }
        record.cloud_kubeconfig.restore()?;
        CloudFiles::of(state_dir).clear().map_err(Error::File)?;
    }
    // Nobody has these open.
    crate::cache::forget_damaged(state_dir).map_err(Error::File)?;
    ClusterDns::clear(state_dir)?;
    Record::clear(state_dir)
}

/// One that was issued and not used yet is the newest.
fn newest(files: &CloudFiles) -> Result<Option<ClientCertificate>, Error> {
    let current = files.read_pair(&files.current())?;
    let next = files.read_pair(&files.next()).unwrap_or(None);
    Ok([current, next].into_iter().flatten().max_by_key(|pair| pair.not_after))
}

/// Kubelet gets the cloud's certificate where it looks for a rotated one: if one was moved aside from there,
/// or if edge has one that the kubeconfig from before does not.
fn give_certificate(
    record: &Record,
    ca: &LocalCa,
    newest: Option<&ClientCertificate>,
) -> Result<Option<PathBuf>, Error> {
    let rotated = Rotated::in_folder(&record.kubelet_cert_dir);
    let is_new = newest.is_some_and(|pair| record.taken.as_deref() != Some(pair.fingerprint().as_str()));
    if record.disarmed {
        rotated.rearm(newest)?;
    } else if let Some(pair) = newest.filter(|_| is_new && record.kubelet_cert_dir.is_dir()) {
        rotated.install(pair)?;
    } else {
        rotated.drop_local(ca)?;
        return Ok(None);
    }
    Ok(Some(rotated.current()))
}

/// `cache.db` and what SQLite keeps beside it: Secrets lie in there.
fn remove_cache(state_dir: &Path) -> Result<(), Error> {
    let listed =
        std::fs::read_dir(state_dir).map_err(|e| Error::File(durable::named(e, "list", state_dir)))?;
    for entry in listed {
        let entry = entry.map_err(|e| Error::File(durable::named(e, "list", state_dir)))?;
        if entry.file_name().to_string_lossy().starts_with("cache.db") {
            durable::remove(&entry.path()).map_err(Error::File)?;
        }
    }
    Ok(())
}
