//! The node's client certificate: its name and its life.

use std::fmt;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Error;
use crate::trust::certificate::pem;

/// A client certificate with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The chain, PEM, leaf first.
    pub chain_pem: String,
    /// The key, PEM. A secret.
    pub key_pem: String,
    /// The user it speaks for, such as `system:node:ship-7`.
    pub common_name: String,
    /// The start of its life.
    pub not_before: jiff::Timestamp,
    /// The end of its life.
    pub not_after: jiff::Timestamp,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("common_name", &self.common_name)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// Reads the certificates in `chain_pem` and the key in `key_pem`, which may be the same text;
    /// whether they belong together is not checked. `path` is what to name in an error.
    ///
    /// # Errors
    /// [`Error::Material`].
    pub fn parse(path: &Path, chain_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let bad =
            |what: &str, problem| Error::Material { path: path.into(), what: format!("`{what}`"), problem };
        let certificate = |problem| bad("client-certificate", problem);
        let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| certificate("a damaged certificate"))?;
        let der = chain.first().ok_or_else(|| certificate("no certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| bad("client-key", "no private key"))?;
        let (_, leaf) = X509Certificate::from_der(der).map_err(|_| certificate("a damaged certificate"))?;
        let name = leaf.subject().iter_common_name().next().and_then(|n| n.as_str().ok());
        Ok(Self {
            common_name: name.unwrap_or_default().to_owned(),
            not_before: time(leaf.validity().not_before.timestamp()),
            not_after: time(leaf.validity().not_after.timestamp()),
            chain_pem: chain.iter().map(|der| pem("CERTIFICATE", der)).collect(),
            key_pem: pem(key_label(&key), key.secret_der()),
        })
    }

    /// Chain and key in one text, as kubelet keeps its own. A secret.
    pub fn both_pem(&self) -> String {
        format!("{}{}", self.chain_pem, self.key_pem)
    }

    /// SHA-256 of the leaf, hex: tells one certificate from another and gives nothing away.
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(self.leaf().as_deref().unwrap_or_default());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The leaf, DER.
    pub fn leaf(&self) -> Option<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.chain_pem.as_bytes()).ok()
    }

    /// Whether it can be used at `now`; `path` is the kubeconfig to name in the error.
    ///
    /// # Errors
    /// [`Error::Expired`] or [`Error::NotYet`].
    pub fn check_dates(&self, path: &Path, now: jiff::Timestamp) -> Result<(), Error> {
        let path = path.to_path_buf();
        if now > self.not_after {
            return Err(Error::Expired { path, at: self.not_after });
        }
        if now < self.not_before {
            return Err(Error::NotYet { path, at: self.not_before, now });
        }
        Ok(())
    }
}

fn key_label(key: &PrivateKeyDer<'_>) -> &'static str {
    match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    }
}

/// jiff ends an hour or so before X.509 does; nobody will notice in 9999.
fn time(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX)
}
