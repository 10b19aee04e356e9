//! Why a request to the cloud has no answer, and whether it may be sent again.

use std::sync::Arc;
use std::time::Duration;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The name of the cloud does not resolve.
    #[error("cannot resolve `{host}`: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// Why.
        source: super::resolve::ResolveError,
    },
    /// No TCP connection.
    #[error("cannot connect to `{address}`: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// No TLS.
    #[error("no TLS with `{address}`: {source}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Too slow.
    #[error("no connection to `{address}` within {} s", limit.as_secs())]
    ConnectTimeout {
        /// Host and port.
        address: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// HTTP broke.
    #[error("connection to `{address}` failed: {source}")]
    Http {
        /// Host and port.
        address: String,
        /// Why.
        source: hyper::Error,
    },
    /// The node's credentials cannot be read.
    #[error("{0}")]
    Lost(String),
    /// The link went away while it was waited for.
    #[error("the cloud went away before it answered")]
    LinkLost,
    /// Several requests waited for the one connection that was being made, and each is told this.
    #[error(transparent)]
    Shared(Arc<UpstreamError>),
}

impl UpstreamError {
    /// Whether the cloud says itself that it has done nothing of the request, so that it can be sent again whatever
    /// it is: it came after the last that a connection took, or was refused as a stream (RFC 9113, 8.7).
    pub fn is_unprocessed(&self) -> bool {
        let Self::Http { source, .. } = self else { return false };
        let cause = std::error::Error::source(source).and_then(|cause| cause.downcast_ref::<h2::Error>());
        cause.is_some_and(|cause| {
            let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
            cause.is_remote() && (cause.is_go_away() || refused)
        })
    }
}
