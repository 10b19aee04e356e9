//! What the runtime made while the clock was ahead of today's: before a boot with a clock that has stopped, or before one
//! that ran ahead was put right. kubelet takes the newest sandbox, and the newest container of a name, for the one that
//! counts. As long as what has ended is of a time to come, that never is the one which kubelet has just made: it makes the
//! next, and the pod never runs, until the clock is there. So what has ended, is ahead, and would be made anew goes; what
//! runs stays.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::policy::{Policy, Role, containers};
use super::view::{container_name, of_pod, runtime_uid};
use crate::cache::Cache;
use crate::cri::v1::{Container, ContainerState, PodSandboxState};
use crate::cri::{self, Runtime, State};
use crate::kube::meta;
use crate::sys::clock;

/// How often it is looked whether the clock was set back, which asks nobody.
const CLOCK: Duration = Duration::from_secs(10);
/// How often the runtime is asked as long as something is ahead.
const AHEAD: Duration = Duration::from_secs(15);
/// And after it could not be asked, as at a boot: at first, and at the longest.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// Less than this is no step of the clock, and no time to come.
const SLACK: Duration = Duration::from_secs(2);

/// Runs for ever: looks at its start, when the clock was set back, and as long as there is something ahead.
pub async fn tidy(cache: Cache, runtime: Runtime) {
    let mut again = AGAIN[0];
    loop {
        let looked = look(&cache, &runtime).await;
        match looked {
            Ok(0) => set_back().await,
            Ok(_) => tokio::time::sleep(AHEAD).await,
            Err(why) => {
                tracing::debug!(why, "whether there are sandboxes of a time to come is not known");
                tokio::time::sleep(again).await;
                again = (again * 2).min(AGAIN[1]);
                continue;
            }
        }
        again = AGAIN[0];
    }
}

/// Waits until this machine's clock goes back.
async fn set_back() {
    let (mut at, mut wall) = (Instant::now(), clock::machine());
    loop {
        tokio::time::sleep(CLOCK).await;
        let (now, says) = (Instant::now(), clock::machine());
        if says + SLACK < wall + (now - at) {
            return;
        }
        (at, wall) = (now, says);
    }
}

/// Removes what is to go; gives how much is ahead, whether it goes or not.
async fn look(cache: &Cache, runtime: &Runtime) -> Result<usize, String> {
    let state = runtime.state().await.map_err(|error| error.to_string())?;
    let by = (clock::machine() + SLACK).as_nanosecond();
    let ahead = Ahead::of(&state, i64::try_from(by).unwrap_or(i64::MAX));
    if ahead.count() == 0 {
        return Ok(0);
    }
    let pods = cache.read(|reader| reader.all("v1/pods")).await.map_err(|error| error.to_string())?;
    let pods: HashMap<&str, &Value> = pods.iter().filter_map(|pod| Some((runtime_uid(pod)?, pod))).collect();
    let mut codes = HashMap::new();
    for id in ahead.exited() {
        match runtime.container(id).await {
            Ok(status) => drop(codes.insert(id, status.exit_code)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    for id in ahead.containers_to_go(&pods, &codes) {
        told(runtime.remove_container(id).await, "container", id);
    }
    for id in ahead.sandboxes_to_go(&pods, &codes) {
        told(runtime.remove_sandbox(id).await, "sandbox", id);
    }
    Ok(ahead.count())
}

fn told(removed: Result<(), cri::Error>, what: &str, id: &str) {
    match removed {
        Ok(()) => tracing::warn!(
            what,
            id,
            "removed what ended at a time to come by this machine's clock: its pod would not start"
        ),
        Err(error) => tracing::debug!(%error, what, id, "not removed yet"),
    }
}

/// A sandbox that has ended.
struct Ended<'a> {
    uid: &'a str,
    id: &'a str,
    containers: Vec<&'a Container>,
}

/// What is of a time to come.
struct Ahead<'a> {
    /// The sandboxes that have ended.
    sandboxes: Vec<Ended<'a>>,
    /// The containers that have exited in a sandbox that has not, each with the uid of its pod.
    containers: Vec<(&'a str, &'a Container)>,
    /// How many containers there run.
    running: usize,
}

impl<'a> Ahead<'a> {
    /// `by` is now, in nanoseconds since 1970.
    fn of(state: &'a State, by: i64) -> Self {
        let mut ahead = Self { sandboxes: Vec::new(), containers: Vec::new(), running: 0 };
        for sandbox in &state.sandboxes {
            let Some(uid) = of_pod(sandbox) else { continue };
            let own = state.containers.iter().filter(|container| container.pod_sandbox_id == sandbox.id);
            if sandbox.state() != PodSandboxState::SandboxReady {
                let containers: Vec<_> = own.collect();
                // Its containers count beside those of a later sandbox, and the clock may have been right for them alone.
                if sandbox.created_at > by || containers.iter().any(|container| container.created_at > by) {
                    ahead.sandboxes.push(Ended { uid, id: &sandbox.id, containers });
                }
                continue;
            }
            for container in own.filter(|container| container.created_at > by) {
                match container.state() {
                    ContainerState::ContainerExited => ahead.containers.push((uid, container)),
                    _ => ahead.running += 1,
                }
            }
        }
        ahead
    }

    fn count(&self) -> usize {
        self.sandboxes.len() + self.containers.len() + self.running
    }

    /// The ids of the containers whose exit codes decide.
    fn exited(&self) -> Vec<&'a str> {
        let of_sandboxes = self.sandboxes.iter().flat_map(|sandbox| sandbox.containers.iter().copied());
        let exited = of_sandboxes.filter(|c| c.state() == ContainerState::ContainerExited);
        let others = self.containers.iter().map(|(_, container)| *container);
        exited.chain(others).map(|container| container.id.as_str()).collect()
    }

    /// The ids of sandboxes that kubelet would replace, by `codes`, the exit codes by container. None of a pod that is not
    /// known, or is not to run again: by what is there kubelet knows that it has run. Where a part of a pod is to run again,
    /// what of it was done is done once more.
    fn sandboxes_to_go(&self, pods: &HashMap<&str, &Value>, codes: &HashMap<&str, i32>) -> Vec<&'a str> {
        let to_go = |sandbox: &&Ended<'_>| {
            let Some(pod) = pods.get(sandbox.uid).filter(|pod| !is_ending(pod)) else { return false };
            let newest = |name: &str| {
                let own = sandbox.containers.iter().filter(|container| container_name(container) == name);
                own.max_by_key(|container| {
                    (container.metadata.as_ref().map(|m| m.attempt), container.created_at)
                })
            };
            containers(pod).filter(|part| part.role == Role::Main).any(|part| {
                match newest(part.name).and_then(|container| codes.get(container.id.as_str())) {
                    Some(code) => part.comes_back((*code).into()),
                    // It was not started yet. A pod that is to run once, and has begun to, is not begun anew.
                    None => part.policy != Policy::Never || sandbox.containers.is_empty(),
                }
            })
        };
        self.sandboxes.iter().filter(to_go).map(|sandbox| sandbox.id).collect()
    }

    /// The same of containers.
    fn containers_to_go(&self, pods: &HashMap<&str, &Value>, codes: &HashMap<&str, i32>) -> Vec<&'a str> {
        let to_go = |(uid, container): &&(&str, &Container)| {
            let pod = pods.get(uid).filter(|pod| !is_ending(pod));
            let part =
                pod.and_then(|pod| containers(pod).find(|part| part.name == container_name(container)));
            let code = codes.get(container.id.as_str());
            part.zip(code).is_some_and(|(part, code)| part.comes_back((*code).into()))
        };
        self.containers.iter().filter(to_go).map(|(_, container)| container.id.as_str()).collect()
    }
}

/// Whether kubelet makes nothing anew for this pod.
fn is_ending(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    meta::deletion_timestamp(pod).is_some() || matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
