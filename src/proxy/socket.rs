//! How connections to the cloud are made, and what the kernel is told of them: how soon one that is silently gone is noticed.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
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

/// How long an address is waited for before the next one is tried too (RFC 8305 has a quarter of a second).
const NEXT: Duration = Duration::from_millis(300);

/// Connects to the first of `addresses` that takes a connection. They are tried one after the other and not one instead of
/// the other: a machine that is off answers nothing, and would use up the time of all behind it.
///
/// # Errors
/// Why the last of them to fail has failed.
pub async fn connect(addresses: Vec<IpAddr>, port: u16) -> std::io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut tries = FuturesUnordered::new();
    let mut last = std::io::Error::other("the name has no address");
    loop {
        tries.extend(waiting.next().map(|ip| TcpStream::connect((ip, port))));
        tokio::select! {
            tried = tries.next() => match tried {
                Some(Ok(stream)) => {
                    prepare(&stream);
                    return Ok(stream);
                }
                Some(Err(error)) => last = error,
                None => return Err(last),
            },
            () = tokio::time::sleep(NEXT), if waiting.len() > 0 => {}
        }
    }
}

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

    /// A machine that is powered off, behind a name with several addresses.
    #[tokio::test]
    async fn an_address_that_answers_nothing_does_not_keep_the_next_one_from_being_tried() {
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = silent.listen(1).unwrap();
        let port = silent.local_addr().unwrap().port();
        let [first, second] = ["127.0.0.1", "127.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        // Once nobody takes what waits in its queue, the kernel drops what comes.
        let mut queue = Vec::new();
        let full = async {
            loop {
                queue.push(TcpStream::connect((first, port)).await.unwrap());
            }
        };
        tokio::time::timeout(Duration::from_millis(500), full).await.unwrap_err();
        let answers = tokio::net::TcpListener::bind((second, port)).await.unwrap();
        let made = tokio::time::timeout(Duration::from_secs(2), connect(vec![first, second], port)).await;
        let stream = made.expect("the second one was never tried").unwrap();
        assert_eq!(stream.peer_addr().unwrap(), answers.local_addr().unwrap());
        drop(answers);
        let refused = connect(vec![second, second], port).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        connect(Vec::new(), port).await.unwrap_err();
    }

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
