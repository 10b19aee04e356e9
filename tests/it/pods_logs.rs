//! `edge pod logs` on a real gateway: beside kubectl where the two can be compared, and over rotation and restarts,
//! where kubectl shows less.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::support::{Edge, NodeOptions, Scene, seconds};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: steady}
spec:
  terminationGracePeriodSeconds: 2
  tolerations: [{operator: Exists}]
  initContainers:
  - {name: first, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [echo, I was first]}
  containers:
  - {name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sh, -c, "trap 'echo bye; exit 0' TERM; for i in 1 2 3 4 5 6; do echo line $i; echo to stderr $i >&2; sleep 0.5; done; printf 'no end'; while sleep 0.1; do :; done"]}
  - {name: side, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sh, -c, "trap 'exit 0' TERM; echo beside; while sleep 0.1; do :; done"]}
---
apiVersion: v1
kind: Pod
metadata: {name: brief}
spec:
  restartPolicy: Never
  tolerations: [{operator: Exists}]
  initContainers:
  - {name: first, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sh, -c, "echo begun; sleep 10"]}
  containers:
  - {name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [echo, said]}
  - {name: late, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sh, -c, "sleep 5; echo late"]}
---
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 2
  tolerations: [{operator: Exists}]
  containers:
  - {name: main, image: "registry.test/edge/app:1", imagePullPolicy: Never, command: [sh, -c, "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done"]}
"#;

fn scene() -> Result<Scene> {
    let kubelet =
        json!({"containerLogMaxSize": "4Ki", "containerLogMaxFiles": 5, "containerLogMonitorInterval": "3s"});
    let scene = Scene::ready(&NodeOptions { kubelet, ..NodeOptions::default() })?;
    scene.cluster.wait_for("the pods to be made", seconds(60), || scene.cluster.apply(PODS));
    Ok(scene)
}

fn edge(scene: &Scene, arguments: &[&str]) -> Result<String> {
    scene.edge.run(&scene.node, &[&["pod", "logs"], arguments].concat())
}

#[test]
fn logs_are_kubectls_and_go_over_rotation_and_restarts() -> Result<()> {
    let scene = scene()?;
    scene.cluster.wait_for("steady to have said all", seconds(60), || {
        let said = scene.cluster.kubectl(&["logs", "steady", "-c", "main"])?;
        ensure!(said.contains("to stderr 6"), "{said}");
        Ok(())
    });
    ended(&scene)?;
    as_kubectl(&scene)?;
    rotated(&scene)?;
    followed(&scene)
}

/// What ends for good is followed to its end, also what has no log at first.
fn ended(scene: &Scene) -> Result<()> {
    let machine = scene.node.machine()?;
    let follow = |what: &str| machine.shell(&format!("timeout 60 {} pod logs {what} -f", Edge::PROGRAM));
    let all = follow("brief --all-containers")?;
    assert_eq!(all, "begun\nsaid\nlate\n");
    assert_eq!(follow("brief -c late")?, "late\n");
    assert_eq!(follow("steady -c first")?, "I was first\n", "an init container that is done");
    Ok(())
}

fn as_kubectl(scene: &Scene) -> Result<()> {
    let stamped = scene.cluster.kubectl(&["logs", "steady", "-c", "main", "--timestamps"])?;
    let stamp = stamped.lines().find(|line| line.ends_with(" line 3")).context("no line 3")?;
    let since = format!("--since-time={}", stamp.split(' ').next().unwrap_or_default());
    let same = |arguments: &[&str]| -> Result<String> {
        let theirs = scene.cluster.kubectl(&[&["logs", "steady"], arguments].concat())?;
        let ours = edge(scene, &[&["steady"], arguments].concat())?;
        assert_eq!(ours, theirs, "{arguments:?}");
        Ok(ours)
    };
    for arguments in [
        vec!["-c", "main"],
        vec!["-c", "side"],
        vec!["-c", "first"],
        vec!["-c", "main", "--timestamps"],
        vec!["-c", "main", "--tail=3"],
        vec!["-c", "main", "--tail=0"],
        vec!["-c", "main", "--tail=-1"],
        vec!["-c", "main", &*since],
        vec!["-c", "main", &*since, "--tail=2", "--timestamps"],
        vec!["-c", "main", "--since=1h"],
    ] {
        same(&arguments)?;
    }
    // kubectl takes the containers from a Go map, in any order.
    for arguments in [vec!["--all-containers"], vec!["--all-containers", "--tail=1"]] {
        let theirs = scene.cluster.kubectl(&[&["logs", "steady"], &*arguments].concat())?;
        let ours = edge(scene, &[&["steady"], &*arguments].concat())?;
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        assert_eq!(sorted(&ours), sorted(&theirs), "{arguments:?}");
        assert!(
            ours.starts_with("I was first\n") && ours.ends_with("beside\n"),
            "in the pod's order: {ours}"
        );
    }
    let later = same(&["-c", "main", &since])?;
    assert!(later.contains("line 3\n") && !later.contains("line 1\n"), "{later}");
    scene.edge.run(&scene.node, &["pod", "restart", "steady", "--container", "main"])?;
    scene.cluster.wait_for("the run before", seconds(30), || {
        let theirs = scene.cluster.kubectl(&["logs", "steady", "-c", "main", "-p"])?;
        let ours = edge(scene, &["steady", "-c", "main", "-p"])?;
        ensure!(ours == theirs && ours.ends_with("bye\n"), "{ours}{theirs}");
        Ok(())
    });
    same(&["-c", "main", "-p", "--tail=2"])?;
    Ok(())
}

/// The numbers of consecutive lines; a lower one begins a new run.
fn numbers(log: &str) -> Result<Vec<u64>> {
    log.lines()
        .map(|line| Ok(line.strip_prefix("line ").with_context(|| format!("`{line}`"))?.parse()?))
        .collect()
}

fn gaps(numbers: &[u64]) -> Vec<(u64, u64)> {
    numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).map(|pair| (pair[0], pair[1])).collect()
}

/// kubectl shows the file that is written to; edge shows the compressed ones before it, too.
fn rotated(scene: &Scene) -> Result<()> {
    scene.cluster.wait_for("compressed logs", seconds(60), || {
        scene.node.machine()?.shell("ls /var/log/pods/default_talker_*/main/*.gz")
    });
    let log = numbers(&edge(scene, &["talker"])?)?;
    let gaps = gaps(&log);
    assert_eq!(gaps, [], "nothing is left out");
    let current = scene.node.machine()?.shell("cat /var/log/pods/default_talker_*/main/0.log | wc -l")?;
    assert!(
        log.len() > current.trim().parse::<usize>()? + 100,
        "{} lines, {current} of them in the file",
        log.len()
    );
    let wanted = current.trim().parse::<usize>()? + 50;
    let tail = numbers(&edge(scene, &["talker", "--tail", &wanted.to_string()])?)?;
    assert_eq!(tail.len(), wanted, "over the files' ends");
    Ok(())
}

fn followed(scene: &Scene) -> Result<()> {
    let machine = scene.node.machine()?;
    let count = || -> Result<usize> {
        let files = machine.shell("ls /var/log/pods/default_talker_*/main | grep -c '0.log.2' || true")?;
        Ok(files.trim().parse()?)
    };
    let names =
        || machine.shell("ls /var/log/pods/default_talker_*/main | grep '^0.log.2' | sed 's/.gz$//' | sort");
    machine.shell(&format!(
        "({} pod logs talker -f --tail 5 >/run/followed 2>&1 & echo $! >/run/pid) &",
        Edge::PROGRAM
    ))?;
    scene.cluster.wait_for("the first lines", seconds(20), || machine.shell("grep -q line /run/followed"));
    let before = names()?;
    scene.cluster.wait_for("two rotations", seconds(40), || {
        let new = names()?.lines().filter(|name| !before.contains(name)).count();
        ensure!(new >= 2, "{new} and {} files", count()?);
        Ok(())
    });
    scene.edge.run(&scene.node, &["pod", "restart", "talker"])?;
    scene
        .cluster
        .wait_for("lines of the new run", seconds(20), || machine.shell("grep -qx 'line 20' /run/followed"));
    machine.shell("kill $(cat /run/pid)")?;
    let log = machine.read("/run/followed")?;
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let found = numbers(whole)?;
    assert!(matches!(gaps(&found)[..], [(_, 1)]), "one restart and no gap: {:?}", gaps(&found));
    Ok(())
}
