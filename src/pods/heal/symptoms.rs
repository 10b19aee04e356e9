//! What of a pod as it is now speaks for or against healing it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
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
    /// Those of them that do not run, and that the kubelet makes wait before it starts them again; how long each ran
    /// before it failed, if that is known.
    pub held_back: BTreeMap<String, Option<Duration>>,
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
        let before = &status["lastState"]["terminated"];
        if will_start || (waits && failed(before)) {
            symptoms.held_back.insert(name.to_owned(), ran(if will_start { ended } else { before }));
        }
    }
    symptoms
}

/// How long a container ran that has ended. One that could not be started did not run at all: as its start it has
/// none, or the epoch.
fn ran(ended: &Value) -> Option<Duration> {
    let time = |key: &str| ended[key].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let (started, finished) = (time("startedAt"), time("finishedAt")?);
    let ran = started.filter(|at| *at > Timestamp::UNIX_EPOCH).map(|at| finished.duration_since(at));
    Some(ran.and_then(|ran| Duration::try_from(ran).ok()).unwrap_or_default())
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
        let held_back: Vec<&str> = symptoms.held_back.keys().map(String::as_str).collect();
        assert_eq!(held_back, ["ended", "loops"]);
        assert_eq!(symptoms.failing, ["loops", "pulls", "runs", "ended", "over"]);
    }

    #[test]
    fn how_long_it_ran_is_known_where_both_times_are() {
        let ran = |started: Value, finished: Value| {
            ran(&json!({"exitCode": 3, "startedAt": started, "finishedAt": finished}))
        };
        let at = |time: &str| json!(format!("2026-01-01T{time}Z"));
        assert_eq!(ran(at("00:00:10"), at("00:06:50")), Some(Duration::from_secs(400)));
        assert_eq!(ran(at("00:00:10"), at("00:00:10")), Some(Duration::ZERO));
        assert_eq!(ran(at("00:00:10"), at("00:00:09")), Some(Duration::ZERO), "the clock was set back");
        let never = json!("1970-01-01T00:00:00Z");
        assert_eq!(ran(never, at("00:00:10")), Some(Duration::ZERO), "the kubelet's word");
        assert_eq!(ran(Value::Null, at("00:00:10")), Some(Duration::ZERO), "the runtime's");
        assert_eq!(ran(at("00:00:10"), Value::Null), None);
    }
}
