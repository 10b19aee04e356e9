//! One container's status: the cached one, corrected by the runtime's.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::status::Role;
use crate::cri::v1;

/// The ids to ask about before `status` can be corrected: the newest attempt where the status is not of it,
/// and the attempt that the status is of where that has ended since.
pub(super) fn questions<'a>(
    status: &Value,
    attempts: impl Iterator<Item = &'a v1::Container>,
) -> Vec<String> {
    let mut attempts = attempts.peekable();
    let Some(newest) = attempts.peek().copied() else { return Vec::new() };
    if is_current(status, newest) {
        return Vec::new();
    }
    let before = attempts.skip(1).find(|c| c.id == id_of(status));
    std::iter::once(newest).chain(before).map(|c| c.id.clone()).collect()
}

/// Corrects `status` in place; true if it changed. `newest` is the newest attempt that the runtime has.
pub(super) fn correct(
    (role, spec): (Role, &Value),
    status: &mut Map<String, Value>,
    newest: Option<&v1::Container>,
    details: &HashMap<String, v1::ContainerStatus>,
) -> bool {
    let cached = Value::Object(status.clone());
    let Some(newest) = newest else { return lost(status, &cached) };
    if is_current(&cached, newest) {
        return false;
    }
    let detail = details.get(&newest.id);
    let before = id_of(&cached).to_owned();
    if before != newest.id && !before.is_empty() {
        let ended = details.get(&before).map(terminated).or_else(|| {
            let state = &cached["state"]["terminated"];
            state.is_object().then(|| state.clone())
        });
        if let Some(ended) = ended {
            status.insert("lastState".to_owned(), json!({"terminated": ended}));
        }
    }
    let running = newest.state() == v1::ContainerState::ContainerRunning;
    let started = running && spec["startupProbe"].is_null();
    let ready = match newest.state() {
        v1::ContainerState::ContainerRunning if before == newest.id => cached["ready"] == true,
        v1::ContainerState::ContainerRunning => started && spec["readinessProbe"].is_null(),
        // An init container that has done its work is ready.
        _ => role == Role::Init && detail.is_some_and(|d| d.exit_code == 0),
    };
    status.insert("state".to_owned(), state(newest, detail));
    status.insert("containerID".to_owned(), Value::String(format!("{}://{}", scheme(&cached), newest.id)));
    status.insert("started".to_owned(), Value::Bool(started));
    status.insert("ready".to_owned(), Value::Bool(ready));
    if let Some(count) = restarts(newest) {
        status.insert("restartCount".to_owned(), Value::from(count));
    }
    if let Some(detail) = detail {
        let image = detail.image.as_ref().map_or("", |i| i.image.as_str());
        status.insert("image".to_owned(), Value::from(image));
        status.insert("imageID".to_owned(), Value::from(detail.image_ref.as_str()));
    }
    true
}

/// The id in a status, without the runtime's name.
pub(super) fn id_of(status: &Value) -> &str {
    let id = status["containerID"].as_str().unwrap_or_default();
    id.split_once("://").map_or(id, |(_, id)| id)
}

fn scheme(status: &Value) -> &str {
    let id = status["containerID"].as_str().unwrap_or_default();
    id.split_once("://").map_or("containerd", |(scheme, _)| scheme)
}

/// Whether the kubelet wrote `status` after it saw this state of the newest attempt.
fn is_current(status: &Value, newest: &v1::Container) -> bool {
    let state = &status["state"];
    match newest.state() {
        v1::ContainerState::ContainerRunning => id_of(status) == newest.id && state["running"].is_object(),
        v1::ContainerState::ContainerExited => {
            let ended = |s: &Value| s.is_object() && ends_with(s["containerID"].as_str(), &newest.id);
            let waits = state["waiting"].is_object() && ended(&status["lastState"]["terminated"]);
            waits || ended(&state["terminated"])
        }
        v1::ContainerState::ContainerCreated => state["waiting"].is_object(),
        v1::ContainerState::ContainerUnknown => true,
    }
}

fn ends_with(id: Option<&str>, with: &str) -> bool {
    id.is_some_and(|id| id.ends_with(with))
}

/// A container that was running and that the runtime has no more: the kubelet's own words for that.
fn lost(status: &mut Map<String, Value>, cached: &Value) -> bool {
    let running = &cached["state"]["running"];
    if !running.is_object() {
        return false;
    }
    let ended = json!({"exitCode": 137, "reason": "ContainerStatusUnknown", "containerID": cached["containerID"],
        "message": "The container could not be located when the pod was observed",
        "startedAt": running["startedAt"], "finishedAt": null});
    status.insert("state".to_owned(), json!({"terminated": ended}));
    status.insert("ready".to_owned(), Value::Bool(false));
    status.insert("started".to_owned(), Value::Bool(false));
    true
}

fn state(newest: &v1::Container, detail: Option<&v1::ContainerStatus>) -> Value {
    match (newest.state(), detail) {
        (v1::ContainerState::ContainerRunning, detail) => {
            let started = detail.map_or(newest.created_at, |d| d.started_at);
            json!({"running": {"startedAt": time(started)}})
        }
        (v1::ContainerState::ContainerExited, Some(detail)) => json!({"terminated": terminated(detail)}),
        (v1::ContainerState::ContainerExited, None) => {
            // As the kubelet has it: a success that nobody has seen is none.
            json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown",
                   "containerID": format!("containerd://{}", newest.id)}})
        }
        _ => json!({"waiting": {"reason": "ContainerCreating"}}),
    }
}

fn terminated(detail: &v1::ContainerStatus) -> Value {
    let mut ended = json!({
        "exitCode": detail.exit_code,
        "reason": reason(detail),
        "startedAt": time(detail.started_at),
        "finishedAt": time(detail.finished_at),
        "containerID": format!("containerd://{}", detail.id),
    });
    if !detail.message.is_empty() {
        ended["message"] = Value::from(detail.message.as_str());
    }
    ended
}

fn reason(detail: &v1::ContainerStatus) -> &str {
    match (detail.reason.as_str(), detail.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    }
}

/// Nanoseconds since 1970 as the API writes a time; null for none.
pub(super) fn time(nanoseconds: i64) -> Value {
    let second = nanoseconds.div_euclid(1_000_000_000);
    match Timestamp::from_second(second) {
        Ok(time) if nanoseconds > 0 => Value::String(time.to_string()),
        _ => Value::Null,
    }
}

fn restarts(container: &v1::Container) -> Option<i64> {
    container.annotations.get("io.kubernetes.container.restartCount")?.parse().ok()
}
