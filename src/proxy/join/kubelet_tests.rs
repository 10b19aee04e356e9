//! Where kubelet's own links lead, for who sees its folder under another path than kubelet does.

use std::os::unix::fs::symlink;

use super::*;

/// Kubelet's folder, as a strict snap sees it: kubelet's links name files below a path that is not there.
struct Seen {
    folder: tempfile::TempDir,
    rotated: Rotated,
    ca: LocalCa,
}

impl Seen {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = LocalCa::open_or_create(&folder.path().join("ca")).unwrap();
        Self { rotated: Rotated::in_folder(folder.path()), folder, ca }
    }

    /// Has kubelet store a certificate that `ca` signed, as client-go does it.
    fn store(&self, ca: &LocalCa, name: &str) -> ClientCertificate {
        let pair = ca.issue_client("system:node:a", "system:nodes").unwrap();
        let pair = ClientCertificate::parse(Path::new("x"), &pair.chain, &pair.key).unwrap();
        let dated = self.folder.path().join(name);
        durable::write(&dated, pair.both_pem().as_bytes(), 0o600).unwrap();
        durable::remove(&self.rotated.current()).unwrap();
        symlink(Path::new("/nowhere/of/the/host").join(name), self.rotated.current()).unwrap();
        pair
    }
}

#[test]
fn what_edge_signed_is_known_behind_a_link_by_the_whole_path() {
    let (seen, cloud) = (Seen::new(), Seen::new().ca);
    seen.store(&cloud, "kubelet-client-2026.pem");
    assert!(seen.rotated.is_armed(&seen.ca) && !seen.rotated.is_local(&seen.ca));
    seen.store(&seen.ca, "kubelet-client-2027.pem");
    assert!(seen.rotated.is_local(&seen.ca) && !seen.rotated.is_armed(&seen.ca));
    seen.rotated.drop_local(&seen.ca).unwrap();
    assert!(!exists(&seen.rotated.current()), "only edge accepts it");
}

#[test]
fn the_cloud_s_comes_back_as_it_was_behind_a_link_by_the_whole_path() {
    let (seen, cloud) = (Seen::new(), Seen::new().ca);
    let pair = seen.store(&cloud, "kubelet-client-2026.pem");
    seen.rotated.disarm().unwrap();
    seen.store(&seen.ca, "kubelet-client-2027.pem");
    seen.rotated.rearm(Some(&pair)).unwrap();
    let link = seen.rotated.current().read_link().unwrap();
    assert_eq!(link, Path::new("/nowhere/of/the/host/kubelet-client-2026.pem"));
    assert!(!exists(&seen.rotated.aside()));
    // One that is gone is none of edge's, and kubelet cannot read it either.
    durable::remove(&seen.folder.path().join("kubelet-client-2026.pem")).unwrap();
    assert!(seen.rotated.is_armed(&seen.ca));
}
