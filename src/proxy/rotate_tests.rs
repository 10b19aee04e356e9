//! When a certificate is renewed, and that replaced files are seen. Renewal itself needs a real API server.

use super::*;
use crate::proxy::cloud::kubeconfig::{Material, Written};
use crate::trust::ca::{LocalCa, Pair};

struct Place {
    folder: tempfile::TempDir,
    ca: LocalCa,
    files: CloudFiles,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = LocalCa::open_or_create(&folder.path().join("pki")).unwrap();
        let files = CloudFiles::of(folder.path());
        Self { folder, ca, files }
    }

    fn put(&self, path: &Path, pair: &Pair) {
        self.files.write(path, format!("{}{}", pair.chain, pair.key).as_bytes()).unwrap();
    }

    fn node(&self) -> Pair {
        self.ca.issue_client("system:node:a", "system:nodes").unwrap()
    }

    /// A kubeconfig whose pair lies in `pair`.
    fn kubeconfig(&self, pair: &Path) -> PathBuf {
        let path = self.folder.path().join("cloud.kubeconfig");
        let text = Written {
            cluster: "cloud",
            user: "a",
            server: "https://192.0.2.1:6443",
            tls_server_name: None,
            authority: Material::Inline(self.ca.ca_pem().into()),
            certificate: Material::File(pair.into()),
            key: Material::File(pair.into()),
        }
        .text();
        durable::write(&path, text.as_bytes(), 0o600).unwrap();
        path
    }
}

fn client(not_before: &str, not_after: &str) -> ClientCertificate {
    let place = Place::new();
    let pair = place.node();
    let parsed = ClientCertificate::parse(Path::new("x"), &pair.chain, &pair.key).unwrap();
    ClientCertificate {
        not_before: not_before.parse().unwrap(),
        not_after: not_after.parse().unwrap(),
        ..parsed
    }
}

#[test]
fn a_certificate_is_renewed_between_70_and_90_percent_of_its_life() {
    let mut moments = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let at = renews_at(&client("2026-01-01T00:00:00Z", "2026-04-11T00:00:00Z"));
        assert!(at >= "2026-03-12T00:00:00Z".parse().unwrap(), "{at}");
        assert!(at <= "2026-04-01T00:00:00Z".parse().unwrap(), "{at}");
        moments.insert(at);
    }
    assert!(moments.len() > 10, "a fleet does not ask at once");
    let same = client("2026-01-01T00:00:00Z", "2026-04-11T00:00:00Z");
    assert_eq!(renews_at(&same), renews_at(&same), "a restart changes nothing");
    renews_at(&client("1970-01-01T00:00:00Z", "9999-12-30T00:00:00Z"));
}

#[test]
fn only_what_join_took_over_is_renewed() {
    let place = Place::new();
    let own = place.files.current();
    place.put(&own, &place.node());
    let (_, watched) = Rotator::new(&place.kubeconfig(&own), place.folder.path()).unwrap();
    assert!(watched.life.borrow().renews_at.is_some());

    let foreign = place.folder.path().join("foreign.pem");
    place.put(&foreign, &place.node());
    let (rotator, watched) = Rotator::new(&place.kubeconfig(&foreign), place.folder.path()).unwrap();
    assert!(watched.life.borrow().renews_at.is_none() && watched.life.borrow().not_after.is_some());
    assert!(!rotator.is_due());
}

#[test]
fn replaced_files_are_seen_and_bad_ones_are_not_taken() {
    let place = Place::new();
    let own = place.files.current();
    place.put(&own, &place.node());
    let (mut rotator, mut watched) = Rotator::new(&place.kubeconfig(&own), place.folder.path()).unwrap();
    rotator.reread();
    assert!(!watched.credentials.has_changed().unwrap());

    let first = watched.credentials.borrow_and_update().client.clone();
    place.put(&own, &place.node());
    rotator.reread();
    assert!(watched.credentials.has_changed().unwrap());
    let second = watched.credentials.borrow_and_update().client.clone();
    assert_ne!(first, second);

    durable::write(&own, b"half of a", 0o600).unwrap();
    rotator.reread();
    assert!(!watched.credentials.has_changed().unwrap());
    assert!(watched.life.borrow().last_error.as_ref().unwrap().contains("client-certificate"));

    place.put(&own, &place.node());
    rotator.reread();
    assert!(watched.credentials.has_changed().unwrap());
    assert_eq!(watched.life.borrow().last_error, None);
}

#[tokio::test]
async fn failures_are_told_and_tried_again_later_and_later() {
    let place = Place::new();
    let own = place.files.current();
    place.put(&own, &place.node());
    let (mut rotator, watched) = Rotator::new(&place.kubeconfig(&own), place.folder.path()).unwrap();
    // Something issued and not accepted yet is due at once.
    place.put(&place.files.next(), &place.node());
    assert!(rotator.is_due());
    for expected in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
        assert_eq!(rotator.pause.as_secs(), expected);
        rotator.fail(&Error::NoNode);
        assert!(!rotator.is_due());
    }
    assert_eq!(watched.life.borrow().last_error.as_deref(), Some("the certificate names no node"));
}
