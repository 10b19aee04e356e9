//! What of a pod as it is now speaks for or against healing it. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kube::meta;

/// What is wrong with what a pod's containers share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The sandbox's network namespace is gone.
    NetworkNamespace,
    /// Its sandbox runs, and it has no address.
    NoAddress,
    /// The kubelet cannot mount a volume.
    Mount,
    /// The kubelet cannot make a sandbox.
    Sandbox,
}

impl Broken {
    /// For events and `edge status`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NetworkNamespace => "its network namespace is gone",
            Self::NoAddress => "it has no address",
            Self::Mount => "a volume cannot be mounted",
            Self::Sandbox => "its sandbox cannot be made",
        }
    }
}

/// A pod at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symptoms {
    /// How often each container was started again.
    pub restarts: BTreeMap<String, u32>,
    /// Those of them whose last run failed.
    pub failing: Vec<String>,
    /// What is broken, if anything.
    pub broken: Option<Broken>,
    /// Whether a container runs that could be stopped.
    pub runs: bool,
    /// On its way out, or finished.
    pub ending: bool,
    /// From a file on the node.
    pub is_static: bool,
}

/// What the merged `pod` shows. `lost_namespace` says that the network namespace of its ready sandbox is not there;
/// `reasons` are those of its recent Warning events.
pub fn symptoms(pod: &Value, lost_namespace: bool, reasons: &[&str]) -> Symptoms {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let lists = ["initContainerStatuses", "containerStatuses"];
    let statuses = || lists.iter().flat_map(|list| pod["status"][*list].as_array().into_iter().flatten());
    let mut symptoms = Symptoms {
        broken: broken(pod, lost_namespace, reasons),
        runs: statuses().any(|s| s["state"]["running"].is_object()),
        ending: meta::deletion_timestamp(pod).is_some() || matches!(phase, "Succeeded" | "Failed"),
        is_static: is_static(pod),
        ..Symptoms::default()
    };
    for status in statuses() {
        let name = status["name"].as_str().unwrap_or_default();
        let restarts = status["restartCount"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        symptoms.restarts.insert(name.to_owned(), restarts);
        let failed = |ended: &Value| ended.is_object() && ended["exitCode"] != 0;
        if failed(&status["state"]["terminated"]) || failed(&status["lastState"]["terminated"]) {
            symptoms.failing.push(name.to_owned());
        }
    }
    symptoms
}

fn broken(pod: &Value, lost_namespace: bool, reasons: &[&str]) -> Option<Broken> {
    let host_network = pod["spec"]["hostNetwork"] == true;
    let running = pod["status"]["phase"] == "Running";
    let address = pod["status"]["podIP"].as_str().unwrap_or_default();
    if lost_namespace && !host_network {
        Some(Broken::NetworkNamespace)
    } else if reasons.contains(&"FailedCreatePodSandBox") {
        Some(Broken::Sandbox)
    } else if reasons.contains(&"FailedMount") {
        Some(Broken::Mount)
    } else if running && !host_network && address.is_empty() {
        Some(Broken::NoAddress)
    } else {
        None
    }
}

fn is_static(pod: &Value) -> bool {
    let source = meta::annotation(pod, "kubernetes.io/config.source");
    meta::annotation(pod, "kubernetes.io/config.mirror").is_some() || matches!(source, Some("file" | "http"))
}
