//! kubelet and ctr on a real gateway pull through the `hosts.toml` that edge wrote: from a far registry with TLS and a
//! password while it is there, from edge when it is not.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::{Cut, KUBE_ADDRESS, Node, NodeOptions, Process, Scene, seconds};

const FAR: &str = "10.250.0.1:5443";

/// A pod of the far image.
fn pod(name: &str, tag: &str, policy: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": format!("registry.far/team/app:{tag}"), "imagePullPolicy": policy,
                            "command": ["sh", "-c", "trap 'exit 0' TERM; while sleep 0.1; do :; done"]}],
        },
    })
}

/// A docker-registry in the cloud with a certificate of the cloud's authority, that knows ann alone.
fn far_registry(scene: &Scene) -> Result<Process> {
    let cloud = scene.cluster.machine();
    let pair = scene.cluster.authority().server(&["10.250.0.1"])?;
    cloud.write("/etc/far/tls.crt", &pair.certificate)?;
    cloud.write("/etc/far/tls.key", &pair.key)?;
    cloud.write("/etc/far/htpasswd", &format!("ann:{}\n", bcrypt::hash("secret", 4)?))?;
    cloud.write(
        "/etc/far/config.yml",
        &format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: /run/far}}}}\n\
             http: {{addr: '{FAR}', tls: {{certificate: /etc/far/tls.crt, key: /etc/far/tls.key}}}}\n\
             auth: {{htpasswd: {{realm: far, path: /etc/far/htpasswd}}}}\n"
        ),
    )?;
    let argv = ["docker-registry", "serve", "/etc/far/config.yml"];
    let process = Process::start(cloud, &scene.cluster.logs(), "far-registry", &argv, &[])?;
    scene.cluster.wait_for("far registry", seconds(20), || {
        cloud.run(&["curl", "-skf", "-u", "ann:secret", &format!("https://{FAR}/v2/")])
    });
    Ok(process)
}

/// Takes the node's own image, and puts it into the far registry under two tags.
fn fill(scene: &Scene) -> Result<()> {
    let archive = scene.cluster.dir().join("app.tar").display().to_string();
    scene.node.ctr(&["images", "export", &archive, "registry.test/edge/app:1"])?;
    for tag in ["1", "2"] {
        let to = format!("docker://{FAR}/team/app:{tag}");
        let from = format!("oci-archive:{archive}");
        scene.cluster.machine().run(&[
            "skopeo",
            "copy",
            "--dest-tls-verify=false",
            "--dest-creds",
            "ann:secret",
            &from,
            &to,
        ])?;
    }
    Ok(())
}

fn running(node: &Node, pod: &str) -> Result<()> {
    let containers = node.running_containers()?;
    ensure!(containers.values().any(|name| name.contains(pod)), "{containers:?}");
    Ok(())
}

fn images(scene: &Scene) -> Result<Vec<Value>> {
    let listed: Value =
        serde_json::from_str(&scene.edge.run(&scene.node, &["image", "list", "-o", "json"])?)?;
    Ok(listed.as_array().context("no list")?.clone())
}

/// A chart that edge keeps, installed by helm from the gateway.
fn helm_installs(scene: &Scene) -> Result<()> {
    let machine = scene.node.machine()?;
    machine.write("/etc/chart/web/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n")?;
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-helm}\ndata: {by: edge}\n";
    machine.write("/etc/chart/web/templates/map.yaml", template)?;
    machine.write("/etc/chart/kubeconfig", &scene.cluster.admin_kubeconfig(KUBE_ADDRESS)?)?;
    let helm = crate::registry_clients::tool("helm");
    let run = |arguments: &str| {
        let homes = "HELM_CACHE_HOME=/run/helm HELM_CONFIG_HOME=/run/helm HELM_DATA_HOME=/run/helm";
        machine.shell(&format!("cd /etc/chart; {homes} {} {arguments}", helm.display()))
    };
    run("package web")?;
    scene.edge.run(&scene.node, &["chart", "add", "/etc/chart/web-1.0.0.tgz"])?;
    run("repo add edge http://127.0.0.1:5000")?;
    run("install one edge/web --kubeconfig kubeconfig")?;
    let found = scene.cluster.kubectl(&["get", "configmap", "from-helm", "-o", "jsonpath={.data.by}"])?;
    ensure!(found == "edge", "{found}");
    Ok(())
}

/// With `--air-gap` containerd asks edge alone, also for a registry that nobody listed and that is there.
fn edge_alone_is_asked(scene: &Scene) -> Result<()> {
    let (configure, name) = (["registry", "configure-containerd"], format!("{FAR}/team/app:2"));
    let pull =
        ["images", "pull", "--hosts-dir", "/etc/containerd/certs.d", "--user", "ann:secret", "--skip-verify"];
    let pull: Vec<&str> = pull.into_iter().chain([name.as_str()]).collect();
    scene.node.ctr(&pull).context("the registry itself is the last resort")?;
    scene.node.ctr(&["images", "rm", "--sync", &name])?;
    scene.edge.run(&scene.node, &[configure[0], configure[1], "--air-gap"])?;
    let refused = scene.node.ctr(&pull).err().context("another registry than edge was asked")?;
    ensure!(format!("{refused:#}").contains("not found"), "{refused:#}");
    scene.node.ctr(&[
        "images",
        "pull",
        "--hosts-dir",
        "/etc/containerd/certs.d",
        "registry.far/team/app:2",
    ])?;
    scene.edge.run(&scene.node, &configure)?;
    scene.node.ctr(&pull).context("the registry itself is the last resort again")?;
    scene.node.ctr(&["images", "rm", "--sync", &name])?;
    Ok(())
}

/// Where edge cannot reach a registry itself, containerd does as it did before, by what was in the registry's folder.
fn the_last_resort_is_asked_as_before(scene: &Scene) -> Result<()> {
    let machine = scene.node.machine()?;
    let before = scene.edge.config(&scene.node)?;
    // Without its authority: edge has nothing of this one.
    let row = format!("\n[[registry.upstreams]]\nhost = \"{FAR}\"\n");
    scene.edge.configure(&scene.node, &format!("{before}{row}"))?;
    let (configure, name) = (["registry", "configure-containerd"], format!("{FAR}/team/app:2"));
    let pull = ["images", "pull", "--hosts-dir", "/etc/containerd/certs.d", "--user", "ann:secret", &name];
    let folder = "/etc/containerd/certs.d/10.250.0.1_5443_";
    // A mirror that does not answer: older containerd takes no hosts.toml without any.
    let hosts = r#"printf 'ca = "/etc/edge/far-ca.crt"\n[host."http://10.250.0.1:1"]\n' > hosts.toml"#;
    for made in ["ln -s /etc/edge/far-ca.crt ca.crt", hosts] {
        machine.shell(&format!("rm -rf {folder}; mkdir -p {folder}; cd {folder}; {made}"))?;
        scene.node.ctr(&pull).context("it could be asked before")?;
        scene.node.ctr(&["images", "rm", "--sync", &name])?;
        let said = scene.edge.run(&scene.node, &configure)?;
        ensure!(said.contains("10.250.0.1_5443_/hosts.toml"), "{said}");
        scene.node.ctr(&pull).with_context(|| format!("after {made}"))?;
        scene.node.ctr(&["images", "rm", "--sync", &name])?;
        scene.edge.run(&scene.node, &[configure[0], configure[1], "--undo"])?;
    }
    machine.shell(&format!("rm -rf {folder}"))?;
    scene.edge.configure(&scene.node, &before)?;
    scene.edge.run(&scene.node, &configure).map(|_| ())
}

#[test]
fn kubelet_and_ctr_pull_through_edge_and_from_edge_when_the_far_registry_is_gone() -> Result<()> {
    let mut scene = Scene::ready(&NodeOptions::default())?;
    let _far = far_registry(&scene)?;
    fill(&scene)?;
    let machine = scene.node.machine()?;
    machine.write("/etc/edge/far-ca.crt", scene.cluster.authority().certificate())?;
    machine.write("/etc/edge/docker.json", r#"{"auths":{"registry.far":{"auth":"YW5uOnNlY3JldA=="}}}"#)?;
    machine.shell("chmod 0600 /etc/edge/docker.json")?;
    let config = scene.edge.config(&scene.node)?;
    let more = format!(
        "[registry]\ndocker-config = \"/etc/edge/docker.json\"\n\n[[registry.upstreams]]\nhost = \"registry.far\"\n\
         url = \"https://{FAR}\"\nca = \"/etc/edge/far-ca.crt\"\n"
    );
    scene.edge.configure(&scene.node, &format!("{config}\n{more}"))?;
    scene.edge.reload()?;

    // edge writes containerd's files, and says that nothing must be restarted.
    let check = ["registry", "configure-containerd", "--check"];
    ensure!(scene.edge.output(&scene.node, &check)?.status.code() == Some(1), "nothing to do");
    let said = scene.edge.run(&scene.node, &["registry", "configure-containerd"])?;
    ensure!(said.contains("certs.d/registry.far/hosts.toml") && said.contains("need not"), "{said}");
    ensure!(scene.edge.run(&scene.node, &check)?.contains("nothing to do"), "it is done");

    // An image that only the far registry has.
    scene.cluster.apply(&pod("far-one", "1", "IfNotPresent").to_string())?;
    let node = &scene.node;
    scene.cluster.wait_for("a pod of a pulled image", seconds(60), || running(node, "far-one"));
    let pull = ["images", "pull", "--hosts-dir", "/etc/containerd/certs.d", "registry.far/team/app:2"];
    scene.node.ctr(&pull)?;
    let listed = images(&scene)?;
    let one = listed.iter().find(|one| one["tag"] == "1").context("tag 1 is not here")?;
    ensure!(one["from"] == "pull-through" && one["repository"] == "registry.far/team/app", "{one}");
    scene.cluster.wait_for("the pod in the list", seconds(20), || {
        let listed = images(&scene)?;
        let one = listed.iter().find(|one| one["tag"] == "1").context("tag 1 is not here")?;
        ensure!(one["neededBy"] == json!(["pod default/far-one"]), "{one}");
        Ok(())
    });
    let refused = scene.edge.output(&scene.node, &["image", "remove", "registry.far/team/app:1"])?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("pod default/far-one"), "{refused:?}");

    helm_installs(&scene)?;
    edge_alone_is_asked(&scene)?;
    the_last_resort_is_asked_as_before(&scene)?;

    // containerd never asked for the layer, which it has from another image; edge has all of it all the same.
    scene.cluster.wait_for("whole images", seconds(20), || {
        let listed = images(&scene)?;
        ensure!(listed.iter().all(|one| one["missing"] == 0), "{listed:?}");
        Ok(())
    });

    // The cloud is gone, and containerd has lost the images: new pods and pulls get them from edge.
    scene.cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    for name in ["registry.far/team/app:1", "registry.far/team/app:2"] {
        scene.node.ctr(&["images", "rm", "--sync", name])?;
    }
    let manifest = pod("far-two", "1", "Always").to_string();
    scene.node.static_pod("far-two", &manifest)?;
    let node = &scene.node;
    scene.cluster.wait_for("an offline pod of a pulled image", seconds(60), || running(node, "far-two"));
    scene.node.ctr(&pull)?;
    let miss = ["images", "pull", "--hosts-dir", "/etc/containerd/certs.d", "registry.far/team/app:3"];
    ensure!(scene.node.ctr(&miss).is_err(), "what is not here cannot be had");

    // containerd's own archives, in and out.
    let archive = scene.cluster.dir().join("two.tar").display().to_string();
    scene.node.ctr(&["images", "export", &archive, "registry.test/edge/app:2"])?;
    let said = scene.edge.run(&scene.node, &["image", "import", &archive])?;
    ensure!(said.contains("registry.test/edge/app:2 sha256:"), "{said}");
    let back = scene.cluster.dir().join("back.tar").display().to_string();
    scene.edge.run(&scene.node, &["image", "export", "registry.far/team/app:1", "--to", &back])?;
    scene.node.ctr(&["images", "rm", "--sync", "registry.far/team/app:1"])?;
    scene.node.ctr(&["images", "import", &back])?;
    ensure!(scene.node.ctr(&["images", "ls", "-q"])?.contains("registry.far/team/app:1"), "not imported");

    // What containerd had before comes back.
    let undone = scene.edge.run(&scene.node, &["registry", "configure-containerd", "--undo"])?;
    ensure!(undone.contains("put back: ") && undone.contains("registry.far"), "{undone}");
    let left = scene.node.machine()?.shell("find /etc/containerd/certs.d -type f")?;
    ensure!(left.trim().is_empty(), "{left}");
    Ok(())
}
