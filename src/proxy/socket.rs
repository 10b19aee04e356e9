//! What the kernel is told of connections to the cloud: how soon one that is silently gone is noticed.

use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;

/// A connection with unacknowledged bytes for this long is dead.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
/// Silence after which the other side is asked whether it is there.
const IDLE: Duration = Duration::from_secs(30);
/// Time between two such questions.
const INTERVAL: Duration = Duration::from_secs(10);
/// Questions without an answer at the most; where [`UNACKNOWLEDGED`] holds, the first already counts.
const PROBES: u32 = 3;

/// Small writes go at once; a peer that acknowledges nothing is noticed.
pub fn prepare(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let patience = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = setsockopt(stream, sockopt::TcpUserTimeout, &patience) {
        tracing::debug!(%error, "no TCP_USER_TIMEOUT");
    }
}

/// A peer that is gone is noticed although nothing is sent to it, as of a watch whose flow a NAT has forgotten. For
/// connections of HTTP/1.1; HTTP/2 asks by itself, and only while something is open.
pub fn keep_alive(stream: &TcpStream) {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let set = setsockopt(stream, sockopt::TcpKeepIdle, &seconds(IDLE))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepInterval, &seconds(INTERVAL)))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepCount, &PROBES))
        .and_then(|()| setsockopt(stream, sockopt::KeepAlive, &true));
    if let Err(error) = set {
        tracing::debug!(%error, "no SO_KEEPALIVE");
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[tokio::test]
    async fn a_silent_peer_is_asked_whether_it_is_there() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream);
        assert!(!getsockopt(&stream, sockopt::KeepAlive).unwrap(), "HTTP/2 does so itself");
        keep_alive(&stream);
        assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
        let set = (
            getsockopt(&stream, sockopt::TcpKeepIdle).unwrap(),
            getsockopt(&stream, sockopt::TcpKeepInterval).unwrap(),
            getsockopt(&stream, sockopt::TcpKeepCount).unwrap(),
            getsockopt(&stream, sockopt::TcpUserTimeout).unwrap(),
        );
        assert_eq!(set, (30, 10, 3, 15_000));
    }
}
