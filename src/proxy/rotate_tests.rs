//! When a certificate is renewed, and that replaced files are seen. Renewal itself needs a real API server.

use http::Response;

use super::*;
use crate::proxy::answer::Body;
use crate::proxy::cloud::kubeconfig::{Material, Written};
use crate::proxy::stand_in;
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
        self.kubeconfig_of("https://192.0.2.1:6443", self.ca.ca_pem(), pair)
    }

    fn kubeconfig_of(&self, server: &str, authority: &str, pair: &Path) -> PathBuf {
        let path = self.folder.path().join("cloud.kubeconfig");
        let text = Written {
            cluster: "cloud",
            user: "a",
            server,
            tls_server_name: None,
            authority: Material::Inline(authority.into()),
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
    assert_eq!(watched.life.borrow().last_error, None, "it is somebody's own");

    // What a copied state folder's kubeconfig names.
    let elsewhere = CloudFiles::of(&place.folder.path().join("before")).current();
    durable::folder(elsewhere.parent().unwrap(), 0o700).unwrap();
    place.put(&elsewhere, &place.node());
    let (_, watched) = Rotator::new(&place.kubeconfig(&elsewhere), place.folder.path()).unwrap();
    let life = watched.life.borrow().clone();
    assert!(life.renews_at.is_none(), "{life:?}");
    assert!(
        life.last_error.is_some_and(|error| error.contains("/before/cloud/client-current.pem`, in another"))
    );
}

#[test]
fn replaced_files_are_seen_and_bad_ones_are_not_taken() {
    let place = Place::new();
    let own = place.files.current();
    place.put(&own, &place.node());
    let (mut rotator, mut watched) = Rotator::new(&place.kubeconfig(&own), place.folder.path()).unwrap();
    rotator.reread();
    assert!(!watched.credentials.has_changed().unwrap());

    let first = watched.credentials.borrow_and_update().good().unwrap().client.clone();
    place.put(&own, &place.node());
    rotator.reread();
    assert!(watched.credentials.has_changed().unwrap());
    let second = watched.credentials.borrow_and_update().good().unwrap().client.clone();
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

#[test]
fn credentials_that_are_lost_are_taken_once_they_can_be_read() {
    let place = Place::new();
    let own = place.files.current();
    let path = place.kubeconfig(&own);
    let error = Rotator::new(&path, place.folder.path()).err().unwrap();
    let (mut rotator, mut watched) = Rotator::without(&path, place.folder.path(), "a", &error);
    let lost = |watched: &mut Watched| watched.credentials.borrow_and_update().clone();
    let known = lost(&mut watched);
    assert!(known.trouble().unwrap().contains("client-current.pem"), "{known:?}");
    assert_eq!((known.node_name(), &*known.server()), (Some("a"), "https://192.0.2.1:6443"));
    assert!(!rotator.is_due());
    rotator.reread();
    assert!(!watched.credentials.has_changed().unwrap(), "nothing is new");

    std::fs::remove_file(&path).unwrap();
    rotator.reread();
    let known = lost(&mut watched);
    assert!(known.trouble().unwrap().contains("cloud.kubeconfig"), "{known:?}");
    assert_eq!((known.node_name(), &*known.server()), (Some("a"), ""));

    place.put(&own, &place.node());
    place.kubeconfig(&own);
    rotator.reread();
    assert!(lost(&mut watched).good().is_some());
    assert!(watched.life.borrow().renews_at.is_some());
    rotator.reread();
    assert!(!watched.credentials.has_changed().unwrap());
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

/// A cloud that answers so, and a node that speaks to it, with a certificate that it has not accepted yet.
async fn with_next<A: Future<Output = Response<Body>> + Send + 'static>(
    place: &Place,
    answer: impl Fn() -> A + Send + Sync + 'static,
) -> (stand_in::Cloud, Rotator, Watched) {
    let cloud = stand_in::Cloud::new(Arc::new(move |_| Box::pin(answer()))).await;
    // It takes no certificate of anybody else's.
    let node = || cloud.ca.issue_client("system:node:a", "system:nodes").unwrap();
    place.put(&place.files.current(), &node());
    place.put(&place.files.next(), &node());
    let server = cloud.credentials.credentials.borrow().good().unwrap().server.to_string();
    let path = place.kubeconfig_of(server.trim_end_matches('/'), cloud.ca.ca_pem(), &place.files.current());
    let (rotator, watched) = Rotator::new(&path, place.folder.path()).unwrap();
    (cloud, rotator, watched)
}

#[tokio::test]
async fn a_certificate_for_the_cloud_that_was_left_meanwhile_replaces_nothing() {
    for joins in [true, false] {
        let place = Place::new();
        let (other, current) = (place.node(), place.files.current());
        let joined = format!("{}{}", other.chain, other.key);
        let (text, path) = (joined.clone(), current.clone());
        let answer = move || {
            if joins {
                let _held = CloudFiles::hold();
                durable::write(&path, text.as_bytes(), 0o600).unwrap();
            }
            std::future::ready(stand_in::json(404, &serde_json::json!({})))
        };
        let (_cloud, mut rotator, _) = with_next(&place, answer).await;
        let next = std::fs::read_to_string(place.files.next()).unwrap();
        let renewed = rotator.renew().await;
        assert_eq!(matches!(renewed, Err(Error::Replaced)), joins, "{renewed:?}");
        assert_eq!(std::fs::read_to_string(&current).unwrap(), if joins { joined } else { next });
        assert!(!place.files.next().exists());
    }
}

#[tokio::test]
async fn credentials_that_are_replaced_while_the_cloud_takes_its_time_are_taken_at_once() {
    let place = Place::new();
    let (_cloud, mut rotator, mut watched) = with_next(&place, std::future::pending).await;
    rotator.look = Duration::from_millis(20);
    let running = tokio::spawn(rotator.run(|| true));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!watched.credentials.has_changed().unwrap());
    place.put(&place.files.current(), &place.node());
    let taken = tokio::time::timeout(Duration::from_secs(10), watched.credentials.changed());
    taken.await.expect("they are taken").unwrap();
    running.abort();
}

#[test]
fn after_a_renewal_there_is_rest_whatever_the_clock_says() {
    let place = Place::new();
    place.put(&place.files.current(), &place.node());
    let path = place.kubeconfig(&place.files.current());
    let (mut rotator, _) = Rotator::new(&path, place.folder.path()).unwrap();
    let with_life = |hours: i64| {
        let begin: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let end = begin.checked_add(SignedDuration::from_hours(hours)).unwrap();
        client("2026-01-01T00:00:00Z", &end.to_string())
    };
    for (hours, minutes) in [(1, 6), (24, 144)] {
        let before = rotator.good().unwrap();
        rotator.take(Credentials { client: Some(with_life(hours)), ..(*before).clone() });
        rotator.not_before = None;
        // Its end is past, by this clock.
        assert!(rotator.is_due(), "{hours}");
        rotator.succeed();
        assert!(!rotator.is_due(), "{hours}");
        assert_eq!(rotator.rest(), Duration::from_secs(60 * minutes), "{hours}");
    }
}

#[test]
fn a_certificate_that_comes_near_its_end_is_not_rested_to_death() {
    // Dated back by five minutes, as kube-controller-manager does.
    let short = client("2026-01-01T00:00:00Z", "2026-01-01T00:06:00Z");
    for (now, seconds) in [
        ("2026-01-01T00:05:00Z", 30),
        ("2026-01-01T00:00:00Z", 36),
        ("2025-01-01T00:00:00Z", 36),
        ("2036-01-01T00:00:00Z", 36),
    ] {
        assert_eq!(rest(&short, now.parse().unwrap()), Duration::from_secs(seconds), "{now}");
    }
}
