//! Where the container runtime listens and what edge may ask of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Error;

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

impl Settings {
    /// The path of the socket in `endpoint`.
    ///
    /// # Errors
    /// [`Error::Endpoint`] for anything but `unix:///PATH` or `/PATH`.
    pub fn socket(&self) -> Result<PathBuf, Error> {
        let path = self.endpoint.strip_prefix("unix://").unwrap_or(&self.endpoint);
        if Path::new(path).is_absolute() {
            Ok(PathBuf::from(path))
        } else {
            Err(Error::Endpoint { endpoint: self.endpoint.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_unix_socket_with_an_absolute_path() {
        let socket = |endpoint: &str| {
            Settings { endpoint: endpoint.to_owned(), ..Settings::default() }
                .socket()
                .map_err(|e| e.to_string())
        };
        let path = Path::new("/run/c.sock").to_path_buf();
        assert_eq!(socket("unix:///run/c.sock"), Ok(path.clone()));
        assert_eq!(socket("/run/c.sock"), Ok(path));
        for wrong in ["", "run/c.sock", "tcp://127.0.0.1:1", "unix://run/c.sock"] {
            assert!(socket(wrong).unwrap_err().contains(&format!("`{wrong}`")), "{wrong}");
        }
    }
}
