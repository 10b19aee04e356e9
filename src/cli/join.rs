//! `edge join`: edge takes over a node's cloud credentials.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use super::{Global, held, output, progress};
use crate::config::{Change, Config, Snap, quantity};
use crate::daemon::{self, JoinTask, PerformError, task::Task};

/// `edge join`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge join --from /etc/kubernetes/kubelet.conf
  edge join --from /etc/kubernetes/bootstrap-kubelet.conf --node-name ship-7

It can be run again at any time: after it was interrupted, and with a new kubeconfig after the cloud's
certificate expired in a long outage. What is cached is kept. A daemon that runs takes part at once.")]
pub struct Join {
    /// The node's kubeconfig with its client certificate, or a bootstrap kubeconfig with a token
    #[arg(long, value_name = "KUBECONFIG")]
    from: PathBuf,
    /// Where to write kubelet's new kubeconfig [default: kubelet.kubeconfig beside edge.toml]
    #[arg(long, value_name = "OUT")]
    kubelet_kubeconfig: Option<PathBuf>,
    /// The node's name, where a certificate does not say it [default: the host name, in lower case]
    #[arg(long, value_name = "N")]
    node_name: Option<String>,
    /// Where kubelet keeps the certificate that it rotates [default: /var/lib/kubelet/pki]
    #[arg(long, value_name = "DIR")]
    kubelet_cert_dir: Option<PathBuf>,
    /// How long to wait until the cloud has signed a certificate
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = span)]
    timeout: Duration,
}

impl Join {
    pub fn run(&self, global: &Global) -> Result<()> {
        let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
        let host_name = nix::unistd::gethostname().context("cannot read the host name")?;
        let asked = JoinTask {
            from: std::path::absolute(&self.from)?,
            kubelet_kubeconfig: absolute(&self.kubelet_kubeconfig)?,
            kubelet_cert_dir: absolute(&self.kubelet_cert_dir)?,
            node_name: self.node_name.clone(),
            host_name: host_name.to_string_lossy().into_owned(),
            timeout: self.timeout.as_secs(),
        };
        let overrides = global.overrides()?;
        let config = held::agreed(&overrides, Config::load(&overrides)?)?;
        let joined = progress::perform(&config, Task::Join(asked))?;
        let cloud = joined["cloudKubeconfig"].as_str().unwrap_or_default();
        super::edit::edit(&overrides, &[Change::Set("cloud.kubeconfig".into(), cloud.into())])?;
        if daemon::kubelet::follow_membership(&global.load()?).map_err(PerformError::Task)? {
            return output::result(&on_appliance(&joined));
        }
        let pods = match global.load()?.proxy.in_cluster {
            true => Pods::LedHere,
            false => Pods::AskTheCloud,
        };
        output::result(&done(&joined, overrides.snap.as_ref(), pods))
    }
}

fn on_appliance(joined: &Value) -> String {
    let text = |key: &str| joined[key].as_str().unwrap_or_default();
    let mut done = format!(
        "node `{}` is joined, and kubelet was restarted with it; edge keeps its certificate for the cloud (until {}) and renews it",
        text("node"),
        text("certificateExpires")
    );
    if let Some(why) = joined["restart"].as_str() {
        done +=
            &format!("\nedge serves this cloud once it starts anew: {why} hint: `systemctl restart edge`");
    }
    done
}

/// Whom pods of this node find at the Service `kubernetes`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pods {
    LedHere,
    AskTheCloud,
}

/// Pods that run have the cloud's address and authority, until somebody starts them anew.
const RUNNING: &str = "where pods run already, restart kube-proxy's and then those that ask the API server, or \
                       reboot: until then they ask the cloud itself, and `edge status` names them";

fn done(joined: &Value, snap: Option<&Snap>, pods: Pods) -> String {
    let text = |key: &str| joined[key].as_str().unwrap_or_default();
    let (node, until, kubeconfig) = (text("node"), text("certificateExpires"), text("kubeletKubeconfig"));
    if snap.is_some_and(|snap| snap.node.is_some()) {
        let edge = joined["restart"].as_str().map_or("", |_| "edge.daemon ");
        let mut done = format!(
            "node `{node}` is joined; edge keeps its certificate for the cloud (until {until}) and renews it\n\
             one thing is left to do: snap restart {edge}edge.kubelet"
        );
        if pods == Pods::LedHere {
            done += &format!("\n{RUNNING}");
        }
        return done;
    }
    let restart = match (joined["restart"].as_str(), snap.is_some()) {
        (None, true) => "systemctl restart kubelet; edge serves already",
        (None, false) => "systemctl enable edge && systemctl restart kubelet; edge serves already",
        (Some(_), true) => "snap restart edge.daemon && systemctl restart kubelet",
        (Some(_), false) => "systemctl enable edge && systemctl restart edge && systemctl restart kubelet",
    };
    let (count, last) = match pods {
        Pods::LedHere => ("three", format!("\n  3. {RUNNING}")),
        Pods::AskTheCloud => ("two", String::new()),
    };
    let mut done = format!(
        "node `{node}` is joined; edge keeps its certificate for the cloud (until {until}) and renews it\n\
         {count} things are left to do:\n  \
         1. start kubelet with --kubeconfig={kubeconfig} and without --bootstrap-kubeconfig\n  \
         2. {restart}{last}"
    );
    if let Some(why) = joined["restart"].as_str().filter(|why| *why != "edge is not running") {
        done += &format!("\nedge must be restarted before it serves this cloud: {why}");
    }
    done
}

fn span(text: &str) -> Result<Duration, String> {
    quantity::span(text).ok_or_else(|| "expected a duration such as `90s` or `10m`".into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_run_are_named_where_they_are_to_come_here() {
        let joined = json!({"node": "n", "certificateExpires": "2030", "kubeletKubeconfig": "/k"});
        let here = done(&joined, None, Pods::LedHere);
        assert!(
            here.contains("three things") && here.contains("\n  3. where pods run already, restart"),
            "{here}"
        );
        let not = done(&joined, None, Pods::AskTheCloud);
        assert!(not.contains("two things") && !not.contains(RUNNING), "{not}");
    }
}
