//! The cluster's DNS, as the cloud says it: what kubeadm has all of its kubelets know, else the Service that bears it.
//!
//! `cluster-dns.json` lies beside `join.json`, whose fields an older edge must know: a snap reverts, an image falls back. It
//! is for kubelets that edge starts. One that the gateway's owner starts has it of him.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Error, is_node_name};
use crate::proxy::api::Api;
use crate::proxy::cloud::Credentials;
use crate::sys::{durable, yaml};

/// kubeadm lets every node read it.
const KUBELET: &str = "/api/v1/namespaces/kube-system/configmaps/kubelet-config";
/// The label that kubeadm's, K3s's, RKE2's and the clouds' own bear alike.
const SERVICES: &str = "/api/v1/namespaces/kube-system/services?labelSelector=k8s-app%3Dkube-dns";
/// Where no more than the Service is known: what every distribution takes that was not told otherwise.
const DOMAIN: &str = "cluster.local";

/// Whom pods ask for names, and below which domain the cluster's are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClusterDns {
    /// At least one.
    servers: Vec<IpAddr>,
    /// Without a dot at its end; empty where kubelets know none.
    domain: String,
}

impl ClusterDns {
    /// Asks the cloud with the node's credentials. `None` where it names none.
    ///
    /// # Errors
    /// The cloud was not reached, or does not let the node see it.
    pub async fn ask(credentials: Arc<Credentials>) -> Result<Option<Self>, Error> {
        let api = Api::new(credentials)?;
        match api.get(KUBELET).await {
            Ok(config) => {
                if let Some(found) = of_kubelet(&config) {
                    return Ok(Some(found));
                }
            }
            // No kubeadm made this cluster.
            Err(error) if matches!(error.status(), Some(StatusCode::FORBIDDEN | StatusCode::NOT_FOUND)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(of_services(&api.get(SERVICES).await?))
    }

    /// What the cloud said last. `None` where it was never heard, or this gateway is not joined.
    ///
    /// # Errors
    /// With its path; what is damaged is such an error too.
    pub fn read(state_dir: &Path) -> io::Result<Option<Self>> {
        let path = path(state_dir);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(durable::named(e, "read", &path)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| durable::named(e.into(), "read", &path))
    }

    /// Keeps it, durably.
    ///
    /// # Errors
    /// With its path.
    pub fn write(&self, state_dir: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        durable::write(&path(state_dir), &text, 0o600)
    }

    /// Forgets it.
    pub(super) fn clear(state_dir: &Path) -> Result<(), Error> {
        durable::remove(&path(state_dir)).map_err(Error::File)
    }

    /// The same in the words of kubelet's configuration (`KubeletConfiguration`).
    #[must_use]
    pub fn settings(&self) -> Map<String, Value> {
        let mut settings = Map::new();
        settings.insert("clusterDNS".into(), json!(self.servers));
        if !self.domain.is_empty() {
            settings.insert("clusterDomain".into(), json!(self.domain));
        }
        settings
    }
}

impl std::fmt::Display for ClusterDns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let servers: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        write!(f, "{}", servers.join(", "))?;
        if self.domain.is_empty() { Ok(()) } else { write!(f, " for {}", self.domain) }
    }
}

/// Of kubeadm's ConfigMap, whose text is a whole `KubeletConfiguration`.
fn of_kubelet(config: &Value) -> Option<ClusterDns> {
    let kubelet: Value = yaml::read(config["data"]["kubelet"].as_str()?).ok()?;
    let servers = kubelet["clusterDNS"].as_array()?.iter().filter_map(|one| one.as_str()?.parse().ok());
    let servers: Vec<IpAddr> = servers.collect();
    let domain = kubelet["clusterDomain"].as_str().unwrap_or_default().trim_end_matches('.');
    let is_good = !servers.is_empty() && (domain.is_empty() || is_node_name(domain));
    is_good.then(|| ClusterDns { servers, domain: domain.to_owned() })
}

/// Of a list of Services: the first that has an address of its own.
fn of_services(services: &Value) -> Option<ClusterDns> {
    let mut addresses = services["items"].as_array()?.iter().map(|service| &service["spec"]["clusterIP"]);
    // `None` and the empty text are such as have none.
    let server = addresses.find_map(|address| address.as_str()?.parse().ok())?;
    Some(ClusterDns { servers: vec![server], domain: DOMAIN.to_owned() })
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("cluster-dns.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::stand_in;

    fn config(text: &str) -> Value {
        json!({"kind": "ConfigMap", "data": {"kubelet": text}})
    }

    #[test]
    fn what_kubeadm_has_kubelets_know_is_read() {
        let found = of_kubelet(&config(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nclusterDNS:\n- 10.96.0.10\n- fd00::a\nclusterDomain: ships.example.\n",
        ));
        let found = found.unwrap();
        assert_eq!(found.to_string(), "10.96.0.10, fd00::a for ships.example");
        let settings = json!({"clusterDNS": ["10.96.0.10", "fd00::a"], "clusterDomain": "ships.example"});
        assert_eq!(Value::Object(found.settings()), settings);
        let alone = of_kubelet(&config("clusterDNS: [10.96.0.10]\n")).unwrap();
        assert_eq!(Value::Object(alone.settings()), json!({"clusterDNS": ["10.96.0.10"]}));
        for bad in [
            "",
            "clusterDNS: []",
            "clusterDNS: [here]",
            "clusterDNS: [10.0.0.1]\nclusterDomain: 'a b'",
            "- [",
        ] {
            assert_eq!(of_kubelet(&config(bad)), None, "{bad}");
        }
        assert_eq!(of_kubelet(&json!({"kind": "ConfigMap"})), None);
    }

    #[test]
    fn what_was_said_is_kept_until_the_cloud_is_left() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(ClusterDns::read(state.path()).unwrap(), None);
        let dns = ClusterDns { servers: vec!["10.43.0.10".parse().unwrap()], domain: DOMAIN.into() };
        dns.write(state.path()).unwrap();
        assert_eq!(ClusterDns::read(state.path()).unwrap(), Some(dns));
        durable::write(&path(state.path()), b"half", 0o600).unwrap();
        let why = ClusterDns::read(state.path()).unwrap_err().to_string();
        assert!(why.starts_with("cannot read `") && why.contains("cluster-dns.json"), "{why}");
        ClusterDns::clear(state.path()).unwrap();
        assert_eq!(ClusterDns::read(state.path()).unwrap(), None);
    }

    /// A cloud that answers each path with this.
    async fn cloud(config: (u16, Value), services: (u16, Value)) -> stand_in::Cloud {
        let answers = move |head: http::request::Parts| {
            let (code, body) = if head.uri.path().ends_with("/kubelet-config") { &config } else { &services };
            assert_eq!(head.method, http::Method::GET);
            Box::pin(std::future::ready(stand_in::json(*code, body))) as _
        };
        stand_in::Cloud::new(Arc::new(answers)).await
    }

    #[tokio::test]
    async fn the_cloud_is_asked_for_kubeadms_word_and_then_for_the_service() {
        let no = || json!({"kind": "Status", "message": "no"});
        let services = json!({"items": [
            {"spec": {"clusterIP": "None"}}, {"spec": {"clusterIP": "10.43.0.10", "clusterIPs": ["10.43.0.10"]}},
        ]});
        let kubeadm = config("clusterDNS: [10.96.0.10]\nclusterDomain: cluster.local\n");
        let by_service = Some("10.43.0.10 for cluster.local");
        for (of_kubelet, of_services, expected) in [
            ((200, kubeadm), (500, no()), Some("10.96.0.10 for cluster.local")),
            ((404, no()), (200, services.clone()), by_service),
            // Node authorization refuses what no pod of the node names.
            ((403, no()), (200, services.clone()), by_service),
            ((200, config("kind: KubeletConfiguration")), (200, services), by_service),
            ((404, no()), (200, json!({"items": []})), None),
        ] {
            let cloud = cloud(of_kubelet, of_services).await;
            let credentials = cloud.credentials.credentials.borrow().good().unwrap();
            let found = ClusterDns::ask(credentials).await.unwrap();
            assert_eq!(found.map(|found| found.to_string()).as_deref(), expected);
        }
        let cloud = cloud((503, no()), (200, no())).await;
        let credentials = cloud.credentials.credentials.borrow().good().unwrap();
        ClusterDns::ask(credentials).await.unwrap_err();
    }
}
