//! Kubernetes' channels in a WebSocket: `v5.channel.k8s.io`, or `v4` where no end of standard input need be told.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{PIECE, Streams, Unheard, broken, dial, ends, exit_code, near, next_size, read, stream_error};
use crate::cri::Error;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

type Socket<C = TcpStream> = WebSocketStream<C>;

/// Whether the command must hear of the end of its standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// Only `v5` can say it.
    Told,
    /// Any will do.
    Untold,
}

/// Why there is no socket.
pub(super) enum Refused {
    /// The runtime does not know `v5`.
    TooOld,
    /// Something else.
    Failed(Error),
}

pub(super) async fn connect(url: &str, deadline: Duration, ends: Ends) -> Result<Socket, Refused> {
    let failed = |reason: &str| Refused::Failed(stream_error(url, reason));
    let request = format!("ws{}", url.strip_prefix("http").unwrap_or(url)).into_client_request();
    let mut request = request.map_err(|e| failed(&e.to_string()))?;
    let protocols = match ends {
        Ends::Told => "v5.channel.k8s.io",
        Ends::Untold => "v5.channel.k8s.io, v4.channel.k8s.io",
    };
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(protocols));
    let dialled = async {
        let stream = dial(url).await.map_err(Refused::Failed)?;
        tokio_tungstenite::client_async(request, stream).await.map_err(|error| match error {
            tungstenite::Error::Http(_)
            | tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::SecWebSocketSubProtocolError(_),
            ) if ends == Ends::Told => Refused::TooOld,
            error => failed(&error.to_string()),
        })
    };
    let dialled = tokio::time::timeout(deadline, dialled).await;
    Ok(dialled.map_err(|_| failed("no answer in time"))??.0)
}

/// Runs the command behind the socket to its end. Both ways go on by themselves: a command that does not read must not
/// keep its output from being read.
pub(super) async fn run<C, I, O, E>(socket: Socket<C>, streams: Streams<I, O, E>) -> Result<i32, Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let (mut sink, mut source) = socket.split();
    let Streams { mut stdin, mut stdout, mut stderr, mut sizes } = streams;
    let there = async {
        let mut buffer = vec![0; PIECE];
        loop {
            let sent = tokio::select! {
                read = read(&mut stdin, &mut buffer) => match read? {
                    0 => {
                        stdin = None;
                        send(&mut sink, CLOSE, &[STDIN]).await
                    }
                    read => send(&mut sink, STDIN, &buffer[..read]).await,
                },
                size = next_size(&mut sizes) => send(&mut sink, RESIZE, size.message().as_bytes()).await,
            };
            if let Err(error) = sent {
                return Ok(Unheard(error.to_string()));
            }
        }
    };
    let back = async {
        loop {
            let Some(message) = source.next().await else {
                return Err(broken("it ended before the command did"));
            };
            let data = match message.map_err(|e| broken(&e.to_string()))? {
                Message::Binary(data) => data,
                Message::Text(text) => Bytes::from(text),
                Message::Close(_) => return Err(broken("the runtime closed it before the command ended")),
                _ => continue,
            };
            match data.split_first() {
                Some((&STDOUT, data)) => near(&mut stdout, data).await?,
                Some((&STDERR, data)) => near(&mut stderr, data).await?,
                Some((&STATUS, data)) if !data.is_empty() => return exit_code(data),
                _ => {}
            }
        }
    };
    ends(there, back).await
}

async fn send<S>(sink: &mut S, channel: u8, data: &[u8]) -> Result<(), tungstenite::Error>
where
    S: futures_util::Sink<Message, Error = tungstenite::Error> + Unpin,
{
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend_from_slice(data);
    sink.send(Message::Binary(message.into())).await
}
