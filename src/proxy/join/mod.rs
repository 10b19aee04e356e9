//! `edge join` and `edge leave`: edge takes over a node's cloud credentials, and gives them back.
//!
//! Both go in two halves, with the change to `edge.toml` between them, which is the caller's. Join first gets
//! everything ready, and touches kubelet last; leave gives kubelet its own back first. So a power cut at any
//! point leaves kubelet with one way or the other, and both commands can be run again.
//!
//! The caller holds the lock on the state folder.

mod dns;
mod error;
mod follow;
mod kubelet;
mod leave;
mod record;
mod source;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::proxy::cloud::kubeconfig::{Material, Written};
use crate::proxy::cloud::{ClientCertificate, CloudFiles};
use crate::proxy::request::Progress;
use crate::trust::ca::LocalCa;

pub use dns::ClusterDns;
pub use error::Error;
pub use follow::follow;
use kubelet::Rotated;
pub use leave::{Cached, Left, clear, give_back};
pub use record::{Record, Replaced};

/// What join is asked to do. All paths are absolute.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The kubeconfig to take over.
    pub from: PathBuf,
    /// Where to write kubelet's.
    pub kubelet_kubeconfig: PathBuf,
    /// Where to write the cloud's.
    pub cloud_kubeconfig: PathBuf,
    /// Where kubelet keeps the certificate that it rotates.
    pub kubelet_cert_dir: PathBuf,
    /// Where the files are that a kubeconfig names below kubelet's own default: a strict snap sees the host's elsewhere.
    pub kubelet_pki: PathBuf,
    /// The state folder.
    pub state_dir: PathBuf,
    /// Where kubelet finds the proxy now.
    pub listen: SocketAddr,
    /// The node's name, if the caller gives one.
    pub node_name: Option<String>,
    /// The name of this machine: the node's, if nothing else says it.
    pub host_name: String,
    /// How long to wait until the cloud has signed a certificate.
    pub timeout: Duration,
}

/// A join whose first half is done.
#[derive(Debug)]
pub struct Ready {
    plan: Plan,
    record: Record,
    ca: LocalCa,
    /// What edge speaks to the cloud with from now on.
    pub certificate: ClientCertificate,
}

/// First half: the credentials are edge's, and the cloud's kubeconfig is written. Kubelet notices nothing yet.
///
/// # Errors
/// One line; what was done so far stays, and join goes on from it.
pub async fn prepare(plan: Plan, tell: &mut (dyn FnMut(&Progress) + Send)) -> Result<Ready, Error> {
    let before = Record::read(&plan.state_dir)?;
    if let Some(record) = &before {
        check_same(record, &plan)?;
    }
    let ca = LocalCa::open_or_create(&plan.state_dir.join("pki"))?;
    let taken = source::take(&plan, before.as_ref(), &ca, tell).await?;
    let node = &taken.node_name;
    let mut record = match before {
        Some(record) => record,
        None => Record::begin(
            &plan.state_dir,
            node,
            &plan.cloud_kubeconfig,
            &plan.kubelet_kubeconfig,
            &plan.kubelet_cert_dir,
        )?,
    };
    if !taken.is_from_state {
        record.taken = taken.fingerprint;
    }
    record.write(&plan.state_dir)?;
    let files = CloudFiles::of(&plan.state_dir);
    // Of a daemon that runs, the rotator may be about to put another certificate there.
    let _held = CloudFiles::hold();
    if !taken.is_from_state {
        crate::sys::durable::remove(&files.next()).map_err(Error::File)?;
        files.write_pair(&files.current(), &taken.certificate).map_err(Error::File)?;
    }
    files.write(&files.authority(), taken.credentials.authority_pem.as_bytes()).map_err(Error::File)?;
    // Only now: until the pair is there, a repeated join asks with the same key.
    crate::sys::durable::remove(&files.pending_key()).map_err(Error::File)?;
    let (server, name) = (taken.credentials.server.to_string(), taken.credentials.tls_server_name.as_deref());
    kubelet::write_in_folder(&plan.cloud_kubeconfig, &cloud_kubeconfig(&server, name, node, &files))?;
    Ok(Ready { record, ca, certificate: taken.certificate, plan })
}

/// Lays what kubelet's kubeconfig was before a join beside it, where no join has done so yet: an edge before this one did not.
///
/// # Errors
/// Where the record cannot be read, or nothing can be written there.
pub fn lay_beside(state_dir: &std::path::Path) -> Result<(), Error> {
    match Record::read(state_dir)? {
        Some(record) => record.kubelet_kubeconfig.lay_beside(),
        None => Ok(()),
    }
}

impl Ready {
    /// The node's name.
    pub fn node_name(&self) -> &str {
        &self.record.node_name
    }

    /// Second half: kubelet gets its kubeconfig towards edge, which it finds at `listen`, and the cloud's certificate is
    /// taken out of its way.
    ///
    /// # Errors
    /// As for [`prepare`].
    pub fn hand_over(mut self, listen: SocketAddr) -> Result<Record, Error> {
        let (plan, node) = (&self.plan, self.record.node_name.clone());
        self.record.kubelet_kubeconfig.lay_beside()?;
        kubelet::write_kubeconfig(&plan.kubelet_kubeconfig, &node, listen, &self.ca)?;
        let rotated = Rotated::in_folder(&plan.kubelet_cert_dir);
        if rotated.is_armed(&self.ca) {
            self.record.disarmed = true;
            self.record.write(&plan.state_dir)?;
            rotated.disarm()?;
        }
        Ok(self.record)
    }
}

fn check_same(record: &Record, plan: &Plan) -> Result<(), Error> {
    if let Some(wanted) = plan.node_name.as_ref().filter(|name| **name != record.node_name) {
        return Err(Error::JoinedAsOther { joined: record.node_name.clone(), wanted: wanted.clone() });
    }
    let paths = [
        ("kubelet's kubeconfig", &record.kubelet_kubeconfig.path, &plan.kubelet_kubeconfig),
        ("the cloud's kubeconfig", &record.cloud_kubeconfig.path, &plan.cloud_kubeconfig),
        ("kubelet's certificates in", &record.kubelet_cert_dir, &plan.kubelet_cert_dir),
    ];
    match paths.into_iter().find(|(_, joined, wanted)| joined != wanted) {
        Some((what, path, _)) => Err(Error::JoinedElsewhere { what, path: path.clone() }),
        None => Ok(()),
    }
}

fn cloud_kubeconfig(server: &str, tls_server_name: Option<&str>, node: &str, files: &CloudFiles) -> String {
    Written {
        cluster: "cloud",
        user: &format!("system:node:{node}"),
        server: server.trim_end_matches('/'),
        tls_server_name,
        authority: Material::File(files.authority()),
        certificate: Material::File(files.current()),
        key: Material::File(files.current()),
    }
    .text()
}

/// Whether `name` can be a node's: a DNS subdomain (RFC 1123).
fn is_node_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}
