//! Kubelet's door to the cloud: classify, decide, forward and record, replay.
//!
//! A request comes in through `serve`, which asks `decide` (a pure function) what to do with it:
//! `forward` it and record the answer beside (`record`, `intake`), answer it from the cache
//! (`replay`, `watch`), take it here (`local`, `lease`, `token`) to be told to the cloud later
//! (`outbox`), sign it (`sign`), or refuse it. Online, a client never waits for the cache; offline,
//! nothing is answered 200 before it is on disk, but for leases, which are worth nothing there.

mod ahead;
mod answer;
pub mod api;
mod apply;
mod caller;
pub mod clients;
pub mod cloud;
pub mod csr;
mod decide;
mod decoder;
mod difference;
mod discovery;
mod endpoints;
mod errand;
mod events;
mod fate;
mod forward;
mod forwarded;
mod frames;
mod fresh;
mod genuine;
mod guests;
mod headers;
mod house;
pub mod incluster;
mod input;
mod intake;
mod issuer;
pub mod join;
mod judged;
mod keep;
#[cfg(test)]
mod keep_tests;
mod last_word;
mod lease;
mod listed;
mod local;
mod outbox;
mod own_issuers;
mod pages;
mod pool;
mod record;
mod refusals;
mod replay;
pub mod request;
mod resolve;
pub mod rotate;
mod route;
mod serve;
#[cfg(test)]
mod serve_tests;
mod settings;
mod settled;
mod shape;
mod sign;
mod signature;
mod socket;
#[cfg(test)]
pub(crate) mod stand_in;
mod statuses;
#[cfg(test)]
mod statuses_tests;
mod takers;
mod tls;
mod token;
pub mod torn;
mod unanswered;
mod unsure;
mod upgrade;
mod upstream;
mod waiting;
mod watch;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, broadcast};

use crate::cache::{Cache, CacheError, Era};
use crate::link::{Link, Owner, Phase};
use crate::trust::ca::LocalCa;
use cloud::Known;
pub use house::time_passed;
use outbox::Outbox;
pub use settings::{ClientSettings, CloudSettings, Settings};
pub use upstream::REFUSED;
use upstream::Upstream;

/// What every request needs.
struct Shared {
    cache: Cache,
    link: Link,
    upstream: Arc<Upstream>,
    ca: Arc<LocalCa>,
    /// What clients on this machine are shown.
    certificate: Arc<tls::Certificate>,
    in_cluster: incluster::InCluster,
    clients: Arc<clients::Clients>,
    client_settings: ClientSettings,
    outbox: Outbox,
    writes: local::LocalWrites,
    takers: Arc<takers::Takers>,
    edits: broadcast::Sender<watch::Edit>,
    unknown: decoder::Unknown,
    pages: listed::Pages,
    torn: torn::Torn,
    refusals: refusals::Refusals,
    unsure: unsure::Unsure,
    signed: sign::Signed,
    offline_mode: tokio::sync::watch::Sender<bool>,
    /// Counts the changes of offline mode, and of what pods are shown, for watches that are served from here.
    mode_changes: tokio::sync::watch::Sender<u64>,
    /// Why what was kept is still on the disk, though it should not be.
    unforgotten: tokio::sync::watch::Sender<Option<String>>,
    /// Hashes of tokens that the cloud is known to accept, so that each is written once an era, and of whom they are.
    accepted: Mutex<HashMap<String, (String, Era)>>,
    /// Key ids that the issuer's keys were asked for.
    asked_keys: issuer::AskedKeys,
    own_issuers: own_issuers::OwnIssuers,
    waiting: Arc<Notify>,
    rotated: rotate::Watched,
    /// When the daemon began: for a moment after that, the first word on the link is waited for.
    begun: tokio::time::Instant,
}

/// What the proxy is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where objects are kept.
    pub cache: Cache,
    /// Address and credentials of the cloud, as they are renewed or found again.
    pub credentials: rotate::Watched,
    /// Signs the proxy's own certificate and the kubelet's.
    pub ca: Arc<LocalCa>,
    /// How long the link may be silent.
    pub probe_interval: Duration,
    /// Whether anything is kept at all.
    pub offline_mode: bool,
    /// Where pods are to find the proxy, if they are.
    pub in_cluster: Option<SocketAddr>,
    /// What is kept for clients other than kubelet.
    pub clients: ClientSettings,
}

/// The proxy; cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proxy")
    }
}

/// Why the proxy cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The cache cannot be read.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The credentials do not make a TLS client.
    #[error(transparent)]
    Cloud(#[from] cloud::Error),
    /// The local authority does not make a TLS server.
    #[error(transparent)]
    Trust(#[from] crate::trust::Error),
    /// TLS refuses what it was given.
    #[error("cannot set up TLS for the proxy: {0}")]
    Tls(String),
}

/// Under which name the last state of the link is kept.
const LINK_META: &str = "link";
/// Under which name it is kept since when, in seconds since 1970.
const SINCE_META: &str = "link-since";
/// Under which name a time is kept that has certainly passed: a clock that boots in 1970 is not believed below it.
const TIME_META: &str = "time";

impl Proxy {
    /// Makes the proxy, and the task that owns its link.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub async fn new(parts: Parts) -> Result<(Self, Owner), ProxyError> {
        let Parts { cache, credentials, ca, probe_interval, offline_mode, in_cluster, clients } = parts;
        let upstream = Arc::new(Upstream::new(credentials.credentials.borrow().clone(), resolve::Resolver)?);
        let seen = Arc::new(clients::Clients::default());
        let outbox = Outbox::new(cache.clone(), upstream.clone(), seen.clone());
        let (was_offline, since, passed, service) = cache
            .read(|reader| {
                let meta = |key| reader.meta(key);
                Ok((meta(LINK_META)?, meta(SINCE_META)?, meta(TIME_META)?, reader.object(&service())?))
            })
            .await?;
        let showed = cache.read(|reader| reader.meta(incluster::SHOWN_META)).await?.unwrap_or_default();
        let showed_other = in_cluster.is_none_or(|address| address.to_string() != showed);
        if !showed.is_empty() && showed_other {
            incluster::note_shown(&cache, "");
        }
        if let Some(node) = credentials.credentials.borrow().node_name().map(str::to_owned) {
            cache.record(node.len(), move |writer| writer.set_node_name(&node));
        }
        let mut names: Vec<String> = in_cluster.iter().map(|address| address.ip().to_string()).collect();
        names.extend(service.iter().flat_map(|known| incluster::addresses(&known.body)));
        let certificate = tls::Certificate::new(ca.clone(), &names)?;
        if let Some(passed) = house::time(passed) {
            crate::sys::clock::raise_floor(passed);
        }
        let since = house::time(since).unwrap_or_else(crate::sys::clock::now);
        let was_offline = was_offline.filter(|why| !why.is_empty()).map(|why| (why, since));
        let (probe, replay) = (house::probe(&upstream), house::first_round(&outbox));
        cache.rebase_by(difference::move_onto);
        let (link, owner) = Link::new(probe_interval, was_offline, probe, replay);
        let (edits, _) = broadcast::channel(watch::BACKLOG);
        let waiting = Arc::new(Notify::new());
        let torn = torn::Torn::of(&cache).await?;
        let shared = Shared {
            writes: local::LocalWrites::new(cache.clone(), edits.clone(), waiting.clone()),
            takers: Arc::default(),
            unknown: decoder::Unknown::new(cache.clone()),
            pages: listed::Pages::new(torn.clone()),
            torn,
            refusals: refusals::Refusals::default(),
            unsure: unsure::Unsure::after(cache.ended_whole().await?),
            signed: sign::Signed::default(),
            offline_mode: tokio::sync::watch::Sender::new(offline_mode),
            mode_changes: tokio::sync::watch::Sender::new(0),
            unforgotten: tokio::sync::watch::Sender::new(None),
            accepted: Mutex::default(),
            asked_keys: issuer::AskedKeys::default(),
            own_issuers: own_issuers::OwnIssuers::of(&cache).await?,
            cache,
            link,
            upstream,
            ca,
            certificate,
            in_cluster: incluster::InCluster::new(showed, in_cluster),
            clients: seen,
            client_settings: clients,
            outbox,
            edits,
            waiting,
            rotated: credentials,
            begun: tokio::time::Instant::now(),
        };
        Ok((Self { shared: Arc::new(shared) }, owner))
    }

    /// Serves clients until `stop` holds true.
    ///
    /// # Errors
    /// [`ProxyError`] when TLS cannot be set up; nothing was served then.
    pub async fn serve(
        &self,
        listener: TcpListener,
        stop: tokio::sync::watch::Receiver<bool>,
    ) -> Result<(), ProxyError> {
        self.serve_at(listener, guests::Limits::KUBELET, None, stop).await
    }

    async fn serve_at(
        &self,
        listener: TcpListener,
        limits: guests::Limits,
        outside: Option<Arc<incluster::Outside>>,
        stop: tokio::sync::watch::Receiver<bool>,
    ) -> Result<(), ProxyError> {
        let tls = tls::server(&self.shared.ca, self.shared.certificate.clone())?;
        serve::serve(listener, tls, self.shared.clone(), (limits, outside), stop).await;
        Ok(())
    }

    /// Keeps house beside the requests: follows the link and the credentials, tells the cloud what
    /// came too late for the round before it was used again, and forgets what nobody asks for any
    /// more. Runs for ever.
    pub async fn keep_house(&self) {
        tokio::select! {
            () = house::keep(&self.shared) => {}
            () = house::forget_again(&self.shared) => {}
            () = self.shared.takers.look(takers::MOST) => {}
        }
    }

    /// The credentials in force, or what is known without them.
    pub fn credentials(&self) -> Known {
        self.shared.rotated.credentials.borrow().clone()
    }

    /// How the node's certificate is doing.
    pub fn certificate(&self) -> rotate::Life {
        self.shared.rotated.life.borrow().clone()
    }

    /// The clients other than kubelet that were seen since the start, by identity.
    pub fn clients(&self) -> HashMap<String, clients::Seen> {
        self.shared.clients.all()
    }

    /// Where pods that are started now find the proxy, and the addresses of the Service `kubernetes` that they would have
    /// otherwise. `None` while they are not led here.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub async fn leads_pods(&self) -> Result<Option<(IpAddr, Vec<IpAddr>)>, CacheError> {
        let Some(to) = self.shared.in_cluster.leads_to() else { return Ok(None) };
        let service = self.shared.cache.read(|reader| reader.object(&service())).await?;
        let service = service.map(|known| incluster::addresses(&known.body)).unwrap_or_default();
        let service: Vec<IpAddr> = service.iter().filter_map(|ip| ip.parse().ok()).collect();
        // One of another family is shown as it is.
        let is_led = service.first().is_some_and(|ip| ip.is_ipv4() == to.is_ipv4());
        Ok(is_led.then_some((to, service)))
    }

    /// The link, for whoever reports it.
    pub fn link(&self) -> Link {
        self.shared.link.clone()
    }

    /// Keeps an event of edge's own (`v1`, with namespace and name) on disk and tells it to the cloud, now or when it
    /// is back.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn tell(&self, event: serde_json::Value) -> Result<(), CacheError> {
        self.shared.writes.take_event(event).await
    }

    /// Whether anything is kept.
    pub fn offline_mode(&self) -> bool {
        self.shared.is_offline_mode()
    }

    /// Turns offline mode on or off, at once and without a restart. Off: what was kept is removed from
    /// the disk, but for what waits to be told to the cloud. On: clients are made to read anew.
    ///
    /// # Errors
    /// When what was kept cannot be removed; the mode is off nevertheless.
    pub async fn set_offline_mode(&self, on: bool) -> Result<(), CacheError> {
        let shared = &self.shared;
        if !shared.offline_mode.send_if_modified(|mode| std::mem::replace(mode, on) != on) {
            return Ok(());
        }
        tracing::info!(on, "offline mode");
        shared.mode_changes.send_modify(|n| *n += 1);
        if on {
            shared.unforgotten.send_replace(None);
            shared.cache.resync();
            return Ok(());
        }
        shared.forget().await
    }

    /// Why what was kept is still on the disk, though offline mode is off; it is tried again.
    pub fn unforgotten(&self) -> Option<String> {
        self.shared.unforgotten.borrow().clone()
    }

    /// Parts with the cloud for good: nothing is kept any more, and all that was is removed, what waits to be told
    /// to the cloud with it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn part(&self) -> Result<(), CacheError> {
        let shared = &self.shared;
        shared.offline_mode.send_replace(false);
        shared.mode_changes.send_modify(|n| *n += 1);
        let give_up = || async {
            let job = |writer: &mut crate::cache::Writer| {
                writer.drop_all_changes()?;
                writer.set_meta(LINK_META, "")
            };
            shared.cache.commit(job).await
        };
        shared.also_if_damaged(give_up).await?;
        shared.forget().await
    }

    /// Removes what was kept, as when the daemon starts with offline mode off.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn forget(&self) -> Result<(), CacheError> {
        self.shared.forget().await
    }
}

impl Shared {
    fn is_offline_mode(&self) -> bool {
        *self.offline_mode.borrow()
    }

    /// With offline mode off, what a change still needed goes once the cloud was told.
    async fn forget_told(&self) -> Result<(), CacheError> {
        let over = self.cache.read(|reader| Ok(!reader.is_empty()? && reader.changes()?.is_empty())).await?;
        if over { self.forget().await } else { Ok(()) }
    }

    fn why_offline(&self) -> String {
        match self.link.state().phase {
            Phase::Offline(why) => format!("the cloud is away: {why}"),
            _ => "the cloud is away".to_owned(),
        }
    }
}

/// The Service by which pods know the API server.
fn service() -> crate::cache::ObjectKey {
    let (namespace, name) = ("default".to_owned(), "kubernetes".to_owned());
    crate::cache::ObjectKey { resource: "v1/services".to_owned(), namespace, name }
}
