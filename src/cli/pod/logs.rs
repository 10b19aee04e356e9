//! `edge pod logs`.

use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use futures_util::future::try_join_all;
use serde_json::Value;

use super::Seen;
use crate::cli::output;
use crate::config::{Config, quantity};
use crate::kube::meta;
use crate::pods::exec::choose_container;
use crate::pods::logs::{Error, LogFolder, Options, Which, follow, read};
use crate::pods::view::runtime_uid;
use crate::sys::clock;

/// `edge pod logs`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge pod logs web -f --tail 20
  edge pod logs web -c main -p --since 1h --timestamps")]
pub struct Logs {
    /// The pod
    name: String,
    #[command(flatten)]
    namespace: super::Namespace,
    /// The container, if not the first
    #[arg(short, long)]
    container: Option<String>,
    /// Every container, one after the other; with --follow all at once
    #[arg(long, conflicts_with = "container")]
    all_containers: bool,
    /// Go on with what is written, over rotation and restarts
    #[arg(short, long)]
    follow: bool,
    /// The run before this one
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,
    /// Only what is younger, such as 5s, 2m, 3h
    #[arg(long, value_name = "DURATION", value_parser = span, conflicts_with = "since_time")]
    since: Option<Duration>,
    /// Only what was written from this time on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since_time: Option<jiff::Timestamp>,
    /// Each line with its time
    #[arg(long)]
    timestamps: bool,
}

impl Logs {
    pub async fn run(&self, config: &Config) -> Result<()> {
        let seen = Seen::now(config).await?;
        let pod = seen.pod(&self.namespace.namespace, &self.name)?;
        let options = self.options();
        let mut sink = |line: &[u8]| std::io::stdout().lock().write_all(line);
        let which = if self.previous { Which::Previous } else { Which::Current };
        if self.all_containers && self.follow {
            return done(follow_all(&config.pod_logs, pod, &options).await);
        }
        if self.all_containers {
            return names(pod).try_for_each(|name| {
                done(started(read(&folder(&config.pod_logs, pod, name), which, &options, &mut sink)))
            });
        }
        let name = choose_container(pod, self.container.as_deref())?;
        let folder = folder(&config.pod_logs, pod, name);
        if self.follow {
            return done(follow(&folder, &options, &mut sink, &mut || false).await);
        }
        done(read(&folder, which, &options, &mut sink))
    }

    fn options(&self) -> Options {
        let ago = self.since.and_then(|ago| clock::now().checked_sub(ago).ok());
        Options {
            // kubectl's -1 is no limit.
            tail: self.tail.and_then(|lines| usize::try_from(lines).ok()),
            // The API has whole seconds, and so has kubectl.
            since: ago.or_else(|| jiff::Timestamp::from_second(self.since_time?.as_second()).ok()),
            timestamps: self.timestamps,
        }
    }
}

/// Each container in its own time; a line is never broken by another's.
async fn follow_all(root: &Path, pod: &Value, options: &Options) -> Result<(), Error> {
    let one = |name| async move {
        let mut sink = |line: &[u8]| std::io::stdout().lock().write_all(line);
        started(follow(&folder(root, pod, name), options, &mut sink, &mut || false).await)
    };
    try_join_all(names(pod).map(one)).await.map(drop)
}

/// Among several containers one that was not started yet is no failure.
fn started(outcome: Result<(), Error>) -> Result<(), Error> {
    match outcome {
        Err(Error::NoLog { .. } | Error::NoPrevious { .. }) => Ok(()),
        other => other,
    }
}

fn span(text: &str) -> Result<Duration, String> {
    quantity::span(text).ok_or_else(|| format!("`{text}` is no duration, such as 5s, 2m, 3h"))
}

fn names(pod: &Value) -> impl Iterator<Item = &str> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let all = lists.into_iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    all.filter_map(|container| container["name"].as_str())
}

fn folder(root: &Path, pod: &Value, container: &str) -> LogFolder {
    let (namespace, name) = (meta::namespace(pod).unwrap_or_default(), meta::name(pod).unwrap_or_default());
    LogFolder::new(root, namespace, name, runtime_uid(pod).unwrap_or_default(), container)
}

fn done(outcome: Result<(), Error>) -> Result<()> {
    match outcome {
        Err(Error::Write(e)) if e.kind() == ErrorKind::BrokenPipe => Err(output::Closed.into()),
        other => Ok(other?),
    }
}
