//! The address for pods is for those of this node: a neighbour has only to send there what is meant for it. Which is which
//! must hold whatever networks pods and neighbours are in.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::incluster_flannel as flannel;
use crate::support::{NodeOptions, Scene, seconds, workload};

const ADDRESS: &str = "169.254.64.45";
const LIST: &str = "/api/v1/namespaces/default/configmaps";
/// What is answered to one who shows nothing; `000` for nothing.
const CODE: &str = "curl -sk -m 5 -o /dev/null -w '%{http_code}' https://169.254.64.45:6445/version || true";

/// A gateway with a pod that is served.
fn scene() -> Result<Scene> {
    with_client(Scene::ready(&NodeOptions::default())?)
}

fn with_client(scene: Scene) -> Result<Scene> {
    workload::prepare_clients(&scene.node)?;
    let rights = workload::rights("client", "", &["configmaps"], &["client"]);
    scene.cluster.apply(&(workload::client("client") + &rights))?;
    workload::wait_clients(&scene.node, 1);
    pod_is_served(&scene)?;
    Ok(scene)
}

#[test]
fn another_machine_is_not_served_at_the_address_for_pods() -> Result<()> {
    another_machine_is_not_served(&scene()?)
}

#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn in_flannels_network_another_machine_is_not_served_at_the_address_for_pods() -> Result<()> {
    another_machine_is_not_served(&with_client(flannel::scene()?)?)
}

fn another_machine_is_not_served(scene: &Scene) -> Result<()> {
    let machine = scene.node.machine()?;
    ensure!(machine.shell(CODE)?.trim() == "401", "a program on the gateway is kept out");

    let neighbour = scene.cluster.machine();
    neighbour.shell(&format!("ip route add {ADDRESS}/32 via {}", scene.node.address()))?;
    neighbour_is_turned_away(scene)?;
    a_lan_may_be_behind_the_bridge_of_pods(scene)
}

fn address_of_client(scene: &Scene) -> Result<String> {
    let pods = scene.node.pods()?;
    Ok(pods.iter().find(|pod| pod.name == "client").context("no client")?.address.clone())
}

fn pod_is_served(scene: &Scene) -> Result<()> {
    let list = ["pod", "exec", "client", "--", "kubectl", "get", "--raw", LIST];
    ensure!(scene.edge.run(&scene.node, &list)?.contains("kube-root-ca.crt"), "a pod is kept out");
    Ok(())
}

fn neighbour_is_turned_away(scene: &Scene) -> Result<()> {
    let neighbour = scene.cluster.machine();
    let connects = format!("exec 3<>/dev/tcp/{ADDRESS}/6445");
    neighbour.run(&["timeout", "5", "bash", "-c", &connects])?;
    let code = neighbour.shell(CODE)?;
    ensure!(code.trim() == "000", "a neighbour is answered {code}");
    pod_is_served(scene).context("since then")
}

/// A cable between a new interface of the cloud's machine and one of the gateway's.
fn cable(scene: &Scene, there: &str, here: &str) -> Result<()> {
    let [cloud, gateway] = [scene.cluster.machine(), scene.node.machine()?].map(|m| m.init().to_string());
    let ends =
        ["link", "add", there, "netns", &cloud, "type", "veth", "peer", "name", here, "netns", &gateway];
    ensure!(Command::new("ip").args(ends).status()?.success(), "no cable");
    Ok(())
}

/// The port of the bridge is no pair of its own, as a gateway's cable is none.
fn a_lan_may_be_behind_the_bridge_of_pods(scene: &Scene) -> Result<()> {
    cable(scene, "lan", "eth1")?;
    let pods = address_of_client(scene)?;
    let pods = pods.rsplit_once('.').context("no address of IPv4")?.0;
    scene.node.machine()?.shell(&format!(
        "ip link add link eth1 name lan type macvlan mode passthru
        ip link set eth1 up; ip link set lan master cni0 up
        ip netns add other; ip link add other type veth peer name eth0 netns other
        ip link set other master cni0 up; ip -n other addr add {pods}.202/24 dev eth0
        ip -n other link set eth0 up; ip -n other route add default via {pods}.1"
    ))?;
    scene.cluster.machine().shell(&format!(
        "ip addr add {pods}.201/24 dev lan; ip link set lan up
        ip route replace {ADDRESS}/32 via {pods}.1 dev lan"
    ))?;
    neighbour_is_turned_away(scene)?;
    let code = scene.node.machine()?.shell(&format!("ip netns exec other {CODE}"))?;
    ensure!(code.trim() == "401", "who is behind a port as pods are is answered {code}");
    Ok(())
}

/// As with SR-IOV or `host-device`: what is sent to the pod leaves by the cable.
#[test]
fn a_pod_with_an_interface_of_the_lan_is_served() -> Result<()> {
    let scene = scene()?;
    cable(&scene, "pod", "lan0")?;
    scene.cluster.machine().shell("ip link set pod master br0 up")?;
    let (own, network) = (scene.node.address(), scene.node.sandbox("client")?.1);
    let address = &address_of_client(&scene)?;
    scene.node.machine()?.shell(&format!(
        "ip link set lan0 netns {network}
        nsenter --net={network} sh -ec '
            ip link set eth0 down; ip addr add {address}/32 dev lan0; ip link set lan0 up
            ip route add {own} dev lan0 src {address}; ip route add default via {own} dev lan0'
        ip route add {address}/32 dev eth0"
    ))?;
    let way = scene.node.machine()?.run(&["ip", "route", "get", address])?;
    ensure!(way.contains("dev eth0"), "{way}");
    scene.cluster.wait_for("the pod to be served", seconds(10), || pod_is_served(&scene));
    Ok(())
}
