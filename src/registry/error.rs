//! What keeps the registry from being set up.

use std::io;
use std::path::PathBuf;

/// Why the registry cannot be set up or serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that settings name cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that settings name is not what it should be.
    #[error("`{path}` {why}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The credentials for upstreams.
    #[error("{0}")]
    Credentials(String),
    /// The client for upstreams.
    #[error(transparent)]
    Client(crate::oci::Error),
    /// Writing is on, and anybody could.
    #[error(
        "`registry.push` is on without a credential hint: set `registry.htpasswd`, or `insecure-loopback-push = true` on loopback"
    )]
    PushWithoutCredential,
    /// The address can be reached from other machines.
    #[error(
        "`{0}` is not on loopback and has no certificate hint: set `registry.tls-certificate` and `registry.tls-key`, or `registry.local-certificate`, or listen on 127.0.0.1"
    )]
    NeedsTls(std::net::SocketAddr),
    /// The certificate or key cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Tls(String),
    /// The listener cannot be used.
    #[error("cannot listen: {0}")]
    Listen(io::Error),
}
