//! Fills the stores from upstream registries and chart repositories, so that nothing is missing when the link goes.
//!
//! # Layout
//! - `settings`: the rules, and what of them makes no sense; `filter`, `order`, `schedule`: what they mean;
//!   `address`: how it is told (pure)
//! - `gather`: asks each source what it wants: lists of tags, indexes, manifests, pods; `found`, `package` read (pure)
//! - `depends`: the charts that a chart depends on, `ranges` of their versions (pure)
//! - `plan`: what is wanted and why (pure); `scope`: who is asked for it (pure); `plain`: who may be over plain HTTP (pure)
//! - `git`: git repositories, which are no blobs and lie beside the store
//! - `image`, `attached`, `charts`, `oci_charts`: one thing at a time; `fetch`, `small`, `pace`: how bytes come
//! - `run`: a whole run, which ends with one new generation of the owner `mirror`; `bring`: one image of it; `summary`:
//!   what is told of it; `next`: what it leaves behind; `record`: what it found
//! - `list`, `explain`, `prune`, `push`: what `edge mirror` does besides
//!
//! Never removes by itself: a generation holds all of the one before. A tag is changed when all of its image is here.

mod address;
mod attached;
mod bring;
mod charts;
mod cosign;
mod depends;
mod error;
pub mod explain;
mod fetch;
pub mod filter;
mod found;
mod gather;
pub mod git;
mod image;
mod kubernetes;
pub mod list;
mod next;
mod oci_charts;
mod order;
mod pace;
mod package;
mod plain;
mod plan;
pub mod prune;
pub mod push;
mod ranges;
pub mod record;
mod run;
pub mod schedule;
mod scope;
pub mod settings;
mod small;
mod summary;

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::Value;

use crate::cache::Cache;
use crate::oci::{Client, ClientSettings, Credentials};
use crate::store::Store;
use crate::sys::clock;

pub use error::Error;
pub use plan::{ImageName, Reason, SourceFailure};
pub use record::Record;
pub use run::{Request, sync};
pub use settings::Settings;
pub use summary::Summary;

/// The names of the rules that have no rows.
const CLUSTER: &str = "cluster";
const KUBERNETES: &str = "kubernetes";

/// What the mirror works on.
#[derive(Clone)]
pub struct Parts {
    /// Where everything goes.
    pub store: Store,
    /// What is wanted.
    pub settings: Settings,
    /// Where the record lies.
    pub state_dir: PathBuf,
    /// What this node's pods are; without it `[mirror.cluster]` has nothing to look at.
    pub cache: Option<Cache>,
    /// Who is at it.
    pub desk: Desk,
}

/// Says since when a run is under way; at most one is. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Desk {
    since: Arc<Mutex<Option<Timestamp>>>,
    _held: Option<Arc<dyn Any + Send + Sync>>,
}

/// A run; over when it is dropped.
#[derive(Debug)]
struct Seat(Desk);

impl Desk {
    /// Since when a run is under way.
    pub fn since(&self) -> Option<Timestamp> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same desk; whoever sits at it keeps `held` until the last of its threads has ended.
    pub fn holding(&self, held: Option<Arc<dyn Any + Send + Sync>>) -> Self {
        Self { _held: held, ..self.clone() }
    }

    fn take(&self) -> Result<Seat, Error> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = *since {
            return Err(Error::Running(since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        }
        *since = Some(clock::now());
        Ok(Seat(self.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Parts {
    /// The client for upstreams, with the credentials of settings, and of the pods' pull secrets where their images
    /// are mirrored.
    async fn client(&self) -> Result<Client, Error> {
        let settings = &self.settings;
        let mut credentials = match &settings.docker_config {
            Some(path) => Credentials::read(path).map_err(Error::Credentials)?,
            None => Credentials::default(),
        };
        if settings.cluster_images {
            for secret in self.pull_secrets().await {
                credentials.add(secret);
            }
        }
        let mut authorities = Vec::new();
        for path in &settings.authorities {
            authorities.extend(certificates(path)?);
        }
        let (proxy, no_proxy) = (settings.proxy.clone(), settings.no_proxy.clone());
        Client::new(ClientSettings { credentials, authorities, proxy, no_proxy }).map_err(Error::Client)
    }

    /// The pods of this node; `None` while they were never read, which is not the same as none.
    async fn pods(&self) -> Option<Vec<Value>> {
        let cache = self.cache.as_ref()?;
        cache.read(|reader| reader.own_pods()).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the pods of this node cannot be read");
            None
        })
    }

    /// The pull secrets that are cached: what the pods' images are fetched with.
    async fn pull_secrets(&self) -> Vec<Credentials> {
        let Some(cache) = &self.cache else { return Vec::new() };
        let read = cache.read(|reader| reader.all("v1/secrets")).await;
        let secrets = read.unwrap_or_else(|error| {
            tracing::warn!(%error, "pull secrets cannot be read: images that need one are refused by their registry");
            Vec::new()
        });
        let mut found = Vec::new();
        for secret in secrets.iter().filter(|secret| secret["type"] == "kubernetes.io/dockerconfigjson") {
            let data = secret["data"][".dockerconfigjson"].as_str().unwrap_or_default();
            let text = base64::engine::general_purpose::STANDARD.decode(data.trim()).unwrap_or_default();
            match Credentials::parse(&text) {
                Ok(credentials) => found.push(credentials),
                Err(why) => {
                    let name = secret["metadata"]["name"].as_str().unwrap_or_default();
                    tracing::warn!(name, why, "a pull secret is of no use");
                }
            }
        }
        found
    }
}

fn certificates(path: &std::path::Path) -> Result<Vec<Vec<u8>>, Error> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let wrong = |why: String| Error::Read { path: path.to_owned(), why };
    let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&text).map(|one| one.map(|der| der.as_ref().to_vec())).collect();
    let found = read.map_err(|e| wrong(e.to_string()))?;
    if found.is_empty() { Err(wrong("it holds no certificate in PEM".into())) } else { Ok(found) }
}

/// A number from 0 to 1 by chance, good enough to spread load.
pub fn chance() -> f64 {
    let [a, b, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
}
