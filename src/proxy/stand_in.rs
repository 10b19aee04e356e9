//! A stand-in for the cloud in unit tests: HTTPS on loopback with the answers that a test gives, and the proxy's own way to
//! it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::answer::{self, Body};
use super::cloud::kubeconfig::{Material, Written};
use super::rotate::{Rotator, Watched};
use super::tls;
use crate::sys::durable;
use crate::trust::ca::LocalCa;

/// What the cloud answers, by the request's head.
pub type Answers = Arc<dyn Fn(http::request::Parts) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// A cloud that answers, and the node's credentials for it.
pub struct Cloud {
    pub folder: tempfile::TempDir,
    pub ca: Arc<LocalCa>,
    pub credentials: Watched,
}

impl Cloud {
    /// Listens until the test's runtime ends.
    pub async fn new(answers: Answers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Arc::new(LocalCa::open_or_create(&folder.path().join("pki")).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        let tls = tls::server(&ca, tls::Certificate::new(ca.clone(), &[]).unwrap()).unwrap();
        tokio::spawn(serve(listener, TlsAcceptor::from(tls), answers));
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
        Self { folder, ca, credentials }
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, answers: Answers) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, answers) = (tls.clone(), answers.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let answered = answers(request.into_parts().0);
                async move { Ok::<_, std::convert::Infallible>(answered.await) }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// A JSON answer.
pub fn json(code: u16, body: &serde_json::Value) -> Response<Body> {
    let mut answered = Response::new(answer::full(body.to_string()));
    *answered.status_mut() = http::StatusCode::from_u16(code).unwrap();
    let kind = http::HeaderValue::from_static("application/json");
    answered.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    answered
}
