//! A stand-in for the cloud in unit tests: HTTPS on loopback with the answers that a test gives, the proxy's own way
//! to it, and the proxy before it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::answer::{self, Body};
use super::cloud::kubeconfig::{Material, Written};
use super::guests::Limits;
use super::rotate::{Rotator, Watched};
use super::statuses::PodIdentity;
use super::{Parts, Proxy, tls};
use crate::cache::{Cache, TokenKey};
use crate::link;
use crate::sys::durable;
use crate::trust::ca::LocalCa;

/// What the cloud answers, by the request's head.
pub type Answers = Arc<dyn Fn(http::request::Parts) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// A cloud that answers, and the node's credentials for it.
pub struct Cloud {
    pub folder: tempfile::TempDir,
    pub ca: Arc<LocalCa>,
    pub credentials: Watched,
    /// Connections that were made to it.
    pub dials: Arc<AtomicUsize>,
    /// A change ends all connections as an API server does: no new requests, and the open ones go on.
    pub parting: watch::Sender<u64>,
}

impl Cloud {
    /// Listens until the test's runtime ends.
    pub async fn new(answers: Answers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Arc::new(LocalCa::open_or_create(&folder.path().join("pki")).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        let tls = tls::server(&ca, tls::Certificate::new(ca.clone(), &[]).unwrap()).unwrap();
        let (dials, parting) = (Arc::<AtomicUsize>::default(), watch::Sender::new(0));
        tokio::spawn(serve(listener, TlsAcceptor::from(tls), answers, dials.clone(), parting.clone()));
        let node = ca.issue_client("system:node:a", "system:nodes").unwrap();
        let text = Written {
            cluster: "cloud",
            user: "a",
            server: &server,
            tls_server_name: None,
            authority: Material::Inline(ca.ca_pem().into()),
            certificate: Material::Inline(node.chain.into()),
            key: Material::Inline(node.key.into()),
        }
        .text();
        let path = folder.path().join("cloud.kubeconfig");
        durable::write(&path, text.as_bytes(), 0o600).unwrap();
        let (_, credentials) = Rotator::new(&path, folder.path()).unwrap();
        Self { folder, ca, credentials, dials, parting }
    }
}

/// An answer with this extension is none: its stream breaks off instead.
#[derive(Clone)]
pub struct Break;

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    answers: Answers,
    dials: Arc<AtomicUsize>,
    parting: watch::Sender<u64>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        dials.fetch_add(1, Ordering::Relaxed);
        let (tls, answers, mut parts) = (tls.clone(), answers.clone(), parting.subscribe());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let answered = answers(request.into_parts().0);
                async move {
                    let answered = answered.await;
                    let breaks = answered.extensions().get::<Break>().is_some();
                    if breaks { Err(std::io::Error::other("it broke")) } else { Ok(answered) }
                }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            let serving = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
            tokio::pin!(serving);
            tokio::select! {
                _ = serving.as_mut() => return,
                _ = parts.changed() => serving.as_mut().graceful_shutdown(),
            }
            let _ = serving.await;
        });
    }
}

/// The proxy before a cloud, as its clients find it.
pub struct Door {
    pub proxy: Proxy,
    address: SocketAddr,
    tls: rustls::ClientConfig,
    _stop: watch::Sender<bool>,
}

impl Door {
    /// Serves until it is dropped, with the link online, after a daemon that has kept all.
    pub async fn new(cloud: &Cloud, limits: Limits, offline_mode: bool) -> Self {
        let cache = Cache::open(cloud.folder.path(), cloud.folder.path()).unwrap().cache;
        cache.note_end().await.unwrap();
        Self::over(cloud, cache, limits, offline_mode).await
    }

    /// The same over a cache of which nobody knows whether it is whole.
    pub async fn over(cloud: &Cloud, cache: Cache, limits: Limits, offline_mode: bool) -> Self {
        let answering = cache.clone();
        let parts = Parts {
            cache,
            credentials: cloud.credentials.clone(),
            ca: cloud.ca.clone(),
            probe_interval: Duration::from_secs(60),
            offline_mode,
            in_cluster: None,
            clients: Default::default(),
        };
        let (proxy, owner) = Proxy::new(parts).await.unwrap();
        answering.note_begin().await.unwrap();
        tokio::spawn(owner.run());
        assert!(link::online(&mut proxy.shared.link.follow()).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let serving = proxy.clone();
        tokio::spawn(async move { serving.serve_at(listener, limits, None, stopped).await });
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cloud.ca.ca_der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { proxy, address, tls, _stop: stop }
    }

    async fn dial(&self, protocol: &[u8]) -> std::io::Result<TokioIo<TlsStream<TcpStream>>> {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![protocol.to_vec()];
        let name = "127.0.0.1".try_into().unwrap();
        let stream = TcpStream::connect(self.address).await?;
        Ok(TokioIo::new(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?))
    }

    /// A connection of a client that has place for as little as HTTP/2 allows at first.
    pub async fn two(&self) -> http2::SendRequest<Full<Bytes>> {
        let stream = self.dial(b"h2").await.unwrap();
        let mut client = http2::Builder::new(TokioExecutor::new());
        client.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        let (sender, connection) = client.handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// The same of HTTP/1.1.
    ///
    /// # Errors
    /// It is turned away.
    pub async fn one(&self) -> Result<http1::SendRequest<Full<Bytes>>, Box<dyn std::error::Error>> {
        let (sender, connection) = http1::handshake(self.dial(b"http/1.1").await?).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// A request with a bearer token.
    pub fn request(&self, method: &str, path: &str, token: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.address))
            .header(http::header::HOST, self.address.to_string())
            .header(http::header::AUTHORIZATION, format!("Bearer {token}"))
            .header(http::header::ACCEPT, "application/json")
    }
}

/// Nothing to send.
pub fn empty() -> Full<Bytes> {
    Full::new(Bytes::new())
}

/// A JSON answer.
pub fn json(code: u16, body: &serde_json::Value) -> Response<Body> {
    let mut answered = Response::new(answer::full(body.to_string()));
    *answered.status_mut() = http::StatusCode::from_u16(code).unwrap();
    let kind = http::HeaderValue::from_static("application/json");
    answered.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    answered
}

/// An object in protobuf as a newer Kubernetes writes it: with a field that is in no table.
pub fn newer(object: &serde_json::Value) -> Bytes {
    let plain = crate::kube::codec::encode(object).unwrap();
    let (prefix, mut rest) = plain.split_at(4);
    let mut newer = prefix.to_vec();
    while let [tag, after @ ..] = rest {
        let digits = after.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let len = after[..digits].iter().rev().fold(0, |len, byte| len << 7 | usize::from(byte & 0x7f));
        let (part, left) = after[digits..].split_at(len);
        let is_object = *tag == 0x12;
        let part = [part, if is_object { b"\x9a\x06\x01x".as_slice() } else { b"" }].concat();
        newer.push(*tag);
        newer.extend([(part.len() & 0x7f) as u8 | 0x80, (part.len() >> 7) as u8]);
        newer.extend(part);
        rest = left;
    }
    newer.into()
}

/// What kubelet was answered to a TokenRequest for the pod of `identity`, for an audience or, where that is empty, none.
pub fn pod_token(identity: &str, audience: &str) -> (TokenKey, Vec<u8>) {
    let pod = PodIdentity::of(identity).unwrap();
    let claims = serde_json::json!({"iss": "cluster", "sub": identity, "aud": [audience]}).to_string();
    let token = format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims));
    let key = TokenKey {
        namespace: pod.namespace,
        account: pod.account,
        audiences: audience.to_owned(),
        expiration: 3600,
        bound: format!("Pod/{}", pod.uid),
    };
    (key, serde_json::json!({"status": {"token": token}}).to_string().into_bytes())
}
