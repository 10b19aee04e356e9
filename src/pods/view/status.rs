//! A pod's status as a whole: its containers' statuses, and what follows of them for conditions, phase and address.

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
pub(super) fn correct(pod: &mut Value, live: Option<&Live<'_>>, details: &Details) {
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
        correct_conditions(pod);
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
fn correct_conditions(pod: &mut Value) {
    let sidecars = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    let sidecars: Vec<Value> =
        sidecars.filter(|c| c["restartPolicy"] == "Always").map(|c| c["name"].clone()).collect();
    let status = &pod["status"];
    let main = status["containerStatuses"].as_array().into_iter().flatten();
    let init = status["initContainerStatuses"].as_array().into_iter().flatten();
    let counted: Vec<&Value> = main.chain(init.filter(|s| sidecars.contains(&s["name"]))).collect();
    let unready: Vec<&Value> = counted.iter().copied().filter(|s| s["ready"] != true).collect();
    let (all, gated) = (unready.is_empty(), pod["spec"]["readinessGates"].is_array());
    let names: Vec<&str> = unready.iter().filter_map(|s| s["name"].as_str()).collect();
    let message = format!("containers with unready status: [{}]", names.join(" "));
    let since = last_change(if all { &counted } else { &unready });
    for kind in ["ContainersReady", "Ready"] {
        if all && gated && kind == "Ready" {
            continue;
        }
        set_condition(&mut pod["status"], kind, all, &message, since.as_ref());
    }
}

/// When the last of these containers was started, or ended: the same at each look.
fn last_change(statuses: &[&Value]) -> Option<Value> {
    let time_of = |status: &&Value| {
        let state = &status["state"];
        let at = [&state["running"]["startedAt"], &state["terminated"]["finishedAt"]];
        let waits = &status["lastState"]["terminated"]["finishedAt"];
        at.into_iter().chain(state["waiting"].is_object().then_some(waits)).find(|at| at.is_string()).cloned()
    };
    statuses.iter().filter_map(time_of).max_by(|a, b| a.as_str().cmp(&b.as_str()))
}

/// A condition that changed did so `at` this time; where that is not known, what was heard of it last is told.
fn set_condition(status: &mut Value, kind: &str, holds: bool, message: &str, at: Option<&Value>) {
    let word = if holds { "True" } else { "False" };
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let before = conditions.iter().position(|c| c["type"] == kind);
    let same = before.is_some_and(|at| conditions[at]["status"] == word);
    if same && holds {
        return;
    }
    let heard = before.map(|at| &conditions[at]["lastTransitionTime"]);
    let since = heard.filter(|_| same).or(at).or(heard).unwrap_or(&status["startTime"]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_changes_when_its_container_did() {
        let (begun, then, later) = ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z");
        let runs =
            |since: &str| json!({"name": "main", "ready": true, "state": {"running": {"startedAt": since}}});
        let ended =
            |at: Value| json!({"name": "main", "ready": false, "state": {"terminated": {"finishedAt": at}}});
        let waits = json!({"name": "main", "ready": false, "state": {"waiting": {}},
            "lastState": {"terminated": {"finishedAt": later}}});
        let side = json!({"name": "side", "ready": true, "state": {"running": {"startedAt": begun}}});
        for (before, status, word, since) in [
            ("True", ended(json!(later)), "False", later),
            ("True", waits, "False", later),
            ("True", ended(Value::Null), "False", then),
            ("False", ended(json!(later)), "False", then),
            ("False", runs(later), "True", later),
            ("True", runs(later), "True", then),
            ("", ended(Value::Null), "False", begun),
        ] {
            let heard = json!([{"type": "Ready", "status": before, "lastTransitionTime": then}]);
            let heard = if before.is_empty() { json!([]) } else { heard };
            let mut pod = json!({"spec": {}, "status": {"startTime": begun, "conditions": heard,
                "containerStatuses": [side, status]}});
            correct_conditions(&mut pod);
            let ready = pod["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready");
            let ready = ready.unwrap();
            assert_eq!(
                (ready["status"].as_str(), ready["lastTransitionTime"].as_str()),
                (Some(word), Some(since))
            );
            let once = pod.clone();
            correct_conditions(&mut pod);
            assert_eq!(pod, once, "the same at each look");
        }
    }
}
