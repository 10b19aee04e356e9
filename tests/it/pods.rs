//! `edge pod` on a real gateway: what it shows is what kubectl shows, what it restarts comes back, and what would
//! not come back is refused.

use anyhow::{Result, ensure};

use crate::pods_enter::{ends_standard_input, lends_a_terminal, runs_commands};
use crate::pods_sandbox::{heals_nothing_unasked, is_marked, mark_ipc};
use crate::support::{
    Cluster, ClusterOptions, Cut, Edge, KUBE_ADDRESS, Node, NodeOptions, Pod, kubectl_path, seconds, workload,
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
    command: [sh, -c, "busybox head -c 20000 /dev/zero | busybox tr '\\0' x; echo; trap 'exit 0' TERM; while sleep 0.1; do :; done"]
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
  containers:
  - name: main
    image: registry.test/edge/app:1
    imagePullPolicy: Never
    command: [sh, -c, "echo >>/state/starts; trap 'exit 0' TERM; while sleep 0.1; do :; done"]
    volumeMounts: [{name: state, mountPath: /state}]
  volumes: [{name: state, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata:
  name: crash
  # What would be enough by far, if anybody had turned it on.
  annotations: {edge.io/self-heal-failures: "2"}
spec:
  tolerations: [{operator: Exists}]
  containers: [{name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sh, -c, "echo going down; exit 3"]}]
"#;

pub(crate) struct Gateway {
    pub(crate) edge: Edge,
    pub(crate) node: Node,
    pub(crate) cluster: Cluster,
}

pub(crate) fn gateway() -> Result<Gateway> {
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
    pub(crate) fn pod(&self, name: &str) -> Result<Pod> {
        let pods = self.node.pods()?;
        pods.into_iter().find(|pod| pod.name == name).ok_or_else(|| anyhow::anyhow!("no pod {name}"))
    }

    fn ids(&self, name: &str) -> Result<Vec<String>> {
        Ok(self.pod(name)?.containers.into_iter().map(|c| c.id).collect())
    }

    /// Standard output and error, and the exit code.
    pub(crate) fn edge(&self, arguments: &[&str]) -> Result<(String, String, i32)> {
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
    let crash = gateway.node.sandbox("crash")?.0;
    shows_what_kubectl_shows(&gateway)?;
    restarts(&gateway, &["-l", "app=plain"])?;
    refuses(&gateway)?;
    runs_commands(&gateway)?;
    ends_standard_input(&gateway)?;
    lends_a_terminal(&gateway)?;
    shows_logs(&gateway)?;
    watches(&gateway)?;
    heals_nothing_unasked(&gateway, &crash)?;

    gateway.cluster.cut(Cut::Drop)?;
    gateway.cluster.wait_for("edge to notice", seconds(30), || {
        let status = gateway.edge.status(&gateway.node)?;
        ensure!(status["link"]["state"] == "offline", "{}", status["link"]);
        Ok(())
    });
    restarts(&gateway, &["plain"])?;
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
    let columns = gateway.cluster.dir().join("columns");
    std::fs::write(
        &columns,
        "NAME            PHASE          NONE\nmetadata.name   status.phase   .spec.nosuch\n",
    )?;
    gateway.same_as_kubectl(&["-A", "-o", &format!("custom-columns-file={}", columns.display())]);
    let (_, words, code) = gateway.edge(&["pod", "get", "nosuch"])?;
    assert_eq!((words.trim(), code), ("Error from server (NotFound): pods \"nosuch\" not found", 1));
    Ok(())
}

fn restarts(gateway: &Gateway, plain: &[&str]) -> Result<()> {
    let (before, address) = (gateway.ids("plain")?, gateway.pod("plain")?.address);
    mark_ipc(gateway, &before[0])?;
    let (out, words, code) = gateway.edge(&[&["pod", "restart"], plain].concat())?;
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
    assert!(is_marked(gateway)?, "and its IPC namespace");

    for name in ["plain", "sidecar"] {
        let before = gateway.pod(name)?;
        let (out, words, code) = gateway.edge(&["pod", "restart", name, "--whole"])?;
        assert_eq!(code, 0, "{out}{words}");
        assert!(words.contains("will be another address"), "{words}");
        assert_eq!(words.contains("init containers run again: first"), name == "sidecar", "{words}");
        gateway.cluster.wait_for("a new sandbox", seconds(60), || {
            let after = gateway.pod(name)?;
            ensure!(
                after.running() && after.uid == before.uid && after.address != before.address,
                "{after:?}"
            );
            Ok(())
        });
    }
    assert!(!is_marked(gateway)?, "the IPC namespace is another");
    let starts = gateway.edge(&["pod", "exec", "sidecar", "-c", "main", "--", "cat", "/state/starts"])?;
    assert!(starts.0.lines().count() >= 2, "the emptyDir stays: {starts:?}");
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

    // Where there is nothing at first, the headers come with the first pod.
    machine.shell(&format!(
        "({} pod get -l late=yes -w >/run/late 2>&1 & echo $! >/run/pid) >/dev/null 2>&1 &",
        Edge::PROGRAM
    ))?;
    machine.shell("sleep 1")?;
    gateway.cluster.kubectl(&["label", "pod", "plain", "late=yes"])?;
    let late = gateway.cluster.wait_for("a late pod", seconds(20), || {
        let late = machine.read("/run/late")?;
        ensure!(late.contains("plain"), "{late}");
        Ok(late)
    });
    machine.shell("kill $(cat /run/pid)")?;
    assert!(late.starts_with("NAME ") && late.matches("NAME ").count() == 1, "{late}");
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
    // More than the runtime writes in one piece.
    let long = gateway.edge(&["pod", "logs", "plain", "-c", "side"])?.0;
    assert_eq!(long, gateway.cluster.kubectl(&["logs", "plain", "-c", "side"])?);
    assert!(long.len() > 20_000, "{}", long.len());
    // Which run is the one before depends on whether the kubelet makes it wait already.
    gateway.cluster.wait_for("the same run before", seconds(60), || {
        let state = || Ok::<_, anyhow::Error>(gateway.edge(&["pod", "get", "crash", "--no-headers"])?.0);
        let (before, of) = (state()?, ["logs", "crash", "-p", "--timestamps"]);
        let theirs = gateway.cluster.kubectl(&of)?;
        let ours = gateway.edge(&[&["pod"], &of[..]].concat())?.0;
        ensure!(before.split_whitespace().take(4).eq(state()?.split_whitespace().take(4)), "{before}");
        ensure!(ours == theirs && ours.contains("going down"), "{before}{ours}{theirs}");
        Ok(())
    });
    let (_, words, code) = gateway.edge(&["pod", "logs", "plain", "-c", "nosuch"])?;
    assert!(code == 1 && words.contains("container nosuch is not valid for pod plain"), "{words}");
    Ok(())
}

fn survives_kubelet_and_daemon(gateway: &mut Gateway) -> Result<()> {
    let (out, words, code) = gateway.edge(&["pod", "restart", "sidecar", "--no-wait"])?;
    assert!(
        code == 0 && out.contains("default/sidecar: stopped ") && !out.contains("running"),
        "{out}{words}"
    );
    let machine = gateway.node.machine()?;
    machine.shell(&format!(
        "({} pod get plain -w >/run/watched 2>&1 & echo $! >/run/pid) >/dev/null 2>&1 &",
        Edge::PROGRAM
    ))?;
    gateway.cluster.wait_for("the first line", seconds(20), || machine.shell("grep -q plain /run/watched"));
    gateway.edge.kill();
    let away = "the edge daemon does not run";
    gateway.cluster.wait_for("word of the daemon", seconds(20), || {
        machine.shell(&format!("grep -q '{away}' /run/watched"))
    });
    machine.shell("kill $(cat /run/pid)")?;
    let (_, words, code) = gateway.edge(&["pod", "get", "plain", "nosuch"])?;
    assert!(code == 1 && words.contains(away) && !words.contains("the kubelet does not answer"), "{words}");
    gateway.node.stop_kubelet();
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
    knows_what_the_runtime_knows(gateway)
}

/// Nothing is left but what the runtime has, and a kubelet that was started anew without a cloud: it does not know its
/// pods, but for those from files.
fn knows_what_the_runtime_knows(gateway: &mut Gateway) -> Result<()> {
    gateway.node.machine()?.shell("mkdir /run/aside; mv /var/lib/edge/cache.db* /run/aside")?;
    gateway.node.start_kubelet(Edge::KUBECONFIG)?;
    let before = gateway.edge(&["pod", "get", "plain", "fixed-node-1"])?;
    assert!(before.2 == 0 && before.0.contains("1/2"), "{before:?}");
    gateway.cluster.wait_for("a refusal", seconds(20), || {
        let (out, words, code) = gateway.edge(&["pod", "restart", "plain"])?;
        ensure!(code == 1 && words.contains("only the runtime knows it") && out.is_empty(), "{out}{words}");
        Ok(())
    });
    let (out, words, code) = gateway.edge(&["pod", "restart", "fixed-node-1"])?;
    assert!(code == 0 && out.contains("default/fixed-node-1: running fixed "), "{out}{words}");
    Ok(())
}
