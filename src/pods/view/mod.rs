//! Pods as they are at this moment: what the cloud and the kubelet last said of them, corrected by what the
//! runtime says now. Pure; [`observe`](super::observe) asks the runtime.

mod container;
mod live;
mod runtime_only;
mod status;

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::cri::{State, v1};
use crate::kube::meta;

pub use live::{Live, container_name, live, of_pod, runtime_uid};

/// What more the runtime was asked, by id.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// Containers whose cached status is not of this moment.
    pub containers: HashMap<String, v1::ContainerStatus>,
    /// The addresses of sandboxes, the first one being the pod IP.
    pub addresses: HashMap<String, Vec<String>>,
}

/// What must be asked before [`merge`] can tell the truth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Questions {
    /// Containers.
    pub containers: Vec<String>,
    /// Sandboxes.
    pub sandboxes: Vec<String>,
}

/// Which details of the runtime's `state` the cached `pods` do not have already.
pub fn questions(pods: &[Value], state: &State) -> Questions {
    let mut live = live(state);
    let mut questions = Questions::default();
    for pod in pods {
        let Some(now) = runtime_uid(pod).and_then(|uid| live.remove(uid)) else { continue };
        let stale: Vec<String> = status::containers(pod)
            .flat_map(|(_, name)| container::questions(&status::of(pod, name), now.containers(name)))
            .collect();
        let address = pod["status"]["podIP"].as_str().unwrap_or_default();
        if !stale.is_empty() || address.is_empty() {
            questions.sandboxes.extend(now.sandbox.map(|s| s.id.clone()));
        }
        questions.containers.extend(stale);
    }
    for now in live.values().filter(|now| now.is_ready()) {
        questions.containers.extend(now.names().filter_map(|name| now.newest(name)).map(|c| c.id.clone()));
        questions.sandboxes.extend(now.sandbox.map(|s| s.id.clone()));
    }
    questions
}

/// The pods at this moment, sorted by namespace and name. Those that only the runtime knows are among them.
pub fn merge(pods: Vec<Value>, state: &State, details: &Details) -> Vec<Value> {
    let live = live(state);
    let known: HashSet<String> = pods.iter().filter_map(runtime_uid).map(str::to_owned).collect();
    let mut merged: Vec<Value> = pods
        .into_iter()
        .map(|mut pod| {
            let found = runtime_uid(&pod).and_then(|uid| live.get(uid));
            status::correct(&mut pod, found, details);
            pod
        })
        .collect();
    let unknown = live.iter().filter(|(uid, now)| !known.contains(**uid) && now.is_ready());
    merged.extend(unknown.filter_map(|(uid, live)| {
        let mut pod = runtime_only::pod(uid, live)?;
        status::correct(&mut pod, Some(live), details);
        Some(pod)
    }));
    merged.sort_by(|a, b| (meta::namespace(a), meta::name(a)).cmp(&(meta::namespace(b), meta::name(b))));
    merged
}
