//! Offline mode, turned off and on again under a running kubelet: off, edge passes on and keeps nothing; on again, an
//! outage and a reboot in it cost nothing. Neither daemon nor kubelet is started anew for it.

use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::support::{Cut, Edge, NodeOptions, Scene, kubectl_path, seconds, workload};

/// A pod whose ConfigMap and Secret a kubelet reads only once.
const IMMUTABLE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: carved}
immutable: true
data: {stone: granite}
---
apiVersion: v1
kind: Secret
metadata: {name: sealed}
immutable: true
stringData: {wax: crimson}
---
apiVersion: v1
kind: Pod
metadata: {name: carved}
spec:
  tolerations:
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute}
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: docker.io/library/busybox:1
    command: [sh, -ec, 'trap "exit 0" TERM; test "$stone" = granite; test "$wax" = crimson; sleep 2147483647 & wait']
    envFrom: [{configMapRef: {name: carved}}, {secretRef: {name: sealed}}]
"#;

/// `s3cret`, `crimson`, and the head of every token, as JSON has them.
const SECRETS: [&str; 3] = ["czNjcmV0", "Y3JpbXNvbg", "eyJhbGciOi"];

#[test]
fn offline_mode_goes_off_and_on_without_a_restart() -> Result<()> {
    let clock = Instant::now();
    let mark = |what: &str| println!("{:6.1} s  {what}", clock.elapsed().as_secs_f32());
    let mut scene = Scene::ready(&NodeOptions::default())?;
    let cluster = scene.cluster.clone();
    workload::apply(&cluster, &scene.node)?;
    cluster.apply(IMMUTABLE)?;
    let pods = workload::wait_running(&cluster);
    wait_carved(&scene);
    mark("workload runs");
    for secret in SECRETS {
        ensure!(on_disk(&scene, secret)?, "`{secret}` is not kept: nothing to remove");
    }
    let pids = pids(&mut scene)?;

    // In an outage, with a change that waits: all goes but that.
    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    let web = pods.iter().find(|pod| pod.name.starts_with("web-")).context("no web")?;
    scene.node.ctr(&["tasks", "kill", "-s", "SIGKILL", &web.containers[0].id])?;
    cluster.wait_for("a change that waits", seconds(60), || waits(&scene, &web.name));
    scene.edge.run(&scene.node, &["config", "set", "offline-mode=false"])?;
    scene.edge.reload()?;
    wait_mode(&scene, false);
    cluster.wait_for("an end of the secrets on the disk", seconds(10), || nothing_on_disk(&scene));
    waits(&scene, &web.name)?;
    requests_fail_soon(&scene)?;
    mark("off: nothing is on the disk but what waits");

    cluster.heal()?;
    scene.wait_link("online");
    cluster.wait_for("the restart, told", seconds(60), || {
        let pods = cluster.pods("default")?;
        let pod = pods.iter().find(|pod| pod.name == web.name).context("gone")?;
        ensure!(pod.restarts() == 1, "{pod:?}");
        Ok(())
    });
    passes_through(&scene)?;
    ensure!(scene.edge.daemon()?.pid() == pids.0 && scene.node.kubelet()?.pid() == pids.1, "another process");
    ensure!(scene.edge.daemon()?.alive() && scene.node.kubelet_alive(), "a process has ended");
    mark("online, passing through");

    cluster.cut(Cut::Drop)?;
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    cluster.wait_for("an answer of the kubelet", seconds(90), || scene.node.pods());
    // Long past the time that the same pods need: there is no event to wait for.
    thread::sleep(seconds(12));
    let started = scene.node.running_containers()?;
    ensure!(started.values().all(|name| name.contains("/fixed-")), "with offline mode off ran: {started:?}");
    cluster.heal()?;
    workload::wait_running_on(&scene.node);
    mark("a reboot in an outage started nothing; with the cloud all runs");

    on_again(&mut scene)?;
    mark("on again: all is kept");
    damage_is_mended_while_the_cloud_is_there(&mut scene)?;
    mark("damaged, and built anew: all is kept");
    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    workload::wait_running_on(&scene.node);
    wait_carved(&scene);
    real_tokens(&scene)?;
    mark("a reboot in an outage started all");
    cluster.heal()?;
    workload::wait_told(&scene.node);
    ensure!(workload::job_runs(&scene.node)? == 1, "a finished Job stays finished");
    Ok(())
}

/// Turned on over the control socket, under the kubelet that runs.
fn on_again(scene: &mut Scene) -> Result<()> {
    let pids = pids(scene)?;
    scene.edge.run(&scene.node, &["config", "set", "offline-mode=true"])?;
    let answer = scene.node.machine()?.shell(
        "curl -sS -o /dev/null -w '%{http_code}' -X POST --unix-socket /run/edge/edge.sock http://edge/v1/reload",
    )?;
    ensure!(answer == "200", "{answer}");
    wait_mode(scene, true);
    scene.cluster.wait_for("the secrets, kept again", seconds(60), || {
        for secret in SECRETS {
            ensure!(on_disk(scene, secret)?, "`{secret}` is not kept");
        }
        Ok(())
    });
    wait_all_kept(scene);
    ensure!(scene.edge.daemon()?.pid() == pids.0 && scene.node.kubelet()?.pid() == pids.1, "another process");
    ensure!(scene.edge.daemon()?.alive() && scene.node.kubelet_alive(), "a process has ended");
    Ok(())
}

/// Overwrites the pages that hold the objects, as a card does that loses them.
const SPOIL: &str = "
import sqlite3
path = '/var/lib/edge/cache.db'
db = sqlite3.connect(path)
db.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall()
pages = db.execute(\"SELECT pageno FROM dbstat WHERE name = 'object' AND pagetype = 'leaf'\").fetchall()
size = db.execute('PRAGMA page_size').fetchone()[0]
db.close()
with open(path, 'r+b') as file:
    for (page,) in pages:
        file.seek((page - 1) * size)
        file.write(b'\\xff' * size)
print(len(pages))";

/// Neither the daemon nor kubelet is started anew for it; the reboot that follows shows what it is worth.
fn damage_is_mended_while_the_cloud_is_there(scene: &mut Scene) -> Result<()> {
    let pids = pids(scene)?;
    let pages = scene.node.machine()?.run(&["python3", "-c", SPOIL])?;
    ensure!(pages.trim().parse::<u32>()? > 3, "{pages} pages");
    scene.cluster.kubectl(&["label", "pod", "by-hand", "edited=in-the-cloud"])?;
    scene.cluster.wait_for("a cache that was set aside", seconds(60), || {
        let errors = scene.edge.status(&scene.node)?["errors"].clone();
        let text = errors.to_string();
        ensure!(
            text.contains("cache.db.damaged-0") && errors.as_array().is_some_and(|e| e.len() == 1),
            "{text}"
        );
        Ok(())
    });
    wait_all_kept(scene);
    scene.node.machine()?.run(&["test", "-s", "/var/lib/edge/cache.db.damaged-0"])?;
    ensure!(scene.edge.daemon()?.pid() == pids.0 && scene.node.kubelet()?.pid() == pids.1, "another process");
    ensure!(scene.edge.daemon()?.alive() && scene.node.kubelet_alive(), "a process has ended");
    Ok(())
}

fn wait_all_kept(scene: &Scene) {
    scene.cluster.wait_for("everything, kept again", seconds(60), || {
        let kept = scene.edge.status(&scene.node)?["cache"]["resources"].clone();
        let wanted = [
            ("v1/pods", 7),
            ("v1/secrets", 3),
            ("v1/configmaps", 3),
            ("v1/services", 2),
            ("v1/persistentvolumes", 1),
            ("v1/persistentvolumeclaims", 1),
            ("node.k8s.io/v1/runtimeclasses", 0),
            ("storage.k8s.io/v1/csidrivers", 0),
            ("storage.k8s.io/v1/csinodes", 1),
        ];
        for (resource, count) in wanted {
            let found = kept.as_array().into_iter().flatten().find(|row| row["resource"] == resource);
            let objects = found.and_then(|row| row["objects"].as_i64());
            ensure!(objects >= Some(count), "{objects:?} of {count} {resource}: {kept}");
        }
        Ok(())
    });
}

fn pids(scene: &mut Scene) -> Result<(i32, i32)> {
    Ok((scene.edge.daemon()?.pid(), scene.node.kubelet()?.pid()))
}

/// Whether a text is anywhere under the state folder, journals and all.
fn on_disk(scene: &Scene, text: &str) -> Result<bool> {
    let found = scene.node.machine()?.output(&["grep", "-rqaF", text, "/var/lib/edge"])?;
    match found.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        code => anyhow::bail!("grep ended with {code:?}"),
    }
}

fn nothing_on_disk(scene: &Scene) -> Result<()> {
    for secret in SECRETS {
        ensure!(!on_disk(scene, secret)?, "`{secret}` is on the disk");
    }
    Ok(())
}

fn waits(scene: &Scene, pod: &str) -> Result<()> {
    let changes = scene.edge.status(&scene.node)?["changes"].to_string();
    ensure!(changes.contains(&format!("v1/pods default/{pod}")), "nothing waits for `{pod}`: {changes}");
    Ok(())
}

fn wait_mode(scene: &Scene, on: bool) {
    scene.cluster.wait_for("offline mode, changed", seconds(20), || {
        let status = scene.edge.status(&scene.node)?;
        ensure!(status["offlineMode"] == on, "{}", status["offlineMode"]);
        Ok(())
    });
}

fn wait_carved(scene: &Scene) {
    scene.cluster.wait_for("the pod with what is read once", seconds(90), || {
        let pods = scene.node.pods()?;
        ensure!(pods.iter().any(|pod| pod.name == "carved" && pod.running()), "{}", workload::states(&pods));
        Ok(())
    });
}

/// Packets are dropped and nothing is kept: a request fails within 20 seconds, however many others are waiting.
fn requests_fail_soon(scene: &Scene) -> Result<()> {
    let begun = Instant::now();
    let asked = scene.kubectl(&["get", "--raw", "/api/v1/nodes/node-1"]);
    let took = begun.elapsed();
    ensure!(asked.is_err(), "answered without a cloud: {asked:?}");
    ensure!(took < seconds(20), "failed after {} s", took.as_secs());
    Ok(())
}

/// Reads, writes and watches reach the cloud, a new pod starts, and nothing of it stays here.
fn passes_through(scene: &Scene) -> Result<()> {
    let argv = [&*kubectl_path()?, "--kubeconfig", Edge::KUBECONFIG, "get", "--raw"].map(str::to_owned);
    let watch = "/api/v1/pods?watch=true&timeoutSeconds=60&fieldSelector=spec.nodeName%3Dnode-1";
    let argv: Vec<&str> = argv.iter().map(String::as_str).chain([watch]).collect();
    let mut watch = scene.node.spawn("passed-watch", &argv, &[])?;
    let pod = IMMUTABLE.replace("{name: carved}\nspec", "{name: passing}\nspec");
    scene.cluster.apply(&pod)?;
    scene.cluster.wait_for("a pod that was made with offline mode off", seconds(60), || {
        let pods = scene.cluster.pods("default")?;
        ensure!(pods.iter().any(|pod| pod.name == "passing" && pod.running()), "{}", workload::states(&pods));
        ensure!(watch.log().contains("passing"), "the watch has not told of it");
        Ok(())
    });
    watch.kill();
    scene.cluster.kubectl(&["delete", "pod", "passing"])?;
    scene.cluster.wait_for("an empty cache", seconds(60), || {
        let status = scene.edge.status(&scene.node)?;
        ensure!(status["cache"]["resources"] == serde_json::json!([]), "{}", status["cache"]);
        ensure!(status["changes"] == serde_json::json!([]), "{}", status["changes"]);
        nothing_on_disk(scene)
    });
    Ok(())
}

/// After the reboot the pod has a token of the cloud's, not a placeholder.
fn real_tokens(scene: &Scene) -> Result<()> {
    let pods = scene.node.pods()?;
    let uid = &pods.iter().find(|pod| pod.name == "by-hand").context("no pod `by-hand`")?.uid;
    let file = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/token/token");
    let token = scene.node.machine()?.read(&file)?;
    // `placeholder` in base64.
    ensure!(token.starts_with("eyJ") && !token.contains("cGxhY2Vob2xkZXI"), "the token is a placeholder");
    Ok(())
}
