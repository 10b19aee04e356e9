//! What the appliance's kubelet is started with: how it finds the cloud through edge, its node's name, and by which
//! authority it knows the API server when that asks it something (`kubectl logs`, `exec`, `port-forward`).
//!
//! That authority is the owner's word, or else the kubeconfig's own where it signed this node's certificate: then it is the
//! one by which the cloud knows its clients. Any other may be a company's or the public's, whose clients are strangers here.
//! Where it is being renewed there are two, and the API server may come with a certificate of either.

use std::path::PathBuf;

use super::task::TaskError;
use crate::config::Config;
use crate::proxy::cloud::{ClientCertificate, Credentials};
use crate::proxy::join::Record;
use crate::sys::durable;
use crate::system::{self, Places};
use crate::trust::certificate::{authorities_of, pem};

/// Where the kubeconfig's authority lies; of the boot alone, as the arguments.
const TAKEN: &str = "/run/edge/kubelet-client-ca.crt";

/// Writes down what kubelet is started with: nothing, or how it finds the cloud through edge. Says what it has to do without.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn tell(config: &Config, places: &Places) -> Result<Option<String>, TaskError> {
    durable::folder(&places.at("/run/edge"), 0o700).map_err(TaskError::failed)?;
    let (mut arguments, mut lacks) = (String::new(), None);
    if let Some(record) = Record::read(&config.state_dir).map_err(TaskError::failed)? {
        // Alone, kubelet answers nobody but this machine; joined, the cloud says who may ask it. The node has the name that
        // the cloud signed for, whatever the machine calls itself.
        arguments = format!(
            "--kubeconfig={} --hostname-override={} --authentication-token-webhook=true --authorization-mode=Webhook",
            record.kubelet_kubeconfig.path.display(),
            record.node_name
        );
        match client_ca(&record, places) {
            Ok(path) => arguments += &format!(" --client-ca-file={}", path.display()),
            // It starts without, and would not with a file that holds none.
            Err(why) => {
                lacks = Some(format!("kubelet refuses `kubectl logs` and `exec` of the cloud: {why}"))
            }
        }
    }
    let text = format!("KUBELET_ARGS={arguments}\n");
    durable::write(&places.at("/run/edge/kubelet.env"), text.as_bytes(), 0o600).map_err(TaskError::failed)?;
    Ok(lacks)
}

/// The file by which kubelet knows the cloud's clients. Nobody is asked: it is the same after a reboot in an outage.
fn client_ca(record: &Record, places: &Places) -> Result<PathBuf, String> {
    if let Some(path) = system::client_ca(places)? {
        return Ok(path);
    }
    let cloud = Credentials::read(&record.cloud_kubeconfig.path).map_err(|e| e.to_string())?;
    let node = cloud.client.as_ref().and_then(ClientCertificate::leaf);
    let taken = node.map(|node| authorities_of(cloud.authority_pem.as_bytes(), &node)).unwrap_or_default();
    if taken.is_empty() {
        return Err(
            "the authority in its kubeconfig is not the one that signed this node's certificate hint: lay that of its clients at `/etc/edge/client-ca.crt`, and restart the machine"
                .into(),
        );
    }
    let text: String = taken.iter().map(|der| pem("CERTIFICATE", der)).collect();
    let path = places.at(TAKEN);
    durable::write(&path, text.as_bytes(), 0o644).map_err(|e| e.to_string())?;
    Ok(path)
}

/// After joining or leaving by hand: on an appliance kubelet is told, and starts anew. Whether this is one.
///
/// # Errors
/// Where it cannot be told; it would be at the next boot.
pub fn follow_membership(config: &Config) -> Result<bool, TaskError> {
    let places = Places::below(&config.system.root);
    if places.booted().is_err() {
        return Ok(false);
    }
    let done = tell(config, &places).and_then(|lacks| {
        if let Some(lacks) = lacks {
            tracing::warn!("{lacks}");
        }
        system::restart_kubelet().map_err(TaskError::failed)
    });
    done.map_err(|e| {
        let message = format!("kubelet does not know of it yet: {} hint: restart the machine", e.message);
        TaskError { message, ..e }
    })?;
    Ok(true)
}
