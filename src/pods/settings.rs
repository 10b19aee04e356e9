//! `[pods]` of the configuration.

use std::net::{Ipv4Addr, SocketAddr};

use super::heal;

/// What may be done to pods without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the kubelet answers for its health.
    pub kubelet_healthz: SocketAddr,
    /// `[pods.self-heal]`.
    pub self_heal: heal::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kubelet_healthz: SocketAddr::from((Ipv4Addr::LOCALHOST, 10248)),
            self_heal: heal::Settings::default(),
        }
    }
}
