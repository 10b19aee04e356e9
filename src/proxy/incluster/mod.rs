//! The door for pods: the API server's address as this node sees it, on an interface of edge's own.
//!
//! Pods ask the API server at the Service `kubernetes`, which leads to the cloud. On this node it leads to edge instead:
//! kubelet is told another address of that Service, the node's service proxy other endpoints, and pods an authority
//! more to trust (`view`). What they are told changes on its way to them (`show`) and nowhere else. The address is
//! link-local (`interface`), so that it is there before any network.

mod interface;
mod outside;
mod show;
mod view;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Response, StatusCode, header};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::answer::{self, Body};
use super::caller::Caller;
use super::forward::Call;
use super::guests::Limits;
use super::serve::told;
use super::{Proxy, Shared};
use crate::cache::Cache;
use crate::cri::{Addresses, Runtime};
use crate::health::Part;
use crate::kube::status::Failure;
use crate::kube::{ResourceRequest, Verb};
use interface::Interface;
pub use outside::Outside;
use show::{Hindered, Showing};
use view::{Target, View};

/// How long after a failure, at the latest, the address is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long the address may keep the daemon from being ready.
const FIRST: Duration = Duration::from_secs(3);
/// Lists that are remembered at the most.
const LISTS: usize = 4096;
/// Under which name the address is kept that clients were shown last; empty for the cloud's own.
pub const SHOWN_META: &str = "in-cluster";
/// Changes of interfaces come in bursts: a network plugin makes several at once.
const BURST: Duration = Duration::from_millis(50);

/// What pods are shown; nothing is changed until edge has once listened at its address.
#[derive(Debug, Default)]
pub struct InCluster {
    view: watch::Sender<Option<Arc<View>>>,
    hindered: watch::Sender<Hindered>,
    known: Mutex<Known>,
}

/// What clients know, and go on with for as long as they run.
#[derive(Debug, Default)]
struct Known {
    /// The address that they were shown last, also by the daemon before this one; empty for the cloud's own.
    shown: String,
    /// Once something else is shown: the lists that their clients have read since.
    anew: Option<HashSet<String>>,
}

impl InCluster {
    /// Shows nothing yet. The daemon before this one `showed` an address, or nothing; this one is to show `address`.
    pub fn new(showed: String, address: Option<SocketAddr>) -> Self {
        let stays = showed.is_empty() || address.is_some_and(|address| address.to_string() == showed);
        let known = match stays {
            true => Known { shown: showed, anew: None },
            false => Known { shown: String::new(), anew: Some(HashSet::new()) },
        };
        Self { known: Mutex::new(known), ..Self::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a watch goes on from a list that was shown otherwise: its client must read anew.
    pub fn is_stale(&self, call: &Call) -> bool {
        let Some(request) = call.request.resource().filter(|request| goes_on(request)) else { return false };
        let known = self.known();
        let Some(anew) = &known.anew else { return false };
        list_of(call, request).is_some_and(|list| !anew.contains(&list))
    }

    /// Notes that a list was read anew, once `call` was answered with `code`: until then nobody has judged the caller.
    /// False if something else is shown by now than `showing` says: it must be read once more.
    pub(in crate::proxy) fn note(&self, call: &Call, code: StatusCode, showing: Option<&Showing>) -> bool {
        let Some(request) = call.request.resource() else { return true };
        let reads = matches!(request.verb, Verb::Watch | Verb::List);
        let Some(list) = list_of(call, request).filter(|_| reads && code == StatusCode::OK) else {
            return true;
        };
        let mut known = self.known();
        if self.view.borrow().as_ref() != showing.map(|showing| &showing.view) {
            return false;
        }
        let Some(anew) = known.anew.as_mut().filter(|_| !goes_on(request)) else { return true };
        if anew.len() >= LISTS && !anew.contains(&list) {
            // Who is forgotten reads once more than needed.
            anew.clear();
        }
        anew.insert(list);
        true
    }

    /// From now on objects are shown as they lead to `address`; whether that is new. Clients that have read them
    /// otherwise are made to read anew, whoever answers them.
    fn begin(&self, shared: &Shared, address: SocketAddr) -> bool {
        let view = View { address, authority: shared.ca.ca_pem().to_owned() };
        let mut known = self.known();
        let new = self.view.send_if_modified(|now| {
            let new = now.as_deref() != Some(&view);
            if new {
                *now = Some(Arc::new(view));
            }
            new
        });
        if !new {
            return false;
        }
        let address = address.to_string();
        if known.shown != address {
            known.anew = Some(HashSet::new());
            note_shown(&shared.cache, &address);
            known.shown = address;
            shared.mode_changes.send_modify(|n| *n += 1);
        }
        shared.cache.resync();
        true
    }

    /// The address that pods are shown, if they are shown one.
    pub fn leads_to(&self) -> Option<IpAddr> {
        self.view.borrow().as_ref().map(|view| view.address.ip())
    }

    /// How an answer to `call` is to be shown, if otherwise than it comes.
    pub(in crate::proxy) fn showing(&self, shared: &Shared, call: &Call) -> Option<Showing> {
        let request = call.request.resource()?;
        if !matches!(request.verb, Verb::Get | Verb::List | Verb::Watch) {
            return None;
        }
        let target = target(call, request)?;
        let mut known = self.known();
        let Some(view) = self.view.borrow().clone() else {
            if !known.shown.is_empty() {
                note_shown(&shared.cache, "");
                known.shown.clear();
            }
            return None;
        };
        drop(known);
        let (certificate, hindered) = (shared.certificate.clone(), self.hindered.clone());
        Some(Showing { target, view, verb: request.verb, certificate, hindered })
    }

    /// Refuses to have written what was shown otherwise: the cloud's object would become what this node sees.
    pub fn refuse_write(&self, call: &Call) -> Option<Response<Body>> {
        let request = call.request.resource()?;
        let target = target(call, request).filter(|target| target.is_written_by(request))?;
        self.view.borrow().as_ref()?;
        tracing::debug!(?target, "a write of what is shown otherwise here was refused");
        let why =
            "this node sees it otherwise than the cloud has it: write it through the cloud's own address";
        let (group, resource) = (&request.gvr.group, &request.gvr.resource);
        let name = request.name.as_deref().unwrap_or_default();
        Some(answer::failure(&Failure::forbidden(group, resource, name, why), call.accept.encoding))
    }
}

/// Keeps for the next daemon what clients were shown.
pub fn note_shown(cache: &Cache, address: &str) {
    let address = address.to_owned();
    cache.record(address.len(), move |writer| writer.set_meta(SHOWN_META, &address));
}

/// Whether a watch goes on from what its client has read before.
fn goes_on(request: &ResourceRequest) -> bool {
    let version = request.query.resource_version.as_deref().unwrap_or_default();
    request.verb == Verb::Watch && !matches!(version, "" | "0") && !request.query.wants_initial_events()
}

/// What is remembered of a read: who reads which of the objects. Kubelet, which is known by its certificate, reads each
/// ConfigMap by itself.
fn list_of(call: &Call, request: &ResourceRequest) -> Option<String> {
    let target = target(call, request)?;
    let one = (call.caller == Caller::Kubelet).then_some((&request.namespace, &request.query.field_selector));
    Some(format!("{} {target:?} {one:?}", call.caller.identity()))
}

fn target(call: &Call, request: &ResourceRequest) -> Option<Target> {
    let agent = call.head.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    Target::of(&call.caller, agent, request)
}

/// The address for pods, with what listens there.
pub struct PodsDoor {
    address: SocketAddr,
    /// Knows which pods are here.
    runtime: Runtime,
    part: Part,
    interface: Option<Interface>,
    /// Who is not let in.
    outside: Option<Arc<Outside>>,
    /// Listens, and is not served yet.
    listener: Option<TcpListener>,
    serving: JoinSet<()>,
    /// How often the interface or its address had gone.
    again: u32,
}

impl std::fmt::Debug for PodsDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodsDoor").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Why pods are not served.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Interface(#[from] interface::Error),
    #[error(
        "cannot listen on `{address}` for pods: {source} hint: stop the program that has this port, or set `proxy.in-cluster-listen`"
    )]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("interface `{}` was not made within {} s", interface::NAME, FIRST.as_secs())]
    Late,
    #[error(
        "the Service `kubernetes` is of {other} and {address} is not, so pods ask the cloud itself hint: set `proxy.in-cluster-listen` to `{better}`, and restart edge"
    )]
    Foreign { address: SocketAddr, other: &'static str, better: &'static str },
    #[error(
        "the kubeconfig in ConfigMap `kube-system/kube-proxy` does not trust what pods trust, so kube-proxy asks the cloud itself, and has no rules after a reboot in an outage hint: give its cluster `certificate-authority: {}`",
        view::POD_AUTHORITY
    )]
    Astray,
}

impl PodsDoor {
    /// Makes the interface and listens, within a few seconds. What cannot be is told by `part` and tried again by
    /// [`PodsDoor::run`]; kubelet must be served whatever becomes of it.
    pub async fn open(proxy: &Proxy, address: SocketAddr, runtime: Runtime, part: Part) -> Self {
        let (interface, outside, listener, serving) = (None, None, None, JoinSet::new());
        let mut door = Self { address, runtime, part, interface, outside, listener, serving, again: 0 };
        door.attempt(proxy).await;
        door
    }

    /// Serves pods until `stop` holds true, and keeps the address there.
    pub async fn run(mut self, proxy: Proxy, mut stop: watch::Receiver<bool>) {
        let mut hindered = proxy.shared.in_cluster.hindered.subscribe();
        loop {
            let good = self.attempt(&proxy).await;
            if let Some(listener) = self.listener.take() {
                let (proxy, outside, stop) = (proxy.clone(), self.outside.clone(), stop.clone());
                self.serving.spawn(async move {
                    if let Err(error) = proxy.serve_at(listener, Limits::PODS, outside, stop).await {
                        tracing::error!(%error, "pods cannot be served");
                    }
                });
            }
            tokio::select! {
                () = told(&mut stop) => break,
                Some(_) = self.serving.join_next() => {}
                () = changed(&mut self.interface) => tokio::time::sleep(BURST).await,
                Ok(()) = hindered.changed() => {}
                () = tokio::time::sleep(RETRY), if !good => {}
            }
        }
        while self.serving.join_next().await.is_some() {}
    }

    /// Has the address there and something listening at it; whether that is so now.
    async fn attempt(&mut self, proxy: &Proxy) -> bool {
        let opened = tokio::time::timeout(FIRST, self.ensure()).await.unwrap_or(Err(Error::Late));
        let made = match opened {
            Ok(made) => made,
            Err(error) => {
                self.part.trouble(error.to_string());
                return false;
            }
        };
        let shared = &proxy.shared;
        let first = shared.in_cluster.begin(shared, self.address);
        if made && !first {
            self.again += 1;
            tracing::warn!(interface = interface::NAME, address = %self.address, "was gone, and is made again");
        }
        let hindered = *shared.in_cluster.hindered.borrow();
        if hindered.foreign {
            let (other, better) = match self.address {
                SocketAddr::V4(_) => ("IPv6", "[fd69:6467:6500::45]:6445"),
                SocketAddr::V6(_) => ("IPv4", "169.254.64.45:6445"),
            };
            self.part.trouble(Error::Foreign { address: self.address, other, better }.to_string());
            return true;
        }
        if hindered.astray {
            self.part.trouble(Error::Astray.to_string());
            return true;
        }
        self.part.good_with(match self.again {
            0 => format!("serves pods at {}", self.address),
            n => format!(
                "serves pods at {}; `{}` had gone and was made again {n} times",
                self.address,
                interface::NAME
            ),
        });
        true
    }

    async fn ensure(&mut self) -> Result<bool, Error> {
        let interface = match &mut self.interface {
            Some(interface) => interface,
            None => self.interface.insert(Interface::open(self.address.ip())?),
        };
        let made = interface.ensure().await?;
        if self.outside.is_none() {
            let pods = Addresses::new(self.runtime.clone());
            let outside = Outside::open(self.address.ip(), pods).map_err(interface::Error::Open)?;
            self.outside = Some(Arc::new(outside));
        }
        if self.serving.is_empty() && self.listener.is_none() {
            let address = self.address;
            let listening = TcpListener::bind(address).await;
            self.listener = Some(listening.map_err(|source| Error::Listen { address, source })?);
        }
        Ok(made)
    }
}

/// Waits for news of interfaces; for ever where the kernel cannot be asked.
async fn changed(interface: &mut Option<Interface>) {
    match interface {
        Some(interface) => interface.changed().await,
        None => std::future::pending().await,
    }
}

/// The addresses of the Service `kubernetes`, as the cloud has it.
pub fn addresses(service: &serde_json::Value) -> Vec<String> {
    Target::Service.addresses(service)
}

/// Whether the interface is there, whoever has made it.
pub fn is_there() -> bool {
    nix::net::if_::if_nametoindex(interface::NAME) != Err(nix::errno::Errno::ENODEV)
}

/// Takes the interface away, if there is one, as when the cloud is left.
///
/// # Errors
/// In words.
pub async fn remove(address: SocketAddr) -> Result<(), String> {
    // A strict snap that may not make interfaces has none, and may not ask for them as it is done below.
    if !is_there() {
        return Ok(());
    }
    let mut interface = Interface::open(address.ip()).map_err(|e| e.to_string())?;
    interface.remove().await.map_err(|e| e.to_string())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
