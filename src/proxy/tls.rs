//! TLS towards clients on this machine: the local authority's own certificate, and a client
//! certificate of the same authority if the client has one.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use super::ProxyError;
use crate::trust::ca::LocalCa;

/// Names under which clients reach the API server: on loopback, and as pods know it.
const NAMES: [&str; 7] = [
    "127.0.0.1",
    "localhost",
    "::1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// The certificate that clients are shown. It is good for more addresses as they become known; connections that are
/// open keep the one they began with.
#[derive(Debug)]
pub struct Certificate {
    ca: Arc<LocalCa>,
    now: RwLock<(BTreeSet<String>, Arc<CertifiedKey>)>,
}

impl Certificate {
    /// Good for loopback, for the names of the API server, and for `more` addresses.
    ///
    /// # Errors
    /// [`ProxyError`] when it cannot be made.
    pub fn new(ca: Arc<LocalCa>, more: &[String]) -> Result<Arc<Self>, ProxyError> {
        let names: BTreeSet<String> = more.iter().cloned().collect();
        let key = issue(&ca, &names)?;
        Ok(Arc::new(Self { ca, now: RwLock::new((names, key)) }))
    }

    /// Good for these addresses too, from the next connection on.
    pub fn cover(&self, more: &[String]) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        if more.iter().all(|name| now.0.contains(name)) {
            return;
        }
        let names: BTreeSet<String> = now.0.iter().chain(more).cloned().collect();
        match issue(&self.ca, &names) {
            Ok(key) => *now = (names, key),
            Err(error) => {
                tracing::error!(%error, "the certificate is not good for the address of the Service")
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now.read().unwrap_or_else(PoisonError::into_inner).1.clone())
    }
}

fn issue(ca: &LocalCa, more: &BTreeSet<String>) -> Result<Arc<CertifiedKey>, ProxyError> {
    let names: Vec<&str> = NAMES.into_iter().chain(more.iter().map(String::as_str)).collect();
    let pair = ca.issue_server(&names)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pair.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| failed(&e))?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|e| failed(&e))?;
    let provider = rustls::crypto::ring::default_provider();
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider).map_err(|e| failed(&e))?))
}

fn failed(error: &dyn std::fmt::Display) -> ProxyError {
    ProxyError::Tls(error.to_string())
}

/// The proxy's side of TLS. A client certificate that is shown must hold; none need be shown.
pub fn server(ca: &LocalCa, certificate: Arc<Certificate>) -> Result<Arc<ServerConfig>, ProxyError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.ca_der().clone()).map_err(|e| failed(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| failed(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
