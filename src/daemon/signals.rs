//! What reaches the daemon from outside: signals, and the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::{DaemonError, THAW, control};

/// Binds the control socket, for root alone. A socket file that was left behind is replaced: the lock
/// on the state folder says that nobody else answers there.
pub fn bind_socket(path: &Path) -> Result<UnixListener, DaemonError> {
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |source| DaemonError::Listen {
        address: path.display().to_string(),
        source,
        hint: "the folder of the control socket must be writable: run as root, or set EDGE_SOCKET",
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    // Nobody may connect in the moment between bind and chmod.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let listener = bound.map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Whether a socket cannot be bound for its disk alone, which is full or lets nobody write.
pub fn is_unwritable(error: &DaemonError) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let DaemonError::Listen { source, .. } = error else { return false };
    matches!(source.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull)
}

/// Serves the control socket at `path`. One that could not be `bound` yet is tried again until its disk takes it.
pub async fn answer(
    path: PathBuf,
    mut bound: Option<UnixListener>,
    doors: Arc<control::Doors>,
    mut stopped: watch::Receiver<bool>,
) -> &'static str {
    let listener = loop {
        if let Some(listener) = bound.take() {
            break listener;
        }
        tokio::select! {
            () = control::told(&mut stopped) => return "control socket",
            () = tokio::time::sleep(THAW) => bound = bind_socket(&path).ok(),
        }
    };
    control::serve(listener, doors, stopped).await
}

/// The signals that edge listens to.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
pub enum Asked {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> Result<Self, DaemonError> {
        let listen = |kind| {
            signal(kind).map_err(|source| DaemonError::System { operation: "listen for signals", source })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// kubelet's proxy needs no socket; a folder that this user may not write, or somebody else's port, is for people.
    #[test]
    fn only_a_disk_that_takes_nothing_lets_the_daemon_go_on_without_its_socket() {
        for (errno, is) in [
            (nix::errno::Errno::EROFS, true),
            (nix::errno::Errno::ENOSPC, true),
            (nix::errno::Errno::EDQUOT, true),
            (nix::errno::Errno::EACCES, false),
            (nix::errno::Errno::EADDRINUSE, false),
        ] {
            let error = DaemonError::Listen { address: "/a.sock".into(), source: errno.into(), hint: "" };
            assert_eq!(is_unwritable(&error), is, "{errno}");
        }
        assert!(!is_unwritable(&DaemonError::Ended("cache")));
    }
}
