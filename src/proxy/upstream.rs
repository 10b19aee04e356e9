//! Connections to the cloud: few, shared, and gone at once when the link is.
//!
//! HTTP/2 carries everything on as few connections as its stream limit allows, which is what makes
//! an idle node cheap on a link that is paid by the byte; HTTP/1.1 serves clouds without it, and
//! upgrades.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::answer;
use super::cloud::{self, Credentials, Identity, Known, Lost, Protocols};
use super::pool::{Connection, Place, Pool, STREAMS};
use super::resolve::Resolver;
pub use super::unanswered::UpstreamError;
use super::{fate, genuine, socket};
use crate::link::{Patience, Silence};

/// A request body on its way up.
pub type UpBody = UnsyncBoxBody<bytes::Bytes, BodyError>;
/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// TCP and TLS together, where the link is not known to be slower.
const CONNECT: Duration = Duration::from_secs(4);
/// The same over a link that is, by satellite for instance, and where nobody waits for it.
const SLOW_CONNECT: Duration = Duration::from_secs(20);
/// A sign of life that nobody waits for, connection included.
const SLOW_PROBE: Duration = Duration::from_secs(30);
/// Time before a connection that nobody waits for is tried once more beside: the link may have come back since the last
/// packet of the first, or with another address.
const AGAIN: Duration = Duration::from_secs(5);
/// Bytes of a refused probe that are read at the most.
const REFUSAL: usize = 64 << 10;
/// Connections that are tried with a request that none of them takes.
const CONNECTIONS: u32 = 3;

/// Bytes of one answer that wait for a client. Of a connection all its streams may wait: were it less, a few clients
/// that do not read would keep the answers of all others from coming.
const WINDOW: u32 = 512 << 10;

/// With whose name a request goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    /// The node: its client certificate.
    Node,
    /// Whoever the request's own Authorization header names; no certificate.
    Bearer,
}

/// What a probe makes of an API server that does not take the node for who it is.
pub const REFUSED: &str = "the cloud refuses the node's credentials";

/// The way to the cloud; one for the daemon.
#[derive(Debug)]
pub struct Upstream {
    /// The cloud's clock when it answered a probe last, in seconds since 1970; 0 for never.
    cloud_time: AtomicI64,
    /// Milliseconds that a connection takes to be made: the less of the last two, since one may have been slow by itself.
    handshake: AtomicU64,
    /// The same of the last one alone.
    last_handshake: AtomicU64,
    resolver: Resolver,
    target: Mutex<Result<Arc<Target>, Arc<Lost>>>,
}

/// The cloud with one set of credentials; replaced as a whole when they change.
#[derive(Debug)]
struct Target {
    credentials: Arc<Credentials>,
    node: Way,
    bearer: Way,
}

/// Connections under one name, and how they are made.
#[derive(Debug)]
struct Way {
    tls: Arc<rustls::ClientConfig>,
    /// For connections that are to be upgraded, which HTTP/2 cannot be.
    tls_http1: Arc<rustls::ClientConfig>,
    pool: Pool,
}

impl Upstream {
    /// A way to the cloud that `credentials` name; none as long as they are lost.
    ///
    /// # Errors
    /// When the credentials do not make a TLS client.
    pub fn new(credentials: Known, resolver: Resolver) -> Result<Self, cloud::Error> {
        Ok(Self {
            cloud_time: AtomicI64::new(0),
            handshake: AtomicU64::new(0),
            last_handshake: AtomicU64::new(0),
            resolver,
            target: Mutex::new(Target::of(credentials)?),
        })
    }

    /// Uses other credentials from now on; what is under way ends with the old ones.
    ///
    /// # Errors
    /// When they do not make a TLS client; the old ones stay in use.
    pub fn replace_credentials(&self, credentials: Known) -> Result<(), cloud::Error> {
        let new = Target::of(credentials)?;
        if let Ok(mut target) = self.target.lock() {
            *target = new;
        }
        Ok(())
    }

    /// Gives up every connection; new requests make new ones.
    pub fn reset(&self) {
        if let Ok(target) = self.target() {
            target.node.pool.clear();
            target.bearer.pool.clear();
        }
    }

    /// The name of this node, also where its credentials are lost.
    pub fn node_name(&self) -> Option<String> {
        match &*self.target.lock().ok()? {
            Ok(target) => target.credentials.node_name().map(str::to_owned),
            Err(lost) => Some(lost.node.clone()),
        }
    }

    fn target(&self) -> Result<Arc<Target>, UpstreamError> {
        let target = self.target.lock().map_err(|_| UpstreamError::LinkLost)?;
        target.clone().map_err(|lost| UpstreamError::Lost(lost.why.clone()))
    }

    /// Sends a request; `request` has only a path and query, the cloud's address is added here.
    ///
    /// # Errors
    /// [`UpstreamError`]; whether the cloud saw the request is not known then, but for
    /// [`UpstreamError::is_unprocessed`].
    pub async fn send(
        &self,
        who: As,
        request: Request<UpBody>,
    ) -> Result<(Response<Incoming>, Place), UpstreamError> {
        self.send_noting(who, request, &AtomicBool::new(false)).await
    }

    /// As [`Upstream::send`]; `sent` is set once the cloud may have the request, also for whoever waits no longer.
    ///
    /// # Errors
    /// As there.
    pub async fn send_noting(
        &self,
        who: As,
        mut request: Request<UpBody>,
        sent: &AtomicBool,
    ) -> Result<(Response<Incoming>, Place), UpstreamError> {
        let target = self.target()?;
        request = target.address_to(request);
        let (uri, host) = (request.uri().clone(), request.headers().get(http::header::HOST).cloned());
        for _ in 0..CONNECTIONS {
            let (connection, mut place) =
                target.pool(who).connection(|| self.open(&target, who, self.slow(CONNECT))).await?;
            *request.uri_mut() = uri.clone();
            sent.store(true, Ordering::Relaxed);
            let answered = match connection {
                Connection::Two { mut sender, .. } => {
                    *request.version_mut() = http::Version::HTTP_2;
                    request.headers_mut().remove(http::header::HOST);
                    sender.try_send_request(request).await
                }
                Connection::One { .. } => {
                    host.iter().for_each(|host| {
                        request.headers_mut().insert(http::header::HOST, host.clone());
                    });
                    let Some(sender) = place.sender() else {
                        sent.store(false, Ordering::Relaxed);
                        return Err(UpstreamError::LinkLost);
                    };
                    sender.try_send_request(origin_form(request)).await
                }
            };
            let mut failed = match answered {
                Ok(answer) => return Ok((answer, place)),
                Err(failed) => failed,
            };
            match failed.take_message() {
                // The connection was at its end, which nobody had looked at since; nothing of this was sent.
                Some(unsent) => {
                    sent.store(false, Ordering::Relaxed);
                    request = unsent;
                }
                None => {
                    return Err(UpstreamError::Http {
                        address: target.address(),
                        source: failed.into_error(),
                    });
                }
            }
        }
        Err(UpstreamError::LinkLost)
    }

    /// Sends a request that may turn its connection into something else, on one of its own.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn send_upgrade(
        &self,
        who: As,
        request: Request<UpBody>,
    ) -> Result<(Response<Incoming>, Place), UpstreamError> {
        let target = self.target()?;
        let request = origin_form(target.address_to(request));
        let stream = self.dial(&target, target.way(who).tls_http1.clone(), self.slow(CONNECT)).await?;
        socket::keep_alive(stream.get_ref().0);
        let failed = |source| UpstreamError::Http { address: target.address(), source };
        let (mut sender, connection) =
            http1::handshake::<_, UpBody>(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(connection.with_upgrades());
        let answer = sender.send_request(request).await.map_err(failed)?;
        Ok((answer, Place::own()))
    }

    /// A connection that was just made, for a probe that must not trust an old one; the pool uses it
    /// from then on, and no new request goes over those before it.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn renew(&self, who: As, patience: Patience) -> Result<(), UpstreamError> {
        let target = self.target()?;
        let connection = match patience {
            Patience::Short => self.open(&target, who, self.slow(CONNECT)).await?,
            Patience::Long => self.open_again_and_again(&target, who).await?,
        };
        target.pool(who).replace(connection);
        Ok(())
    }

    /// The first of several tries that ends.
    async fn open_again_and_again(&self, target: &Target, who: As) -> Result<Connection, UpstreamError> {
        let mut tries = FuturesUnordered::new();
        loop {
            tries.push(self.open(target, who, SLOW_CONNECT));
            tokio::select! {
                Some(tried) = tries.next() => return tried,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// How long something may take over this link for which elsewhere `usual` is enough: four times what a connection
    /// takes to be made, which is two round trips and more.
    pub fn slow(&self, usual: Duration) -> Duration {
        let takes = Duration::from_millis(self.handshake.load(Ordering::Relaxed));
        usual.max((takes * 4).min(SLOW_CONNECT))
    }

    /// Asks for a sign of life over a connection made for it. Only an answer that the API server itself
    /// gives to this node counts: not a load balancer's 503 or page, nor a refusal of the node's credentials.
    ///
    /// # Errors
    /// Why there was none.
    pub async fn probe(&self, who: As, patience: Patience) -> Result<(), Silence> {
        let limit = match patience {
            Patience::Short => self.slow(CONNECT) * 3 / 2,
            Patience::Long => SLOW_PROBE,
        };
        let silence = |error: UpstreamError| match error {
            UpstreamError::ConnectTimeout { .. } => Silence::Late(error.to_string()),
            _ => Silence::Told(error.to_string()),
        };
        let exchange = async {
            self.renew(who, patience).await.map_err(silence)?;
            let mut request = Request::new(answer::full(bytes::Bytes::new()));
            *request.uri_mut() = http::Uri::from_static("/readyz");
            let (answer, _place) = self.send(who, request).await.map_err(silence)?;
            let (head, body) = answer.into_parts();
            let code = head.status;
            if genuine::is_open(code, &head.headers) || genuine::is_portal(code, &head.headers) {
                let body = Limited::new(body, REFUSAL).collect().await.map(Collected::to_bytes);
                if genuine::is_strange(code, &head.headers, &fate::value(&body.unwrap_or_default())) {
                    return Err(Silence::Told(format!("what stands before the cloud answers {code}")));
                }
            }
            match code {
                http::StatusCode::UNAUTHORIZED => Err(Silence::Told(REFUSED.to_owned())),
                code if code.is_server_error() => Err(Silence::Told(format!("the cloud answers {code}"))),
                _ => {
                    self.note_time(&head.headers);
                    Ok(())
                }
            }
        };
        let late = |_| Silence::Late(format!("no answer within {} s", limit.as_secs()));
        tokio::time::timeout(limit, exchange).await.map_err(late)?
    }

    /// The cloud's clock when it answered a probe last.
    pub fn cloud_time(&self) -> Option<jiff::Timestamp> {
        match self.cloud_time.load(Ordering::Relaxed) {
            0 => None,
            seconds => jiff::Timestamp::from_second(seconds).ok(),
        }
    }

    fn note_time(&self, headers: &http::HeaderMap) {
        if let Some(seconds) = date(headers) {
            self.cloud_time.store(seconds, Ordering::Relaxed);
        }
    }

    async fn open(&self, target: &Target, who: As, limit: Duration) -> Result<Connection, UpstreamError> {
        let stream = self.dial(target, target.way(who).tls.clone(), limit).await?;
        let failed = |source| UpstreamError::Http { address: target.address(), source };
        let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if !two {
            socket::keep_alive(stream.get_ref().0);
            let (sender, connection) =
                http1::handshake::<_, UpBody>(TokioIo::new(stream)).await.map_err(failed)?;
            tokio::spawn(connection);
            return Ok(Connection::one(sender));
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(u32::from(STREAMS) * WINDOW)
            .max_frame_size(1 << 16)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(false)
            .handshake::<_, UpBody>(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        tokio::spawn(connection);
        Ok(Connection::two(sender))
    }

    async fn dial(
        &self,
        target: &Target,
        tls: Arc<rustls::ClientConfig>,
        limit: Duration,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, UpstreamError> {
        let (address, begun) = (target.address(), tokio::time::Instant::now());
        let late = UpstreamError::ConnectTimeout { address: address.clone(), limit };
        let connect = async {
            let tcp = self.connect(target).await?;
            let name = target.credentials.server_name.clone();
            let failed = |source| UpstreamError::Tls { address: address.clone(), source };
            TlsConnector::from(tls).connect(name, tcp).await.map_err(failed)
        };
        let stream = tokio::time::timeout(limit, connect).await.unwrap_or(Err(late))?;
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let usual = match self.last_handshake.swap(took, Ordering::Relaxed) {
            0 => took,
            before => took.min(before),
        };
        self.handshake.store(usual, Ordering::Relaxed);
        Ok(stream)
    }

    async fn connect(&self, target: &Target) -> Result<TcpStream, UpstreamError> {
        let (host, port) = target.credentials.address();
        let addresses = self
            .resolver
            .resolve(host)
            .await
            .map_err(|source| UpstreamError::Resolve { host: host.to_owned(), source })?;
        socket::connect(addresses, port)
            .await
            .map_err(|source| UpstreamError::Connect { address: target.address(), source })
    }
}

/// The Date header, in seconds since 1970.
fn date(headers: &http::HeaderMap) -> Option<i64> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second())
}

impl Target {
    fn of(credentials: Known) -> Result<Result<Arc<Self>, Arc<Lost>>, cloud::Error> {
        match credentials {
            Known::Good(credentials) => Ok(Ok(Arc::new(Self::new(credentials)?))),
            Known::Lost(lost) => Ok(Err(lost)),
        }
    }

    fn new(credentials: Arc<Credentials>) -> Result<Self, cloud::Error> {
        let pool = |identity| {
            Ok::<_, cloud::Error>(Way {
                tls: credentials.tls(identity, Protocols::Any)?,
                tls_http1: credentials.tls(identity, Protocols::Http1)?,
                pool: Pool::default(),
            })
        };
        let (node, bearer) = (pool(Identity::Node)?, pool(Identity::Bearer)?);
        Ok(Self { credentials, node, bearer })
    }

    fn way(&self, who: As) -> &Way {
        match who {
            As::Node => &self.node,
            As::Bearer => &self.bearer,
        }
    }

    fn pool(&self, who: As) -> &Pool {
        &self.way(who).pool
    }

    fn address(&self) -> String {
        let (host, port) = self.credentials.address();
        format!("{host}:{port}")
    }

    /// Puts the cloud's address, and the path it lives under, before the request's path.
    fn address_to(&self, mut request: Request<UpBody>) -> Request<UpBody> {
        let server = &self.credentials.server;
        let base = server.path().trim_end_matches('/');
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let authority = server.authority().map_or_else(String::new, ToString::to_string);
        if let Ok(uri) = format!("https://{authority}{base}{path}").parse() {
            *request.uri_mut() = uri;
        }
        if let Ok(host) = authority.parse() {
            request.headers_mut().insert(http::header::HOST, host);
        }
        request
    }
}

/// HTTP/1.1 wants only the path on its request line.
fn origin_form(mut request: Request<UpBody>) -> Request<UpBody> {
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = path.into();
    }
    *request.version_mut() = http::Version::HTTP_11;
    request
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
