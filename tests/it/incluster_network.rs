//! Services and their names after a reboot in an outage: kube-proxy has its rules back, CoreDNS answers, and pods talk to
//! each other by Service name, with both running as pods that ask the API server at the Service `kubernetes`.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::support::{
    ClusterOptions, Cut, Edge, KUBE_ADDRESS, NodeOptions, Scene, kubectl_path, network_part, seconds,
};

const MANIFEST: &str = include_str!("../support/manifests/network.yaml");
/// What the node is to run, and how many of each.
const PODS: [(&str, &str); 4] =
    [("kube-system", "kube-proxy"), ("kube-system", "coredns"), ("default", "web"), ("default", "client")];

fn scene() -> Result<Scene> {
    let options = NodeOptions {
        kubelet: json!({"clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local"}),
        ..NodeOptions::default()
    };
    // As everywhere but in the other tests: the API server says where it is.
    let cloud = ClusterOptions {
        apiserver: vec!["--endpoint-reconciler-type=lease".into()],
        ..ClusterOptions::default()
    };
    let scene = Scene::ready_in(&cloud, &options, KUBE_ADDRESS)?;
    let (cluster, node) = (&scene.cluster, &scene.node);
    node.import_programs("registry.test/client:1", &[&kubectl_path()?])?;
    node.import_programs("registry.test/kube-proxy:1", &[&network_part("kube-proxy")?])?;
    node.import_programs("registry.test/coredns:1", &[&network_part("coredns")?])?;
    cluster.wait_for("the default service account", seconds(60), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    cluster.apply(MANIFEST)?;
    cluster.wait_for("kube-proxy, CoreDNS and two pods", seconds(120), || running(&scene));
    Ok(scene)
}

fn running(scene: &Scene) -> Result<()> {
    let pods = scene.node.pods()?;
    for (namespace, name) in PODS {
        let found = pods.iter().find(|pod| pod.namespace == namespace && pod.name.starts_with(name));
        ensure!(found.is_some_and(|pod| pod.running()), "{namespace}/{name}: {found:?}");
    }
    Ok(())
}

fn exec(scene: &Scene, argv: &[&str]) -> Result<String> {
    scene.edge.run(&scene.node, &[&["pod", "exec", "client", "--"], argv].concat())
}

/// kube-proxy's rule for the cluster's name server.
fn has_rules(scene: &Scene) -> Result<()> {
    let rules = scene.node.machine()?.run(&["iptables-save", "-t", "nat"])?;
    ensure!(
        rules.lines().any(|rule| rule.contains("10.96.0.10/32") && rule.contains("-j KUBE-S")),
        "no rule"
    );
    Ok(())
}

fn resolves(scene: &Scene) -> Result<()> {
    let answer = exec(scene, &["busybox", "nslookup", "web.default.svc.cluster.local", "10.96.0.10"])?;
    ensure!(answer.contains("Address"), "{answer}");
    Ok(())
}

fn requests(scene: &Scene) -> Result<()> {
    let answer = exec(scene, &["curl", "-sS", "--max-time", "3", "http://web.default.svc.cluster.local/"])?;
    ensure!(answer.trim() == "hello from web", "{answer}");
    Ok(())
}

#[test]
#[allow(clippy::print_stdout, reason = "a test says how long its parts took")]
fn services_and_names_work_after_a_reboot_in_an_outage() -> Result<()> {
    let mut scene = scene()?;
    let wait = |scene: &Scene, what: &str, test: fn(&Scene) -> Result<()>| {
        scene.cluster.wait_for(what, seconds(90), || test(scene));
    };
    wait(&scene, "a request by name", requests);
    cluster_ip_leads_to_edge(&scene)?;
    the_cloud_keeps_its_endpoints(&scene)?;

    scene.cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.reboot()?;
    ensure!(has_rules(&scene).is_err(), "a reboot leaves no rules");
    let clock = Instant::now();
    let mark = |what: &str| println!("{:6.1} s  {what}", clock.elapsed().as_secs_f32());
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    wait(&scene, "kube-proxy's rules", has_rules);
    mark("kube-proxy's rules are back");
    wait(&scene, "an answer of CoreDNS", resolves);
    mark("CoreDNS answers");
    wait(&scene, "a request by name", requests);
    mark("a request by Service name");
    cluster_ip_leads_to_edge(&scene)?;

    // As a firewall does that is loaded anew.
    let flush = "for t in mangle nat filter; do iptables -w -t $t -F; iptables -w -t $t -X || true; done";
    scene.node.machine()?.shell(flush)?;
    wait(&scene, "kube-proxy's rules after a flush", |scene| has_rules(scene).and_then(|()| requests(scene)));
    mark("rules are back after a flush");
    scene.cluster.heal()?;
    scene.wait_link("online");
    wait(&scene, "a request by name with the cloud back", requests);
    the_cloud_keeps_its_endpoints(&scene)
}

/// A container that has the Service's own address, as those have that were made before the node joined.
fn cluster_ip_leads_to_edge(scene: &Scene) -> Result<()> {
    let old = ["env", "KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443"];
    let answer = exec(scene, &[&old[..], &["kubectl", "get", "--raw", "/version"]].concat())?;
    ensure!(answer.contains("gitVersion"), "{answer}");
    Ok(())
}

fn the_cloud_keeps_its_endpoints(scene: &Scene) -> Result<()> {
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice: Value = serde_json::from_str(&scene.cluster.raw(path)?).context("no slice")?;
    ensure!(slice["endpoints"][0]["addresses"][0] == "10.250.0.1", "{slice}");
    Ok(())
}
