//! What kubelets ask for only with newer features on: trust bundles that a pod mounts are kept and mounted offline, a
//! claim on a device is read back, and requests that need the cloud are refused.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::support::{ClusterOptions, Cut, Edge, KUBE_ADDRESS, NodeOptions, Scene, seconds, workload};

const BUNDLE: &str = r#"
apiVersion: certificates.k8s.io/v1beta1
kind: ClusterTrustBundle
metadata: {name: harbour}
spec:
  trustBundle: |
PEM
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: sonar, namespace: default}
spec: {devices: {requests: [{name: one, exactly: {deviceClassName: sonar.test}}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: trusting, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: docker.io/library/busybox:1
    command: [sh, -ec, 'trap "exit 0" TERM; grep -q BEGIN /trust/ca.pem; sleep 2147483647 & wait']
    volumeMounts: [{name: trust, mountPath: /trust}]
  volumes:
  - name: trust
    projected: {sources: [{clusterTrustBundle: {name: harbour, path: ca.pem}}]}
---
# Put on the node by hand: no driver is there to prepare its device, so it waits for ever.
apiVersion: v1
kind: Pod
metadata: {name: listening, namespace: default}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  resourceClaims: [{name: sonar, resourceClaimName: sonar}]
  containers: [{name: main, image: "docker.io/library/busybox:1", resources: {claims: [{name: sonar}]}}]
"#;

const CLAIM: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/sonar";

#[test]
fn trust_bundles_are_mounted_offline_and_claims_read_back() -> Result<()> {
    let gates = "ClusterTrustBundle=true,ClusterTrustBundleProjection=true";
    let cloud = ClusterOptions {
        apiserver: vec![
            format!("--feature-gates={gates}"),
            "--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true".into(),
        ],
        ..ClusterOptions::default()
    };
    let options = NodeOptions {
        kubelet: json!({"featureGates": {"ClusterTrustBundle": true, "ClusterTrustBundleProjection": true}}),
        ..NodeOptions::default()
    };
    let mut scene = Scene::ready_in(&cloud, &options, KUBE_ADDRESS)?;
    let cluster = scene.cluster.clone();
    cluster.wait_for("the default service account", seconds(60), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    let pem: String = cluster.authority().certificate().lines().map(|line| format!("    {line}\n")).collect();
    cluster.apply(&BUNDLE.replace("PEM\n", &pem))?;
    cluster.wait_for("a pod with a trust bundle", seconds(60), || trusting(&scene));
    let claim = cluster.wait_for("the claim, as the node may read it", seconds(60), || {
        scene.kubectl(&["get", "--raw", CLAIM])
    });
    ensure!(claim.contains("sonar.test"), "{claim}");

    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    cluster.wait_for("the pod with its trust bundle, offline", seconds(90), || trusting(&scene));
    let claim = scene.kubectl(&["get", "--raw", CLAIM])?;
    ensure!(claim.contains("sonar.test"), "{claim}");
    scene.node.machine()?.write("/run/request.json", "{}")?;
    let path = "/apis/certificates.k8s.io/v1beta1/namespaces/default/podcertificaterequests";
    let refused =
        scene.kubectl(&["create", "--request-timeout=3s", "--raw", path, "-f", "/run/request.json"]);
    ensure!(refused.is_err(), "a request that needs the cloud was taken: {refused:?}");
    Ok(())
}

fn trusting(scene: &Scene) -> Result<()> {
    let pods = scene.node.pods()?;
    ensure!(pods.iter().any(|pod| pod.name == "trusting" && pod.running()), "{}", workload::states(&pods));
    Ok(())
}
