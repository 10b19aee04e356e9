//! The kubelet on a node: its configuration, and its own view of the pods. When it starts, and with which kubeconfig,
//! is the test's to say.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::node::Node;
use super::pod::Pod;
use super::process::Process;
use super::runtime::RUNTIME;
use super::{parts, seconds};

/// Where the kubelet's direct kubeconfig is put.
const DIRECT: &str = "/etc/kubernetes/direct.kubeconfig";
const CONFIG: &str = "/etc/kubernetes/kubelet.yaml";

/// Which kubelet a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kubelet {
    /// Of the same version as the cloud: it asks with WatchList.
    #[default]
    Current,
    /// 1.20, of before WatchList; there after `scripts/parts --old-kubelet`.
    Old,
}

impl Node {
    pub(super) fn configure_kubelet(&self) -> Result<()> {
        let machine = self.machine()?;
        machine.write("/etc/kubernetes/ca.crt", self.cluster.authority().certificate())?;
        machine.write("/etc/kubernetes/client-ca.crt", self.cluster.client_authority().certificate())?;
        machine.shell("mkdir -p /etc/kubernetes/manifests")?;
        machine.write(CONFIG, &self.kubelet_config())
    }

    /// Starts the kubelet straight against the cloud, with a client certificate, and waits until the node is Ready.
    pub fn start_direct(&mut self) -> Result<()> {
        let kubeconfig = self.cluster.node_kubeconfig(super::KUBE_ADDRESS, &self.name)?;
        self.machine()?.write(DIRECT, &kubeconfig)?;
        self.cluster.ready()?;
        self.start_kubelet(DIRECT)?;
        self.wait_ready();
        Ok(())
    }

    /// Starts the kubelet with a kubeconfig of this node; returns at once.
    pub fn start_kubelet(&mut self, kubeconfig: &str) -> Result<()> {
        let old = self.options.version == Kubelet::Old;
        let program = if old { parts::program("k8s-1.20/kubelet")? } else { parts::kubernetes("kubelet")? };
        let mut argv = vec![
            program,
            format!("--config={CONFIG}"),
            format!("--kubeconfig={kubeconfig}"),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", self.address),
            "--cert-dir=/var/lib/kubelet/pki".into(),
            "--v=2".into(),
        ];
        if old {
            argv.push("--container-runtime=remote".into());
            argv.push(format!("--container-runtime-endpoint={RUNTIME}"));
        }
        argv.extend(self.options.kubelet_flags.iter().cloned());
        let argv: Vec<_> = argv.iter().map(String::as_str).collect();
        self.kubelet = Some(self.spawn("kubelet", &argv, &[])?);
        Ok(())
    }

    /// Kills the kubelet; its pods go on.
    pub fn stop_kubelet(&mut self) {
        if let Some(mut kubelet) = self.kubelet.take() {
            kubelet.kill();
        }
    }

    /// The kubelet's process; fails when it was never started since the boot.
    pub fn kubelet(&mut self) -> Result<&mut Process> {
        self.kubelet.as_mut().context("the kubelet was not started")
    }

    /// Whether the kubelet runs.
    pub fn kubelet_alive(&mut self) -> bool {
        self.kubelet.as_mut().is_some_and(Process::alive)
    }

    /// Puts a static pod on the node.
    pub fn static_pod(&self, name: &str, manifest: &str) -> Result<()> {
        self.machine()?.write(&format!("/etc/kubernetes/manifests/{name}.yaml"), manifest)
    }

    /// Waits until the cloud holds the node Ready.
    pub fn wait_ready(&self) {
        self.cluster.wait_for(&format!("Ready node `{}`", self.name), seconds(120), || {
            ensure!(self.cluster.node_ready(&self.name)?, "not Ready");
            Ok(())
        });
    }

    /// The pods as this node's kubelet sees them, also while the cloud is gone. A container counts as running only when
    /// containerd runs it: after a reboot the kubelet repeats for a while what the cloud last knew.
    pub fn pods(&self) -> Result<Vec<Pod>> {
        let mut pods = Pod::list(&serde_json::from_str(&self.http("127.0.0.1:10255", "/pods")?)?);
        let tasks = self.running_tasks()?;
        for container in pods.iter_mut().flat_map(|pod| &mut pod.containers) {
            container.running &= tasks.contains(&container.id);
        }
        Ok(pods)
    }

    /// Writes the kubelet's configuration anew, with other keys; the next start of the kubelet reads it.
    pub fn set_kubelet(&mut self, keys: Value) -> Result<()> {
        self.options.kubelet = keys;
        self.machine()?.write(CONFIG, &self.kubelet_config())
    }

    fn kubelet_config(&self) -> String {
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "x509": {"clientCAFile": "/etc/kubernetes/client-ca.crt"},
                "webhook": {"enabled": true},
                "anonymous": {"enabled": false},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}/{}", self.cluster.inner.ground.group, self.name),
            "failCgroupV1": false,
            "failSwapOn": false,
            "oomScoreAdj": 0,
            "containerRuntimeEndpoint": RUNTIME,
            "resolvConf": "/etc/resolv.conf",
            "staticPodPath": "/etc/kubernetes/manifests",
            // The test's own view of the pods, with no question to the cloud about who asks.
            "readOnlyPort": 10255,
            "serializeImagePulls": false,
            // The disk of a test machine may be nearly full.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        });
        if let (Some(config), Some(more)) = (config.as_object_mut(), self.options.kubelet.as_object()) {
            if self.options.version == Kubelet::Old {
                config.retain(|key, _| key != "failCgroupV1" && key != "containerRuntimeEndpoint");
            }
            config.extend(more.clone());
        }
        config.to_string()
    }
}
