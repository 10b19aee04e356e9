//! The standard workload of the scenario tests, in the namespace `default`: Deployment `web` (2), DaemonSet `agent`, Job
//! `once`, pod `by-hand` with everything a pod can ask of the cloud, static pod `fixed`. And clients of the API server, as
//! pods with an account of their own.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::client::wait;
use super::node::Node;
use super::pod::{Container, Pod};
use super::{Cluster, kubectl_path, seconds};

/// All that the cloud holds.
pub const MANIFEST: &str = include_str!("manifests/workload.yaml");
/// The static pod, whose name on a node is `fixed-NODE`.
pub const STATIC: &str = include_str!("manifests/static.yaml");

/// Applies the workload and puts the static pod on a node. Returns at once.
pub fn apply(cluster: &Cluster, node: &Node) -> Result<()> {
    node.static_pod("fixed", STATIC)?;
    // Pods wait for their service account, which the controller-manager makes a moment after the namespace.
    wait("the default service account", seconds(90), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    })?;
    cluster.apply(MANIFEST)
}

/// Fails, saying which, unless each pod of the workload runs and the Job has succeeded, as `pods` say.
pub fn check(pods: &[Pod]) -> Result<()> {
    let count = |prefix: &str, good: fn(&Pod) -> bool| {
        pods.iter().filter(|pod| pod.name.starts_with(prefix) && !pod.deleting && good(pod)).count()
    };
    for (prefix, wanted) in [("web-", 2), ("agent-", 1), ("by-hand", 1), ("fixed-", 1)] {
        let running = count(prefix, Pod::running);
        ensure!(running == wanted, "{running} of {wanted} `{prefix}` pods run: {}", states(pods));
    }
    ensure!(count("once-", Pod::succeeded) == 1, "Job `once` has not succeeded: {}", states(pods));
    Ok(())
}

/// Waits until the cloud sees the whole workload as it should be; the pods then.
pub fn wait_running(cluster: &Cluster) -> Vec<Pod> {
    cluster.wait_for("the workload, as the cloud sees it", seconds(180), || {
        let pods = cluster.pods("default")?;
        check(&pods)?;
        Ok(pods)
    })
}

/// Waits until the node's kubelet sees the whole workload as it should be, whatever the cloud knows; the pods then.
pub fn wait_running_on(node: &Node) -> Vec<Pod> {
    node.cluster().wait_for("the workload, as the kubelet sees it", seconds(180), || {
        let pods = node.pods()?;
        check(&pods)?;
        Ok(pods)
    })
}

/// Waits until the cloud tells of the same containers and restarts as the node's kubelet, all running: right after
/// an outage it repeats what it last knew. The pods then.
pub fn wait_told(node: &Node) -> Vec<Pod> {
    let told = |pods: &[Pod]| -> BTreeMap<String, Vec<Container>> {
        pods.iter().map(|pod| (pod.name.clone(), pod.containers.clone())).collect()
    };
    node.cluster().wait_for("the same pods in the cloud as on the node", seconds(180), || {
        let (there, here) = (node.cluster().pods("default")?, node.pods()?);
        check(&there)?;
        check(&here)?;
        ensure!(told(&there) == told(&here), "cloud: {:?}; node: {:?}", told(&there), told(&here));
        Ok(there)
    })
}

/// How often the Job ran on this node: 1, unless somebody forgot that it had finished.
pub fn job_runs(node: &Node) -> Result<usize> {
    Ok(node.machine()?.read("/var/lib/workload/once/once")?.lines().count())
}

/// What each client runs in: busybox, and kubectl.
const CLIENT_IMAGE: &str = "registry.test/client:1";

/// Brings the image of clients to a node, and waits until pods may be made.
pub fn prepare_clients(node: &Node) -> Result<()> {
    node.import_programs(CLIENT_IMAGE, &[&kubectl_path()?])?;
    node.cluster().wait_for("the default service account", seconds(60), || {
        node.cluster().raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    Ok(())
}

/// The manifest of a client: a service account, and a pod of that account and name.
pub fn client(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: default}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default}}
spec:
  serviceAccountName: {name}
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: {CLIENT_IMAGE}, imagePullPolicy: Never, env: [{{name: HOME, value: /tmp}}]}}
---
"
    )
}

/// The manifest of all rights on resources of a group in the namespace `default`, for the clients named.
pub fn rights(name: &str, group: &str, resources: &[&str], clients: &[&str]) -> String {
    let subjects =
        clients.iter().map(|client| format!("{{kind: ServiceAccount, name: {client}, namespace: default}}"));
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {name}, namespace: default}}
rules:
- {{apiGroups: ['{group}'], resources: [{}], verbs: ['*']}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {name}, namespace: default}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}}
subjects: [{}]
---
",
        resources.join(", "),
        subjects.collect::<Vec<_>>().join(", ")
    )
}

/// Waits until this many pods of the namespace `default` run on a node, whatever the cloud knows.
pub fn wait_clients(node: &Node, count: usize) {
    node.cluster().wait_for("the clients' pods", seconds(90), || {
        let pods = node.pods()?;
        let running = pods.iter().filter(|pod| pod.namespace == "default" && pod.running()).count();
        ensure!(running == count, "{pods:?}");
        Ok(())
    });
}

/// One line on the pods, for messages.
pub fn states(pods: &[Pod]) -> String {
    let one =
        |pod: &Pod| format!("{}={}{}", pod.name, pod.phase, if pod.ready { "" } else { " (not ready)" });
    pods.iter().map(one).collect::<Vec<_>>().join(", ")
}
