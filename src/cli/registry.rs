//! `edge registry`: containerd's way to edge.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::Global;
use super::failure::Usage;
use super::held;
use super::output::{self, Format};
use crate::config::{Config, Snap};
use crate::oci::Upstream;
use crate::registry::containerd::{self, ContainerdReport, ContainerdSettings, LastResort};
use crate::registry::{is_host_name, name_and_port};
use crate::sys::service::Service;

/// `edge registry`
#[derive(Debug, Args)]
pub struct Registry {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Have containerd ask edge first, and the real registries where edge has nothing
    ConfigureContainerd(Configure),
}

/// `edge registry configure-containerd`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge registry configure-containerd --check      what would change; exit code 1 if anything would
  edge registry configure-containerd              write hosts.toml files, and keep what was there
  edge registry configure-containerd --air-gap    edge alone: no other registry is asked any more
  edge registry configure-containerd --undo       put back what was there

Without --host it is for each registry in registry.upstreams and for all that have no hosts.toml of their own.")]
struct Configure {
    /// Only tell what would change
    #[arg(long, conflicts_with = "undo")]
    check: bool,
    /// Put back what was there before
    #[arg(long)]
    undo: bool,
    /// Ask edge alone
    #[arg(long, conflicts_with = "undo")]
    air_gap: bool,
    /// A registry to stand before, such as quay.io; `_default` is all without a hosts.toml; may be given several times
    #[arg(long, value_name = "HOST", conflicts_with = "undo")]
    host: Vec<String>,
    /// The authority (PEM) that vouches for registry.tls-certificate, where it is none of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "undo")]
    ca: Option<PathBuf>,
    /// containerd's configuration [default: /etc/containerd/config.toml; in the snap's node flavour that of its own]
    #[arg(long, value_name = "FILE")]
    containerd_config: Option<PathBuf>,
    /// How to write the result
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Registry {
    pub fn run(&self, global: &Global) -> Result<()> {
        let Command::ConfigureContainerd(command) = &self.command;
        let overrides = global.overrides()?;
        command.run(&held::agreed(&overrides, global.last_good()?)?, overrides.snap.as_ref())
    }
}

impl Configure {
    fn run(&self, config: &Config, snap: Option<&Snap>) -> Result<()> {
        let own = snap.filter(|snap| snap.node.is_some() && self.containerd_config.is_none());
        let file = match (&self.containerd_config, own) {
            (Some(file), _) => std::path::absolute(file)?,
            // It says where `hosts.toml` is looked for, and the first start writes it.
            (None, Some(snap)) => crate::node::containerd_config(&snap.common),
            (None, None) => "/etc/containerd/config.toml".into(),
        };
        if own.is_some() && !file.exists() {
            let why = format!("the snap's containerd was never started: there is no `{}`", file.display());
            anyhow::bail!("{why} hint: `snap start edge.containerd`");
        }
        let settings = self.settings(config, file)?;
        let report = match (self.check, self.undo) {
            (true, _) => containerd::check(&settings)?,
            (_, true) => containerd::undo(&settings)?,
            _ => containerd::configure(&settings)?,
        };
        match self.output {
            Format::Json => output::json(&serde_json::json!({
                "changed": report.changed, "leftAlone": report.left_alone, "restart": report.restart,
            }))?,
            Format::Text => output::result(&self.text(&report))?,
        }
        if self.check && !report.changed.is_empty() {
            return Err(output::Exit(1).into());
        }
        Ok(())
    }

    fn settings(&self, config: &Config, file: PathBuf) -> Result<ContainerdSettings> {
        let registry = &config.registry;
        let (edge, authority) = self.edge(config)?;
        let mut hosts: Vec<Upstream> = Vec::new();
        if self.host.is_empty() {
            hosts.extend(registry.upstreams.iter().map(|row| row.upstream()));
            hosts.push(default_host());
        }
        if let Some(wrong) = self.host.iter().find(|host| *host != "_default" && !is_host_name(host)) {
            let why =
                format!("`{wrong}` cannot be the host of a registry hint: such as quay.io or quay.io:443");
            return Err(Usage(why).into());
        }
        let given: BTreeSet<&String> = self.host.iter().collect();
        for host in given {
            let known = registry.upstreams.iter().map(|row| row.upstream()).find(|known| known.host == *host);
            let other = || if host == "_default" { default_host() } else { Upstream::of_host(host) };
            hosts.push(known.unwrap_or_else(other));
        }
        Ok(ContainerdSettings {
            config: file,
            backup: config.state_dir.join("containerd"),
            edge,
            authority,
            hosts,
            last_resort: if self.air_gap { LastResort::Nobody } else { LastResort::Registry },
        })
    }

    /// Where containerd reaches edge, and the authority that vouches for edge there.
    fn edge(&self, config: &Config) -> Result<(String, Option<PathBuf>)> {
        let registry = &config.registry;
        let mut address = registry.listen;
        if address.ip().is_unspecified() {
            // Every address is this machine's; loopback is the one that is always there.
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        let given = registry.tls_certificate.as_ref().filter(|_| !self.undo);
        if self.ca.is_some() && given.is_none() {
            let why = "--ca is for registry.tls-certificate, which is not set hint: leave it out";
            return Err(Usage(why.into()).into());
        }
        let Some(certificate) = given else {
            let scheme = if registry.serves_tls() { "https" } else { "http" };
            let authority = registry.local_certificate.then(|| config.state_dir.join("pki/ca.crt"));
            return Ok((format!("{scheme}://{address}"), authority));
        };
        let mut names = vec![address.to_string()];
        if address.ip().is_loopback() {
            names.push(format!("localhost:{}", address.port()));
        }
        // Without a port containerd would ask at 443.
        names.extend(registry.own_hosts.iter().map(|host| match name_and_port(host) {
            (_, Some(_)) => host.clone(),
            (name, None) => format!("{name}:{}", address.port()),
        }));
        let ca = self.ca.as_ref().map(std::path::absolute).transpose()?;
        let name = containerd::reach(certificate, &names, ca.as_deref())?;
        Ok((format!("https://{name}"), ca))
    }

    fn text(&self, report: &ContainerdReport) -> String {
        let mut out = String::new();
        let verb = match (self.check, self.undo) {
            (true, _) => "differs",
            (_, true) => "put back",
            _ => "written",
        };
        for path in &report.changed {
            let _ = writeln!(out, "{verb}: {}", path.display());
        }
        for path in &report.left_alone {
            let _ = writeln!(out, "left alone, since it was changed after edge wrote it: {}", path.display());
        }
        if report.changed.is_empty() && report.left_alone.is_empty() {
            out.push_str("nothing to do\n");
        }
        out.push_str(&match (report.restart, self.check) {
            (true, true) => "containerd would have to be restarted\n".to_owned(),
            (true, false) => format!("containerd must be restarted: {}\n", Service::Containerd.restart()),
            (false, _) => "containerd need not be restarted\n".to_owned(),
        });
        out
    }
}

/// All registries without a file of their own.
fn default_host() -> Upstream {
    Upstream { host: "_default".into(), url: String::new(), insecure: false }
}
