//! Sending files by the kernel, below hyper.
//!
//! hyper writes what it is given; it cannot be told to send a file. So a file's body hands it stand-ins:
//! slices of one static array, as long as what is to be sent. hyper passes them on untouched
//! in a vectored write, this writer knows them by their address, and sends as many bytes of the file in
//! their place. Should hyper ever copy them first, the connection is closed rather than served wrongly:
//! what is queued is counted, and nothing else may be written while it waits.
//!
//! What lies in memory is sent at once, on the connection's own thread. What must be read from the disk, which may be
//! slow, is sent on a blocking thread, a piece at a time.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::places::Life;

/// Bytes of one stand-in, and so of one piece sent.
const PIECE: usize = 4 << 20;
/// Never read or written: only its addresses matter, so it takes no memory, and no room in the binary.
static STAND_IN: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; PIECE]);
/// Bytes between those that are looked for in memory; the kernel reads ahead in windows of this size.
const STRIDE: usize = 128 << 10;
/// Milliseconds that the blocking thread waits for a quick reader before it gives the piece back.
const PATIENCE: u16 = 4;

/// What is to be sent on one connection in place of stand-ins, in order.
#[derive(Default)]
pub(super) struct Outgoing(Mutex<VecDeque<Piece>>);

struct Piece {
    file: Arc<File>,
    offset: u64,
    left: usize,
}

impl Outgoing {
    /// Queues the next piece of a file; the stand-in is to be written in its place.
    pub(super) fn queue(&self, file: &Arc<File>, offset: u64, remaining: u64) -> (Bytes, u64) {
        let left = usize::try_from(remaining).unwrap_or(usize::MAX).min(PIECE);
        self.pieces().push_back(Piece { file: file.clone(), offset, left });
        (Bytes::from_static(&STAND_IN[..left]), left as u64)
    }

    fn pieces(&self) -> std::sync::MutexGuard<'_, VecDeque<Piece>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn front(&self) -> Option<(Arc<File>, u64, usize)> {
        self.pieces().front().map(|piece| (piece.file.clone(), piece.offset, piece.left))
    }

    fn sent(&self, bytes: usize) {
        let mut pieces = self.pieces();
        if let Some(piece) = pieces.front_mut() {
            piece.offset += bytes as u64;
            piece.left -= bytes.min(piece.left);
            if piece.left == 0 {
                pieces.pop_front();
            }
        }
    }
}

/// A TCP connection that knows stand-ins.
pub(super) struct FileStream {
    stream: Arc<TcpStream>,
    outgoing: Arc<Outgoing>,
    sending: Option<JoinHandle<io::Result<usize>>>,
    /// Bytes written by copying since pieces were queued; a head is small.
    copied: usize,
    life: Arc<Life>,
}

/// The most that is written by copying while a piece waits: the head of the answer.
const HEAD: usize = 64 << 10;

impl FileStream {
    /// `life` is told when bytes move.
    pub(super) fn new(stream: Arc<TcpStream>, outgoing: Arc<Outgoing>, life: Arc<Life>) -> Self {
        Self { stream, outgoing, sending: None, copied: 0, life }
    }

    fn poll_sendfile(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        loop {
            if let Some(sending) = &mut self.sending {
                let sent = ready!(Pin::new(sending).poll(cx));
                self.sending = None;
                match sent.unwrap_or_else(|_| Err(io::Error::other("the sender ended unexpectedly"))) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    Ok(bytes) => {
                        self.outgoing.sent(bytes);
                        self.life.sign();
                        return Poll::Ready(Ok(bytes));
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Poll::Ready(Err(e)),
                }
            }
            ready!(self.stream.poll_write_ready(cx))?;
            let Some((file, offset, left)) = self.outgoing.front() else {
                return Poll::Ready(Err(io::Error::other("a stand-in has no file behind it")));
            };
            let (stream, most) = (self.stream.clone(), left.min(most));
            if is_in_memory(&file, offset, most) {
                match stream.try_io(Interest::WRITABLE, || send_now(&stream, &file, offset, most)) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    Ok(bytes) => {
                        self.outgoing.sent(bytes);
                        self.life.sign();
                        return Poll::Ready(Ok(bytes));
                    }
                    // The socket is full: its readiness is awaited.
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(e) => return Poll::Ready(Err(e)),
                }
            }
            self.sending = Some(tokio::task::spawn_blocking(move || {
                stream.try_io(Interest::WRITABLE, || send(&stream, &file, offset, most))
            }));
        }
    }

    fn poll_copy(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write_vectored(slices) {
                Ok(bytes) => {
                    self.life.sign();
                    return Poll::Ready(self.count_copied(bytes));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    fn count_copied(&mut self, bytes: usize) -> io::Result<usize> {
        if self.outgoing.front().is_none() {
            self.copied = 0;
            return Ok(bytes);
        }
        self.copied += bytes;
        if self.copied > HEAD {
            return Err(io::Error::other("a stand-in was copied"));
        }
        Ok(bytes)
    }
}

fn is_stand_in(slice: &[u8]) -> bool {
    STAND_IN.as_ptr_range().contains(&slice.as_ptr())
}

/// Whether the kernel has these bytes of a file in memory, as far as one in each window tells. Never reads the disk.
fn is_in_memory(file: &File, offset: u64, length: usize) -> bool {
    let probes = (0..length).step_by(STRIDE).chain(length.checked_sub(1));
    probes.map(|at| offset + at as u64).all(|at| {
        let mut byte = [0];
        // A file system that cannot say so is taken for slow.
        preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT) == Ok(1)
    })
}

/// Sends what the socket takes at once.
fn send_now(socket: &TcpStream, file: &File, offset: u64, most: usize) -> io::Result<usize> {
    let mut at = i64::try_from(offset).map_err(io::Error::other)?;
    loop {
        match nix::sys::sendfile::sendfile64(socket, file, Some(&mut at), most) {
            Err(nix::errno::Errno::EINTR) => {}
            sent => return Ok(sent?),
        }
    }
}

/// Sends as much as the socket takes without long waits. `WouldBlock` only if that was nothing.
fn send(socket: &TcpStream, file: &File, offset: u64, most: usize) -> io::Result<usize> {
    let mut at = i64::try_from(offset).map_err(io::Error::other)?;
    let mut sent = 0;
    while sent < most {
        match nix::sys::sendfile::sendfile64(socket, file, Some(&mut at), most - sent) {
            Ok(0) => break,
            Ok(bytes) => sent += bytes,
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => {
                let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut ready, PollTimeout::from(PATIENCE)).unwrap_or(0) == 0 {
                    break;
                }
            }
            Err(_) if sent > 0 => break,
            Err(e) => return Err(e.into()),
        }
    }
    if sent == 0 && most > 0 && u64::try_from(at).unwrap_or(0) == offset {
        let ended = file.metadata().map(|meta| meta.len() <= offset).unwrap_or(false);
        return if ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
    }
    Ok(sent)
}

impl AsyncRead for FileStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(bytes) => {
                    buffer.advance(bytes);
                    self.life.sign();
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for FileStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(first) = slices.iter().position(|slice| !slice.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let slices = &slices[first..];
        if is_stand_in(&slices[0]) {
            this.copied = 0;
            return this.poll_sendfile(cx, slices[0].len());
        }
        let ours = slices.iter().position(|slice| is_stand_in(slice)).unwrap_or(slices.len());
        this.poll_copy(cx, &slices[..ours])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let down = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&*self.stream),
            nix::sys::socket::Shutdown::Write,
        );
        Poll::Ready(match down {
            // The other side was quicker.
            Ok(()) | Err(nix::errno::Errno::ENOTCONN) => Ok(()),
            Err(e) => Err(e.into()),
        })
    }
}
