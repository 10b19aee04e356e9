//! One restart, done by the daemon: planned, in its turn, carried out, and waited for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::cache::Cache;
use crate::cri::{self, Runtime};
use crate::kube::meta;
use crate::pods::observe::kubelet_is_up;
use crate::pods::restart::{
    Known, Outcome, Part, Plan, Refusal, Request, Turn, carry_out, is_another, plan, short, wait,
};
use crate::pods::view::{live, runtime_uid};

/// How long the kubelet may take to start the containers again before that is told as a failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why a restart was not done, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not begun: nobody would start it again, or there is nothing to stop.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The runtime's.
    #[error(transparent)]
    Runtime(#[from] cri::Error),
    /// The lock.
    #[error("its turn to be restarted cannot be taken: {0}")]
    Turn(std::io::Error),
    /// Deleted meanwhile.
    #[error("it was deleted meanwhile")]
    Deleted,
    /// The kubelet did not start it again.
    #[error("{} not running again after {} s: the kubelet goes on trying", .0.join(", "), PATIENCE.as_secs())]
    TimedOut(Vec<String>),
}

impl Error {
    /// Whether the same may succeed a moment later, nothing having been touched.
    pub fn passes(&self) -> bool {
        match self {
            Self::Refused(refusal) => matches!(refusal, Refusal::KubeletDown | Refusal::NotStarted),
            Self::Runtime(error) => error.is_down(),
            _ => false,
        }
    }
}

/// What a restart is done with.
#[derive(Debug, Clone)]
pub struct Hand {
    /// Whom to ask.
    pub runtime: Runtime,
    /// Where it is seen that a pod was deleted.
    pub cache: Cache,
    /// Where the kubelet answers for its health.
    pub kubelet: SocketAddr,
    /// The folder of the turns.
    pub turns: PathBuf,
}

impl Hand {
    /// Stops `part` of a cached `pod`. Where its containers cannot be restarted by themselves, the whole is.
    pub async fn stop(&self, pod: &Value, part: Part) -> Result<Plan, Error> {
        let kubelet_up = kubelet_is_up(self.kubelet).await;
        let uid = runtime_uid(pod).unwrap_or_default();
        let state = self.runtime.state().await?;
        let live = live(&state);
        let make = |part| plan(pod, live.get(uid), &Request { part, kubelet_up, known: Known::Cached });
        let plan = match make(part) {
            Err(Refusal::NothingRuns | Refusal::Initializing { .. }) => make(Part::Whole)?,
            made => made?,
        };
        let turn = Turn::take(&self.turns, uid, "the edge daemon", |_| {}).await.map_err(Error::Turn)?;
        carry_out(&self.runtime, &plan).await?;
        drop(turn);
        Ok(plan)
    }

    /// Waits until the kubelet has started again what was stopped; what runs then, in words.
    pub async fn wait(&self, pod: &Value, plan: &Plan) -> Result<String, Error> {
        let deleted = || self.is_deleted(pod);
        match wait(&self.runtime, plan, PATIENCE, deleted).await? {
            Outcome::Running(running) => {
                let word = |finished: bool| if finished { "has finished again" } else { "runs" };
                let all = [false, true].map(|finished| {
                    let of = running.iter().filter(|r| r.finished == finished);
                    let all: Vec<String> = of.map(|r| format!("{} {}", r.name, short(&r.id))).collect();
                    (!all.is_empty()).then(|| format!("{} {}", all.join(", "), word(finished)))
                });
                Ok(all.into_iter().flatten().collect::<Vec<_>>().join("; "))
            }
            Outcome::Deleted => Err(Error::Deleted),
            Outcome::TimedOut { runtime: Some(error), .. } => Err(error.into()),
            Outcome::TimedOut { missing, .. } => Err(Error::TimedOut(missing)),
        }
    }

    async fn is_deleted(&self, pod: &Value) -> bool {
        let (Some(namespace), Some(name)) = (meta::namespace(pod), meta::name(pod)) else { return false };
        let key = crate::cache::ObjectKey {
            resource: "v1/pods".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let read = self.cache.read(move |reader| Ok((reader.knows_own_pods()?, reader.object(&key)?)));
        match read.await {
            Ok((true, found)) => found.is_none_or(|now| is_another(pod, &now.body)),
            _ => false,
        }
    }
}

/// What was stopped to heal a pod, and why.
pub fn healed(plan: &Plan, why: &str) -> String {
    let stopped = plan.containers.iter().chain(&plan.sidecars);
    let mut all: Vec<String> = stopped.map(|t| format!("{} {}", t.name, short(&t.id))).collect();
    let what = match &plan.sandbox {
        Some(sandbox) => {
            all.push(format!("sandbox {}", short(sandbox)));
            "the whole pod"
        }
        None => "its containers",
    };
    format!("{what} restarted ({} stopped): {why}", all.join(", "))
}
