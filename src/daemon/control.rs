//! The control socket: HTTP over a Unix socket that only root can open.
//!
//! GET /v1/status gives a [`Report`](super::Report); POST /v1/reload reads the configuration anew and
//! answers 200, or 422 with one line; POST /v1/config/prepare keeps one until snapd has committed it, likewise. POST
//! /v1/look has it look at once at what it looks at now and then; POST /v1/checkpoint puts on disk what is queued; GET
//! /v1/busy names the commands that the daemon is doing, and GET /v1/state-dir the folder that it holds. POST /v1/task
//! does a [`Task`] given as JSON, to whose files the connection may have brought handles, and answers with one [`Line`]
//! of JSON after the other: what is said of its progress, then how it ended. Whoever hangs up before the end calls the
//! task off.

use std::io::Cursor;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

use super::Order;
use super::lent::{Lent, Offer};
use super::report::Facts;
use super::task::{self, Place, Task, TaskError};
use crate::sys::pass;
use crate::sys::progress::Event;

/// An answer's body.
type Body = BoxBody<Bytes, std::convert::Infallible>;

/// The most bytes of a task: more than a command line can name files.
const TASK: usize = 16 << 20;

/// A task and what is known of the files that it names.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Asked {
    /// What is to be done.
    #[serde(flatten)]
    pub task: Task,
    /// Left out by an edge that lends nothing.
    #[serde(default)]
    pub(super) lent: Option<Offer>,
}

/// A line of the answer to a task.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// How far it is.
    Said(Event),
    /// What came of it; nothing follows.
    Ended(Result<serde_json::Value, TaskError>),
}

impl Line {
    /// The same with paths as whoever asked gave them.
    fn of(self, lent: Option<&Lent>) -> Self {
        let Some(lent) = lent else { return self };
        match self {
            Self::Said(event) => Self::Said(lent.event(event)),
            Self::Ended(Ok(done)) => Self::Ended(Ok(lent.value(done))),
            Self::Ended(Err(error)) => Self::Ended(Err(lent.error(error))),
        }
    }
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
            if let Err(error) = converse(stream, doors).await {
                tracing::debug!(error, "a control connection ended early");
            }
        });
    }
}

/// Answers what is asked on one connection.
async fn converse(stream: UnixStream, doors: Arc<Doors>) -> Result<(), String> {
    let (first, handles) = pass::receive(&stream).await.map_err(|e| e.to_string())?;
    let handles = Arc::new(Mutex::new(handles));
    let service = service_fn(move |request| {
        let (doors, handles) = (doors.clone(), handles.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(&doors, &handles, request).await) }
    });
    let (read, write) = stream.into_split();
    let stream = tokio::io::join(Cursor::new(first).chain(read), write);
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    serving.await.map_err(|e| e.to_string())
}

pub(super) async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn answer(doors: &Doors, handles: &Mutex<Vec<OwnedFd>>, request: Request<Incoming>) -> Response<Body> {
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
        (&Method::POST, "/v1/look") => order(doors, Order::Look).await,
        (&Method::POST, "/v1/checkpoint") => order(doors, Order::Checkpoint).await,
        (&Method::GET, "/v1/busy") => {
            let busy = doors.place.at_work();
            respond(StatusCode::OK, serde_json::to_vec(&busy).unwrap_or_default())
        }
        // Not what the file says today, which waits for the next start.
        (&Method::GET, "/v1/state-dir") => match serde_json::to_vec(&doors.place.config().state_dir) {
            Ok(body) => respond(StatusCode::OK, body),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
        },
        (&Method::POST, "/v1/task") => {
            let body = Limited::new(request.into_body(), TASK).collect().await.map(|body| body.to_bytes());
            let read = body.map_err(|e| e.to_string());
            match read.and_then(|body| serde_json::from_slice(&body).map_err(|e| e.to_string())) {
                Ok(Asked { mut task, lent }) => {
                    let handles =
                        std::mem::take(&mut *handles.lock().unwrap_or_else(PoisonError::into_inner));
                    match lent.map_or(Ok(None), |offer| Lent::take(offer, handles, &mut task)) {
                        Ok(lent) => perform(task, doors.place.clone(), lent.map(Arc::new)),
                        Err(why) => respond(StatusCode::UNPROCESSABLE_ENTITY, why.into_bytes()),
                    }
                }
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
fn perform(task: Task, place: Arc<Place>, lent: Option<Arc<Lent>>) -> Response<Body> {
    let (lines, mut read) = mpsc::channel::<Line>(16);
    tokio::spawn(async move {
        let reader = lines.clone();
        let command = task.command();
        let work = async {
            let told = async |line: Line| drop(lines.send(line.of(lent.as_deref())).await);
            let done = task::run_heard(task, &place, |event| told(Line::Said(event))).await;
            told(Line::Ended(done)).await;
        };
        tokio::select! {
            () = place.doing(command, lent.clone(), work) => {}
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
