//! flannel as the network plugin, in a pod: it keeps what it needs in the API server, and there is no network for pods until
//! it has read its node through edge and told how it is reached.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::support::{ClusterOptions, KUBE_ADDRESS, NodeOptions, Scene, network_part, seconds};

/// What flannel runs as, from its own project.
pub const MANIFEST: &str = include_str!("../support/manifests/flannel.yaml");
/// What flannel writes for its CNI plugin; gone with the power.
pub const SUBNET: &str = "/run/flannel/subnet.env";
/// How addresses of its network begin.
pub const NETWORK: &str = "10.244.";

/// A cloud that gives each node a range of addresses for its pods.
pub fn cloud() -> ClusterOptions {
    ClusterOptions {
        controller_manager: vec!["--allocate-node-cidrs=true".into(), "--cluster-cidr=10.244.0.0/16".into()],
        ..ClusterOptions::default()
    }
}

/// Prepares a gateway that has no network for pods but the one that flannel will make: the plugins that it delegates to are
/// there, its own not yet.
pub fn prepare(scene: &mut Scene) -> Result<()> {
    let programs = [network_part("flanneld")?, network_part("flannel")?];
    scene.node.import_programs("registry.test/flannel:1", &[&programs[0], &programs[1]])?;
    scene.node.machine()?.shell(
        "rm /etc/cni/net.d/*; mkdir -p /var/lib/cni/bin
         for p in bridge host-local loopback portmap; do ln -sf /usr/lib/cni/$p /var/lib/cni/bin/$p; done
         sed -i 's#\"/usr/lib/cni\"#\"/var/lib/cni/bin\"#' /etc/containerd/config.toml",
    )?;
    scene.node.stop_containerd();
    scene.node.start_containerd()
}

/// A gateway whose network for pods is flannel's, which runs as a pod.
pub fn scene() -> Result<Scene> {
    let mut scene = Scene::ready_in(&cloud(), &NodeOptions::default(), KUBE_ADDRESS)?;
    prepare(&mut scene)?;
    scene.cluster.apply(MANIFEST)?;
    let machine = scene.node.machine()?;
    scene.cluster.wait_for("flannel's network", seconds(150), || machine.read(SUBNET));
    Ok(scene)
}

/// flannel's word on how its node is reached, as the cloud has it.
pub fn announced(scene: &Scene) -> Result<Value> {
    let node = scene.cluster.get("/api/v1/nodes/node-1")?;
    let all = node["metadata"]["annotations"].as_object().context("no annotations")?;
    let own = all.iter().filter(|(key, _)| key.starts_with("flannel.alpha.coreos.com/"));
    Ok(own.map(|(key, value)| (key.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into())
}
