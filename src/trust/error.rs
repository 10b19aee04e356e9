//! What can go wrong with edge's own keys and certificates.

use std::path::PathBuf;

/// Why a key or certificate could not be made, read or signed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder of the authority cannot be read or written; the text names it.
    #[error("local certificate authority: {0}")]
    Files(#[source] std::io::Error),
    /// One of the pair is there and is not what it should be.
    #[error(
        "`{}` is damaged: {why} hint: restore it from a backup, or move `{}` away and run `edge join` again; kubelet then needs the new kubeconfig",
        .path.display(), .folder.display()
    )]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// The folder of the authority.
        folder: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The certificate is there and its key is gone, so nothing can be signed any more.
    #[error(
        "`{}` is missing while its certificate is there hint: restore it from a backup, or move `{}` away and run `edge join` again; kubelet then needs the new kubeconfig",
        .path.display(), .folder.display()
    )]
    KeyMissing {
        /// Where the key should be.
        path: PathBuf,
        /// The folder of the authority.
        folder: PathBuf,
    },
    /// The certificate belongs to another key.
    #[error(
        "`{}` and `ca.key` beside it are not a pair hint: restore both from the same backup",
        .path.display()
    )]
    NotAPair {
        /// The certificate's file.
        path: PathBuf,
    },
    /// A name that cannot stand in a certificate.
    #[error("`{name}` cannot stand in a certificate: {why}")]
    Name {
        /// The name asked for.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A signing request that is refused.
    #[error("certificate signing request refused: {why}")]
    Request {
        /// What is wrong with it.
        why: String,
    },
    /// The cryptography itself failed, such as no randomness.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}

/// Why a signing key could not be made, kept or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read or written; the text names it.
    #[error(transparent)]
    Files(std::io::Error),
    /// There is a key already.
    #[error("`{}` is there already hint: keys are never written over; choose another folder", .0.display())]
    Exists(PathBuf),
    /// Not a key that edge wrote.
    #[error("`{}` is no Ed25519 key in PKCS #8: {why}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Encrypted, and not with this passphrase.
    #[error("`{}` {why} hint: give it with `--passphrase-file`", .path.display())]
    Passphrase {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The machine has no randomness.
    #[error("the machine gives no randomness, so no key can be made")]
    Randomness,
}
