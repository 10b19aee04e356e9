//! The gateway: a machine with containerd, a kubelet and, where the test wants it, edge. Boots, loses power, boots
//! again. When the kubelet starts, and with which kubeconfig, is the test's to say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::machine::Machine;
use super::pod::Pod;
use super::process::Process;
use super::{image, parts, seconds};

/// The image of every sandbox.
const PAUSE: &str = "localhost/pause:1";
/// The images every node has; `workload` uses them.
const IMAGES: [&str; 4] =
    [PAUSE, "docker.io/library/busybox:1", "registry.test/edge/app:1", "registry.test/edge/app:2"];
const RUNTIME: &str = "unix:///run/containerd/containerd.sock";
/// Where the kubelet's direct kubeconfig is put.
const DIRECT: &str = "/etc/kubernetes/direct.kubeconfig";

/// Which kubelet a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kubelet {
    /// Of the same version as the cloud: it asks with WatchList.
    #[default]
    Current,
    /// 1.20, of before WatchList; there after `scripts/parts --old-kubelet`.
    Old,
}

/// What differs between nodes.
#[derive(Clone)]
pub struct NodeOptions {
    pub version: Kubelet,
    /// Keys of the kubelet's configuration, over those of the test support.
    pub kubelet: Value,
    pub kubelet_flags: Vec<String>,
    /// Names of images that are on the node, all of the same busybox, besides the standard ones.
    pub images: Vec<String>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            version: Kubelet::default(),
            kubelet: json!({}),
            kubelet_flags: Vec::new(),
            images: Vec::new(),
        }
    }
}

/// A gateway. Dropping it cuts its power and lets its disk go with the cluster.
pub struct Node {
    cluster: Cluster,
    name: String,
    number: u32,
    address: String,
    port: String,
    options: NodeOptions,
    // The processes end with their machine.
    machine: Option<Machine>,
    containerd: Option<Process>,
    kubelet: Option<Process>,
}

impl Cluster {
    /// Makes a node and boots it up to containerd, images there; no kubelet yet.
    pub fn node(&self, name: &str, options: &NodeOptions) -> Result<Node> {
        let number = self.number();
        let mut node = Node {
            cluster: self.clone(),
            name: name.to_owned(),
            number,
            address: format!("10.250.0.{}", 10 + number),
            port: String::new(),
            options: options.clone(),
            machine: None,
            containerd: None,
            kubelet: None,
        };
        node.boot()?;
        node.import_images()?;
        Ok(node)
    }
}

impl Node {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the cable to the cloud.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The machine it runs on; fails while the power is off.
    pub fn machine(&self) -> Result<&Machine> {
        self.machine.as_ref().with_context(|| format!("`{}` has no power", self.name))
    }

    /// Starts the machine, its network and containerd. The kubelet and edge are the caller's to start.
    pub fn boot(&mut self) -> Result<()> {
        ensure!(self.machine.is_none(), "`{}` runs already", self.name);
        let disk = self.cluster.dir().join(&self.name);
        let machine = Machine::boot(&self.name, &disk, &self.cluster.logs())?;
        self.port = self.cluster.plug(&machine, self.number)?;
        self.cluster.inner.ground.make_group(&self.name)?;
        for (path, content) in [
            ("/etc/containerd/config.toml", containerd_config()),
            ("/etc/cni/net.d/10-edge.conflist", network(self.number)),
            ("/etc/kubernetes/ca.crt", self.cluster.authority().certificate().to_owned()),
            ("/etc/kubernetes/kubelet.yaml", self.kubelet_config()),
        ] {
            machine.write(path, &content)?;
        }
        machine.shell("mkdir -p /etc/kubernetes/manifests /etc/containerd/certs.d")?;
        self.machine = Some(machine);
        self.start_containerd()
    }

    fn start_containerd(&mut self) -> Result<()> {
        let (program, path) = (parts::containerd("containerd")?, parts::containerd_path()?);
        self.containerd = Some(self.spawn("containerd", &[&program], &[("PATH", &path)])?);
        self.cluster.wait_for("containerd", seconds(20), || self.ctr(&["version"]));
        Ok(())
    }

    /// Cuts the power: every process ends at once; memory, mounts, `/run` and the pods' networks are gone.
    pub fn power_off(&mut self) {
        self.cluster.unplug(&self.port);
        self.kubelet = None;
        self.containerd = None;
        self.machine = None;
        self.cluster.inner.ground.clear_group(&self.name);
    }

    /// Cuts the power and boots again, up to containerd.
    pub fn reboot(&mut self) -> Result<()> {
        self.power_off();
        self.boot()
    }

    /// What tells one boot from another.
    pub fn boot_id(&self) -> Result<String> {
        self.machine()?.read("/proc/sys/kernel/random/boot_id")
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
            "--config=/etc/kubernetes/kubelet.yaml".into(),
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

    /// Starts a program of this node, its log named `NODE.NAME.log`.
    pub fn spawn(&self, name: &str, argv: &[&str], env: &[(&str, &str)]) -> Result<Process> {
        let log = format!("{}.{name}", self.name);
        Process::start(self.machine()?, &self.cluster.logs(), &log, argv, env)
    }

    /// Puts a static pod on the node.
    pub fn static_pod(&self, name: &str, manifest: &str) -> Result<()> {
        self.machine()?.write(&format!("/etc/kubernetes/manifests/{name}.yaml"), manifest)
    }

    /// Waits until the cloud holds the node Ready.
    pub fn wait_ready(&self) {
        self.cluster.wait_for(&format!("Ready node `{}`", self.name), seconds(60), || {
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

    /// The body of a plain HTTP GET, made from this node.
    pub fn http(&self, address: &str, path: &str) -> Result<String> {
        let (address, path) = (address.to_owned(), path.to_owned());
        self.machine()?.in_network(move || -> Result<String> {
            let mut stream = TcpStream::connect_timeout(&address.parse()?, seconds(5))?;
            stream.set_read_timeout(Some(seconds(5)))?;
            // HTTP/1.0: the body is not chunked and ends with the connection.
            write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let (head, body) = answer.split_once("\r\n\r\n").context("no end of the headers")?;
            ensure!(
                head.contains(" 200 "),
                "`{path}` at {address}: {}",
                head.lines().next().unwrap_or_default()
            );
            Ok(body.to_owned())
        })?
    }

    /// Whether something on this node accepts connections at an address.
    pub fn listens(&self, address: &str) -> Result<()> {
        let address = address.to_owned();
        self.machine()?.in_network(move || -> Result<()> {
            TcpStream::connect_timeout(&address.parse()?, seconds(1))?;
            Ok(())
        })?
    }

    /// Runs `ctr` in the kubelet's namespace of containerd.
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        let program = parts::ctr()?;
        let mut argv = vec![&*program, "-n", "k8s.io"];
        argv.extend(args);
        self.machine()?.run(&argv)
    }

    /// The running containers of containerd, sandboxes left out: container id -> `namespace/pod/container`.
    pub fn running_containers(&self) -> Result<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        for id in self.running_tasks()? {
            let info: Value = serde_json::from_str(&self.ctr(&["containers", "info", &id])?)?;
            let label = |key: &str| info["Labels"][key].as_str().unwrap_or_default().to_owned();
            if label("io.cri-containerd.kind") == "container" {
                let [namespace, pod, name] = ["pod.namespace", "pod.name", "container.name"]
                    .map(|key| label(&format!("io.kubernetes.{key}")));
                found.insert(id, format!("{namespace}/{pod}/{name}"));
            }
        }
        Ok(found)
    }

    /// The ids of what containerd runs, sandboxes among them.
    fn running_tasks(&self) -> Result<BTreeSet<String>> {
        let list = self.ctr(&["tasks", "ls"])?;
        let running = list.lines().filter(|line| line.trim_end().ends_with("RUNNING"));
        Ok(running.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// Bytes over the cable to the cloud since the boot: (received, sent) by the node.
    pub fn uplink_bytes(&self) -> Result<(u64, u64)> {
        let link: Value =
            serde_json::from_str(&self.machine()?.run(&["ip", "-j", "-s", "link", "show", "eth0"])?)?;
        let bytes = |way: &str| link[0]["stats64"][way]["bytes"].as_u64().context("no counter of the cable");
        Ok((bytes("rx")?, bytes("tx")?))
    }

    /// Writes the kubelet's configuration anew, with other keys; the next start of the kubelet reads it.
    pub fn set_kubelet(&mut self, keys: Value) -> Result<()> {
        self.options.kubelet = keys;
        self.machine()?.write("/etc/kubernetes/kubelet.yaml", &self.kubelet_config())
    }

    fn import_images(&self) -> Result<()> {
        let mut names = IMAGES.to_vec();
        names.extend(self.options.images.iter().map(String::as_str));
        let dir = self.cluster.dir().join(format!("{}-images", self.name));
        std::fs::create_dir_all(&dir)?;
        let archive = image::archive(&dir, &names)?;
        self.ctr(&["images", "import", &archive.to_string_lossy()])?;
        std::fs::remove_dir_all(dir)?;
        Ok(())
    }

    fn kubelet_config(&self) -> String {
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"},
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

impl Drop for Node {
    fn drop(&mut self) {
        self.power_off();
    }
}

fn containerd_config() -> String {
    format!(
        "version = 2
[plugins.\"io.containerd.grpc.v1.cri\"]
sandbox_image = \"{PAUSE}\"
restrict_oom_score_adj = true
[plugins.\"io.containerd.grpc.v1.cri\".registry]
config_path = \"/etc/containerd/certs.d\"
[plugins.\"io.containerd.grpc.v1.cri\".cni]
bin_dir = \"/usr/lib/cni\"
conf_dir = \"/etc/cni/net.d\"
"
    )
}

fn network(number: u32) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": format!("10.88.{number}.0/24")}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
    .to_string()
}
