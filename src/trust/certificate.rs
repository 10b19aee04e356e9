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

/// All authorities in a PEM text, where the key of one of them signed `certificate` (DER) in its name, and may; else none.
/// While an authority is renewed the old one and the new one lie there, and either signs. Dates are not judged.
pub fn authorities_of(text: &[u8], certificate: &[u8]) -> Vec<CertificateDer<'static>> {
    let Ok((_, signed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let (mut all, mut has_signed) = (Vec::new(), false);
    for der in CertificateDer::pem_slice_iter(text).filter_map(Result::ok) {
        let Ok((_, one)) = X509Certificate::from_der(&der) else { continue };
        if one.is_ca() {
            has_signed |=
                one.subject() == signed.issuer() && signed.verify_signature(Some(one.public_key())).is_ok();
            all.push(der);
        }
    }
    if has_signed { all } else { Vec::new() }
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
