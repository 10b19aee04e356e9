//! Why credentials for the cloud are of no use.

use std::path::PathBuf;

/// Why credentials are of no use. Never holds a value of the file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error(transparent)]
    Read(std::io::Error),
    #[error("`{}` is larger than {most} bytes, which no kubeconfig is", .path.display())]
    TooLarge { path: PathBuf, most: u64 },
    #[error("`{}` line {line} is not YAML hint: is it a kubeconfig?", .path.display())]
    Syntax { path: PathBuf, line: u64 },
    #[error("`{}` has no `{key}` hint: is it a kubeconfig?", .path.display())]
    Without { path: PathBuf, key: String },
    #[error("`{}` has no {part} of the name `{name}`, which it refers to", .path.display())]
    Dangling { path: PathBuf, part: String, name: String },
    #[error("`{}`: `{key}` is not text", .path.display())]
    NotText { path: PathBuf, key: String },
    #[error("`{}`: `{key}` is not base64", .path.display())]
    NotBase64 { path: PathBuf, key: String },
    #[error("`{}` has `{key}`, which edge refuses: {why}", .path.display())]
    Unsupported { path: PathBuf, key: String, why: &'static str },
    #[error("`{}`: server `{server}` {why} hint: expected an address such as `https://10.0.0.1:6443`", .path.display())]
    Server { path: PathBuf, server: String, why: &'static str },
    #[error("`{}`: {what} holds {problem}", .path.display())]
    Material { path: PathBuf, what: String, problem: &'static str },
    #[error("`{}` has a client certificate and its key does not belong to it", .path.display())]
    NotAPair { path: PathBuf },
    #[error("`{}` has neither a client certificate with its key nor a token", .path.display())]
    NoIdentity { path: PathBuf },
    #[error("the client certificate of `{}` expired at {at} hint: get a new kubeconfig for this node, or a bootstrap kubeconfig with a token", .path.display())]
    Expired { path: PathBuf, at: jiff::Timestamp },
    #[error("the client certificate of `{}` is valid from {at} hint: this machine's clock says {now}", .path.display())]
    NotYet { path: PathBuf, at: jiff::Timestamp, now: jiff::Timestamp },
    #[error("cannot set up TLS: {0}")]
    Tls(rustls::Error),
}
