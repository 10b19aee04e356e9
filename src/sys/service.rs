//! The services of a gateway, and the commands that hints name for them: those of systemd, or of the snap that has
//! them.

use std::sync::OnceLock;

/// Who starts edge, kubelet and containerd here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// systemd, all three.
    Systemd,
    /// edge is a snap beside the host's own kubelet and containerd.
    Snap,
    /// The snap's node flavour has all three.
    SnapNode,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The edge daemon.
    Edge,
    /// kubelet.
    Kubelet,
    /// containerd.
    Containerd,
}

/// Where this process runs: it does not change while it does.
static KEEPER: OnceLock<Keeper> = OnceLock::new();

/// Says once who keeps the services here; without it, systemd does.
pub fn kept_by(keeper: Keeper) {
    let _ = KEEPER.set(keeper);
}

impl Service {
    /// What starts it.
    pub fn start(self) -> String {
        self.command("start", keeper())
    }

    /// What starts it anew.
    pub fn restart(self) -> String {
        self.command("restart", keeper())
    }

    /// What stops it.
    pub fn stop(self) -> String {
        self.command("stop", keeper())
    }

    /// What tells how it is.
    pub fn status(self) -> String {
        self.command("status", keeper())
    }

    fn command(self, verb: &str, keeper: Keeper) -> String {
        let name = match self {
            Self::Edge => "edge",
            Self::Kubelet => "kubelet",
            Self::Containerd => "containerd",
        };
        let snap_has_it = match keeper {
            Keeper::Systemd => false,
            Keeper::Snap => self == Self::Edge,
            Keeper::SnapNode => true,
        };
        let app = if self == Self::Edge { "daemon" } else { name };
        match (snap_has_it, verb) {
            (false, verb) => format!("systemctl {verb} {name}"),
            // A snap's own word for it has no more than "active"; what it said tells why.
            (true, "status") => format!("snap logs edge.{app}"),
            (true, verb) => format!("snap {verb} edge.{app}"),
        }
    }
}

fn keeper() -> Keeper {
    KEEPER.get().copied().unwrap_or(Keeper::Systemd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_what_is_there() {
        for (keeper, edge, kubelet, containerd) in [
            (
                Keeper::Systemd,
                "systemctl start edge",
                "systemctl restart kubelet",
                "systemctl status containerd",
            ),
            (
                Keeper::Snap,
                "snap start edge.daemon",
                "systemctl restart kubelet",
                "systemctl status containerd",
            ),
            (
                Keeper::SnapNode,
                "snap start edge.daemon",
                "snap restart edge.kubelet",
                "snap logs edge.containerd",
            ),
        ] {
            assert_eq!(Service::Edge.command("start", keeper), edge);
            assert_eq!(Service::Kubelet.command("restart", keeper), kubelet);
            assert_eq!(Service::Containerd.command("status", keeper), containerd);
        }
        assert_eq!(Service::Edge.command("status", Keeper::Snap), "snap logs edge.daemon");
    }
}
