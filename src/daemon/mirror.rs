//! The mirror's tasks, and the scheduler that runs it while the cloud is there. It is not core: without it everything
//! else goes on.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::task::{self, Place, Task, TaskError, blocking};
use crate::health::Part;
use crate::link::LinkState;
use crate::mirror::schedule::{self, Timetable, Window};
use crate::mirror::{self, Error, Parts, Record, Request};
use crate::sys::clock;
use crate::sys::progress::Progress;

/// The scheduler's run among the commands at work.
pub const SCHEDULED_RUN: &str = "mirror.schedule";
/// How long the scheduler sleeps at the most: a clock that jumps is noticed after that.
const NAP: Duration = Duration::from_secs(20);

/// `edge status -o json`: the mirror, where something is configured for it or it has run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorReport {
    /// The line of cron, if any.
    pub schedule: Option<String>,
    /// Since when a run is under way.
    pub running: Option<String>,
    /// When the last run began and ended.
    pub started: Option<String>,
    /// When it ended.
    pub ended: Option<String>,
    /// When the next is due, if there is a schedule.
    pub next: Option<String>,
    /// Images, charts and repositories that are wanted.
    pub wanted: usize,
    /// Bytes that travelled in the last run.
    pub bytes: u64,
    /// What went wrong in the last run.
    pub failed: Vec<MirrorTrouble>,
    /// What is wanted and not here at all.
    pub missing: Vec<String>,
}

/// Something that went wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorTrouble {
    /// A source, an image or a chart.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What is to be done with the mirror.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum MirrorTask {
    /// Fetch what the mirror wants.
    Sync {
        /// Only these images and charts; all without.
        names: Vec<String>,
        /// Only say what would come.
        dry_run: bool,
        /// By the schedule.
        scheduled: bool,
    },
    /// Say what the mirror wants and holds.
    List,
    /// Say why something is mirrored or not.
    Explain {
        /// An image or a chart.
        name: String,
    },
    /// Remove from the mirror what no rule wants any more.
    Prune {
        /// Only say what would go.
        dry_run: bool,
    },
    /// Send what the mirror holds to a registry.
    Push {
        /// `host[:port][/prefix]`.
        registry: String,
        /// Over plain HTTP.
        insecure: bool,
    },
}

impl MirrorTask {
    /// The command that a person types for it.
    pub fn command(&self) -> &'static str {
        match self {
            Self::Sync { .. } => "edge mirror sync",
            Self::List => "edge mirror list",
            Self::Explain { .. } => "edge mirror explain",
            Self::Prune { .. } => "edge mirror prune",
            Self::Push { .. } => "edge mirror push",
        }
    }
}

/// Does `task`.
///
/// # Errors
/// [`TaskError`].
pub async fn run(task: MirrorTask, place: &Place, progress: &Progress) -> Result<Value, TaskError> {
    match task {
        MirrorTask::Sync { names, dry_run, scheduled } => {
            sync(place, Request { names, dry_run, scheduled }, progress).await
        }
        MirrorTask::List => list(place).await,
        MirrorTask::Explain { name } => explain(place, name).await,
        MirrorTask::Prune { dry_run } => prune(place, dry_run).await,
        MirrorTask::Push { registry, insecure } => push(place, &registry, insecure, progress).await,
    }
}

/// What the mirror's own errors mean for whoever asked.
fn told(error: Error) -> TaskError {
    if error.is_input() { TaskError::usage(error) } else { TaskError::failed(error) }
}

async fn parts(place: &Place) -> Result<Parts, TaskError> {
    let config = place.config();
    let cache = if config.mirror.cluster_images { Some(place.cache().await?.clone()) } else { None };
    Ok(Parts {
        store: place.store().await?,
        settings: config.mirror.clone(),
        state_dir: config.state_dir.clone(),
        cache,
        desk: place.desk.holding(task::held().map(|held| held as _)),
    })
}

fn json(value: &impl Serialize) -> Result<Value, TaskError> {
    serde_json::to_value(value).map_err(TaskError::failed)
}

async fn sync(place: &Place, request: Request, progress: &Progress) -> Result<Value, TaskError> {
    let (parts, progress) = (parts(place).await?, progress.clone());
    apart(move || async move { json(&mirror::sync(&parts, &request, &progress).await.map_err(told)?) }).await
}

async fn list(place: &Place) -> Result<Value, TaskError> {
    let parts = parts(place).await?;
    blocking(move || json(&mirror::list::list(&parts).map_err(told)?)).await
}

async fn explain(place: &Place, name: String) -> Result<Value, TaskError> {
    let parts = parts(place).await?;
    blocking(move || json(&mirror::explain::explain(&parts, &name).map_err(told)?)).await
}

async fn prune(place: &Place, dry_run: bool) -> Result<Value, TaskError> {
    let parts = parts(place).await?;
    blocking(move || json(&mirror::prune::prune(&parts, dry_run).map_err(told)?)).await
}

async fn push(
    place: &Place,
    registry: &str,
    insecure: bool,
    progress: &Progress,
) -> Result<Value, TaskError> {
    let (parts, progress, registry) = (parts(place).await?, progress.clone(), registry.to_owned());
    apart(move || async move {
        json(&mirror::push::push(&parts, &registry, insecure, &progress).await.map_err(told)?)
    })
    .await
}

/// Runs long work on a thread of its own: it never takes a thread from those who serve. Dropped, it is called off.
async fn apart<F, T, R>(work: F) -> Result<R, TaskError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Future<Output = Result<R, TaskError>>,
    R: Send + 'static,
{
    let runtime = tokio::runtime::Handle::current();
    let (tell, told) = oneshot::channel();
    let (stays, gone) = oneshot::channel::<()>();
    let held = task::held();
    let run = move || {
        let _held = held;
        runtime.block_on(async {
            tokio::select! {
                // First: what was called off is not looked at again, since its timers may be gone.
                biased;
                _ = gone => {}
                done = work() => drop(tell.send(done)),
            }
        });
    };
    let started = std::thread::Builder::new().name("mirror".into()).stack_size(1 << 20).spawn(run);
    started.map_err(|e| TaskError::failed(format!("cannot start a thread: {e}")))?;
    let done = told.await.map_err(|_| TaskError::failed("the work broke off"))?;
    drop(stays);
    done
}

/// Runs the mirror whenever it is due, while the link is up; `link` is `None` where no cloud was joined.
pub async fn schedule(
    place: Arc<Place>,
    part: Part,
    link: Option<watch::Receiver<LinkState>>,
    mut stop: watch::Receiver<bool>,
) {
    // Where in the jitter this gateway lies; the same until it starts anew.
    let share = mirror::chance();
    loop {
        let due = tokio::select! {
            due = is_due(&place, &part, link.as_ref(), share) => due,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        if due {
            tracing::info!("the mirror runs");
            let task = Task::Mirror(MirrorTask::Sync { names: Vec::new(), dry_run: false, scheduled: true });
            let silent = Progress::silent();
            let done = tokio::select! {
                done = place.doing(SCHEDULED_RUN, None, task::run(task, &place, &silent)) => done,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match done {
                Ok(done) => tracing::info!(
                    bytes = done["bytes"].as_u64(),
                    failed = done["failed"].as_u64(),
                    "the mirror ran"
                ),
                Err(error) => {
                    part.trouble(error.to_string());
                    // Not at once again: what failed was the run as a whole.
                    tokio::select! {
                        () = tokio::time::sleep(15 * NAP) => {}
                        _ = stop.wait_for(|stop| *stop) => return,
                    }
                }
            }
            continue;
        }
        tokio::select! {
            () = nap(&place, share) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Tells how the mirror is, and whether it should run now.
async fn is_due(place: &Place, part: &Part, link: Option<&watch::Receiver<LinkState>>, share: f64) -> bool {
    let config = place.config();
    let settings = &config.mirror;
    let (folder, wanted) = (config.state_dir.clone(), settings.schedule.clone());
    let record = blocking(move || Record::read(&folder).map_err(TaskError::failed)).await;
    let record = match record {
        Ok(record) => record,
        Err(error) => {
            part.trouble(error.to_string());
            return false;
        }
    };
    let troubles = record.troubles();
    match (troubles.first(), &wanted) {
        (Some((what, why)), _) => {
            let more =
                if troubles.len() > 1 { format!(" and {} more", troubles.len() - 1) } else { String::new() };
            part.trouble(format!("{what}: {why}{more}"));
        }
        (None, None) if record.started.is_none() => part.off(),
        (None, _) => part.good(),
    }
    let now = clock::now();
    let windows: Vec<Window> = settings.windows.iter().filter_map(|text| Window::parse(text).ok()).collect();
    let open = schedule::open_for(&windows, now).is_some();
    let connected = link.is_none_or(|link| link.borrow().is_online());
    open && connected
        && place.desk.since().is_none()
        && next(&config.mirror, &record, share, now).is_some_and(|at| at <= now)
}

/// When the next run is due.
fn next(
    settings: &mirror::Settings,
    record: &Record,
    share: f64,
    now: jiff::Timestamp,
) -> Option<jiff::Timestamp> {
    let table = Timetable::parse(settings.schedule.as_deref()?).ok()?;
    schedule::due(&table, &record.past(), settings.jitter, share, now)
}

/// Sleeps until something may be due.
async fn nap(place: &Place, share: f64) {
    let config = place.config();
    let folder = config.state_dir.clone();
    let record = blocking(move || Record::read(&folder).map_err(TaskError::failed)).await.unwrap_or_default();
    let now = clock::now();
    let left = next(&config.mirror, &record, share, now).map(|at| at.duration_since(now).unsigned_abs());
    tokio::time::sleep(left.map_or(NAP, |left| left.clamp(Duration::from_millis(500), NAP))).await;
}

/// The mirror as `edge status` shows it; `None` where there is nothing to say.
pub async fn report(place: &Place) -> Option<MirrorReport> {
    let config = place.config();
    let folder = config.state_dir.clone();
    let record = blocking(move || Record::read(&folder).map_err(TaskError::failed)).await.unwrap_or_default();
    let settings = &config.mirror;
    if settings.schedule.is_none() && record.started.is_none() && record.images.is_empty() {
        return None;
    }
    let time = |at: jiff::Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let failed = record.troubles().into_iter().map(|(what, why)| MirrorTrouble { what, why }).collect();
    Some(MirrorReport {
        schedule: settings.schedule.clone(),
        running: place.desk.since().map(time),
        started: record.started.map(time),
        ended: record.ended.map(time),
        next: next(settings, &record, 0.0, clock::now()).map(time),
        wanted: record.images.len() + record.charts.len() + record.git.len(),
        bytes: record.bytes,
        failed,
        missing: record.missing(),
    })
}
