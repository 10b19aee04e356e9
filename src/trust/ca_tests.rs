//! The authority: what it signs, for how long, and what it refuses to open.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::*;

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// One day after the epoch, and late in 9999.
const EDGES: [u64; 2] = [86_400, 253_402_000_000];

fn roots(ca: &LocalCa) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.ca_der().clone()).unwrap();
    Arc::new(roots)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client_accepted(ca: &LocalCa, chain: &str, now: u64) -> bool {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca), provider()).build().unwrap();
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    verifier.verify_client_cert(&leaf, &[], at(now)).is_ok()
}

fn csr(common_name: &str, organization: Option<&str>) -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(common_name, organization);
    (params.serialize_request(&key).unwrap().pem().unwrap(), key)
}

#[test]
fn made_once_and_kept_with_modes_for_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let pki = folder.path().join("pki");
    let first = LocalCa::open_or_create(&pki).unwrap();
    let again = LocalCa::open_or_create(&pki).unwrap();
    assert_eq!(first.ca_pem(), again.ca_pem());
    let mode = |name: &str| std::fs::metadata(pki.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca.crt"), mode("ca.key")), (0o644, 0o600));
    let pair = again.issue_client("system:node:a", "system:nodes").unwrap();
    assert!(client_accepted(&first, &pair.chain, EDGES[0]), "the same key still signs after reopening");
}

#[test]
fn a_server_certificate_holds_for_its_names_from_1970_to_9999() {
    let folder = tempfile::tempdir().unwrap();
    let ca = LocalCa::open_or_create(folder.path()).unwrap();
    let pair = ca.issue_server(&["127.0.0.1", "::1", "localhost"]).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(&ca), provider()).build().unwrap();
    let leaf = CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap();
    let accepted = |name: &str, now: u64| {
        verifier
            .verify_server_cert(&leaf, &[], &ServerName::try_from(name.to_owned()).unwrap(), &[], at(now))
            .is_ok()
    };
    for now in EDGES {
        for name in ["127.0.0.1", "::1", "localhost"] {
            assert!(accepted(name, now), "{name} at {now}");
        }
    }
    assert!(!accepted("127.0.0.2", EDGES[0]));
    assert!(!client_accepted(&ca, &pair.chain, EDGES[0]), "a server certificate is no client certificate");
    assert!(!format!("{pair:?}").contains("PRIVATE KEY"));
}

#[test]
fn a_client_certificate_carries_user_and_group() {
    let folder = tempfile::tempdir().unwrap();
    let ca = LocalCa::open_or_create(folder.path()).unwrap();
    let pair = ca.issue_client("system:node:ship-7", "system:nodes").unwrap();
    for now in EDGES {
        assert!(client_accepted(&ca, &pair.chain, now), "at {now}");
    }
    let leaf = CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(leaf.subject().to_string(), "O=system:nodes, CN=system:node:ship-7");
}

#[test]
fn a_request_keeps_its_subject_and_key_and_gains_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ca = LocalCa::open_or_create(folder.path()).unwrap();
    let (request, key) = csr("system:node:a", Some("system:nodes"));
    let signed = ca.sign_client_csr(&request).unwrap();
    let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.subject().to_string(), "O=system:nodes, CN=system:node:a");
    assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    assert!(!leaf.is_ca());
    assert!(client_accepted(&ca, &signed, EDGES[1]));
    assert!(ca.has_signed(&der));

    let other = LocalCa::open_or_create(&folder.path().join("other")).unwrap();
    assert!(!other.has_signed(&der));
}

#[test]
fn a_request_for_an_authority_gets_a_leaf() {
    let folder = tempfile::tempdir().unwrap();
    let ca = LocalCa::open_or_create(folder.path()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("system:node:a", Some("system:nodes"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let signed = ca.sign_client_csr(&params.serialize_request(&key).unwrap().pem().unwrap()).unwrap();
    let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    assert!(!X509Certificate::from_der(&der).unwrap().1.is_ca());
}

#[test]
fn bad_requests_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let ca = LocalCa::open_or_create(folder.path()).unwrap();
    let (good, _) = csr("system:node:a", Some("system:nodes"));
    let mut forged = csr_der(&good).unwrap().to_vec();
    // A byte of the common name: the request's own signature no longer holds.
    let place = forged.windows(13).position(|w| w == b"system:node:a").unwrap();
    forged[place + 12] = b'b';
    let forged = pem_of(&forged);
    let mut two = CertificateParams::default();
    two.distinguished_name = subject("a", None);
    two.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "b");
    let two = two.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    for (request, expected) in [
        ("", "not a PEM `CERTIFICATE REQUEST`"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "not a PKCS #10"),
        (forged.as_str(), "signature"),
        (two.as_str(), "one common name"),
    ] {
        let error = ca.sign_client_csr(request).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

fn pem_of(der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
}

#[test]
fn a_damaged_pair_is_named_and_left_alone() {
    let stranger = tempfile::tempdir().unwrap();
    LocalCa::open_or_create(stranger.path()).unwrap();
    let foreign = std::fs::read(stranger.path().join("ca.crt")).unwrap();
    let cases: [(&str, Option<&[u8]>, &str); 6] = [
        ("ca.key", None, "`ca.key` is missing"),
        ("ca.key", Some(b""), "holds no private key"),
        ("ca.key", Some(b"\xff\xfe"), "holds no private key"),
        ("ca.crt", Some(b""), "holds no certificate"),
        ("ca.crt", Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "cannot be read"),
        ("ca.crt", Some(&foreign), "not a pair"),
    ];
    for (name, content, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        LocalCa::open_or_create(folder.path()).unwrap();
        let path = folder.path().join(name);
        match content {
            Some(bytes) => durable::write(&path, bytes, 0o600).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let error = LocalCa::open_or_create(folder.path()).unwrap_err().to_string();
        let expected = expected.replace("`ca.key`", &format!("`{}`", path.display()));
        assert!(error.contains(&expected), "{error}");
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
        assert_eq!(std::fs::read(&path).ok().as_deref(), content, "left as it was");
    }
}

#[test]
fn a_power_cut_between_key_and_certificate_is_finished_with_the_same_key() {
    let folder = tempfile::tempdir().unwrap();
    let first = LocalCa::open_or_create(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join("ca.crt")).unwrap();
    let second = LocalCa::open_or_create(folder.path()).unwrap();
    let pair = second.issue_client("system:node:a", "system:nodes").unwrap();
    assert!(client_accepted(&first, &pair.chain, EDGES[0]));
}
