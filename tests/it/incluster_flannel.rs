//! A network plugin that runs as a pod: flannel, which keeps what it needs in the API server. After a reboot in an outage
//! there is no network for pods until it has read its node through edge and told how it is reached.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::{
    ClusterOptions, Cut, Edge, KUBE_ADDRESS, NodeOptions, Pod, Scene, network_part, seconds,
};

const MANIFEST: &str = include_str!("../support/manifests/flannel.yaml");
/// What flannel writes for its CNI plugin; gone with the power.
const SUBNET: &str = "/run/flannel/subnet.env";

/// A gateway whose network is flannel's, and two pods in it.
fn scene() -> Result<Scene> {
    let cloud = ClusterOptions {
        controller_manager: vec!["--allocate-node-cidrs=true".into(), "--cluster-cidr=10.244.0.0/16".into()],
        ..ClusterOptions::default()
    };
    let mut scene = Scene::ready_in(&cloud, &NodeOptions::default(), KUBE_ADDRESS)?;
    let programs = [network_part("flanneld")?, network_part("flannel")?];
    scene.node.import_programs("registry.test/flannel:1", &[&programs[0], &programs[1]])?;
    // No network but the one that flannel makes: the plugins that it delegates to, and not yet its own.
    scene.node.machine()?.shell(
        "rm /etc/cni/net.d/*; mkdir -p /var/lib/cni/bin
         for p in bridge host-local loopback portmap; do ln -sf /usr/lib/cni/$p /var/lib/cni/bin/$p; done
         sed -i 's#\"/usr/lib/cni\"#\"/var/lib/cni/bin\"#' /etc/containerd/config.toml",
    )?;
    scene.node.stop_containerd();
    scene.node.start_containerd()?;
    let cluster = &scene.cluster;
    cluster.wait_for("the default service account", seconds(60), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    cluster.apply(MANIFEST)?;
    cluster.wait_for("flannel and two pods in its network", seconds(120), || running(&scene).map(drop));
    Ok(scene)
}

/// flannel runs, and both pods do, in the range that the cloud gave this node; the two.
fn running(scene: &Scene) -> Result<[Pod; 2]> {
    let pods = scene.node.pods()?;
    let find = |name: &str| {
        let found = pods.iter().find(|pod| pod.name.starts_with(name));
        found.filter(|pod| pod.running()).cloned().with_context(|| format!("no running {name}: {pods:?}"))
    };
    find("kube-flannel-ds-")?;
    let two = [find("web")?, find("client")?];
    for pod in &two {
        ensure!(pod.address.starts_with("10.244."), "{pod:?}");
    }
    Ok(two)
}

fn talk(scene: &Scene) -> Result<()> {
    let [web, _] = running(scene)?;
    // A static busybox has no use for names, and its `wget` none for addresses.
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {} 8080", web.address);
    let answer = scene.edge.run(&scene.node, &["pod", "exec", "client", "--", "sh", "-c", &ask])?;
    ensure!(answer.trim().ends_with("hello from web"), "{answer}");
    Ok(())
}

/// flannel's word on how its node is reached, as the cloud has it.
fn announced(scene: &Scene) -> Result<Value> {
    let node = scene.cluster.get("/api/v1/nodes/node-1")?;
    let all = node["metadata"]["annotations"].as_object().context("no annotations")?;
    let own = all.iter().filter(|(key, _)| key.starts_with("flannel.alpha.coreos.com/"));
    Ok(own.map(|(key, value)| (key.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into())
}

#[test]
#[allow(clippy::print_stdout, reason = "a test says how long its parts took")]
fn a_network_plugin_in_a_pod_starts_in_an_outage() -> Result<()> {
    let mut scene = scene()?;
    scene.cluster.wait_for("an answer from pod to pod", seconds(60), || talk(&scene));
    let online = announced(&scene)?;
    ensure!(online["flannel.alpha.coreos.com/backend-type"] == "vxlan", "{online}");

    scene.cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.reboot()?;
    ensure!(scene.node.machine()?.read(SUBNET).is_err(), "a reboot leaves no network");
    let clock = Instant::now();
    let mark = |what: &str| println!("{:6.1} s  {what}", clock.elapsed().as_secs_f32());
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    scene.cluster.wait_for("flannel's network", seconds(60), || scene.node.machine()?.read(SUBNET));
    mark("flannel has written subnet.env");
    scene.cluster.wait_for("pods with addresses", seconds(90), || running(&scene).map(drop));
    mark("pods have addresses and run");
    scene.cluster.wait_for("an answer from pod to pod", seconds(30), || talk(&scene));
    mark("pods talk");

    scene.cluster.heal()?;
    scene.wait_link("online");
    scene.cluster.wait_for("flannel's word in the cloud", seconds(30), || {
        let now = announced(&scene)?;
        ensure!(now == online, "{now}, and was {online}");
        Ok(())
    });
    talk(&scene)
}
