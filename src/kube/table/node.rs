//! The row of a node, after `printNode` of Kubernetes' printers.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, Row, age, list, or};
use crate::kube::meta;

pub(super) static COLUMNS: [Column; 10] = [
    NAME,
    Column { name: "Status", priority: 0, description: "The status of the node" },
    Column { name: "Roles", priority: 0, description: "The roles of the node" },
    AGE,
    Column { name: "Version", priority: 0, description: "Kubelet Version reported by the node." },
    Column { name: "Internal-IP", priority: 1, description: "List of addresses reachable to the node." },
    Column { name: "External-IP", priority: 1, description: "List of addresses reachable to the node." },
    Column { name: "OS-Image", priority: 1, description: "OS Image reported by the node." },
    Column { name: "Kernel-Version", priority: 1, description: "Kernel Version reported by the node." },
    Column {
        name: "Container-Runtime",
        priority: 1,
        description: "ContainerRuntime Version reported by the node.",
    },
];

pub(super) fn row(node: &Value, now: Timestamp) -> Row {
    let info = |key: &str, none: &'static str| or(node, &format!("/status/nodeInfo/{key}"), none).to_owned();
    let mut kernel = info("kernelVersion", "<unknown>");
    let architecture = info("architecture", "");
    if !architecture.is_empty() {
        kernel.push_str(&format!(" ({architecture})"));
    }
    let cells = vec![
        json!(meta::name(node).unwrap_or_default()),
        json!(status(node)),
        json!(roles(node)),
        json!(age(meta::creation_timestamp(node), now)),
        json!(info("kubeletVersion", "")),
        json!(address(node, "InternalIP")),
        json!(address(node, "ExternalIP")),
        json!(info("osImage", "<unknown>")),
        json!(kernel),
        json!(info("containerRuntimeVersion", "<unknown>")),
    ];
    Row { cells, conditions: Value::Null }
}

fn status(node: &Value) -> String {
    let ready = list(node, "/status/conditions").iter().rfind(|c| c["type"] == "Ready");
    let mut status = match ready {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Value) -> String {
    let role = |(key, value): (&String, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        None => None,
    };
    let found = meta::labels(node).into_iter().flatten().filter_map(role);
    let roles: BTreeSet<String> = found.filter(|role| !role.is_empty()).collect();
    if roles.is_empty() { "<none>".to_owned() } else { Vec::from_iter(roles).join(",") }
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let address = list(node, "/status/addresses").iter().find(|a| a["type"] == kind);
    address.map_or("<none>", |a| or(a, "/address", ""))
}
