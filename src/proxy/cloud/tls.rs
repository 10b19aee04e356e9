//! TLS towards the cloud.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use super::{ClientCertificate, Credentials, Error};
use crate::sys::clock;

/// With whose word a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The node's client certificate.
    Node,
    /// None on the connection: every request carries its caller's own token.
    Bearer,
}

/// What is offered to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/2, else HTTP/1.1.
    Any,
    /// HTTP/1.1 alone, for upgrades such as exec.
    Http1,
}

impl Credentials {
    /// TLS towards the cloud. Make it once and keep it: it holds the sessions that spare round trips.
    ///
    /// # Errors
    /// [`Error::NotAPair`] and other faults of the material; [`Credentials::read`] has found them already.
    pub fn tls(&self, identity: Identity, protocols: Protocols) -> Result<Arc<ClientConfig>, Error> {
        let builder = tls_builder(roots(&self.path, &self.authority_pem)?)?;
        let mut config = match (identity, &self.client) {
            (Identity::Node, Some(client)) => {
                let (chain, key) = parse_pair(&self.path, client)?;
                builder.with_client_auth_cert(chain, key).map_err(|e| match e {
                    rustls::Error::InconsistentKeys(_) => Error::NotAPair { path: self.path.clone() },
                    other => Error::Tls(other),
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = match protocols {
            Protocols::Any => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Protocols::Http1 => vec![b"http/1.1".to_vec()],
        };
        Ok(Arc::new(config))
    }
}

/// Dates that TLS believes: edge's clock, not the machine's.
#[derive(Debug)]
struct Clock;

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(clock::now().as_second()).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

fn tls_builder(roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(Error::Tls)?;
    Ok(builder.with_root_certificates(roots))
}

pub(super) fn roots(path: &Path, pem: &str) -> Result<RootCertStore, Error> {
    let bad =
        |problem| Error::Material { path: path.into(), what: "`certificate-authority`".into(), problem };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| bad("a damaged certificate"))?;
        roots.add(certificate).map_err(|_| bad("a damaged certificate"))?;
    }
    if roots.is_empty() { Err(bad("no certificate")) } else { Ok(roots) }
}

type TlsPair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn parse_pair(path: &Path, client: &ClientCertificate) -> Result<TlsPair, Error> {
    let bad = |what: &str, problem| Error::Material { path: path.into(), what: format!("`{what}`"), problem };
    let chain = CertificateDer::pem_slice_iter(client.chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| bad("client-certificate", "a damaged certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(client.key_pem.as_bytes())
        .map_err(|_| bad("client-key", "no private key"))?;
    Ok((chain, key))
}
