//! The row of a pod, after `printPod` of Kubernetes' printers.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, Row, age, list, or};
use crate::kube::meta;

pub(super) static COLUMNS: [Column; 9] = [
    NAME,
    Column {
        name: "Ready",
        priority: 0,
        description: "The aggregate readiness state of this pod for accepting traffic.",
    },
    Column {
        name: "Status",
        priority: 0,
        description: "The aggregate status of the containers in this pod.",
    },
    Column {
        name: "Restarts",
        priority: 0,
        description: "The number of times the containers in this pod have been restarted and when the last container \
            in this pod has restarted.",
    },
    AGE,
    Column { name: "IP", priority: 1, description: "IP address allocated to the pod." },
    Column { name: "Node", priority: 1, description: "The node that this pod is bound to." },
    Column { name: "Nominated Node", priority: 1, description: "The node that preempts for this pod." },
    Column { name: "Readiness Gates", priority: 1, description: "The readiness gates of this pod." },
];

/// Restarts, and when the last of them was.
#[derive(Clone, Copy, Default)]
struct Restarts<'a> {
    count: i64,
    last: Option<&'a str>,
}

/// What the containers of a pod add up to.
struct Tally<'a> {
    reason: String,
    ready: usize,
    restarts: Restarts<'a>,
}

pub(super) fn row(pod: &Value, now: Timestamp) -> Row {
    let phase = or(pod, "/status/phase", "");
    let tally = tally(pod, phase);
    let sidecars = list(pod, "/spec/initContainers").iter().filter(|c| restartable(c)).count();
    let total = list(pod, "/spec/containers").len() + sidecars;
    let cells = vec![
        json!(meta::name(pod).unwrap_or_default()),
        json!(format!("{}/{total}", tally.ready)),
        json!(status(pod, phase, tally.reason)),
        json!(tally.restarts.shown(now)),
        json!(age(meta::creation_timestamp(pod), now)),
        json!(or(pod, "/status/podIPs/0/ip", or(pod, "/status/podIP", "<none>"))),
        json!(or(pod, "/spec/nodeName", "<none>")),
        json!(or(pod, "/status/nominatedNodeName", "<none>")),
        json!(gates(pod)),
    ];
    let done =
        |message: &str| json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]);
    let conditions = match phase {
        "Succeeded" => done("The pod has completed successfully."),
        "Failed" => done("The pod failed."),
        _ => Value::Null,
    };
    Row { cells, conditions }
}

/// The words of STATUS that outrank those of the containers.
fn status(pod: &Value, phase: &str, reason: String) -> String {
    let deleted = meta::deletion_timestamp(pod).is_some();
    if deleted && or(pod, "/status/reason", "") == "NodeLost" {
        "Unknown".to_owned()
    } else if deleted && !matches!(phase, "Succeeded" | "Failed") {
        "Terminating".to_owned()
    } else {
        reason
    }
}

fn tally<'a>(pod: &'a Value, phase: &str) -> Tally<'a> {
    let mut reason = or(pod, "/status/reason", phase).to_owned();
    let conditions = list(pod, "/status/conditions");
    if conditions.iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".to_owned();
    }
    let mut tally = Tally { reason, ready: 0, restarts: Restarts::default() };
    let (sidecars, initializing) = init_containers(pod, &mut tally);
    if !initializing || holds(conditions, "Initialized") {
        tally.restarts = sidecars;
        containers(pod, &mut tally);
    }
    tally
}

/// Counts the init containers up to the first that is not done; returns the restarts of the sidecars among them,
/// and whether one is not done.
fn init_containers<'a>(pod: &'a Value, tally: &mut Tally<'a>) -> (Restarts<'a>, bool) {
    let specs = list(pod, "/spec/initContainers");
    let mut sidecars = Restarts::default();
    for (at, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        let sidecar = specs.iter().find(|c| c["name"] == status["name"]).is_some_and(restartable);
        tally.restarts.add(status);
        if sidecar {
            sidecars.add(status);
        }
        let terminated = status.pointer("/state/terminated").filter(|t| !t.is_null());
        let waiting = or(status, "/state/waiting/reason", "");
        if terminated.is_some_and(|t| code(t) == 0) {
            continue;
        }
        if sidecar && status["started"] == true {
            tally.ready += usize::from(status["ready"] == true);
            continue;
        }
        tally.reason = match terminated {
            Some(terminated) => format!("Init:{}", why(terminated)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{at}/{}", specs.len()),
        };
        return (sidecars, true);
    }
    (sidecars, false)
}

fn containers<'a>(pod: &'a Value, tally: &mut Tally<'a>) {
    let (mut running, mut error) = (false, None);
    for status in list(pod, "/status/containerStatuses").iter().rev() {
        tally.restarts.add(status);
        let waiting = or(status, "/state/waiting/reason", "");
        let terminated = status.pointer("/state/terminated").filter(|t| !t.is_null());
        if !waiting.is_empty() {
            tally.reason = waiting.to_owned();
        } else if let Some(terminated) = terminated {
            tally.reason = why(terminated);
            if code(terminated) != 0 {
                error = Some(tally.reason.clone());
            }
        } else if status["ready"] == true && status.pointer("/state/running").is_some_and(|r| !r.is_null()) {
            running = true;
            tally.ready += 1;
        }
    }
    if tally.reason == "Completed" {
        // One container that is done does not make the pod so.
        if running && holds(list(pod, "/status/conditions"), "Ready") {
            tally.reason = "Running".to_owned();
        } else if let Some(error) = error {
            tally.reason = error;
        } else if running {
            tally.reason = "NotReady".to_owned();
        }
    }
}

fn why(terminated: &Value) -> String {
    match (or(terminated, "/reason", ""), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", code(terminated)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn code(terminated: &Value) -> i64 {
    terminated["exitCode"].as_i64().unwrap_or(0)
}

/// Whether an init container is a sidecar.
fn restartable(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn holds(conditions: &[Value], kind: &str) -> bool {
    conditions.iter().any(|c| c["type"] == kind && c["status"] == "True")
}

fn gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = list(pod, "/status/conditions");
    let open = |gate: &&Value| {
        let condition = conditions.iter().find(|c| c["type"] == gate["conditionType"]);
        condition.is_some_and(|c| c["status"] == "True")
    };
    format!("{}/{}", gates.iter().filter(open).count(), gates.len())
}

impl<'a> Restarts<'a> {
    fn add(&mut self, status: &'a Value) {
        self.count += status["restartCount"].as_i64().unwrap_or(0);
        let finished = meta::text(status.pointer("/lastState/terminated/finishedAt"));
        // Times of one form compare as texts.
        self.last = self.last.max(finished);
    }

    fn shown(&self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => format!("{} ({} ago)", self.count, age(Some(last), now)),
            _ => self.count.to_string(),
        }
    }
}
