//! The streams of a command in a container, as CRI hands them out: a WebSocket with Kubernetes' channels, or SPDY/3.1
//! where the runtime's WebSockets are too old to say that standard input has ended.

mod spdy;
mod websocket;

use std::time::Duration;

use http::Uri;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{Error, Runtime, v1};

/// Bytes of standard input that are sent at once.
const PIECE: usize = 32 << 10;

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

impl Size {
    fn message(self) -> String {
        format!("{{\"Width\":{},\"Height\":{}}}", self.width, self.height)
    }
}

/// The near ends of the streams.
pub struct Streams<I, O, E> {
    /// What the command reads; `None` gives it no standard input.
    pub stdin: Option<I>,
    /// Where its output goes.
    pub stdout: O,
    /// Where its errors go; with a terminal there are none.
    pub stderr: E,
    /// The terminal's size at first and whenever it changes.
    pub sizes: mpsc::Receiver<Size>,
}

/// Runs `command` in the container and returns its exit code. Its wishes for streams are taken from `streams` and `tty`.
///
/// # Errors
/// The call's; [`Error::Stream`] where the streaming server cannot be used, [`Error::Broken`] where the connection ends
/// before the command does or its input cannot be read, [`Error::Output`] where its output is not taken,
/// [`Error::Failed`] where the command could not be started.
pub async fn run<I, O, E>(
    runtime: &Runtime,
    command: (&str, &[String]),
    tty: bool,
    deadline: Duration,
    streams: Streams<I, O, E>,
) -> Result<i32, Error>
where
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let request = v1::ExecRequest {
        container_id: command.0.to_owned(),
        cmd: command.1.to_vec(),
        tty,
        stdin: streams.stdin.is_some(),
        stdout: true,
        stderr: !tty,
    };
    // A terminal says by itself, with ^D, that its input has ended.
    let ends = if request.stdin && !tty { websocket::Ends::Told } else { websocket::Ends::Untold };
    let url = runtime.exec(request.clone()).await?;
    match websocket::connect(&url, deadline, ends).await {
        Ok(socket) => websocket::run(socket, streams).await,
        Err(websocket::Refused::TooOld) => {
            tracing::debug!("the runtime's WebSockets cannot end standard input: SPDY is used");
            // The URL was good for one try.
            let url = runtime.exec(request).await?;
            let connection = spdy::connect(&url, deadline).await?;
            spdy::run(connection, tty, streams).await
        }
        Err(websocket::Refused::Failed(error)) => Err(error),
    }
}

/// A connection to the streaming server that `url` names.
async fn dial(url: &str) -> Result<TcpStream, Error> {
    let parsed: Uri = url.parse().map_err(|_| stream_error(url, "the URL cannot be read"))?;
    let authority = parsed.authority().ok_or_else(|| stream_error(url, "the URL names no server"))?;
    if parsed.scheme_str() != Some("http") {
        return Err(stream_error(url, "only plain HTTP on this machine is spoken"));
    }
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(&address).await.map_err(|e| stream_error(url, &e.to_string()))?;
    stream.set_nodelay(true).map_err(|e| stream_error(url, &e.to_string()))?;
    Ok(stream)
}

/// Bytes of standard input; 0 at its end. Never comes where there is none.
async fn read<I: AsyncRead + Unpin>(from: &mut Option<I>, buffer: &mut [u8]) -> Result<usize, Error> {
    match from {
        Some(from) => {
            from.read(buffer).await.map_err(|e| broken(&format!("cannot read standard input: {e}")))
        }
        None => std::future::pending().await,
    }
}

/// The other end takes no more of standard input, and why.
struct Unheard(String);

/// The command's end: `back` tells it. A command that ends does not read on, so that `there` may fail first; what it has
/// said, and how it ended, come all the same.
async fn ends(
    there: impl Future<Output = Result<Unheard, Error>>,
    back: impl Future<Output = Result<i32, Error>>,
) -> Result<i32, Error> {
    tokio::pin!(back);
    let Unheard(why) = tokio::select! {
        ended = &mut back => return ended,
        stopped = there => stopped?,
    };
    tracing::debug!(why, "the command takes no more input");
    back.await
}

/// The next size. Never comes where there is no terminal.
async fn next_size(sizes: &mut mpsc::Receiver<Size>) -> Size {
    match sizes.recv().await {
        Some(size) => size,
        None => std::future::pending().await,
    }
}

async fn near(to: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> Result<(), Error> {
    let written = async {
        to.write_all(data).await?;
        to.flush().await
    };
    written.await.map_err(Error::Output)
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
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;

    /// A connection whose first `open` writes go through, and on which the answer comes after one that does not.
    struct Deaf {
        open: usize,
        answer: Vec<u8>,
        failed: bool,
        reader: Option<std::task::Waker>,
    }

    impl AsyncRead for Deaf {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if !self.failed {
                self.reader = Some(context.waker().clone());
                return Poll::Pending;
            }
            buffer.put_slice(&std::mem::take(&mut self.answer));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Deaf {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            if self.open > 0 {
                self.open -= 1;
                return Poll::Ready(Ok(data.len()));
            }
            self.failed = true;
            self.reader.take().into_iter().for_each(std::task::Waker::wake);
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    const SEVEN: &[u8] =
        br#"{"status":"Failure","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;

    /// A frame of SPDY for a stream.
    fn spdy_frame(stream: u32, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap();
        [&stream.to_be_bytes(), &length.to_be_bytes(), data].concat()
    }

    /// A message of a WebSocket in a channel; the server's have no mask.
    fn websocket_message(channel: u8, data: &[u8]) -> Vec<u8> {
        [&[0x82, u8::try_from(data.len() + 1).unwrap(), channel], data].concat()
    }

    #[tokio::test]
    async fn a_command_that_ends_before_its_input_does_is_heard_out() {
        for spdy in [true, false] {
            let mut stdout = Vec::new();
            let streams = Streams {
                stdin: Some(&[7_u8; 100_000][..]),
                stdout: &mut stdout,
                stderr: tokio::io::sink(),
                sizes: mpsc::channel(1).1,
            };
            let deaf = |open: usize, answer: Vec<u8>| Deaf { open, answer, failed: false, reader: None };
            let code = if spdy {
                let answer = [spdy_frame(3, b"last words"), spdy_frame(1, SEVEN)].concat();
                // The first write opens the streams.
                spdy::run(deaf(2, answer), false, streams).await
            } else {
                let answer = [websocket_message(1, b"last words"), websocket_message(3, SEVEN)].concat();
                let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
                let socket = tokio_tungstenite::WebSocketStream::from_raw_socket(deaf(1, answer), role, None);
                websocket::run(socket.await, streams).await
            };
            assert_eq!(code.unwrap(), 7, "spdy: {spdy}");
            assert_eq!(stdout, b"last words", "spdy: {spdy}");
        }
    }

    #[tokio::test]
    async fn output_that_nobody_takes_is_told_apart_from_a_broken_stream() {
        for spdy in [true, false] {
            let (near, far) = tokio::io::duplex(64);
            drop(far);
            let stderr = tokio::io::sink();
            let streams = Streams { stdin: Some(&[][..]), stdout: near, stderr, sizes: mpsc::channel(1).1 };
            let said = if spdy { spdy_frame(3, b"words") } else { websocket_message(1, b"words") };
            let talks = Deaf { open: 9, answer: said, failed: true, reader: None };
            let outcome = if spdy {
                spdy::run(talks, false, streams).await
            } else {
                let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
                let socket = tokio_tungstenite::WebSocketStream::from_raw_socket(talks, role, None);
                websocket::run(socket.await, streams).await
            };
            let Err(Error::Output(error)) = &outcome else { panic!("spdy {spdy}: {outcome:?}") };
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

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
