//! What the kernel says of mounts and of block devices: when it is time to look for sticks.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// After something changed, so long nothing else must: whoever mounts sticks is given the time to.
const SETTLE: Duration = Duration::from_millis(700);

/// What the kernel says of mounts and of block devices.
pub(super) struct Events {
    mounts: Option<AsyncFd<std::fs::File>>,
    devices: Option<AsyncFd<OwnedFd>>,
}

impl Events {
    /// What cannot be had is made up for by looking anyway now and then.
    pub(super) fn open() -> Self {
        let mounts = std::fs::File::open("/proc/self/mountinfo");
        let mounts = mounts.and_then(|file| watched(file, Interest::PRIORITY));
        let devices = uevents().and_then(|fd| watched(fd, Interest::READABLE));
        for error in [mounts.as_ref().err(), devices.as_ref().err()].into_iter().flatten() {
            tracing::warn!(%error, "sticks are found by looking every minute only");
        }
        Self { mounts: mounts.ok(), devices: devices.ok() }
    }

    /// Waits until something changed, and has been quiet for a moment since.
    pub(super) async fn next(&mut self) {
        self.one().await;
        while tokio::time::timeout(SETTLE, self.one()).await.is_ok() {}
    }

    async fn one(&mut self) {
        let mounted = async {
            match &self.mounts {
                Some(mounts) => {
                    if let Ok(mut ready) = mounts.ready(Interest::PRIORITY).await {
                        ready.clear_ready();
                    }
                }
                None => std::future::pending().await,
            }
        };
        let plugged = async {
            match &self.devices {
                Some(devices) => loop {
                    let Ok(mut ready) = devices.readable().await else { return };
                    let mut message = [0; 4096];
                    let got = recv(devices.get_ref().as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT);
                    match got {
                        Ok(length) if is_block(&message[..length]) => return,
                        Ok(_) => {}
                        Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                        // Messages were lost: look.
                        Err(_) => return,
                    }
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = mounted => {}
            () = plugged => {}
        }
    }
}

/// Both kinds own their descriptor for as long as they live, which is what the deprecation is about.
#[allow(deprecated, reason = "the constructor in its place is unsafe, and unsafe code is forbidden here")]
fn watched<T: AsRawFd>(inner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, interest)
}

fn is_block(message: &[u8]) -> bool {
    message.split(|b| *b == 0).any(|field| field == b"SUBSYSTEM=block")
}

/// The kernel's own messages about devices. They are only a reason to look; nothing in them is used.
fn uevents() -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
    Ok(fd)
}
