//! `edge join`: edge takes over a node's cloud credentials.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::{Global, output};
use crate::config::{Change, Config, quantity};
use crate::proxy::join::{self, Plan, Record};
use crate::proxy::request::Progress;
use crate::sys::lock::StateLock;

/// `edge join`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge join --from /etc/kubernetes/kubelet.conf
  edge join --from /etc/kubernetes/bootstrap-kubelet.conf --node-name ship-7

It can be run again at any time: after it was interrupted, and with a new kubeconfig after the cloud's
certificate expired in a long outage. What is cached is kept.")]
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
        let config = global.load()?;
        let _lock = take_lock(&config.state_dir, "edge join")?;
        let plan = self.plan(&config)?;
        let cloud = plan.cloud_kubeconfig.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ready = runtime.block_on(join::prepare(plan, &mut tell))?;
        let change = Change::Set("cloud.kubeconfig".into(), cloud.to_string_lossy().into_owned());
        super::edit::edit(&global.overrides()?, &[change])?;
        let until = ready.certificate.not_after;
        let record = ready.hand_over()?;
        output::result(&done(&record, until, global.overrides()?.snap.is_some()))
    }

    /// What was joined stays where it is; a flag that says otherwise is refused later, with the reason.
    fn plan(&self, config: &Config) -> Result<Plan> {
        let before = Record::read(&config.state_dir)?;
        let folder = config.file.parent().unwrap_or(Path::new("/"));
        let given = |flag: &Option<PathBuf>| flag.as_ref().map(std::path::absolute).transpose();
        let known = |pick: fn(&Record) -> &PathBuf| before.as_ref().map(|record| pick(record).clone());
        let host_name = nix::unistd::gethostname().context("cannot read the host name")?;
        Ok(Plan {
            from: std::path::absolute(&self.from)?,
            kubelet_kubeconfig: given(&self.kubelet_kubeconfig)?
                .or_else(|| known(|r| &r.kubelet_kubeconfig.path))
                .unwrap_or_else(|| folder.join("kubelet.kubeconfig")),
            cloud_kubeconfig: known(|r| &r.cloud_kubeconfig.path)
                .or_else(|| config.cloud.kubeconfig.clone())
                .unwrap_or_else(|| folder.join("cloud.kubeconfig")),
            kubelet_cert_dir: given(&self.kubelet_cert_dir)?
                .or_else(|| known(|r| &r.kubelet_cert_dir))
                .unwrap_or_else(kubelet_cert_dir),
            state_dir: config.state_dir.clone(),
            listen: config.proxy.listen,
            node_name: self.node_name.clone(),
            host_name: host_name.to_string_lossy().into_owned(),
            timeout: self.timeout,
        })
    }
}

/// The lock, or who has it and what to do.
pub fn take_lock(state_dir: &Path, who: &str) -> Result<StateLock> {
    StateLock::take(state_dir, who).with_context(|| {
        format!("{who} needs the state folder to itself hint: `systemctl stop edge`, and run it again")
    })
}

fn tell(progress: &Progress) {
    output::note(&match progress {
        Progress::Unapproved(name) => format!(
            "waiting for approval of the signing request; an operator of the cloud says: kubectl certificate approve {name}"
        ),
        Progress::Approved(name) => format!("`{name}` is approved; waiting for the certificate"),
        Progress::Unreachable(why) => format!("the cloud cannot be asked, trying again: {why}"),
    });
}

/// Kubelet's own default. A strict snap sees the host's folder elsewhere.
fn kubelet_cert_dir() -> PathBuf {
    let below_host = PathBuf::from("/var/lib/snapd/hostfs/var/lib/kubelet/pki");
    if below_host.is_dir() { below_host } else { PathBuf::from("/var/lib/kubelet/pki") }
}

fn done(record: &Record, until: jiff::Timestamp, in_snap: bool) -> String {
    let start =
        if in_snap { "snap restart edge.daemon" } else { "systemctl enable edge && systemctl restart edge" };
    format!(
        "node `{}` is joined; edge keeps its certificate for the cloud (until {until}) and renews it\n\
         two things are left to do:\n  \
         1. start kubelet with --kubeconfig={} and without --bootstrap-kubeconfig\n  \
         2. {start} && systemctl restart kubelet",
        record.node_name,
        record.kubelet_kubeconfig.path.display()
    )
}

fn span(text: &str) -> Result<Duration, String> {
    quantity::span(text).ok_or_else(|| "expected a duration such as `90s` or `10m`".into())
}
