//! `edge bundle`: makes signed bundles at a depot, and takes them in at a gateway.

mod registry;
mod said;

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::Value;

use super::Global;
use super::failure::Usage;
use super::output::{self, Format};
use super::progress;
use crate::bundle::{Riding, keys};
use crate::daemon::bundle::{Create, Order, read_passphrase};
use crate::daemon::task::Task;
use crate::sys::clock;

/// `edge bundle`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge bundle keygen --out KEYS      at the depot, once
  edge bundle create --stream main --keys KEYS --to /media/stick
  edge bundle import /media/stick    at the gateway")]
pub struct Bundle {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a depot's keys: the roots' and the one that signs bundles
    Keygen(Keygen),
    /// Make a bundle on a stick
    Create(Box<Make>),
    /// Tell what a bundle holds, who signed it, and what importing it would change
    Inspect(Inspect),
    /// Check signatures and every byte of a bundle
    Verify(Verify),
    /// Take one file that rides along out of a bundle, verified
    Extract(Extract),
    #[command(after_help = "Examples:
  edge bundle import /media/stick
  edge bundle import /media/stick/edge-bundle/main-1")]
    /// Import a bundle: all of it, or nothing
    Import(At),
    /// List what was imported and can be gone back to
    History(History),
    /// Put an earlier generation in force
    Rollback(Rollback),
    /// Put a bundle into a registry, from where gateways or other depots pull it
    Push(registry::Push),
    /// Fetch a bundle from a registry into a folder, as if it came on a stick
    Pull(registry::Pull),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge bundle keygen --out KEYS
  edge bundle keygen --out KEYS --root-keys 1 --threshold 1")]
struct Keygen {
    /// The folder to make
    #[arg(long, value_name = "KEYS")]
    out: PathBuf,
    /// Keys that sign roots
    #[arg(long, value_name = "N", default_value = "3")]
    root_keys: u32,
    /// How many of them a root needs
    #[arg(long, value_name = "N", default_value = "2")]
    threshold: u32,
    /// When the root expires
    #[arg(long, value_name = "DATE", value_parser = date)]
    expires: Option<Timestamp>,
    /// A file whose first line encrypts the keys
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge bundle create --stream main --keys KEYS --to /media/stick
  edge bundle create --stream main --keys KEYS --to /media/stick --full
  edge bundle create --stream main --keys KEYS --to DIR --for ship-7 --for ship-8")]
struct Make {
    /// Whose refs these are; a gateway may follow several streams
    #[arg(long, value_name = "NAME")]
    stream: String,
    /// The depot's keys
    #[arg(long, value_name = "KEYS")]
    keys: PathBuf,
    /// The top of the stick
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// An image; can be given several times [default: everything in the store]
    #[arg(long = "image", value_name = "REF")]
    images: Vec<String>,
    /// A chart, all versions if none is given
    #[arg(long = "chart", value_name = "NAME[:VERSION]")]
    charts: Vec<String>,
    /// A file that rides along, such as edge's own snap
    #[arg(long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// The system of an appliance that rides along: the folder `….system` that `edge-pack image` made
    #[arg(long, value_name = "DIR")]
    system: Option<PathBuf>,
    /// Take only images of this platform
    #[arg(long = "platform", value_name = "PLATFORM")]
    platforms: Vec<String>,
    /// Receipts of gateways, which say what can be left out [default: those on the stick]
    #[arg(long, value_name = "DIR")]
    receipts: Option<PathBuf>,
    /// Leave nothing out
    #[arg(long)]
    full: bool,
    /// A gateway that may import it; can be given several times [default: all]
    #[arg(long = "for", value_name = "GATEWAY")]
    gateways: Vec<String>,
    /// A fleet that may import it [default: all]
    #[arg(long = "fleet", value_name = "FLEET")]
    fleets: Vec<String>,
    /// The last day on which it may be imported
    #[arg(long, value_name = "DATE", value_parser = date)]
    not_after: Option<Timestamp>,
    /// A line for whoever imports it
    #[arg(long, value_name = "TEXT", default_value = "")]
    notes: String,
    /// A file whose first line opens the keys
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// How to write the result
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Debug, Args)]
struct At {
    /// The stick, or the folder of one bundle on it
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// How to write the result
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge bundle inspect /media/stick
  edge bundle inspect /media/stick --root KEYS/1.root.json

What is new on this gateway has a `+`, what would stand for something else a `~`, and what would go a `-`. A size is that of
all that a name needs, also where others need it too.")]
struct Inspect {
    #[command(flatten)]
    at: At,
    /// Believe this root instead of the pinned one, whoever the bundle is for; nothing is said of what it would change
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge bundle verify /media/stick
  edge bundle verify /media/stick --root KEYS/1.root.json")]
struct Verify {
    #[command(flatten)]
    at: At,
    /// Believe this root instead of the pinned one, whoever the bundle is for
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge bundle extract /media/stick edge_2.0_arm64.snap --to /var/tmp/
  edge bundle extract /media/stick site.conf --to /etc/site.conf --root 1.root.json

What an import would refuse is refused here too. `edge bundle inspect` lists the files.")]
struct Extract {
    #[command(flatten)]
    at: At,
    /// The file's name in the bundle
    #[arg(value_name = "NAME")]
    name: String,
    /// Where it goes: a file that is not there yet, or a folder
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// Believe this root instead of the pinned one, whoever the bundle is for
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct History {
    /// Only this stream
    #[arg(value_name = "STREAM")]
    stream: Option<String>,
    /// How to write the result
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge bundle rollback
  edge bundle rollback main --to 1")]
struct Rollback {
    /// Which stream, where there are several
    #[arg(value_name = "STREAM")]
    stream: Option<String>,
    /// To which generation [default: the one before]
    #[arg(long, value_name = "GENERATION")]
    to: Option<u64>,
    /// How to write the result
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Bundle {
    pub fn run(&self, global: &Global) -> Result<()> {
        match &self.command {
            Command::Keygen(command) => command.run(),
            Command::Create(command) => command.run(global),
            Command::Inspect(command) => {
                let root = command.root.as_ref().map(std::path::absolute).transpose()?;
                let done = perform(global, Order::Inspect { folder: absolute(&command.at.folder)?, root })?;
                show(command.at.output, &done, said::inspected)?;
                if done["spoiled"] == true { Err(output::Exit(3).into()) } else { Ok(()) }
            }
            Command::Verify(command) => {
                let root = command.root.as_ref().map(std::path::absolute).transpose()?;
                let done = perform(global, Order::Verify { folder: absolute(&command.at.folder)?, root })?;
                show(command.at.output, &done, said::verified)
            }
            Command::Extract(command) => {
                let root = command.root.as_ref().map(std::path::absolute).transpose()?;
                let order = Order::Extract {
                    folder: absolute(&command.at.folder)?,
                    name: command.name.clone(),
                    to: absolute(&command.to)?,
                    root,
                };
                show(command.at.output, &perform(global, order)?, said::extracted)
            }
            Command::Import(at) => {
                let done = perform(global, Order::Import { folder: absolute(&at.folder)? })?;
                show(at.output, &done, said::imported)?;
                // Only now: whoever asked has read what came of it.
                if done["reboot"] == true { Ok(crate::system::reboot()?) } else { Ok(()) }
            }
            Command::History(command) => {
                let done = perform(global, Order::History { stream: command.stream.clone() })?;
                if command.output == Format::Text && done.as_array().is_some_and(Vec::is_empty) {
                    output::note("no bundles");
                    return Ok(());
                }
                show(command.output, &done, said::history)
            }
            Command::Rollback(command) => {
                let order = Order::Rollback { stream: command.stream.clone(), to: command.to };
                let done = perform(global, order)?;
                show(command.output, &done, said::rolled_back)
            }
            Command::Push(command) => command.run(global),
            Command::Pull(command) => command.run(global),
        }
    }
}

impl Keygen {
    fn run(&self) -> Result<()> {
        let passphrase = self.passphrase_file.as_deref().map(read_passphrase).transpose();
        let passphrase = passphrase.map_err(|e| Usage(e.message))?;
        still_to_come("--expires", self.expires)?;
        let plan = keys::Plan {
            root_keys: self.root_keys,
            threshold: self.threshold,
            expires: self.expires,
            created: Timestamp::from_second(clock::now().as_second())?,
        };
        let made = keys::generate(&self.out, &plan, passphrase.as_deref())?;
        if std::fs::metadata(&self.out)?.permissions().mode() & 0o022 != 0 {
            output::note(&format!(
                "others may write to `{}`, and could take the keys away hint: keep them in a folder of your own",
                self.out.display()
            ));
        }
        let mut said: String = made.iter().map(|path| format!("{}\n", path.display())).collect();
        let _ = write!(
            said,
            "pin `1.root.json` on each gateway; keep the root keys apart from this depot: {} of {} can change everything",
            self.threshold, self.root_keys
        );
        output::result(&said)
    }
}

impl Make {
    fn run(&self, global: &Global) -> Result<()> {
        still_to_come("--not-after", self.not_after)?;
        let files: std::io::Result<Vec<PathBuf>> = self.files.iter().map(std::path::absolute).collect();
        let files = files?.into_iter().map(Riding::from).collect();
        let optional = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
        let create = Create {
            stream: self.stream.clone(),
            keys: absolute(&self.keys)?,
            passphrase_file: optional(&self.passphrase_file)?,
            to: absolute(&self.to)?,
            images: self.images.clone(),
            charts: self.charts.clone(),
            files,
            platforms: self.platforms.clone(),
            receipts: optional(&self.receipts)?,
            full: self.full,
            gateways: self.gateways.clone(),
            fleets: self.fleets.clone(),
            not_after: self.not_after,
            notes: self.notes.clone(),
            system: optional(&self.system)?,
        };
        let done = perform(global, Order::Create(Box::new(create)))?;
        show(self.output, &done, said::made)
    }
}

/// Has an order done, here or by the daemon.
pub fn perform(global: &Global, order: Order) -> Result<Value> {
    progress::perform(&global.in_force()?, Task::Bundle { order })
}

/// Writes a result as it is asked for.
pub fn show(format: Format, done: &Value, text: impl Fn(&Value) -> String) -> Result<()> {
    match format {
        Format::Json => output::json(done),
        Format::Text => output::result(&text(done)),
    }
}

fn absolute(path: &std::path::Path) -> Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}

/// Refuses an end that has passed already: nobody could use what is made.
pub fn still_to_come(flag: &str, end: Option<Timestamp>) -> Result<(), Usage> {
    match end.filter(|end| *end <= clock::now()) {
        None => Ok(()),
        Some(end) => {
            Err(Usage(format!("{flag} is {end}, which has passed hint: give a day that is still to come")))
        }
    }
}

/// A day, which lasts until its end (UTC), or a time.
pub fn date(given: &str) -> Result<Timestamp, String> {
    if let Ok(time) = given.parse::<Timestamp>() {
        return Ok(time);
    }
    format!("{given}T23:59:59Z").parse().map_err(|_| "expected a day such as `2027-12-31`".into())
}
