//! By which name containerd reaches edge where that serves with a given certificate, and whether it believes that one.
//! A certificate that containerd does not believe it keeps to itself: it goes on to the real registry.

use std::path::Path;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::ContainerdError;
use crate::sys::{clock, durable};

/// The first of `names`, `host[:port]` each, that the certificate (a chain, PEM) is for. It must be vouched for by an
/// authority of the system, or by one in the file `ca`.
///
/// # Errors
/// [`ContainerdError::Name`], [`ContainerdError::Unbelieved`], or that a file cannot be read or is none of certificates.
pub fn reach<'a>(
    certificate: &Path,
    names: &'a [String],
    ca: Option<&Path>,
) -> Result<&'a str, ContainerdError> {
    let (chain, given) = (certificates(certificate)?, ca.map(certificates).transpose()?.unwrap_or_default());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(given.iter().cloned());
    let unbelieved = |why: String| ContainerdError::Unbelieved { path: certificate.to_owned(), why };
    let leaf = ParsedCertificate::try_from(&chain[0]).map_err(|e| unbelieved(e.to_string()))?;
    let is_for = |name: &&String| host(name).is_some_and(|host| verify_server_name(&leaf, &host).is_ok());
    let name = names.iter().find(is_for).ok_or_else(|| ContainerdError::Name {
        path: certificate.to_owned(),
        names: names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    })?;
    // One that vouches for itself is as good as an authority to containerd, whatever it says that it may do.
    if !given.contains(&chain[0]) {
        let known = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &chain[1..], within(&chain[0]), known)
            .map_err(|e| unbelieved(e.to_string()))?;
    }
    Ok(name)
}

/// The certificates of a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ContainerdError> {
    let pem = std::fs::read(path).map_err(|e| durable::named(e, "read", path))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let why = match read {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => "it holds no certificate (PEM)".to_owned(),
        Err(e) => e.to_string(),
    };
    Err(ContainerdError::Certificate { path: path.to_owned(), why })
}

/// The host of `host[:port]`.
fn host(name: &str) -> Option<ServerName<'static>> {
    let authority: http::uri::Authority = name.parse().ok()?;
    ServerName::try_from(authority.host().trim_matches(['[', ']']).to_owned()).ok()
}

/// Now, or the nearest time at which the certificate holds: one that ran out is told of elsewhere, and a machine without a
/// clock is pointed at edge all the same.
fn within(leaf: &CertificateDer<'_>) -> UnixTime {
    let now = clock::now().as_second();
    let time = X509Certificate::from_der(leaf).map_or(now, |(_, leaf)| {
        let validity = leaf.validity();
        now.min(validity.not_after.timestamp()).max(validity.not_before.timestamp())
    });
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_name_of_the_certificate_is_taken_and_what_containerd_would_not_believe_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, pem: String| -> PathBuf {
            let path = folder.path().join(name);
            durable::write(&path, pem.as_bytes(), 0o600).unwrap();
            path
        };
        let key = || rcgen::KeyPair::generate().unwrap();
        let (ca_key, mut ca) = (key(), rcgen::CertificateParams::new(Vec::new()).unwrap());
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let site = write("site.crt", ca.self_signed(&ca_key).unwrap().pem());
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let names = || vec!["depot.example".to_owned(), "192.0.2.7".to_owned()];
        let mut params = rcgen::CertificateParams::new(names()).unwrap();
        // A clock that is behind, or a certificate that ran out.
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let given = write("given.crt", params.signed_by(&key(), &issuer).unwrap().pem());
        let all = ["127.0.0.1:5000", "localhost:5000", "other:5000", "depot.example:5000", "192.0.2.7:5000"]
            .map(str::to_owned);
        assert_eq!(reach(&given, &all, Some(&site)).unwrap(), "depot.example:5000");
        assert_eq!(reach(&given, &all[4..], Some(&site)).unwrap(), "192.0.2.7:5000");
        let refused = |names: &[String], ca: Option<&Path>| reach(&given, names, ca).unwrap_err().to_string();
        let why = refused(&all[..3], Some(&site));
        assert!(
            why.contains("is for none of `127.0.0.1:5000`, `localhost:5000`, `other:5000` hint: "),
            "{why}"
        );
        let why = refused(&all, None);
        assert!(why.contains("containerd would not believe") && why.contains(" hint: "), "{why}");
        let strange = write("strange.crt", "nothing".into());
        assert!(refused(&all, Some(&strange)).contains("holds no certificate"));
        // As `openssl req -x509` makes one: its own authority.
        let mut own = rcgen::CertificateParams::new(names()).unwrap();
        own.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let own = write("own.crt", own.self_signed(&key()).unwrap().pem());
        assert_eq!(reach(&own, &all, Some(&own)).unwrap(), "depot.example:5000");
        assert!(reach(&own, &all, Some(&site)).is_err());
    }
}
