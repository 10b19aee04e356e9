//! Where a task is done: here under the lock on the state folder, or by the daemon that holds it.

use serde_json::Value;

use super::client::{self, ClientError};
use super::task::{self, Place, Task, TaskError};
use crate::config::Config;
use crate::sys::lock::{LockError, StateLock};
use crate::sys::progress::Event;

/// The name under which the daemon holds the lock.
pub(super) const DAEMON: &str = "edge daemon";

/// Why a task was not done.
#[derive(Debug, thiserror::Error)]
pub enum PerformError {
    /// Neither the lock nor a daemon could be had.
    #[error("{0} hint: wait until it has ended")]
    Busy(LockError),
    /// The lock file cannot be used.
    #[error(transparent)]
    Lock(LockError),
    /// The daemon was not reached, or broke off.
    #[error(transparent)]
    Daemon(#[from] ClientError),
    /// It was tried, and failed.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Does `task` and tells its progress to `hear`.
///
/// # Errors
/// [`PerformError`].
pub async fn perform(
    config: &Config,
    task: Task,
    mut hear: impl FnMut(Event),
) -> Result<Value, PerformError> {
    match StateLock::take(&config.state_dir, task.command()) {
        Ok(_lock) => {
            let place = Place::new(config.clone());
            let told = |event| {
                hear(event);
                std::future::ready(())
            };
            Ok(task::run_heard(task, &place, told).await?)
        }
        Err(LockError::Held { holder, .. }) if holder.starts_with(DAEMON) => {
            Ok(client::ask_task(&config.socket, &task, hear).await??)
        }
        Err(error @ LockError::Held { .. }) => Err(PerformError::Busy(error)),
        Err(error) => Err(PerformError::Lock(error)),
    }
}
