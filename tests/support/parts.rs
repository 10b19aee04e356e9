//! Where the real programs are. Says what to run when one is missing; builds and fetches nothing.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The folder that `scripts/parts` fills.
pub fn cache() -> PathBuf {
    std::env::var_os("EDGE_PARTS").map_or_else(|| "/var/cache/edge-parts".into(), PathBuf::from)
}

/// The path of a program, given as `k8s/kubelet` in the parts folder or by its name on the system.
pub fn program(name: &str) -> Result<String> {
    let places = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from);
    let found = std::iter::once(cache()).chain(places).map(|dir| dir.join(name)).find(|path| path.exists());
    ensure!(found.is_some(), "no `{name}` here hint: run scripts/parts as root");
    Ok(found.unwrap_or_default().to_string_lossy().into_owned())
}

pub fn kubernetes(name: &str) -> Result<String> {
    program(&format!("k8s/{name}"))
}

pub fn containerd(name: &str) -> Result<String> {
    program(&format!("containerd-1.7/usr/bin/{name}"))
}

/// The client of containerd 1.6: the one of 1.7.24 cannot dial a unix socket.
pub fn ctr() -> Result<String> {
    program("ctr-1.6/usr/bin/ctr")
}

/// A PATH that begins with the folder of `daemon`, where containerd has its shim.
pub fn path_beside(daemon: &str) -> String {
    let dir = Path::new(daemon).parent().unwrap_or(Path::new("/")).display();
    format!("{dir}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// The path of kubectl, for a test that runs it on a node.
pub fn kubectl_path() -> Result<String> {
    kubernetes("kubectl")
}

/// kube-proxy, CoreDNS: what a network is made of.
pub fn network_part(name: &str) -> Result<String> {
    program(&format!("network/{name}"))
}
