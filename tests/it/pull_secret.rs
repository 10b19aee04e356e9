//! An image from a registry that asks for a login: the pod's pull secret is kept, and after a reboot in an outage the
//! kubelet finds it and takes the image that is there.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::support::{Cut, Edge, NodeOptions, Process, Scene, image_archive, seconds, workload};

const REGISTRY: &str = "10.250.0.1:5000";

const CONFIG: &str = "
version: 0.1
storage: {filesystem: {rootdirectory: /run/registry}}
http: {addr: '0.0.0.0:5000'}
auth: {htpasswd: {realm: test, path: /etc/registry.htpasswd}}
";

const HOSTS: &str = r#"
server = "http://10.250.0.1:5000"
[host."http://10.250.0.1:5000"]
capabilities = ["pull", "resolve"]
"#;

const MANIFEST: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: login}
type: kubernetes.io/dockerconfigjson
stringData:
  .dockerconfigjson: '{"auths": {"10.250.0.1:5000": {"username": "ship", "password": "ahoy", "auth": "c2hpcDphaG95"}}}'
---
apiVersion: v1
kind: Pod
metadata: {name: private}
spec:
  terminationGracePeriodSeconds: 1
  imagePullSecrets: [{name: login}]
  containers:
  - name: main
    image: 10.250.0.1:5000/fleet/app:1
    imagePullPolicy: IfNotPresent
---
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  containers:
  - {name: main, image: "10.250.0.1:5000/fleet/other:1", imagePullPolicy: IfNotPresent}
"#;

#[test]
fn an_image_behind_a_login_starts_offline() -> Result<()> {
    let mut scene = Scene::ready(&NodeOptions::default())?;
    let cluster = scene.cluster.clone();
    let cloud = cluster.machine();
    cloud.write("/etc/registry.yml", CONFIG)?;
    cloud.write("/etc/registry.htpasswd", &format!("ship:{}\n", bcrypt::hash("ahoy", 4)?))?;
    let argv = ["docker-registry", "serve", "/etc/registry.yml"];
    let _registry = Process::start(cloud, &cluster.logs(), "registry", &argv, &[])?;
    scene.node.machine()?.write(&format!("/etc/containerd/certs.d/{REGISTRY}/hosts.toml"), HOSTS)?;
    push(&scene)?;

    cluster.wait_for("the default service account", seconds(60), || {
        cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    cluster.apply(MANIFEST)?;
    let id = cluster.wait_for("a pod whose image was pulled with a login", seconds(90), || started(&scene));
    cluster.wait_for("a refusal without one", seconds(60), || {
        let events =
            cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=stranger"])?;
        ensure!(
            events.contains("no basic auth credentials") || events.contains("authorization failed"),
            "{events}"
        );
        Ok(())
    });

    // Power and cloud go at once: the daemon that was has not seen the link down, the next one never sees it up.
    cluster.cut(Cut::Drop)?;
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    cluster.wait_for("the same pod, offline", seconds(90), || {
        ensure!(started(&scene)? != id, "the kubelet repeats what was before the reboot");
        Ok(())
    });
    let secret = scene.kubectl(&["get", "--raw", "/api/v1/namespaces/default/secrets/login"])?;
    ensure!(secret.contains(".dockerconfigjson"), "{secret}");
    Ok(())
}

/// The container of the pod, when it runs.
fn started(scene: &Scene) -> Result<String> {
    let pods = scene.node.pods()?;
    let pod = pods.iter().find(|pod| pod.name == "private" && pod.running());
    Ok(pod.with_context(|| workload::states(&pods))?.containers[0].id.clone())
}

fn push(scene: &Scene) -> Result<()> {
    let folder = tempfile::tempdir_in(scene.cluster.dir())?;
    let name = format!("{REGISTRY}/fleet/app:1");
    let archive = image_archive(folder.path(), &[&name])?;
    let from = format!("docker-archive:{}", archive.display());
    for repository in ["app", "other"] {
        let to = format!("docker://{REGISTRY}/fleet/{repository}:1");
        let argv = ["skopeo", "copy", "--dest-tls-verify=false", "--dest-creds=ship:ahoy", &from, &to];
        scene.cluster.wait_for("a registry that takes the image", seconds(30), || {
            // In the cloud's network, on the host's disk.
            let init = scene.cluster.machine().init().to_string();
            let done = Command::new("nsenter").args(["-t", &init, "-n", "--"]).args(argv).output()?;
            ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            Ok(())
        });
    }
    Ok(())
}
