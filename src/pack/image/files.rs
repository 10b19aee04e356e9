//! The files of config/appliance, within this program: an image needs nothing of the checkout.

/// What the root has beside its packages.
pub const CONTENT: &str = include_str!("../../../config/appliance.toml");
/// The first program of the initrd.
pub const INIT: &str = include_str!("../../../config/appliance.init");
/// What it does besides on a board whose boot loader counts nothing.
pub const TRIES: &str = include_str!("../../../config/appliance.tries");
/// The unit of the daemon, as it is for any machine.
pub const EDGE_UNIT: &str = include_str!("../../../config/edge.service");

macro_rules! files {
    ($($path:literal,)*) => { [$(($path, include_str!(concat!("../../../config/appliance/", $path)))),*] };
}

/// Each by its path in the root.
pub const FILES: [(&str, &str); 47] = files![
    "etc/chrony/conf.d/edge.conf",
    "etc/containerd/config.toml",
    "etc/fstab",
    "etc/hosts",
    "etc/nftables.conf",
    "etc/shells",
    "usr/lib/modules-load.d/edge.conf",
    "usr/lib/repart.d/50-data.conf",
    "usr/lib/sysctl.d/90-edge.conf",
    "usr/lib/systemd/journald.conf.d/10-edge.conf",
    "usr/lib/systemd/network/80-edge.network",
    "usr/lib/systemd/resolved.conf.d/10-edge.conf",
    "usr/lib/systemd/system-preset/00-appliance.preset",
    "usr/lib/systemd/system.conf.d/10-edge.conf",
    "usr/lib/systemd/system/chrony.service.d/10-appliance.conf",
    "usr/lib/systemd/system/containerd.service.d/10-appliance.conf",
    "usr/lib/systemd/system/cri-containerd-.scope.d/10-appliance.conf",
    "usr/lib/systemd/system/dev-mapper-data.device.d/10-appliance.conf",
    "usr/lib/systemd/system/edge-data.service",
    "usr/lib/systemd/system/edge-fallback.service",
    "usr/lib/systemd/system/edge-fallback.timer",
    "usr/lib/systemd/system/edge-healthy.service",
    "usr/lib/systemd/system/edge-images.service",
    "usr/lib/systemd/system/edge-ntp.path",
    "usr/lib/systemd/system/edge-ntp.service",
    "usr/lib/systemd/system/edge-preload.service",
    "usr/lib/systemd/system/edge-provision.service",
    "usr/lib/systemd/system/edge-ssh.service",
    "usr/lib/systemd/system/edge-trial.service",
    "usr/lib/systemd/system/edge.service.d/10-appliance.conf",
    "usr/lib/systemd/system/efi.mount",
    "usr/lib/systemd/system/emergency.target.d/10-appliance.conf",
    "usr/lib/systemd/system/identity.mount",
    "usr/lib/systemd/system/kubelet.service",
    "usr/lib/systemd/system/nftables.service.d/10-appliance.conf",
    "usr/lib/systemd/system/systemd-fsck@dev-disk-edge-ESP.service.d/10-appliance.conf",
    "usr/lib/systemd/system/systemd-fsck@dev-mapper-data.service.d/10-appliance.conf",
    "usr/lib/systemd/system/systemd-resolved.service.d/10-appliance.conf",
    "usr/lib/systemd/system/var.mount",
    "usr/lib/sysusers.d/edge.conf",
    "usr/lib/tmpfiles.d/edge.conf",
    "usr/lib/udev/rules.d/61-edge.rules",
    "usr/share/edge/cni/99-edge.conflist",
    "usr/share/edge/fallback",
    "usr/share/edge/firewall",
    "usr/share/edge/kubelet.yaml",
    "usr/share/edge/ntp",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn below(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn the_program_has_every_file_of_the_folder() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/appliance");
        let mut there: Vec<String> = below(&folder)
            .iter()
            .map(|path| path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned())
            .collect();
        there.sort();
        assert_eq!(there, FILES.map(|(path, _)| path));
    }
}
