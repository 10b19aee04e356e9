//! An operator with a custom resource: what it read and told while the cloud was there, it reads and tells in an outage
//! too, and the cloud hears of it in its name.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::incluster_flannel as flannel;
use crate::support::{Cut, Edge, NodeOptions, Scene, seconds, workload};

pub const DEFINITION: &str = r#"
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
"#;
pub const WIDGET: &str = "
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

pub const PATH: &str = "/apis/example.test/v1/namespaces/default/widgets/one";

/// A gateway with two pods that may do everything to the widget and its status, and have read it: `operator` has told a
/// status of it, `reader` none.
fn scene() -> Result<Scene> {
    with_operator(Scene::ready(&NodeOptions::default())?)
}

fn with_operator(scene: Scene) -> Result<Scene> {
    workload::prepare_clients(&scene.node)?;
    let pods = workload::client("operator") + &workload::client("reader");
    let rights =
        workload::rights("operator", "example.test", &["widgets", "widgets/status"], &["operator", "reader"]);
    scene.cluster.apply(&format!("{DEFINITION}{pods}{rights}"))?;
    scene.cluster.wait_for("the custom resource", seconds(60), || scene.cluster.apply(WIDGET));
    workload::wait_clients(&scene.node, 2);
    for pod in ["operator", "reader"] {
        ensure!(kubectl(&scene, pod, &["get", "widgets"])?.contains("one"));
        read(&scene, pod)?;
    }
    tell(&scene, "operator", r#"{"phase": "Online", "seen": 1}"#)?;
    Ok(scene)
}

/// The widget, as a pod sees it.
fn read(scene: &Scene, pod: &str) -> Result<Value> {
    Ok(serde_json::from_str(&kubectl(scene, pod, &["get", "--raw", PATH])?)?)
}

/// Applies a status by server-side apply, as many operators do.
fn apply(scene: &Scene, pod: &str, status: &str) -> Result<String> {
    let body = format!(
        r#"{{"apiVersion": "example.test/v1", "kind": "Widget", "metadata": {{"name": "one", "namespace": "default"}}, "status": {status}}}"#
    );
    let script = format!(
        "echo '{body}' | kubectl apply --server-side --subresource=status --validate=false --field-manager='the operator' -f -"
    );
    scene.edge.run(&scene.node, &["pod", "exec", pod, "--", "sh", "-c", &script])
}

#[test]
fn an_operator_tells_how_things_are_in_an_outage_and_the_cloud_hears_it() -> Result<()> {
    tells_how_things_are(scene()?)
}

#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn in_flannels_network_an_operator_tells_how_things_are_in_an_outage_and_the_cloud_hears_it() -> Result<()> {
    tells_how_things_are(with_operator(flannel::scene()?)?)
}

fn tells_how_things_are(mut scene: Scene) -> Result<()> {
    let cluster = scene.cluster.clone();
    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    workload::wait_clients(&scene.node, 2);
    ensure!(read(&scene, "operator")?["status"]["phase"] == "Online");
    tell(&scene, "operator", r#"{"phase": "Offline", "seen": null}"#)?;
    tell(&scene, "operator", r#"{"phase": "Settled"}"#)?;
    for pod in ["operator", "reader"] {
        ensure!(read(&scene, pod)?["status"]["phase"] == "Settled", "as {pod} sees it");
    }
    ensure!(waiting(&scene)? == 1);
    only_the_cloud_says_how_a_dry_run_ends(&scene)?;

    cluster.heal()?;
    scene.wait_link("online");
    cluster.wait_for("the status in the cloud", seconds(60), || {
        let widget = cluster.get(PATH)?;
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

/// How many changes of the widget wait for the cloud.
fn waiting(scene: &Scene) -> Result<usize> {
    let changes = scene.edge.status(&scene.node)?["changes"].clone();
    let all = changes.as_array().context("no changes")?;
    Ok(all.iter().filter(|change| change["object"] == "example.test/v1/widgets default/one").count())
}

fn only_the_cloud_says_how_a_dry_run_ends(scene: &Scene) -> Result<()> {
    let patch = r#"{"status": {"phase": "Dry"}}"#;
    let args =
        ["patch", "widget", "one", "--subresource=status", "--type=merge", "--dry-run=server", "-p", patch];
    let refused = kubectl(scene, "operator", &args).err().context("a dry run was answered")?;
    ensure!(format!("{refused:#}").contains("only it can say how a dry run ends"), "{refused:#}");
    ensure!(read(scene, "operator")?["status"]["phase"] == "Settled");
    Ok(())
}

/// One that has only read cannot tell, whatever the cloud would let it: nobody here can judge that. Nor can one whose right
/// the cloud took away, once that is known.
#[test]
fn what_a_client_may_not_tell_it_cannot_tell_in_an_outage() -> Result<()> {
    cannot_tell_what_it_may_not(&scene()?)
}

#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn in_flannels_network_what_a_client_may_not_tell_it_cannot_tell_in_an_outage() -> Result<()> {
    cannot_tell_what_it_may_not(&with_operator(flannel::scene()?)?)
}

fn cannot_tell_what_it_may_not(scene: &Scene) -> Result<()> {
    let cluster = &scene.cluster;
    let never = "never let this client write such a status";
    cluster.cut(Cut::Refuse)?;
    scene.wait_link("offline");
    let refused = tell(scene, "reader", r#"{"phase": "Forged"}"#).err().context("it was taken")?;
    ensure!(format!("{refused:#}").contains(never), "{refused:#}");
    cluster.kubectl(&["delete", "rolebinding", "operator"])?;
    tell(scene, "operator", r#"{"phase": "Late"}"#).context("the gateway cannot know")?;

    cluster.heal()?;
    scene.wait_link("online");
    cluster.wait_for("the cloud's refusal", seconds(60), || {
        let refused = scene.edge.status(&scene.node)?["refused"].to_string();
        ensure!(refused.contains("widgets default/one") && refused.contains("403"), "{refused}");
        Ok(())
    });
    ensure!(cluster.get(PATH)?["status"]["phase"] == "Online");
    cluster.cut(Cut::Refuse)?;
    scene.wait_link("offline");
    let refused = tell(scene, "operator", r#"{"phase": "Later"}"#).err().context("it was taken again")?;
    ensure!(format!("{refused:#}").contains(never), "{refused:#}");
    Ok(())
}

/// What is applied in an outage is told as it was applied: the cloud has the fields as that manager's.
#[test]
fn an_operator_that_applies_its_status_does_so_in_an_outage_too() -> Result<()> {
    applies_its_status(&scene()?)
}

#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn in_flannels_network_an_operator_that_applies_its_status_does_so_in_an_outage_too() -> Result<()> {
    applies_its_status(&with_operator(flannel::scene()?)?)
}

fn applies_its_status(scene: &Scene) -> Result<()> {
    let cluster = &scene.cluster;
    apply(scene, "operator", r#"{"size": "small", "conditions": [{"type": "Ready", "status": "True"}]}"#)?;
    cluster.cut(Cut::Refuse)?;
    scene.wait_link("offline");
    apply(scene, "operator", r#"{"size": "large", "note": "soon gone"}"#)?;
    apply(scene, "operator", r#"{"size": "huge", "conditions": [{"type": "Ready", "status": "False"}]}"#)?;
    let here = read(scene, "reader")?["status"].clone();
    ensure!(here["size"] == "huge" && here["phase"] == "Online" && here["note"].is_null(), "{here}");
    ensure!(here["conditions"][0]["status"] == "False", "{here}");
    ensure!(waiting(scene)? == 1);

    cluster.heal()?;
    scene.wait_link("online");
    cluster.wait_for("what was applied, in the cloud", seconds(60), || {
        let widget = cluster.get(PATH)?;
        ensure!(widget["status"] == here, "{widget}");
        let managers = widget["metadata"]["managedFields"].as_array().context("no managers")?;
        let own = managers.iter().find(|m| m["manager"] == "the operator" && m["operation"] == "Apply");
        let fields = &own.context("nothing is applied")?["fieldsV1"]["f:status"];
        ensure!(fields["f:size"].is_object() && fields["f:phase"].is_null(), "{fields}");
        Ok(())
    });
    Ok(())
}
