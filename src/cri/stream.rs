//! The streams of a command in a container: a WebSocket to the runtime's streaming server, with Kubernetes' channels
//! (`v5.channel.k8s.io`, or `v4` where the runtime is older).

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Uri;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::Error;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
const V5: &str = "v5.channel.k8s.io";
const PROTOCOLS: &str = "v5.channel.k8s.io, v4.channel.k8s.io";

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The near ends of the streams. An absent one is not connected, and must not have been asked of CRI either.
pub struct Streams<I, O, E> {
    /// What the command reads.
    pub stdin: Option<I>,
    /// Where its output goes.
    pub stdout: O,
    /// Where its errors go; with a terminal there are none.
    pub stderr: E,
    /// The terminal's size at first and whenever it changes.
    pub sizes: mpsc::Receiver<Size>,
}

/// Runs the command that waits at `url`, which CRI gave out, and returns its exit code.
///
/// # Errors
/// [`Error::Stream`] where the streaming server cannot be used, [`Error::Broken`] where the connection ends before the
/// command does or a near end fails, [`Error::Failed`] where the command could not be started.
pub async fn run<I, O, E>(url: &str, deadline: Duration, streams: Streams<I, O, E>) -> Result<i32, Error>
where
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let (socket, version_5) = connect(url, deadline).await?;
    let (mut sink, mut source) = socket.split();
    let Streams { mut stdin, mut stdout, mut stderr, mut sizes } = streams;
    let mut buffer = vec![0; 32 << 10];
    let mut sized = true;
    loop {
        tokio::select! {
            message = source.next() => {
                let Some(message) = message else { return Err(broken("it ended before the command did")) };
                let data = match message.map_err(|e| broken(&e.to_string()))? {
                    Message::Binary(data) => data,
                    Message::Text(text) => Bytes::from(text),
                    Message::Close(_) => return Err(broken("the runtime closed it before the command ended")),
                    _ => continue,
                };
                match data.split_first() {
                    Some((&STDOUT, data)) => near(&mut stdout, data).await?,
                    Some((&STDERR, data)) => near(&mut stderr, data).await?,
                    Some((&STATUS, data)) if !data.is_empty() => {
                        // Nothing more is awaited; that the runtime hears of it is a courtesy.
                        let _ = sink.send(Message::Close(None)).await;
                        return exit_code(data);
                    }
                    _ => {}
                }
            }
            read = read(&mut stdin, &mut buffer), if stdin.is_some() => {
                let read = read.map_err(|e| broken(&format!("cannot read standard input: {e}")))?;
                if read == 0 {
                    stdin = None;
                    // Older runtimes have no word for the end of standard input.
                    if version_5 {
                        send(&mut sink, CLOSE, &[STDIN]).await?;
                    }
                } else {
                    send(&mut sink, STDIN, &buffer[..read]).await?;
                }
            }
            size = sizes.recv(), if sized => match size {
                Some(Size { width, height }) => {
                    let size = format!("{{\"Width\":{width},\"Height\":{height}}}");
                    send(&mut sink, RESIZE, size.as_bytes()).await?;
                }
                None => sized = false,
            },
        }
    }
}

type Socket = WebSocketStream<TcpStream>;

async fn connect(url: &str, deadline: Duration) -> Result<(Socket, bool), Error> {
    let parsed: Uri = url.parse().map_err(|_| stream_error(url, "the URL cannot be read"))?;
    let authority = parsed.authority().ok_or_else(|| stream_error(url, "the URL names no server"))?;
    if parsed.scheme_str() != Some("http") {
        return Err(stream_error(url, "only plain HTTP on this machine is spoken"));
    }
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let request = format!("ws{}", url.strip_prefix("http").unwrap_or(url)).into_client_request();
    let mut request = request.map_err(|e| stream_error(url, &e.to_string()))?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(PROTOCOLS));
    let dialled = async {
        let stream = TcpStream::connect(&address).await.map_err(|e| stream_error(url, &e.to_string()))?;
        stream.set_nodelay(true).map_err(|e| stream_error(url, &e.to_string()))?;
        let answered = tokio_tungstenite::client_async(request, stream).await;
        answered.map_err(|e| stream_error(url, &e.to_string()))
    };
    let dialled = tokio::time::timeout(deadline, dialled).await;
    let (socket, answer) = dialled.map_err(|_| stream_error(url, "no answer in time"))??;
    let protocol = answer.headers().get("sec-websocket-protocol").and_then(|p| p.to_str().ok());
    Ok((socket, protocol == Some(V5)))
}

async fn read<I: AsyncRead + Unpin>(from: &mut Option<I>, buffer: &mut [u8]) -> std::io::Result<usize> {
    match from {
        Some(from) => from.read(buffer).await,
        None => std::future::pending().await,
    }
}

async fn near(to: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> Result<(), Error> {
    let written = async {
        to.write_all(data).await?;
        to.flush().await
    };
    written.await.map_err(|e| broken(&format!("cannot write the output: {e}")))
}

async fn send<S>(sink: &mut S, channel: u8, data: &[u8]) -> Result<(), Error>
where
    S: futures_util::Sink<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin,
{
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend_from_slice(data);
    sink.send(Message::Binary(message.into())).await.map_err(|e| broken(&e.to_string()))
}

/// The exit code in a `Status` object: none was needed for success, it is a cause for a failure of the command.
fn exit_code(status: &[u8]) -> Result<i32, Error> {
    let status: Value = serde_json::from_slice(status).map_err(|_| broken("its status cannot be read"))?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    let mut causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes.find(|c| c["reason"] == "ExitCode").and_then(|c| c["message"].as_str()?.parse().ok());
    let message = status["message"].as_str().unwrap_or("the command could not be run").to_owned();
    code.ok_or(Error::Failed { call: "Exec", message })
}

/// The path's last part is a one-time token, and so not for anybody's eyes.
fn stream_error(url: &str, reason: &str) -> Error {
    let shown = url.rsplit_once('/').map_or(url, |(before, _)| before);
    Error::Stream { url: shown.to_owned(), reason: reason.to_owned() }
}

fn broken(reason: &str) -> Error {
    Error::Broken { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_in_the_status() {
        assert_eq!(exit_code(br#"{"status":"Success"}"#).unwrap(), 0);
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode","message":"command terminated with non-zero exit code",
            "details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(exit_code(failed).unwrap(), 3);
        let not_run = exit_code(br#"{"status":"Failure","message":"no such file"}"#).unwrap_err();
        assert!(not_run.to_string().ends_with("no such file"), "{not_run}");
    }
}
