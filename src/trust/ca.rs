//! edge's own certificate authority: it vouches for the proxy to kubelet and for kubelet to the proxy.
//!
//! It never leaves the gateway and no cloud knows it. Made once and kept for ever, since kubelet
//! holds its certificate in a kubeconfig. Every certificate runs from 1970 to 9999: a gateway
//! without a clock boots in 1970 and its pods must start.
//!
//! Refuses to replace what it cannot read: a damaged pair is for a person to decide on.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use super::Error;
use crate::sys::durable;

/// The name on the authority's own certificate.
const COMMON_NAME: &str = "edge local authority";

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// The leaf, then the authority.
    pub chain: String,
    /// PKCS #8, ECDSA P-256. A secret.
    pub key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// The authority, opened.
pub struct LocalCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa").finish_non_exhaustive()
    }
}

impl LocalCa {
    /// Opens the authority in `folder` (`ca.crt` 0644, `ca.key` 0600), or makes it if neither file is there.
    ///
    /// The key is on disk before its certificate, so a key alone is what a power cut left of the
    /// making: nothing was signed by it yet, and the certificate is made from it.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::KeyMissing`] and [`Error::NotAPair`] leave both files as they are.
    pub fn open_or_create(folder: &Path) -> Result<Self, Error> {
        let at = Files::of(folder);
        durable::folder(folder, 0o700).map_err(Error::Files)?;
        match (read(&at.certificate)?, read(&at.key)?) {
            (Some(certificate), Some(key)) => at.open(certificate, &key),
            (Some(_), None) => Err(Error::KeyMissing { path: at.key, folder: at.folder }),
            (None, Some(key)) => {
                tracing::warn!(folder = %folder.display(), "finishing the local certificate authority from its key");
                let key = at.key_from(&key)?;
                at.finish(key)
            }
            (None, None) => {
                let key = KeyPair::generate().map_err(making)?;
                durable::write(&at.key, key.serialize_pem().as_bytes(), 0o600).map_err(Error::Files)?;
                tracing::info!(folder = %folder.display(), "made the local certificate authority");
                at.finish(key)
            }
        }
    }

    /// The authority's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// The authority's certificate, DER.
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// A server certificate for DNS names and IP addresses, given as text.
    ///
    /// # Errors
    /// [`Error::Name`] for what is neither a DNS name nor an address.
    pub fn issue_server(&self, names: &[&str]) -> Result<Pair, Error> {
        let first = names.first().copied().unwrap_or_default();
        let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(texts)
            .map_err(|e| Error::Name { name: names.join(", "), why: e.to_string() })?;
        params.distinguished_name = subject(first, None);
        self.issue(leaf(params, ExtendedKeyUsagePurpose::ServerAuth))
    }

    /// A client certificate: Kubernetes reads the common name as the user, the organization as the group.
    ///
    /// # Errors
    /// [`Error::Make`] if the machine has no randomness.
    pub fn issue_client(&self, common_name: &str, organization: &str) -> Result<Pair, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(common_name, Some(organization));
        self.issue(leaf(params, ExtendedKeyUsagePurpose::ClientAuth))
    }

    /// Signs a client's own request (PKCS #10, PEM): its subject and public key are kept, everything
    /// else is edge's. Whether that subject may be had is for the caller to judge beforehand, with
    /// [`RequestedSubject::read`].
    ///
    /// # Errors
    /// [`Error::Request`] if the request is unreadable, not signed by its own key, or names anything but one
    /// common name and at most one organization.
    pub fn sign_client_csr(&self, csr_pem: &str) -> Result<String, Error> {
        let subject_asked = RequestedSubject::read(csr_pem)?;
        let der = csr_der(csr_pem)?;
        // Checks the request's signature by its own key.
        let asked = rcgen::CertificateSigningRequestParams::from_der(&der)
            .map_err(|e| Error::Request { why: e.to_string() })?;
        let mut params = CertificateParams::default();
        params.distinguished_name =
            subject(&subject_asked.common_name, subject_asked.organization.as_deref());
        let params = leaf(params, ExtendedKeyUsagePurpose::ClientAuth);
        let signed = params.signed_by(&asked.public_key, &self.issuer).map_err(making)?;
        Ok(signed.pem())
    }

    /// Whether this authority signed `certificate` (DER).
    pub fn has_signed(&self, certificate: &[u8]) -> bool {
        let Ok((_, leaf)) = X509Certificate::from_der(certificate) else { return false };
        let Ok((_, own)) = X509Certificate::from_der(&self.der) else { return false };
        leaf.verify_signature(Some(own.public_key())).is_ok()
    }

    fn issue(&self, params: CertificateParams) -> Result<Pair, Error> {
        let key = KeyPair::generate().map_err(making)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(making)?;
        Ok(Pair { chain: certificate.pem() + &self.pem, key: key.serialize_pem() })
    }
}

/// Who a signing request wants to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedSubject {
    /// The one common name.
    pub common_name: String,
    /// The organization, if one is named.
    pub organization: Option<String>,
    /// DNS names, addresses and the like that the request wants beside the subject.
    pub alternative_names: usize,
}

impl RequestedSubject {
    /// Reads the subject of a PEM request. The signature is not checked here.
    ///
    /// # Errors
    /// [`Error::Request`] for anything but one common name and at most one organization.
    pub fn read(csr_pem: &str) -> Result<Self, Error> {
        let refused = |why: &str| Error::Request { why: why.into() };
        let der = csr_der(csr_pem)?;
        let (_, csr) =
            X509CertificationRequest::from_der(&der).map_err(|_| refused("it is not a PKCS #10 request"))?;
        let name = &csr.certification_request_info.subject;
        let texts = |attributes: Vec<&x509_parser::x509::AttributeTypeAndValue<'_>>| -> Vec<String> {
            attributes.iter().filter_map(|a| a.as_str().ok().map(String::from)).collect()
        };
        let (mut names, mut groups) =
            (texts(name.iter_common_name().collect()), texts(name.iter_organization().collect()));
        if name.iter_attributes().count() != names.len() + groups.len()
            || names.len() != 1
            || groups.len() > 1
        {
            return Err(refused("its subject must be one common name and at most one organization"));
        }
        let alternative_names = csr.requested_extensions().map_or(0, |extensions| {
            extensions
                .map(|e| match e {
                    x509_parser::extensions::ParsedExtension::SubjectAlternativeName(san) => {
                        san.general_names.len()
                    }
                    _ => 0,
                })
                .sum()
        });
        Ok(Self { common_name: names.remove(0), organization: groups.pop(), alternative_names })
    }
}

/// Where the pair lies.
struct Files {
    folder: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), certificate: folder.join("ca.crt"), key: folder.join("ca.key") }
    }

    fn damaged(&self, path: &Path, why: impl ToString) -> Error {
        Error::Damaged { path: path.to_path_buf(), folder: self.folder.clone(), why: why.to_string() }
    }

    fn key_from(&self, pem: &str) -> Result<KeyPair, Error> {
        KeyPair::from_pem(pem).map_err(|_| self.damaged(&self.key, "it holds no private key"))
    }

    fn open(&self, pem: String, key: &str) -> Result<LocalCa, Error> {
        let key = self.key_from(key)?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| self.damaged(&self.certificate, "it holds no certificate"))?;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|_| self.damaged(&self.certificate, "its certificate cannot be read"))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(Error::NotAPair { path: self.certificate.clone() });
        }
        if !certificate.is_ca() {
            return Err(self.damaged(&self.certificate, "it is not an authority's certificate"));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| self.damaged(&self.certificate, e))?;
        drop(certificate);
        Ok(LocalCa { issuer, pem, der })
    }

    fn finish(&self, key: KeyPair) -> Result<LocalCa, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(COMMON_NAME, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let params = for_ever(params);
        let certificate = params.self_signed(&key).map_err(making)?;
        durable::write(&self.certificate, certificate.pem().as_bytes(), 0o644).map_err(Error::Files)?;
        Ok(LocalCa {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        })
    }
}

fn subject(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn leaf(mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    for_ever(params)
}

fn for_ever(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(1970, 1, 1);
    // The last second that X.509 can write (RFC 5280, 4.1.2.5).
    params.not_after = date_time_ymd(9999, 12, 31) + Duration::from_secs(24 * 60 * 60 - 1);
    params.serial_number = Some(SerialNumber::from_slice(uuid::Uuid::new_v4().as_bytes()));
    params
}

fn csr_der(pem: &str) -> Result<CertificateSigningRequestDer<'static>, Error> {
    CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| Error::Request { why: "it is not a PEM `CERTIFICATE REQUEST`".into() })
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read(path) {
        // What is not text is damaged; it is told so by whoever parses it.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::Files(durable::named(e, "read", path))),
    }
}

fn making(error: rcgen::Error) -> Error {
    Error::Make(error.to_string())
}

#[cfg(test)]
#[path = "ca_tests.rs"]
mod tests;
