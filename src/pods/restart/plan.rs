//! What a restart will stop, or why it will not: decided before anything is touched. Pure.

use std::time::Duration;

use serde_json::Value;

use crate::cri::v1;
use crate::kube::meta;
use crate::pods::view::{Live, container_name};

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

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which part.
    pub part: Part,
    /// Whether a kubelet is there to start it again.
    pub kubelet_up: bool,
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
    /// The containers that must run afterwards.
    pub expected: Vec<String>,
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
    /// How long stopping takes at the most: the containers together, then each sidecar.
    pub fn patience(&self) -> Duration {
        let together = self.containers.iter().map(|target| target.grace).max().unwrap_or_default();
        together + self.sidecars.iter().map(|target| target.grace).sum::<Duration>()
    }
}

/// Why nothing is stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody would start it.
    #[error(
        "the kubelet does not answer, so nobody would start it again hint: `systemctl start kubelet`, then try again"
    )]
    KubeletDown,
    /// It stays down by its own rule.
    #[error("its restartPolicy is Never, so the kubelet would not start it again")]
    NeverRestarts,
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
    let policy = pod["spec"]["restartPolicy"].as_str().unwrap_or("Always");
    refuse(pod, policy, request.kubelet_up)?;
    let live = live.ok_or(Refusal::NotStarted)?;
    let sandbox = live.sandbox.ok_or(Refusal::NotStarted)?;
    let names = Names::of(pod);
    let grace = grace(pod);
    let target = |container: &v1::Container| {
        let name = container_name(container).to_owned();
        let ends_for_good = policy == "OnFailure" && !names.sidecars.contains(&name);
        Target { id: container.id.clone(), grace: if ends_for_good { Duration::ZERO } else { grace }, name }
    };
    let running: Vec<Target> = live.running().map(target).collect();
    let of = |names: &[String]| -> Vec<Target> {
        names.iter().filter_map(|n| running.iter().find(|t| t.name == *n)).cloned().collect()
    };
    let mut plan = Plan {
        pod: format!("{}/{}", meta::namespace(pod).unwrap_or_default(), meta::name(pod).unwrap_or_default()),
        uid: crate::pods::view::runtime_uid(pod).unwrap_or_default().to_owned(),
        containers: of(&names.main),
        sidecars: of(&names.sidecars),
        sandbox: None,
        expected: Vec::new(),
        notes: Vec::new(),
    };
    match &request.part {
        Part::Container(name) => one(&mut plan, name, &names, &running)?,
        Part::Containers if plan.containers.is_empty() && plan.sidecars.is_empty() => {
            return Err(running
                .first()
                .map_or(Refusal::NothingRuns, |t| Refusal::Initializing { running: t.name.clone() }));
        }
        Part::Containers => {
            plan.expected = plan.containers.iter().chain(&plan.sidecars).map(|t| t.name.clone()).collect();
        }
        Part::Whole => {
            plan.containers.extend(of(&names.init));
            plan.sandbox = Some(sandbox.id.clone());
            plan.expected = names.sidecars.iter().chain(&names.main).cloned().collect();
            plan.notes.push(whole_note(pod, &names));
        }
    }
    if policy == "OnFailure" && plan.containers.iter().any(|t| t.grace.is_zero()) {
        plan.notes.push(
            "restartPolicy is OnFailure: the containers are killed and not asked to stop, since one that \
             ended in order would count as finished"
                .to_owned(),
        );
    }
    Ok(plan)
}

fn refuse(pod: &Value, policy: &str, kubelet_up: bool) -> Result<(), Refusal> {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Refusal::Finished { phase: phase.to_owned() });
    }
    if meta::deletion_timestamp(pod).is_some() {
        return Err(Refusal::Deleted);
    }
    if policy == "Never" {
        return Err(Refusal::NeverRestarts);
    }
    if !kubelet_up {
        return Err(Refusal::KubeletDown);
    }
    Ok(())
}

struct Names {
    main: Vec<String>,
    init: Vec<String>,
    sidecars: Vec<String>,
}

impl Names {
    fn of(pod: &Value) -> Self {
        let list = |key: &str, wanted: &dyn Fn(&Value) -> bool| -> Vec<String> {
            let all = pod["spec"][key].as_array().into_iter().flatten();
            all.filter(|c| wanted(c)).filter_map(|c| c["name"].as_str()).map(str::to_owned).collect()
        };
        let sidecar = |c: &Value| c["restartPolicy"] == "Always";
        Self {
            main: list("containers", &|_| true),
            init: list("initContainers", &|c| !sidecar(c)),
            sidecars: list("initContainers", &sidecar),
        }
    }
}

fn one(plan: &mut Plan, name: &str, names: &Names, running: &[Target]) -> Result<(), Refusal> {
    let mut all = names.init.iter().chain(&names.sidecars).chain(&names.main);
    if !all.clone().any(|n| n == name) {
        let known = all.by_ref().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        return Err(Refusal::NoSuchContainer { name: name.to_owned(), known });
    }
    let target = running.iter().find(|t| t.name == name);
    let target = target.ok_or_else(|| Refusal::ContainerDoesNotRun { name: name.to_owned() })?;
    plan.containers = vec![target.clone()];
    plan.sidecars = Vec::new();
    plan.expected = vec![name.to_owned()];
    Ok(())
}

fn whole_note(pod: &Value, names: &Names) -> String {
    let mut changes = Vec::new();
    if pod["spec"]["hostNetwork"] != true {
        let ip = pod["status"]["podIP"].as_str().unwrap_or("its address");
        changes.push(format!("{ip} will be another address"));
    }
    if !names.init.is_empty() {
        changes.push(format!("init containers run again: {}", names.init.join(", ")));
    }
    changes.push("emptyDir volumes stay".to_owned());
    format!("the sandbox is renewed: {}", changes.join("; "))
}

/// The pod's own grace period; 30 s, the API's default, where it has none.
fn grace(pod: &Value) -> Duration {
    let seconds = pod["spec"]["terminationGracePeriodSeconds"].as_u64();
    Duration::from_secs(seconds.unwrap_or(30))
}
