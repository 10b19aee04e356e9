//! What the registry is told by the configuration.

use std::net::{Ipv4Addr, SocketAddr};

/// Section `[registry]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where images and charts are served.
    pub listen: SocketAddr,
    /// Whether an image that is not there is fetched from its upstream and kept.
    pub pull_through: bool,
    /// Whether clients may push.
    pub push: bool,
    /// Whether pushing needs no credential while the address is loopback.
    pub insecure_loopback_push: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5000)),
            pull_through: true,
            push: false,
            insecure_loopback_push: false,
        }
    }
}
