//! The upstreams: which may be asked now, and by which client.
//!
//! An upstream that could not be reached rests for a while, so that those who follow do not wait for it. While the
//! cloud is away an upstream is asked only if it has lately answered: it may be in the gateway's own network, and it
//! may be as far away as the cloud. The client, with the system's authorities, is made when it is first needed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{Error, Settings};
use crate::oci::{Client, ClientSettings, Credentials, Error as OciError, Upstream, canonical_host};

/// How long an upstream that could not be reached is left alone.
const REST: Duration = Duration::from_secs(15);
/// How long an answer proves, while the cloud is away, that an upstream is not.
const PROOF: Duration = Duration::from_secs(60);
/// A name that no registry has: any answer to it, a refusal too, is a sign of life.
const NOBODY: &str = "edge-probe";

/// A handle on all of them; cheap to clone.
#[derive(Clone)]
pub struct Sources(Arc<Inner>);

struct Inner {
    /// By host.
    upstreams: HashMap<String, Source>,
    client: OnceLock<Result<Client, String>>,
    settings: Mutex<ClientSettings>,
    /// Authorities of single upstreams, by host.
    own: Vec<(String, Vec<Vec<u8>>)>,
    online: AtomicBool,
}

struct Source {
    upstream: Upstream,
    judged: Mutex<Judged>,
}

#[derive(Default)]
struct Judged {
    /// Until when it is left alone.
    rests: Option<Instant>,
    answered: Option<Instant>,
    probing: bool,
}

impl Sources {
    /// Reads the files that settings name; dials nobody.
    ///
    /// # Errors
    /// Where a file cannot be read, or is not what it should be.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let Files { settings: client, own } = Files::read(settings, None)?;
        let rows = if settings.pull_through { &settings.upstreams[..] } else { &[] };
        let source = |upstream: Upstream| Source { upstream, judged: Mutex::default() };
        let upstreams = rows.iter().map(|row| row.upstream());
        Ok(Self(Arc::new(Inner {
            upstreams: upstreams.map(|upstream| (upstream.host.clone(), source(upstream))).collect(),
            client: OnceLock::new(),
            settings: Mutex::new(client),
            own,
            online: AtomicBool::new(true),
        })))
    }

    /// The client for all of them.
    ///
    /// # Errors
    /// Where a certificate cannot be used.
    pub fn client(&self) -> Result<&Client, String> {
        let made = self.0.client.get_or_init(|| {
            let settings =
                std::mem::take(&mut *self.0.settings.lock().unwrap_or_else(PoisonError::into_inner));
            made_of(settings, &self.0.own).map_err(|e| e.to_string())
        });
        made.as_ref().map_err(Clone::clone)
    }

    /// Says whether the cloud is there.
    pub fn set_online(&self, online: bool) {
        self.0.online.store(online, Ordering::Relaxed);
    }

    /// The upstream of a repository and the repository's path there, if one is configured.
    pub fn of<'a>(&self, repository: &'a str) -> Option<(Upstream, &'a str)> {
        let (host, path) = repository.split_once('/')?;
        Some((self.0.upstreams.get(host)?.upstream.clone(), path))
    }

    /// The same, if it may be asked now.
    pub fn ready<'a>(&self, repository: &'a str) -> Option<(Upstream, &'a str)> {
        let (host, path) = repository.split_once('/')?;
        let source = self.0.upstreams.get(host)?;
        let mut judged = source.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if judged.rests.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let proven = judged.answered.is_some_and(|at| at.elapsed() < PROOF);
        if self.0.online.load(Ordering::Relaxed) || proven {
            return Some((source.upstream.clone(), path));
        }
        // Answered with "not here" at once; whoever asks again finds out.
        if !std::mem::replace(&mut judged.probing, true) {
            let (sources, upstream) = (self.clone(), source.upstream.clone());
            tokio::spawn(async move { sources.probe(&upstream).await });
        }
        None
    }

    /// Whether any of `repositories` has an upstream that may be asked now; the first of them.
    pub fn first_ready<'a>(&self, repositories: &'a [String]) -> Option<&'a String> {
        repositories.iter().find(|repository| self.ready(repository).is_some())
    }

    /// Notes how asking an upstream went.
    pub fn note<T>(&self, upstream: &Upstream, result: &Result<T, OciError>) {
        match result {
            Ok(_) => self.judge(upstream, None, Some(Instant::now())),
            Err(error) => self.failed(upstream, error),
        }
    }

    /// Notes that asking an upstream failed; that it has no such thing is an answer too.
    pub fn failed(&self, upstream: &Upstream, error: &OciError) {
        let now = Instant::now();
        match error {
            OciError::RateLimited { wait, .. } => {
                tracing::warn!(upstream = upstream.host, seconds = wait.as_secs(), "rate limited: waiting");
                self.judge(upstream, Some(now + *wait), None);
            }
            error if error.is_unreachable() => self.judge(upstream, Some(now + REST), None),
            _ => self.judge(upstream, None, Some(now)),
        }
    }

    fn judge(&self, upstream: &Upstream, rests: Option<Instant>, answered: Option<Instant>) {
        if let Some(source) = self.0.upstreams.get(&upstream.host) {
            let mut judged = source.judged.lock().unwrap_or_else(PoisonError::into_inner);
            (judged.rests, judged.answered) = (rests, answered);
        }
    }

    async fn probe(&self, upstream: &Upstream) {
        if let Ok(client) = self.client() {
            let asked = client.head_manifest(upstream, NOBODY, NOBODY).await;
            self.note(upstream, &asked);
        }
        if let Some(source) = self.0.upstreams.get(&upstream.host) {
            source.judged.lock().unwrap_or_else(PoisonError::into_inner).probing = false;
        }
    }
}

/// What the files that settings name hold.
struct Files {
    settings: ClientSettings,
    /// Authorities of single upstreams, by host.
    own: Vec<(String, Vec<Vec<u8>>)>,
}

impl Files {
    /// Reads them; `credentials` take the place of those that are configured.
    fn read(settings: &Settings, credentials: Option<Credentials>) -> Result<Self, Error> {
        let credentials = match (credentials, &settings.docker_config) {
            (Some(given), _) => given,
            (None, Some(path)) => {
                super::secret::check(path)?;
                Credentials::read(path).map_err(Error::Credentials)?
            }
            (None, None) => Credentials::default(),
        };
        let mut authorities = Vec::new();
        for path in &settings.authorities {
            authorities.extend(certificates(path)?);
        }
        let mut own = Vec::new();
        for row in &settings.upstreams {
            if let Some(path) = &row.ca {
                own.push((canonical_host(&row.host).to_owned(), certificates(path)?));
            }
        }
        let (proxy, no_proxy) = (settings.proxy.clone(), settings.no_proxy.clone());
        Ok(Self { settings: ClientSettings { credentials, authorities, proxy, no_proxy }, own })
    }
}

fn made_of(settings: ClientSettings, own: &[(String, Vec<Vec<u8>>)]) -> Result<Client, OciError> {
    let mut client = Client::new(settings)?;
    for (host, authorities) in own {
        client.trust_also(host, authorities)?;
    }
    Ok(client)
}

/// A client for a command that speaks to registries itself, with the authorities, the proxy and the credentials that
/// are configured; `credentials` take the place of the last.
///
/// # Errors
/// As for [`Sources::new`].
pub fn client(settings: &Settings, credentials: Option<Credentials>) -> Result<Client, Error> {
    let Files { settings, own } = Files::read(settings, credentials)?;
    made_of(settings, &own).map_err(Error::Client)
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let content = |why: String| Error::Content { path: path.to_owned(), why };
    let text = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let read: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(&text)
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|e| content(format!("is no PEM file of certificates: {e}")))?;
    if read.is_empty() {
        return Err(content("holds no certificate hint: it must be PEM".into()));
    }
    Ok(read)
}
