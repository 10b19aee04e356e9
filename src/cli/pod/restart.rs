//! `edge pod restart`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::Seen;
use crate::cli::{failure, output};
use crate::config::{Config, quantity};
use crate::kube::meta;
use crate::pods::get::{Query, select};
use crate::pods::restart::{Outcome, Part, Plan, Request, Restarted, carry_out, plan, wait};
use crate::pods::view::{live, runtime_uid};

/// `edge pod restart`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge pod restart web
  edge pod restart -l app=web --timeout 5m
  edge pod restart web --whole     a new sandbox: new address, init containers run again")]
pub struct Restart {
    /// Names of pods
    #[arg(required_unless_present = "selector", conflicts_with = "selector")]
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
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = span)]
    timeout: Duration,
    /// Return when the old containers have stopped
    #[arg(long)]
    no_wait: bool,
}

impl Restart {
    pub async fn run(&self, config: &Config) -> Result<()> {
        let seen = Seen::now(config).await?;
        if let Err(error) = seen.observed.runtime {
            return Err(error.into());
        }
        let query = Query {
            names: self.names.clone(),
            namespace: Some(self.namespace.namespace.clone()),
            labels: self.selector.clone(),
            ..Query::default()
        };
        let selected = select(&seen.observed.pods, &query).map_err(|error| super::said(&error))?;
        selected.missing.iter().for_each(|missing| output::note(missing));
        let mut failed = !selected.missing.is_empty();
        if selected.pods.is_empty() && !failed {
            return Err(super::said(&format!(
                "No resources found in {} namespace.",
                self.namespace.namespace
            )));
        }
        for pod in selected.pods {
            if let Err(error) = self.one(&seen, pod).await {
                if error.is::<Interrupted>() || error.is::<output::Closed>() {
                    return Err(error);
                }
                let pod = format!("{}/{}", self.namespace.namespace, meta::name(pod).unwrap_or_default());
                failure::report(&error.context(format!("cannot restart `{pod}`")));
                failed = true;
            }
        }
        if failed { Err(output::Exit(1).into()) } else { Ok(()) }
    }

    async fn one(&self, seen: &Seen, pod: &Value) -> Result<()> {
        let live = live(&seen.observed.state);
        let part = match (&self.container, self.whole) {
            (Some(container), _) => Part::Container(container.clone()),
            (None, true) => Part::Whole,
            (None, false) => Part::Containers,
        };
        let request = Request { part, kubelet_up: seen.kubelet_up };
        let plan = plan(pod, runtime_uid(pod).and_then(|uid| live.get(uid)), &request)?;
        for note in &plan.notes {
            output::note(&format!("edge: {}: {note}", plan.pod));
        }
        // From here to its end nothing interrupts: a half-stopped pod would be nobody's wish.
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);
        carry_out(&seen.runtime, &plan).await?;
        output::result(&stopped(&plan))?;
        if self.no_wait {
            return Ok(());
        }
        let outcome = tokio::select! {
            outcome = wait(&seen.runtime, &plan, self.timeout) => outcome?,
            _ = &mut interrupt => return Err(Interrupted { pod: plan.pod }.into()),
        };
        match outcome {
            Outcome::Running(running) => output::result(&format!("{}: {}", plan.pod, runs(&running))),
            Outcome::TimedOut { running, missing } => {
                if !running.is_empty() {
                    output::result(&format!("{}: {}", plan.pod, runs(&running)))?;
                }
                anyhow::bail!(
                    "{} not running again after {}s hint: the kubelet goes on trying, see `edge pod get {}`",
                    missing.join(", "),
                    self.timeout.as_secs(),
                    meta::name(pod).unwrap_or_default()
                )
            }
        }
    }
}

/// The operator does not want to wait any longer.
#[derive(Debug, thiserror::Error)]
#[error("not waited for `{pod}`: its containers are stopped, and the kubelet starts them again")]
struct Interrupted {
    pod: String,
}

fn span(text: &str) -> Result<Duration, String> {
    quantity::span(text).ok_or_else(|| format!("`{text}` is no duration, such as 30s, 2m"))
}

fn stopped(plan: &Plan) -> String {
    let targets = plan.containers.iter().chain(&plan.sidecars);
    let mut parts: Vec<String> =
        targets.map(|target| format!("{} {}", target.name, short(&target.id))).collect();
    parts.extend(plan.sandbox.as_ref().map(|id| format!("sandbox {}", short(id))));
    format!("{}: stopped {}", plan.pod, parts.join(", "))
}

fn runs(running: &[Restarted]) -> String {
    let parts: Vec<String> = running.iter().map(|r| format!("{} {}", r.name, short(&r.id))).collect();
    format!("running {}", parts.join(", "))
}

fn short(id: &str) -> &str {
    id.get(..13).unwrap_or(id)
}
