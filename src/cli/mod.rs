//! The only code that prints, reads the environment or knows of a terminal; one file per command.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done; 1 failed;
//! 2 usage or configuration; 3 verification refused. `edge pod exec` has its command's.

mod bundle;
mod chart;
mod config;
mod confinement;
mod daemon;
mod edit;
mod failure;
mod gc;
mod generate;
mod held;
mod hook;
mod image;
mod join;
mod leave;
mod logging;
mod mirror;
mod moved;
mod node;
mod output;
mod pod;
mod progress;
mod registry;
mod status;
mod store;
mod system;
mod trust;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::config::{Config, Overrides, Snap, SnapNode};
use crate::node::Places;
use crate::sys::service::{self, Keeper};
use crate::sys::snapctl;

/// Keeps a Kubernetes gateway working when the cloud is gone.
#[derive(Debug, Parser)]
#[command(name = "edge", version, arg_required_else_help = true, max_term_width = 110)]
#[command(after_help = "Examples:
  edge join --from /etc/kubernetes/kubelet.conf   take over credentials
  edge daemon                                     run (systemd does this)
  edge status                                     what would survive an outage

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 verification refused;
`edge pod exec` ends with that of its command")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
struct Global {
    /// The configuration file [default: /etc/edge/edge.toml]
    #[arg(long, global = true, value_name = "FILE", env = "EDGE_CONFIG", help_heading = "Global options")]
    config: Option<PathBuf>,
    /// The folder of everything that edge keeps [default: state-dir of the configuration]
    #[arg(long, global = true, value_name = "DIR", env = "EDGE_STATE_DIR", help_heading = "Global options")]
    state_dir: Option<PathBuf>,
    /// The daemon's control socket [default: /run/edge/edge.sock]
    #[arg(long, global = true, value_name = "PATH", env = "EDGE_SOCKET", help_heading = "Global options")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until told to stop
    Daemon(daemon::Daemon),
    /// Tell whether the cloud is there, what is cached, and what would not survive an outage
    Status(status::Status),
    /// Take over this node's cloud credentials, and give kubelet a kubeconfig towards edge
    Join(join::Join),
    /// Give kubelet its own credentials back
    Leave(leave::Leave),
    /// Show, log, enter or restart the pods of this gateway
    Pod(pod::Pod),
    /// Remove images and charts that nobody needs
    Gc(gc::Gc),
    /// List, look into, fetch, import, export or remove images
    Image(image::Image),
    /// List, look into, add or remove charts
    Chart(chart::Chart),
    /// Point containerd at edge
    Registry(registry::Registry),
    /// Verify what is stored
    Store(store::Store),
    /// Fetch images and charts from their upstreams while connected
    Mirror(mirror::Mirror),
    /// Carry images and charts to gateways on a stick, signed
    Bundle(bundle::Bundle),
    /// Say whose bundles are believed
    Trust(trust::Trust),
    /// Tell of the appliance's two systems, go back to the other one, or give the data up
    System(system::System),
    /// Show, change or check the configuration
    Config(config::Config),
    /// Become containerd or kubelet of the snap's node flavour, as its services do
    #[command(hide = true)]
    Node(node::Node),
    /// Run a hook of the snap, as snapd does
    #[command(hide = true)]
    Hook(hook::Hook),
    /// Write a completion script for a shell to standard output
    Completion(generate::Completion),
    /// Write the manual pages into a folder
    Man(generate::Man),
}

impl Global {
    /// Relative paths are the caller's, so they are made absolute here and nowhere else.
    pub(super) fn overrides(&self) -> anyhow::Result<Overrides> {
        let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
        Ok(Overrides {
            config: absolute(&self.config)?,
            state_dir: absolute(&self.state_dir)?,
            socket: absolute(&self.socket)?,
            system_root: variable("EDGE_SYSTEM_ROOT").map(std::path::absolute).transpose()?,
            snap: own_snap(),
            proxy: environment(["HTTPS_PROXY", "https_proxy"]),
            no_proxy: environment(["NO_PROXY", "no_proxy"]),
        })
    }

    fn load(&self) -> anyhow::Result<Config> {
        let overrides = self.overrides()?;
        held::follow(&overrides, Config::load(&overrides)?)
    }

    /// The same as the daemon has it: for what does not change the file.
    fn in_force(&self) -> anyhow::Result<Config> {
        held::follow(&self.overrides()?, self.last_good()?)
    }

    /// The last one that was good, on an appliance; elsewhere it is today's or none.
    fn last_good(&self) -> anyhow::Result<Config> {
        let overrides = self.overrides()?;
        if overrides.config.is_some() {
            return Ok(Config::load(&overrides)?);
        }
        let loaded = crate::daemon::load(&overrides)?;
        if let Some(why) = loaded.refused {
            output::note(&format!("edge: {why}"));
        }
        Ok(loaded.config)
    }
}

/// The snap that this process runs in, if it is edge's own and not one that calls edge.
fn own_snap() -> Option<Snap> {
    if variable("SNAP_NAME")? != "edge" {
        return None;
    }
    let snapctl = variable("EDGE_SNAPCTL").map_or_else(|| snapctl::PROGRAM.into(), PathBuf::from);
    let common = PathBuf::from(variable("SNAP_COMMON")?);
    let instance = variable("SNAP_INSTANCE_NAME").unwrap_or_else(|| "edge".into());
    let memory = PathBuf::from(format!("/run/snap.{}", instance.display()));
    let snap = variable("SNAP").map(PathBuf::from);
    let is_strict = snap.as_deref().and_then(confinement::of_snap).is_none_or(|it| it != "classic");
    let root = snap.as_deref().map(|snap| snap.join(Snap::ROOT)).filter(|root| root.exists());
    let places = snap.map(|snap| Places::of(&snap, common.clone()));
    let node = places.filter(Places::are_there);
    let node = node.map(|places| SnapNode { endpoint: places.endpoint(), content: places.snap });
    let revision = variable("SNAP_REVISION").and_then(|text| text.into_string().ok());
    Some(Snap { common, memory, revision, snapctl, is_strict, node, root })
}

/// Who starts edge, kubelet and containerd here.
fn keeper() -> Keeper {
    match own_snap() {
        None => Keeper::Systemd,
        Some(Snap { node: None, .. }) => Keeper::Snap,
        Some(Snap { node: Some(_), .. }) => Keeper::SnapNode,
    }
}

/// The first of these variables that says something.
fn environment(names: [&str; 2]) -> Option<String> {
    names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// A variable of the environment; one that is set and empty says nothing.
fn variable(name: impl AsRef<OsStr>) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Parses, runs and reports; the only way in.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = hook::Hook::by_own_name(arguments.into_iter().collect());
    let parsed =
        command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    let teller = match cli.command {
        Command::Daemon(_) => logging::Teller::Daemon,
        Command::Hook(_) => logging::Teller::Hook,
        _ => logging::Teller::Command,
    };
    service::kept_by(keeper());
    let outcome = logging::start(teller).and_then(|()| dispatch(&cli));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

/// The command line. The parser takes a variable that is empty for a value, and one that is wrong.
fn command() -> clap::Command {
    Cli::command().mut_args(|argument| match argument.get_env() {
        Some(name) if variable(name).is_none() => argument.env(None::<&str>),
        _ => argument,
    })
}

fn dispatch(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Daemon(command) => command.run(&cli.global),
        Command::Status(command) => command.run(&cli.global),
        Command::Join(command) => command.run(&cli.global),
        Command::Leave(command) => command.run(&cli.global),
        Command::Pod(command) => command.run(&cli.global),
        Command::Gc(command) => command.run(&cli.global),
        Command::Image(command) => command.run(&cli.global),
        Command::Chart(command) => command.run(&cli.global),
        Command::Registry(command) => command.run(&cli.global),
        Command::Store(command) => command.run(&cli.global),
        Command::Mirror(command) => command.run(&cli.global),
        Command::Bundle(command) => command.run(&cli.global),
        Command::Trust(command) => command.run(&cli.global),
        Command::System(command) => command.run(&cli.global),
        Command::Config(command) => command.run(&cli.global),
        Command::Node(command) => command.run(&cli.global),
        Command::Hook(command) => command.run(&cli.global),
        Command::Completion(command) => command.run(),
        Command::Man(command) => command.run(),
    }
}
