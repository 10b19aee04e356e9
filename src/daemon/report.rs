//! What the daemon says of itself: the one source of `edge status`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::clients::ClientReport;
use super::credentials;
use super::mirror::MirrorReport;
use super::task::{TaskError, blocking};
use crate::bundle::Newest;
use crate::cache::{Cache, Change, Freshness, Refused};
use crate::cri;
use crate::health::{Board, Health};
use crate::link::Phase;
use crate::oci::Reference;
use crate::pods::survival::{self, Risk};
use crate::pods::unled::{Led, Unled};
use crate::proxy::Proxy;
use crate::registry::{containerd, is_whole};
use crate::system::Places;

/// `edge status -o json`. Times are RFC 3339 in UTC, sizes bytes; fields are only ever added.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Of the daemon.
    pub version: String,
    /// When the daemon started.
    pub started: String,
    /// Whether anything is kept and served from the cache, once a cloud is joined.
    pub offline_mode: bool,
    /// Keys that were changed, and are in force from the next start on.
    #[serde(default)]
    pub waits_for_start: Vec<String>,
    /// The link to the cloud.
    pub link: LinkReport,
    /// The cloud, if this gateway has joined one.
    pub cloud: Option<CloudReport>,
    /// What is kept.
    pub cache: CacheReport,
    /// Clients other than kubelet.
    #[serde(default)]
    pub clients: Vec<ClientReport>,
    /// What changed here and waits to be told to the cloud.
    pub changes: Vec<ChangeReport>,
    /// What the cloud refused for good, lately.
    pub refused: Vec<ChangeReport>,
    /// Pods that would not survive an outage.
    pub at_risk: Vec<RiskReport>,
    /// The parts of the daemon.
    #[serde(default)]
    pub parts: Vec<Health>,
    /// The mirror, where something is configured for it or it has run.
    #[serde(default)]
    pub mirror: Option<MirrorReport>,
    /// The newest bundle of each stream that was imported.
    #[serde(default)]
    pub bundles: Vec<Newest>,
    /// What went wrong and is not over.
    pub errors: Vec<String>,
}

/// A pod that would not survive an outage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RiskReport {
    /// `namespace/name`.
    pub pod: String,
    /// Why.
    pub reason: String,
    /// Arguments for kubectl that mend it; empty where no patch can.
    pub mend: Vec<String>,
    /// Arguments for edge that mend it on this gateway; empty where nothing does.
    #[serde(default)]
    pub restart: Vec<String>,
}

impl RiskReport {
    fn of(risk: Risk) -> Self {
        let Risk { pod, reason, mend, restart } = risk;
        Self { pod, reason, mend, restart }
    }
}

/// The link to the cloud.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkReport {
    /// `online`, `offline`, `replaying`, `starting`, or `none` where no cloud was joined.
    pub state: String,
    /// Since when.
    pub since: String,
    /// Why it is offline; empty otherwise.
    pub reason: String,
}

/// The cloud.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloudReport {
    /// Its address.
    pub server: String,
    /// This node's name there.
    pub node: String,
    /// When the node's certificate ends.
    pub certificate_expires: Option<String>,
    /// When edge renews it; absent if it is not edge's to renew.
    pub certificate_renews: Option<String>,
}

/// What is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheReport {
    /// The database.
    pub path: String,
    /// Bytes on disk, journal included.
    pub bytes: u64,
    /// By resource.
    pub resources: Vec<ResourceReport>,
}

/// What is kept of a resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceReport {
    /// Such as `v1/pods`.
    pub resource: String,
    /// Objects.
    pub objects: i64,
    /// Bytes.
    pub bytes: i64,
    /// Until when the oldest of its lists that are in use was as the cloud has it.
    pub synced: Option<String>,
    /// Whether all of these are being watched: `synced` is when the cloud was heard last then.
    #[serde(default)]
    pub current: bool,
}

/// A change that waits, or was refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeReport {
    /// `patch`, `create`, `delete`.
    pub change: String,
    /// What it is about.
    pub object: String,
    /// When it was made, or refused.
    pub at: String,
    /// How often the cloud was asked.
    pub attempts: u32,
    /// What it said last.
    pub error: String,
}

/// Where the report comes from.
pub struct Facts {
    pub started: jiff::Timestamp,
    pub cache: Cache,
    pub proxy: watch::Receiver<Option<Proxy>>,
    pub runtime: cri::Settings,
    pub unled: Unled,
    pub board: Board,
    pub waits: watch::Receiver<Vec<&'static str>>,
    pub place: std::sync::Arc<super::task::Place>,
    pub refused: watch::Receiver<Option<String>>,
}

/// How long the runtime may take to list its images.
const RUNTIME: std::time::Duration = std::time::Duration::from_secs(2);

impl Facts {
    /// The report of this moment. What cannot be read is said under `errors`, never left out silently.
    pub async fn report(&self) -> Report {
        let mut errors: Vec<String> = self.cache.trouble().into_iter().collect();
        errors.extend(self.refused.borrow().clone());
        let damaged = self.cache.damaged();
        errors.extend(
            damaged.map(|(aside, why)| format!("a damaged cache was set aside: {}: {why}", aside.display())),
        );
        errors.extend(super::firewall::not_in_force(&Places::below(&self.place.config().system.root)));
        let alone = self.proxy().map(|proxy| proxy.left_alone()).unwrap_or_default();
        errors.extend(alone.iter().map(super::clients::is_left_alone));
        let fresh = self.proxy().map(|proxy| proxy.freshness()).unwrap_or_default();
        let known = fresh.clone();
        let read = self
            .cache
            .read(move |reader| Ok((reader.counts(&known)?, reader.changes()?, reader.refused()?)))
            .await;
        let (counts, changes, refused) = read.unwrap_or_else(|error| {
            errors.push(error.to_string());
            Default::default()
        });
        let resources = counts
            .into_iter()
            .map(|count| ResourceReport {
                resource: count.resource,
                objects: count.objects,
                bytes: count.bytes,
                synced: count.synced.map(time_of),
                current: count.is_current,
            })
            .collect();
        let waits_for_start = self.waits.borrow().iter().map(|&key| key.to_owned()).collect();
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: time(self.started),
            offline_mode: match self.proxy() {
                Some(proxy) => proxy.offline_mode(),
                None => self.place.config().offline_mode,
            },
            waits_for_start,
            link: self.link(),
            cloud: self.cloud(&mut errors),
            cache: CacheReport {
                path: self.cache.path().display().to_string(),
                bytes: size_on_disk(self.cache.path()),
                resources,
            },
            clients: self.clients(fresh, &mut errors).await,
            changes: changes.iter().map(waiting).collect(),
            refused: refused.into_iter().map(not_taken).collect(),
            at_risk: self.at_risk(&mut errors).await,
            parts: self.board.all(),
            mirror: super::mirror::report(&self.place).await,
            bundles: super::bundle::report(&self.place).await.unwrap_or_else(|error| {
                errors.push(format!("bundles were not looked at: {}", error.message));
                Vec::new()
            }),
            errors,
        }
    }

    async fn clients(&self, fresh: Freshness, errors: &mut Vec<String>) -> Vec<ClientReport> {
        let seen = self.proxy().map(|proxy| proxy.clients()).unwrap_or_default();
        super::clients::report(&self.cache, fresh, seen).await.unwrap_or_else(|error| {
            errors.push(format!("clients were not looked at: {error}"));
            Vec::new()
        })
    }

    fn proxy(&self) -> Option<Proxy> {
        self.proxy.borrow().clone()
    }

    fn link(&self) -> LinkReport {
        let Some(proxy) = self.proxy() else {
            return LinkReport { state: "none".into(), since: time(self.started), reason: String::new() };
        };
        let state = proxy.link().state();
        let (word, reason) = match state.phase {
            Phase::Starting => ("starting", String::new()),
            Phase::Online => ("online", String::new()),
            Phase::Replaying => ("replaying", String::new()),
            Phase::Offline(why) => ("offline", why),
        };
        LinkReport { state: word.into(), since: time(state.since), reason }
    }

    fn cloud(&self, errors: &mut Vec<String>) -> Option<CloudReport> {
        let proxy = self.proxy()?;
        let (credentials, life) = (proxy.credentials(), proxy.certificate());
        errors.extend(life.last_error);
        errors.extend(credentials.trouble().map(credentials::unread));
        let expires = life.not_after;
        errors.extend(credentials::trouble(expires, crate::sys::clock::now(), &proxy.link().state().phase));
        let left = proxy.unforgotten();
        errors.extend(
            left.map(|why| format!("offline mode is off, and what was kept is still on the disk: {why}")),
        );
        Some(CloudReport {
            server: credentials.server(),
            node: credentials.node_name().unwrap_or_default().to_owned(),
            certificate_expires: expires.map(time),
            certificate_renews: life.renews_at.map(time),
        })
    }

    /// Pods that would not survive an outage, as they are known here and as the runtime's images are.
    async fn at_risk(&self, errors: &mut Vec<String>) -> Vec<RiskReport> {
        let pods = self.cache.read(|reader| reader.own_pods()).await.unwrap_or_else(|error| {
            errors.push(format!("pods were not looked at: {error}"));
            None
        });
        let pods = pods.unwrap_or_default();
        if pods.is_empty() {
            return Vec::new();
        }
        let images = self.images().await.unwrap_or_else(|why| {
            errors.push(format!("images were not looked at: {why}"));
            survival::Images::default()
        });
        let served = self.served(&pods).await.unwrap_or_else(|why| {
            errors.push(format!("what containerd gets from edge is not known: {why}"));
            BTreeSet::new()
        });
        let images = images.with_served(served);
        let unled = self.unled(&pods).await.unwrap_or_else(|why| {
            errors.push(format!("how pods know the API server was not looked at: {why}"));
            Vec::new()
        });
        let mut risks: Vec<Risk> = pods.iter().flat_map(|pod| survival::risks(pod, &images)).collect();
        risks.extend(unled);
        risks.sort_by(|a, b| a.pod.cmp(&b.pod));
        risks.into_iter().map(RiskReport::of).collect()
    }

    /// Pods that were started before pods were led where they are now.
    async fn unled(&self, pods: &[Value]) -> Result<Vec<Risk>, String> {
        let Some(proxy) = self.proxy() else { return Ok(Vec::new()) };
        let Some((to, service)) = proxy.leads_pods().await.map_err(|e| e.to_string())? else {
            return Ok(Vec::new());
        };
        let runtime = cri::Runtime::new(&self.runtime).map_err(|e| e.to_string())?;
        let led = Led { to, service };
        let found = tokio::time::timeout(RUNTIME, self.unled.risks(&runtime, pods, &led)).await;
        found.map_err(|_| "the runtime does not answer".to_owned())?.map_err(|e| e.to_string())
    }

    /// The images that these pods name and that containerd gets here: it was told to ask edge, and all of them is here.
    async fn served(&self, pods: &[Value]) -> Result<BTreeSet<String>, String> {
        let backup = self.place.config().state_dir.join("containerd");
        if !backup.exists() || !self.place.door().is_used() {
            return Ok(BTreeSet::new());
        }
        let store = self.place.store().await.map_err(|e| e.message)?;
        let names: BTreeSet<String> = pods.iter().flat_map(survival::named).map(str::to_owned).collect();
        let look = move || {
            let here = containerd::pointed_here(&backup).map_err(TaskError::failed)?;
            let mut served = BTreeSet::new();
            for name in names {
                let Ok(image) = name.parse::<Reference>() else { continue };
                if here.has(&image.host) && is_whole(&store, &image.repository(), image.name())? {
                    served.insert(name);
                }
            }
            Ok(served)
        };
        blocking(look).await.map_err(|e| e.message)
    }

    async fn images(&self) -> Result<survival::Images, String> {
        let runtime = cri::Runtime::new(&self.runtime).map_err(|e| e.to_string())?;
        let listed = tokio::time::timeout(RUNTIME, runtime.images()).await;
        let listed =
            listed.map_err(|_| "the runtime does not answer".to_owned())?.map_err(|e| e.to_string())?;
        let names = listed.iter().flat_map(|image| image.repo_tags.iter().chain(&image.repo_digests));
        Ok(survival::Images::new(names.map(String::as_str)))
    }
}

fn not_taken(refused: Refused) -> ChangeReport {
    ChangeReport {
        change: "refused".into(),
        object: refused.object,
        at: time_of(refused.at),
        attempts: 1,
        error: refused.why,
    }
}

fn waiting(change: &Change) -> ChangeReport {
    let subresource = match change.what.subresource.as_str() {
        "" => String::new(),
        name => format!(" {name}"),
    };
    ChangeReport {
        change: format!("{}{subresource}", change.what.kind.as_str()),
        object: change.what.key.to_string(),
        at: time_of(change.at),
        attempts: change.attempts,
        error: change.error.clone(),
    }
}

pub(super) fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(super) fn time_of(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(time).unwrap_or_default()
}

/// The database with its journal.
fn size_on_disk(path: &std::path::Path) -> u64 {
    let size = |suffix: &str| {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        std::fs::metadata(PathBuf::from(file)).map_or(0, |meta| meta.len())
    };
    size("") + size("-wal")
}
