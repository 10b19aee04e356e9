//! `edge pod describe`: everything that tells why a pod is as it is, in the order and the terms of
//! `kubectl describe`. Pure. Its `Status` is the one of the table, so that the two never contradict each other;
//! what only the API server knows (defaults of what is absent) is left out and not guessed.

mod container;
mod events;
mod page;
mod volume;

use jiff::Timestamp;
use serde_json::Value;

use crate::kube::meta;
use crate::kube::stream::ListHead;
use crate::kube::table::{Header, Include, table};

use page::{Page, text};

/// The page for `pod` at `now`. `events` are all that are known, of whatever object.
pub fn describe(pod: &Value, events: &[Value], now: Timestamp) -> String {
    let mut page = Page::default();
    head(&mut page, pod, now);
    for (title, specs, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses"),
    ] {
        container::all(&mut page, title, &pod["spec"][specs], &pod["status"][statuses]);
    }
    conditions(&mut page, pod);
    volume::all(&mut page, &pod["spec"]["volumes"]);
    page.field(0, "QoS Class", text(&pod["status"]["qosClass"]));
    page.list(0, "Node-Selectors", &pairs(&pod["spec"]["nodeSelector"], "="));
    page.list(0, "Tolerations", &tolerations(&pod["spec"]["tolerations"]));
    events::all(&mut page, pod, events, now);
    page.finish()
}

fn head(page: &mut Page, pod: &Value, now: Timestamp) {
    let (spec, status, metadata) = (&pod["spec"], &pod["status"], &pod["metadata"]);
    page.field(0, "Name", meta::name(pod).unwrap_or_default());
    page.field(0, "Namespace", meta::namespace(pod).unwrap_or_default());
    page.present(0, "Priority", &spec["priority"]);
    page.present(0, "Priority Class Name", &spec["priorityClassName"]);
    page.present(0, "Runtime Class Name", &spec["runtimeClassName"]);
    page.present(0, "Service Account", &spec["serviceAccountName"]);
    page.field(0, "Node", &[text(&spec["nodeName"]), text(&status["hostIP"])].join("/"));
    page.present(0, "Start Time", &status["startTime"]);
    page.list(0, "Labels", &pairs(&metadata["labels"], "="));
    page.list(0, "Annotations", &pairs(&metadata["annotations"], ": "));
    page.field(0, "Status", &shown_status(pod, now));
    page.present(0, "Phase", &status["phase"]);
    if let Some(deleted) = meta::deletion_timestamp(pod) {
        page.field(0, "Deleted", deleted);
        page.present(0, "Termination Grace Period (s)", &metadata["deletionGracePeriodSeconds"]);
    }
    page.present(0, "Reason", &status["reason"]);
    page.present(0, "Message", &status["message"]);
    page.field(0, "IP", text(&status["podIP"]));
    let all: Vec<&str> = list(&status["podIPs"]).map(|ip| text(&ip["ip"])).collect();
    page.field(0, "IPs", &all.join(", "));
    if let Some(owner) = meta::controller(pod) {
        page.field(0, "Controlled By", &[text(&owner["kind"]), text(&owner["name"])].join("/"));
    }
    page.present(0, "Restart Policy", &spec["restartPolicy"]);
}

/// The STATUS of the table.
fn shown_status(pod: &Value, now: Timestamp) -> String {
    let head = ListHead { kind: "PodList".to_owned(), api_version: "v1".to_owned(), ..ListHead::default() };
    let table = table(&head, [pod], Include::None, Header::Left, now);
    text(&table["rows"][0]["cells"][2]).to_owned()
}

fn conditions(page: &mut Page, pod: &Value) {
    let all: Vec<&Value> = list(&pod["status"]["conditions"]).collect();
    if all.is_empty() {
        return;
    }
    let mut rows = vec![["Type", "Status", "Since", "Reason", "Message"].map(str::to_owned).to_vec()];
    let cells = ["type", "status", "lastTransitionTime", "reason", "message"];
    rows.extend(all.into_iter().map(|c| cells.iter().map(|cell| text(&c[*cell]).to_owned()).collect()));
    page.title(0, "Conditions");
    page.table(1, &rows);
}

fn tolerations(all: &Value) -> Vec<String> {
    let one = |t: &Value| {
        let mut shown = text(&t["key"]).to_owned();
        if let Some(value) = t["value"].as_str().filter(|value| !value.is_empty()) {
            shown.push_str(&format!("={value}"));
        }
        if let Some(effect) = t["effect"].as_str().filter(|effect| !effect.is_empty()) {
            shown.push_str(&format!(":{effect}"));
        }
        if t["operator"] == "Exists" {
            shown.push_str(if shown.is_empty() { "op=Exists" } else { " op=Exists" });
        }
        if let Some(seconds) = t["tolerationSeconds"].as_i64() {
            shown.push_str(&format!(" for {seconds}s"));
        }
        shown
    };
    list(all).map(one).collect()
}

fn pairs(map: &Value, between: &str) -> Vec<String> {
    let all = map.as_object().into_iter().flatten();
    all.map(|(name, value)| format!("{name}{between}{}", text(value))).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
