//! Where the cloud's certificate comes from: the kubeconfig that was given, a new one from the cloud, or
//! the one that edge has already.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::Instant;

use super::kubelet::{Rotated, followed};
use super::record::Record;
use super::{Error, Plan, is_node_name};
use crate::proxy::api::Api;
use crate::proxy::cloud::kubeconfig::{Kubeconfig, Material};
use crate::proxy::cloud::{self, ClientCertificate, CloudFiles, Credentials};
use crate::proxy::request::{self, Asked, Progress};
use crate::proxy::rotate;
use crate::sys::clock;
use crate::trust::ca::LocalCa;

/// Where kubelet keeps the certificate that it rotates, unless it is told otherwise.
const KUBELET_PKI: &str = "/var/lib/kubelet/pki";

/// What edge speaks to the cloud with from now on.
pub struct Taken {
    pub node_name: String,
    /// Where the cloud is; its certificate is not the one to use.
    pub credentials: Credentials,
    pub certificate: ClientCertificate,
    /// Fingerprint of the certificate that came from outside; `None` if edge asked for it itself.
    pub fingerprint: Option<String>,
    /// Nothing new was taken: it is what edge had already, and what lies in the state folder may be newer.
    pub is_from_state: bool,
}

/// # Errors
/// One line on what is wrong with `--from`, or why the cloud gave no certificate.
pub async fn take(
    plan: &Plan,
    before: Option<&Record>,
    ca: &LocalCa,
    tell: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Taken, Error> {
    let config = Kubeconfig::read(&plan.from).map_err(|error| match error {
        cloud::Error::Read(e) if e.kind() == ErrorKind::NotFound => {
            Error::NoSource { path: plan.from.clone() }
        }
        error => error.into(),
    })?;
    // Before the cloud is asked for anything: what cannot be moved aside would keep kubelet from edge.
    Rotated::in_folder(&plan.kubelet_cert_dir).check()?;
    let points_here = points_here(&config, plan, ca);
    match before {
        Some(record) if points_here || is_taken_over(&config, plan, ca) => return from_state(plan, record),
        None if points_here => return Err(Error::PointsHere { path: plan.from.clone() }),
        _ => {}
    }
    let credentials = Credentials::of(&seen(config, plan))?;
    let Some(given) = credentials.client.clone() else {
        return from_token(plan, before, credentials, tell).await;
    };
    let node_name = node_of(plan, before, &credentials, &given)?;
    let kept = kept(plan, &node_name).filter(|_| is_joined_to(before, &credentials));
    // The same certificate again, or an older one: edge may have rotated it meanwhile. Of another cloud it is the one that
    // is good there.
    if let Some(kept) = kept.filter(|kept| kept.not_after >= given.not_after) {
        kept.check_dates(&plan.from, clock::now())?;
        let fingerprint = Some(given.fingerprint());
        return Ok(Taken { node_name, credentials, certificate: kept, fingerprint, is_from_state: true });
    }
    given.check_dates(&plan.from, clock::now())?;
    let fingerprint = Some(given.fingerprint());
    Ok(Taken { node_name, credentials, certificate: given, fingerprint, is_from_state: false })
}

/// The same with the files of kubelet's folder where they are seen from here.
fn seen(mut config: Kubeconfig, plan: &Plan) -> Kubeconfig {
    let parts = [&mut config.authority, &mut config.certificate, &mut config.key, &mut config.token];
    for part in parts.into_iter().flatten() {
        if let Material::File(path) = part {
            *path = seen_file(path, plan);
        }
    }
    config
}

fn seen_file(path: &Path, plan: &Plan) -> PathBuf {
    path.strip_prefix(KUBELET_PKI)
        .map_or_else(|_| path.to_path_buf(), |below| followed(&plan.kubelet_pki.join(below)))
}

/// Whether it is one that join wrote for kubelet, also before `proxy.listen` was changed.
fn points_here(config: &Kubeconfig, plan: &Plan, ca: &LocalCa) -> bool {
    let authority = config.authority.as_ref().and_then(|authority| authority.load().ok());
    config.server == format!("https://{}", plan.listen)
        || authority.is_some_and(|pem| pem == ca.ca_pem().as_bytes())
}

/// Whether the certificate it names is what join moved aside, or what edge signed for kubelet since.
fn is_taken_over(config: &Kubeconfig, plan: &Plan, ca: &LocalCa) -> bool {
    let Some(Material::File(path)) = &config.certificate else { return false };
    if path.file_name().is_none_or(|name| name != "kubelet-client-current.pem") {
        return false;
    }
    match std::fs::read_to_string(seen_file(path, plan)) {
        Ok(text) => ClientCertificate::parse(path, &text, &text)
            .is_ok_and(|pair| pair.leaf().is_some_and(|leaf| ca.has_signed(&leaf))),
        Err(_) => true,
    }
}

fn from_state(plan: &Plan, record: &Record) -> Result<Taken, Error> {
    let files = CloudFiles::of(&plan.state_dir);
    let lost = || Error::Lost { path: plan.from.clone() };
    let certificate = files.read_pair(&files.current())?.ok_or_else(lost)?;
    if clock::now() > certificate.not_after {
        return Err(Error::Dead { at: certificate.not_after });
    }
    let credentials = Credentials::read(&record.cloud_kubeconfig.path)?;
    let node_name = record.node_name.clone();
    Ok(Taken { node_name, credentials, certificate, fingerprint: None, is_from_state: true })
}

async fn from_token(
    plan: &Plan,
    before: Option<&Record>,
    credentials: Credentials,
    tell: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Taken, Error> {
    let known = plan.node_name.clone().or_else(|| before.map(|record| record.node_name.clone()));
    let node_name = known.unwrap_or_else(|| plan.host_name.trim().to_lowercase());
    if !is_node_name(&node_name) {
        return Err(Error::NodeName { name: node_name });
    }
    if let Some(kept) = kept(plan, &node_name).filter(|kept| clock::now() < kept.not_after)
        && (is_joined_to(before, &credentials) || is_good(&credentials, &kept).await)
    {
        let (certificate, is_from_state) = (kept, true);
        return Ok(Taken { node_name, credentials, certificate, fingerprint: None, is_from_state });
    }
    let certificate = ask(plan, &credentials, &node_name, tell).await?;
    Ok(Taken { node_name, credentials, certificate, fingerprint: None, is_from_state: false })
}

/// Asks the cloud. The key is on disk before the request is sent, so that a repeated join finds its request.
async fn ask(
    plan: &Plan,
    credentials: &Credentials,
    node: &str,
    tell: &mut (dyn FnMut(&Progress) + Send),
) -> Result<ClientCertificate, Error> {
    let files = CloudFiles::of(&plan.state_dir);
    let pending = files.pending_key();
    let asked = match std::fs::read_to_string(&pending).ok().and_then(|key| Asked::again(node, &key).ok()) {
        Some(asked) => asked,
        None => {
            let asked = Asked::new(node)?;
            files.write(&pending, asked.key_pem().as_bytes()).map_err(Error::File)?;
            asked
        }
    };
    let api = Api::new(Arc::new(credentials.clone()))?;
    let outcome = request::obtain(&api, &asked, Instant::now() + plan.timeout, tell).await;
    if outcome.as_ref().is_err_and(request::Error::is_final) {
        crate::sys::durable::remove(&pending).map_err(Error::File)?;
    }
    Ok(outcome?)
}

/// Whether this is the cloud that edge speaks to already: where it is, and who is trusted there. One that was built anew
/// has another authority, and often the same address.
fn is_joined_to(before: Option<&Record>, given: &Credentials) -> bool {
    let authorities = |credentials: &Credentials| {
        let all = CertificateDer::pem_slice_iter(credentials.authority_pem.as_bytes()).filter_map(Result::ok);
        let mut all: Vec<Vec<u8>> = all.map(|one| one.to_vec()).collect();
        all.sort_unstable();
        all
    };
    let joined = before.and_then(|record| Credentials::read(&record.cloud_kubeconfig.path).ok());
    joined.is_some_and(|joined| joined.server == given.server && authorities(&joined) == authorities(given))
}

/// Whether a cloud takes the certificate that edge has. Where that is not known either, it is asked for a new one.
async fn is_good(cloud: &Credentials, kept: &ClientCertificate) -> bool {
    let probe = Credentials { client: Some(kept.clone()), token: None, ..cloud.clone() };
    match rotate::accepted(&probe).await {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(%error, "the certificate that is here is not taken over");
            false
        }
    }
}

/// The certificate that edge has already, if it is this node's. Whoever joins anew mends one that cannot be read.
fn kept(plan: &Plan, node: &str) -> Option<ClientCertificate> {
    let files = CloudFiles::of(&plan.state_dir);
    let pair = files.read_pair(&files.current()).unwrap_or_else(|error| {
        tracing::warn!(%error, "the certificate that is here is not taken over");
        None
    });
    pair.filter(|pair| pair.common_name == format!("system:node:{node}"))
}

fn node_of(
    plan: &Plan,
    before: Option<&Record>,
    credentials: &Credentials,
    given: &ClientCertificate,
) -> Result<String, Error> {
    let path: &Path = &plan.from;
    let found = credentials
        .node_name()
        .ok_or_else(|| Error::NotANode { path: path.into(), common_name: given.common_name.clone() })?;
    if let Some(wanted) = plan.node_name.as_ref().filter(|name| *name != found) {
        return Err(Error::OtherNode { path: path.into(), found: found.into(), wanted: wanted.clone() });
    }
    if let Some(record) = before.filter(|record| record.node_name != found) {
        return Err(Error::JoinedAsOther { joined: record.node_name.clone(), wanted: found.into() });
    }
    Ok(found.to_owned())
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
