use super::*;
use crate::trust::ca::LocalCa;

fn authority() -> (tempfile::TempDir, LocalCa) {
    let folder = tempfile::tempdir().unwrap();
    let ca = LocalCa::open_or_create(&folder.path().join("pki")).unwrap();
    (folder, ca)
}

#[test]
fn only_certificates_of_authorities_are_taken() {
    let ((_one, one), (_two, two)) = (authority(), authority());
    let both = format!("# the cluster's\n{}{}", one.ca_pem(), two.ca_pem());
    assert_eq!(authorities(both.as_bytes()).unwrap().len(), 2);
    let node = one.issue_client("system:node:ship-7", "system:nodes").unwrap();
    let cut = &one.ca_pem()[..one.ca_pem().len() / 2];
    for (text, why) in [
        (String::new(), "it holds no certificate"),
        ("\u{0}no PEM".into(), "it holds no certificate"),
        (cut.to_owned(), "a certificate in it is damaged"),
        (pem("CERTIFICATE", b"no DER"), "a certificate in it is damaged"),
        (node.chain, "`O=system:nodes, CN=system:node:ship-7` in it is no authority's certificate"),
        (format!("{both}{}", node.key), "it holds a private key, which belongs on no gateway"),
    ] {
        assert_eq!(authorities(text.as_bytes()).unwrap_err(), why, "{text}");
    }
}

/// Two authorities of one name: the name alone says nothing.
#[test]
fn authorities_are_taken_together_where_the_key_of_one_signed() {
    let ((_one, one), (_two, two)) = (authority(), authority());
    let both = format!("{}{}", one.ca_pem(), two.ca_pem());
    let leaf = |ca: &LocalCa| {
        let pair = ca.issue_client("system:node:ship-7", "system:nodes").unwrap();
        (CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap(), pair.chain)
    };
    let (by_two, chain) = leaf(&two);
    let found = authorities_of(both.as_bytes(), &by_two);
    assert_eq!(found, [one.ca_der().clone(), two.ca_der().clone()]);
    assert_eq!(pem("CERTIFICATE", &found[1]), two.ca_pem().replace("\r\n", "\n"));
    assert!(authorities_of(one.ca_pem().as_bytes(), &by_two).is_empty());
    // A leaf that lies among them is no authority.
    assert_eq!(authorities_of(chain.as_bytes(), &by_two).len(), 1);
    assert!(authorities_of(both.as_bytes(), b"no DER").is_empty());
}
