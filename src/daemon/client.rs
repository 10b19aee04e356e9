//! Asks the running daemon through its control socket.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::Report;
use super::control::{Asked, Line};
use super::lent;
use super::task::{Task, TaskError};
use crate::sys::pass;
use crate::sys::progress::Event;
use crate::sys::service::Service;

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot reach the daemon at `{socket}`: {source} hint: {hint}")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
        /// What to do.
        hint: String,
    },
    /// The exchange broke off.
    #[error("the daemon at `{socket}` broke off: {why}")]
    Exchange {
        /// The socket.
        socket: PathBuf,
        /// Why.
        why: String,
    },
    /// A file that the task names cannot be handed to it.
    #[error(transparent)]
    File(io::Error),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// Bytes of an answer at the most.
const LIMIT: usize = 16 << 20;
/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the daemon says of itself.
///
/// # Errors
/// [`ClientError`].
pub async fn ask_status(socket: &Path) -> Result<Report, ClientError> {
    let body = ask(socket, Method::GET, "/v1/status", String::new()).await?;
    serde_json::from_slice(&body)
        .map_err(|e| ClientError::Exchange { socket: socket.to_owned(), why: e.to_string() })
}

/// Has the daemon read its configuration anew and apply it.
///
/// # Errors
/// [`ClientError::Refused`] with the daemon's line.
pub async fn ask_reload(socket: &Path) -> Result<(), ClientError> {
    ask(socket, Method::POST, "/v1/reload", String::new()).await.map(|_| ())
}

/// Has the daemon keep a configuration, an `edge.toml`, until snapd has committed the same values.
///
/// # Errors
/// [`ClientError::Refused`] with the daemon's line.
pub async fn ask_prepare(socket: &Path, text: String) -> Result<(), ClientError> {
    ask(socket, Method::POST, "/v1/config/prepare", text).await.map(|_| ())
}

/// Has the daemon look at once at what it looks at now and then: more may be reached than before.
///
/// # Errors
/// [`ClientError`].
pub async fn ask_look(socket: &Path) -> Result<(), ClientError> {
    ask(socket, Method::POST, "/v1/look", String::new()).await.map(|_| ())
}

/// Has the daemon put on disk what is only queued.
///
/// # Errors
/// [`ClientError`].
pub async fn ask_checkpoint(socket: &Path) -> Result<(), ClientError> {
    ask(socket, Method::POST, "/v1/checkpoint", String::new()).await.map(|_| ())
}

/// The commands that the daemon is doing for somebody.
///
/// # Errors
/// [`ClientError`].
pub async fn ask_busy(socket: &Path) -> Result<Vec<String>, ClientError> {
    let body = ask(socket, Method::GET, "/v1/busy", String::new()).await?;
    serde_json::from_slice(&body)
        .map_err(|e| ClientError::Exchange { socket: socket.to_owned(), why: e.to_string() })
}

/// The state folder that the daemon holds.
///
/// # Errors
/// [`ClientError`]; [`ClientError::Refused`] by an older daemon.
pub async fn ask_state_dir(socket: &Path) -> Result<PathBuf, ClientError> {
    let body = ask(socket, Method::GET, "/v1/state-dir", String::new()).await?;
    serde_json::from_slice(&body)
        .map_err(|e| ClientError::Exchange { socket: socket.to_owned(), why: e.to_string() })
}

/// Has the daemon do a task; `hear` is told its progress. The daemon calls the task off when the
/// returned future is dropped.
///
/// # Errors
/// [`ClientError`]; within it, what the task itself came to.
pub async fn ask_task(
    socket: &Path,
    task: &Task,
    mut hear: impl FnMut(Event),
) -> Result<Result<Value, TaskError>, ClientError> {
    let broke = |why: String| ClientError::Exchange { socket: socket.to_owned(), why };
    let (lent, handles) = lent::offer(task).map_err(ClientError::File)?;
    let asked = Asked { task: task.clone(), lent: Some(lent) };
    let body = serde_json::to_vec(&asked).map_err(|e| broke(e.to_string()))?;
    let answer = send(socket, Method::POST, "/v1/task", body, &handles).await?;
    if answer.status() != StatusCode::OK {
        return Err(ClientError::Refused(text(socket, answer).await?));
    }
    let mut body = answer.into_body();
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| broke(e.to_string()))?;
        pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            match serde_json::from_slice(&line).map_err(|e| broke(e.to_string()))? {
                Line::Said(event) => hear(event),
                Line::Ended(outcome) => return Ok(outcome),
            }
        }
    }
    Err(broke("it ended before the task did; `edge status` says how it is".into()))
}

async fn ask(socket: &Path, method: Method, path: &str, body: String) -> Result<Vec<u8>, ClientError> {
    let late = || ClientError::Exchange {
        socket: socket.to_owned(),
        why: format!("no answer within {} s", PATIENCE.as_secs()),
    };
    let exchange = async {
        let answer = send(socket, method, path, body.into_bytes(), &[]).await?;
        let code = answer.status();
        let text = text(socket, answer).await?;
        if code == StatusCode::OK { Ok(text.into_bytes()) } else { Err(ClientError::Refused(text)) }
    };
    tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| late())?
}

async fn text(socket: &Path, answer: Response<Incoming>) -> Result<String, ClientError> {
    let read = Limited::new(answer.into_body(), LIMIT).collect().await;
    let body =
        read.map_err(|e| ClientError::Exchange { socket: socket.to_owned(), why: e.to_string() })?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
    handles: &[OwnedFd],
) -> Result<Response<Incoming>, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| ClientError::Connect {
        socket: socket.to_owned(),
        hint: match source.kind() {
            io::ErrorKind::PermissionDenied => "run as root".to_owned(),
            _ => format!("is it running? try `{}`", Service::Edge.status()),
        },
        source,
    })?;
    let broke = |why: String| ClientError::Exchange { socket: socket.to_owned(), why };
    pass::send(&stream, handles).await.map_err(|e| broke(e.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| broke(e.to_string()))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "edge")
        .body(Full::new(bytes::Bytes::from(body)))
        .map_err(|e| broke(e.to_string()))?;
    sender.send_request(request).await.map_err(|e| broke(e.to_string()))
}
