//! The one connection to the runtime's socket, and the deadline that every call on it has.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status};

use super::{Error, Settings};

/// Answers larger than this are refused; the kubelet's own client has the same limit.
pub(super) const LARGEST_ANSWER: usize = 16 << 20;

/// A channel that is dialled when the first call needs it and again when it broke.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) endpoint: String,
    pub(super) deadline: Duration,
    socket: PathBuf,
}

impl Connection {
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        let socket = settings.socket()?;
        // The authority is what gRPC servers on unix sockets expect; nothing is resolved.
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(Socket(socket.clone()));
        Ok(Self { channel, endpoint: settings.endpoint.clone(), deadline: settings.deadline, socket })
    }

    /// The process id of who listens; `None` where the kernel knows none, as of another process namespace.
    pub(super) async fn listener(&self) -> io::Result<Option<i32>> {
        let peer = UnixStream::connect(&self.socket).await?.peer_cred()?;
        Ok(peer.pid().filter(|pid| *pid > 0))
    }

    /// Waits for `answer`, at most the usual deadline and `extra` on top of it.
    pub(super) async fn call<T>(
        &self,
        call: &'static str,
        extra: Duration,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let after = self.deadline + extra;
        match tokio::time::timeout(after, answer).await {
            Err(_) => Err(Error::Hung { endpoint: self.endpoint.clone(), call, after }),
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(&self.endpoint, call, after, &status)),
        }
    }
}

#[derive(Debug, Clone)]
struct Socket(PathBuf);

impl tower_service::Service<Uri> for Socket {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { Ok(TokioIo::new(UnixStream::connect(path).await?)) })
    }
}
