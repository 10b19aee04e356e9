//! The runtime's sandboxes and containers by pod: the newest sandbox, and each container's attempts.

use std::collections::HashMap;

use serde_json::Value;

use crate::cri::{State, v1};
use crate::kube::meta;

/// The labels by which the kubelet marks what it makes.
const UID: &str = "io.kubernetes.pod.uid";
const CONTAINER: &str = "io.kubernetes.container.name";

/// One pod in the runtime.
#[derive(Debug, Clone, Default)]
pub struct Live<'a> {
    /// The newest sandbox; older ones are leftovers.
    pub sandbox: Option<&'a v1::PodSandbox>,
    /// All containers of the pod, newest first, also those of older sandboxes.
    containers: Vec<&'a v1::Container>,
}

impl<'a> Live<'a> {
    /// Whether the newest sandbox runs.
    pub fn is_ready(&self) -> bool {
        self.sandbox.is_some_and(|s| s.state() == v1::PodSandboxState::SandboxReady)
    }

    /// The attempts of one container, newest first.
    pub fn containers(&self, name: &str) -> impl Iterator<Item = &'a v1::Container> {
        self.containers.iter().copied().filter(move |c| container_name(c) == name)
    }

    /// The newest attempt of one container.
    pub fn newest(&self, name: &str) -> Option<&'a v1::Container> {
        self.containers.iter().copied().find(|c| container_name(c) == name)
    }

    /// The containers that run in the newest sandbox.
    pub fn running(&self) -> impl Iterator<Item = &'a v1::Container> {
        let sandbox = self.sandbox.map(|s| s.id.as_str());
        let running = |c: &&v1::Container| c.state() == v1::ContainerState::ContainerRunning;
        self.containers
            .iter()
            .copied()
            .filter(running)
            .filter(move |c| Some(c.pod_sandbox_id.as_str()) == sandbox)
    }

    /// The names of its containers, each once.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        let mut names: Vec<&str> = self.containers.iter().map(|c| container_name(c)).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter()
    }
}

/// The name that the pod's spec has for a container.
pub fn container_name(container: &v1::Container) -> &str {
    container.labels.get(CONTAINER).map_or("", String::as_str)
}

/// The uid of the pod that a sandbox is of, if the kubelet made it.
pub fn of_pod(sandbox: &v1::PodSandbox) -> Option<&str> {
    sandbox.labels.get(UID).map(String::as_str)
}

/// Everything in the runtime, by the uid under which the kubelet runs a pod.
pub fn live(state: &State) -> HashMap<&str, Live<'_>> {
    let mut all: HashMap<&str, Live<'_>> = HashMap::new();
    for sandbox in &state.sandboxes {
        let Some(uid) = of_pod(sandbox) else { continue };
        let live = all.entry(uid).or_default();
        let attempt = |s: &v1::PodSandbox| (s.metadata.as_ref().map_or(0, |m| m.attempt), s.created_at);
        if live.sandbox.is_none_or(|other| attempt(other) < attempt(sandbox)) {
            live.sandbox = Some(sandbox);
        }
    }
    for container in &state.containers {
        if let Some(live) = container.labels.get(UID).and_then(|uid| all.get_mut(uid.as_str())) {
            live.containers.push(container);
        }
    }
    for live in all.values_mut() {
        live.containers.sort_by_key(|c| std::cmp::Reverse(c.created_at));
    }
    all
}

/// The uid under which the kubelet runs a pod: its own, or for the mirror of a static pod the hash of the file.
pub fn runtime_uid(pod: &Value) -> Option<&str> {
    match meta::annotation(pod, "kubernetes.io/config.mirror") {
        Some(hash) => Some(meta::annotation(pod, "kubernetes.io/config.hash").unwrap_or(hash)),
        None => meta::uid(pod),
    }
}
