//! Asks the running daemon through its control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::Report;

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
        hint: &'static str,
    },
    /// The exchange broke off.
    #[error("the daemon at `{socket}` broke off: {why}")]
    Exchange {
        /// The socket.
        socket: PathBuf,
        /// Why.
        why: String,
    },
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
    let body = ask(socket, Method::GET, "/v1/status").await?;
    serde_json::from_slice(&body)
        .map_err(|e| ClientError::Exchange { socket: socket.to_owned(), why: e.to_string() })
}

/// Has the daemon read its configuration anew and apply it.
///
/// # Errors
/// [`ClientError::Refused`] with the daemon's line.
pub async fn ask_reload(socket: &Path) -> Result<(), ClientError> {
    ask(socket, Method::POST, "/v1/reload").await.map(|_| ())
}

async fn ask(socket: &Path, method: Method, path: &str) -> Result<Vec<u8>, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| ClientError::Connect {
        socket: socket.to_owned(),
        hint: match source.kind() {
            io::ErrorKind::PermissionDenied => "run as root",
            _ => "is it running? try `systemctl status edge`",
        },
        source,
    })?;
    let broke = |why: String| ClientError::Exchange { socket: socket.to_owned(), why };
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broke(e.to_string()))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "edge")
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|e| broke(e.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|e| broke(e.to_string()))?;
        let code = answer.status();
        let body =
            Limited::new(answer.into_body(), LIMIT).collect().await.map_err(|e| broke(e.to_string()))?;
        Ok((code, body.to_bytes().to_vec()))
    };
    let late = || broke(format!("no answer within {} s", PATIENCE.as_secs()));
    let (code, body) = tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| late())??;
    if code == StatusCode::OK {
        return Ok(body);
    }
    Err(ClientError::Refused(String::from_utf8_lossy(&body).into_owned()))
}
