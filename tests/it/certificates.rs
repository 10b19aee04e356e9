//! A node's whole life of certificates against a real cloud: a bootstrap token, a denial, an approval, edge's own
//! renewals past the first certificate's end, kubelet's rotation answered locally, and the way back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use edge::proxy::cloud::ClientCertificate;
use serde_json::json;
use x509_parser::pem::parse_x509_pem;

use crate::support::{
    Cluster, ClusterOptions, Cut, Edge, KUBE_ADDRESS, KUBE_NAME, Layout, Node, NodeOptions, Pod,
    kubectl_path, seconds, token_kubeconfig,
};

const BOOTSTRAP: &str = "/etc/kubernetes/bootstrap.kubeconfig";
const CLOUD_PEM: &str = "/var/lib/edge/cloud/client-current.pem";
const KUBELET_PEM: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

/// A cloud whose node certificates last a minute. They are dated back by five, so they are due for renewal at once.
fn cloud(layout: Layout) -> Result<Cluster> {
    let controller_manager = vec!["--cluster-signing-duration=60s".to_owned()];
    Cluster::start(&ClusterOptions { controller_manager, layout, ..ClusterOptions::default() })
}

fn certificate(node: &Node, path: &str) -> Result<ClientCertificate> {
    let text = node.machine()?.read(path)?;
    Ok(ClientCertificate::parse(path.as_ref(), &text, &text)?)
}

/// Whether the authority whose PEM lies at `authority` signed the certificate at `path`.
fn is_signed_by(node: &Node, path: &str, authority: &str) -> Result<bool> {
    let leaf = certificate(node, path)?.leaf().context("no leaf")?;
    let authority = node.machine()?.read(authority)?;
    let (_, authority) = parse_x509_pem(authority.as_bytes())?;
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf)?;
    Ok(leaf.verify_signature(Some(authority.parse_x509()?.public_key())).is_ok())
}

fn join(edge: &Edge, node: &Node, timeout: &str) -> Result<String, String> {
    let args = ["join", "--from", BOOTSTRAP, "--node-name", node.name(), "--timeout", timeout];
    let more = ["--kubelet-kubeconfig", Edge::KUBECONFIG];
    let output = edge.output(node, &[&args[..], &more].concat()).map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn requests(cluster: &Cluster) -> Result<Vec<String>> {
    Ok(cluster.kubectl(&["get", "csr", "-o", "name"])?.lines().map(str::to_owned).collect())
}

/// Denied, forgotten, asked again, approved: with an operator who approves by hand.
fn join_with_an_operator(cluster: &Cluster, edge: &Edge, node: &Node) -> Result<()> {
    cluster.kubectl(&["delete", "clusterrolebinding", "test:approve-first"])?;
    let wrong = token_kubeconfig(KUBE_ADDRESS, cluster.authority().certificate(), "abcdef.wrongwrongwrong00");
    node.machine()?.write(BOOTSTRAP, &wrong)?;
    let refused = join(edge, node, "30s").unwrap_err();
    assert!(refused.contains("401 Unauthorized"), "{refused}");

    let token = token_kubeconfig(KUBE_ADDRESS, cluster.authority().certificate(), cluster.bootstrap_token());
    node.machine()?.write(BOOTSTRAP, &token)?;
    let waiting = join(edge, node, "4s").unwrap_err();
    let asked = requests(cluster)?;
    assert_eq!(asked.len(), 1, "{asked:?}");
    let name = asked[0].rsplit('/').next().context("no name")?;
    for part in [&format!("kubectl certificate approve {name}"), "nobody has approved it"] {
        assert!(waiting.contains(part), "{waiting}");
    }
    assert!(join(edge, node, "1s").is_err());
    assert_eq!(requests(cluster)?, asked, "asked again, it finds its own request");

    cluster.kubectl(&["certificate", "deny", name])?;
    let denied = join(edge, node, "30s").unwrap_err();
    assert!(denied.contains(&format!("the cloud denied the signing request `{name}`")), "{denied}");

    assert!(join(edge, node, "1s").is_err(), "a new key, so a new request");
    let second =
        requests(cluster)?.into_iter().find(|other| !asked.contains(other)).context("no new request")?;
    cluster.kubectl(&["certificate", "approve", second.rsplit('/').next().unwrap_or_default()])?;
    let joined = join(edge, node, "30s").map_err(anyhow::Error::msg)?;
    assert!(joined.contains(&format!("node `{}` is joined", node.name())), "{joined}");
    Ok(())
}

#[test]
fn a_node_lives_from_its_bootstrap_token_through_renewals_to_leave() -> Result<()> {
    from_token_to_leave(Layout::Kubeadm)
}

/// The authority in the kubeconfig is not the one that signs the node's certificates.
#[test]
#[ignore = "long: needs scripts/parts --kine"]
fn a_node_of_a_cloud_laid_out_as_k3s_lives_through_renewals_to_leave() -> Result<()> {
    from_token_to_leave(Layout::K3s)
}

fn from_token_to_leave(layout: Layout) -> Result<()> {
    let cluster = cloud(layout)?;
    let mut node = cluster.node("gateway-1", &NodeOptions::default())?;
    cluster.ready()?;
    let mut edge = Edge::new();
    join_with_an_operator(&cluster, &edge, &node)?;
    let first = certificate(&node, CLOUD_PEM)?;
    assert_eq!(first.common_name, "system:node:gateway-1");

    node.set_kubelet(json!({"rotateCertificates": true}))?;
    edge.start(&node)?;
    node.start_kubelet(Edge::KUBECONFIG)?;
    node.wait_ready();

    cluster.wait_for("certificate of kubelet's own, signed here", seconds(60), || {
        ensure!(is_signed_by(&node, KUBELET_PEM, "/var/lib/edge/pki/ca.crt")?, "signed by another");
        let from_kubeconfig = edge_kubeconfig_certificate(&node)?;
        ensure!(certificate(&node, KUBELET_PEM)?.leaf() != from_kubeconfig.leaf(), "still the kubeconfig's");
        Ok(())
    });
    let foreign: Vec<_> =
        requests(&cluster)?.into_iter().filter(|name| !name.contains("/node-csr-")).collect();
    assert!(foreign.is_empty(), "kubelet's request went to the cloud: {foreign:?}");

    let past_the_first = first.not_after + Duration::from_secs(5);
    cluster.wait_for("heartbeat after the first certificate's end", seconds(180), || {
        let lease =
            cluster.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/gateway-1")?;
        let renewed: jiff::Timestamp =
            lease["spec"]["renewTime"].as_str().context("no renewTime")?.parse()?;
        ensure!(renewed > past_the_first, "the last was at {renewed}");
        Ok(())
    });
    assert!(certificate(&node, CLOUD_PEM)?.not_after > first.not_after);
    assert!(cluster.node_ready("gateway-1")? && node.kubelet_alive());

    assert!(edge.stop());
    node.stop_kubelet();
    let left = edge.run(&node, &["leave"])?;
    assert!(left.contains("the cloud's newest certificate is in"), "{left}");
    direct_answer(&node)
}

fn edge_kubeconfig_certificate(node: &Node) -> Result<ClientCertificate> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("kubeconfig");
    std::fs::File::create(&path)?;
    edge::sys::durable::write(&path, node.machine()?.read(Edge::KUBECONFIG)?.as_bytes(), 0o600)?;
    edge::proxy::cloud::Credentials::read(&path)?.client.context("no certificate")
}

/// What leave put where kubelet looks for it is taken by the cloud.
fn direct_answer(node: &Node) -> Result<()> {
    let config = format!(
        "current-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: '{KUBE_ADDRESS}', certificate-authority: /etc/kubernetes/ca.crt}}}}]\n\
         users: [{{name: u, user: {{client-certificate: {KUBELET_PEM}, client-key: {KUBELET_PEM}}}}}]\n"
    );
    node.machine()?.write("/etc/kubernetes/left.kubeconfig", &config)?;
    let program = kubectl_path()?;
    let argv = [&*program, "--kubeconfig", "/etc/kubernetes/left.kubeconfig", "auth", "whoami"];
    let answer = node.machine()?.run(&argv)?;
    ensure!(answer.contains("system:node:gateway-1"), "{answer}");
    Ok(())
}

/// Waits for a lease of the node that was renewed from now on.
fn heartbeat(cluster: &Cluster, node: &Node, what: &str) {
    let now = edge::sys::clock::now();
    cluster.wait_for(&format!("heartbeat {what}"), seconds(60), || {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", node.name());
        let lease = cluster.get(&path)?;
        let renewed: jiff::Timestamp =
            lease["spec"]["renewTime"].as_str().context("no renewTime")?.parse()?;
        ensure!(renewed > now, "the last was at {renewed}");
        Ok(())
    });
}

#[test]
fn a_node_that_joined_the_cloud_by_itself_is_taken_over_and_given_back() -> Result<()> {
    let own = "/var/lib/kubelet/kubeconfig";
    let cluster = Cluster::start(&ClusterOptions::default())?;
    let options = NodeOptions {
        kubelet: json!({"rotateCertificates": true}),
        kubelet_flags: vec![format!("--bootstrap-kubeconfig={BOOTSTRAP}")],
        ..NodeOptions::default()
    };
    let mut node = cluster.node("gateway-2", &options)?;
    let token = token_kubeconfig(KUBE_NAME, cluster.authority().certificate(), cluster.bootstrap_token());
    node.machine()?.write(BOOTSTRAP, &token)?;
    cluster.ready()?;
    node.start_kubelet(own)?;
    node.wait_ready();
    let before = certificate(&node, KUBELET_PEM)?;
    let kubeconfig = node.machine()?.read(own)?;

    let mut edge = Edge::new();
    let join = ["join", "--from", own, "--kubelet-kubeconfig", Edge::KUBECONFIG];
    edge.run(&node, &join)?;
    assert!(certificate(&node, KUBELET_PEM).is_err(), "kubelet would show the proxy the cloud's certificate");
    assert_eq!(certificate(&node, CLOUD_PEM)?.leaf(), before.leaf());
    edge.start(&node)?;
    node.stop_kubelet();
    node.start_kubelet(Edge::KUBECONFIG)?;
    heartbeat(&cluster, &node, "through edge");
    assert!(is_signed_by(&node, KUBELET_PEM, "/var/lib/edge/pki/ca.crt")?);

    // Again, by the running daemon and without it.
    edge.run(&node, &join)?;
    assert_eq!(certificate(&node, CLOUD_PEM)?.leaf(), before.leaf(), "kubelet's local one was not taken");
    heartbeat(&cluster, &node, "after joining again");
    assert!(edge.stop());
    edge.run(&node, &join)?;
    assert_eq!(certificate(&node, CLOUD_PEM)?.leaf(), before.leaf(), "kubelet's local one was not taken");
    edge.start(&node)?;
    heartbeat(&cluster, &node, "after joining twice");

    assert!(edge.stop());
    node.stop_kubelet();
    edge.run(&node, &["leave"])?;
    assert_eq!(certificate(&node, KUBELET_PEM)?.leaf(), before.leaf());
    assert_eq!(node.machine()?.read(own)?, kubeconfig);
    node.start_kubelet(own)?;
    heartbeat(&cluster, &node, "without edge");
    assert!(is_signed_by(&node, KUBELET_PEM, "/etc/kubernetes/ca.crt")?);
    Ok(())
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: steady, namespace: default}
spec:
  tolerations: [{operator: Exists}]
  containers:
  - {name: main, image: "docker.io/library/busybox:1", command: [sleep, "2147483647"]}
"#;

#[test]
fn a_certificate_that_ends_in_an_outage_costs_no_pod_and_a_join_brings_the_cloud_back() -> Result<()> {
    let cluster = cloud(Layout::Kubeadm)?;
    let mut node = cluster.node("gateway-3", &NodeOptions::default())?;
    cluster.ready()?;
    let mut edge = Edge::new();
    let token = token_kubeconfig(KUBE_ADDRESS, cluster.authority().certificate(), cluster.bootstrap_token());
    node.machine()?.write(BOOTSTRAP, &token)?;
    join(&edge, &node, "30s").map_err(anyhow::Error::msg)?;
    edge.start(&node)?;
    node.start_kubelet(Edge::KUBECONFIG)?;
    node.wait_ready();
    cluster.wait_for("the default service account", seconds(90), || cluster.apply(POD));
    let steady = || -> Result<Pod> {
        let pods = node.pods()?;
        pods.into_iter().find(|pod| pod.name == "steady" && pod.running()).context("it does not run")
    };
    let before = cluster.wait_for("pod", seconds(60), steady);

    cluster.cut(Cut::Drop)?;
    let status = || edge.status(&node);
    let says = |word: &str| -> Result<()> {
        let errors = status()?["errors"].to_string();
        ensure!(errors.contains(word), "{errors}");
        Ok(())
    };
    cluster.wait_for("the end of the certificate", seconds(120), || {
        ensure!(status()?["link"]["state"] == "offline", "{}", status()?["link"]);
        says("the node's certificate for the cloud ended at")
    });
    let shown = edge.run(&node, &["status"])?;
    let lines: Vec<&str> = shown.lines().filter(|line| line.contains("certificate for the cloud")).collect();
    assert_eq!(lines.len(), 1, "{shown}");
    assert!(lines[0].contains("hint: `edge join --from` a new kubeconfig"), "{shown}");

    // The cloud is there, and knows this node no more.
    cluster.heal()?;
    cluster.wait_for("a cloud that refuses", seconds(60), || {
        let link = status()?["link"].clone();
        ensure!(link["reason"] == "the cloud refuses the node's credentials", "{link}");
        Ok(())
    });
    assert_eq!(steady()?.containers, before.containers, "it runs on");
    says("hint: `edge join --from` a new kubeconfig")?;

    join(&edge, &node, "30s").map_err(anyhow::Error::msg)?;
    cluster.wait_for("the link, without a restart", seconds(60), || {
        let status = status()?;
        ensure!(status["link"]["state"] == "online" && status["errors"] == json!([]), "{status}");
        Ok(())
    });
    heartbeat(&cluster, &node, "after the join");
    // The cloud may have held it for not ready meanwhile, until kubelet says again what it is.
    let after = cluster.wait_for("the pod", seconds(60), steady);
    assert_eq!((after.uid, after.containers), (before.uid, before.containers));
    Ok(())
}
