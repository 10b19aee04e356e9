//! `edge pod`: the pods of this gateway, with or without cloud, kubelet and daemon. It reads the cache from
//! disk and asks the runtime itself, so that it works when nothing else does.

mod describe;
mod exec;
mod get;
mod logs;
mod restart;
mod span;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Global, output};
use crate::cache::Reader;
use crate::config::Config;
use crate::cri::Runtime;
use crate::kube::meta;
use crate::pods::get::not_found;
use crate::pods::observe::{Observed, complete, kubelet_is_up};
use crate::proxy::join::Record;
use crate::sys::durable;
use crate::sys::service::Service;

/// `edge pod`
#[derive(Debug, Args)]
pub struct Pod {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show pods as they are at this moment, in kubectl's words and formats
    Get(get::Get),
    /// Tell everything about pods: conditions, states, reasons, probes, volumes, events
    Describe(describe::Describe),
    /// Print the log of a container from the files of the runtime
    Logs(logs::Logs),
    /// Run a command in a container
    Exec(exec::Exec),
    /// Stop the containers of pods, and see them started again by the kubelet
    Restart(restart::Restart),
}

/// Which namespace.
#[derive(Debug, Args)]
struct Namespace {
    /// The namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

impl Pod {
    pub fn run(&self, global: &Global) -> Result<()> {
        let config = global.in_force()?;
        let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let outcome = executor.block_on(async {
            match &self.command {
                Command::Get(command) => command.run(&config).await,
                Command::Describe(command) => command.run(&config).await,
                Command::Logs(command) => command.run(&config).await,
                Command::Exec(command) => command.run(&config).await,
                Command::Restart(command) => command.run(&config).await,
            }
        });
        // A read of standard input may hang for ever, and is of no interest any more.
        executor.shutdown_background();
        outcome
    }
}

/// The pods of this node at this moment, and who was there to ask.
struct Seen {
    runtime: Runtime,
    observed: Observed,
    kubelet_up: bool,
    daemon_up: bool,
}

impl Seen {
    async fn now(config: &Config) -> Result<Self> {
        let runtime = Runtime::new(&config.runtime)?;
        // All at once: the disk, the runtime and the kubelet each take their time.
        let own = config.clone();
        let cached = tokio::task::spawn_blocking(move || cached(&own));
        let (state, cached, kubelet_up, daemon_up) = tokio::join!(
            runtime.state(),
            cached,
            kubelet_is_up(config.pods.kubelet_healthz),
            daemon_is_up(&config.socket)
        );
        let observed = complete(&runtime, state, cached??).await;
        Ok(Self { runtime, observed, kubelet_up, daemon_up })
    }

    /// Says on standard error what part of the picture is missing.
    fn tell_gaps(&self) {
        self.gaps().iter().for_each(|gap| output::note(gap));
    }

    /// A line for each part of the picture that is missing.
    fn gaps(&self) -> Vec<String> {
        let mut gaps = Vec::new();
        if let Err(error) = &self.observed.runtime {
            gaps.push(format!("edge: pods are shown as they were last heard of: {error}"));
        } else if !self.kubelet_up {
            gaps.push(
                "edge: the kubelet does not answer: states are the runtime's, the rest is as last heard of"
                    .to_owned(),
            );
        }
        if !self.daemon_up {
            gaps.push(format!(
                "edge: the edge daemon does not run: what the cloud and the kubelet have said since is not known \
                 hint: `{}`",
                Service::Edge.start()
            ));
        }
        gaps.extend(
            self.observed.untold.iter().map(|error| format!("edge: shown as last heard of: {error}")),
        );
        gaps
    }

    /// One pod by its name. Where there is none, what part of the picture is missing is told too.
    fn pod(&self, namespace: &str, name: &str) -> Result<&Value> {
        self.find(namespace, name).ok_or_else(|| {
            self.tell_gaps();
            said(&not_found(name))
        })
    }

    fn find(&self, namespace: &str, name: &str) -> Option<&Value> {
        let is_it = |pod: &&Value| meta::namespace(pod) == Some(namespace) && meta::name(pod) == Some(name);
        self.observed.pods.iter().find(is_it)
    }
}

/// Whether somebody listens at the control socket. Who may not ask is told nothing wrong.
async fn daemon_is_up(socket: &Path) -> bool {
    let absent = [ErrorKind::NotFound, ErrorKind::ConnectionRefused];
    tokio::net::UnixStream::connect(socket).await.map_or_else(|e| !absent.contains(&e.kind()), |_| true)
}

/// A pod's name, also as `-o name` writes it: `pod/web`.
fn pod_name(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        None => Ok(text.to_owned()),
        Some(("pod" | "pods" | "po", name)) if !name.contains('/') => Ok(name.to_owned()),
        Some(_) => Err("it is no pod's name, such as `web` or `pod/web`".to_owned()),
    }
}

/// Says a line in kubectl's own words, and ends with exit code 1.
fn said(line: &str) -> anyhow::Error {
    output::note(line);
    output::Exit(1).into()
}

/// The daemon's cache, or the copy that it serves because the disk cannot be written.
fn cache_file(config: &Config) -> PathBuf {
    crate::cache::readable(&config.state_dir, &config.refuge)
}

/// What the cache has of this node's pods. Others may be in it: whoever lists all pods through the proxy brings
/// them in, and the runtime here knows nothing of them.
fn cached(config: &Config) -> Result<Vec<Value>> {
    let path = cache_file(config);
    if !durable::exists(&path)? {
        return Ok(Vec::new());
    }
    let pods =
        Reader::open(&path).and_then(|reader| reader.all("v1/pods")).context("cannot read the cache")?;
    // In need any pods are better than none.
    let record = Record::read(&config.state_dir).unwrap_or_else(|error| {
        output::note(&format!("warning: pods of other nodes may be among these: {error}"));
        None
    });
    let node = record.map(|record| record.node_name);
    let here = |pod: &Value| node.as_deref().is_none_or(|node| pod["spec"]["nodeName"] == node);
    Ok(pods.into_iter().filter(here).collect())
}
