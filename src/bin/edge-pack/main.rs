//! `edge-pack`: makes on the build host what a gateway gets. Parse, run, exit code; the work is `edge::pack`.

mod image;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use edge::config;
use edge::pack::{self, Confinement, Flavour, Machine, SnapPlan};
use edge::trust::Chain;

/// Makes what a gateway gets, on the build host.
#[derive(Debug, Parser)]
#[command(name = "edge-pack", version, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the snap of a static binary
    #[command(after_help = "Examples:
  edge-pack snap --arch arm64
  edge-pack snap --arch amd64 --binary ./edge --confinement classic --out /tmp
  edge-pack snap --arch arm64 --flavour node          with kubelet, containerd, runc and CNI plugins
  edge-pack snap --arch arm64 --trust 1.root.json     its gateways take this depot's bundles from the first start

The same binary, version and SOURCE_DATE_EPOCH give the same bytes. scripts/snap builds the binaries.")]
    Snap(Snap),
    /// Make the appliance image: a disk that is written to a card
    #[command(after_help = "Examples:
  edge-pack image --arch arm64 --kubelet ./kubelet --config edge.toml
  edge-pack image --arch arm64 --kubelet ./kubelet --board raspberry-pi
  edge-pack image --arch amd64 --kubelet ./kubelet --lock edge.img.lock

Beside it are written: .zst, the same compressed; .lock, its packages; .spdx.json, what it is made of; .system/, what a
bundle brings to update a gateway. scripts/image builds the programs and makes the tools tree.")]
    Image(Box<image::Arguments>),
}

#[derive(Debug, clap::Args)]
struct Snap {
    /// The machine it is for
    #[arg(long, value_enum)]
    arch: Arch,
    /// The built program [default: target/snap/edge-ARCH]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// The folder to put it in
    #[arg(long, value_name = "DIR", default_value = "target/snap")]
    out: PathBuf,
    /// How far it is kept from the host
    #[arg(long, value_enum, default_value = "strict")]
    confinement: Kept,
    /// What is in it: edge alone, or kubelet, containerd, runc and CNI plugins too
    #[arg(long, value_enum, default_value = "edge")]
    flavour: Contents,
    /// Those parts, for --flavour node [default: target/snap/node-ARCH]
    #[arg(long, value_name = "DIR")]
    parts: Option<PathBuf>,
    /// The trust root that its daemon pins where none is, 1.root.json
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// The version that snapd shows
    #[arg(long = "snap-version", value_name = "V", default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// The time of every file in it, in seconds since 1970
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", default_value_t = 0)]
    epoch: i64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Arch {
    Amd64,
    Arm64,
    Armhf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kept {
    Strict,
    Classic,
}

fn machine(arch: Arch) -> Machine {
    match arch {
        Arch::Amd64 => Machine::Amd64,
        Arch::Arm64 => Machine::Arm64,
        Arch::Armhf => Machine::Armhf,
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Contents {
    Edge,
    Node,
}

impl Snap {
    fn run(self) -> Result<String> {
        let machine = machine(self.arch);
        let built = || PathBuf::from(format!("target/snap/edge-{}", machine.name()));
        let parts = || PathBuf::from(format!("target/snap/node-{}", machine.name()));
        if let Some(file) = &self.trust {
            check_root(file)?;
        }
        let image = pack::pack_snap(&SnapPlan {
            machine,
            binary: self.binary.unwrap_or_else(built),
            version: self.version,
            confinement: match self.confinement {
                Kept::Strict => Confinement::Strict,
                Kept::Classic => Confinement::Classic,
            },
            flavour: match self.flavour {
                Contents::Edge => Flavour::Edge,
                Contents::Node => Flavour::Node(self.parts.unwrap_or_else(parts)),
            },
            trust: self.trust,
            epoch: self.epoch,
            out: self.out,
        })?;
        Ok(image.display().to_string())
    }
}

/// Holds that a file is a trust root: what no gateway would pin must not be found out there.
fn check_root(file: &Path) -> Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    Chain::begin(bytes, &file.display().to_string())?;
    Ok(())
}

fn main() -> ExitCode {
    let told = match Cli::parse().command {
        Command::Snap(snap) => snap.run().context("no snap was made"),
        Command::Image(image) => image.run().context("no image was made"),
    };
    let written = match &told {
        Ok(path) => writeln!(std::io::stdout(), "{path}"),
        Err(error) => writeln!(std::io::stderr(), "edge-pack: {error:#}"),
    };
    match told {
        Ok(_) if written.is_ok() => ExitCode::SUCCESS,
        // As of `edge`: what was to be verified did not hold.
        Err(error) if error.is::<pack::image::LockDiffers>() => ExitCode::from(3),
        Err(error) if error.is::<pack::Usage>() || error.is::<config::Error>() => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}
