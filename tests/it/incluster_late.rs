//! The address for pods is somebody else's while a gateway boots in an outage, and had later.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::incluster::{ADDRESS, CLUSTER_IP, exec, part, reads, scene, with_clients};
use crate::incluster_flannel as flannel;
use crate::support::{Cut, Edge, Pod, Scene, seconds, workload};

/// Boots in an outage with the address taken.
fn reboot_without_it(scene: &mut Scene) -> Result<()> {
    scene.cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.node.reboot()?;
    let take = format!("ip link add mine type bridge; ip addr add {ADDRESS}/32 dev mine");
    scene.node.machine()?.shell(&take)?;
    scene.edge.start(&scene.node)?;
    scene.node.start_kubelet(Edge::KUBECONFIG)
}

/// Nobody else has it any more.
fn give_it_back(scene: &Scene) -> Result<()> {
    ensure!(part(scene)?.0 == "trouble", "{:?}", part(scene)?);
    scene.node.machine()?.shell("ip link del mine")?;
    scene.cluster.wait_for("the address", seconds(15), || {
        ensure!(part(scene)?.0 == "good", "{:?}", part(scene)?);
        Ok(())
    });
    Ok(())
}

/// Where a container looks for the API server.
fn host_in(environment: &str) -> Result<String> {
    let line = environment.lines().find_map(|line| line.strip_prefix("KUBERNETES_SERVICE_HOST="));
    Ok(line.with_context(|| environment.to_owned())?.to_owned())
}

/// While somebody else has the address, kubelet is served from what is kept, and told the cloud's.
#[test]
fn an_address_that_is_had_late_in_an_outage_is_shown_to_who_runs() -> Result<()> {
    let mut scene = scene()?;
    let online = reads(&scene)?;
    let address = |scene: &Scene| host_in(&exec(scene, "client", &["env"])?);
    reboot_without_it(&mut scene)?;
    workload::wait_clients(&scene.node, 2);
    ensure!(address(&scene)? == CLUSTER_IP, "{}", address(&scene)?);
    give_it_back(&scene)?;
    let risk = by_old_address(&scene, "default/client")?.context("status does not name the pod")?;
    ensure!(risk["reason"].as_str().is_some_and(|why| why.contains(CLUSTER_IP)), "{risk}");
    let words: Vec<&str> =
        risk["restart"].as_array().context("no remedy")?.iter().filter_map(Value::as_str).collect();
    let text = scene.edge.run(&scene.node, &["status"])?;
    ensure!(text.contains(&format!("\nedge {}\n", words.join(" "))), "{text}");
    scene.cluster.wait_for("a new container with it", seconds(90), || {
        scene.edge.run(&scene.node, &words)?;
        workload::wait_clients(&scene.node, 2);
        let address = address(&scene)?;
        ensure!(address == ADDRESS, "{address}");
        Ok(())
    });
    ensure!(reads(&scene)? == online, "and it is answered there");
    ensure!(by_old_address(&scene, "default/client")?.is_none(), "status names the pod still");
    ensure!(by_old_address(&scene, "default/stranger")?.is_some(), "status names another no more");
    Ok(())
}

/// flannel is told the cloud's address as well, and ends where nobody answers; no pod has a network until then.
#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn in_flannels_network_pods_are_back_once_the_address_is_had_late_in_an_outage() -> Result<()> {
    let mut scene = with_clients(flannel::scene()?)?;
    let online = reads(&scene)?;
    reboot_without_it(&mut scene)?;
    let address = |scene: &Scene| {
        let pods = scene.node.pods()?;
        // It is never ready where nobody answers it.
        let runs = |pod: &&Pod| pod.namespace == "kube-flannel" && pod.containers.iter().any(|c| c.running);
        let name = &*pods.iter().find(runs).with_context(|| format!("no flannel: {pods:?}"))?.name;
        host_in(&scene.edge.run(&scene.node, &["pod", "exec", "-n", "kube-flannel", name, "--", "env"])?)
    };
    let told = scene.cluster.wait_for("flannel's container", seconds(60), || address(&scene));
    ensure!(told == CLUSTER_IP, "{told}");
    ensure!(scene.node.machine()?.read(flannel::SUBNET).is_err(), "a network without flannel");
    give_it_back(&scene)?;
    scene.cluster.wait_for("flannel's network", seconds(120), || {
        scene.node.machine()?.read(flannel::SUBNET)?;
        address(&scene)
    });
    workload::wait_clients(&scene.node, 2);
    ensure!(reads(&scene)? == online, "and pods are answered");
    Ok(())
}

/// What `edge status` says of a pod that was started before pods were led here.
fn by_old_address(scene: &Scene, pod: &str) -> Result<Option<Value>> {
    let status = scene.edge.status(&scene.node)?;
    let all = status["atRisk"].as_array().context("no risks")?;
    let named =
        |risk: &&Value| risk["pod"] == pod && risk["restart"].as_array().is_some_and(|w| !w.is_empty());
    Ok(all.iter().find(named).cloned())
}
