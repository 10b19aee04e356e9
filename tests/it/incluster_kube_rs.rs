//! An operator written with kube-rs, which speaks to the API server in other ways than client-go does: a controller with a
//! reflector over streamed lists, statuses as merge patches, events of the newer API, and a lease that it holds by
//! server-side apply.
//!
//! It runs in a pod, as this very program: the test [`operates`] is its `main`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::{Controller, watcher};
use kube::{Api, Client, Resource as _};
use serde_json::{Value, json};

use crate::incluster_flannel as flannel;
use crate::incluster_operator::{DEFINITION, PATH, WIDGET};
use crate::support::{Cut, Edge, NodeOptions, Scene, seconds, workload};

/// Set in the operator's pod.
const VARIABLE: &str = "EDGE_TEST_OPERATOR";
const NAME: &str = "kube-rs";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/kube-rs";
/// How often it looks at each widget, and holds on to its lease.
const TURN: Duration = Duration::from_secs(1);

struct Operator {
    client: Client,
    events: Recorder,
    resource: ApiResource,
    widgets: Api<DynamicObject>,
    /// Another one after each start.
    instance: String,
}

#[allow(clippy::print_stdout, reason = "what it says is its log")]
impl Operator {
    /// Tells of a widget what it sees in it, and who it is itself.
    async fn reconcile(self: Arc<Self>, widget: Arc<DynamicObject>) -> kube::Result<Action> {
        let name = widget.metadata.name.clone().unwrap_or_default();
        let told = json!({"size": widget.data["spec"]["size"], "by": self.instance});
        let is = &widget.data["status"];
        if is["size"] != told["size"] || is["by"] != told["by"] {
            let patch = Patch::Merge(json!({ "status": told }));
            self.widgets.patch_status(&name, &PatchParams::default(), &patch).await?;
            println!("told {name}: {told}");
            let event = Event {
                type_: EventType::Normal,
                reason: "Told".into(),
                note: Some(told.to_string()),
                action: "Tell".into(),
                secondary: None,
            };
            self.events.publish(&event, &widget.object_ref(&self.resource)).await?;
        }
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME},
            "spec": {"holderIdentity": self.instance, "leaseDurationSeconds": 15}});
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "default");
        let held = leases.patch(NAME, &PatchParams::apply(NAME).force(), &Patch::Apply(lease)).await?;
        let holder = held.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
        println!("lease of {holder}");
        Ok(Action::requeue(TURN))
    }
}

/// The operator's `main`, in its pod; by itself it ends at once.
#[test]
#[ignore = "runs in the pod that `an_operator_of_kube_rs_goes_on_in_an_outage` makes"]
#[allow(clippy::print_stdout, reason = "what it says is its log")]
fn operates() {
    let Ok(instance) = std::env::var(VARIABLE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::try_default().await.unwrap();
        let kind = GroupVersionKind::gvk("example.test", "v1", "Widget");
        let resource = ApiResource::from_gvk(&kind);
        let widgets: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
        let instance = format!("{instance}-{}", uuid::Uuid::new_v4());
        println!("begins as {instance}");
        let events = Recorder::new(client.clone(), Reporter::from(NAME));
        let widgets_again = widgets.clone();
        let operator = Arc::new(Operator {
            client,
            events,
            resource: resource.clone(),
            widgets: widgets_again,
            instance,
        });
        let settings = watcher::Config::default().streaming_lists();
        Controller::new_with(widgets, settings, resource)
            .run(
                |widget, operator: Arc<Operator>| operator.reconcile(widget),
                |_, error, _| {
                    println!("again soon: {error}");
                    Action::requeue(TURN)
                },
                operator,
            )
            .for_each(|done| async {
                if let Err(error) = done {
                    println!("failed: {error}");
                }
            })
            .await;
    });
}

/// Its pod: this program, with the machine's libraries.
fn manifest() -> Result<String> {
    let program = std::env::current_exe()?;
    let folder = program.parent().and_then(Path::to_str).context("no folder")?;
    let name = program.file_name().and_then(|name| name.to_str()).context("no name")?;
    Ok(format!(
        "apiVersion: v1
kind: ServiceAccount
metadata: {{name: {NAME}, namespace: default}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {NAME}, namespace: default}}
spec:
  serviceAccountName: {NAME}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: registry.test/client:1
    imagePullPolicy: Never
    command: [/program/{name}, 'incluster_kube_rs::operates', --exact, --ignored, --nocapture, --test-threads=1]
    env: [{{name: {VARIABLE}, value: pod}}]
    volumeMounts:
    - {{name: program, mountPath: /program, readOnly: true}}
    - {{name: usr, mountPath: /usr, readOnly: true}}
    - {{name: lib, mountPath: /lib, readOnly: true}}
    - {{name: lib64, mountPath: /lib64, readOnly: true}}
  volumes:
  - {{name: program, hostPath: {{path: '{folder}'}}}}
  - {{name: usr, hostPath: {{path: /usr}}}}
  - {{name: lib, hostPath: {{path: /usr/lib}}}}
  - {{name: lib64, hostPath: {{path: /lib64}}}}
---
"
    ))
}

/// A gateway whose operator runs.
fn with_operator(scene: Scene) -> Result<Scene> {
    workload::prepare_clients(&scene.node)?;
    let rights = workload::rights("widgets", "example.test", &["widgets", "widgets/status"], &[NAME]);
    let leases = workload::rights("leases", "coordination.k8s.io", &["leases"], &[NAME]);
    let events = workload::rights("events", "events.k8s.io", &["events"], &[NAME]);
    scene.cluster.apply(&format!("{DEFINITION}{rights}{leases}{events}"))?;
    scene.cluster.wait_for("the custom resource", seconds(60), || scene.cluster.apply(WIDGET));
    scene.cluster.apply(&manifest()?)?;
    workload::wait_clients(&scene.node, 1);
    Ok(scene)
}

/// What the operator has said since its last start.
fn log(scene: &Scene) -> Result<String> {
    scene.edge.run(&scene.node, &["pod", "logs", NAME])
}

/// Who it is since its last start, once it holds its lease.
fn instance(scene: &Scene) -> Result<String> {
    let log = log(scene)?;
    // Behind what the test harness says of its test.
    let own =
        log.lines().find_map(|line| Some(line.split_once("begins as ")?.1)).with_context(|| log.clone())?;
    ensure!(log.contains(&format!("lease of {own}")), "{log}");
    Ok(own.to_owned())
}

/// The widget and the lease are the operator's, as the cloud has them.
fn settled(scene: &Scene, own: &str, size: i64) -> Result<()> {
    let widget: Value = scene.cluster.get(PATH)?;
    ensure!(widget["status"] == json!({"size": size, "by": own}), "{widget}");
    let lease = scene.cluster.get(LEASE)?;
    ensure!(lease["spec"]["holderIdentity"] == own, "{lease}");
    let managers = lease["metadata"]["managedFields"].as_array().context("no managers")?;
    ensure!(managers.iter().any(|m| m["manager"] == NAME && m["operation"] == "Apply"), "{managers:?}");
    Ok(())
}

#[test]
fn an_operator_of_kube_rs_goes_on_in_an_outage() -> Result<()> {
    goes_on_in_an_outage(with_operator(Scene::ready(&NodeOptions::default())?)?)
}

#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn in_flannels_network_an_operator_of_kube_rs_goes_on_in_an_outage() -> Result<()> {
    goes_on_in_an_outage(with_operator(flannel::scene()?)?)
}

fn goes_on_in_an_outage(mut scene: Scene) -> Result<()> {
    scene.cluster.wait_for("the operator's word", seconds(60), || settled(&scene, &instance(&scene)?, 3));
    let before = instance(&scene)?;

    scene.cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    workload::wait_clients(&scene.node, 1);
    // It reads the widget by its streamed list, tells of it, and has its lease: all without the cloud.
    scene.cluster.wait_for("the operator in the outage", seconds(60), || {
        let own = instance(&scene)?;
        ensure!(own != before, "not started again");
        ensure!(log(&scene)?.contains("told one: "), "{}", log(&scene)?);
        Ok(())
    });
    let own = instance(&scene)?;
    let waits = scene.edge.status(&scene.node)?["changes"].to_string();
    ensure!(waits.contains("example.test/v1/widgets default/one"), "{waits}");
    ensure!(!waits.contains("leases"), "a lease is worth nothing later: {waits}");
    // What somebody asks for meanwhile it hears when the cloud is back.
    scene.cluster.kubectl(&["patch", "widget", "one", "--type=merge", "-p", r#"{"spec": {"size": 5}}"#])?;
    std::thread::sleep(seconds(3));
    ensure!(!log(&scene)?.contains("\"size\":5"), "nobody can know");

    scene.cluster.heal()?;
    scene.wait_link("online");
    scene
        .cluster
        .wait_for("the operator's word, with the cloud back", seconds(60), || settled(&scene, &own, 5));
    ensure!(instance(&scene)? == own, "and it was never started again");
    scene.cluster.wait_for("its event of the outage, in the cloud", seconds(60), || {
        let events = scene.cluster.get("/apis/events.k8s.io/v1/namespaces/default/events")?;
        let told = json!({"size": 3, "by": own}).to_string();
        let found = events["items"].as_array().into_iter().flatten().any(|event| event["note"] == told);
        ensure!(found, "{events}");
        Ok(())
    });
    Ok(())
}
