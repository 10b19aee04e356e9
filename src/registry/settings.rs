//! What the registry needs to know; filled from the section `[registry]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::Error;
use crate::oci::Upstream;

/// The registry's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where images and charts are served; the daemon binds it and passes the listener in.
    pub listen: SocketAddr,
    /// Whether a miss is fetched from an upstream.
    pub pull_through: bool,
    /// Whether clients may write.
    pub push: bool,
    /// Whether clients on loopback may write without a credential.
    pub insecure_loopback_push: bool,
    /// The registries that a miss may be fetched from. Others are never asked.
    pub upstreams: Vec<Upstream>,
    /// Names that clients call this registry by in `?ns=`, such as `127.0.0.1:5000`.
    pub own_hosts: Vec<String>,
    /// The certificate to serve with.
    pub tls: Option<Tls>,
    /// Users who may write, as `htpasswd -B` writes them.
    pub htpasswd: Option<PathBuf>,
    /// Bearer tokens that may write, one a line.
    pub tokens: Option<PathBuf>,
    /// Credentials for upstreams, docker's `config.json`.
    pub docker_config: Option<PathBuf>,
    /// Certificates of authorities (DER) that upstreams may have beside the system's.
    pub authorities: Vec<Vec<u8>>,
}

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The chain.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5000)),
            pull_through: true,
            push: false,
            insecure_loopback_push: false,
            upstreams: Vec::new(),
            own_hosts: vec!["127.0.0.1:5000".into(), "localhost:5000".into()],
            tls: None,
            htpasswd: None,
            tokens: None,
            docker_config: None,
            authorities: Vec::new(),
        }
    }
}

impl Settings {
    /// Refuses what must not be served so.
    ///
    /// # Errors
    /// [`Error::PushWithoutCredential`].
    pub fn check(&self) -> Result<(), Error> {
        let credential = self.htpasswd.is_some() || self.tokens.is_some();
        if self.push && !credential && !self.insecure_loopback_push {
            return Err(Error::PushWithoutCredential);
        }
        Ok(())
    }
}
