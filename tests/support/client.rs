//! The test's own way to the cloud: kubectl on the cloud's machine, kubeconfigs to give away, and waiting with a good
//! account of what went wrong.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::cluster::Cluster;
use super::keys::{Authority, kubeconfig};
use super::machine::text;
use super::parts;
use super::pod::Pod;
use super::process::tails;

impl Cluster {
    /// The bootstrap token that this cloud takes.
    pub fn bootstrap_token(&self) -> &'static str {
        "abcdef.0123456789abcdef"
    }

    /// The authority that signs the certificates of this cloud's servers, and of its clients where they have none of
    /// their own.
    pub fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    /// The authority that signs the certificates of this cloud's clients.
    pub fn client_authority(&self) -> &Authority {
        self.inner.clients.as_ref().unwrap_or(&self.inner.authority)
    }

    /// A kubeconfig of a node, with a client certificate. `server` is `KUBE_ADDRESS` or `KUBE_NAME`.
    pub fn node_kubeconfig(&self, server: &str, node: &str) -> Result<String> {
        let client = self.client_authority().client(&format!("system:node:{node}"), "system:nodes")?;
        Ok(kubeconfig(server, self.inner.authority.certificate(), &client))
    }

    /// A kubeconfig of an administrator, for a client that comes over the cable.
    pub fn admin_kubeconfig(&self, server: &str) -> Result<String> {
        let client = self.client_authority().client("admin", "system:masters")?;
        Ok(kubeconfig(server, self.inner.authority.certificate(), &client))
    }

    /// Runs kubectl as administrator on the cloud's own machine: it works while the nodes are cut off.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with(args, "")
    }

    /// The same, with something on its standard input.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        let program = parts::kubernetes("kubectl")?;
        let mut argv =
            vec![&*program, "--kubeconfig=/etc/kubernetes/admin.kubeconfig", "--cache-dir=/run/kubectl"];
        argv.extend(["--request-timeout=20s"]);
        argv.extend(args);
        let mut command = self.inner.machine.command(&argv);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        std::io::Write::write_all(&mut child.stdin.take().context("no input")?, input.as_bytes())?;
        text(&argv[3..], child.wait_with_output()?)
    }

    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifest).map(drop)
    }

    /// GET of a path of the API.
    pub fn raw(&self, path: &str) -> Result<String> {
        self.kubectl(&["get", "--raw", path])
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.raw(path)?)?)
    }

    /// All pods of a namespace, as the cloud sees them.
    pub fn pods(&self, namespace: &str) -> Result<Vec<Pod>> {
        Ok(Pod::list(&self.get(&format!("/api/v1/namespaces/{namespace}/pods"))?))
    }

    /// Whether the cloud holds a node Ready.
    pub fn node_ready(&self, name: &str) -> Result<bool> {
        let node = self.get(&format!("/api/v1/nodes/{name}"))?;
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
    }

    /// Polls `check` until it succeeds. Past the deadline it panics with the last error and the tails of all logs.
    pub fn wait_for<T>(&self, what: &str, deadline: Duration, check: impl FnMut() -> Result<T>) -> T {
        match wait(what, deadline, check) {
            Ok(value) => value,
            Err(error) => self.fail(&format!("{error:#}")),
        }
    }

    /// Panics, after printing why, then the tails of all logs.
    pub fn fail(&self, why: &str) -> ! {
        eprintln!("FAILED: {why}\n{}", tails(&self.inner.ground.logs(), 25));
        if let Ok(pods) = self.kubectl(&["get", "pods,nodes", "-A", "-o", "wide"]) {
            eprintln!("{pods}");
        }
        panic!("{why}");
    }
}

/// How much longer than on a quiet machine a test waits before it fails: deadlines only end what hangs.
const PATIENCE: u32 = 3;

/// Polls until it succeeds or the deadline, stretched for a busy machine, passes.
pub(super) fn wait<T>(what: &str, deadline: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = deadline * PATIENCE;
    let start = Instant::now();
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > deadline => {
                return Err(error.context(format!("no {what} within {} s", deadline.as_secs())));
            }
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}
