//! The few frames of SPDY/3.1 that Kubernetes' `v4.channel.k8s.io` needs, from the client's side: one stream each for
//! status, standard input, output, errors and the terminal's size, and an end for each of them. Knows nothing of flow
//! control, which the servers of this protocol do not do either.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::{PIECE, Streams, Unheard, broken, dial, ends, exit_code, near, next_size, read, stream_error};
use crate::cri::Error;

/// Client's streams have odd numbers, in the order in which they are opened.
const STATUS: u32 = 1;
const STDOUT: u32 = 3;
const STDERR: u32 = 5;
const STDIN: u32 = 7;
const RESIZE: u32 = 9;

const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const FIN: u8 = 1;

const VERSION: &str = "x-stream-protocol-version";

type Connection = TokioIo<hyper::upgrade::Upgraded>;

/// Asks the streaming server at `url` for SPDY.
pub(super) async fn connect(url: &str, deadline: Duration) -> Result<Connection, Error> {
    let failed = |reason: &str| stream_error(url, reason);
    let asked = async {
        let stream = dial(url).await?;
        let host = stream.peer_addr().map(|a| a.to_string()).map_err(|e| failed(&e.to_string()))?;
        let path = url.splitn(4, '/').nth(3).unwrap_or_default();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(&e.to_string()))?;
        tokio::spawn(connection.with_upgrades());
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/{path}"))
            .header(header::HOST, host)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "SPDY/3.1")
            .header(VERSION, "v4.channel.k8s.io")
            .body(Empty::<Bytes>::new())
            .map_err(|e| failed(&e.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|e| failed(&e.to_string()))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(failed(&format!("it answers {} and not SPDY", answer.status())));
        }
        hyper::upgrade::on(answer).await.map(TokioIo::new).map_err(|e| failed(&e.to_string()))
    };
    tokio::time::timeout(deadline, asked).await.map_err(|_| failed("no answer in time"))?
}

/// Runs the command behind the connection to its end.
pub(super) async fn run<C, I, O, E>(connection: C, tty: bool, streams: Streams<I, O, E>) -> Result<i32, Error>
where
    C: AsyncRead + AsyncWrite,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let Streams { mut stdin, mut stdout, mut stderr, mut sizes } = streams;
    let (mut source, mut sink) = tokio::io::split(connection);
    let wanted = [
        (STATUS, "error", true),
        (STDOUT, "stdout", true),
        (STDERR, "stderr", !tty),
        (STDIN, "stdin", stdin.is_some()),
        (RESIZE, "resize", tty),
    ];
    let opened: Vec<u8> = wanted
        .iter()
        .filter(|(.., wanted)| *wanted)
        .enumerate()
        .flat_map(|(place, (id, kind, _))| open(*id, kind, place == 0))
        .collect();
    sink.write_all(&opened).await.map_err(|e| broken(&e.to_string()))?;
    let (echo, mut echoes) = mpsc::unbounded_channel();
    let there = async {
        let mut buffer = vec![0; PIECE];
        loop {
            let frame = tokio::select! {
                read = read(&mut stdin, &mut buffer) => match read? {
                    0 => {
                        stdin = None;
                        data(STDIN, FIN, &[])
                    }
                    read => data(STDIN, 0, &buffer[..read]),
                },
                size = next_size(&mut sizes), if tty => data(RESIZE, 0, size.message().as_bytes()),
                Some(ping) = echoes.recv() => control(PING, &u32::to_be_bytes(ping)),
            };
            let sent = async {
                sink.write_all(&frame).await?;
                sink.flush().await
            };
            if let Err(error) = sent.await {
                return Ok(Unheard(error.to_string()));
            }
        }
    };
    let back = async {
        let mut buffer = BytesMut::with_capacity(PIECE);
        let mut status = Vec::new();
        loop {
            match take(&mut buffer) {
                Some(Frame::Data(STDOUT, data, _)) => near(&mut stdout, &data).await?,
                Some(Frame::Data(STDERR, data, _)) => near(&mut stderr, &data).await?,
                Some(Frame::Data(STATUS, data, ends)) => {
                    status.extend_from_slice(&data);
                    // It may come in pieces; whole, it can be read.
                    if let Ok(code) = exit_code(&status) {
                        return Ok(code);
                    }
                    if ends || serde_json::from_slice::<serde_json::Value>(&status).is_ok() {
                        return exit_code(&status);
                    }
                }
                Some(Frame::Ping(id)) => drop(echo.send(id)),
                Some(Frame::Reset(STATUS)) => return Err(broken("the runtime reset it")),
                Some(_) => {}
                None => match source.read_buf(&mut buffer).await {
                    Ok(0) => return Err(broken("it ended before the command did")),
                    Ok(_) => {}
                    Err(e) => return Err(broken(&e.to_string())),
                },
            }
        }
    };
    ends(there, back).await
}

/// A frame of the server's, as far as it is of interest.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    /// Of a stream; true if it is its last.
    Data(u32, Bytes, bool),
    /// To be sent back.
    Ping(u32),
    /// The end of a stream.
    Reset(u32),
    Other,
}

/// The next whole frame.
fn take(buffer: &mut BytesMut) -> Option<Frame> {
    let (mut head, _) = buffer.split_at_checked(8)?;
    let (first, second) = (head.get_u32(), head.get_u32());
    let length = usize::try_from(second & 0x00ff_ffff).ok()?;
    if buffer.len() < 8 + length {
        buffer.reserve(8 + length - buffer.len());
        return None;
    }
    buffer.advance(8);
    let body = buffer.split_to(length).freeze();
    if first >> 31 == 0 {
        return Some(Frame::Data(first, body, second >> 24 & u32::from(FIN) != 0));
    }
    let number = body.first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
    Some(match u16::try_from(first & 0xffff) {
        // Even numbers are the server's own; odd ones would answer ours, and there are none.
        Ok(PING) if number.is_multiple_of(2) => Frame::Ping(number),
        Ok(RST_STREAM) => Frame::Reset(number),
        _ => Frame::Other,
    })
}

fn data(stream: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    frame(stream, flags, data)
}

fn control(kind: u16, body: &[u8]) -> Vec<u8> {
    frame(0x8003_0000 | u32::from(kind), 0, body)
}

fn frame(first: u32, flags: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(0) & 0x00ff_ffff;
    let second = u32::from(flags) << 24 | length;
    [&first.to_be_bytes(), &second.to_be_bytes(), body].concat()
}

/// Opens a stream of a kind. Headers must be compressed, all those of a connection as one zlib stream, which may be
/// stored as it is; an empty block makes the reader give out what it has.
fn open(id: u32, kind: &str, first: bool) -> Vec<u8> {
    let text = |text: &str| [&length(text.len()).to_be_bytes(), text.as_bytes()].concat();
    let headers = [1_u32.to_be_bytes().to_vec(), text("streamtype"), text(kind)].concat();
    let size = u16::try_from(headers.len()).unwrap_or(0);
    let begin: &[u8] = if first { &[0x78, 0x01] } else { &[] };
    let stored = [
        begin,
        &[0],
        &size.to_le_bytes(),
        &(!size).to_le_bytes(),
        headers.as_slice(),
        &[0, 0, 0, 0xff, 0xff],
    ];
    let associated_and_priority = [0; 6];
    let body = [&id.to_be_bytes(), associated_and_priority.as_slice(), &stored.concat()].concat();
    control(SYN_STREAM, &body)
}

fn length(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn headers_of_all_streams_are_one_zlib_stream() {
        let frames = [open(1, "error", true), open(3, "stdout", false)];
        let zlib: Vec<u8> = frames.iter().flat_map(|frame| frame[18..].to_vec()).collect();
        let mut reader = flate2::read::ZlibDecoder::new(zlib.as_slice());
        let mut text = vec![0; 2 * (4 + 4 + 10 + 4) + 5 + 6];
        reader.read_exact(&mut text).unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains("streamtype\0\0\0\x05error") && text.ends_with("\0\0\0\x06stdout"), "{text:?}");
        assert_eq!(frames[0][..4], [0x80, 3, 0, 1]);
        let length = u32::from_be_bytes([0, frames[0][5], frames[0][6], frames[0][7]]);
        assert_eq!(length as usize, frames[0].len() - 8);
    }

    #[test]
    fn frames_are_taken_when_they_are_whole() {
        let mut buffer = BytesMut::from(&data(STDOUT, 0, b"out")[..]);
        buffer.extend_from_slice(&control(PING, &2_u32.to_be_bytes()));
        buffer.extend_from_slice(&data(STATUS, FIN, b"{}")[..9]);
        assert_eq!(take(&mut buffer), Some(Frame::Data(STDOUT, Bytes::from_static(b"out"), false)));
        assert_eq!(take(&mut buffer), Some(Frame::Ping(2)));
        assert_eq!(take(&mut buffer), None);
        buffer.extend_from_slice(b"}");
        assert_eq!(take(&mut buffer), Some(Frame::Data(STATUS, Bytes::from_static(b"{}"), true)));
    }
}
