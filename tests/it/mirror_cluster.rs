//! `[mirror.cluster]` on a real gateway: what its pods run is mirrored with their pull secrets, and starts from here when
//! the registry is gone.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{Cut, NodeOptions, Process, Scene, seconds};

const FAR: &str = "10.250.0.1:5443";

/// A docker-registry in the cloud with a certificate of the cloud's authority, that knows ann alone.
fn far_registry(scene: &Scene) -> Result<Process> {
    let cloud = scene.cluster.machine();
    let pair = scene.cluster.authority().server(&["10.250.0.1"])?;
    cloud.write("/etc/far/tls.crt", &pair.certificate)?;
    cloud.write("/etc/far/tls.key", &pair.key)?;
    cloud.write("/etc/far/htpasswd", &format!("ann:{}\n", bcrypt::hash("secret", 4)?))?;
    let config = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: /run/far}}}}\n\
         http: {{addr: '{FAR}', tls: {{certificate: /etc/far/tls.crt, key: /etc/far/tls.key}}}}\n\
         auth: {{htpasswd: {{realm: far, path: /etc/far/htpasswd}}}}\n"
    );
    cloud.write("/etc/far/config.yml", &config)?;
    let argv = ["docker-registry", "serve", "/etc/far/config.yml"];
    let process = Process::start(cloud, &scene.cluster.logs(), "far-registry", &argv, &[])?;
    scene.cluster.wait_for("far registry", seconds(20), || {
        cloud.run(&["curl", "-skf", "-u", "ann:secret", &format!("https://{FAR}/v2/")])
    });
    let archive = scene.cluster.dir().join("app.tar").display().to_string();
    scene.node.ctr(&["images", "export", &archive, "registry.test/edge/app:1"])?;
    let (from, to) = (format!("oci-archive:{archive}"), format!("docker://{FAR}/team/app:1"));
    cloud.run(&["skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", "ann:secret", &from, &to])?;
    Ok(process)
}

fn pod(name: &str, policy: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 1,
            "imagePullSecrets": [{"name": "login"}],
            "containers": [{"name": "main", "image": format!("{FAR}/team/app:1"), "imagePullPolicy": policy,
                            "command": ["sh", "-c", "trap 'exit 0' TERM; while sleep 0.1; do :; done"]}],
        },
    })
}

fn running(scene: &Scene, pod: &str) -> Result<()> {
    let containers = scene.node.running_containers()?;
    ensure!(containers.values().any(|name| name.contains(pod)), "{containers:?}");
    Ok(())
}

#[test]
fn what_the_pods_of_this_node_run_is_mirrored_with_their_pull_secrets() -> Result<()> {
    let mut scene = Scene::ready(&NodeOptions::default())?;
    let _far = far_registry(&scene)?;
    let machine = scene.node.machine()?;
    machine.write("/etc/edge/far-ca.crt", scene.cluster.authority().certificate())?;
    let hosts =
        format!("server = \"https://{FAR}\"\n[host.\"https://{FAR}\"]\nca = \"/etc/edge/far-ca.crt\"\n");
    machine.write(&format!("/etc/containerd/certs.d/{FAR}/hosts.toml"), &hosts)?;
    let login =
        json!({"auths": {FAR: {"username": "ann", "password": "secret", "auth": "YW5uOnNlY3JldA=="}}});
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login", "namespace": "default"},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": login.to_string()},
    });
    scene.cluster.wait_for("the default service account", seconds(60), || {
        scene.cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    scene.cluster.apply(&secret.to_string())?;
    scene.cluster.apply(&pod("one", "IfNotPresent").to_string())?;
    scene.cluster.wait_for("a pod of the far image", seconds(90), || running(&scene, "one"));

    let config = scene.edge.config(&scene.node)?;
    let more = "[mirror]\nauthorities = [\"/etc/edge/far-ca.crt\"]\n[mirror.cluster]\nimages = true\n";
    scene.edge.configure(&scene.node, &format!("{config}\n{more}"))?;
    scene.edge.reload()?;
    let done = scene.edge.run(&scene.node, &["mirror", "sync", "-o", "json"])?;
    let done: Value = serde_json::from_str(&done).context("no summary")?;
    let images = done["images"].as_array().context("no images")?;
    ensure!(images.len() == 1 && images[0]["state"] == "new", "{done}");
    ensure!(images[0]["name"] == format!("{FAR}/team/app:1"), "{done}");
    let told = scene.edge.run(&scene.node, &["mirror", "explain", &format!("{FAR}/team/app:1")])?;
    ensure!(told.contains("in   cluster: ") && told.contains("one"), "{told}");
    let shown = scene.edge.run(&scene.node, &["mirror", "list", "-o", "json"])?;
    ensure!(!shown.contains("secret"), "{shown}");

    // The cloud is gone, and the runtime has lost the image: it starts from here.
    scene.edge.run(&scene.node, &["registry", "configure-containerd", "--host", FAR])?;
    scene.cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.node.ctr(&["images", "rm", "--sync", &format!("{FAR}/team/app:1")])?;
    let mut two = pod("two", "Always");
    // The kubelet lets no static pod name a secret.
    two["spec"].as_object_mut().context("no spec")?.remove("imagePullSecrets");
    scene.node.static_pod("two", &two.to_string())?;
    scene.cluster.wait_for("an offline pod of the mirrored image", seconds(90), || running(&scene, "two"));
    // It is pulled always, and that is no risk: it has just been.
    scene.cluster.wait_for("two among the pods that are known", seconds(20), || {
        let risks = scene.edge.status(&scene.node)?["atRisk"].clone();
        let of = |pod: &str| -> Vec<String> {
            let own = risks.as_array().into_iter().flatten().filter(|risk| risk["pod"] == pod);
            own.filter_map(|risk| risk["reason"].as_str().map(str::to_owned)).collect()
        };
        let pod = scene.edge.run(&scene.node, &["pod", "get", "two-node-1", "-o", "json"])?;
        ensure!(pod.contains("kubernetes.io/config.mirror"), "it is not kept yet: {pod}");
        ensure!(of("default/two-node-1").iter().all(|why| !why.contains("image")), "{risks}");
        Ok(())
    });
    runs_by_schedule_only_while_connected(&mut scene, &format!("{config}\n{more}"))
}

/// Each second by its schedule: none while the cloud is away, and one as soon as it is back.
fn runs_by_schedule_only_while_connected(scene: &mut Scene, config: &str) -> Result<()> {
    let schedule = "[mirror]\nschedule = \"* * * * * *\"\njitter = \"0s\"\n";
    scene.edge.configure(&scene.node, &config.replace("[mirror]\n", schedule))?;
    scene.edge.reload()?;
    let status = |scene: &Scene| Ok::<_, anyhow::Error>(scene.edge.status(&scene.node)?["mirror"].clone());
    scene.cluster.wait_for("the schedule", seconds(10), || {
        let mirror = status(scene)?;
        ensure!(mirror["schedule"].is_string() && mirror["next"].is_string(), "{mirror}");
        Ok(())
    });
    let before = status(scene)?["started"].clone();
    std::thread::sleep(seconds(5));
    let mirror = status(scene)?;
    ensure!(mirror["started"] == before && mirror["running"].is_null(), "it ran without the cloud: {mirror}");
    scene.cluster.heal()?;
    scene.wait_link("online");
    scene.cluster.wait_for("a run once the cloud is back", seconds(40), || {
        let mirror = status(scene)?;
        ensure!(mirror["started"] != before && mirror["missing"] == json!([]), "{mirror}");
        Ok(())
    });
    Ok(())
}
