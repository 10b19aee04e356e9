//! One JSON request to the API server and its answer, for edge's own few questions (certificates).
//!
//! Not for kubelet's traffic: every request has its own connection, a deadline and a size cap. Bodies
//! are never logged; an error carries what was asked and the server's own message.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::cloud::{self, Credentials, Identity, Protocols};
use super::resolve::Resolver;

/// How long a whole exchange may take, dialling included.
const DEADLINE: Duration = Duration::from_secs(30);
/// How large an answer may be. A signing request with its certificate is a few KiB.
const MOST_BYTES: usize = 4 << 20;

/// Why there is no answer, or not the one hoped for.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error("cannot reach `{address}`")]
    Dial { address: String, source: std::io::Error },
    #[error("no TLS with `{address}`")]
    Tls { address: String, source: std::io::Error },
    #[error("{method} `{path}` at `{address}`: the connection broke off")]
    Exchange { method: Method, path: String, address: String, source: hyper::Error },
    #[error("{method} `{path}` at `{address}`: no answer within {} seconds", DEADLINE.as_secs())]
    Deadline { method: Method, path: String, address: String },
    #[error("{method} `{path}`: the answer is larger than {MOST_BYTES} bytes, or broke off")]
    Body { method: Method, path: String },
    #[error("{method} `{path}`: {status}: {message}")]
    Refused { method: Method, path: String, status: StatusCode, message: String },
    #[error("{method} `{path}`: the answer is not JSON hint: is this address an API server?")]
    NotJson { method: Method, path: String },
    #[error("cannot write the request {method} `{path}`")]
    Request { method: Method, path: String, source: http::Error },
    #[error(transparent)]
    Credentials(#[from] cloud::Error),
}

impl Error {
    /// The status that the server answered with, if it answered.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether another try may go better: the server was not reached, or is not well.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Dial { .. } | Self::Exchange { .. } | Self::Deadline { .. } | Self::Body { .. } => true,
            Self::Tls { source, .. } => source.get_ref().is_none_or(|e| !e.is::<rustls::Error>()),
            Self::NotJson { .. } | Self::Request { .. } | Self::Credentials(_) => false,
        }
    }
}

/// The API server, as seen with one set of credentials: its certificate, else its token.
#[derive(Debug, Clone)]
pub struct Api {
    credentials: Arc<Credentials>,
    tls: Arc<rustls::ClientConfig>,
}

impl Api {
    /// Dials nothing yet.
    ///
    /// # Errors
    /// Material that TLS refuses.
    pub fn new(credentials: Arc<Credentials>) -> Result<Self, Error> {
        let tls = credentials.tls(Identity::Node, Protocols::Http1)?;
        Ok(Self { credentials, tls })
    }

    /// `path` such as `/api/v1/nodes/a`.
    ///
    /// # Errors
    /// See [`Error`]; any status but 2xx is one.
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.exchange(Method::GET, path, None).await
    }

    /// Posts `object` as JSON.
    ///
    /// # Errors
    /// See [`Error`]; any status but 2xx is one.
    pub async fn post(&self, path: &str, object: &Value) -> Result<Value, Error> {
        self.exchange(Method::POST, path, Some(object)).await
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let (asked, address) = (method.clone(), self.address());
        match tokio::time::timeout(DEADLINE, self.exchange_at_leisure(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Deadline { method: asked, path: path.into(), address }),
        }
    }

    async fn exchange_at_leisure(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Error> {
        let stream = self.connect().await?;
        let broken = |source| Error::Exchange {
            method: method.clone(),
            path: path.into(),
            address: self.address(),
            source,
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = self.request(&method, path, body)?;
        // Both ends in this task: when the caller goes away, so does the connection.
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let bytes = Limited::new(response.into_body(), MOST_BYTES)
                .collect()
                .await
                .map_err(|_| Error::Body { method: method.clone(), path: path.into() })?
                .to_bytes();
            read_answer(&method, path, status, &bytes)
        };
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            done = &mut answer => done,
            ended = connection => { ended.map_err(broken)?; answer.await }
        }
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
        let failed = |source| Error::Dial { address: self.address(), source };
        let (host, port) = self.credentials.address();
        let found = Resolver.resolve(host).await.map_err(|e| failed(std::io::Error::other(e)))?;
        let addresses: Vec<SocketAddr> = found.into_iter().map(|ip| SocketAddr::from((ip, port))).collect();
        let stream = TcpStream::connect(addresses.as_slice()).await.map_err(failed)?;
        TlsConnector::from(self.tls.clone())
            .connect(self.credentials.server_name.clone(), stream)
            .await
            .map_err(|source| Error::Tls { address: self.address(), source })
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let (host, port) = self.credentials.address();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let prefix = self.credentials.server.path().trim_end_matches('/');
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{prefix}{path}"))
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close")
            .header(header::USER_AGENT, concat!("edge/", env!("CARGO_PKG_VERSION")));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let (None, Some(token)) = (&self.credentials.client, &self.credentials.token) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let bytes = body.map(|object| Bytes::from(object.to_string())).unwrap_or_default();
        request.body(Full::new(bytes)).map_err(|source| Error::Request {
            method: method.clone(),
            path: path.into(),
            source,
        })
    }

    fn address(&self) -> String {
        self.credentials.server.authority().map(ToString::to_string).unwrap_or_default()
    }
}

fn read_answer(method: &Method, path: &str, status: StatusCode, bytes: &[u8]) -> Result<Value, Error> {
    let object: Option<Value> = serde_json::from_slice(bytes).ok();
    if status.is_success() {
        return object.ok_or_else(|| Error::NotJson { method: method.clone(), path: path.into() });
    }
    // A Status object (meta/v1) from the API server, anything at all from what stands before it.
    let message = object.as_ref().and_then(|o| o.get("message")).and_then(Value::as_str);
    let message = message.unwrap_or("the answer carries no message").chars().take(300).collect();
    Err(Error::Refused { method: method.clone(), path: path.into(), status, message })
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
