//! Why the runtime did not do what was asked, and what an operator can do about it.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use tonic::{Code, Status};

use crate::sys::service::Service;

/// A call to the container runtime that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configured endpoint is not a unix socket.
    #[error(
        "`{endpoint}` is not a runtime endpoint hint: write it as `unix:///run/containerd/containerd.sock`"
    )]
    Endpoint {
        /// As configured.
        endpoint: String,
    },
    /// Nothing is at the socket's path.
    #[error(
        "no container runtime at `{endpoint}` hint: start it (`{}`) or set `runtime.endpoint`",
        Service::Containerd.start()
    )]
    Missing {
        /// As configured.
        endpoint: String,
    },
    /// The socket is there and nobody listens.
    #[error(
        "the container runtime at `{endpoint}` does not listen hint: it has stopped or is starting, \
         see `{}`", Service::Containerd.status()
    )]
    Refused {
        /// As configured.
        endpoint: String,
    },
    /// The socket may not be opened.
    #[error("no permission to use the container runtime at `{endpoint}` hint: run as root")]
    Permission {
        /// As configured.
        endpoint: String,
    },
    /// The connection broke or cannot be made for another reason.
    #[error("cannot reach the container runtime at `{endpoint}` for {call}: {reason}")]
    Unreachable {
        /// As configured.
        endpoint: String,
        /// The gRPC method.
        call: &'static str,
        /// What the transport said.
        reason: String,
    },
    /// It did not answer in time.
    #[error(
        "the container runtime at `{endpoint}` did not answer {call} within {}s hint: it hangs, \
         see `{}`", after.as_secs(), Service::Containerd.status()
    )]
    Hung {
        /// As configured.
        endpoint: String,
        /// The gRPC method.
        call: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// It does not know the call.
    #[error(
        "`{endpoint}` does not know {call} hint: CRI v1 is needed (containerd 1.6, CRI-O 1.23 or later, \
         with the CRI plugin not disabled)"
    )]
    Unimplemented {
        /// As configured.
        endpoint: String,
        /// The gRPC method.
        call: &'static str,
    },
    /// What was asked about is not there.
    #[error("the container runtime has no such thing for {call}: {message}")]
    NotFound {
        /// The gRPC method.
        call: &'static str,
        /// What the runtime said.
        message: String,
    },
    /// It answered with an error.
    #[error("the container runtime failed {call}: {message}")]
    Failed {
        /// The gRPC method.
        call: &'static str,
        /// What the runtime said.
        message: String,
    },
    /// The answer lacks what the protocol says it holds.
    #[error("the container runtime's answer to {call} lacks {what}")]
    Lacks {
        /// The gRPC method.
        call: &'static str,
        /// The missing part.
        what: &'static str,
    },
    /// The runtime's streaming server did not take the connection.
    #[error("cannot open the stream of the container runtime at `{url}`: {reason}")]
    Stream {
        /// Without its one-time token.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// Whoever is to get the output of a command takes it no more.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// The stream broke while it was in use.
    #[error("the stream to the container broke: {reason}")]
    Broken {
        /// What went wrong.
        reason: String,
    },
}

impl Error {
    /// Whether the runtime itself cannot be spoken to, whatever is asked.
    pub fn is_down(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. }
                | Self::Refused { .. }
                | Self::Permission { .. }
                | Self::Unreachable { .. }
                | Self::Hung { .. }
        )
    }

    /// Whether the thing asked about is not there (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    pub(super) fn from_status(endpoint: &str, call: &'static str, after: Duration, status: &Status) -> Self {
        let endpoint = endpoint.to_owned();
        let message = status.message().to_owned();
        match io_cause(status) {
            Some(io::ErrorKind::NotFound) => return Self::Missing { endpoint },
            Some(io::ErrorKind::ConnectionRefused) => return Self::Refused { endpoint },
            Some(io::ErrorKind::PermissionDenied) => return Self::Permission { endpoint },
            _ => {}
        }
        match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => Self::Hung { endpoint, call, after },
            Code::Unimplemented => Self::Unimplemented { endpoint, call },
            Code::NotFound => Self::NotFound { call, message },
            // A source means that the status was made here, of a broken transport, and not by the runtime.
            Code::Unavailable => Self::Unreachable { endpoint, call, reason: deepest(status) },
            _ if status.source().is_some() => Self::Unreachable { endpoint, call, reason: deepest(status) },
            _ => Self::Failed { call, message },
        }
    }
}

fn io_cause(status: &Status) -> Option<io::ErrorKind> {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

fn deepest(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}
