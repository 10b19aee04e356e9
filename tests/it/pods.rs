//! `edge pod` on a real gateway: what it shows is what kubectl shows, what it restarts comes back, and what would
//! not come back is refused.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use crate::support::{
    Cluster, ClusterOptions, Containerd, Cut, Edge, KUBE_ADDRESS, Node, NodeOptions, Pod, Scene,
    kubectl_path, seconds, workload,
};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: plain, labels: {app: plain}}
spec:
  terminationGracePeriodSeconds: 2
  tolerations: [{operator: Exists}]
  containers:
  - name: main
    image: registry.test/edge/app:1
    imagePullPolicy: Never
    command: [sh, -c, "trap 'echo last words; exit 0' TERM; echo first words; echo to stderr >&2; while sleep 0.1; do :; done"]
  - name: side
    image: registry.test/edge/app:1
    imagePullPolicy: Never
    command: [sh, -c, "trap 'exit 0' TERM; while sleep 0.1; do :; done"]
---
apiVersion: v1
kind: Pod
metadata: {name: once-only}
spec:
  restartPolicy: Never
  tolerations: [{operator: Exists}]
  containers: [{name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: sidecar}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 2
  tolerations: [{operator: Exists}]
  initContainers:
  - {name: mesh, image: "registry.test/edge/app:1", imagePullPolicy: Never, restartPolicy: Always, command: [sh, -c, "trap 'exit 0' TERM; while sleep 0.1; do :; done"]}
  - {name: first, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: ["true"]}
  containers: [{name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sh, -c, "trap 'exit 0' TERM; while sleep 0.1; do :; done"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: crash}
spec:
  tolerations: [{operator: Exists}]
  containers: [{name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sh, -c, "echo going down; exit 3"]}]
"#;

struct Gateway {
    edge: Edge,
    node: Node,
    cluster: Cluster,
}

fn gateway() -> Result<Gateway> {
    let cluster = Cluster::start(&ClusterOptions::default())?;
    let mut node = cluster.node("node-1", &NodeOptions::default())?;
    cluster.ready()?;
    let mut edge = Edge::new();
    edge.join(&node, &cluster.node_kubeconfig(KUBE_ADDRESS, "node-1")?)?;
    edge.start(&node)?;
    node.start_kubelet(Edge::KUBECONFIG)?;
    node.wait_ready();
    workload::apply(&cluster, &node)?;
    cluster.apply(PODS)?;
    workload::wait_running(&cluster);
    cluster.wait_for("the pods of this test", seconds(60), || {
        let pods = cluster.pods("default")?;
        for name in ["plain", "once-only", "sidecar"] {
            ensure!(
                pods.iter().any(|pod| pod.name == name && pod.running()),
                "{name}: {}",
                workload::states(&pods)
            );
        }
        let crash = pods.iter().find(|pod| pod.name == "crash").map_or(0, Pod::restarts);
        ensure!(crash >= 3, "crash restarted {crash} times");
        Ok(())
    });
    Ok(Gateway { edge, node, cluster })
}

impl Gateway {
    fn pod(&self, name: &str) -> Result<Pod> {
        let pods = self.node.pods()?;
        pods.into_iter().find(|pod| pod.name == name).ok_or_else(|| anyhow::anyhow!("no pod {name}"))
    }

    fn ids(&self, name: &str) -> Result<Vec<String>> {
        Ok(self.pod(name)?.containers.into_iter().map(|c| c.id).collect())
    }

    /// Standard output and error, and the exit code.
    fn edge(&self, arguments: &[&str]) -> Result<(String, String, i32)> {
        let out = self.edge.output(&self.node, arguments)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((text(out.stdout), text(out.stderr), out.status.code().unwrap_or(-1)))
    }

    /// The same of `edge` and of kubectl; tried again, since pods and the clock move in between.
    fn same_as_kubectl(&self, arguments: &[&str]) {
        let more: Vec<&str> = arguments.to_vec();
        let kubectl = [&["get", "pod"], more.as_slice()].concat();
        let edge = [&["pod", "get"], more.as_slice()].concat();
        self.cluster.wait_for("the same words", seconds(30), || {
            let before = self.cluster.kubectl(&kubectl)?;
            let ours = self.edge(&edge)?.0;
            ensure!(before == ours, "{arguments:?}\nkubectl:\n{before}\nedge:\n{ours}");
            Ok(())
        });
    }
}

#[test]
fn an_operator_sees_enters_and_restarts_pods_with_and_without_the_cloud() -> Result<()> {
    let mut gateway = gateway()?;
    shows_what_kubectl_shows(&gateway)?;
    restarts(&gateway)?;
    refuses(&gateway)?;
    runs_commands(&gateway)?;
    ends_standard_input(&gateway)?;
    lends_a_terminal(&gateway)?;
    shows_logs(&gateway)?;
    watches(&gateway)?;

    gateway.cluster.cut(Cut::Drop)?;
    gateway.cluster.wait_for("edge to notice", seconds(30), || {
        let status = gateway.edge.status(&gateway.node)?;
        ensure!(status["link"]["state"] == "offline", "{}", status["link"]);
        Ok(())
    });
    restarts(&gateway)?;
    describes(&gateway)?;
    shows_offline_what_kubectl_shows(&gateway);
    survives_kubelet_and_daemon(&mut gateway)
}

fn describes(gateway: &Gateway) -> Result<()> {
    let (page, words, code) = gateway.edge(&["pod", "describe", "crash"])?;
    assert_eq!(code, 0, "{words}");
    for part in [
        "Conditions:",
        "Last State:",
        "Exit Code:        3",
        "Reason:           Error",
        "Volumes:",
        "Events:",
        "BackOff",
    ] {
        assert!(page.contains(part), "{part} in\n{page}");
    }
    let names = gateway.edge(&["pod", "get", "-o", "name"])?.0;
    for name in names.lines().filter_map(|name| name.strip_prefix("pod/")) {
        gateway.cluster.wait_for("one STATUS", seconds(30), || {
            let before = gateway.edge(&["pod", "get", name, "--no-headers"])?.0;
            let page = gateway.edge(&["pod", "describe", name])?.0;
            let status =
                page.lines().find_map(|line| line.strip_prefix("Status:")).unwrap_or_default().trim();
            ensure!(before.split_whitespace().nth(2) == Some(status), "{before} but {status}");
            Ok(())
        });
    }
    Ok(())
}

/// Which images CRI calls pinned.
fn pinned(node: &Node) -> Result<BTreeMap<String, bool>> {
    let images = node.cri(async |runtime| runtime.images().await)?;
    let named =
        images.into_iter().flat_map(|image| image.repo_tags.into_iter().map(move |tag| (tag, image.pinned)));
    Ok(named.collect())
}

#[test]
fn images_of_pods_are_pinned_until_offline_mode_is_off() -> Result<()> {
    let mut gateway = gateway()?;
    let mut used = BTreeSet::new();
    for pod in
        gateway.cluster.get("/api/v1/namespaces/default/pods")?["items"].as_array().into_iter().flatten()
    {
        for containers in ["containers", "initContainers"] {
            let all = pod["spec"][containers].as_array().into_iter().flatten();
            used.extend(all.filter_map(|c| c["image"].as_str()).map(|image| match image.split_once('/') {
                Some(_) => image.to_owned(),
                None => format!("docker.io/library/{image}"),
            }));
        }
    }
    gateway.cluster.wait_for("the images of pods to be pinned", seconds(90), || {
        let images = pinned(&gateway.node)?;
        // containerd pins the sandbox image itself, without which none of them starts.
        for image in used.iter().map(String::as_str).chain(["localhost/pause:1"]) {
            ensure!(images.get(image) == Some(&true), "{image} is not pinned: {images:?}");
        }
        Ok(())
    });
    assert_eq!(pins(&gateway.edge.status(&gateway.node)?), "good: ");
    let config = gateway.edge.config(&gateway.node)?;
    gateway.edge.configure(&gateway.node, &format!("offline-mode = false\n{config}"))?;
    gateway.edge.reload()?;
    gateway.cluster.wait_for("the pins to go", seconds(60), || {
        let images = pinned(&gateway.node)?;
        let left: Vec<&String> = used.iter().filter(|image| images.get(*image) == Some(&true)).collect();
        ensure!(left.is_empty(), "{left:?} pinned: {images:?}");
        Ok(())
    });
    assert_eq!(pins(&gateway.edge.status(&gateway.node)?), "off: ");
    Ok(())
}

/// State and message of the part that keeps pins.
fn pins(status: &serde_json::Value) -> String {
    let parts = status["parts"].as_array().into_iter().flatten();
    let text = |part: &serde_json::Value, key: &str| part[key].as_str().unwrap_or_default().to_owned();
    let mut pins = parts.filter(|part| part["part"] == "pins");
    pins.next().map(|part| format!("{}: {}", text(part, "state"), text(part, "message"))).unwrap_or_default()
}

#[test]
fn a_runtime_that_does_not_honour_pins_is_told() -> Result<()> {
    let options = NodeOptions { containerd: Containerd::Old, ..NodeOptions::default() };
    let scene = Scene::ready(&options)?;
    workload::apply(&scene.cluster, &scene.node)?;
    scene.cluster.wait_for("edge to say so", seconds(90), || {
        let said = pins(&scene.edge.status(&scene.node)?);
        ensure!(said.starts_with("trouble: image pins are not honoured by containerd 1.6.20"), "{said}");
        ensure!(said.ends_with("hint: 1.7 or later keeps the images of offline pods"), "{said}");
        Ok(())
    });
    assert!(scene.edge.run(&scene.node, &["status"])?.contains("image pins are not honoured"));
    Ok(())
}

fn shows_what_kubectl_shows(gateway: &Gateway) -> Result<()> {
    for arguments in [
        vec!["-n", "default"],
        vec!["-n", "default", "-o", "wide"],
        vec!["-A", "--show-labels"],
        vec!["-n", "default", "-l", "app=plain"],
        vec!["-n", "default", "-o", "name"],
        vec!["-n", "default", "plain", "-o", "jsonpath={.status.containerStatuses[*].containerID}"],
        vec!["-n", "default", "-o", "custom-columns=N:.metadata.name,IP:.status.podIP"],
        vec!["-n", "default", "plain", "-o", "yaml"],
        vec!["-n", "default", "sidecar", "-o", "json"],
    ] {
        gateway.same_as_kubectl(&arguments);
    }
    let (_, words, code) = gateway.edge(&["pod", "get", "nosuch"])?;
    assert_eq!((words.trim(), code), ("Error from server (NotFound): pods \"nosuch\" not found", 1));
    Ok(())
}

fn restarts(gateway: &Gateway) -> Result<()> {
    let (before, address) = (gateway.ids("plain")?, gateway.pod("plain")?.address);
    let (out, words, code) = gateway.edge(&["pod", "restart", "plain"])?;
    assert_eq!(code, 0, "{out}{words}");
    let after = gateway.cluster.wait_for("the kubelet to see new containers", seconds(30), || {
        let after = gateway.ids("plain")?;
        ensure!(after.iter().all(|id| !before.contains(id)), "{after:?}");
        Ok(after)
    });
    for id in before.iter().chain(&after) {
        assert!(out.contains(&id[..13]), "{id} in {out}");
    }
    assert_eq!(gateway.pod("plain")?.address, address, "the sandbox stays");

    for name in ["plain", "sidecar"] {
        let before = gateway.pod(name)?;
        let (out, words, code) = gateway.edge(&["pod", "restart", name, "--whole"])?;
        assert_eq!(code, 0, "{out}{words}");
        assert!(words.contains("will be another address"), "{words}");
        gateway.cluster.wait_for("a new sandbox", seconds(60), || {
            let after = gateway.pod(name)?;
            ensure!(
                after.running() && after.uid == before.uid && after.address != before.address,
                "{after:?}"
            );
            Ok(())
        });
    }
    Ok(())
}

fn refuses(gateway: &Gateway) -> Result<()> {
    for (arguments, reason) in [
        (vec!["once-only"], "restartPolicy is Never"),
        (vec!["crash"], "none of its containers runs"),
        (vec!["plain", "--container", "nosuch"], "container `nosuch` is not one of `main`, `side`"),
        (vec!["nosuch"], "pods \"nosuch\" not found"),
        (vec!["-l", "app=nosuch"], "No resources found"),
    ] {
        let (out, words, code) = gateway.edge(&[&["pod", "restart"], arguments.as_slice()].concat())?;
        assert!(code == 1 && words.contains(reason) && out.is_empty(), "{arguments:?}: {code} {out}{words}");
    }
    let job = gateway.node.pods()?.into_iter().find(|pod| pod.name.starts_with("once-") && pod.succeeded());
    let job = job.ok_or_else(|| anyhow::anyhow!("the Job has not finished"))?;
    let (_, words, code) = gateway.edge(&["pod", "restart", &job.name])?;
    assert!(code == 1 && words.contains("it has finished (Succeeded)"), "{words}");
    // One of several fails: the others are restarted, and the end says so.
    let (out, _, code) = gateway.edge(&["pod", "restart", "once-only", "plain"])?;
    assert!(code == 1 && out.contains("default/plain: running"), "{out}");
    Ok(())
}

fn runs_commands(gateway: &Gateway) -> Result<()> {
    let script = "echo out; echo err >&2; exit 7";
    let (out, words, code) =
        gateway.edge(&["pod", "exec", "plain", "-c", "side", "--", "sh", "-c", script])?;
    assert_eq!((out.as_str(), words.as_str(), code), ("out\n", "err\n", 7));
    let (_, words, code) = gateway.edge(&["pod", "exec", "plain", "--", "/nosuch"])?;
    assert!(code == 1 && words.contains("no such file"), "{words}");
    let (_, words, code) = gateway.edge(&["pod", "exec", "crash", "--", "true"])?;
    assert!(code == 1 && words.contains("does not run"), "{words}");
    Ok(())
}

/// Bytes through `cat` in a container and back, over the end of standard input.
fn ends_standard_input(gateway: &Gateway) -> Result<()> {
    let machine = gateway.node.machine()?;
    let through = |input: &str, count: &str| {
        let exec = format!("timeout 60 {} pod exec -i plain -c side -- cat", Edge::PROGRAM);
        machine.shell(&format!("{input} | {exec} | {count}"))
    };
    assert_eq!(through("echo hi", "cat")?, "hi\n");
    // More than any buffer in between holds: neither way may wait for the other.
    assert_eq!(through("head -c 20000000 /dev/zero", "wc -c")?.trim(), "20000000");
    let script = format!(
        "echo x | {} pod exec -i plain -c side -- sh -c 'cat >&2; exit 4' 2>&1 || echo $?",
        Edge::PROGRAM
    );
    assert_eq!(machine.shell(&script)?, "x\n4\n");
    Ok(())
}

/// The command has a terminal of the size of the caller's, also after that has changed.
fn lends_a_terminal(gateway: &Gateway) -> Result<()> {
    let machine = gateway.node.machine()?;
    // The size comes a moment after the command has begun, as with kubectl.
    let inside = "for size in \"33 77\" \"44 99\"; do \
                  until busybox stty size 2>&1 | grep \"$size\"; do sleep 0.1; done; done; exit 5";
    let script = format!(
        "tty >/run/tty; stty rows 33 cols 77; exec {} pod exec plain -c side -it -- sh -c '{inside}'",
        Edge::PROGRAM
    );
    machine.write("/run/inside.sh", &script)?;
    machine.shell(
        "(tail -f /dev/null | (script -qec 'sh /run/inside.sh' /dev/null >/run/screen 2>&1 || \
         echo code $? >>/run/screen)) >/dev/null 2>&1 &",
    )?;
    let wait = |what: &str| {
        gateway.cluster.wait_for(what, seconds(20), || {
            let screen = machine.read("/run/screen")?;
            ensure!(screen.contains(what), "{screen}");
            Ok(screen)
        })
    };
    wait("33 77");
    machine.shell("stty -F \"$(cat /run/tty)\" rows 44 cols 99")?;
    wait("44 99");
    wait("code 5");
    Ok(())
}

/// `-w` shows every change of a pod on a line of its own, under the columns that it began with.
fn watches(gateway: &Gateway) -> Result<()> {
    let machine = gateway.node.machine()?;
    machine.shell(&format!(
        "({} pod get plain -w >/run/watched 2>&1 & echo $! >/run/pid) >/dev/null 2>&1 &",
        Edge::PROGRAM
    ))?;
    gateway
        .cluster
        .wait_for("the first lines", seconds(20), || machine.shell("grep -q Running /run/watched"));
    gateway.edge(&["pod", "exec", "plain", "--", "sh", "-c", "kill -TERM 1"])?;
    // The kubelet may make a container wait that was restarted often: for 80 seconds after the third time.
    let rows = gateway.cluster.wait_for("its restart", seconds(180), || {
        let watched = machine.read("/run/watched")?;
        let rows: Vec<Vec<String>> =
            watched.lines().map(|row| row.split_whitespace().map(str::to_owned).collect()).collect();
        ensure!(rows.iter().any(|row| row.get(1).is_some_and(|ready| ready == "1/2")), "{watched}");
        ensure!(rows.last().is_some_and(|row| row[1] == "2/2" && row[2] == "Running"), "{watched}");
        Ok(rows)
    });
    machine.shell("kill $(cat /run/pid)")?;
    assert_eq!(rows[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert!(rows[1..].iter().all(|row| row[0] == "plain"), "{rows:?}");
    Ok(())
}

/// kubectl pointed at the proxy gets its table from edge.
fn shows_offline_what_kubectl_shows(gateway: &Gateway) {
    gateway.cluster.wait_for("the same words offline", seconds(30), || {
        let kubectl = kubectl_path()?;
        let flags = ["--kubeconfig", Edge::KUBECONFIG, "--cache-dir=/run/kubectl"];
        let get = ["get", "pods", "-A", "-o", "wide", "--field-selector=spec.nodeName=node-1"];
        let argv: Vec<&str> = std::iter::once(&*kubectl).chain(flags).chain(get).collect();
        let theirs = gateway.node.machine()?.run(&argv)?;
        let ours = gateway.edge(&["pod", "get", "-A", "-o", "wide"])?.0;
        ensure!(theirs == ours, "kubectl:\n{theirs}\nedge:\n{ours}");
        Ok(())
    });
}

fn shows_logs(gateway: &Gateway) -> Result<()> {
    let now = gateway.edge(&["pod", "logs", "plain"])?;
    assert!(now.0.contains("first words\n") && now.0.contains("to stderr\n"), "{now:?}");
    gateway.edge(&["pod", "restart", "plain", "--container", "main"])?;
    let before = gateway.edge(&["pod", "logs", "plain", "-p", "--tail", "1"])?;
    assert_eq!(before.0, "last words\n", "{before:?}");
    let (_, words, code) = gateway.edge(&["pod", "logs", "plain", "-c", "nosuch"])?;
    assert!(code == 1 && words.contains("container nosuch is not valid for pod plain"), "{words}");
    Ok(())
}

fn survives_kubelet_and_daemon(gateway: &mut Gateway) -> Result<()> {
    gateway.node.stop_kubelet();
    gateway.edge.kill();
    let (out, words, code) = gateway.edge(&["pod", "get", "plain"])?;
    assert!(code == 0 && out.contains("2/2     Running"), "{out}{words}");
    assert!(words.contains("the kubelet does not answer"), "{words}");
    let (_, words, code) = gateway.edge(&["pod", "restart", "plain"])?;
    assert!(code == 1 && words.contains("nobody would start it again"), "{words}");
    // A container ends, and no kubelet is there to say so: the runtime is believed.
    gateway.edge(&["pod", "exec", "plain", "--", "sh", "-c", "kill -TERM 1"])?;
    gateway.cluster.wait_for("the truth", seconds(20), || {
        let (out, _, _) = gateway.edge(&["pod", "get", "plain"])?;
        ensure!(out.contains("1/2"), "{out}");
        Ok(())
    });
    Ok(())
}
