//! What the proxy is told by the configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Section `[proxy]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where kubelet finds the proxy; always a loopback address.
    pub listen: SocketAddr,
    /// Whether pods of this node reach the API server through the proxy.
    pub in_cluster: bool,
    /// Where pods find the proxy; always a link-local address.
    pub in_cluster_listen: SocketAddr,
    /// Section `[proxy.clients]`.
    pub clients: ClientSettings,
}

/// Section `[proxy.clients]`: what is kept of what clients other than kubelet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// Whose readings: `*`, `NAMESPACE/ACCOUNT`, `NAMESPACE/*`, `agent:NAME`.
    pub cached: Vec<String>,
    /// Resources that are not kept, as kubectl names them: `RESOURCE.GROUP`.
    pub leave_out: Vec<String>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        // Calico's book-keeping of addresses changes with every pod of the cluster, and is of no use when it is old.
        // It is in the second group where Calico's own API server is done without.
        let groups = ["crd.projectcalico.org", "projectcalico.org"];
        let of = |group| ["ipamblocks", "ipamhandles"].map(|name| format!("{name}.{group}"));
        Self { cached: vec!["*".to_owned()], leave_out: groups.map(of).concat() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 6445)),
            in_cluster: true,
            in_cluster_listen: SocketAddr::from((Ipv4Addr::new(169, 254, 64, 45), 6445)),
            clients: ClientSettings::default(),
        }
    }
}

/// Section `[cloud]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudSettings {
    /// Address and credentials of the cloud's API server. Without it the proxy is off.
    pub kubeconfig: Option<PathBuf>,
    /// How long the link may be silent before the cloud is asked for a sign of life.
    pub probe_interval: Duration,
}

impl Default for CloudSettings {
    fn default() -> Self {
        Self { kubeconfig: None, probe_interval: Duration::from_secs(5) }
    }
}
