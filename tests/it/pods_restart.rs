//! What goes wrong while a pod is restarted: somebody else restarts it, the operator has enough, the pod is deleted, the
//! kubelet or the runtime goes away. Clear words, the right exit code, and nothing half done.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Edge, NodeOptions, Pod, Scene, seconds};

fn pod(name: &str, script: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 20,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "registry.test/edge/app:1", "imagePullPolicy": "Never",
                            "command": ["sh", "-c", script]}],
        },
    })
    .to_string()
}

/// Takes its time to stop.
const SLOW: &str = "trap 'sleep 3; exit 0' TERM; while sleep 0.1; do :; done";
const QUICK: &str = "trap 'exit 0' TERM; while sleep 0.1; do :; done";

struct Gateway(Scene);

/// Standard output and error as one text, and the exit code.
#[derive(Debug)]
struct Said {
    text: String,
    code: i32,
}

impl Gateway {
    fn new() -> Result<Self> {
        let gateway = Self(Scene::ready(&NodeOptions::default())?);
        for (name, script) in [("slow", SLOW), ("quick", QUICK), ("doomed", QUICK), ("other", QUICK)] {
            gateway
                .0
                .cluster
                .wait_for("a pod to be made", seconds(60), || gateway.0.cluster.apply(&pod(name, script)));
        }
        ["slow", "quick", "doomed", "other"].into_iter().for_each(|name| drop(gateway.wait_running(name)));
        Ok(gateway)
    }

    fn pod(&self, name: &str) -> Result<Pod> {
        let pods = self.0.node.pods()?;
        pods.into_iter().find(|pod| pod.name == name).with_context(|| format!("no pod {name}"))
    }

    fn wait_running(&self, name: &str) -> Pod {
        self.0.cluster.wait_for(&format!("{name} to run"), seconds(60), || {
            let pod = self.pod(name)?;
            ensure!(pod.running(), "{pod:?}");
            Ok(pod)
        })
    }

    fn edge(&self, arguments: &[&str]) -> Result<Said> {
        let out = self.0.edge.output(&self.0.node, arguments)?;
        let text = [out.stdout, out.stderr].concat();
        Ok(Said { text: String::from_utf8_lossy(&text).into_owned(), code: out.status.code().unwrap_or(-1) })
    }

    /// Runs `edge ARGUMENTS` in the background; when `meanwhile` holds in the shell, `then` is done by the test.
    fn during(
        &mut self,
        arguments: &str,
        meanwhile: &str,
        then: impl FnOnce(&mut Self, &str) -> Result<()>,
    ) -> Result<Said> {
        let script = format!(
            "rm -f /run/said /run/code; ({} {arguments} >/run/said 2>&1 & echo $! >/run/pid; wait $! && c=0 || c=$?; echo $c >/run/code) \
             >/dev/null 2>&1 &",
            Edge::PROGRAM
        );
        let machine = self.0.node.machine()?;
        machine.shell(&script)?;
        self.0.cluster.wait_for(meanwhile, seconds(30), || machine.shell(meanwhile));
        let pid = machine.read("/run/pid")?;
        then(self, pid.trim())?;
        let machine = self.0.node.machine()?;
        let code = self.0.cluster.wait_for("its end", seconds(60), || {
            let code = machine.read("/run/code")?;
            code.trim().parse().with_context(|| format!("no code: `{code}`"))
        });
        Ok(Said { text: machine.read("/run/said")?, code })
    }

    fn signal(&self, which: &str, pid: &str) -> Result<()> {
        self.0.node.machine()?.run(&["kill", which, pid]).map(drop)
    }
}

const STOPPED: &str = "grep -q ': stopped ' /run/said";
const STOPPING: &str = "ls /run/edge/restart/* | grep .";

#[test]
fn what_goes_wrong_in_a_restart_is_told_and_leaves_nothing_half_done() -> Result<()> {
    let mut gateway = Gateway::new()?;
    two_at_once(&mut gateway, "")?;
    two_at_once(&mut gateway, "--whole")?;
    interrupts(&mut gateway)?;
    deletion(&mut gateway)?;
    kubelet(&mut gateway)?;
    runtime(&mut gateway)
}

fn two_at_once(gateway: &mut Gateway, more: &str) -> Result<()> {
    let before = gateway.pod("slow")?;
    let mut second = None;
    let first = gateway.during(&format!("pod restart slow {more}"), STOPPING, |gateway, _| {
        let arguments = ["pod", "restart", "slow", more];
        second = Some(gateway.edge(&arguments[..if more.is_empty() { 3 } else { 4 }])?);
        Ok(())
    })?;
    let second = second.context("not run")?;
    assert_eq!((first.code, second.code), (0, 0), "{first:?} {second:?}");
    let told = "edge: default/slow: `edge pod restart` (pid ";
    assert!(second.text.contains(told) && second.text.contains(") restarts it: waiting"), "{second:?}");
    let after = gateway.0.cluster.wait_for("the new run", seconds(60), || {
        let after = gateway.pod("slow")?;
        ensure!(after.running() && after.restarts() > before.restarts(), "{after:?}");
        Ok(after)
    });
    assert_eq!(after.restarts(), before.restarts() + 1, "both are one restart");
    assert_eq!(after.address == before.address, more.is_empty(), "{before:?} {after:?}");
    for said in [first, second] {
        assert!(said.text.contains(&format!("running main {}", &after.containers[0].id[..13])), "{said:?}");
    }
    Ok(())
}

fn interrupts(gateway: &mut Gateway) -> Result<()> {
    // In the middle of stopping: that is done to its end, and what comes after it is left alone.
    let other = gateway.pod("other")?;
    let said =
        gateway.during("pod restart slow other", STOPPING, |gateway, pid| gateway.signal("-INT", pid))?;
    assert_eq!(said.code, 1, "{said:?}");
    for part in [
        "its containers are being stopped, which takes up to 20s and is not broken off",
        "default/slow: stopped main ",
        "not restarted: default/other",
        "not waited for `default/slow`: its containers are stopped, and the kubelet starts them again",
    ] {
        assert!(said.text.contains(part), "{part}: {said:?}");
    }
    // The kubelet waits a while before it starts it again; enough is enough.
    gateway.wait_running("slow");
    let said = gateway.during("pod restart slow", STOPPED, |gateway, pid| gateway.signal("-TERM", pid))?;
    assert!(said.code == 1 && said.text.contains("not waited for `default/slow`"), "{said:?}");
    gateway.wait_running("slow");
    assert_eq!(gateway.pod("other")?.containers, other.containers);
    Ok(())
}

fn deletion(gateway: &mut Gateway) -> Result<()> {
    // The second restart in a row is waited for, since the kubelet backs off.
    gateway.edge(&["pod", "restart", "doomed"])?;
    gateway.wait_running("doomed");
    let said = gateway.during("pod restart doomed", STOPPED, |gateway, _| {
        gateway.0.cluster.kubectl(&["delete", "pod", "doomed", "--wait=false"]).map(drop)
    })?;
    assert!(
        said.code == 1 && said.text.contains("cannot restart `default/doomed`: it was deleted meanwhile"),
        "{said:?}"
    );
    Ok(())
}

fn kubelet(gateway: &mut Gateway) -> Result<()> {
    gateway.edge(&["pod", "restart", "quick"])?;
    gateway.wait_running("quick");
    // It ends while it is waited for, and does not come back in time.
    let said = gateway.during("pod restart quick --timeout 6s", STOPPED, |gateway, _| {
        gateway.0.node.stop_kubelet();
        Ok(())
    })?;
    assert_eq!(said.code, 1, "{said:?}");
    for part in [
        "the kubelet does not answer: waiting for it",
        "main not running again after 6s: the kubelet does not answer",
    ] {
        assert!(said.text.contains(part), "{part}: {said:?}");
    }
    let said = gateway.edge(&["pod", "restart", "other"])?;
    assert!(said.code == 1 && said.text.contains("nobody would start it again"), "{said:?}");
    gateway.0.node.start_kubelet(Edge::KUBECONFIG)?;
    gateway.wait_running("quick");

    // It ends while it is waited for, and comes back.
    gateway.edge(&["pod", "restart", "quick"])?;
    gateway.wait_running("quick");
    let said = gateway.during("pod restart quick", STOPPED, |gateway, _| {
        gateway.0.node.stop_kubelet();
        gateway.0.node.start_kubelet(Edge::KUBECONFIG)
    })?;
    assert!(said.code == 0 && said.text.contains("default/quick: running main "), "{said:?}");
    Ok(())
}

fn runtime(gateway: &mut Gateway) -> Result<()> {
    let fails = |gateway: &Gateway, words: &str| -> Result<()> {
        let said = gateway.edge(&["pod", "restart", "other"])?;
        ensure!(said.code == 1 && said.text.contains(words), "{words}: {said:?}");
        let said = gateway.edge(&["pod", "get", "other"])?;
        ensure!(
            said.code == 0 && said.text.contains("Running") && said.text.contains(words),
            "{words}: {said:?}"
        );
        Ok(())
    };
    let before = gateway.pod("other")?;
    gateway.0.node.containerd()?.signal(Signal::SIGSTOP);
    let hung = fails(gateway, "did not answer ListPodSandbox within 5s hint: it hangs");
    gateway.0.node.containerd()?.signal(Signal::SIGCONT);
    hung.or_else(|error| fails(gateway, "did not answer ListContainers within 5s").map_err(|_| error))?;
    assert_eq!(gateway.wait_running("other").containers, before.containers, "it runs as before");

    gateway.0.node.stop_containerd();
    fails(gateway, "does not listen hint: it has stopped or is starting")?;
    gateway.0.node.machine()?.shell("rm /run/containerd/containerd.sock")?;
    fails(gateway, "no container runtime at `unix:///run/containerd/containerd.sock` hint: start it")?;

    // A containerd that answers, and knows nothing of CRI.
    let config = gateway.0.node.machine()?.read("/etc/containerd/config.toml")?;
    let without = format!("disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n{config}");
    gateway.0.node.machine()?.write("/etc/containerd/config.toml", &without)?;
    gateway.0.node.start_containerd_without_cri()?;
    fails(gateway, "CRI v1 is needed")?;
    gateway.0.node.stop_containerd();
    gateway.0.node.machine()?.write("/etc/containerd/config.toml", &config)?;
    gateway.0.node.start_containerd()?;
    gateway.wait_running("other");
    let said = gateway.edge(&["pod", "restart", "other"])?;
    assert!(said.code == 0, "{said:?}");
    Ok(())
}
