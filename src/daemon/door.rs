//! The proxy and what it needs, as the daemon runs them: begun at the start or by a join, ended by a leave or with
//! the daemon.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{DaemonError, credentials};
use crate::cache::Cache;
use crate::config::Config;
use crate::cri::Runtime;
use crate::health::Board;
use crate::link::{LinkState, Phase};
use crate::proxy::incluster::{self, PodsDoor};
use crate::proxy::rotate::{Rotator, Watched};
use crate::proxy::{self, Proxy, cloud, join};
use crate::sys::clock;
use crate::trust::ca::LocalCa;

/// Time for open requests after a request to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// The door to the cloud; shut while no cloud is joined.
#[derive(Debug)]
pub struct Door {
    cache: Cache,
    board: Board,
    shown: watch::Sender<Option<Proxy>>,
    tasks: JoinSet<&'static str>,
    stop: watch::Sender<bool>,
}

impl Door {
    /// A door that is shut.
    pub fn new(cache: Cache, board: &Board) -> Self {
        let (shown, stop) = (watch::Sender::new(None), watch::Sender::new(false));
        Self { cache, board: board.clone(), shown, tasks: JoinSet::new(), stop }
    }

    /// The proxy, whenever there is one.
    pub fn follow(&self) -> watch::Receiver<Option<Proxy>> {
        self.shown.subscribe()
    }

    /// The link of whatever cloud is joined; online while none is, for then nothing is away.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        let none = || LinkState { phase: Phase::Online, since: clock::now() };
        let (told, link) = watch::channel(none());
        let mut proxies = self.follow();
        tokio::spawn(async move {
            loop {
                let mut link = proxies.borrow_and_update().as_ref().map(|proxy| proxy.link().follow());
                told.send_replace(link.as_mut().map_or_else(none, |link| link.borrow_and_update().clone()));
                let news = async {
                    match &mut link {
                        Some(link) => link.changed().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    changed = proxies.changed() => if changed.is_err() { return },
                    // The door was shut: who comes next is told above.
                    changed = news => if changed.is_err() && proxies.changed().await.is_err() { return },
                }
            }
        });
        link
    }

    /// The proxy, if the door is open.
    pub fn proxy(&self) -> Option<Proxy> {
        self.shown.borrow().clone()
    }

    /// Opens it if `config` names a cloud; nothing happens if it is open.
    ///
    /// # Errors
    /// It stays shut then.
    pub async fn open(&mut self, config: &Config) -> Result<(), DaemonError> {
        if let (Some(kubeconfig), None) = (&config.cloud.kubeconfig, self.proxy()) {
            let proxy = self.start(config, kubeconfig).await?;
            self.shown.send_replace(Some(proxy));
        }
        Ok(())
    }

    /// Opens what the proxy needs, binds its port, and begins its tasks.
    async fn start(&mut self, config: &Config, kubeconfig: &Path) -> Result<Proxy, DaemonError> {
        match join::follow(&config.state_dir, kubeconfig) {
            Ok(true) => {
                let (kubeconfig, folder) = (kubeconfig.display(), config.state_dir.display());
                tracing::info!(%kubeconfig, state_dir = %folder, "the state folder was moved, and the cloud's kubeconfig names its files there");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "whether the cloud's kubeconfig names this state folder is not known");
            }
        }
        let (rotator, rotated) = read(kubeconfig, &config.state_dir)?;
        let ca = Arc::new(LocalCa::open_or_create(&config.state_dir.join("pki"))?);
        let parts = proxy::Parts {
            cache: self.cache.clone(),
            credentials: rotated.clone(),
            ca,
            probe_interval: config.cloud.probe_interval,
            offline_mode: config.offline_mode,
            in_cluster: config.proxy.in_cluster.then_some(config.proxy.in_cluster_listen),
            clients: config.proxy.clients.clone(),
        };
        let (proxy, owner) = Proxy::new(parts).await?;
        if !config.offline_mode
            && let Err(error) = proxy.forget().await
        {
            // On a disk that cannot be written; what passes is passed on all the same.
            tracing::error!(%error, "offline mode is off, and what was kept is still on the disk");
        }
        let part = self.board.part("in-cluster");
        // Before kubelet is served: what it is told of the Service becomes the environment of containers.
        let pods = match config.proxy.in_cluster {
            true => {
                let runtime = Runtime::new(&config.runtime)?;
                Some(PodsDoor::open(&proxy, config.proxy.in_cluster_listen, runtime, part).await)
            }
            false => {
                // Pods that were led here before find nobody at it.
                if let Err(error) = incluster::remove(config.proxy.in_cluster_listen).await {
                    tracing::warn!(error, "the interface for pods is left behind");
                }
                part.off();
                None
            }
        };
        let listener =
            TcpListener::bind(config.proxy.listen).await.map_err(|source| DaemonError::Listen {
                address: config.proxy.listen.to_string(),
                source,
                hint: "another program has this port: stop it, or set `proxy.listen`",
            })?;
        // Only now: a start that ends before it answers anybody has told nobody anything.
        if let Err(error) = self.cache.note_begin().await {
            tracing::warn!(%error, "the cache does not note that clients are answered again");
        }
        self.stop.send_replace(false);
        self.tasks.spawn(async move {
            owner.run().await;
            "link"
        });
        let link = proxy.link();
        self.tasks.spawn(async move {
            rotator.run(move || link.state().is_online()).await;
            "rotation of the cloud's certificate"
        });
        let house = proxy.clone();
        self.tasks.spawn(async move {
            house.keep_house().await;
            "proxy's housekeeping"
        });
        if let Some(pods) = pods {
            let (serving, stopped) = (proxy.clone(), self.stop.subscribe());
            self.tasks.spawn(async move {
                pods.run(serving, stopped).await;
                "door for pods"
            });
        }
        let (serving, stopped) = (proxy.clone(), self.stop.subscribe());
        self.tasks.spawn(async move {
            if let Err(error) = serving.serve(listener, stopped).await {
                tracing::error!(%error, "the proxy cannot serve");
            }
            "proxy"
        });
        Ok(proxy)
    }

    /// Waits until a part has ended, which none should; for ever while the door is shut.
    pub async fn ended(&mut self) -> DaemonError {
        match self.tasks.join_next().await {
            Some(Ok(part)) => DaemonError::Ended(part),
            Some(Err(_)) => DaemonError::Ended("proxy's own task"),
            None => std::future::pending().await,
        }
    }

    /// Ends the proxy within a bounded time: no new requests, and those under way are cut off at its end.
    pub async fn shut(&mut self) {
        if let Some(proxy) = self.shown.send_replace(None) {
            proxy.keep_fresh();
        }
        self.stop.send_replace(true);
        // The others run for ever; the one that serves ends by itself, or is cut off.
        let _ = tokio::time::timeout(DRAIN, self.served()).await;
        self.tasks.shutdown().await;
    }

    async fn served(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if matches!(ended, Ok("proxy")) {
                return;
            }
        }
    }

    /// Ends the proxy for good: what was kept is removed from the disk, changes that wait for the cloud with it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn leave(&mut self, config: &Config) -> Result<(), DaemonError> {
        let proxy = self.proxy();
        if let Some(proxy) = &proxy {
            proxy.part().await?;
        }
        self.shut().await;
        // Also where the setting has changed since this start, which has made it.
        if proxy.is_some() {
            if let Err(error) = incluster::remove(config.proxy.in_cluster_listen).await {
                tracing::warn!(error, "the interface for pods is left behind");
            }
            self.board.part("in-cluster").off();
        }
        Ok(())
    }
}

/// Reads the node's credentials. A node that has joined does without, as in an outage, until they can be read: all that its
/// pods need is in the cache, and kubelet is known by the local authority.
///
/// # Errors
/// They cannot be used, and no join wrote them.
fn read(kubeconfig: &Path, state_dir: &Path) -> Result<(Rotator, Watched), cloud::Error> {
    let error = match Rotator::new(kubeconfig, state_dir) {
        Ok(read) => return Ok(read),
        Err(error) => error,
    };
    match join::Record::read(state_dir) {
        Ok(Some(record)) if record.cloud_kubeconfig.path == kubeconfig => {
            let why = credentials::unread(&error.to_string());
            tracing::error!(why, "the node's credentials for the cloud cannot be used");
            Ok(Rotator::without(kubeconfig, state_dir, &record.node_name, &error))
        }
        _ => Err(error),
    }
}
