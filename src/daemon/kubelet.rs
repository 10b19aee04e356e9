//! What the appliance's kubelet is started with: how it finds the cloud through edge, its node's name, and by which
//! authority it knows the API server when that asks it something (`kubectl logs`, `exec`, `port-forward`).
//!
//! That authority is the owner's word, or else the kubeconfig's own where it signed this node's certificate: then it is the
//! one by which the cloud knows its clients. Any other may be a company's or the public's, whose clients are strangers here.
//! Where it is being renewed there are two, and the API server may come with a certificate of either.
//!
//! What the cloud says of its DNS goes into kubelet's configuration and not among its arguments: those go over the owner's own
//! files, and his word, such as a cache of names on the node, counts.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::task::TaskError;
use crate::config::Config;
use crate::proxy::cloud::{ClientCertificate, Credentials};
use crate::proxy::join::{ClusterDns, Record};
use crate::sys::{durable, yaml};
use crate::system::{self, Places};
use crate::trust::certificate::{authorities_of, pem};

/// Where the kubeconfig's authority lies; of the boot alone, as the arguments.
const TAKEN: &str = "/run/edge/kubelet-client-ca.crt";
/// kubelet's configuration as the image has it, and with the cluster's DNS.
const IMAGE: &str = "/usr/share/edge/kubelet.yaml";
const CONFIG: &str = "/run/edge/kubelet.yaml";
/// The owner's settings that kubelet starts with.
const OWN: &str = "/run/edge/kubelet.d";
/// Those that kubelet is asked about.
const ASKED: &str = "/run/edge/kubelet.d.asked";
/// The first kubelet that takes a folder of settings: two before it only where an environment variable is set, older ones do
/// not start with such an argument.
const TAKES_FOLDER: (u32, u32) = (1, 30);

/// Writes down what kubelet is started with: the owner's settings, and how it finds the cloud through edge. Says what it has
/// to do without, in lines.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn tell(config: &Config, places: &Places) -> Result<Vec<String>, TaskError> {
    durable::folder(&places.at("/run/edge"), 0o700).map_err(TaskError::failed)?;
    let (mut arguments, mut environment, mut lacks) = (Vec::new(), String::new(), Vec::new());
    let mut configuration = places.at(IMAGE);
    if let Some(record) = Record::read(&config.state_dir).map_err(TaskError::failed)? {
        // Alone, kubelet answers nobody but this machine; joined, the cloud says who may ask it. The node has the name that
        // the cloud signed for, whatever the machine calls itself.
        arguments.push(format!("--kubeconfig={}", record.kubelet_kubeconfig.path.display()));
        arguments.push(format!("--hostname-override={}", record.node_name));
        arguments.push("--authentication-token-webhook=true --authorization-mode=Webhook".to_owned());
        match client_ca(&record, places) {
            Ok(path) => arguments.push(format!("--client-ca-file={}", path.display())),
            // It starts without, and would not with a file that holds none.
            Err(why) => {
                lacks.push(format!("kubelet refuses `kubectl logs` and `exec` of the cloud: {why}"));
            }
        }
        match ClusterDns::read(&config.state_dir) {
            Ok(Some(dns)) => {
                let path = places.at(CONFIG);
                durable::write(&path, with_dns(&dns, places)?.as_bytes(), 0o600)
                    .map_err(TaskError::failed)?;
                environment = format!("KUBELET_CONFIG={}\n", path.display());
                configuration = path;
            }
            // The daemon asks the cloud once it answers.
            Ok(None) => {}
            Err(error) => {
                lacks.push(format!("pods find no names of the cluster until the cloud answers: {error}"))
            }
        }
    }
    if let Some(folder) = own_settings(places, &configuration, &mut lacks)? {
        arguments.push(format!("--config-dir={}", folder.display()));
    }
    let text = format!("{environment}KUBELET_ARGS={}\n", arguments.join(" "));
    durable::write(&places.at("/run/edge/kubelet.env"), text.as_bytes(), 0o600).map_err(TaskError::failed)?;
    Ok(lacks)
}

/// The image's configuration with the cluster's DNS, as JSON, which is YAML. Where the image itself names one, that holds.
fn with_dns(dns: &ClusterDns, places: &Places) -> Result<String, TaskError> {
    let path = places.at(IMAGE);
    let text =
        std::fs::read_to_string(&path).map_err(|e| TaskError::failed(durable::named(e, "read", &path)))?;
    let damaged = |why| TaskError::failed(format!("`{}` is damaged: {why}", path.display()));
    let mut config: Map<String, Value> = yaml::read(&text).map_err(damaged)?;
    if !config.contains_key("clusterDNS") {
        config.extend(dns.settings());
    }
    Ok(format!("{:#}\n", Value::Object(config)))
}

/// The folder of the owner's settings that kubelet can start with, if there are any: copies, since one that is wrong costs
/// itself alone, and kubelet takes all of a folder or does not start. It is asked itself, `configuration` below them.
fn own_settings(
    places: &Places,
    configuration: &Path,
    lacks: &mut Vec<String>,
) -> Result<Option<PathBuf>, TaskError> {
    let (good, wrong) = system::own_kubelet(places);
    lacks.extend(wrong);
    let folder = places.at(OWN);
    let taken = if good.is_empty() { good } else { taken_by_kubelet(places, configuration, good, lacks)? };
    if taken.is_empty() {
        clear(&folder)?;
        return Ok(None);
    }
    lay_out(&folder, &taken)?;
    Ok(Some(folder))
}

/// Those of the owner's files, by name and content, that kubelet starts with.
fn taken_by_kubelet(
    places: &Places,
    configuration: &Path,
    files: Vec<(String, Vec<u8>)>,
    lacks: &mut Vec<String>,
) -> Result<Vec<(String, Vec<u8>)>, TaskError> {
    let takes = match system::kubelet_version(places) {
        Ok(version) if version >= TAKES_FOLDER => Ok(()),
        Ok((major, minor)) => Err(format!("kubelet {major}.{minor} takes none, 1.30 and newer ones do")),
        Err(error) => Err(error.to_string()),
    };
    if let Err(why) = takes {
        lacks.push(format!("the settings of `/etc/edge/kubelet.d` are not in force: {why}"));
        return Ok(Vec::new());
    }
    // A kubelet that starts meanwhile has its own folder as it was.
    let folder = places.at(ASKED);
    let refused = |files: &[(String, Vec<u8>)]| {
        lay_out(&folder, files)?;
        let why = system::refused_settings(places, configuration, &folder);
        clear(&folder)?;
        Ok::<_, TaskError>(why)
    };
    let mut blame = |name: &str, why: &str| {
        lacks.push(format!("`/etc/edge/kubelet.d/{name}` is not in force: kubelet does not take it: {why}"));
    };
    // Which of them it is, is asked only where one is wrong: each question starts a kubelet. And if kubelet does not take its
    // own configuration either, it is none of them.
    let Some(why) = refused(&files)? else { return Ok(files) };
    if refused(&[])?.is_some() {
        return Ok(files);
    }
    // One alone, if all others go together: one may need what a later one says.
    for at in 0..files.len() {
        let mut others = files.clone();
        let (name, _) = others.remove(at);
        if refused(&others)?.is_none() {
            blame(&name, &why);
            return Ok(others);
        }
    }
    let mut taken = Vec::new();
    for file in files {
        taken.push(file);
        if let Some(why) = refused(&taken)?
            && let Some((name, _)) = taken.pop()
        {
            blame(&name, &why);
        }
    }
    Ok(taken)
}

fn clear(folder: &Path) -> Result<(), TaskError> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(TaskError::failed(durable::named(e, "remove", folder)))
        }
        _ => Ok(()),
    }
}

/// Makes `folder` hold just these files.
fn lay_out(folder: &Path, files: &[(String, Vec<u8>)]) -> Result<(), TaskError> {
    clear(folder)?;
    durable::folder(folder, 0o700).map_err(TaskError::failed)?;
    for (name, bytes) in files {
        durable::write(&folder.join(name), bytes, 0o600).map_err(TaskError::failed)?;
    }
    Ok(())
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
    // The daemon, and whoever joins or leaves by hand: the last one tells what holds then.
    let done = places.lock("kubelet.lock").map_err(TaskError::failed).and_then(|_alone| {
        for line in tell(config, &places)? {
            tracing::warn!("{line}");
        }
        system::restart_kubelet().map_err(TaskError::failed)
    });
    done.map_err(|e| {
        let message = format!("kubelet does not know of it yet: {} hint: restart the machine", e.message);
        TaskError { message, ..e }
    })?;
    Ok(true)
}
