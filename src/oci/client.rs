//! The client of upstream registries: manifests, blobs, tags, with tokens, redirects and resumption.
//!
//! Credentials go to the registry that they are for and the token server it names, never along a redirect, nor to whom
//! the target of one names.
//! Plain HTTP is spoken to loopback, or where it was allowed for that upstream.

mod ask;
mod fetch;
mod files;
mod limit;
mod pages;
mod push;
mod token;

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use reqwest::Url;

use super::Credentials;

use ask::About;
pub use fetch::{FetchedBlob, FetchedManifest, HeadManifest};
pub use files::{FetchedFile, Site, proxy_fault};
pub use limit::RateLimit;

const CONNECT: Duration = Duration::from_secs(5);
/// The longest that nothing comes of an answer, or that nothing is taken of what is sent.
const READ: Duration = Duration::from_secs(30);
/// The longest wait for the answer to a blob that was sent whole: many registries copy it to where it stays first.
const ANSWER: Duration = Duration::from_secs(600);
const REDIRECTS: usize = 5;

/// A registry to fetch from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// What images call it, `docker.io`.
    pub host: String,
    /// Where it is, `https://registry-1.docker.io`.
    pub url: String,
    /// Plain HTTP is allowed even where it is not on loopback.
    pub insecure: bool,
}

impl Upstream {
    /// The registry at `host` itself: over plain HTTP if it is on loopback, else over HTTPS.
    pub fn of_host(host: &str) -> Self {
        Self::at(host, false)
    }

    /// The registry at `host`, over plain HTTP if it is on loopback or `insecure`.
    pub fn at(host: &str, insecure: bool) -> Self {
        let host = super::canonical_host(host);
        let server = if host == "docker.io" { "registry-1.docker.io" } else { host };
        let scheme = if insecure || is_loopback(host) { "http" } else { "https" };
        Self { host: host.into(), url: format!("{scheme}://{server}"), insecure }
    }

    /// What is below its address, as people are told.
    fn told(&self, resource: &str) -> String {
        let url = Url::parse(&format!("{}{resource}", self.url.trim_end_matches('/')));
        url.map_or_else(|_| resource.to_owned(), |url| clean(&url))
    }
}

/// Whether `host[:port]` is this machine.
fn is_loopback(host: &str) -> bool {
    let url = Url::parse(&format!("http://{host}"));
    url.is_ok_and(|url| allowed(&url, false).is_ok())
}

/// What the client needs to know.
#[derive(Clone, Debug, Default)]
pub struct ClientSettings {
    /// What to show to whom.
    pub credentials: Credentials,
    /// Certificates of authorities (DER) that are trusted beside the system's.
    pub authorities: Vec<Vec<u8>>,
    /// The proxy that requests to other machines go through, `http://proxy:3128`.
    pub proxy: Option<String>,
    /// Hosts, domains and networks that are asked without it, parted by commas.
    pub no_proxy: Option<String>,
}

/// Why an upstream did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no such thing.
    #[error("`{0}` is not there")]
    NotFound(String),
    /// It wants another credential.
    #[error("`{0}` is refused hint: give a credential for this registry in docker's config.json")]
    Unauthorized(String),
    /// It has had enough of us.
    #[error("`{url}` is rate limited for {} s", wait.as_secs())]
    RateLimited {
        /// What was asked for.
        url: String,
        /// When to come again.
        wait: Duration,
    },
    /// No answer.
    #[error("cannot reach `{url}`: {why}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// An answer that is of no use.
    #[error("`{url}` answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// What came is not what its digest says.
    #[error("`{url}` is not what its digest says")]
    Digest {
        /// What was asked for.
        url: String,
    },
    /// More came than is taken.
    #[error("`{url}` is larger than {most} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The most, in bytes.
        most: u64,
    },
    /// A list of more than is taken.
    #[error("`{url}` lists more than {most} {of} hint: name them in `exact`")]
    TooLong {
        /// What was asked for.
        url: String,
        /// The most.
        most: usize,
        /// Of what.
        of: &'static str,
    },
    /// It would have to be asked in the clear.
    #[error("`{0}` is not https hint: allow plain HTTP for this upstream if it is in your own network")]
    Insecure(String),
    /// The client itself cannot be set up.
    #[error("cannot set up the client of registries: {0}")]
    Setup(String),
}

impl Error {
    /// Whether the upstream could not be asked at all, so that it need not be asked again at once.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::RateLimited { .. } => true,
            Self::Status { status, .. } => status.is_server_error(),
            _ => false,
        }
    }

    /// Whether an upstream that does not want to go on from some byte may want to from the first: what it said is about
    /// the range, or may be.
    pub fn begins_anew(&self) -> bool {
        use http::StatusCode as S;
        let about = [
            S::BAD_REQUEST,
            S::METHOD_NOT_ALLOWED,
            S::PRECONDITION_FAILED,
            S::RANGE_NOT_SATISFIABLE,
            S::PARTIAL_CONTENT,
        ];
        matches!(self, Self::Status { status, .. } if about.contains(status))
    }
}

/// Fetches from upstream registries. One for the whole process.
pub struct Client {
    http: Http,
    /// Clients of hosts that have authorities of their own.
    own: HashMap<String, Http>,
    settings: ClientSettings,
    tokens: Mutex<HashMap<ask::Key, token::Token>>,
    limits: limit::Limits,
    helpers: super::helper::Helpers,
}

impl Client {
    /// Sets up TLS with the system's authorities and those given.
    ///
    /// # Errors
    /// [`Error::Setup`] for a certificate that cannot be read.
    pub fn new(settings: ClientSettings) -> Result<Self, Error> {
        let http = Http::new(&settings, &[], READ, ANSWER)?;
        Ok(Self {
            http,
            own: HashMap::new(),
            settings,
            tokens: Mutex::default(),
            limits: Default::default(),
            helpers: Default::default(),
        })
    }

    /// From now on the registry `host`, and no other, may have a certificate of these authorities (DER) too.
    ///
    /// # Errors
    /// [`Error::Setup`] for a certificate that cannot be read.
    pub fn trust_also(&mut self, host: &str, authorities: &[Vec<u8>]) -> Result<(), Error> {
        let http = Http::new(&self.settings, authorities, READ, ANSWER)?;
        self.own.insert(super::canonical_host(host).to_owned(), http);
        Ok(())
    }

    fn http(&self, upstream: &Upstream) -> &reqwest::Client {
        &self.way(upstream).asks
    }

    fn way(&self, upstream: &Upstream) -> &Http {
        self.own.get(&upstream.host).unwrap_or(&self.http)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// How servers are reached, and for how long they are waited for.
struct Http {
    asks: reqwest::Client,
    /// For blobs that are sent: how long the answer takes is counted from the request's begin by the other, however much
    /// there is to send.
    sends: reqwest::Client,
    /// The longest wait for an answer after all was sent.
    answer: Duration,
}

impl Http {
    fn new(
        settings: &ClientSettings,
        more: &[Vec<u8>],
        read: Duration,
        answer: Duration,
    ) -> Result<Self, Error> {
        let tls = tls(settings, more)?;
        let build = |builder: reqwest::ClientBuilder| builder.build().map_err(|e| Error::Setup(chain(&e)));
        let asks = build(http_client(settings, tls.clone())?.read_timeout(read))?;
        // The system knows best whether bytes move: it ends a connection on which the other side takes none.
        let sends = build(http_client(settings, tls)?.tcp_user_timeout(read))?;
        Ok(Self { asks, sends, answer })
    }
}

fn tls(settings: &ClientSettings, more: &[Vec<u8>]) -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore::empty();
    // A system without certificates can still mirror from registries whose authority is given.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for authority in settings.authorities.iter().chain(more) {
        roots.add(authority.clone().into()).map_err(|e| Error::Setup(format!("a given authority: {e}")))?;
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Setup(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn http_client(
    settings: &ClientSettings,
    tls: rustls::ClientConfig,
) -> Result<reqwest::ClientBuilder, Error> {
    let mut builder = reqwest::Client::builder().no_proxy();
    if let Some(proxy) = &settings.proxy {
        builder = builder.proxy(files::proxy(proxy, settings.no_proxy.as_deref())?);
    }
    Ok(builder
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .pool_idle_timeout(Duration::from_secs(60))
        .user_agent(concat!("edge/", env!("CARGO_PKG_VERSION"))))
}

/// Plain HTTP only to loopback, unless it was allowed.
fn allowed(url: &Url, insecure: bool) -> Result<(), Error> {
    let loopback = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if loopback || insecure => Ok(()),
        _ => Err(Error::Insecure(clean(url))),
    }
}

/// An address without what may be secret in it: signed redirects carry tokens in the query.
pub fn clean(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    // Neither fails for an address with a host, and others are not asked.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

fn checked(response: reqwest::Response, url: &str) -> Result<reqwest::Response, Error> {
    let url = url.to_owned();
    match response.status() {
        status if status.is_success() => Ok(response),
        StatusCode::NOT_FOUND => Err(Error::NotFound(url)),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::Unauthorized(url)),
        StatusCode::TOO_MANY_REQUESTS => {
            Err(Error::RateLimited { url, wait: retry_after(response.headers()) })
        }
        status => Err(Error::Status { url, status }),
    }
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let value = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let seconds = value.trim().parse::<u64>().ok().or_else(|| {
        let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
        u64::try_from(at.as_second() - crate::sys::clock::now().as_second()).ok()
    });
    Duration::from_secs(seconds.unwrap_or(60).clamp(1, 24 * 3600))
}

fn unreachable(error: &reqwest::Error, url: &Url) -> Error {
    Error::Unreachable { url: clean(url), why: chain(&error) }
}

/// An error with its causes, less the address that reqwest puts into each.
fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_asked_in_the_clear_without_being_told() {
        for (host, url) in [
            ("docker.io", "https://registry-1.docker.io"),
            ("quay.io:8443", "https://quay.io:8443"),
            ("127.0.0.1:5001", "http://127.0.0.1:5001"),
            ("localhost", "http://localhost"),
            ("[::1]:5001", "http://[::1]:5001"),
            ("localhost.example.com", "https://localhost.example.com"),
        ] {
            assert_eq!(Upstream::of_host(host).url, url);
        }
        assert_eq!(Upstream::at("q.io", true).url, "http://q.io");
    }
}
