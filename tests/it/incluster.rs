//! Pods that ask the API server at the Service `kubernetes`: on a gateway they reach it through edge, also after a reboot
//! in an outage, each with its own token and what it has read itself.

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use serde_json::Value;

use crate::incluster_flannel as flannel;
use crate::support::{Cut, Edge, NodeOptions, Scene, seconds, workload};

/// Where pods find edge.
pub const ADDRESS: &str = "169.254.64.45";
pub const PORT: &str = "6445";
/// The cloud's address of the Service.
pub const CLUSTER_IP: &str = "10.96.0.1";

/// `client` may read and write ConfigMaps, `stranger` nothing.
fn manifest() -> String {
    let settings =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: default}\ndata: {a: '1'}\n";
    let rights = workload::rights("client", "", &["configmaps"], &["client"]);
    workload::client("client") + &workload::client("stranger") + &rights + settings
}

/// The ConfigMaps of the pod's own namespace, as client-go asks for them today.
const WATCH_LIST: &str = "/api/v1/namespaces/default/configmaps?watch=true&sendInitialEvents=true\
    &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=2";
const LIST: &str = "/api/v1/namespaces/default/configmaps";

/// A gateway whose pods `client` and `stranger` run.
pub fn scene() -> Result<Scene> {
    with_clients(Scene::ready(&NodeOptions::default())?)
}

pub fn with_clients(scene: Scene) -> Result<Scene> {
    workload::prepare_clients(&scene.node)?;
    scene.cluster.apply(&manifest())?;
    workload::wait_clients(&scene.node, 2);
    Ok(scene)
}

/// Runs a command in a pod's container, through edge, whatever the cloud does.
pub fn exec(scene: &Scene, pod: &str, argv: &[&str]) -> Result<String> {
    scene.edge.run(&scene.node, &[&["pod", "exec", pod, "--"], argv].concat())
}

/// kubectl in a pod, which finds the API server as every client does. (With a flag such as `--request-timeout` it would not.)
fn kubectl(scene: &Scene, pod: &str, args: &[&str]) -> Result<String> {
    exec(scene, pod, &[&["kubectl"], args].concat())
}

/// The names in a list, and in a streamed list, which must end in its bookmark.
pub fn reads(scene: &Scene) -> Result<Vec<String>> {
    let list: Value = serde_json::from_str(&kubectl(scene, "client", &["get", "--raw", LIST])?)?;
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut names: Vec<String> = list["items"].as_array().context("no items")?.iter().map(name).collect();
    let watch = kubectl(scene, "client", &["get", "--raw", WATCH_LIST])?;
    let events: Vec<Value> =
        serde_json::Deserializer::from_str(&watch).into_iter().collect::<Result<_, _>>()?;
    let added = events.iter().take_while(|event| event["type"] == "ADDED");
    let mut streamed: Vec<String> = added.map(|event| name(&event["object"])).collect();
    let end = events.get(streamed.len()).context("nothing behind the objects")?;
    ensure!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true", "{end}");
    names.sort();
    streamed.sort();
    ensure!(names == streamed, "listed {names:?}, streamed {streamed:?}");
    Ok(names)
}

/// `in-cluster` in `edge status`.
pub fn part(scene: &Scene) -> Result<(String, String)> {
    let status = scene.edge.status(&scene.node)?;
    let parts = status["parts"].as_array().context("no parts")?;
    let part = parts.iter().find(|part| part["part"] == "in-cluster").context("no such part")?;
    let text = |field: &str| part[field].as_str().unwrap_or_default().to_owned();
    Ok((text("state"), text("message")))
}

#[test]
fn a_pod_reads_the_cluster_after_a_reboot_in_an_outage() -> Result<()> {
    reads_after_a_reboot(scene()?)
}

#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn in_flannels_network_a_pod_reads_the_cluster_after_a_reboot_in_an_outage() -> Result<()> {
    reads_after_a_reboot(with_clients(flannel::scene()?)?)
}

fn reads_after_a_reboot(mut scene: Scene) -> Result<()> {
    let environment = exec(&scene, "client", &["env"])?;
    for (name, value) in [("HOST", ADDRESS), ("PORT", PORT), ("PORT_HTTPS", PORT)] {
        let line = format!("KUBERNETES_SERVICE_{name}={value}");
        ensure!(environment.lines().any(|l| l == line), "no `{line}` in {environment}");
    }
    let trusted = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
    let trusted = exec(&scene, "client", &["cat", trusted])?;
    ensure!(trusted.matches("BEGIN CERTIFICATE").count() == 2, "{trusted}");
    nothing_changed_in_the_cloud(&scene)?;
    let online = reads(&scene)?;
    ensure!(online.contains(&"settings".to_owned()), "{online:?}");
    ensure!(kubectl(&scene, "client", &["get", "configmaps"])?.contains("settings"), "kubectl's own way");

    scene.cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    workload::wait_clients(&scene.node, 2);
    ensure!(reads(&scene)? == online, "after the reboot");
    let table = kubectl(&scene, "client", &["get", "configmaps"])?;
    ensure!(table.contains("settings"), "kubectl finds its way by discovery: {table}");
    let refused =
        kubectl(&scene, "stranger", &["get", "--raw", LIST]).err().context("a stranger is served")?;
    ensure!(format!("{refused:#}").contains("nauthorized"), "{refused:#}");
    for write in [["delete", "configmap", "settings"], ["create", "configmap", "made"]] {
        let refused = kubectl(&scene, "client", &write);
        let refused = refused.err().with_context(|| format!("{write:?} went well without the cloud"))?;
        ensure!(format!("{refused:#}").contains("the cloud is away"), "{refused:#}");
    }
    status_tells_of_clients(&scene)?;

    scene.cluster.heal()?;
    scene.wait_link("online");
    ensure!(reads(&scene)? == online, "with the cloud back");
    nothing_changed_in_the_cloud(&scene)?;
    scene.cluster.kubectl(&["delete", "rolebinding", "client"])?;
    scene.cluster.wait_for("the end of the client's rights", seconds(10), || {
        let refused = kubectl(&scene, "client", &["get", "--raw", LIST]).err().context("still served")?;
        ensure!(format!("{refused:#}").contains("orbidden"), "{refused:#}");
        Ok(())
    });
    Ok(())
}

/// What is kept for each, how old it is, and what it was refused; for programs and for people.
#[allow(clippy::print_stdout, reason = "the README shows it")]
fn status_tells_of_clients(scene: &Scene) -> Result<()> {
    let status = scene.edge.status(&scene.node)?;
    let all = status["clients"].as_array().context("no clients")?;
    let of =
        |name: &str| all.iter().find(|c| c["client"] == name).with_context(|| format!("no {name}: {all:?}"));
    let client = of("default/client")?;
    ensure!(client["pod"] == "client" && client["agent"] == "kubectl", "{client}");
    let kept = client["resources"].as_array().context("no resources")?;
    let maps = kept.iter().find(|r| r["resource"] == "v1/configmaps").context("no ConfigMaps")?;
    ensure!(maps["objects"].as_i64() > Some(1) && maps["synced"].is_string(), "{maps}");
    ensure!(client["lastRefused"]["request"] == "create v1/configmaps", "{client}");
    // The cloud never accepted it, so that it has no name but its token's hash.
    ensure!(of("default/stranger").is_err(), "{all:?}");
    let stranger = all.iter().find(|c| c["client"].as_str().is_some_and(|name| name.starts_with("token:")));
    let stranger = stranger.with_context(|| format!("no stranger: {all:?}"))?;
    ensure!(
        stranger["lastRefused"]["code"] == 401 && stranger["resources"] == serde_json::json!([]),
        "{stranger}"
    );
    let text = scene.edge.run(&scene.node, &["status"])?;
    let row = text.lines().find(|line| line.starts_with("default/client ")).context(text.clone())?;
    ensure!(row.contains("v1/configmaps (503)") && row.contains("ago"), "{row}");
    println!("{text}");
    Ok(())
}

fn nothing_changed_in_the_cloud(scene: &Scene) -> Result<()> {
    let service: Value =
        serde_json::from_str(&scene.cluster.raw("/api/v1/namespaces/default/services/kubernetes")?)?;
    ensure!(service["spec"]["clusterIP"] == CLUSTER_IP, "{service}");
    let root = scene.cluster.raw("/api/v1/namespaces/default/configmaps/kube-root-ca.crt")?;
    ensure!(root.matches("BEGIN CERTIFICATE").count() == 1, "{root}");
    Ok(())
}

#[test]
fn the_address_for_pods_comes_back_whoever_takes_it() -> Result<()> {
    address_comes_back(&scene()?)
}

#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn in_flannels_network_the_address_for_pods_comes_back_whoever_takes_it() -> Result<()> {
    address_comes_back(&with_clients(flannel::scene()?)?)
}

fn address_comes_back(scene: &Scene) -> Result<()> {
    let machine = scene.node.machine()?;
    reads(scene)?;
    machine.shell("ip link del edge-api")?;
    scene.cluster.wait_for("the interface again", seconds(10), || {
        let (state, message) = part(scene)?;
        ensure!(state == "good" && message.contains("made again 1 times"), "{state}: {message}");
        reads(scene)
    });
    machine.shell(&format!("ip addr del {ADDRESS}/32 dev edge-api"))?;
    scene.cluster.wait_for("the address again", seconds(10), || reads(scene));

    machine.shell(&format!(
        "ip link del edge-api; ip link add mine type bridge; ip addr add {ADDRESS}/32 dev mine"
    ))?;
    scene.cluster.wait_for("word of who has the address", seconds(15), || {
        machine.shell("ip link del edge-api 2>/dev/null || true")?;
        let (state, message) = part(scene)?;
        ensure!(
            state == "trouble" && message.contains("`mine`") && message.contains("hint:"),
            "{state}: {message}"
        );
        Ok(())
    });
    scene.kubectl(&["get", "--raw", "/api/v1/nodes/node-1"]).context("kubelet is served all the same")?;
    machine.shell("ip link del mine")?;
    scene.cluster.wait_for("the address back", seconds(15), || reads(scene));
    Ok(())
}

/// A pod of a cluster of old, whose token and authority are in a Secret.
const OLD: &str = "
apiVersion: v1
kind: Secret
metadata: {name: client-token, namespace: default, annotations: {kubernetes.io/service-account.name: client}}
type: kubernetes.io/service-account-token
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: default}
spec:
  serviceAccountName: client
  terminationGracePeriodSeconds: 1
  volumes: [{name: token, secret: {secretName: client-token}}]
  containers:
  - name: main
    image: registry.test/client:1
    imagePullPolicy: Never
    env: [{name: HOME, value: /tmp}]
    volumeMounts: [{name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]
";

#[test]
fn a_pod_whose_authority_is_in_a_secret_trusts_edge_too() -> Result<()> {
    let scene = scene()?;
    scene.cluster.apply(OLD)?;
    workload::wait_clients(&scene.node, 3);
    let environment = exec(&scene, "old", &["env"])?;
    ensure!(environment.contains(&format!("KUBERNETES_SERVICE_HOST={ADDRESS}\n")), "{environment}");
    ensure!(kubectl(&scene, "old", &["get", "--raw", LIST])?.contains("settings"), "it is answered");
    let secret = scene.cluster.get("/api/v1/namespaces/default/secrets/client-token")?;
    let authority = secret["data"]["ca.crt"].as_str().context("no authority")?;
    let authority = base64::engine::general_purpose::STANDARD.decode(authority)?;
    let count = String::from_utf8(authority)?.matches("BEGIN CERTIFICATE").count();
    ensure!(count == 1, "the cloud's own Secret is not changed");
    Ok(())
}

/// As with a modem that is off when the power comes back: no carrier, and nobody who gives a route.
#[test]
fn pods_read_the_cluster_after_a_reboot_without_link_and_route() -> Result<()> {
    let mut scene = scene()?;
    let online = reads(&scene)?;
    scene.node.reboot()?;
    scene.node.machine()?.shell("ip route del default; ip link set eth0 down")?;
    ensure!(scene.node.machine()?.run(&["ip", "route", "show", "default"])?.trim().is_empty(), "a route");
    scene.edge.start(&scene.node)?;
    scene.wait_link("offline");
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    workload::wait_clients(&scene.node, 2);
    ensure!(part(&scene)?.0 == "good", "{:?}", part(&scene)?);
    ensure!(reads(&scene)? == online, "after the reboot");
    scene.node.machine()?.shell("ip link set eth0 up; ip route add default via 10.250.0.1")?;
    scene.wait_link("online");
    ensure!(reads(&scene)? == online, "with the link back");
    Ok(())
}

#[test]
fn what_is_left_out_is_not_kept_and_what_is_turned_off_is_shown_as_it_is() -> Result<()> {
    left_out_and_turned_off(scene()?)
}

#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn in_flannels_network_what_is_left_out_is_not_kept_and_what_is_turned_off_is_shown_as_it_is() -> Result<()> {
    left_out_and_turned_off(with_clients(flannel::scene()?)?)
}

fn left_out_and_turned_off(mut scene: Scene) -> Result<()> {
    for (key, value) in [("leave-out", "configmaps"), ("cached", "default/stranger")] {
        scene.edge.run(&scene.node, &["config", "set", &format!("proxy.clients.{key}={value}")])?;
        scene.edge.stop();
        scene.edge.start(&scene.node)?;
        scene.wait_link("online");
        let through = |scene: &Scene| kubectl(scene, "client", &["get", "--raw", LIST]);
        ensure!(through(&scene)?.contains("settings"), "online all is passed on");
        scene.cluster.cut(Cut::Refuse)?;
        scene.wait_link("offline");
        let refused = through(&scene).err().context("what was left out is served")?;
        ensure!(format!("{refused:#}").contains(&format!("`proxy.clients.{key}`")), "{refused:#}");
        scene.cluster.heal()?;
        scene.wait_link("online");
    }

    // kubelet runs all the while: it must not go on with the address that nobody serves any more.
    scene.edge.run(&scene.node, &["config", "set", "proxy.in-cluster=false"])?;
    scene.edge.stop();
    scene.edge.start(&scene.node)?;
    scene.wait_link("online");
    scene.cluster.wait_for("containers with the cloud's address", seconds(60), || {
        scene.cluster.kubectl(&["delete", "pod", "client", "--ignore-not-found", "--now"])?;
        scene.cluster.apply(&manifest())?;
        workload::wait_clients(&scene.node, 2);
        let environment = exec(&scene, "client", &["env"])?;
        ensure!(environment.contains(&format!("KUBERNETES_SERVICE_HOST={CLUSTER_IP}\n")), "{environment}");
        Ok(())
    });
    Ok(())
}

#[test]
fn a_deleted_account_loses_access_at_once_after_an_outage() -> Result<()> {
    deleted_account_loses_access(&scene()?)
}

#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn in_flannels_network_a_deleted_account_loses_access_at_once_after_an_outage() -> Result<()> {
    deleted_account_loses_access(&with_clients(flannel::scene()?)?)
}

fn deleted_account_loses_access(scene: &Scene) -> Result<()> {
    reads(scene)?;
    scene.cluster.cut(Cut::Refuse)?;
    scene.wait_link("offline");
    scene.cluster.kubectl(&["delete", "serviceaccount", "client"])?;
    reads(scene).context("the gateway cannot know")?;
    scene.cluster.heal()?;
    scene.wait_link("online");
    scene.cluster.wait_for("the end of the account", seconds(20), || {
        let refused = kubectl(scene, "client", &["get", "--raw", LIST]).err().context("still served")?;
        ensure!(format!("{refused:#}").contains("nauthorized"), "{refused:#}");
        Ok(())
    });
    // What the cloud has refused since, edge refuses as well.
    scene.cluster.cut(Cut::Refuse)?;
    scene.wait_link("offline");
    let refused =
        kubectl(scene, "client", &["get", "--raw", LIST]).err().context("served in the next outage")?;
    ensure!(format!("{refused:#}").contains("nauthorized"), "{refused:#}");
    Ok(())
}
