//! The gateway: a machine with containerd, a kubelet and, where the test wants it, edge. Boots, loses power, boots
//! again. What runs on it is in `runtime`, `kubelet` and `edge`.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::kubelet::Kubelet;
use super::machine::Machine;
use super::process::Process;
use super::runtime::Containerd;
use super::seconds;

/// What differs between nodes.
#[derive(Clone)]
pub struct NodeOptions {
    pub version: Kubelet,
    pub containerd: Containerd,
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
            containerd: Containerd::default(),
            kubelet: json!({}),
            kubelet_flags: Vec::new(),
            images: Vec::new(),
        }
    }
}

/// A gateway. Dropping it cuts its power and lets its disk go with the cluster.
pub struct Node {
    pub(super) cluster: Cluster,
    pub(super) name: String,
    pub(super) number: u32,
    pub(super) address: String,
    port: String,
    pub(super) options: NodeOptions,
    // The processes end with their machine.
    machine: Option<Machine>,
    pub(super) containerd: Option<Process>,
    pub(super) kubelet: Option<Process>,
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
        node.power_on()?;
        node.configure_containerd()?;
        node.configure_kubelet()?;
        node.start_containerd()?;
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
        self.power_on()?;
        self.start_containerd()
    }

    fn power_on(&mut self) -> Result<()> {
        ensure!(self.machine.is_none(), "`{}` runs already", self.name);
        let disk = self.cluster.dir().join(&self.name);
        let machine = Machine::boot(&self.name, &disk, &self.cluster.logs())?;
        self.port = self.cluster.plug(&machine, self.number)?;
        self.cluster.inner.ground.make_group(&self.name)?;
        self.machine = Some(machine);
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

    /// Starts a program of this node, its log named `NODE.NAME.log`.
    pub fn spawn(&self, name: &str, argv: &[&str], env: &[(&str, &str)]) -> Result<Process> {
        let log = format!("{}.{name}", self.name);
        Process::start(self.machine()?, &self.cluster.logs(), &log, argv, env)
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

    /// Bytes over the cable to the cloud since the boot: (received, sent) by the node.
    pub fn uplink_bytes(&self) -> Result<(u64, u64)> {
        let link: Value =
            serde_json::from_str(&self.machine()?.run(&["ip", "-j", "-s", "link", "show", "eth0"])?)?;
        let bytes = |way: &str| link[0]["stats64"][way]["bytes"].as_u64().context("no counter of the cable");
        Ok((bytes("rx")?, bytes("tx")?))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.power_off();
    }
}
