//! Tells systemd where the daemon stands (sd_notify(3)), if systemd asked to be told.

use std::os::unix::net::UnixDatagram;

/// Ready to serve.
pub fn ready() {
    tell("READY=1");
}

/// On the way out.
pub fn stopping() {
    tell("STOPPING=1");
}

fn tell(state: &str) {
    use std::os::linux::net::SocketAddrExt as _;
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = UnixDatagram::unbound().and_then(|socket| {
        let bytes = path.as_encoded_bytes();
        match bytes.strip_prefix(b"@") {
            Some(name) => {
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(state.as_bytes(), &address)
            }
            None => socket.send_to(state.as_bytes(), &path),
        }
    });
    if let Err(error) = told {
        tracing::debug!(%error, "systemd was not told");
    }
}
