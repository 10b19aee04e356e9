//! `edge pod logs`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use futures_util::future::try_join_all;
use serde_json::Value;

use super::Seen;
use crate::cli::output;
use crate::config::Config;
use crate::kube::meta;
use crate::pods::exec::choose_container;
use crate::pods::logs::{Error, LogFolder, Options, Which, follow, left_behind, read};
use crate::pods::policy::is_over;
use crate::pods::view::runtime_uid;
use crate::sys::clock;

/// Between two looks at whether what is followed has ended.
const LOOK: Duration = Duration::from_secs(1);

/// `edge pod logs`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge pod logs web -f --tail 20
  edge pod logs web -c main -p --since 1h --timestamps")]
pub struct Logs {
    /// The pod
    #[arg(value_parser = super::pod_name)]
    name: String,
    #[command(flatten)]
    namespace: super::Namespace,
    /// The container, if not the first
    #[arg(short, long)]
    container: Option<String>,
    /// Every container, one after the other; with --follow all at once
    #[arg(long, conflicts_with = "container")]
    all_containers: bool,
    /// Go on with what is written, over rotation and restarts, until the container has ended for good
    #[arg(short, long)]
    follow: bool,
    /// The run before this one
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
    /// Only the last lines; -1 for all
    #[arg(long, value_name = "LINES", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..))]
    tail: Option<i64>,
    /// Only what is younger, such as 5s, 2m, 1.5h; 0 for all
    #[arg(long, value_name = "DURATION", value_parser = super::span::span, conflicts_with = "since_time")]
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
        let left = self.left_behind(config, &seen)?;
        let pod = match &left {
            Some(left) => left,
            None => seen.pod(&self.namespace.namespace, &self.name)?,
        };
        let options = self.options();
        let mut sink = |line: &[u8]| std::io::stdout().lock().write_all(line);
        let which = |name| if self.previous { Which::previous(pod, name) } else { Which::Current };
        if self.follow {
            return self.follow(config, pod, &options).await;
        }
        if self.all_containers {
            let each = |name| read(&folder(&config.pod_logs, pod, name), which(name), &options, &mut sink);
            return done(of_several(names(pod).map(each)));
        }
        let name = choose_container(pod, self.container.as_deref())?;
        let folder = folder(&config.pod_logs, pod, name);
        done(read(&folder, which(name), &options, &mut sink))
    }

    /// A pod that nobody tells of while not all can be asked, made of the logs that are here.
    fn left_behind(&self, config: &Config, seen: &Seen) -> Result<Option<Value>> {
        let (namespace, name) = (&self.namespace.namespace, &self.name);
        if seen.find(namespace, name).is_some() || seen.gaps().is_empty() {
            return Ok(None);
        }
        let Some((path, pod)) = left_behind(&config.pod_logs, namespace, name)? else { return Ok(None) };
        seen.tell_gaps();
        let path = path.display();
        output::note(&format!(
            "edge: nobody tells of pod `{name}` at this moment: its logs are those of `{path}`"
        ));
        let all: Vec<&str> = names(&pod).collect();
        if all.len() > 1 && !self.all_containers && self.container.is_none() {
            let all = all.join(" ");
            let words = "error: a container name must be specified for pod";
            return Err(super::said(&format!("{words} {name}, choose one of: [{all}]")));
        }
        Ok(Some(pod))
    }

    /// Until the containers have ended for good, which may be at once.
    async fn follow(&self, config: &Config, pod: &Value, options: &Options) -> Result<()> {
        let over = Over::default();
        over.note(pod, Some(pod));
        let root = &config.pod_logs;
        let following = async {
            if self.all_containers {
                return done(follow_all(root, pod, options, &over).await);
            }
            let name = choose_container(pod, self.container.as_deref())?;
            let mut sink = |line: &[u8]| std::io::stdout().lock().write_all(line);
            done(follow(&folder(root, pod, name), options, &mut sink, &mut || over.has(name)).await)
        };
        tokio::select! {
            outcome = following => outcome,
            never = over.watch(config, pod) => match never {},
        }
    }

    fn options(&self) -> Options {
        let ago = self.since.filter(|ago| !ago.is_zero());
        let ago = ago.and_then(|ago| clock::now().checked_sub(ago).ok());
        Options {
            // kubectl's -1 is no limit.
            tail: self.tail.and_then(|lines| usize::try_from(lines).ok()),
            // The API has whole seconds, and so has kubectl.
            since: ago.or_else(|| jiff::Timestamp::from_second(self.since_time?.as_second()).ok()),
            timestamps: self.timestamps,
        }
    }
}

/// The containers of a pod that have ended for good.
#[derive(Default)]
struct Over(Mutex<BTreeSet<String>>);

impl Over {
    fn has(&self, name: &str) -> bool {
        self.0.lock().is_ok_and(|over| over.contains(name))
    }

    /// Notes what a look at the pod `now` shows; all of one that is gone.
    fn note(&self, pod: &Value, now: Option<&Value>) {
        let ended = names(pod).filter(|name| now.is_none_or(|now| is_over(now, name))).map(str::to_owned);
        if let Ok(mut over) = self.0.lock() {
            over.extend(ended);
        }
    }

    /// Looks again and again. What cannot be seen for a while has not ended.
    async fn watch(&self, config: &Config, pod: &Value) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            let Ok(seen) = Seen::now(config).await else { continue };
            let now = seen.observed.pods.iter().find(|now| runtime_uid(now) == runtime_uid(pod));
            // What only the runtime has shown is not gone when the runtime is away.
            if now.is_some() || seen.observed.runtime.is_ok() {
                self.note(pod, now);
            }
        }
    }
}

/// Each container in its own time; a line is never broken by another's. One that has no log yet is waited for.
async fn follow_all(root: &Path, pod: &Value, options: &Options, over: &Over) -> Result<(), Error> {
    let one = |name| async move {
        let mut sink = |line: &[u8]| std::io::stdout().lock().write_all(line);
        let folder = folder(root, pod, name);
        loop {
            match follow(&folder, options, &mut sink, &mut || over.has(name)).await {
                Err(Error::NoLog { .. }) if !over.has(name) => tokio::time::sleep(LOOK).await,
                Err(none @ Error::NoLog { .. }) => return Ok(Err(none)),
                outcome => return outcome.map(Ok),
            }
        }
    };
    of_several(try_join_all(names(pod).map(one)).await?)
}

/// Among several containers one that was not started yet is no failure; if none was, the first says so.
fn of_several(outcomes: impl IntoIterator<Item = Result<(), Error>>) -> Result<(), Error> {
    let (mut any, mut none) = (false, None);
    for outcome in outcomes {
        match outcome {
            Ok(()) => any = true,
            Err(error @ (Error::NoLog { .. } | Error::NoPrevious { .. })) => none = none.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    none.filter(|_| !any).map_or(Ok(()), Err)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_containers_one_with_a_log_is_enough_and_none_is_a_failure() {
        let missing = |name: &str| Err(Error::NoPrevious { container: name.to_owned() });
        assert!(of_several([]).is_ok());
        assert!(of_several([missing("a"), Ok(()), missing("b")]).is_ok());
        let none = of_several([missing("a"), missing("b")]).unwrap_err();
        assert!(none.to_string().contains("`a`"), "{none}");
        let broken = Error::Write(ErrorKind::BrokenPipe.into());
        assert!(matches!(of_several([Ok(()), Err(broken)]), Err(Error::Write(_))));
    }
}
