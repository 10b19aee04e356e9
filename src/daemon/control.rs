//! The control socket: HTTP over a Unix socket that only root can open.
//!
//! GET /v1/status gives a [`Report`](super::Report); POST /v1/reload reads the configuration anew and
//! answers 200, or 422 with one line.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::Order;
use super::report::Facts;

/// Serves until `stop` holds true.
pub async fn serve(
    listener: UnixListener,
    facts: Arc<Facts>,
    orders: mpsc::Sender<Order>,
    mut stop: watch::Receiver<bool>,
) -> &'static str {
    loop {
        let accepted = tokio::select! {
            () = told(&mut stop) => return "control socket",
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            continue;
        };
        let (facts, orders) = (facts.clone(), orders.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (facts, orders) = (facts.clone(), orders.clone());
                async move { Ok::<_, std::convert::Infallible>(answer(&facts, &orders, &request).await) }
            });
            let serving =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = serving.await {
                tracing::debug!(%error, "a control connection ended early");
            }
        });
    }
}

async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn answer(
    facts: &Facts,
    orders: &mpsc::Sender<Order>,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/status") => match serde_json::to_vec(&facts.report().await) {
            Ok(body) => respond(StatusCode::OK, body),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
        },
        (&Method::POST, "/v1/reload") => {
            let (reply, done) = oneshot::channel();
            let sent = orders.send(Order::Reload(reply)).await.is_ok();
            match done.await {
                Ok(Ok(())) if sent => respond(StatusCode::OK, Vec::new()),
                Ok(Err(why)) => respond(StatusCode::UNPROCESSABLE_ENTITY, why.into_bytes()),
                _ => respond(StatusCode::SERVICE_UNAVAILABLE, b"the daemon is stopping".to_vec()),
            }
        }
        _ => respond(StatusCode::NOT_FOUND, b"no such order".to_vec()),
    }
}

fn respond(code: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    response
}
