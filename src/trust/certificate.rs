//! Certificates of authorities that are not edge's own: whether a text holds such, and which of them signed another.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The certificates in a PEM text (RFC 7468), of which each is an authority's; at least one.
///
/// # Errors
/// One line, where it holds anything else that matters.
pub fn authorities(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    if String::from_utf8_lossy(text).contains("PRIVATE KEY-----") {
        return Err("it holds a private key, which belongs on no gateway".into());
    }
    let damaged = || "a certificate in it is damaged".to_owned();
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|_| damaged())?;
    if all.is_empty() {
        return Err("it holds no certificate".into());
    }
    for one in &all {
        let (_, one) = X509Certificate::from_der(one).map_err(|_| damaged())?;
        if !one.is_ca() {
            return Err(format!("`{}` in it is no authority's certificate", one.subject()));
        }
    }
    Ok(all)
}

/// Those in a PEM text whose key signed `certificate` (DER) in their name, and may. Dates are not judged.
pub fn signers(text: &[u8], certificate: &[u8]) -> Vec<CertificateDer<'static>> {
    let Ok((_, signed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let has_signed = |der: &CertificateDer<'_>| {
        X509Certificate::from_der(der).is_ok_and(|(_, one)| {
            one.is_ca()
                && one.subject() == signed.issuer()
                && signed.verify_signature(Some(one.public_key())).is_ok()
        })
    };
    CertificateDer::pem_slice_iter(text).filter_map(Result::ok).filter(has_signed).collect()
}

/// PEM with lines of 64 characters (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|b| char::from(*b)));
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
