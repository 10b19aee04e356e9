//! One client as a kubelet is: HTTP/2 over TLS, one connection kept open, protobuf. Speaks to the cloud or to edge by
//! the kubeconfig it is given, and runs wherever the thread that makes it stands.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use edge::proxy::cloud::{Credentials, Identity, Protocols};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// What kubelet says: the sender may choose.
const EITHER: &str = "application/vnd.kubernetes.protobuf,application/json";
/// Objects under way at once while a stage is set.
const AT_ONCE: usize = 16;

/// A connection; clones share it.
#[derive(Clone)]
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    base: String,
}

/// Runs `work` on this thread, sockets in this thread's network.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

impl Client {
    /// Connects as the user of a kubeconfig, with its certificate.
    pub async fn connect(kubeconfig: &str) -> Result<Self> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), kubeconfig)?;
        let credentials = Credentials::read(file.path())?;
        let (host, port) = credentials.address();
        let tcp = tokio::net::TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        let tls: Arc<_> = credentials.tls(Identity::Node, Protocols::Any)?;
        let stream = TlsConnector::from(tls).connect(credentials.server_name.clone(), tcp).await?;
        ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "no HTTP/2 at {host}:{port}");
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Self { sender, base: format!("https://{host}:{port}") })
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: Bytes) -> Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("accept", EITHER)
            .header("content-type", kind)
            .body(Full::new(body))?;
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        ensure!(answer.status().is_success(), "{path} was answered {}", answer.status());
        Ok(answer)
    }

    /// A GET, read to its end; the bytes of the body.
    pub async fn get(&self, path: &str) -> Result<usize> {
        let mut body = self.send(Method::GET, path, PROTOBUF, Bytes::new()).await?.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }

    /// A watch, open; its events are the frames of the body.
    pub async fn watch(&self, path: &str) -> Result<Incoming> {
        Ok(self.send(Method::GET, path, PROTOBUF, Bytes::new()).await?.into_body())
    }

    /// POST of an object in JSON.
    pub async fn create(&self, path: &str, object: &serde_json::Value) -> Result<()> {
        let body = object.to_string().into();
        let answer = self.send(Method::POST, path, "application/json", body).await?;
        answer.into_body().collect().await?;
        Ok(())
    }

    /// A merge patch.
    pub async fn patch(&self, path: &str, patch: &serde_json::Value) -> Result<()> {
        let body = patch.to_string().into();
        let answer = self.send(Method::PATCH, path, "application/merge-patch+json", body).await?;
        answer.into_body().collect().await?;
        Ok(())
    }

    /// POST of many objects, some at once.
    pub async fn create_all(
        &self,
        path: &str,
        objects: impl Iterator<Item = serde_json::Value>,
    ) -> Result<()> {
        let mut under_way = JoinSet::new();
        for object in objects {
            if under_way.len() >= AT_ONCE {
                under_way.join_next().await.context("none under way")???;
            }
            let (client, path) = (self.clone(), path.to_owned());
            under_way.spawn(async move { client.create(&path, &object).await });
        }
        while let Some(done) = under_way.join_next().await {
            done??;
        }
        Ok(())
    }
}

/// Reads a watch until nothing has come for `quiet`; fails when it ends, with its last word.
pub async fn drain(watch: &mut Incoming, quiet: Duration) -> Result<()> {
    let mut last = Bytes::new();
    while let Ok(frame) = tokio::time::timeout(quiet, watch.frame()).await {
        let ended = || format!("the watch ended: {}", String::from_utf8_lossy(&last).escape_debug());
        let frame = frame.with_context(ended)??;
        // The last frame of an answer may be an empty one.
        last = frame.into_data().ok().filter(|data| !data.is_empty()).unwrap_or(last);
    }
    Ok(())
}
