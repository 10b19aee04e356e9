//! The cloud: etcd or kine, kube-apiserver, controller-manager and scheduler on a machine of their own, at the same
//! address in every cluster, since each has a network of its own. Lays the cables to the nodes; takes nothing away (see
//! `cut`).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use super::cut::CutState;
use super::keys::{Authority, kubeconfig, signing_key};
use super::machine::{Machine, text};
use super::process::Process;
use super::undertaker::Ground;
use super::{parts, seconds};

/// Where nodes find the cloud.
pub const KUBE_ADDRESS: &str = "https://10.250.0.1:6443";
/// The same by name: nodes ask the cloud's name server.
pub const KUBE_NAME: &str = "https://kube.cloud.test:6443";

/// Where the store keeps all that the cloud holds.
pub(super) const STORE: &str = "/run/etcd";

const RIGHTS: &str = include_str!("manifests/rights.yaml");

/// What differs between clusters.
#[derive(Clone, Default)]
pub struct ClusterOptions {
    /// More flags of kube-apiserver, controller-manager.
    pub apiserver: Vec<String>,
    pub controller_manager: Vec<String>,
    pub layout: Layout,
}

/// Whose way of laying out a cloud it follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// kubeadm's: etcd, and one authority.
    #[default]
    Kubeadm,
    /// A K3s server's, of what a node meets of one: kine over SQLite, which goes and comes with the API server; an
    /// authority for clients beside that for servers; nobody let in who shows no credential; and kubelets must show a
    /// certificate of the servers' authority. Needs `scripts/parts --kine`.
    K3s,
}

/// A running cloud. Clones are handles of the same; the last one dropped ends it.
#[derive(Clone)]
pub struct Cluster {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub machine: Machine,
    pub parts: Mutex<Vec<Process>>,
    pub store: Mutex<Process>,
    pub apiserver: Mutex<Process>,
    pub cut: Mutex<CutState>,
    pub authority: Authority,
    pub clients: Option<Authority>,
    options: ClusterOptions,
    cables: AtomicU32,
    nodes: AtomicU32,
    ready: Mutex<bool>,
    // Last, so that the machines are gone before their ground.
    pub ground: Ground,
}

impl Cluster {
    /// Starts a cloud; returns before it answers, so that a node can boot meanwhile (`ready` waits).
    pub fn start(options: &ClusterOptions) -> Result<Self> {
        let ground = Ground::new()?;
        let machine = Machine::boot("cloud", &ground.dir.join("cloud"), &ground.logs())?;
        machine.shell(
            "ip link add br0 type bridge; ip addr add 10.250.0.1/24 dev br0; ip link set br0 up
             mkdir -p /run/etcd",
        )?;
        let authority = Authority::new("cloud")?;
        let clients = match options.layout {
            Layout::Kubeadm => None,
            Layout::K3s => Some(Authority::new("clients")?),
        };
        write_keys(&machine, &authority, clients.as_ref().unwrap_or(&authority))?;
        let logs = ground.logs();
        let store = start(&machine, &logs, "store", &store_flags(options.layout)?)?;
        let apiserver = start(&machine, &logs, "apiserver", &apiserver_flags(options)?)?;
        let inner = Inner {
            machine,
            parts: Mutex::default(),
            store: Mutex::new(store),
            apiserver: Mutex::new(apiserver),
            cut: Mutex::default(),
            authority,
            clients,
            options: options.clone(),
            cables: AtomicU32::new(1),
            nodes: AtomicU32::new(0),
            ready: Mutex::new(false),
            ground,
        };
        let cluster = Self { inner: Arc::new(inner) };
        cluster.start_names()?;
        Ok(cluster)
    }

    pub(super) fn start_controllers(&self) -> Result<()> {
        let machine = &self.inner.machine;
        let mut flags = vec![
            parts::kubernetes("kube-controller-manager")?,
            "--kubeconfig=/etc/kubernetes/admin.kubeconfig".into(),
            "--leader-elect=false".into(),
            "--service-account-private-key-file=/etc/kubernetes/accounts.key".into(),
            "--root-ca-file=/etc/kubernetes/ca.crt".into(),
        ];
        flags.extend(signing_flags(self.inner.options.layout));
        flags.extend(self.inner.options.controller_manager.iter().cloned());
        let manager = start(machine, &self.logs(), "controller-manager", &flags)?;
        let flags = [
            parts::kubernetes("kube-scheduler")?,
            "--kubeconfig=/etc/kubernetes/admin.kubeconfig".into(),
            "--leader-elect=false".into(),
        ];
        let scheduler = start(machine, &self.logs(), "scheduler", &flags)?;
        locked(&self.inner.parts).extend([manager, scheduler]);
        Ok(())
    }

    fn healthy(&self) -> Result<()> {
        if !locked(&self.inner.apiserver).alive() {
            self.fail("the API server has ended");
        }
        self.raw("/readyz").map(drop)
    }

    /// Waits until the API server answers and nodes may join, with a certificate or a bootstrap token.
    pub fn ready(&self) -> Result<()> {
        let mut ready = locked(&self.inner.ready);
        if !*ready {
            // The controllers end themselves when no API server answers in their first ten seconds.
            self.wait_for("ready API server", seconds(120), || self.healthy());
            self.start_controllers()?;
            self.wait_for("rights for nodes", seconds(60), || self.apply(RIGHTS));
            *ready = true;
        }
        Ok(())
    }

    /// The folder of this cluster on the host: logs, disks.
    pub fn dir(&self) -> &Path {
        &self.inner.ground.dir
    }

    pub fn logs(&self) -> PathBuf {
        self.inner.ground.logs()
    }

    /// The cloud's machine, for clients that should stand on the cloud's side.
    pub fn machine(&self) -> &Machine {
        &self.inner.machine
    }

    /// The number of the next node: 1, 2...
    pub(super) fn number(&self) -> u32 {
        self.inner.nodes.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Lays a cable from the cloud to a machine, which gets address 10.250.0.(10 + number).
    pub(super) fn plug(&self, machine: &Machine, number: u32) -> Result<String> {
        let port = format!("port{}", self.inner.cables.fetch_add(1, Ordering::Relaxed));
        let (cloud, init) = (&self.inner.machine, machine.init().to_string());
        let (ours, theirs) = (cloud.init().to_string(), format!("02:00:0a:fa:00:{:02x}", 10 + number));
        let cable = ["link", "add", &port, "netns", &ours, "type", "veth", "peer", "name", "eth0"];
        let end = ["address", &theirs, "netns", &init];
        let output = std::process::Command::new("ip").args(cable).args(end).output()?;
        text(&["ip", "link", "add"], output)?;
        cloud.shell(&format!("ip link set {port} master br0 up"))?;
        machine.shell(&format!(
            "ip addr add 10.250.0.{}/24 dev eth0; ip link set eth0 up; ip route add default via 10.250.0.1",
            10 + number
        ))?;
        Ok(port)
    }

    pub(super) fn unplug(&self, port: &str) {
        let _ = self.inner.machine.output(&["ip", "link", "del", port]);
    }

    /// Kills the API server, and what goes with it: a K3s server is one process.
    pub(super) fn kill_apiserver(&self) {
        locked(&self.inner.apiserver).kill();
        if self.inner.options.layout == Layout::K3s {
            locked(&self.inner.store).kill();
        }
    }

    /// Starts the API server again after `kill_apiserver`, and waits for it.
    pub(super) fn restart_apiserver(&self) -> Result<()> {
        let flags = store_flags(self.inner.options.layout)?;
        let mut store = locked(&self.inner.store);
        if !store.alive() {
            *store = start(&self.inner.machine, &self.logs(), "store", &flags)?;
        }
        drop(store);
        let flags = apiserver_flags(&self.inner.options)?;
        let fresh = start(&self.inner.machine, &self.logs(), "apiserver", &flags)?;
        *locked(&self.inner.apiserver) = fresh;
        self.wait_for("API server again", seconds(120), || self.healthy());
        Ok(())
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(machine: &Machine, logs: &Path, name: &str, flags: &[String]) -> Result<Process> {
    Process::start(machine, logs, name, &flags.iter().map(String::as_str).collect::<Vec<_>>(), &[])
}

fn write_keys(machine: &Machine, authority: &Authority, clients: &Authority) -> Result<()> {
    let names =
        ["kube.cloud.test", "kubernetes.default.svc", "localhost", "10.250.0.1", "10.96.0.1", "127.0.0.1"];
    let server = authority.server(&names)?;
    let admin = clients.client("admin", "system:masters")?;
    let (signs, verifies) = signing_key()?;
    let files = [
        ("ca.crt", authority.certificate()),
        ("ca.key", authority.key()),
        ("client-ca.crt", clients.certificate()),
        ("client-ca.key", clients.key()),
        ("server.crt", &server.certificate),
        ("server.key", &server.key),
        ("admin.crt", &admin.certificate),
        ("admin.key", &admin.key),
        ("accounts.key", &signs),
        ("accounts.pub", &verifies),
        ("admin.kubeconfig", &kubeconfig("https://127.0.0.1:6443", authority.certificate(), &admin)),
    ];
    for (name, content) in files {
        machine.write(&format!("/etc/kubernetes/{name}"), content)?;
    }
    Ok(())
}

fn store_flags(layout: Layout) -> Result<Vec<String>> {
    Ok(match layout {
        Layout::Kubeadm => vec![parts::program("etcd/etcd")?, format!("--data-dir={STORE}")],
        Layout::K3s => vec![
            parts::program("kine/kine")?,
            "--listen-address=127.0.0.1:2379".into(),
            "--metrics-bind-address=0".into(),
            // As K3s opens it.
            "--endpoint=sqlite:///run/etcd/state.db?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate"
                .into(),
        ],
    })
}

/// Which authority the controller-manager signs with.
fn signing_flags(layout: Layout) -> Vec<String> {
    let signers = match layout {
        Layout::Kubeadm => &[("", "ca")][..],
        Layout::K3s => &[
            ("kube-apiserver-client-", "client-ca"),
            ("kubelet-client-", "client-ca"),
            ("kubelet-serving-", "ca"),
            ("legacy-unknown-", "ca"),
        ],
    };
    let flags = |(signer, authority): &(&str, &str)| {
        let flag =
            |kind, end| format!("--cluster-signing-{signer}{kind}-file=/etc/kubernetes/{authority}.{end}");
        [flag("cert", "crt"), flag("key", "key")]
    };
    signers.iter().flat_map(flags).collect()
}

fn apiserver_flags(options: &ClusterOptions) -> Result<Vec<String>> {
    let flags = "--etcd-servers=http://127.0.0.1:2379
        --bind-address=0.0.0.0 --secure-port=6443 --advertise-address=10.250.0.1 --endpoint-reconciler-type=none
        --client-ca-file=/etc/kubernetes/client-ca.crt
        --tls-cert-file=/etc/kubernetes/server.crt --tls-private-key-file=/etc/kubernetes/server.key
        --kubelet-client-certificate=/etc/kubernetes/admin.crt --kubelet-client-key=/etc/kubernetes/admin.key
        --kubelet-preferred-address-types=InternalIP
        --service-account-key-file=/etc/kubernetes/accounts.pub
        --service-account-signing-key-file=/etc/kubernetes/accounts.key
        --service-cluster-ip-range=10.96.0.0/16
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction
        --enable-bootstrap-token-auth=true --allow-privileged=true --profiling=false";
    let own = match options.layout {
        Layout::Kubeadm => "--service-account-issuer=https://kubernetes.default.svc",
        Layout::K3s => {
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local
            --api-audiences=https://kubernetes.default.svc.cluster.local,k3s
            --anonymous-auth=false --kubelet-certificate-authority=/etc/kubernetes/ca.crt"
        }
    };
    let mut all = vec![parts::kubernetes("kube-apiserver")?];
    all.extend(flags.split_whitespace().chain(own.split_whitespace()).map(str::to_owned));
    all.extend(options.apiserver.iter().cloned());
    Ok(all)
}
