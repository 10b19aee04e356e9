//! Of which cloud the certificate is that join takes.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;
use crate::proxy::cloud::kubeconfig::Written;
use crate::proxy::stand_in;
use crate::sys::durable;

/// A node `a` that was joined to a cloud.
struct Node {
    state: tempfile::TempDir,
    record: Record,
    ca: LocalCa,
    kept: ClientCertificate,
}

impl Node {
    /// With a certificate that the other cloud can read: a stand-in ends the connection of whoever shows another.
    fn joined_to(cloud: &stand_in::Cloud, other: &stand_in::Cloud) -> Self {
        let state = tempfile::tempdir().unwrap();
        let place = |name: &str| state.path().join(name);
        let (own, files) = (place("cloud.kubeconfig"), CloudFiles::of(state.path()));
        let record = Record::begin(state.path(), "a", &own, &place("kubelet"), &place("certs")).unwrap();
        let pair = other.ca.issue_client("system:node:a", "system:nodes").unwrap();
        let kept = ClientCertificate::parse(Path::new("x"), &pair.chain, &pair.key).unwrap();
        files.write_pair(&files.current(), &kept).unwrap();
        let credentials = cloud.credentials.credentials.borrow().good().unwrap();
        files.write(&files.authority(), credentials.authority_pem.as_bytes()).unwrap();
        let text = super::super::cloud_kubeconfig(&credentials.server.to_string(), None, "a", &files);
        durable::write(&own, text.as_bytes(), 0o600).unwrap();
        let ca = LocalCa::open_or_create(&place("pki")).unwrap();
        Self { state, record, ca, kept }
    }

    async fn take(&self, from: PathBuf) -> Result<Taken, Error> {
        let path = |name: &str| self.state.path().join(name);
        let plan = Plan {
            from,
            kubelet_kubeconfig: path("kubelet"),
            cloud_kubeconfig: path("cloud.kubeconfig"),
            kubelet_cert_dir: path("certs"),
            kubelet_pki: path("certs"),
            state_dir: self.state.path().into(),
            listen: "127.0.0.1:6445".parse().unwrap(),
            node_name: None,
            host_name: "a".into(),
            timeout: Duration::from_secs(2),
        };
        take(&plan, Some(&self.record), &self.ca, &mut |_| {}).await
    }

    fn with_token(&self, cloud: &stand_in::Cloud) -> PathBuf {
        let path = self.state.path().join("token");
        let server = cloud.credentials.credentials.borrow().good().unwrap().server.to_string();
        let authority = STANDARD.encode(cloud.ca.ca_pem());
        let text = format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: '{server}', certificate-authority-data: {authority}}}}}]\n\
             users: [{{name: u, user: {{token: abcdef.0123456789abcdef}}}}]\n"
        );
        durable::write(&path, text.as_bytes(), 0o600).unwrap();
        path
    }

    fn with_certificate(&self, cloud: &stand_in::Cloud) -> PathBuf {
        let pair = cloud.ca.issue_client("system:node:a", "system:nodes").unwrap();
        self.with_pair(cloud, Material::Inline(pair.chain.into()), Material::Inline(pair.key.into()))
    }

    fn with_pair(&self, cloud: &stand_in::Cloud, certificate: Material, key: Material) -> PathBuf {
        let path = self.state.path().join("certificate");
        let text = Written {
            cluster: "cloud",
            user: "a",
            server: cloud
                .credentials
                .credentials
                .borrow()
                .good()
                .unwrap()
                .server
                .to_string()
                .trim_end_matches('/'),
            tls_server_name: None,
            authority: Material::Inline(cloud.ca.ca_pem().into()),
            certificate,
            key,
        }
        .text();
        durable::write(&path, text.as_bytes(), 0o600).unwrap();
        path
    }

    /// What kubelet has as its own certificate, behind its link by the whole path.
    fn rotates(&self, ca: &LocalCa) -> ClientCertificate {
        let pair = ca.issue_client("system:node:a", "system:nodes").unwrap();
        let pair = ClientCertificate::parse(Path::new("x"), &pair.chain, &pair.key).unwrap();
        let pki = self.state.path().join("certs");
        durable::folder(&pki, 0o700).unwrap();
        durable::write(&pki.join("kubelet-client-of-a-test.pem"), pair.both_pem().as_bytes(), 0o600).unwrap();
        let _ = symlink(Path::new(KUBELET_PKI).join("kubelet-client-of-a-test.pem"), self.current());
        pair
    }

    fn current(&self) -> PathBuf {
        self.state.path().join("certs/kubelet-client-current.pem")
    }
}

/// A cloud that answers this to whoever asks whether a certificate is good, and how often it was asked for one.
async fn cloud(code: u16) -> (stand_in::Cloud, Arc<AtomicUsize>) {
    let posts = Arc::<AtomicUsize>::default();
    let count = posts.clone();
    let answers = move |head: http::request::Parts| {
        let asks = head.method == http::Method::POST;
        count.fetch_add(usize::from(asks), Ordering::Relaxed);
        let probes = head.uri.path().contains("edge-asks-whether");
        let code = if asks {
            403
        } else if probes {
            code
        } else {
            404
        };
        Box::pin(std::future::ready(stand_in::json(code, &json!({"kind": "Status", "message": "no"})))) as _
    };
    (stand_in::Cloud::new(Arc::new(answers)).await, posts)
}

#[tokio::test]
async fn the_certificate_of_a_cloud_that_was_rebuilt_is_not_kept() {
    let ((first, asked), (rebuilt, asked_anew)) = (cloud(401).await, cloud(401).await);
    let node = Node::joined_to(&first, &rebuilt);
    // By a bootstrap token: the same cloud is not even asked.
    let taken = node.take(node.with_token(&first)).await.unwrap();
    assert!(taken.is_from_state && taken.certificate == node.kept);
    assert_eq!((first.dials.load(Ordering::Relaxed), asked.load(Ordering::Relaxed)), (0, 0));
    let refused = node.take(node.with_token(&rebuilt)).await.map(|taken| taken.certificate);
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(asked_anew.load(Ordering::Relaxed), 1, "the other is asked for one of its own");
    // By a certificate, though that ends no later.
    assert!(node.take(node.with_certificate(&first)).await.unwrap().is_from_state);
    let taken = node.take(node.with_certificate(&rebuilt)).await.unwrap();
    assert!(!taken.is_from_state && taken.certificate != node.kept);
}

#[tokio::test]
async fn a_cloud_that_moved_goes_on_with_the_certificate_that_it_knows() {
    let ((first, _), (moved, asked)) = (cloud(401).await, cloud(404).await);
    let node = Node::joined_to(&first, &moved);
    let taken = node.take(node.with_token(&moved)).await.unwrap();
    assert!(taken.is_from_state && taken.certificate == node.kept);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_mended_by_a_join() {
    let (first, _) = cloud(401).await;
    let node = Node::joined_to(&first, &first);
    durable::write(&CloudFiles::of(node.state.path()).current(), b"half of a", 0o600).unwrap();
    let taken = node.take(node.with_certificate(&first)).await.unwrap();
    assert!(!taken.is_from_state);
}

/// kubeadm's kubelet.conf. A strict snap sees kubelet's folder elsewhere.
#[tokio::test]
async fn the_certificate_that_kubelet_rotates_is_taken_from_where_its_folder_is_seen() {
    let ((first, _), (other, _)) = (cloud(401).await, cloud(401).await);
    let node = Node::joined_to(&first, &other);
    let named = || Material::File(Path::new(KUBELET_PKI).join("kubelet-client-current.pem"));
    let from = || node.with_pair(&other, named(), named());
    let given = node.rotates(&other.ca);
    let taken = node.take(from()).await.unwrap();
    assert!(!taken.is_from_state && taken.certificate == given);
    // Joined, and kubelet rotated: edge signed it.
    node.rotates(&node.ca);
    assert!(node.take(from()).await.unwrap().is_from_state);
    // Or it did not yet, and the cloud's is out of its way.
    durable::remove(&node.current()).unwrap();
    assert!(node.take(from()).await.unwrap().is_from_state);
}

/// A strict snap may be kept from it; root reads everything but this.
#[tokio::test]
async fn nothing_is_asked_for_while_kubelets_folder_cannot_be_looked_at() {
    let ((first, _), (other, asked)) = (cloud(401).await, cloud(401).await);
    let node = Node::joined_to(&first, &other);
    let folder = node.state.path().join("certs");
    symlink(&folder, &folder).unwrap();
    let refused = node.take(node.with_token(&other)).await.map(|taken| taken.node_name).unwrap_err();
    let expected = format!("cannot read `{}`: ", folder.display());
    assert!(refused.to_string().starts_with(&expected) && !refused.is_input(), "{refused}");
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}
