//! The whole network of a node, after a reboot in an outage: flannel makes it, kube-proxy has its rules back, CoreDNS answers,
//! and pods talk to each other by Service name. All three run as pods that ask the API server at the Service `kubernetes`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::incluster_flannel::announced;
use crate::network_scene::{exec, has_network, has_rules, requests, resolves, running, scene};
use crate::support::{Cut, Edge, Scene, seconds};

/// As a power cut leaves files that nobody has synced: of libcni, flannel's plugin and host-local.
fn lose_what_plugins_noted(scene: &Scene) -> Result<()> {
    let noted = "/var/lib/cni/results/* /var/lib/cni/flannel/* /var/lib/cni/networks/*/10.*";
    let lost = format!("ls {noted} && truncate -s 0 {noted}");
    scene.node.machine()?.shell(&lost).map(drop)
}

#[test]
#[allow(clippy::print_stdout, reason = "a test says how long its parts took")]
fn pods_talk_by_service_name_after_a_reboot_in_an_outage() -> Result<()> {
    let mut scene = scene()?;
    let wait = |scene: &Scene, what: &str, test: fn(&Scene) -> Result<()>| {
        scene.cluster.wait_for(what, seconds(90), || test(scene));
    };
    wait(&scene, "a request by name", requests);
    wait(&scene, "an answer to a container of before", cluster_ip_leads_to_edge);
    the_cloud_keeps_its_endpoints(&scene)?;
    let online = announced(&scene)?;
    ensure!(online["flannel.alpha.coreos.com/backend-type"] == "vxlan", "{online}");

    scene.cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    lose_what_plugins_noted(&scene)?;
    scene.reboot()?;
    ensure!(has_rules(&scene).is_err() && has_network(&scene).is_err(), "a reboot leaves no network");
    let clock = Instant::now();
    let mark = |what: &str| {
        println!("{:6.1} s  {what}", clock.elapsed().as_secs_f32());
        clock.elapsed()
    };
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    wait(&scene, "kube-proxy's rules", has_rules);
    mark("kube-proxy's rules are back");
    wait(&scene, "flannel's network", has_network);
    mark("flannel has written subnet.env");
    wait(&scene, "pods with addresses", running);
    mark("pods have addresses and run");
    wait(&scene, "an answer of CoreDNS", resolves);
    mark("CoreDNS answers");
    wait(&scene, "a request by name", requests);
    let named = mark("a request by Service name");
    // The figure is 30 s; this is a build for debugging, on a machine that does other things.
    ensure!(named < Duration::from_secs(60), "{named:?}");
    cluster_ip_leads_to_edge(&scene)?;

    // As a firewall does that is loaded anew.
    let flush = "for t in mangle nat filter; do iptables -w -t $t -F; iptables -w -t $t -X || true; done";
    scene.node.machine()?.shell(flush)?;
    wait(&scene, "kube-proxy's rules after a flush", |scene| has_rules(scene).and_then(|()| requests(scene)));
    mark("rules are back after a flush");
    scene.cluster.heal()?;
    scene.wait_link("online");
    wait(&scene, "a request by name with the cloud back", requests);
    scene.cluster.wait_for("flannel's word in the cloud", seconds(30), || {
        let now = announced(&scene)?;
        ensure!(now == online, "{now}, and was {online}");
        Ok(())
    });
    the_cloud_keeps_its_endpoints(&scene)
}

/// A container that has the Service's own address, as those have that were made before the node joined.
fn cluster_ip_leads_to_edge(scene: &Scene) -> Result<()> {
    let old = ["env", "KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443"];
    // What any token may read, such as the version, would make none of them a known one.
    let read = ["kubectl", "get", "--raw", "/api/v1/namespaces/default/configmaps"];
    let answer = exec(scene, &[&old[..], &read].concat())?;
    ensure!(answer.contains("ConfigMapList"), "{answer}");
    Ok(())
}

fn the_cloud_keeps_its_endpoints(scene: &Scene) -> Result<()> {
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice: Value = serde_json::from_str(&scene.cluster.raw(path)?).context("no slice")?;
    ensure!(slice["endpoints"][0]["addresses"][0] == "10.250.0.1", "{slice}");
    Ok(())
}
