//! `edge pod` beside kubectl on the same pods: how long `get` takes with 10 and with 100 of them, and how soon a restart
//! begins. What it takes to start any process on the test's machine is left out of each.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::support::{Edge, NodeOptions, Scene, kubectl_path, seconds};
use crate::table::{Table, median};

const RUNS: usize = 21;
const RESTARTS: usize = 9;
/// Ends at once when it is asked to; by its words it is found among all processes.
const QUICK: &str = "trap 'exit 0' TERM; : bench-restart; while :; do sleep 1000 & wait $!; done";

pub fn measure(table: &mut Table) -> Result<()> {
    let kubelet = json!({"crashLoopBackOff": {"maxContainerRestartPeriod": "1s"}, "maxPods": 150});
    let scene = Scene::ready(&NodeOptions { kubelet, ..NodeOptions::default() })?;
    let admin = "/etc/kubernetes/admin.kubeconfig";
    scene.node.machine()?.write(admin, &scene.cluster.admin_kubeconfig(crate::support::KUBE_ADDRESS)?)?;
    let kubectl = kubectl_path()?;
    let baseline = [&*kubectl, "--kubeconfig", admin, "--cache-dir=/run/kubectl", "get", "pods"];
    let mut made = 0;
    for (pods, target) in [(10, "<= 10 ms"), (100, "<= 30 ms")] {
        make(&scene, made..pods)?;
        made = pods;
        // What so many starts leave behind to be done is nobody's figure.
        std::thread::sleep(seconds(u64::try_from(pods)? / 4));
        let (theirs, ours) = in_turn(&scene, &baseline, &[Edge::PROGRAM, "pod", "get"])?;
        let (baseline, edge) = (format!("{theirs:.1} ms (kubectl)"), format!("{ours:.1} ms"));
        table.add(&format!("edge pod get, {pods} pods"), &baseline, &edge, &edge, target);
    }
    let begins = restarts(&scene)?;
    let figure = format!("{begins:.1} ms");
    table.add("a restart begins, 100 pods", "-", &figure, &figure, "<= 50 ms");
    Ok(())
}

fn make(scene: &Scene, numbers: std::ops::Range<usize>) -> Result<()> {
    let last = numbers.end;
    for number in numbers {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod-{number}"), "labels": {"app": "bench"}},
            "spec": {
                "terminationGracePeriodSeconds": 2,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "main", "image": "registry.test/edge/app:1", "imagePullPolicy": "Never",
                                "command": ["sh", "-c", if number == 0 { QUICK } else { "sleep 2147483647" }]}],
            },
        });
        scene.cluster.wait_for("a pod to be made", seconds(60), || scene.cluster.apply(&pod.to_string()));
    }
    scene.cluster.wait_for(&format!("{last} pods"), seconds(300), || {
        let ready = scene.cluster.pods("default")?.iter().filter(|pod| pod.running()).count();
        ensure!(ready == last, "{ready} of {last} run");
        Ok(())
    });
    Ok(())
}

/// Milliseconds of the one and of the other.
fn in_turn(scene: &Scene, one: &[&str], other: &[&str]) -> Result<(f64, f64)> {
    let (mut ones, mut others, mut nothing) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        nothing.push(time(scene, &["true"])?);
        ones.push(time(scene, one)?);
        others.push(time(scene, other)?);
    }
    let nothing = median(nothing);
    Ok((median(ones) - nothing, median(others) - nothing))
}

fn time(scene: &Scene, argv: &[&str]) -> Result<f64> {
    let begun = Instant::now();
    let output = scene.node.machine()?.output(argv)?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    ensure!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(took)
}

/// From the command's start until the container's first process has ended, which it does as soon as it is asked to.
fn restarts(scene: &Scene) -> Result<f64> {
    let (mut times, mut nothing) = (Vec::new(), Vec::new());
    for _ in 0..RESTARTS {
        let pid = scene.cluster.wait_for("the container", seconds(60), first_process);
        scene.cluster.wait_for("pod-0", seconds(60), || {
            let pods = scene.node.pods()?;
            ensure!(pods.iter().any(|pod| pod.name == "pod-0" && pod.running()), "not running");
            Ok(())
        });
        nothing.push(time(scene, &["true"])?);
        let mut command =
            scene.node.machine()?.command(&[Edge::PROGRAM, "pod", "restart", "pod-0", "--no-wait"]);
        let begun = Instant::now();
        let mut child = command.spawn()?;
        while is_alive(&pid) {
            ensure!(begun.elapsed() < seconds(20), "not stopped");
            std::thread::sleep(Duration::from_micros(100));
        }
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        ensure!(child.wait()?.success(), "the restart failed");
    }
    Ok(median(times) - median(nothing))
}

fn first_process() -> Result<String> {
    let found = fs::read_dir("/proc")?.flatten().find_map(|entry| {
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        let own = words.starts_with(b"sh\0") && String::from_utf8_lossy(&words).contains(": bench-restart;");
        own.then(|| entry.file_name().to_string_lossy().into_owned())
    });
    found.context("no process of it")
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
