//! Where the container runtime listens and what edge may ask of it.

use std::time::Duration;

/// `[runtime]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `unix:///run/containerd/containerd.sock`, or the bare path of a socket.
    pub endpoint: String,
    /// Whether the images of cached pods are kept from the kubelet's garbage collection.
    pub pin_images: bool,
    /// How long the runtime may take over a call that has no work of its own to wait for.
    pub deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
            pin_images: true,
            deadline: Duration::from_secs(5),
        }
    }
}
