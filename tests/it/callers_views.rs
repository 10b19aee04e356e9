//! Clients that read less than whole objects, or a list page by page, or go on with a watch: what they leave in the cache,
//! and what they are answered offline.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::callers::Caller;
use crate::support::{Cut, NodeOptions, Pod, Scene, seconds};

const MANIFEST: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: test-client}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: client, namespace: default}]
---
apiVersion: v1
kind: Secret
metadata: {name: late, namespace: default, labels: {of: test}}
stringData: {password: s3cret}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: first, namespace: default}
data: {a: "1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: second, namespace: default}
data: {a: "2"}
---
apiVersion: v1
kind: Pod
metadata: {name: reader, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers:
  - name: main
    image: docker.io/library/busybox:1
    envFrom: [{secretRef: {name: late}}]
    command: [sh, -ec, 'trap "exit 0" TERM; sleep 2147483647 & wait']
"#;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const TABLE: &str = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
const METADATA: &str =
    "Accept: application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const METADATA_LIST: &str =
    "Accept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
/// The pods of the node, as its kubelet reads them.
const PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1";

struct Client<'a>(Caller, &'a Scene);

impl Client<'_> {
    fn code(&self, accept: &str, path: &str) -> Result<String> {
        Ok(self.0.answer(self.1, &["-H", accept], path)?.0)
    }

    fn read(&self, accept: &str, path: &str) -> Result<Value> {
        let (code, body) = self.0.answer(self.1, &["-H", accept], path)?;
        ensure!(code == "200", "{path}: {code} {body}");
        Ok(serde_json::from_str(&body)?)
    }
}

const WHOLE: &str = "Accept: application/json";

#[test]
fn views_and_pages_of_objects_do_not_take_their_place() -> Result<()> {
    let mut scene = Scene::ready(&NodeOptions::default())?;
    let cluster = scene.cluster.clone();
    cluster.wait_for("the default service account", seconds(60), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    let (accounts, pod) = MANIFEST.split_at(MANIFEST.rfind("---").context("no parts")?);
    cluster.apply(accounts)?;
    let token = cluster.kubectl(&["create", "token", "client"])?;
    let (accounts_read, page) = {
        let client = Client(Caller(token.clone()), &scene);
        // The metadata of the Secret is here before kubelet reads the whole of it, at the same version.
        let bare = client.read(METADATA_LIST, SECRETS)?;
        assert_eq!(bare["kind"], "PartialObjectMetadataList");
        assert_eq!(client.read(WHOLE, CONFIGMAPS)?["kind"], "ConfigMapList");
        assert_eq!(client.read(TABLE, CONFIGMAPS)?["kind"], "Table");
        assert_eq!(client.read(TABLE, PODS)?["kind"], "Table");
        let first = client.read(WHOLE, &format!("{CONFIGMAPS}?limit=1"))?;
        // Page by page alone, as many clients list: no page is written down when the next one is asked for.
        let name = |page: &Value| page["items"][0]["metadata"]["name"].clone();
        let mut pages = vec![client.read(WHOLE, &format!("{ACCOUNTS}?limit=1"))?];
        while let Some(next) = pages.last().and_then(|page| page["metadata"]["continue"].as_str()) {
            pages.push(client.read(WHOLE, &format!("{ACCOUNTS}?limit=1&continue={next}"))?);
        }
        let names: Vec<Value> = pages.iter().map(name).collect();
        (names, first["metadata"]["continue"].clone())
    };
    ensure!(accounts_read.len() > 1, "one page: {accounts_read:?}");
    cluster.apply(pod)?;
    let before = cluster.wait_for("the pod", seconds(60), || running(&scene));
    let listed = scene.kubectl(&["get", "--raw", PODS])?;
    let version = serde_json::from_str::<Value>(&listed)?["metadata"]["resourceVersion"].clone();
    let version = version.as_str().context("no version")?.to_owned();

    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    {
        let client = Client(Caller(token), &scene);
        let bare = client.read(METADATA_LIST, SECRETS)?;
        let names: Vec<&Value> = (bare["items"].as_array().context("no items")?.iter())
            .inspect(|item| {
                assert!(item["kind"] == "PartialObjectMetadata" && item["data"].is_null(), "{item}")
            })
            .map(|item| &item["metadata"]["name"])
            .collect();
        assert_eq!(names, ["late"]);
        let one = client.read(METADATA, &format!("{SECRETS}/late"))?;
        assert!(one["metadata"]["labels"]["of"] == "test" && one["data"].is_null(), "{one}");
        // It has never read the Secret itself, though kubelet has.
        assert_eq!(client.code(WHOLE, SECRETS)?, "503");
        assert_eq!(client.code(WHOLE, &format!("{SECRETS}/late"))?, "503");
        let listed = client.read(WHOLE, ACCOUNTS)?;
        let names =
            listed["items"].as_array().into_iter().flatten().map(|item| item["metadata"]["name"].clone());
        assert_eq!(names.collect::<Vec<_>>(), accounts_read, "what was read in pages is known as a whole");
        let maps = client.read(WHOLE, CONFIGMAPS)?;
        let data = |name: &str| {
            let mut items = maps["items"].as_array().into_iter().flatten();
            items.find(|item| item["metadata"]["name"] == name).map(|item| item["data"]["a"].clone())
        };
        assert_eq!((data("first"), data("second")), (Some("1".into()), Some("2".into())), "{maps}");
        let page = page.as_str().context("no second page")?;
        let next = format!("{CONFIGMAPS}?limit=1&continue={page}");
        let (code, body) = client.0.answer(&scene, &[], &next)?;
        assert!(code == "410" && body.contains("\"Expired\""), "{code} {body}");
    }
    scene.node.ctr(&["tasks", "kill", "-s", "SIGKILL", &before.containers[0].id])?;
    cluster.wait_for("a restart that the cloud does not know of", seconds(60), || {
        ensure!(running(&scene)?.restarts() == before.restarts() + 1, "not yet");
        Ok(())
    });
    // The daemon does not know who saw what before it was started.
    scene.edge.kill();
    scene.edge.start(&scene.node)?;
    let resumed = format!("{PODS}&watch=true&resourceVersion={version}&timeoutSeconds=3");
    let events = scene.kubectl(&["get", "--raw", &resumed])?;
    let told = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let restarts: Vec<Value> = told
        .filter(|event| event["type"] == "MODIFIED" && event["object"]["metadata"]["name"] == "reader")
        .map(|event| event["object"]["status"]["containerStatuses"][0]["restartCount"].clone())
        .collect();
    assert_eq!(restarts.last(), Some(&(before.restarts() + 1).into()), "{events}");

    scene.reboot()?;
    scene.node.start_kubelet(crate::support::Edge::KUBECONFIG)?;
    cluster.wait_for("the pod, with the Secret that it is given", seconds(90), || {
        let pod = running(&scene)?;
        ensure!(pod.containers != before.containers, "{pod:?}");
        Ok(())
    });
    let value =
        scene.edge.run(&scene.node, &["pod", "exec", "reader", "--", "sh", "-c", "echo $password"])?;
    assert_eq!(value.trim(), "s3cret");
    Ok(())
}

fn running(scene: &Scene) -> Result<Pod> {
    let pod = scene.node.pods()?.into_iter().find(|pod| pod.name == "reader").context("no pod")?;
    ensure!(pod.running(), "{pod:?}");
    Ok(pod)
}
