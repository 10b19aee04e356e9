//! What an API server or a kubelet says of pods, in the few fields that tests compare.

use serde_json::Value;

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub phase: String,
    pub ready: bool,
    pub deleting: bool,
    pub address: String,
    pub node: String,
    pub containers: Vec<Container>,
}

/// One container of a pod (not its init containers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub name: String,
    /// Without `containerd://`; empty before it was made.
    pub id: String,
    pub restarts: u64,
    pub running: bool,
}

impl Pod {
    /// The pods of a `v1.PodList`.
    pub fn list(list: &Value) -> Vec<Self> {
        list["items"].as_array().into_iter().flatten().map(Self::from_object).collect()
    }

    pub fn from_object(pod: &Value) -> Self {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        Self {
            namespace: text(&pod["metadata"]["namespace"]),
            name: text(&pod["metadata"]["name"]),
            uid: text(&pod["metadata"]["uid"]),
            phase: text(&pod["status"]["phase"]),
            ready: conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True"),
            deleting: pod["metadata"]["deletionTimestamp"].is_string(),
            address: text(&pod["status"]["podIP"]),
            node: text(&pod["spec"]["nodeName"]),
            containers: statuses.map(Container::from_status).collect(),
        }
    }

    /// All its containers run and are ready.
    pub fn running(&self) -> bool {
        self.phase == "Running" && self.ready && self.containers.iter().all(|container| container.running)
    }

    pub fn succeeded(&self) -> bool {
        self.phase == "Succeeded"
    }

    /// Restarts of all its containers.
    pub fn restarts(&self) -> u64 {
        self.containers.iter().map(|container| container.restarts).sum()
    }
}

impl Container {
    fn from_status(status: &Value) -> Self {
        Self {
            name: text(&status["name"]),
            id: text(&status["containerID"]).trim_start_matches("containerd://").to_owned(),
            restarts: status["restartCount"].as_u64().unwrap_or(0),
            running: status["state"]["running"].is_object(),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
