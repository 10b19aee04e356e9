//! Accepting connections: plain on loopback, TLS elsewhere; draining at the end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Response};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::places::{Limits, Places};
use super::reply::Body;
use super::sendfile::{FileStream, Outgoing};
use super::{Error, Identity, Registry, Settings};

/// How long requests under way may take once the end was asked for.
const DRAIN: Duration = Duration::from_secs(10);
/// How often uses are written.
const NOTE_USES: Duration = Duration::from_secs(600);
/// How long what a client sends is taken after the answer that ends its connection.
const LINGER: Duration = Duration::from_secs(2);
/// How long a client may take to send its head.
const HEAD: Duration = Duration::from_secs(30);

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// From this machine, to an address that only this machine has.
    pub(super) loopback: bool,
}

impl Registry {
    /// Waits until nobody was connected, and nothing was fetched, for `period`.
    pub async fn idle(&self, period: Duration) {
        self.inner.awake.idle(period).await;
    }

    /// Sets what connections may take up.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        // The first ones count.
        let _ = self.inner.limits.set(limits);
        self
    }

    /// Serves on `listener` until `end` is done, then lets requests under way finish for a while. `first` is a
    /// connection that was accepted before.
    ///
    /// # Errors
    /// [`Error::NeedsTls`] for an address that others can reach, without a certificate.
    pub async fn serve(
        self,
        listener: TcpListener,
        mut first: Option<TcpStream>,
        end: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let address = listener.local_addr().map_err(Error::Listen)?;
        let tls = acceptor(&self.inner.settings, self.inner.identity.as_ref())?;
        if tls.is_none() && !address.ip().is_loopback() {
            return Err(Error::NeedsTls(address));
        }
        let limits = *self.inner.limits.get_or_init(Limits::default);
        let places = Places::new(limits);
        let (ending, watching) = watch::channel(());
        let mut end = std::pin::pin!(end);
        let noting = tokio::spawn(note_uses(self.inner.store.clone()));
        loop {
            let accepted = tokio::select! {
                () = &mut end => break,
                Some(first) = async { first.take() } => Ok(first),
                accepted = listener.accept() => accepted.map(|(stream, _)| stream),
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    // Out of descriptors or memory: some connection ends soon.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Accepted before there is a place: only where somebody waits must another go.
            let free = tokio::select! {
                () = &mut end => break,
                free = places.free() => free,
            };
            let Some(free) = free else { break };
            let (registry, tls, watching) = (self.clone(), tls.clone(), watching.clone());
            places.run(free, self.inner.awake.stay(), move |life| async move {
                if let Err(error) = tune(&stream, limits) {
                    tracing::debug!(%error, "a connection ended at once");
                    return;
                }
                let outgoing = Arc::new(Outgoing::default());
                let loopback = stream.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
                let (socket, ended) = (Arc::new(stream), watching.clone());
                let stream = FileStream::new(socket.clone(), outgoing.clone(), life);
                let peer = Peer { loopback };
                match registry.connection((stream, outgoing), peer, tls, watching).await {
                    Ok(()) if ended.has_changed().is_ok_and(|ending| !ending) => linger(&socket).await,
                    Ok(()) => {}
                    Err(error) => tracing::debug!(%error, "a connection ended early"),
                }
            });
        }
        noting.abort();
        drop((listener, watching));
        // Every connection holds a receiver; the channel is closed when the last one ended.
        let _ = ending.send(());
        let _ = tokio::time::timeout(DRAIN, ending.closed()).await;
        let store = self.inner.store.clone();
        let flushed = tokio::task::spawn_blocking(move || store.flush_used()).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "what was used last is not noted: `registry.size-limit` may let the wrong images go");
        }
        Ok(())
    }

    async fn connection(
        self,
        (stream, outgoing): (FileStream, Arc<Outgoing>),
        peer: Peer,
        tls: Option<TlsAcceptor>,
        mut ending: watch::Receiver<()>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if let Some(tls) = tls {
            let stream = tokio::time::timeout(HEAD, tls.accept(stream)).await.map_err(io::Error::from)??;
            let service = service_fn(move |request| {
                let registry = self.clone();
                async move { Ok::<_, Infallible>(marked(registry.answer(request, peer).await)) }
            });
            let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                result = connection.as_mut() => return result,
                _ = ending.changed() => connection.as_mut().graceful_shutdown(),
            }
            return connection.await;
        }
        let service = service_fn(move |request| {
            let (registry, outgoing) = (self.clone(), outgoing.clone());
            async move {
                let response = marked(registry.answer(request, peer).await);
                Ok::<_, Infallible>(response.map(|body| body.sent_by(&outgoing)))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .writev(true)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            result = connection.as_mut() => return Ok(result?),
            _ = ending.changed() => connection.as_mut().graceful_shutdown(),
        }
        Ok(connection.await?)
    }
}

/// Answers leave at once, and the kernel ends a connection whose other side takes nothing: it sees each byte that is
/// acknowledged, where a timer here would see only that there is room in a buffer of megabytes.
fn tune(stream: &TcpStream, limits: Limits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stalled = u32::try_from(limits.stalled.as_millis()).unwrap_or(u32::MAX);
    Ok(nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::TcpUserTimeout, &stalled)?)
}

/// Takes what a client goes on to send that was refused before it had sent all: the kernel answers what nobody reads
/// with a reset, upon which the client may never see why it was refused. The other direction is closed already.
async fn linger(socket: &TcpStream) {
    let rest = async {
        let mut passed = vec![0; 64 << 10];
        while socket.readable().await.is_ok() {
            match socket.try_read(&mut passed) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    };
    // Whoever has more than that to send has had time to look.
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// Writes what was used, now and then rather than each time, to spare flash.
async fn note_uses(store: crate::store::Store) {
    loop {
        tokio::time::sleep(NOTE_USES).await;
        let store = store.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.flush_used()).await {
            tracing::warn!(%error, "cannot note what was used");
        }
    }
}

fn marked(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(
        HeaderName::from_static("docker-distribution-api-version"),
        HeaderValue::from_static("registry/2.0"),
    );
    response
}

/// Whether a certificate that settings name can be served with.
pub(super) fn check(settings: &Settings) -> Result<(), Error> {
    let named = Settings { local_certificate: false, ..settings.clone() };
    acceptor(&named, None).map(drop)
}

/// How TLS is spoken, if it is: with the certificate that settings name, or with the local one.
fn acceptor(settings: &Settings, local: Option<&Identity>) -> Result<Option<TlsAcceptor>, Error> {
    let identity = match (&settings.tls_certificate, &settings.tls_key) {
        (Some(certificate), Some(key)) => {
            super::secret::check(key)?;
            let read = |path: &std::path::PathBuf| {
                std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.clone(), source })
            };
            Identity { chain: read(certificate)?, key: read(key)? }
        }
        _ => match local.filter(|_| settings.local_certificate) {
            Some(local) => local.clone(),
            None if settings.local_certificate => return Err(Error::Tls("there is no local one".into())),
            None => return Ok(None),
        },
    };
    let failed = |e: &dyn std::fmt::Display| Error::Tls(e.to_string());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(identity.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| failed(&e))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|e| failed(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Tls(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| Error::Tls(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}
