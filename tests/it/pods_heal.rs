//! Self-heal on a real gateway: each symptom is provoked, what helps helps, what does not comes to an end that is told,
//! and who must be left alone is.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::support::{Cut, Edge, NodeOptions, Pod, Scene, seconds};

const SETTINGS: &str = r#"
[pods.self-heal]
enabled = true
failures = 3
window = "30s"
broken-for = "2s"
max-restarts = 2
back-off = "2s"
"#;

/// Fails from its second start on, until the memory that its containers share is new.
const POISONED: &str = "[ ! -e /dev/shm/poison ] || exit 3; \
    [ -e /state/once ] || { : >/state/once; : >/dev/shm/poison; exit 3; }; \
    trap 'exit 0' TERM; while sleep 0.1; do :; done";
const WELL: &str = "trap 'exit 0' TERM; while sleep 0.1; do :; done";

fn pod(name: &str, script: &str, metadata: Value, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 2,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "registry.test/edge/app:1", "imagePullPolicy": "Never",
                            "command": ["sh", "-c", script],
                            "volumeMounts": [{"name": "state", "mountPath": "/state"}]}],
            "volumes": [{"name": "state", "emptyDir": {}}],
        },
    });
    for (part, more) in [("metadata", metadata), ("spec", spec)] {
        for (key, value) in more.as_object().into_iter().flatten() {
            pod[part][key] = value.clone();
        }
    }
    pod
}

fn pods() -> Vec<Value> {
    let none = || json!({});
    let untouched = json!({"annotations": {"edge.io/self-heal": "false"}});
    let no_map = json!({"volumes": [{"name": "state", "configMap": {"name": "missing"}}]});
    vec![
        pod("poisoned", POISONED, none(), none()),
        pod("hopeless", "exit 3", none(), none()),
        pod("spared", "exit 3", untouched, none()),
        pod("netless", WELL, none(), none()),
        pod("nowhere", WELL, none(), none()),
        pod("addressless", WELL, none(), none()),
        pod("sandboxless", WELL, none(), none()),
        pod(
            "ending",
            "trap '' TERM; while sleep 0.1; do :; done",
            none(),
            json!({"terminationGracePeriodSeconds": 12}),
        ),
        pod("mountless", WELL, none(), no_map),
    ]
}

fn scene() -> Result<Scene> {
    let kubelet = json!({"crashLoopBackOff": {"maxContainerRestartPeriod": "1s"}});
    let mut scene = Scene::ready(&NodeOptions { kubelet, ..NodeOptions::default() })?;
    let config = scene.edge.config(&scene.node)?;
    scene.edge.configure(&scene.node, &format!("{config}\n{SETTINGS}"))?;
    scene.edge.reload()?;
    let fixed = pod("fixed", "exit 3", json!({"namespace": "default"}), json!({}));
    scene.node.static_pod("fixed", &fixed.to_string())?;
    scene.cluster.wait_for("the default service account", seconds(60), || {
        scene.cluster.raw("/api/v1/namespaces/default/serviceaccounts/default")
    });
    for pod in pods() {
        scene.cluster.apply(&pod.to_string())?;
    }
    Ok(scene)
}

/// Reason and message of the events that edge raised about a pod, as the cloud has them.
fn told(scene: &Scene, pod: &str) -> Result<Vec<String>> {
    let path =
        format!("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name={pod},source=edge");
    let list = scene.cluster.get(&path)?;
    let items = list["items"].as_array().context("no list")?.iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(items.map(|event| format!("{} {}", text(&event["reason"]), text(&event["message"]))).collect())
}

fn wait_told(scene: &Scene, pod: &str, parts: &[&str]) {
    scene.cluster.wait_for(&format!("word of {parts:?} about {pod}"), seconds(60), || {
        let told = told(scene, pod)?;
        let whole = |event: &&String| parts.iter().all(|part| event.contains(part));
        ensure!(told.iter().find(whole).is_some(), "{told:#?}");
        Ok(())
    });
}

fn seen(scene: &Scene, name: &str) -> Result<Pod> {
    let pods = scene.node.pods()?;
    pods.into_iter().find(|pod| pod.name == name).with_context(|| format!("no pod {name}"))
}

fn wait_running(scene: &Scene, names: &[&str]) {
    scene.cluster.wait_for(&format!("{names:?} to run"), seconds(60), || {
        for name in names {
            let pod = seen(scene, name)?;
            ensure!(pod.running(), "{pod:?}");
        }
        Ok(())
    });
}

/// The line of `edge status` for self-heal: state and message.
fn part(scene: &Scene) -> Result<(String, String)> {
    let status = scene.edge.status(&scene.node)?;
    let parts = status["parts"].as_array().context("no parts")?;
    let part = parts.iter().find(|part| part["part"] == "self-heal").context("no self-heal")?;
    let text = |key: &str| part[key].as_str().unwrap_or_default().to_owned();
    Ok((text("state"), text("message")))
}

#[test]
fn self_heal_restarts_what_is_broken_and_knows_whom_to_leave_alone() -> Result<()> {
    let mut scene = scene()?;
    wait_running(&scene, &["netless", "nowhere", "addressless", "sandboxless", "ending"]);
    let left_alone = ["spared", "fixed-node-1"];
    let sandboxes = left_alone.map(|name| scene.node.sandbox(name).map(|(id, _)| id));
    networks(&scene)?;
    crash_loops(&scene)?;
    mounts(&scene)?;
    for (name, before) in left_alone.iter().zip(sandboxes) {
        assert_eq!(scene.node.sandbox(name)?.0, before?, "{name} was renewed");
    }
    counters_survive_a_reboot(&mut scene)?;
    sandboxes_offline(&scene)?;

    for name in left_alone {
        assert_eq!(told(&scene, name)?, [""; 0], "{name}");
        assert!(seen(&scene, name)?.restarts() > 6, "{name} has not failed often enough to show anything");
    }
    Ok(())
}

fn networks(scene: &Scene) -> Result<()> {
    let machine = scene.node.machine()?;
    let before = ["netless", "nowhere", "addressless"].map(|name| seen(scene, name));
    // One that is being deleted loses its network first.
    scene.cluster.kubectl(&["delete", "pod", "ending", "--wait=false"])?;
    let ending = scene.node.sandbox("ending")?.1;
    machine.shell(&format!("umount {ending}; rm -f {ending}"))?;
    let gone = scene.node.sandbox("netless")?.1;
    machine.shell(&format!("umount {gone}; rm -f {gone}"))?;
    // There is a file, and it leads nowhere: containerd gives no address then, and removes the file.
    let nowhere = scene.node.sandbox("nowhere")?.1;
    machine.shell(&format!("umount {nowhere}; rm -f {nowhere}; : >{nowhere}"))?;

    wait_told(scene, "netless", &["SelfHealRestart", "its network namespace is gone for"]);
    wait_told(scene, "nowhere", &["SelfHealRestart", "its network namespace is gone for"]);
    // The namespace is there, and what gave it an address has taken it away: the runtime goes on telling the address that
    // it noted. edge has looked at it several times by now.
    let flushed = scene.node.sandbox("addressless")?.1;
    machine.shell(&format!("nsenter --net={flushed} ip address flush dev eth0"))?;
    wait_told(scene, "addressless", &["SelfHealRestart", "it has no address for"]);
    for before in before {
        let before = before?;
        scene.cluster.wait_for("a new network", seconds(60), || {
            let now = seen(scene, &before.name)?;
            ensure!(now.running() && now.uid == before.uid && now.address != before.address, "{now:?}");
            Ok(())
        });
    }
    scene.cluster.wait_for("the end of the deleted pod", seconds(60), || {
        ensure!(seen(scene, "ending").is_err(), "still there");
        Ok(())
    });
    assert_eq!(told(scene, "ending")?, [""; 0]);
    Ok(())
}

fn crash_loops(scene: &Scene) -> Result<()> {
    wait_told(scene, "poisoned", &["SelfHealRestart", "failed starts within 30 s"]);
    wait_told(scene, "poisoned", &["SelfHealRestart the whole pod restarted ("]);
    wait_running(scene, &["poisoned"]);
    wait_told(scene, "hopeless", &["SelfHealGaveUp", "2 restarts did not help"]);
    let restarts =
        told(scene, "hopeless")?.iter().filter(|event| event.starts_with("SelfHealRestart")).count();
    assert_eq!(restarts, 2);
    let (state, message) = part(scene)?;
    assert!(state == "trouble" && message.contains("default/hopeless is left alone: "), "{state} {message}");
    Ok(())
}

fn mounts(scene: &Scene) -> Result<()> {
    wait_told(
        scene,
        "mountless",
        &["SelfHealGaveUp", "a volume cannot be mounted for", "there is nothing of it"],
    );
    assert!(part(scene)?.1.contains("default/mountless is left alone: "), "{:?}", part(scene)?);
    scene.cluster.kubectl(&["create", "configmap", "missing"])?;
    wait_running(scene, &["mountless"]);
    scene.cluster.wait_for("mountless to be well", seconds(20), || {
        let (_, message) = part(scene)?;
        ensure!(!message.contains("mountless"), "{message}");
        Ok(())
    });
    Ok(())
}

fn counters_survive_a_reboot(scene: &mut Scene) -> Result<()> {
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    scene.cluster.wait_for("the same line as before", seconds(20), || {
        let (state, message) = part(scene)?;
        ensure!(
            state == "trouble" && message.contains("default/hopeless is left alone"),
            "{state} {message}"
        );
        Ok(())
    });
    let gave_up = told(scene, "hopeless")?.iter().filter(|event| event.starts_with("SelfHealGaveUp")).count();
    assert_eq!(gave_up, 1, "said once");
    wait_running(scene, &["sandboxless", "poisoned"]);
    Ok(())
}

/// While the cloud is away the network's plugin is gone, and a sandbox dies: none can be made. Its story is told to the
/// cloud when it is back.
fn sandboxes_offline(scene: &Scene) -> Result<()> {
    scene.cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    let network = scene.node.machine()?.read("/etc/cni/net.d/10-edge.conflist")?;
    // An interface of such a name cannot be made; what there is can be taken down.
    let broken = network.replace("\"cni0\"", "\"cni0-with-a-name-too-long\"");
    assert_ne!(network, broken);
    scene.node.machine()?.write("/etc/cni/net.d/10-edge.conflist", &broken)?;
    let sandbox = scene.node.sandbox("sandboxless")?.0;
    scene.node.ctr(&["tasks", "kill", "-s", "SIGKILL", &sandbox])?;

    let described = |parts: &[&str]| {
        scene.cluster.wait_for(&format!("{parts:?} offline"), seconds(60), || {
            let page = scene.edge.run(&scene.node, &["pod", "describe", "sandboxless"])?;
            let whole = |line: &str| parts.iter().all(|part| line.contains(part));
            let found = page.lines().filter(|line| whole(line)).count();
            ensure!(found == 1, "{found} of them in\n{page}");
            Ok(())
        });
    };
    described(&["SelfHealGaveUp", "its sandbox cannot be made"]);
    scene.node.machine()?.write("/etc/cni/net.d/10-edge.conflist", &network)?;
    wait_running(scene, &["sandboxless"]);
    scene.cluster.heal()?;
    wait_told(scene, "sandboxless", &["SelfHealGaveUp", "its sandbox cannot be made for"]);
    scene.cluster.wait_for("sandboxless to be well", seconds(60), || {
        let (_, message) = part(scene)?;
        ensure!(!message.contains("sandboxless"), "{message}");
        Ok(())
    });
    Ok(())
}
