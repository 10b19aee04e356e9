//! A cluster whose Services have addresses of IPv6: edge says that its own address is of the other family and leaves pods
//! alone, and with one of theirs serves them as others, after a reboot in an outage too.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::incluster::part;
use crate::support::{ClusterOptions, Cut, Edge, KUBE_ADDRESS, NodeOptions, Scene, seconds, workload};

const CLOUD: &str = "fd00:10:96::1";
const OWN: &str = "fd69:6467:6500::45";
const LIST: &str = "/api/v1/namespaces/default/configmaps";

/// Pods with an address of each family.
fn network() -> String {
    json!({
        "cniVersion": "0.4.0", "name": "edge-test",
        "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.88.1.0/24"}], [{"subnet": "fd00:88::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        }],
    })
    .to_string()
}

fn exec(scene: &Scene, argv: &[&str]) -> Result<String> {
    scene.edge.run(&scene.node, &[&["pod", "exec", "client", "--"], argv].concat())
}

/// A new container, and the API server's address in it.
fn started(scene: &Scene, host: &str) -> Result<()> {
    scene.cluster.kubectl(&["delete", "pod", "client", "--ignore-not-found", "--now"])?;
    scene.cluster.apply(&workload::client("client"))?;
    workload::wait_clients(&scene.node, 1);
    let environment = exec(scene, &["env"])?;
    let line = format!("KUBERNETES_SERVICE_HOST={host}");
    ensure!(environment.lines().any(|l| l == line), "no `{line}` in {environment}");
    Ok(())
}

#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn pods_of_a_cluster_of_ipv6_are_left_alone_until_edge_has_an_address_of_theirs() -> Result<()> {
    let cloud = ClusterOptions {
        apiserver: vec![
            "--service-cluster-ip-range=fd00:10:96::/112".into(),
            "--advertise-address=fd00:250::1".into(),
        ],
        ..ClusterOptions::default()
    };
    let mut scene = Scene::ready_in(&cloud, &NodeOptions::default(), KUBE_ADDRESS)?;
    scene.node.machine()?.write("/etc/cni/net.d/10-edge.conflist", &network())?;
    workload::prepare_clients(&scene.node)?;
    scene.cluster.apply(&workload::rights("client", "", &["configmaps"], &["client"]))?;
    scene.cluster.wait_for("word of the other family", seconds(20), || {
        let (state, message) = part(&scene)?;
        ensure!(
            state == "trouble"
                && message.contains("the Service `kubernetes` is of IPv6")
                && message.contains(&format!("hint: set `proxy.in-cluster-listen` to `[{OWN}]:6445`")),
            "{state}: {message}"
        );
        Ok(())
    });
    started(&scene, CLOUD).context("pods are left alone")?;

    let key = format!("proxy.in-cluster-listen=[{OWN}]:6445");
    scene.edge.run(&scene.node, &["config", "set", &key])?;
    scene.edge.stop();
    scene.edge.start(&scene.node)?;
    scene.wait_link("online");
    scene.cluster.wait_for("a container that finds edge", seconds(60), || started(&scene, OWN));
    let (state, message) = part(&scene)?;
    ensure!(state == "good" && message.contains(OWN), "{state}: {message}");
    let reads = |scene: &Scene| exec(scene, &["kubectl", "get", "--raw", LIST]);
    ensure!(reads(&scene)?.contains("kube-root-ca.crt"));

    scene.cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    workload::wait_clients(&scene.node, 1);
    ensure!(reads(&scene)?.contains("kube-root-ca.crt"), "after the reboot");
    Ok(())
}
