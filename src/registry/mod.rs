//! The OCI registry and chart repository on one listener.
//!
//! # Layout
//! - `server`: accepts connections, with TLS or without; `sendfile` sends blobs without copying them
//! - `places`: who goes when there are too many connections, and what keeps the registry awake
//! - `route` and `names`: what a path means, and which repository (pure)
//! - `blobs`, `uploads`, `manifests`, `listing`: the OCI distribution specification 1.1
//! - `charts`: ChartMuseum's API and Helm's index
//! - `git`: mirrored repositories, to read
//! - `sources`, `pull` and `referrers`: what is not here, from upstreams that are configured
//! - `images`: images as people handle them, from and to archives too
//! - `auth`: who may write; `secret` checks who can read that
//! - `spool`: bytes on their way to the disk
//! - `containerd`: its `hosts.toml`
//!
//! Keeps nothing itself: all content lies in [`crate::store`]. Reading needs no credential; writing is off
//! unless settings allow it, and never without a credential unless they say so for loopback.

mod auth;
mod blobs;
mod charts;
pub mod containerd;
mod error;
mod git;
pub mod images;
mod listing;
mod manifests;
mod names;
mod places;
mod pull;
mod referrers;
mod reply;
mod route;
mod secret;
mod sendfile;
mod server;
pub mod settings;
mod sources;
mod spool;
mod uploads;

use std::sync::Arc;

use http::{Method, Request, Response};
use hyper::body::Incoming;

use crate::store::Store;

pub use charts::add as add_chart;
pub use charts::is_repository as is_chart_repository;
pub use error::Error;
pub use names::is_host_name;
pub use places::Limits;
pub use pull::is_whole;
pub use settings::{Identity, Settings, UpstreamRow, name_and_port};
pub use sources::{Sources, client as upstream_client};

use reply::{Body, Refusal};
use route::Route;

/// Where clients get tokens.
const TOKENS: &str = "/token";

/// A handle to the registry; cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    settings: Settings,
    /// The local certificate, where one is to be shown.
    identity: Option<Identity>,
    auth: auth::Auth,
    manifests: manifests::Memory,
    pull: pull::Pull,
    indexes: charts::Indexes,
    repositories: git::Repositories,
    awake: places::Awake,
    limits: std::sync::OnceLock<places::Limits>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Registry {
    /// Reads the files that settings name, as [`Registry::new`] does, and keeps nothing.
    ///
    /// # Errors
    /// Where settings contradict themselves, or a file cannot be read or used.
    pub fn check(settings: &Settings) -> Result<(), Error> {
        settings.check()?;
        Sources::new(settings)?;
        auth::Auth::read(settings)?;
        server::check(settings)
    }

    /// Sets up a registry over `store`; `identity` is what it shows where settings ask for a local certificate.
    ///
    /// # Errors
    /// Where settings contradict themselves, or a file that they name cannot be read.
    pub fn new(store: Store, settings: Settings, identity: Option<Identity>) -> Result<Self, Error> {
        settings.check()?;
        let sources = Sources::new(&settings)?;
        let auth = auth::Auth::read(&settings)?;
        let awake = places::Awake::default();
        let inner = Inner {
            pull: pull::Pull::new(store.clone(), sources, awake.clone()),
            store,
            settings,
            identity,
            auth,
            manifests: manifests::Memory::default(),
            indexes: charts::Indexes::default(),
            repositories: git::Repositories::default(),
            awake,
            limits: std::sync::OnceLock::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where it fetches from.
    pub fn sources(&self) -> &Sources {
        self.inner.pull.sources()
    }

    fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Runs what blocks on the disk off the network's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, crate::store::Error> + Send + 'static,
    ) -> Result<T, Refusal> {
        let store = self.store().clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result.map_err(Refusal::from),
            Err(_) => Err(Refusal::internal("a task ended unexpectedly")),
        }
    }

    /// Answers one request.
    async fn answer(&self, request: Request<Incoming>, peer: server::Peer) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        if let Some(route) = charts::ChartRoute::parse(request.uri().path()) {
            let response = self.answer_chart(route, request, peer).await;
            return if head { reply::without_body(response) } else { response };
        }
        if let Some(route) = git::GitRoute::parse(request.uri().path()) {
            let response = self.answer_git(route, request).await;
            return if head { reply::without_body(response) } else { response };
        }
        let result = match self.dispatch(request, peer).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        };
        if head { reply::without_body(result) } else { result }
    }

    /// Where a client that came this way gets its token.
    fn realm(&self, request: &Request<Incoming>) -> String {
        // HTTP/2 has the host in the address.
        let header = request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
        let named = request.uri().authority().map(|authority| authority.as_str()).or(header);
        let plain = |host: &&str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
        let listen = self.inner.settings.listen.to_string();
        let scheme = if self.inner.settings.serves_tls() { "https" } else { "http" };
        format!("{scheme}://{}{TOKENS}", named.filter(plain).unwrap_or(&listen))
    }

    async fn dispatch(
        &self,
        request: Request<Incoming>,
        peer: server::Peer,
    ) -> Result<Response<Body>, Refusal> {
        let method = request.method().clone();
        let query = route::Query::parse(request.uri().query().unwrap_or_default());
        if request.uri().path() == TOKENS && method == Method::GET {
            return Ok(reply::json(&self.inner.auth.token(request.headers(), peer).await?));
        }
        let route = Route::parse(request.uri().path(), &method)?;
        let allowed = route.methods(self.inner.settings.push);
        if method == Method::OPTIONS {
            return Ok(reply::allowed(allowed));
        }
        if route.deletes(&method) && !self.inner.settings.push {
            return Err(Refusal::no_deleting(allowed));
        }
        if route.writes(&method) {
            self.inner.auth.may_write(request.headers(), peer).await?;
        } else if method != Method::GET && method != Method::HEAD {
            return Err(Refusal::method(&method, allowed));
        }
        let names = |path: &str| names::candidates(path, query.get("ns"), &self.inner.settings);
        match route {
            Route::Base => {
                let realm = self.realm(&request);
                self.inner.auth.may_enter(request.headers(), peer, &realm).await?;
                Ok(reply::json(&serde_json::json!({})))
            }
            Route::Catalog => self.catalog(&query).await,
            Route::Tags { path } => self.tags(&path, &names(&path)?, &query).await,
            Route::Referrers { path, digest } => self.referrers(&path, &names(&path)?, digest, &query).await,
            Route::Manifest { path, name } => match method {
                Method::GET | Method::HEAD => self.get_manifest(&names(&path)?, &name, &request).await,
                Method::PUT => self.put_manifest(&path, &names(&path)?, name, &query, request).await,
                Method::DELETE => self.delete_manifest(&names(&path)?, &name).await,
                _ => Err(Refusal::method(&method, allowed)),
            },
            Route::Blob { path, digest } => match method {
                Method::GET | Method::HEAD => {
                    self.get_blob(&names(&path)?, digest, request.headers(), &method, peer).await
                }
                Method::DELETE => self.delete_blob(&names(&path)?, digest).await,
                _ => Err(Refusal::method(&method, allowed)),
            },
            Route::Uploads { path } if method == Method::POST => {
                self.begin_upload(&path, &names(&path)?, &query, request).await
            }
            Route::Uploads { .. } => Err(Refusal::method(&method, allowed)),
            Route::Upload { path, id } => match method {
                Method::GET => self.upload_status(&path, id).await,
                Method::PATCH => self.patch_upload(&path, id, request).await,
                Method::PUT => self.put_upload(&path, &names(&path)?, id, &query, request).await,
                Method::DELETE => self.cancel_upload(id).await,
                _ => Err(Refusal::method(&method, allowed)),
            },
        }
    }
}
