//! An operator with a custom resource: what it read and told while the cloud was there, it reads and tells in an outage
//! too, and the cloud hears of it in its name.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::{Cut, Edge, NodeOptions, Scene, kubectl_path, seconds};

const MANIFEST: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.test}
spec:
  group: example.test
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator, namespace: default}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: operator, namespace: default}
rules:
- {apiGroups: [example.test], resources: [widgets, widgets/status], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: operator, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: operator}
subjects: [{kind: ServiceAccount, name: operator, namespace: default}, {kind: ServiceAccount, name: reader, namespace: default}]
---
apiVersion: v1
kind: Pod
metadata: {name: operator, namespace: default}
spec:
  serviceAccountName: operator
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: registry.test/client:1, imagePullPolicy: Never, env: [{name: HOME, value: /tmp}]}
---
apiVersion: v1
kind: Pod
metadata: {name: reader, namespace: default}
spec:
  serviceAccountName: reader
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: registry.test/client:1, imagePullPolicy: Never, env: [{name: HOME, value: /tmp}]}
"#;
const WIDGET: &str = "
apiVersion: example.test/v1
kind: Widget
metadata: {name: one, namespace: default}
spec: {size: 3}
";

fn kubectl(scene: &Scene, pod: &str, args: &[&str]) -> Result<String> {
    scene.edge.run(&scene.node, &[&["pod", "exec", pod, "--", "kubectl"], args].concat())
}

fn tell(scene: &Scene, pod: &str, status: &str) -> Result<String> {
    let patch = format!(r#"{{"status": {status}}}"#);
    kubectl(scene, pod, &["patch", "widget", "one", "--subresource=status", "--type=merge", "-p", &patch])
}

fn phase(widget: &str) -> Result<String> {
    let widget: Value = serde_json::from_str(widget)?;
    Ok(widget["status"]["phase"].as_str().unwrap_or_default().to_owned())
}

fn running(scene: &Scene) {
    scene.cluster.wait_for("the operator", seconds(90), || {
        let pods = scene.node.pods()?;
        ensure!(
            pods.iter().filter(|pod| pod.namespace == "default" && pod.running()).count() == 2,
            "{pods:?}"
        );
        Ok(())
    });
}

#[test]
fn an_operator_tells_how_things_are_in_an_outage_and_the_cloud_hears_it() -> Result<()> {
    let mut scene = Scene::ready(&NodeOptions::default())?;
    let cluster = scene.cluster.clone();
    scene.node.import_programs("registry.test/client:1", &[&kubectl_path()?])?;
    cluster.wait_for("the default service account", seconds(60), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    cluster.apply(MANIFEST)?;
    cluster.wait_for("the custom resource", seconds(60), || cluster.apply(WIDGET));
    running(&scene);
    let path = "/apis/example.test/v1/namespaces/default/widgets/one";
    for pod in ["operator", "reader"] {
        ensure!(kubectl(&scene, pod, &["get", "widgets"])?.contains("one"));
        kubectl(&scene, pod, &["get", "--raw", path])?;
    }
    tell(&scene, "operator", r#"{"phase": "Online", "seen": 1}"#)?;

    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    running(&scene);
    ensure!(phase(&kubectl(&scene, "operator", &["get", "--raw", path])?)? == "Online");
    tell(&scene, "operator", r#"{"phase": "Offline", "seen": null}"#)?;
    tell(&scene, "operator", r#"{"phase": "Settled"}"#)?;
    for pod in ["operator", "reader"] {
        ensure!(phase(&kubectl(&scene, pod, &["get", "--raw", path])?)? == "Settled", "as {pod} sees it");
    }
    let waiting = scene.edge.status(&scene.node)?["changes"].clone();
    let told = waiting
        .as_array()
        .into_iter()
        .flatten()
        .filter(|c| c["object"] == "example.test/v1/widgets default/one");
    ensure!(told.count() == 1, "{waiting}");

    cluster.heal()?;
    scene.wait_link("online");
    cluster.wait_for("the status in the cloud", seconds(60), || {
        let widget: Value = serde_json::from_str(&cluster.raw(path)?)?;
        ensure!(
            widget["status"] == serde_json::json!({"phase": "Settled"}) && widget["spec"]["size"] == 3,
            "{widget}"
        );
        let managers = widget["metadata"]["managedFields"].as_array().context("no managers")?;
        ensure!(
            managers.iter().any(|m| m["manager"] == "edge" && m["subresource"] == "status"),
            "{managers:?}"
        );
        Ok(())
    });
    ensure!(tell(&scene, "operator", r#"{"phase": "Online"}"#).is_ok(), "and goes on");
    Ok(())
}

/// One that has only read cannot tell, whatever the cloud would let it: nobody here can judge that.
#[test]
fn what_a_client_never_told_it_cannot_tell_in_an_outage() -> Result<()> {
    let scene = Scene::ready(&NodeOptions::default())?;
    let cluster = scene.cluster.clone();
    scene.node.import_programs("registry.test/client:1", &[&kubectl_path()?])?;
    cluster.wait_for("the default service account", seconds(60), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    cluster.apply(MANIFEST)?;
    cluster.wait_for("the custom resource", seconds(60), || cluster.apply(WIDGET));
    running(&scene);
    ensure!(kubectl(&scene, "reader", &["get", "widgets"])?.contains("one"));
    kubectl(&scene, "reader", &["get", "--raw", "/apis/example.test/v1/namespaces/default/widgets/one"])?;
    cluster.cut(Cut::Refuse)?;
    scene.wait_link("offline");
    let refused = tell(&scene, "reader", r#"{"phase": "Forged"}"#).err().context("it was taken")?;
    ensure!(format!("{refused:#}").contains("never let this client write such a status"), "{refused:#}");
    Ok(())
}
