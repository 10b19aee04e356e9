//! Commands that change state, done by whoever holds the state folder: the daemon, asked through its
//! socket, or the command's own process.
//!
//! A new command is a variant of [`Task`] and an arm of [`run`], which calls the room that does it.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{OnceCell, mpsc, oneshot, watch};

use super::bundle;
use super::lent::Lent;
use super::mirror::MirrorTask;
use super::stores::{self, StoreTask};
use super::system;
use super::{Order, membership};
use crate::cache::Cache;
use crate::config::Config;
use crate::mirror::Desk;
use crate::store::{Door, Settings as StoreSettings, Store};
use crate::sys::progress::{Event, Progress};
use crate::system::Places;

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "task")]
pub enum Task {
    /// Remove images and charts that nobody needs.
    Gc {
        /// Only say what would go.
        dry_run: bool,
    },
    /// Something with images, charts or the store.
    Store(StoreTask),
    /// Something with the mirror.
    Mirror(MirrorTask),
    /// Take over a node's credentials for the cloud.
    Join(membership::Join),
    /// Give kubelet its own credentials back.
    Leave {
        /// Also what changed here and was not told to the cloud goes.
        discard_changes: bool,
    },
    /// What the appliance's first moments need of the state folder.
    System(system::Settle),
    /// Something about bundles and trust.
    Bundle {
        /// What.
        order: bundle::Order,
    },
}

impl Task {
    /// The command that a person types for it.
    pub fn command(&self) -> &'static str {
        match self {
            Self::Gc { .. } => "edge gc",
            Self::Store(task) => task.command(),
            Self::Mirror(task) => task.command(),
            Self::Join(_) => "edge join",
            Self::Leave { .. } => "edge leave",
            Self::System(_) => "edge system provision",
            Self::Bundle { order } => order.command(),
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
    door: Door,
    cache: OnceCell<Cache>,
    at_work: Arc<Mutex<Vec<&'static str>>>,
    /// What the last verification of the store lost, in a line; `None` where nothing is lost.
    pub(super) lost: watch::Sender<Option<String>>,
    /// Who is at the mirror.
    pub desk: Desk,
    /// Held by whoever joins or leaves the cloud: one at a time.
    pub(super) membership: tokio::sync::Mutex<()>,
    hand: Option<Hand>,
}

/// What a task in the daemon can ask of it.
#[derive(Debug)]
pub(super) struct Hand {
    /// Orders to the daemon.
    pub orders: mpsc::Sender<Order>,
}

/// A command is being done for as long as it lives.
#[derive(Debug)]
pub struct AtWork {
    command: &'static str,
    all: Arc<Mutex<Vec<&'static str>>>,
    /// What its paths lead through.
    _lent: Option<Arc<Lent>>,
}

tokio::task_local! {
    /// Of the command that this task does.
    static HELD: Arc<AtWork>;
}

/// What a thread that works for the command of this task holds until it has ended.
pub(super) fn held() -> Option<Arc<AtWork>> {
    HELD.try_with(Arc::clone).ok()
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = all.iter().position(|command| *command == self.command) {
            all.remove(at);
        }
    }
}

/// Percent of an appliance's data that stays free. Below 4 its kubelet removes images, below 2 it ends pods.
const FREE: u64 = 5;

/// Bytes that the store leaves free. An appliance keeps all on one file system, of which kubelet watches a share; edge is
/// done before it.
fn reserve(config: &Config) -> u64 {
    let asked = config.registry.reserve;
    if Places::below(&config.system.root).booted().is_err() {
        return asked;
    }
    // At a first boot the folder is yet to be made.
    let stat = config.state_dir.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok());
    asked.max(stat.map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize) / 100 * FREE))
}

impl Place {
    /// The place that `config` describes.
    pub fn new(config: Config) -> Self {
        let reserve = reserve(&config);
        let door = Door::new(StoreSettings { reserve, ..StoreSettings::below(&config.state_dir) });
        Self {
            config: Mutex::new(Arc::new(config)),
            door,
            cache: OnceCell::new(),
            at_work: Arc::default(),
            lost: watch::Sender::new(None),
            desk: Desk::default(),
            membership: tokio::sync::Mutex::default(),
            hand: None,
        }
    }

    /// The place of a daemon, which has the cache open.
    pub(super) fn within(config: Config, cache: Cache, hand: Hand) -> Self {
        Self { cache: OnceCell::new_with(Some(cache)), hand: Some(hand), ..Self::new(config) }
    }

    /// What can be asked of the daemon, if this is one.
    pub(super) fn hand(&self) -> Option<&Hand> {
        self.hand.as_ref()
    }

    /// The cache of Kubernetes objects.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn cache(&self) -> Result<&Cache, TaskError> {
        let folder = self.config().state_dir.clone();
        let open = || async move { Ok(Cache::open(&folder, &folder).map_err(TaskError::failed)?.cache) };
        self.cache.get_or_try_init(open).await
    }

    /// Does `work` as `command`, which is among those at work until all of it has ended, what runs on threads of its
    /// own too: that goes on when whoever asked is gone, and this is dropped. For as long, what it was lent stays open.
    pub(super) async fn doing<T: Future>(
        &self,
        command: &'static str,
        lent: Option<Arc<Lent>>,
        work: T,
    ) -> T::Output {
        HELD.scope(Arc::new(self.begin_with(command, lent)), work).await
    }

    /// Notes that a command is being done, until what this returns is dropped.
    pub fn begin(&self, command: &'static str) -> AtWork {
        self.begin_with(command, None)
    }

    fn begin_with(&self, command: &'static str, lent: Option<Arc<Lent>>) -> AtWork {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        AtWork { command, all: self.at_work.clone(), _lent: lent }
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
        self.door.set_reserve(reserve(&config));
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Where the store of images and charts is had: one for the registry and all tasks of a process.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// The store of images and charts; open for as long as somebody has it.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn store(&self) -> Result<Store, TaskError> {
        let door = self.door.clone();
        blocking(move || door.open().map_err(TaskError::failed)).await
    }
}

/// Does `task`; `hear` is told all of its progress, in order and before this returns.
///
/// # Errors
/// Those of [`run`].
pub async fn run_heard<F: Future<Output = ()>>(
    task: Task,
    place: &Place,
    mut hear: impl FnMut(Event) -> F,
) -> Result<Value, TaskError> {
    let (progress, mut heard) = Progress::channel();
    let work = run(task, place, &progress);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            Some(event) = heard.recv() => hear(event).await,
            done = &mut work => {
                while let Ok(event) = heard.try_recv() {
                    hear(event).await;
                }
                return done;
            }
        }
    }
}

/// Does `task`.
///
/// # Errors
/// [`TaskError`]; what was done until then is sound, and the task can be asked for again.
pub async fn run(task: Task, place: &Place, progress: &Progress) -> Result<Value, TaskError> {
    match task {
        Task::Gc { dry_run } => stores::collect(place, dry_run).await,
        Task::Store(task) => stores::run(task, place, progress).await,
        Task::Mirror(task) => super::mirror::run(task, place, progress).await,
        Task::Join(asked) => membership::join(asked, place, progress).await,
        Task::Leave { discard_changes } => membership::leave(discard_changes, place).await,
        Task::System(asked) => system::settle(asked, place, progress).await,
        Task::Bundle { order } => bundle::run(order, place, progress).await,
    }
}

/// Runs what waits for the disk on a thread of its own: it may take long, and those that serve share a few.
///
/// # Errors
/// Those of `work`; that it broke off.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
) -> Result<T, TaskError> {
    let (tell, told) = oneshot::channel();
    let held = held();
    let begun = std::thread::Builder::new().name("task".into()).spawn(move || {
        let done = work();
        drop(held);
        // Whoever asked may be gone; what is done is done.
        let _ = tell.send(done);
    });
    begun.map_err(|e| TaskError::failed(format!("cannot start a thread: {e}")))?;
    told.await.unwrap_or_else(|_| Err(TaskError::failed("the work broke off")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_reserve_of_a_new_configuration_counts_at_once() {
        let state = tempfile::tempdir().unwrap();
        let mut config = Config { state_dir: state.path().to_owned(), ..Config::default() };
        config.registry.reserve = 0;
        let place = Place::new(config.clone());
        let store = place.store().await.unwrap();
        store.room_for(1).unwrap();
        config.registry.reserve = 1 << 60;
        place.set_config(config);
        assert!(store.room_for(1).unwrap_err().is_full());
    }

    /// edge stops first, then images go that nobody uses, then pods. Each signal is named, for those that are not count as 0.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
    fn on_an_appliance_edge_stops_before_kubelet_makes_room() {
        let kubelet = include_str!("../../config/appliance/usr/share/edge/kubelet.yaml");
        let kubelet: Value = serde_saphyr::from_str(kubelet).unwrap();
        let removes = 100 - kubelet["imageGCHighThresholdPercent"].as_u64().unwrap();
        for signal in ["nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree"] {
            let evicts = kubelet["evictionHard"][signal].as_str().and_then(|text| text.strip_suffix('%'));
            assert!(evicts.unwrap().parse::<u64>().unwrap() < removes && removes < FREE, "{signal}");
        }
        assert!(kubelet["evictionHard"]["memory.available"].is_string());

        let root = tempfile::tempdir().unwrap();
        let mut config = Config { state_dir: root.path().join("state"), ..Config::default() };
        config.system.root = root.path().to_owned();
        assert_eq!(reserve(&config), config.registry.reserve);
        std::fs::create_dir(root.path().join("run")).unwrap();
        std::fs::write(root.path().join("run/edge-slot"), "a\n").unwrap();
        let stat = rustix::fs::statvfs(root.path()).unwrap();
        let share = stat.f_blocks * stat.f_frsize / 100 * FREE;
        assert_eq!(reserve(&config), share.max(config.registry.reserve));
        config.registry.reserve = 1 << 60;
        assert_eq!(reserve(&config), 1 << 60);
    }
}
