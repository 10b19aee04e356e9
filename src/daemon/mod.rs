//! Start order, supervision, reload, control socket.
//!
//! The state folder is locked first, the cache is opened before anything is dialled, listeners are
//! bound before anybody is told that edge is ready. The proxy and the cache are core: if one of
//! their tasks ends, the daemon ends, and the supervisor starts it anew.

mod accepted;
mod appliance;
mod boots;
pub mod bundle;
mod change;
mod client;
mod clients;
mod clock;
mod control;
mod credentials;
mod dns;
mod door;
mod firewall;
mod identity;
mod importing;
pub mod judged;
pub mod kubelet;
mod lent;
mod membership;
mod mirror;
pub mod needs;
mod node;
mod notify;
mod perform;
mod pins;
mod pods;
pub mod prepared;
mod registry;
mod report;
mod signals;
pub mod stores;
pub mod system;
pub mod task;
mod told;
mod upkeep;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::cache::{Cache, CacheError};
use crate::config::{self, Config, Overrides};
use crate::cri;
use crate::health::{Board, Part};
use crate::proxy::{self, cloud, join};
use crate::sys::lock::{LockError, StateLock};
use crate::sys::snapctl::Snapctl;
use crate::trust;
use door::Door;
use prepared::Verdict;
use signals::{Asked, Signals, bind_socket};

pub use accepted::{Loaded, load};
pub use client::{
    ClientError, ask_busy, ask_checkpoint, ask_look, ask_prepare, ask_reload, ask_state_dir, ask_status,
};
pub use clients::{ClientReport, ReadingReport, RefusalReport};
pub use membership::{Join as JoinTask, follow as follow_membership};
pub use mirror::{MirrorReport, MirrorTask, MirrorTrouble, SCHEDULED_RUN};
pub use perform::{PerformError, perform};
pub use report::{CacheReport, ChangeReport, CloudReport, LinkReport, Report, ResourceReport, RiskReport};

/// Why the daemon cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another process has the state folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The cache cannot be opened.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Offline mode was turned off, and what was kept could not be removed.
    #[error("offline mode is off, and what was kept is still on the disk; it is tried again: {0}")]
    Forget(#[source] CacheError),
    /// The local authority cannot be opened.
    #[error(transparent)]
    Trust(#[from] trust::Error),
    /// The cloud's credentials cannot be used.
    #[error(transparent)]
    Cloud(#[from] cloud::Error),
    /// The runtime's endpoint is none.
    #[error(transparent)]
    Runtime(#[from] cri::Error),
    /// The proxy cannot be started.
    #[error(transparent)]
    Proxy(#[from] proxy::ProxyError),
    /// A port or socket is taken or not allowed.
    #[error("cannot listen on `{address}`: {source} hint: {hint}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The new configuration is not used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Signals or threads cannot be had.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A part that everything rests on has ended.
    #[error("the {0} ended unexpectedly")]
    Ended(&'static str),
}

impl DaemonError {
    /// Whether the configuration or the credentials that it names are at fault, and not the machine.
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Cloud(_) | Self::Proxy(proxy::ProxyError::Cloud(_)))
    }
}

/// Time for open requests after a request to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// How often a disk that could not be written is tried again.
const THAW: Duration = Duration::from_secs(10);

/// Something asked of the running daemon.
#[derive(Debug)]
enum Order {
    /// Read the configuration anew and apply it.
    Reload(oneshot::Sender<Result<(), String>>),
    /// A cloud was joined: serve it.
    Join(oneshot::Sender<Result<(), String>>),
    /// The cloud was left: serve it no longer, and remove what was kept of it.
    Leave(oneshot::Sender<Result<(), String>>),
    /// Keep this configuration until snapd has committed the same values.
    Prepare(String, oneshot::Sender<Result<(), String>>),
    /// What came of a prepared one.
    Settled(String, Verdict),
    /// Look now at what is looked at now and then: more may be reached than before.
    Look(oneshot::Sender<Result<(), String>>),
    /// Put on disk what is only queued.
    Checkpoint(oneshot::Sender<Result<(), String>>),
}

/// Runs until told to stop by SIGTERM or SIGINT. `overrides` are what flags and environment said: a
/// reload reads the same file again. What was refused of it is told for as long as it is.
///
/// # Errors
/// [`DaemonError`]: nothing runs then.
pub fn run(loaded: Loaded, overrides: Overrides) -> Result<(), DaemonError> {
    let Loaded { config, refused } = loaded;
    let _lock = StateLock::take(&config.state_dir, perform::DAEMON)?;
    if let Err(error) = crate::sys::descriptors::raise() {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
    change::tell_ignored(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .map_err(|source| DaemonError::System { operation: "start threads", source })?;
    let ended = runtime.block_on(Daemon::start_and_run(config, refused, overrides));
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

struct Daemon {
    config: Config,
    overrides: Overrides,
    door: Door,
    pins: pins::Pins,
    pods: pods::Pods,
    registry: registry::RegistryTask,
    upkeep: upkeep::Upkeep,
    place: Arc<task::Place>,
    cache: Cache,
    /// The way back to itself, for what is decided beside.
    orders: mpsc::Sender<Order>,
    settling: Option<tokio::task::AbortHandle>,
    /// Keys that were changed, and wait for a start.
    waits: watch::Sender<Vec<&'static str>>,
    node: Option<node::Services>,
    /// Why the configuration in force is not today's.
    refused: watch::Sender<Option<String>>,
}

impl Daemon {
    async fn start_and_run(
        config: Config,
        refused: Option<String>,
        overrides: Overrides,
    ) -> Result<(), DaemonError> {
        let started = crate::sys::clock::now();
        let mut signals = Signals::new()?;
        let first = is_first(&config.state_dir);
        if let Err(error) = join::lay_beside(&config.state_dir) {
            tracing::warn!(%error, "what kubelet's kubeconfig was before does not lie beside it");
        }
        let opened = Cache::open(&config.state_dir, &config.refuge)?;
        if first && let Err(error) = opened.cache.note_end().await {
            tracing::debug!(%error, "that this is the first start was not noted: clients read anew");
        }
        if let Some((aside, why)) = &opened.damaged {
            let aside = aside.display();
            tracing::error!(%aside, why, "the cache was damaged: set aside, and built anew from the cloud");
        }
        let (stop, stopped) = watch::channel(false);
        let mut core = JoinSet::new();
        if let Some(why) = &opened.frozen {
            tracing::error!(why, "nothing is kept, and changes are refused, until the disk can be written");
            core.spawn(thaw(config.state_dir.clone()));
        }
        let board = Board::default();
        let mut door = Door::new(opened.cache.clone(), &board);
        door.open(&config).await?;
        let (orders, mut inbox) = mpsc::channel(4);
        tokio::spawn(tell_cache(board.part("cache"), opened.cache.follow_trouble()));
        let pins = pins::Pins::start(&config, &opened.cache, &board)?;
        let pods = pods::Pods::start(&config, &opened.cache, door.follow(), &board)?;
        pods::clear_networks();
        let waits = watch::Sender::new(Vec::new());
        let hand = task::Hand { orders: orders.clone() };
        let place = Arc::new(task::Place::within(config.clone(), opened.cache.clone(), hand));
        let refused = watch::Sender::new(refused);
        let facts = report::Facts {
            refused: refused.subscribe(),
            board: board.clone(),
            place: place.clone(),
            started,
            cache: opened.cache.clone(),
            proxy: door.follow(),
            runtime: config.runtime.clone(),
            unled: crate::pods::unled::Unled::default(),
            waits: waits.subscribe(),
        };
        let link = Some(door.link());
        tokio::spawn(mirror::schedule(place.clone(), board.part("mirror"), link.clone(), stopped.clone()));
        let socket = match bind_socket(&config.socket) {
            // In a snap it lies on the disk that the state is on, and kubelet asks nothing of it.
            Err(error) if signals::is_unwritable(&error) => {
                tracing::error!(%error, "no command reaches the daemon; it is tried again");
                None
            }
            bound => Some(bound?),
        };
        let doors = Arc::new(control::Doors { facts, orders: orders.clone(), place: place.clone() });
        core.spawn(signals::answer(config.socket.clone(), socket, doors.clone(), stopped.clone()));
        let registry = registry::RegistryTask::start(&config, &place, link, &board);
        let upkeep = upkeep::Upkeep::start(&place, &board);
        let media = bundle::watch_media(place.clone(), board.part("bundle"), stopped.clone());
        tokio::spawn(media);
        tokio::spawn(identity::keep(place.clone(), stopped.clone()));
        let clock = tokio::spawn(clock::keep(place.clone(), stopped.clone()));
        tokio::spawn(boots::keep(place.clone(), board.clone(), stopped.clone()));
        if let Some(kubelet) = dns::Kubelet::of(&config, overrides.snap.as_ref()) {
            let cloud = (door.follow(), door.link());
            tokio::spawn(dns::keep(place.clone(), kubelet, board.clone(), cloud, stopped.clone()));
        }
        if let Some(snap) = &overrides.snap {
            tokio::spawn(told::keep(waits.subscribe(), doors, Snapctl::new(&snap.snapctl)));
            if let Some(root) = snap.root.clone() {
                tokio::spawn(bundle::pin_shipped(place.clone(), root));
            }
        }
        let cache = opened.cache.clone();
        let node = node::Services::start(overrides.snap.as_ref(), &config.node);
        let mut daemon = Self {
            config,
            overrides,
            door,
            pins,
            pods,
            registry,
            upkeep,
            place,
            cache,
            orders,
            settling: None,
            waits,
            node,
            refused,
        };
        match daemon.refused.borrow().as_deref() {
            Some(why) => tracing::error!("{why}"),
            None => accepted::keep(&daemon.overrides, &daemon.config),
        }
        // Only now: a hook that found no socket has left its word on disk, and looked for the socket again after that.
        daemon.settle_what_waits();
        notify::ready();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
        let ended = loop {
            tokio::select! {
                order = inbox.recv() => if let Some(order) = order {
                    daemon.obey(order).await;
                },
                ended = daemon.door.ended() => break Err(ended),
                ended = core.join_next() => match ended {
                    Some(Ok(part)) => break Err(DaemonError::Ended(part)),
                    Some(Err(_)) => break Err(DaemonError::Ended("daemon's own task")),
                    None => break Err(DaemonError::Ended("daemon")),
                },
                signal = signals.next() => match signal {
                    Asked::Stop => break Ok(()),
                    Asked::Reload => if let Err(error) = daemon.reload().await {
                        tracing::error!(error = %error, "not all of the configuration is in force");
                    },
                },
            }
        };
        notify::stopping();
        stop.send_replace(true);
        // Of a loss that is found from now on nobody hears who would read anew.
        let lost = opened.cache.lost();
        daemon.door.shut().await;
        daemon.upkeep.stop();
        let drained = async { while core.join_next().await.is_some() {} };
        let lived = tokio::time::timeout(DRAIN, upkeep::note_lived(&daemon.place));
        let clock = tokio::time::timeout(DRAIN, clock);
        let _ = tokio::join!(tokio::time::timeout(DRAIN, drained), daemon.registry.stop(), lived, clock);
        let own = opened.cache.flush_own().await;
        if let Err(error) = &own {
            tracing::warn!(%error, "the cache was not written at the end");
        }
        // Of clients as much as there is time for: nobody else waits for what one of them has piled up.
        match tokio::time::timeout(DRAIN, opened.cache.flush()).await {
            Err(_) => tracing::info!("not all that clients have read was kept at the end"),
            // With offline mode off nothing is kept, and what there was is forgotten.
            Ok(flushed)
                if own.is_ok()
                    && flushed.is_ok()
                    && daemon.config.offline_mode
                    && lost.has_changed().is_ok_and(|changed| !changed) =>
            {
                if let Err(error) = opened.cache.note_end().await {
                    tracing::debug!(%error, "that all is kept was not noted: clients read anew at the next start");
                }
            }
            Ok(_) => {}
        }
        let _ = std::fs::remove_file(&daemon.config.socket);
        ended
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Reload(reply) => {
                let done = self.reload().await;
                let _ = reply.send(done.map_err(|e| e.to_string()));
            }
            Order::Join(reply) => {
                let done = self.join().await;
                let _ = reply.send(done.map_err(|e| e.to_string()));
            }
            Order::Leave(reply) => {
                let done = self.leave().await;
                let _ = reply.send(done.map_err(|e| e.to_string()));
            }
            Order::Prepare(text, reply) => {
                let _ = reply.send(self.prepare(&text));
            }
            Order::Settled(text, verdict) => self.settled(&text, verdict).await,
            Order::Look(reply) => {
                self.pins.look();
                self.pods.look();
                pods::clear_networks();
                let _ = reply.send(Ok(()));
            }
            Order::Checkpoint(reply) => {
                // Beside: clients may have piled up what takes a while, and a stop waits for nobody's.
                let cache = self.cache.clone();
                tokio::spawn(async move {
                    let done = cache.flush_own().await;
                    let _ = tokio::time::timeout(DRAIN, cache.flush()).await;
                    let _ = reply.send(done.map_err(|e| e.to_string()));
                });
            }
        }
    }
}

/// Whether no daemon has been here before. One that was leaves more than a cache, and that may have been lost.
fn is_first(state_dir: &Path) -> bool {
    ["cache.db", "store", "pods.json"].iter().all(|left| !state_dir.join(left).exists())
}

/// Keeps the cache's place on the board.
async fn tell_cache(part: Part, mut trouble: watch::Receiver<Option<String>>) {
    loop {
        let why = trouble.borrow_and_update().clone();
        match why {
            Some(why) => part.trouble(why),
            None => part.good(),
        }
        if trouble.changed().await.is_err() {
            return;
        }
    }
}

/// Ends, and the daemon with it, when the disk can be written again: the supervisor starts it anew on the true cache.
async fn thaw(folder: PathBuf) -> &'static str {
    loop {
        tokio::time::sleep(THAW).await;
        let tried = folder.clone();
        if let Ok(true) = tokio::task::spawn_blocking(move || crate::cache::is_writable(&tried)).await {
            return "copy of the cache (the disk can be written again)";
        }
    }
}
