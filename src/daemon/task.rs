//! Commands that change state, done by whoever holds the state folder: the daemon, asked through its
//! socket, or the command's own process.
//!
//! A new command is a variant of [`Task`] and an arm of [`run`], which calls the room that does it.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::config::Config;
use crate::store::{GcSettings, Settings as StoreSettings, Store};
use crate::sys::progress::Progress;

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "task")]
pub enum Task {
    /// Remove images and charts that nobody needs.
    Gc {
        /// Only say what would go.
        dry_run: bool,
    },
}

impl Task {
    /// The command that a person types for it.
    pub fn command(&self) -> &'static str {
        match self {
            Self::Gc { .. } => "edge gc",
        }
    }
}

/// Why a task was not done: one line, and the exit code that it means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct TaskError {
    /// 1 failed, 2 usage or configuration, 3 verification refused.
    pub code: u8,
    /// Lower case, with its hint.
    pub message: String,
}

impl TaskError {
    /// It failed: exit code 1.
    pub fn failed(why: impl Display) -> Self {
        Self { code: 1, message: why.to_string() }
    }

    /// It was asked for wrongly: exit code 2.
    pub fn usage(why: impl Display) -> Self {
        Self { code: 2, message: why.to_string() }
    }

    /// A signature or digest does not hold: exit code 3.
    pub fn refused(why: impl Display) -> Self {
        Self { code: 3, message: why.to_string() }
    }
}

/// What tasks work on. Everything is opened when it is first needed.
#[derive(Debug)]
pub struct Place {
    config: Mutex<Arc<Config>>,
    store: OnceCell<Store>,
    at_work: Arc<Mutex<Vec<&'static str>>>,
}

/// A command is being done for as long as it lives.
#[derive(Debug)]
pub struct AtWork {
    command: &'static str,
    all: Arc<Mutex<Vec<&'static str>>>,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = all.iter().position(|command| *command == self.command) {
            all.remove(at);
        }
    }
}

impl Place {
    /// The place that `config` describes.
    pub fn new(config: Config) -> Self {
        Self { config: Mutex::new(Arc::new(config)), store: OnceCell::new(), at_work: Arc::default() }
    }

    /// Notes that a command is being done, until what this returns is dropped.
    pub fn begin(&self, command: &'static str) -> AtWork {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        AtWork { command, all: self.at_work.clone() }
    }

    /// The commands that are being done.
    pub fn at_work(&self) -> Vec<&'static str> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a new configuration.
    pub fn set_config(&self, config: Config) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// The store of images and charts.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn store(&self) -> Result<&Store, TaskError> {
        let settings = StoreSettings::below(&self.config().state_dir);
        let open = || async move { blocking(move || Store::open(settings).map_err(TaskError::failed)).await };
        self.store.get_or_try_init(open).await
    }
}

/// Does `task`.
///
/// # Errors
/// [`TaskError`]; what was done until then is sound, and the task can be asked for again.
pub async fn run(task: Task, place: &Place, progress: &Progress) -> Result<Value, TaskError> {
    match task {
        Task::Gc { dry_run } => gc(place, dry_run, progress).await,
    }
}

async fn gc(place: &Place, dry_run: bool, _progress: &Progress) -> Result<Value, TaskError> {
    let store = place.store().await?.clone();
    let settings = GcSettings::default();
    let collect = move || if dry_run { store.plan_gc(&settings) } else { store.collect(&settings) };
    let plan = blocking(move || collect().map_err(TaskError::failed)).await?;
    let remove: Vec<Value> = plan
        .remove
        .iter()
        .map(|(digest, size)| json!({"digest": digest.to_string(), "size": size}))
        .collect();
    Ok(json!({
        "dryRun": dry_run,
        "blobs": plan.blobs,
        "bytes": plan.bytes(),
        "remove": remove,
        "evict": plan.evict,
        "orphans": plan.orphans,
        "uploads": plan.uploads,
    }))
}

/// Runs what waits for the disk off the threads that serve.
///
/// # Errors
/// Those of `work`; that it broke off.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
) -> Result<T, TaskError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| TaskError::failed(format!("the work broke off: {e}")))?
}
