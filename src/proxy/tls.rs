//! TLS towards clients on this machine: the local authority's own certificate, and a client
//! certificate of the same authority if the client has one.

use std::collections::{BTreeSet, VecDeque};
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

/// How the API server's name begins in each cluster; what follows is its DNS domain.
const SERVICE: &str = "kubernetes.default.svc.";
/// Domains of which a certificate is kept. A cluster has one; of more, the one that came first goes.
const DOMAINS: usize = 4;

/// The certificate that clients are shown. It is good for more addresses as they become known; connections that are
/// open keep the one they began with.
#[derive(Debug)]
pub struct Certificate {
    ca: Arc<LocalCa>,
    now: RwLock<Now>,
}

#[derive(Debug)]
struct Now {
    /// Addresses beside [`NAMES`].
    more: BTreeSet<String>,
    key: Arc<CertifiedKey>,
    /// Of clusters with a DNS domain of their own, by the name that was asked for.
    others: VecDeque<(String, Arc<CertifiedKey>)>,
}

impl Certificate {
    /// Good for loopback, for the names of the API server, and for `more` addresses.
    ///
    /// # Errors
    /// [`ProxyError`] when it cannot be made.
    pub fn new(ca: Arc<LocalCa>, more: &[String]) -> Result<Arc<Self>, ProxyError> {
        let more: BTreeSet<String> = more.iter().cloned().collect();
        let key = issue(&ca, &more, None)?;
        Ok(Arc::new(Self { ca, now: RwLock::new(Now { more, key, others: VecDeque::new() }) }))
    }

    /// Good for these addresses too, from the next connection on.
    pub fn cover(&self, more: &[String]) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        if more.iter().all(|name| now.more.contains(name)) {
            return;
        }
        let more: BTreeSet<String> = now.more.iter().chain(more).cloned().collect();
        match issue(&self.ca, &more, None) {
            Ok(key) => *now = Now { more, key, others: VecDeque::new() },
            Err(error) => {
                tracing::error!(%error, "the certificate is not good for the address of the Service")
            }
        }
    }

    /// What is shown to a client that asks for this name.
    fn of(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let other = name.map(str::to_ascii_lowercase).filter(|name| is_of_another_domain(name));
        let read = self.now.read().unwrap_or_else(PoisonError::into_inner);
        let Some(name) = other else { return read.key.clone() };
        if let Some((_, key)) = read.others.iter().find(|(known, _)| *known == name) {
            return key.clone();
        }
        drop(read);
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        match issue(&self.ca, &now.more, Some(&name)) {
            Ok(key) => {
                now.others.truncate(DOMAINS - 1);
                now.others.push_front((name, key.clone()));
                key
            }
            Err(error) => {
                tracing::warn!(%error, name, "the certificate is not good for a name of the API server");
                now.key.clone()
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.of(hello.server_name()))
    }
}

/// Whether this is the API server's full name in a cluster whose DNS domain is not `cluster.local`.
fn is_of_another_domain(name: &str) -> bool {
    !NAMES.contains(&name) && name.strip_prefix(SERVICE).is_some_and(|domain| !domain.is_empty())
}

fn issue(ca: &LocalCa, more: &BTreeSet<String>, name: Option<&str>) -> Result<Arc<CertifiedKey>, ProxyError> {
    let names: Vec<&str> = NAMES.into_iter().chain(more.iter().map(String::as_str)).chain(name).collect();
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

#[cfg(test)]
mod tests {
    use rustls::client::verify_server_name;
    use rustls::pki_types::ServerName;
    use rustls::server::ParsedCertificate;

    use super::*;

    /// Whether what is shown to who asks for one name is good for another.
    fn is_good(certificate: &Certificate, asked: &str, held: &str) -> bool {
        let shown = certificate.of(Some(asked));
        let leaf = ParsedCertificate::try_from(&shown.cert[0]).unwrap();
        verify_server_name(&leaf, &ServerName::try_from(held).unwrap()).is_ok()
    }

    #[test]
    fn the_api_servers_full_name_holds_in_a_cluster_of_any_domain() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Arc::new(LocalCa::open_or_create(folder.path()).unwrap());
        let certificate = Certificate::new(ca, &["169.254.64.45".into()]).unwrap();
        let holds = |name: &str| is_good(&certificate, name, name);
        assert!(holds("kubernetes.default.svc.cluster.local"));
        assert!(holds("kubernetes.default.svc.ship.local"));
        assert!(holds("Kubernetes.default.svc.SHIP.local"));
        let first = certificate.of(Some("kubernetes.default.svc.ship.local"));
        assert!(
            Arc::ptr_eq(&first, &certificate.of(Some("kubernetes.default.svc.ship.local"))),
            "it is kept"
        );
        for other in ["kubernetes.default.svc", "kubernetes.default.svcx.y", "example.com"] {
            assert!(Arc::ptr_eq(&certificate.of(Some(other)), &certificate.of(None)), "{other}");
        }
        for n in 0..2 * DOMAINS {
            assert!(holds(&format!("kubernetes.default.svc.d{n}.local")));
        }
        assert_eq!(certificate.now.read().unwrap().others.len(), DOMAINS);
        certificate.cover(&["10.96.0.1".into()]);
        assert!(is_good(&certificate, "kubernetes.default.svc.ship.local", "10.96.0.1"));
    }
}
