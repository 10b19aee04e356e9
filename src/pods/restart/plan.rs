//! What a restart will stop, or why it will not: decided before anything is touched. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::cri::v1;
use crate::kube::meta;
use crate::pods::policy::{self, Container, KILLED, Role};
use crate::pods::view::{Live, container_name};
use crate::sys::service::Service;

/// What of the pod is restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Its containers; the sandbox with network, IPC and volumes stays.
    Containers,
    /// One container.
    Container(String),
    /// Containers and sandbox: a new network namespace and address, and init containers run again.
    Whole,
}

/// Who has a copy of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// edge's cache, and so the kubelet.
    Cached,
    /// The kubelet, from the cloud itself: edge keeps none.
    Uncached,
    /// Nobody but the runtime, as far as is known here.
    RuntimeOnly,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which part.
    pub part: Part,
    /// Whether a kubelet is there to start it again.
    pub kubelet_up: bool,
    /// Whether it can know what to start.
    pub known: Known,
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// The uid under which the kubelet runs it.
    pub uid: String,
    /// Stopped together, in time for each other's last words; then `sidecars`, last one first.
    pub containers: Vec<Target>,
    /// Native sidecars, in the order of the spec.
    pub sidecars: Vec<Target>,
    /// The sandbox to be stopped and removed.
    pub sandbox: Option<String>,
    /// Between stop signal and SIGKILL, for each container of the spec: also for those that the kubelet starts while
    /// others are being stopped.
    pub graces: BTreeMap<String, Duration>,
    /// The containers that must run afterwards.
    pub expected: Vec<String>,
    /// Those of them that may also have finished again by then.
    pub may_finish: Vec<String>,
    /// What the operator should know beforehand.
    pub notes: Vec<String>,
}

/// A container to be stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The spec's name.
    pub name: String,
    /// The runtime's id.
    pub id: String,
    /// Between its stop signal and SIGKILL; zero kills at once.
    pub grace: Duration,
}

impl Plan {
    /// How long stopping takes at the most: the containers together, then each sidecar. With the sandbox, what the kubelet
    /// has started meanwhile is stopped once more.
    pub fn patience(&self) -> Duration {
        let together = self.containers.iter().map(|target| target.grace).max().unwrap_or_default();
        let once = together + self.sidecars.iter().map(|target| target.grace).sum::<Duration>();
        if self.sandbox.is_some() { once * 2 } else { once }
    }
}

/// Why nothing is stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody would start it.
    #[error(
        "the kubelet does not answer, so nobody would start it again hint: `{}`, then try again",
        Service::Kubelet.start()
    )]
    KubeletDown,
    /// It stays down by its own rule.
    #[error("its restartPolicy is Never, so the kubelet would not start it again")]
    NeverRestarts,
    /// One container stays down by its own rule.
    #[error("the restartPolicy of container `{name}` is Never, so the kubelet would not start it again")]
    ContainerNeverRestarts {
        /// Its name.
        name: String,
    },
    /// The kubelet may not know it.
    #[error(
        "only the runtime knows it: it is not in the cache, and the kubelet may have lost it too, so that nobody would \
         start it again hint: wait until the cloud is back, or see `edge status`"
    )]
    RuntimeOnly,
    /// It has ended.
    #[error("it has finished ({phase}), so the kubelet would not start it again")]
    Finished {
        /// Succeeded or Failed.
        phase: String,
    },
    /// It is on its way out.
    #[error("it is being deleted")]
    Deleted,
    /// Nothing to stop.
    #[error("the runtime has no sandbox of it: the kubelet has not started it yet")]
    NotStarted,
    /// Nothing to stop, but something to renew.
    #[error(
        "none of its containers runs, so there is nothing to stop: the kubelet starts them again by itself after its \
         back-off hint: `--whole` renews the sandbox"
    )]
    NothingRuns,
    /// Init containers are at work.
    #[error(
        "its init containers still run hint: `--container {running}` restarts that one, `--whole` all of them"
    )]
    Initializing {
        /// One that runs.
        running: String,
    },
    /// Not in the spec.
    #[error("container `{name}` is not one of {known}")]
    NoSuchContainer {
        /// As given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// In the spec, not running.
    #[error("container `{name}` does not run, so there is nothing to stop")]
    ContainerDoesNotRun {
        /// Its name.
        name: String,
    },
}

/// Decides on a pod as it is at this moment.
///
/// # Errors
/// [`Refusal`], and then nothing may be touched.
pub fn plan(pod: &Value, live: Option<&Live<'_>>, request: &Request) -> Result<Plan, Refusal> {
    let all: Vec<Container<'_>> = policy::containers(pod).filter(|c| c.role != Role::Ephemeral).collect();
    refuse(pod, &all, request)?;
    let live = live.ok_or(Refusal::NotStarted)?;
    let sandbox = live.sandbox.ok_or(Refusal::NotStarted)?;
    if request.known == Known::RuntimeOnly && !is_from_here(sandbox) {
        return Err(Refusal::RuntimeOnly);
    }
    let whole = request.part == Part::Whole;
    let usual = grace(pod, live);
    // Of the whole pod init containers run again in any case, and may take their time.
    let is_killed = |c: &Container<'_>| c.must_fail() && !(whole && c.role == Role::Init);
    let graces: BTreeMap<String, Duration> =
        all.iter().map(|c| (c.name.to_owned(), if is_killed(c) { Duration::ZERO } else { usual })).collect();
    let target = |c: &Container<'_>| -> Option<Target> {
        let runs = live.running().find(|found| container_name(found) == c.name)?;
        let grace = graces.get(c.name).copied().unwrap_or(usual);
        Some(Target { name: c.name.to_owned(), id: runs.id.clone(), grace })
    };
    let wanted: Vec<Container<'_>> = match &request.part {
        Part::Container(name) => vec![one(name, &all)?],
        Part::Containers => all.iter().copied().filter(|c| c.role != Role::Init).collect(),
        Part::Whole => all.clone(),
    };
    let (stay, stopped): (Vec<_>, Vec<_>) =
        wanted.into_iter().filter_map(|c| Some((c, target(&c)?))).partition(|(c, _)| !whole && stays_down(c));
    let (sidecars, containers): (Vec<_>, Vec<_>) = stopped
        .iter()
        .cloned()
        .partition(|(c, _)| c.role == Role::Sidecar && !matches!(request.part, Part::Container(_)));
    let targets =
        |of: Vec<(Container<'_>, Target)>| -> Vec<Target> { of.into_iter().map(|(_, t)| t).collect() };
    if !whole && stopped.is_empty() {
        return Err(nothing_to_stop(&request.part, &all, live, &stay));
    }
    let killed: Vec<&str> = stopped.iter().filter(|(c, _)| is_killed(c)).map(|(c, _)| c.name).collect();
    // What only the runtime knows has no list of containers but that of those it once started.
    let expected: Vec<Container<'_>> = match request.known {
        Known::Cached if whole => all.iter().copied().filter(|c| c.role != Role::Init).collect(),
        _ => stopped.iter().map(|(c, _)| *c).collect(),
    };
    let names = |of: &[Container<'_>]| -> Vec<String> { of.iter().map(|c| c.name.to_owned()).collect() };
    let mut notes = notes(pod, &all, whole, &killed, &stay);
    if request.known == Known::Uncached && !is_from_here(sandbox) {
        notes.push(
            "it is not in the cache, so its restartPolicy is not known: by any but Always it may stay down"
                .to_owned(),
        );
    }
    let may_finish = expected.iter().copied().filter(|c| c.role == Role::Main && !c.comes_back(0));
    Ok(Plan {
        pod: format!("{}/{}", meta::namespace(pod).unwrap_or_default(), meta::name(pod).unwrap_or_default()),
        uid: crate::pods::view::runtime_uid(pod).unwrap_or_default().to_owned(),
        may_finish: names(&may_finish.collect::<Vec<_>>()),
        expected: names(&expected),
        notes,
        containers: targets(containers),
        sidecars: targets(sidecars),
        sandbox: whole.then(|| sandbox.id.clone()),
        graces,
    })
}

fn refuse(pod: &Value, all: &[Container<'_>], request: &Request) -> Result<(), Refusal> {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Refusal::Finished { phase: phase.to_owned() });
    }
    if meta::deletion_timestamp(pod).is_some() {
        return Err(Refusal::Deleted);
    }
    // The kubelet makes no second sandbox for a pod with this policy, whatever those of its containers are.
    let no_sandbox = request.part == Part::Whole && pod["spec"]["restartPolicy"] == "Never";
    let main = || all.iter().filter(|c| matches!(c.role, Role::Main | Role::Sidecar));
    if no_sandbox || (main().count() > 0 && main().all(stays_down)) {
        return Err(Refusal::NeverRestarts);
    }
    if !request.kubelet_up {
        return Err(Refusal::KubeletDown);
    }
    Ok(())
}

/// Whether the kubelet would not start it again, however it ends.
fn stays_down(container: &Container<'_>) -> bool {
    !container.comes_back(0) && !container.comes_back(KILLED)
}

/// Whether the kubelet has the pod from a file or an address of its own, and so will start it without the cloud.
fn is_from_here(sandbox: &v1::PodSandbox) -> bool {
    let source = sandbox.annotations.get("kubernetes.io/config.source");
    source.is_some_and(|source| matches!(source.as_str(), "file" | "http"))
}

fn one<'p>(name: &str, all: &[Container<'p>]) -> Result<Container<'p>, Refusal> {
    all.iter().find(|c| c.name == name).copied().ok_or_else(|| Refusal::NoSuchContainer {
        name: name.to_owned(),
        known: all.iter().map(|c| format!("`{}`", c.name)).collect::<Vec<_>>().join(", "),
    })
}

fn nothing_to_stop(
    part: &Part,
    all: &[Container<'_>],
    live: &Live<'_>,
    stay: &[(Container<'_>, Target)],
) -> Refusal {
    match (part, stay.first()) {
        (_, Some((c, _))) => Refusal::ContainerNeverRestarts { name: c.name.to_owned() },
        (Part::Container(name), None) => Refusal::ContainerDoesNotRun { name: name.clone() },
        _ => {
            let init = |name: &&str| all.iter().any(|c| c.name == *name && c.role == Role::Init);
            let mut running = live.running().map(container_name).filter(init);
            running
                .next()
                .map_or(Refusal::NothingRuns, |name| Refusal::Initializing { running: name.to_owned() })
        }
    }
}

/// What the operator should know beforehand.
fn notes(
    pod: &Value,
    all: &[Container<'_>],
    whole: bool,
    killed: &[&str],
    stay: &[(Container<'_>, Target)],
) -> Vec<String> {
    let mut notes = Vec::new();
    if whole {
        notes.push(whole_note(pod, all));
    }
    if !killed.is_empty() {
        notes.push(format!(
            "killed and not asked to stop: {}, since what has ended in order would count as finished and not be started \
             again",
            killed.join(", ")
        ));
    }
    if !stay.is_empty() {
        let names: Vec<&str> = stay.iter().map(|(c, _)| c.name).collect();
        notes.push(format!(
            "not stopped: {}, which the kubelet would not start again by the restartPolicy",
            names.join(", ")
        ));
    }
    notes
}

fn whole_note(pod: &Value, all: &[Container<'_>]) -> String {
    let mut changes = Vec::new();
    if pod["spec"]["hostNetwork"] != true {
        let ip = pod["status"]["podIP"].as_str().unwrap_or("its address");
        changes.push(format!("{ip} will be another address"));
    }
    let init: Vec<&str> = all.iter().filter(|c| c.role == Role::Init).map(|c| c.name).collect();
    if !init.is_empty() {
        changes.push(format!("init containers run again: {}", init.join(", ")));
    }
    // With the sandbox goes the kubelet's knowledge that they are done.
    let statuses = || pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let code =
        |name: &str| statuses().find(|s| s["name"] == name)?["state"]["terminated"]["exitCode"].as_i64();
    let is_over =
        |c: &&Container<'_>| c.role == Role::Main && code(c.name).is_some_and(|code| !c.comes_back(code));
    let finished: Vec<&str> = all.iter().filter(is_over).map(|c| c.name).collect();
    if !finished.is_empty() {
        changes.push(format!("finished containers run again: {}", finished.join(", ")));
    }
    changes.push("emptyDir volumes stay".to_owned());
    format!("the sandbox is renewed: {}", changes.join("; "))
}

/// The pod's own grace period. The runtime has it too, as the kubelet's note on each container; 30 s, the API's default,
/// where neither tells.
fn grace(pod: &Value, live: &Live<'_>) -> Duration {
    let noted = || {
        let mut all =
            live.running().filter_map(|c| c.annotations.get("io.kubernetes.pod.terminationGracePeriod"));
        all.find_map(|text| text.parse().ok())
    };
    let seconds = pod["spec"]["terminationGracePeriodSeconds"].as_u64().or_else(noted);
    Duration::from_secs(seconds.unwrap_or(30))
}

#[cfg(test)]
mod tests;
