//! containerd on a node: its configuration, its network for pods, its images, and what it runs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use edge::cri::{Runtime, Settings};
use serde_json::{Value, json};

use super::node::Node;
use super::process::Process;
use super::{image, parts, seconds};

/// The image of every sandbox.
const PAUSE: &str = "localhost/pause:1";
/// The images every node has; `workload` uses them.
const IMAGES: [&str; 4] =
    [PAUSE, "docker.io/library/busybox:1", "registry.test/edge/app:1", "registry.test/edge/app:2"];

/// Where containerd listens.
pub(super) const RUNTIME: &str = "unix:///run/containerd/containerd.sock";

/// Which containerd a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Containerd {
    /// 1.7.
    #[default]
    Current,
    /// 1.6, which knows no pinned images.
    Old,
}

impl Node {
    /// Writes containerd's configuration and that of the pods' network; containerd sees the latter at once.
    pub fn configure_containerd(&self) -> Result<()> {
        let machine = self.machine()?;
        machine.write("/etc/containerd/config.toml", &containerd_config())?;
        machine.write("/etc/cni/net.d/10-edge.conflist", &network(self.number))?;
        machine.shell("mkdir -p /etc/containerd/certs.d").map(drop)
    }

    pub fn start_containerd(&mut self) -> Result<()> {
        self.start_containerd_without_cri()?;
        // It answers before its CRI does, and a kubelet that finds none ends; systemd would start that again.
        self.cluster.wait_for("containerd's CRI", seconds(60), || self.cri(async |cri| cri.version().await));
        Ok(())
    }

    /// As [`Self::start_containerd`], for a configuration that disables the CRI plugin.
    pub fn start_containerd_without_cri(&mut self) -> Result<()> {
        let program = match self.options.containerd {
            Containerd::Current => parts::containerd("containerd")?,
            Containerd::Old => parts::program("ctr-1.6/usr/bin/containerd")?,
        };
        let path = parts::path_beside(&program);
        self.containerd = Some(self.spawn("containerd", &[&program], &[("PATH", &path)])?);
        self.cluster.wait_for("containerd", seconds(60), || self.ctr(&["version"]));
        Ok(())
    }

    pub(super) fn import_images(&self) -> Result<()> {
        let mut names = IMAGES.to_vec();
        names.extend(self.options.images.iter().map(String::as_str));
        let dir = self.cluster.dir().join(format!("{}-images", self.name));
        std::fs::create_dir_all(&dir)?;
        let archive = image::archive(&dir, &names)?;
        self.ctr(&["images", "import", &archive.to_string_lossy()])?;
        std::fs::remove_dir_all(dir)?;
        Ok(())
    }

    /// Brings an image to the node: busybox with more programs, given by their paths.
    pub fn import_programs(&self, name: &str, programs: &[&str]) -> Result<()> {
        let dir = tempfile::tempdir_in(self.cluster.dir())?;
        let archive = image::archive_with(dir.path(), &[name], programs)?;
        self.ctr(&["images", "import", &archive.to_string_lossy()]).map(drop)
    }

    /// Runs `ctr` in the kubelet's namespace of containerd.
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        let program = parts::ctr()?;
        let mut argv = vec![&*program, "-n", "k8s.io"];
        argv.extend(args);
        self.machine()?.run(&argv)
    }

    /// containerd's process; fails when it was not started since the boot.
    pub fn containerd(&mut self) -> Result<&mut Process> {
        self.containerd.as_mut().context("containerd was not started")
    }

    /// Kills containerd; what it runs goes on.
    pub fn stop_containerd(&mut self) {
        if let Some(mut containerd) = self.containerd.take() {
            containerd.kill();
        }
    }

    /// Asks the node's runtime from outside, through its own file system.
    pub fn cri<T>(&self, ask: impl AsyncFnOnce(Runtime) -> Result<T, edge::cri::Error>) -> Result<T> {
        let socket = format!("/proc/{}/root/run/containerd/containerd.sock", self.machine()?.init());
        let settings = Settings { endpoint: format!("unix://{socket}"), ..Settings::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async { ask(Runtime::new(&settings)?).await })?)
    }

    /// The newest sandbox of a pod: its id, and the file of its network namespace.
    pub fn sandbox(&self, pod: &str) -> Result<(String, String)> {
        let (id, info) = self.cri(async |runtime| {
            let mut all = runtime.state().await?.sandboxes;
            all.retain(|sandbox| sandbox.metadata.as_ref().is_some_and(|meta| meta.name == pod));
            let id =
                all.into_iter().max_by_key(|sandbox| sandbox.created_at).map_or_else(String::new, |s| s.id);
            let info = runtime.sandbox_info(&id).await?;
            Ok((id, info))
        })?;
        let info: Value = serde_json::from_str(info.get("info").context("no info")?)?;
        let mut all = info["runtimeSpec"]["linux"]["namespaces"].as_array().into_iter().flatten();
        let network = all.find(|n| n["type"] == "network").and_then(|n| n["path"].as_str());
        Ok((id, network.context("no network namespace")?.to_owned()))
    }

    /// Starts a program in a pod's network, with the machine's files; its log is named as that of [`Self::spawn`].
    pub fn spawn_in(&self, pod: &str, name: &str, argv: &[&str], env: &[(&str, &str)]) -> Result<Process> {
        let network = format!("--net={}", self.sandbox(pod)?.1);
        self.spawn(name, &[&["nsenter", &network, "--"], argv].concat(), env)
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
    pub(super) fn running_tasks(&self) -> Result<BTreeSet<String>> {
        let list = self.ctr(&["tasks", "ls"])?;
        let running = list.lines().filter(|line| line.trim_end().ends_with("RUNNING"));
        Ok(running.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
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
