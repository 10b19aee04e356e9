//! `edge pod restart`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Seen;
use crate::cache::{ObjectKey, Reader};
use crate::cli::{failure, output};
use crate::config::Config;
use crate::daemon::ask_status;
use crate::kube::meta;
use crate::pods::get::{Query, select};
use crate::pods::observe::kubelet_is_up;
use crate::pods::restart::{
    Known, Outcome, Part, Plan, Request, Restarted, Turn, carry_out, is_another, plan, short, wait,
};
use crate::pods::view::{live, runtime_uid};
use crate::proxy::join::Record;
use crate::sys::service::Service;

/// Time for the daemon to say how the link is.
const ANSWER: Duration = Duration::from_secs(5);

/// `edge pod restart`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge pod restart web
  edge pod restart -l app=web --timeout 5m
  edge pod restart web --whole     a new sandbox: new address, init containers run again")]
pub struct Restart {
    /// Names of pods
    #[arg(value_parser = super::pod_name, required_unless_present = "selector")]
    names: Vec<String>,
    #[command(flatten)]
    namespace: super::Namespace,
    /// All pods with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only this container
    #[arg(short, long, conflicts_with = "whole")]
    container: Option<String>,
    /// Renew the sandbox too: network namespace, IPC and address; init containers run again
    #[arg(long)]
    whole: bool,
    /// How long to wait until new containers run
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = super::span::span)]
    timeout: Duration,
    /// Return when the old containers have stopped
    #[arg(long)]
    no_wait: bool,
}

impl Restart {
    pub async fn run(&self, config: &Config) -> Result<()> {
        // From the start: an interrupt in the middle of stopping must not leave a pod half stopped.
        let mut interrupts = Interrupts::new()?;
        let query = self.query()?;
        let seen = tokio::select! {
            biased;
            () = interrupts.next() => return Err(Interrupted::Looking.into()),
            seen = self.seen(config) => seen?,
        };
        let mut selected = select(&seen.observed.pods, &query).map_err(|error| super::said(&error))?;
        let mut uids = HashSet::new();
        // Whoever names a pod twice wants it restarted once.
        selected.pods.retain(|pod| uids.insert(runtime_uid(pod)));
        let mut failed = !selected.missing.is_empty();
        if failed {
            seen.tell_gaps();
        }
        selected.missing.iter().for_each(|missing| output::note(missing));
        if selected.pods.is_empty() && !failed {
            return Err(super::said(&format!(
                "No resources found in {} namespace.",
                self.namespace.namespace
            )));
        }
        for (place, pod) in selected.pods.iter().enumerate() {
            let outcome = if place == 0 {
                self.one(config, &seen, pod, &mut interrupts).await
            } else {
                self.later(config, pod, &mut interrupts).await
            };
            let Err(error) = outcome else { continue };
            if error.is::<Interrupted>() {
                let rest: Vec<String> = selected.pods[place + 1..].iter().map(|pod| name(pod)).collect();
                if !rest.is_empty() {
                    output::note(&format!("edge: not restarted: {}", rest.join(", ")));
                }
                return Err(error);
            }
            failure::report(&error.context(format!("cannot restart `{}`", name(pod))));
            failed = true;
        }
        if failed { Err(output::Exit(1).into()) } else { Ok(()) }
    }

    /// Which pods. An empty selector, as of a variable of a script that is not set, is none: it must not mean all.
    fn query(&self) -> Result<Query, failure::Usage> {
        let query = Query {
            names: self.names.clone(),
            namespace: Some(self.namespace.namespace.clone()),
            labels: self.selector.clone(),
            ..Query::default()
        };
        let wrong = match (query.names.is_empty(), query.has_selector()) {
            (true, false) => {
                "the selector is empty, and no pod is named hint: name pods, or give `-l app=web`"
            }
            (false, true) => "pods are named and selected hint: give names or `-l`, not both",
            _ => return Ok(query),
        };
        Err(failure::Usage(wrong.to_owned()))
    }

    async fn seen(&self, config: &Config) -> Result<Seen> {
        let mut seen = Seen::now(config).await?;
        std::mem::replace(&mut seen.observed.runtime, Ok(()))?;
        Ok(seen)
    }

    /// One whose turn comes after others: it is looked at anew, and must still be the same.
    async fn later(&self, config: &Config, pod: &Value, interrupts: &mut Interrupts) -> Result<()> {
        let seen = tokio::select! {
            biased;
            () = interrupts.next() => return Err(Interrupted::Before { pod: name(pod) }.into()),
            seen = self.seen(config) => seen?,
        };
        let same = seen.observed.pods.iter().find(|now| runtime_uid(now) == runtime_uid(pod));
        let same = same.ok_or_else(|| anyhow::anyhow!("it was deleted meanwhile"))?;
        self.one(config, &seen, same, interrupts).await
    }

    async fn one(
        &self,
        config: &Config,
        seen: &Seen,
        pod: &Value,
        interrupts: &mut Interrupts,
    ) -> Result<()> {
        let live = live(&seen.observed.state);
        let part = match (&self.container, self.whole) {
            (Some(container), _) => Part::Container(container.clone()),
            (None, true) => Part::Whole,
            (None, false) => Part::Containers,
        };
        let uid = runtime_uid(pod).unwrap_or_default();
        let known =
            if seen.observed.runtime_only.contains(uid) { uncached(config).await } else { Known::Cached };
        let plan = plan(pod, live.get(uid), &Request { part, kubelet_up: seen.kubelet_up, known })?;
        for note in &plan.notes {
            output::note(&format!("edge: {}: {note}", plan.pod));
        }
        stop(config, seen, &plan, interrupts).await?;
        if self.no_wait {
            return Ok(());
        }
        // Of what was never in the cache, its absence there says nothing.
        let deleted = async || known == Known::Cached && deleted(config, pod).await;
        let kubelet = config.pods.kubelet_healthz;
        let waiting = wait(&seen.runtime, &plan, self.timeout, deleted);
        let outcome = tokio::select! {
            outcome = waiting => outcome?,
            never = watch_kubelet(kubelet, &plan.pod) => match never {},
            () = interrupts.next() => return Err(Interrupted::Waiting { pod: plan.pod }.into()),
        };
        self.tell_outcome(&plan, outcome, kubelet).await
    }

    async fn tell_outcome(&self, plan: &Plan, outcome: Outcome, kubelet: SocketAddr) -> Result<()> {
        let (running, missing, runtime) = match outcome {
            Outcome::Running(running) => {
                return tell(&format!("{}: {}", plan.pod, runs(&running)));
            }
            Outcome::Deleted => anyhow::bail!("it was deleted meanwhile, and nobody starts it again"),
            Outcome::TimedOut { running, missing, runtime } => (running, missing, runtime),
        };
        if let Some(error) = runtime {
            return Err(anyhow::Error::new(error)
                .context("its containers were stopped, and whether they run again is not known"));
        }
        if !running.is_empty() {
            tell(&format!("{}: {}", plan.pod, runs(&running)))?;
        }
        let (missing, after) = (missing.join(", "), self.timeout.as_secs());
        if !kubelet_is_up(kubelet).await {
            anyhow::bail!(
                "{missing} not running again after {after}s: the kubelet does not answer hint: `{}`, and it starts \
                 them",
                Service::Kubelet.start()
            );
        }
        let pod = plan.pod.replacen('/', " ", 1);
        anyhow::bail!(
            "{missing} not running again after {after}s hint: the kubelet goes on trying, see `edge pod describe -n {pod}`"
        )
    }
}

/// Stops what the plan names, in the pod's turn. Once begun it is done to its end, whoever interrupts.
async fn stop(config: &Config, seen: &Seen, plan: &Plan, interrupts: &mut Interrupts) -> Result<()> {
    let folder = config.turns();
    let held = |holder: &str| output::note(&format!("edge: {}: {holder} restarts it: waiting", plan.pod));
    let turn = tokio::select! {
        // First: a turn that is free is taken at once, and whoever has interrupted before that wants nothing stopped.
        biased;
        () = interrupts.next() => return Err(Interrupted::Before { pod: plan.pod.clone() }.into()),
        turn = Turn::take(&folder, &plan.uid, "`edge pod restart`", held) => turn?,
    };
    let stopping = carry_out(&seen.runtime, plan);
    tokio::pin!(stopping);
    let mut interrupted = false;
    let outcome = loop {
        tokio::select! {
            outcome = &mut stopping => break outcome.map_err(anyhow::Error::from),
            () = interrupts.next() => {
                interrupted = true;
                let most = plan.patience().as_secs();
                output::note(&format!(
                    "edge: {}: its containers are being stopped, which takes up to {most}s and is not broken off",
                    plan.pod
                ));
            }
        }
    };
    drop(turn);
    let told = outcome.and_then(|()| tell(&stopped(plan)));
    if !interrupted {
        return told;
    }
    // Whoever has interrupted wants no other pod stopped, also where this one could not be. A terminal that was hung up
    // takes no more words, and that is no failure of this pod's alone.
    if let Err(error) = told.or_else(closed) {
        failure::report(&error.context(format!("cannot restart `{}`", plan.pod)));
    }
    Err(Interrupted::Waiting { pod: plan.pod.clone() }.into())
}

/// Says how far it is. Where nobody listens any more, the work goes on all the same.
fn tell(text: &str) -> Result<()> {
    output::result(text).or_else(closed)
}

/// No failure, where it is only that nobody listens.
fn closed(error: anyhow::Error) -> Result<()> {
    if error.is::<output::Closed>() { Ok(()) } else { Err(error) }
}

/// Who has a copy of what is not in the cache.
async fn uncached(config: &Config) -> Known {
    let report = tokio::time::timeout(ANSWER, ask_status(&config.socket)).await.ok().and_then(Result::ok);
    // A record that cannot be read is one.
    let is_joined = !matches!(Record::read(&config.state_dir), Ok(None));
    let offline_mode = report.as_ref().map_or(config.offline_mode, |report| report.offline_mode);
    has_it(is_joined && offline_mode, report.map(|report| report.link.state).as_deref())
}

/// A kubelet that was started in an outage has its pods from edge's cache alone, where edge keeps one. Without an
/// answer of the daemon nobody knows how the `link` is.
fn has_it(keeps_pods: bool, link: Option<&str>) -> Known {
    if keeps_pods && link != Some("online") { Known::RuntimeOnly } else { Known::Uncached }
}

/// Says once that the kubelet went away while its work is waited for.
async fn watch_kubelet(kubelet: SocketAddr, pod: &str) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        if !kubelet_is_up(kubelet).await {
            output::note(&format!(
                "edge: {pod}: the kubelet does not answer: waiting for it to start the containers"
            ));
            return std::future::pending().await;
        }
    }
}

/// Whether the pod is on its way out, as far as the cache knows. One that cannot be read says nothing.
async fn deleted(config: &Config, pod: &Value) -> bool {
    let path = super::cache_file(config);
    let key = ObjectKey {
        resource: "v1/pods".to_owned(),
        namespace: meta::namespace(pod).unwrap_or_default().to_owned(),
        name: meta::name(pod).unwrap_or_default().to_owned(),
    };
    let read = Reader::open(&path).and_then(|reader| Ok((reader.knows_own_pods()?, reader.object(&key)?)));
    match read {
        Ok((true, found)) => found.is_none_or(|now| is_another(pod, &now.body)),
        _ => false,
    }
}

/// SIGINT, SIGTERM and the SIGHUP of a session that was lost, from the moment on that this was made.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    /// None where whoever began this has it ignored, as `nohup` does.
    hangup: Option<Signal>,
}

impl Interrupts {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether this process was begun with SIGHUP ignored.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // The signals are counted from 1, the bits from 0.
    (mask >> (SignalKind::hangup().as_raw_value() - 1)) & 1 == 1
}

/// The operator does not want to wait any longer.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("interrupted before anything was stopped")]
    Looking,
    #[error("interrupted before anything of `{pod}` was stopped")]
    Before { pod: String },
    #[error("not waited for `{pod}`: its containers are stopped, and the kubelet starts them again")]
    Waiting { pod: String },
}

fn name(pod: &Value) -> String {
    format!("{}/{}", meta::namespace(pod).unwrap_or_default(), meta::name(pod).unwrap_or_default())
}

fn stopped(plan: &Plan) -> String {
    let targets = plan.containers.iter().chain(&plan.sidecars);
    let mut parts: Vec<String> =
        targets.map(|target| format!("{} {}", target.name, short(&target.id))).collect();
    parts.extend(plan.sandbox.as_ref().map(|id| format!("sandbox {}", short(id))));
    format!("{}: stopped {}", plan.pod, parts.join(", "))
}

fn runs(running: &[Restarted]) -> String {
    let parts = |finished: bool| -> Vec<String> {
        let of = running.iter().filter(|r| r.finished == finished);
        of.map(|r| format!("{} {}", r.name, short(&r.id))).collect()
    };
    let (run, finished) = (parts(false).join(", "), parts(true).join(", "));
    let words = [("running ", run), ("finished again ", finished)];
    let said: Vec<String> =
        words.into_iter().filter(|(_, of)| !of.is_empty()).map(|(word, of)| word.to_owned() + &of).collect();
    said.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_cache_is_lost_only_where_the_kubelet_has_nothing_else() {
        for (keeps_pods, link, known) in [
            (true, Some("offline"), Known::RuntimeOnly),
            (true, Some("starting"), Known::RuntimeOnly),
            (true, None, Known::RuntimeOnly),
            (true, Some("online"), Known::Uncached),
            (false, Some("offline"), Known::Uncached),
            (false, Some("none"), Known::Uncached),
            (false, None, Known::Uncached),
        ] {
            assert_eq!(has_it(keeps_pods, link), known, "{keeps_pods} {link:?}");
        }
    }
}
