//! The control socket: HTTP over a Unix socket that only root can open.
//!
//! GET /v1/status gives a [`Report`](super::Report); POST /v1/reload reads the configuration anew and
//! answers 200, or 422 with one line; POST /v1/config/prepare keeps one until snapd has committed it, likewise. POST
//! /v1/checkpoint puts on disk what is queued; GET /v1/busy names the commands that the daemon is doing. POST /v1/task
//! does a [`Task`] given as JSON and answers with one [`Line`] of JSON after the other: what is said of its progress,
//! then how it ended. Whoever hangs up before the end calls the task off.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::Order;
use super::report::Facts;
use super::task::{self, Place, Task, TaskError};
use crate::sys::progress::Event;

/// An answer's body.
type Body = BoxBody<Bytes, std::convert::Infallible>;

/// The most bytes of a task.
const TASK: usize = 1 << 20;

/// A line of the answer to a task.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// How far it is.
    Said(Event),
    /// What came of it; nothing follows.
    Ended(Result<serde_json::Value, TaskError>),
}

/// What the socket gives access to.
pub struct Doors {
    pub facts: Facts,
    pub orders: mpsc::Sender<Order>,
    pub place: Arc<Place>,
}

/// Serves until `stop` holds true.
pub async fn serve(
    listener: UnixListener,
    doors: Arc<Doors>,
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
        let doors = doors.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let doors = doors.clone();
                async move { Ok::<_, std::convert::Infallible>(answer(&doors, request).await) }
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

async fn answer(doors: &Doors, request: Request<Incoming>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/status") => match serde_json::to_vec(&doors.facts.report().await) {
            Ok(body) => respond(StatusCode::OK, body),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
        },
        (&Method::POST, "/v1/reload") => order(doors, Order::Reload).await,
        (&Method::POST, "/v1/config/prepare") => {
            let body = Limited::new(request.into_body(), TASK).collect().await.map(|body| body.to_bytes());
            match body
                .map_err(|e| e.to_string())
                .and_then(|body| String::from_utf8(body.into()).map_err(|e| e.to_string()))
            {
                Ok(text) => order(doors, |reply| Order::Prepare(text, reply)).await,
                Err(why) => respond(StatusCode::BAD_REQUEST, why.into_bytes()),
            }
        }
        (&Method::POST, "/v1/checkpoint") => order(doors, Order::Checkpoint).await,
        (&Method::GET, "/v1/busy") => {
            let busy = doors.place.at_work();
            respond(StatusCode::OK, serde_json::to_vec(&busy).unwrap_or_default())
        }
        (&Method::POST, "/v1/task") => {
            let body = Limited::new(request.into_body(), TASK).collect().await.map(|body| body.to_bytes());
            let read = body.map_err(|e| e.to_string());
            match read.and_then(|body| serde_json::from_slice(&body).map_err(|e| e.to_string())) {
                Ok(task) => perform(task, doors.place.clone()),
                Err(why) => respond(StatusCode::BAD_REQUEST, why.into_bytes()),
            }
        }
        _ => respond(StatusCode::NOT_FOUND, b"no such order".to_vec()),
    }
}

/// Has the daemon's own task do something, and answers with its word.
async fn order(
    doors: &Doors,
    make: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Order,
) -> Response<Body> {
    let (reply, done) = oneshot::channel();
    let sent = doors.orders.send(make(reply)).await.is_ok();
    match done.await {
        Ok(Ok(())) if sent => respond(StatusCode::OK, Vec::new()),
        Ok(Err(why)) => respond(StatusCode::UNPROCESSABLE_ENTITY, why.into_bytes()),
        _ => respond(StatusCode::SERVICE_UNAVAILABLE, b"the daemon is stopping".to_vec()),
    }
}

/// Does the task while its progress is read.
fn perform(task: Task, place: Arc<Place>) -> Response<Body> {
    let (lines, mut read) = mpsc::channel::<Line>(16);
    tokio::spawn(async move {
        let reader = lines.clone();
        let command = task.command();
        let work = async {
            let told = async |line| drop(lines.send(line).await);
            let done = task::run_heard(task, &place, |event| told(Line::Said(event))).await;
            told(Line::Ended(done)).await;
        };
        tokio::select! {
            () = place.doing(command, work) => {}
            () = reader.closed() => tracing::info!("a task was called off"),
        }
    });
    let frames = futures_util::stream::poll_fn(move |cx| {
        read.poll_recv(cx).map(|line| {
            let mut text = serde_json::to_vec(&line?).unwrap_or_default();
            text.push(b'\n');
            Some(Ok(Frame::data(Bytes::from(text))))
        })
    });
    Response::new(StreamBody::new(frames).boxed())
}

fn respond(code: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = code;
    response
}
