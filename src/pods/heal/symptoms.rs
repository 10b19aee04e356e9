//! What of a pod as it is now speaks for or against healing it. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kube::meta;
use crate::pods::policy;

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

    /// What the kubelet's event of this reason says is broken.
    pub fn of_event(reason: &str) -> Option<Self> {
        match reason {
            "FailedCreatePodSandBox" => Some(Self::Sandbox),
            "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => Some(Self::Mount),
            _ => None,
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
    /// Those of them that do not run, and that the kubelet makes wait before it starts them again.
    pub held_back: Vec<String>,
    /// What is broken, if anything.
    pub broken: Option<Broken>,
    /// Whether a container runs that could be stopped.
    pub runs: bool,
    /// Whether the runtime has anything of it, running or not.
    pub is_there: bool,
    /// On its way out, or finished.
    pub ending: bool,
    /// From a file on the node.
    pub is_static: bool,
}

/// What the merged `pod` shows. `broken` is what the runtime and the events say of what its containers share;
/// `is_there` whether the runtime has a sandbox of it.
pub fn symptoms(pod: &Value, broken: Option<Broken>, is_there: bool) -> Symptoms {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let lists = ["initContainerStatuses", "containerStatuses"];
    let statuses = || lists.iter().flat_map(|list| pod["status"][*list].as_array().into_iter().flatten());
    let mut symptoms = Symptoms {
        broken,
        runs: statuses().any(|s| s["state"]["running"].is_object()),
        is_there,
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
        // The kubelet writes `CrashLoopBackOff` at its next look only, which in a long back-off is late: until then the
        // container has ended, and would be started.
        let ended = &status["state"]["terminated"];
        let comes_back = |code: i64| policy::containers(pod).any(|c| c.name == name && c.comes_back(code));
        let will_start = failed(ended) && ended["exitCode"].as_i64().is_some_and(comes_back);
        let waits = status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        if will_start || (waits && failed(&status["lastState"]["terminated"])) {
            symptoms.held_back.push(name.to_owned());
        }
    }
    symptoms
}

fn is_static(pod: &Value) -> bool {
    let source = meta::annotation(pod, "kubernetes.io/config.source");
    meta::annotation(pod, "kubernetes.io/config.mirror").is_some() || matches!(source, Some("file" | "http"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_that_failed_and_waits_is_held_back() {
        let waits = |reason: &str| json!({"waiting": {"reason": reason}});
        let ended = |code: i32| json!({"terminated": {"exitCode": code}});
        let status =
            |name: &str, state: Value, last: Value| json!({"name": name, "state": state, "lastState": last});
        let spec = json!({"containers": [{"name": "ended"}, {"name": "over", "restartPolicy": "Never"}]});
        let pod = json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [
            status("loops", waits("CrashLoopBackOff"), ended(3)),
            status("in-order", waits("CrashLoopBackOff"), ended(0)),
            status("pulls", waits("ImagePullBackOff"), ended(3)),
            status("runs", json!({"running": {}}), ended(3)),
            status("ended", ended(3), json!({})),
            status("over", ended(3), json!({})),
        ]}});
        let symptoms = symptoms(&pod, None, true);
        assert_eq!(symptoms.held_back, ["loops", "ended"]);
        assert_eq!(symptoms.failing, ["loops", "pulls", "runs", "ended", "over"]);
    }
}
