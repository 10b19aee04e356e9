//! Events about a pod: `v1` and `events.k8s.io/v1`, from the cloud and from here.

use jiff::Timestamp;
use serde_json::Value;

use super::page::{Page, text};
use crate::kube::meta;
use crate::kube::table::age;

pub(super) fn all(page: &mut Page, pod: &Value, events: &[Value], now: Timestamp) {
    let mut about: Vec<&Value> = events.iter().filter(|event| is_about(event, pod)).collect();
    if about.is_empty() {
        page.field(0, "Events", "");
        return;
    }
    about.sort_by_key(|event| last(event).map(str::to_owned));
    let mut rows = vec![["Type", "Reason", "Age", "From", "Message"].map(str::to_owned).to_vec()];
    rows.extend(about.into_iter().map(|event| row(event, now)));
    page.title(0, "Events");
    page.table(1, &rows);
}

/// By uid; the kubelet writes the uid of the file for static pods.
fn is_about(event: &Value, pod: &Value) -> bool {
    let object =
        if event["involvedObject"].is_object() { &event["involvedObject"] } else { &event["regarding"] };
    let same = |field: &str, value: Option<&str>| object[field].as_str() == value;
    let uid = same("uid", meta::uid(pod)) || same("uid", crate::pods::view::runtime_uid(pod));
    same("kind", Some("Pod"))
        && same("namespace", meta::namespace(pod))
        && same("name", meta::name(pod))
        && uid
}

fn last(event: &Value) -> Option<&str> {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["firstTimestamp"],
    ];
    times.into_iter().find_map(Value::as_str).or_else(|| meta::creation_timestamp(event))
}

fn row(event: &Value, now: Timestamp) -> Vec<String> {
    let count = event["count"].as_i64().or_else(|| event["series"]["count"].as_i64()).unwrap_or(1);
    let mut seen = age(last(event), now);
    if count > 1 {
        let first = event["firstTimestamp"].as_str().or_else(|| event["eventTime"].as_str());
        seen = format!("{seen} (x{count} over {})", age(first, now));
    }
    let from = event["source"]["component"].as_str().or_else(|| event["reportingController"].as_str());
    let from = from.filter(|from| !from.is_empty()).unwrap_or_else(|| text(&event["reportingComponent"]));
    let message = event["message"].as_str().or_else(|| event["note"].as_str()).unwrap_or_default();
    let (kind, reason) = (text(&event["type"]), text(&event["reason"]));
    [kind, reason, &seen, from, message.trim()].map(str::to_owned).to_vec()
}
