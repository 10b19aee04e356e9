//! A pod's status as a whole: its containers' statuses, and what follows of them for conditions, phase and address.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::container;
use super::{Details, Live};

/// In which list of the spec a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Init,
    Ephemeral,
}

impl Role {
    const ALL: [Self; 3] = [Self::Init, Self::Main, Self::Ephemeral];

    fn spec(self) -> &'static str {
        match self {
            Self::Main => "containers",
            Self::Init => "initContainers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }

    fn status(self) -> &'static str {
        match self {
            Self::Main => "containerStatuses",
            Self::Init => "initContainerStatuses",
            Self::Ephemeral => "ephemeralContainerStatuses",
        }
    }
}

/// The containers of a pod's spec: role and name.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = (Role, &str)> {
    Role::ALL.into_iter().flat_map(|role| {
        let list = pod["spec"][role.spec()].as_array().into_iter().flatten();
        list.filter_map(move |c| Some((role, c["name"].as_str()?)))
    })
}

/// The status that a pod has of a container; null if none.
pub(super) fn of(pod: &Value, name: &str) -> Value {
    let lists = Role::ALL.iter().filter_map(|role| pod["status"][role.status()].as_array());
    lists.flatten().find(|s| s["name"] == name).cloned().unwrap_or_default()
}

/// Corrects the status of `pod` by what the runtime has of it; `None` means that it has nothing.
pub(super) fn correct(pod: &mut Value, live: Option<&Live<'_>>, details: &Details, now: Timestamp) {
    let terminal = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if terminal {
        return;
    }
    let mut changed = false;
    for role in Role::ALL {
        changed |= correct_list(pod, role, live, details);
    }
    let sandbox = live.and_then(|l| l.sandbox).map(|s| s.id.as_str());
    if let Some(addresses) = sandbox.and_then(|id| details.addresses.get(id)).filter(|a| !a.is_empty()) {
        let list: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        set(&mut pod["status"], "podIP", json!(addresses[0]));
        set(&mut pod["status"], "podIPs", Value::Array(list));
    }
    if changed {
        correct_conditions(pod, now);
        correct_phase(pod);
    }
}

fn correct_list(pod: &mut Value, role: Role, live: Option<&Live<'_>>, details: &Details) -> bool {
    let specs: Vec<Value> = pod["spec"][role.spec()].as_array().cloned().unwrap_or_default();
    let mut statuses = pod["status"][role.status()].as_array().cloned().unwrap_or_default();
    let mut changed = false;
    for spec in &specs {
        let name = spec["name"].as_str().unwrap_or_default();
        let newest = live.and_then(|l| l.newest(name));
        let at = statuses.iter().position(|s| s["name"] == name);
        let mut status = match at.map(|at| statuses[at].clone()) {
            Some(Value::Object(status)) => status,
            _ if newest.is_none() => continue,
            _ => fresh(name),
        };
        if container::correct((role, spec), &mut status, newest, &details.containers) {
            changed = true;
            match at {
                Some(at) => statuses[at] = Value::Object(status),
                None => statuses.push(Value::Object(status)),
            }
        }
    }
    if changed {
        set(&mut pod["status"], role.status(), Value::Array(statuses));
    }
    changed
}

fn fresh(name: &str) -> Map<String, Value> {
    let status = json!({"name": name, "ready": false, "restartCount": 0, "state": {}, "lastState": {},
                        "image": "", "imageID": ""});
    match status {
        Value::Object(status) => status,
        _ => Map::new(),
    }
}

/// Ready and ContainersReady follow from the containers; the rest stays as the kubelet said it.
fn correct_conditions(pod: &mut Value, now: Timestamp) {
    let sidecars = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    let sidecars: Vec<Value> =
        sidecars.filter(|c| c["restartPolicy"] == "Always").map(|c| c["name"].clone()).collect();
    let status = &pod["status"];
    let main = status["containerStatuses"].as_array().into_iter().flatten();
    let init = status["initContainerStatuses"].as_array().into_iter().flatten();
    let counted = main.chain(init.filter(|s| sidecars.contains(&s["name"])));
    let unready: Vec<&str> =
        counted.filter(|s| s["ready"] != true).filter_map(|s| s["name"].as_str()).collect();
    let (all, gated) = (unready.is_empty(), pod["spec"]["readinessGates"].is_array());
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    for kind in ["ContainersReady", "Ready"] {
        if all && gated && kind == "Ready" {
            continue;
        }
        set_condition(&mut pod["status"], kind, all, &message, now);
    }
}

fn set_condition(status: &mut Value, kind: &str, holds: bool, message: &str, now: Timestamp) {
    let word = if holds { "True" } else { "False" };
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let before = conditions.iter().position(|c| c["type"] == kind);
    if before.is_some_and(|at| conditions[at]["status"] == word && holds) {
        return;
    }
    let same = before.filter(|at| conditions[*at]["status"] == word);
    let since = same.map(|at| conditions[at]["lastTransitionTime"].clone());
    let since = since.unwrap_or_else(|| container::time(i64::try_from(now.as_nanosecond()).unwrap_or(0)));
    let mut condition =
        json!({"type": kind, "status": word, "lastProbeTime": null, "lastTransitionTime": since});
    if !holds {
        condition["reason"] = json!("ContainersNotReady");
        condition["message"] = json!(message);
    }
    match before {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    set(status, "conditions", Value::Array(conditions));
}

/// The kubelet's rules for a pod whose init containers are done.
fn correct_phase(pod: &mut Value) {
    let status = &pod["status"];
    let list: Vec<&Value> = status["containerStatuses"].as_array().into_iter().flatten().collect();
    let expected = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    let running = list.iter().any(|s| s["state"]["running"].is_object());
    let ended = |s: &&Value| s["state"]["terminated"].is_object();
    let failed = |s: &&Value| s["state"]["terminated"]["exitCode"] != 0;
    let phase = if running {
        "Running"
    } else if list.len() < expected || !list.iter().all(ended) {
        return;
    } else {
        match pod["spec"]["restartPolicy"].as_str() {
            Some("Never") if list.iter().any(&failed) => "Failed",
            Some("Never" | "OnFailure") if !list.iter().any(failed) => "Succeeded",
            _ => "Running",
        }
    };
    set(&mut pod["status"], "phase", json!(phase));
}

fn set(object: &mut Value, name: &str, value: Value) {
    if !object.is_object() {
        *object = json!({});
    }
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}
