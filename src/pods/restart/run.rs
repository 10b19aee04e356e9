//! Carries a plan out, and waits for what the kubelet makes of it. A plan carried out twice restarts once: stopping
//! what has stopped is no error, and both see the new containers.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use super::{Plan, Target};
use crate::cri::{Error, Runtime, State, v1};
use crate::kube::meta;
use crate::pods::view::{container_name, live, runtime_uid};

/// Between two looks at the runtime while waiting.
const LOOK: Duration = Duration::from_millis(200);
/// Looks for the end of a container whose stop failed, and tries to remove a sandbox: five seconds.
const ENDS: u32 = 25;

/// Looks for what the kubelet has started again in a sandbox that is about to end. It makes a container wait that it has
/// just started again, so that two are enough.
const ROUNDS: u32 = 2;

/// A container that runs after the restart, or has run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarted {
    /// The spec's name.
    pub name: String,
    /// The new id.
    pub id: String,
    /// It has ended in order meanwhile, and that was all it had to do.
    pub finished: bool,
}

/// How waiting ended.
#[derive(Debug)]
pub enum Outcome {
    /// All that must run do, or have finished.
    Running(Vec<Restarted>),
    /// The pod was deleted meanwhile: nobody starts it again.
    Deleted,
    /// Time is up.
    TimedOut {
        /// Those that run again.
        running: Vec<Restarted>,
        /// The names of those that do not.
        missing: Vec<String>,
        /// Why the runtime could not be asked at last, if it could not.
        runtime: Option<Error>,
    },
}

/// Stops what the plan names. When it returns, the kubelet's part begins.
///
/// # Errors
/// The runtime's. What was not stopped by then still runs.
pub async fn carry_out(runtime: &Runtime, plan: &Plan) -> Result<(), Error> {
    stop_all(runtime, &plan.containers, &plan.sidecars).await?;
    if let Some(sandbox) = &plan.sandbox {
        // While the slowest took its time, the kubelet has started the quick ones again, and the end of a sandbox kills.
        for _ in 0..ROUNDS {
            let state = runtime.state().await?;
            let (sidecars, containers): (Vec<Target>, Vec<Target>) = running_in(sandbox, plan, &state)
                .partition(|target| plan.sidecars.iter().any(|sidecar| sidecar.name == target.name));
            if containers.is_empty() && sidecars.is_empty() {
                break;
            }
            stop_all(runtime, &containers, &sidecars).await?;
        }
        gone_is_fine(runtime.stop_sandbox(sandbox).await)?;
        remove_sandbox(runtime, sandbox).await?;
    }
    Ok(())
}

/// The kubelet tidies away containers that have ended, and containerd refuses to remove a sandbox while one of its
/// containers is being removed: a moment later there is nothing in the way any more.
async fn remove_sandbox(runtime: &Runtime, sandbox: &str) -> Result<(), Error> {
    for _ in 0..ENDS {
        match gone_is_fine(runtime.remove_sandbox(sandbox).await) {
            Err(error) if !error.is_down() => tokio::time::sleep(LOOK).await,
            removed => return removed,
        }
    }
    gone_is_fine(runtime.remove_sandbox(sandbox).await)
}

/// What of the plan's containers runs in a sandbox now.
fn running_in<'a>(sandbox: &'a str, plan: &'a Plan, state: &'a State) -> impl Iterator<Item = Target> + 'a {
    let runs = |c: &&v1::Container| c.state() == v1::ContainerState::ContainerRunning;
    let here = state.containers.iter().filter(move |c| c.pod_sandbox_id == sandbox);
    here.filter(runs).filter_map(|c| {
        let name = container_name(c);
        Some(Target { name: name.to_owned(), id: c.id.clone(), grace: *plan.graces.get(name)? })
    })
}

/// Containers together, then sidecars one by one, the last one first. Each to its end, whatever becomes of the others: a
/// call that is dropped leaves a container half stopped.
async fn stop_all(runtime: &Runtime, containers: &[Target], sidecars: &[Target]) -> Result<(), Error> {
    let stopped = join_all(containers.iter().map(|target| stop(runtime, target))).await;
    stopped.into_iter().collect::<Result<(), Error>>()?;
    for target in sidecars.iter().rev() {
        stop(runtime, target).await?;
    }
    Ok(())
}

/// Waits until the expected containers run, at most `timeout`, or until `deleted` says that the pod is on its way out.
/// A runtime that is away for a while is waited for.
///
/// # Errors
/// The runtime's, when it answers and refuses.
pub async fn wait<F: Future<Output = bool>>(
    runtime: &Runtime,
    plan: &Plan,
    timeout: Duration,
    deleted: impl Fn() -> F,
) -> Result<Outcome, Error> {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut running = Vec::new();
    loop {
        let mut trouble = None;
        let looked = async { restarted(runtime, plan, &runtime.state().await?).await };
        match looked.await {
            Ok(found) => running = found,
            Err(error) if error.is_down() => trouble = Some(error),
            Err(error) => return Err(error),
        }
        if running.len() == plan.expected.len() && trouble.is_none() {
            return Ok(Outcome::Running(running));
        }
        if deleted().await {
            return Ok(Outcome::Deleted);
        }
        if tokio::time::Instant::now() + LOOK > deadline {
            let missing = plan.expected.iter().filter(|name| !running.iter().any(|r| r.name == **name));
            return Ok(Outcome::TimedOut { missing: missing.cloned().collect(), running, runtime: trouble });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The expected containers that were started anew: those that run, and those that have finished and may.
async fn restarted(runtime: &Runtime, plan: &Plan, state: &State) -> Result<Vec<Restarted>, Error> {
    let live = live(state);
    let Some(pod) = live.get(plan.uid.as_str()) else { return Ok(Vec::new()) };
    if plan.sandbox.is_some() && pod.sandbox.map(|s| &s.id) == plan.sandbox.as_ref() {
        return Ok(Vec::new());
    }
    let stopped = |id: &str| plan.containers.iter().chain(&plan.sidecars).any(|target| target.id == id);
    let mut found = Vec::new();
    for name in &plan.expected {
        let Some(newest) = pod.newest(name) else { continue };
        let of_before = plan.sandbox.as_ref() == Some(&newest.pod_sandbox_id) || stopped(&newest.id);
        let finished = match newest.state() {
            _ if of_before => continue,
            v1::ContainerState::ContainerRunning => false,
            v1::ContainerState::ContainerExited if plan.may_finish.contains(name) => {
                match runtime.container(&newest.id).await {
                    Ok(status) if status.exit_code == 0 => true,
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => continue,
                }
            }
            _ => continue,
        };
        found.push(Restarted { name: name.clone(), id: newest.id.clone(), finished });
    }
    Ok(found)
}

/// Whether the pod as it is `now` is on its way out, or another one of the same name.
pub fn is_another(pod: &Value, now: &Value) -> bool {
    runtime_uid(now) != runtime_uid(pod) || meta::deletion_timestamp(now).is_some()
}

/// A runtime's id as people read it.
pub fn short(id: &str) -> &str {
    id.get(..13).unwrap_or(id)
}

async fn stop(runtime: &Runtime, target: &Target) -> Result<(), Error> {
    let error = match gone_is_fine(runtime.stop_container(&target.id, target.grace).await) {
        Err(error) if !error.is_down() => error,
        done => return done,
    };
    // It may have ended by itself at this very moment: containerd then cannot reach its shim any more, fails, and takes
    // a while to know of the end.
    for _ in 0..ENDS {
        match runtime.container(&target.id).await {
            Ok(status) if status.state() == v1::ContainerState::ContainerExited => return Ok(()),
            Err(gone) if gone.is_not_found() => return Ok(()),
            _ => tokio::time::sleep(LOOK).await,
        }
    }
    Err(error)
}

fn gone_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
