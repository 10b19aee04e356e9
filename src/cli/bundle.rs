//! `edge bundle`: makes signed bundles at a depot, and takes them in at a gateway.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::Value;

use super::Global;
use super::failure::Usage;
use super::output::{self, Format};
use super::progress;
use crate::bundle::{self, keys, remote};
use crate::daemon::bundle::{Create, Order, read_passphrase};
use crate::daemon::task::Task;
use crate::sys::clock;

/// `edge bundle`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge bundle keygen --out KEYS                                    at the depot, once
  edge bundle create --stream main --keys KEYS --to /media/stick   everything in the store, or what gateways lack
  edge bundle import /media/stick                                  at the gateway")]
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
    Inspect(At),
    /// Check signatures and every byte of a bundle
    Verify(Verify),
    /// Import a bundle: all of it, or nothing
    Import(At),
    /// List what was imported and can be gone back to
    History(History),
    /// Put an earlier generation in force
    Rollback(Rollback),
    /// Put a bundle into a registry, from where gateways or other depots pull it
    Push(Push),
    /// Fetch a bundle from a registry into a folder, as if it came on a stick
    Pull(Pull),
}

#[derive(Debug, Args)]
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
    /// Take only images of this platform
    #[arg(long = "platform", value_name = "PLATFORM")]
    platforms: Vec<String>,
    /// Receipts of gateways, which say what can be left out [default: those on the stick]
    #[arg(long, value_name = "DIR")]
    receipts: Option<PathBuf>,
    /// Leave nothing out
    #[arg(long)]
    full: bool,
    /// A gateway that may import it [default: all]
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
struct Verify {
    #[command(flatten)]
    at: At,
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

#[derive(Debug, Args)]
struct Registry {
    /// docker's config.json with credentials for the registry
    #[arg(long, value_name = "FILE")]
    docker_config: Option<PathBuf>,
    /// Speak plain HTTP
    #[arg(long)]
    insecure: bool,
}

#[derive(Debug, Args)]
struct Push {
    /// The stick, or the folder of one bundle on it
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Such as oci://registry.example.com/edge/main:latest
    #[arg(value_name = "oci://REF")]
    to: String,
    #[command(flatten)]
    registry: Registry,
}

#[derive(Debug, Args)]
struct Pull {
    /// Such as oci://registry.example.com/edge/main:latest
    #[arg(value_name = "oci://REF")]
    from: String,
    /// The folder that takes the stick's place
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    registry: Registry,
}

impl Bundle {
    pub fn run(&self, global: &Global) -> Result<()> {
        match &self.command {
            Command::Keygen(command) => command.run(),
            Command::Create(command) => command.run(global),
            Command::Inspect(at) => {
                let done = perform(global, Order::Inspect { folder: absolute(&at.folder)? })?;
                show(at.output, &done, inspected)
            }
            Command::Verify(command) => {
                let root = command.root.as_ref().map(std::path::absolute).transpose()?;
                let done = perform(global, Order::Verify { folder: absolute(&command.at.folder)?, root })?;
                show(command.at.output, &done, |done| {
                    let blobs = number(&done["totals"], "carried");
                    format!(
                        "{} is good: signatures hold, and all {blobs} blobs are what was signed",
                        title(done)
                    )
                })
            }
            Command::Import(at) => {
                let done = perform(global, Order::Import { folder: absolute(&at.folder)? })?;
                show(at.output, &done, imported)
            }
            Command::History(command) => {
                let done = perform(global, Order::History { stream: command.stream.clone() })?;
                show(command.output, &done, history)
            }
            Command::Rollback(command) => {
                let order = Order::Rollback { stream: command.stream.clone(), to: command.to };
                let done = perform(global, order)?;
                show(command.output, &done, |done| {
                    let (generation, name) = (number(done, "generation"), title(done));
                    format!(
                        "generation {generation} of stream `{}` is in force again: {name}",
                        text(done, "stream")
                    )
                })
            }
            Command::Push(command) => command.run(),
            Command::Pull(command) => command.run(),
        }
    }
}

impl Keygen {
    fn run(&self) -> Result<()> {
        let passphrase = self.passphrase_file.as_deref().map(read_passphrase).transpose();
        let passphrase = passphrase.map_err(|e| Usage(e.message))?;
        let plan = keys::Plan {
            root_keys: self.root_keys,
            threshold: self.threshold,
            expires: self.expires,
            created: Timestamp::from_second(clock::now().as_second())?,
        };
        let made = keys::generate(&self.out, &plan, passphrase.as_deref())?;
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
        let files: std::io::Result<Vec<PathBuf>> = self.files.iter().map(std::path::absolute).collect();
        let optional = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
        let create = Create {
            stream: self.stream.clone(),
            keys: absolute(&self.keys)?,
            passphrase_file: optional(&self.passphrase_file)?,
            to: absolute(&self.to)?,
            images: self.images.clone(),
            charts: self.charts.clone(),
            files: files?,
            platforms: self.platforms.clone(),
            receipts: optional(&self.receipts)?,
            full: self.full,
            gateways: self.gateways.clone(),
            fleets: self.fleets.clone(),
            not_after: self.not_after,
            notes: self.notes.clone(),
        };
        let done = perform(global, Order::Create(Box::new(create)))?;
        show(self.output, &done, |done| {
            let kind = if done["bases"].as_array().is_some_and(|bases| !bases.is_empty()) {
                "delta"
            } else {
                "full"
            };
            format!(
                "{}: {kind}, {} refs, {} blobs of {} carried, {} of {}\nread back; safe to remove",
                text(done, "folder"),
                number(done, "refs"),
                number(done, "carried"),
                number(done, "blobs"),
                output::size(number(done, "carriedBytes")),
                output::size(number(done, "bytes")),
            )
        })
    }
}

impl Push {
    fn run(&self) -> Result<()> {
        let folder = bundle::find_one(&self.folder)?;
        let pushed = progress::run(|progress| async move {
            let registry = remote::Registry::new(
                &self.to,
                self.registry.docker_config.as_deref(),
                self.registry.insecure,
            )?;
            remote::push(&registry, &folder, &progress).await
        })?;
        output::result(&format!("{} is {pushed}", self.to))
    }
}

impl Pull {
    fn run(&self) -> Result<()> {
        let pulled = progress::run(|progress| async move {
            let registry = remote::Registry::new(
                &self.from,
                self.registry.docker_config.as_deref(),
                self.registry.insecure,
            )?;
            remote::pull(&registry, &self.to, &progress).await
        })?;
        output::result(&format!("{}\nnow: edge bundle import {}", pulled.display(), self.to.display()))
    }
}

/// Has an order done, here or by the daemon.
pub fn perform(global: &Global, order: Order) -> Result<Value> {
    progress::perform(&global.load()?, Task::Bundle { order })
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

/// A day, which lasts until its end (UTC), or a time.
pub fn date(given: &str) -> Result<Timestamp, String> {
    if let Ok(time) = given.parse::<Timestamp>() {
        return Ok(time);
    }
    format!("{given}T23:59:59Z").parse().map_err(|_| "expected a day such as `2027-12-31`".into())
}

fn number(of: &Value, key: &str) -> u64 {
    of[key].as_u64().unwrap_or(0)
}

fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of[key].as_str().unwrap_or_default()
}

fn title(of: &Value) -> String {
    format!("{}-{}", text(of, "stream"), number(of, "seq"))
}

fn remarks(of: &Value, key: &str) -> Vec<String> {
    of[key].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn imported(done: &Value) -> String {
    let mut out = match done["generation"].as_u64() {
        Some(generation) => format!(
            "{} is in force as generation {generation}: {} refs; {} blobs came, {}\n",
            title(done),
            number(done, "refs"),
            number(done, "blobs"),
            output::size(number(done, "bytes")),
        ),
        None => format!("{}:\n", title(done)),
    };
    for remark in remarks(done, "remarks") {
        let _ = writeln!(out, "{remark}");
    }
    if let Some(receipt) = done["receipt"].as_str() {
        let _ = writeln!(out, "receipt: {receipt}");
    }
    out
}

fn history(done: &Value) -> String {
    let header = ["STREAM", "GENERATION", "SEQ", "CREATED", "BLOBS", "SIZE", "IN FORCE", "NOTES"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for entry in done.as_array().into_iter().flatten() {
        rows.push(vec![
            text(entry, "stream").into(),
            number(entry, "generation").to_string(),
            number(entry, "seq").to_string(),
            text(entry, "created").into(),
            number(entry, "blobs").to_string(),
            output::size(number(entry, "bytes")),
            if entry["current"] == true { "yes" } else { "" }.into(),
            text(entry, "notes").into(),
        ]);
    }
    output::columns(&rows)
}

fn inspected(done: &Value) -> String {
    let manifest = &done["manifest"];
    let totals = &manifest["totals"];
    let mut out = String::new();
    let mut line = |name: &str, what: String| {
        if !what.is_empty() {
            let _ = writeln!(out, "{name:<12}{what}");
        }
    };
    line("Bundle", title(manifest));
    let refused = done["refused"].as_str();
    line(
        "Signatures",
        match refused {
            None => format!("hold, by root version {}", number(manifest, "root")),
            Some(why) => format!("NOT VERIFIED: {why}"),
        },
    );
    line("Created", text(manifest, "created").into());
    line("Not after", text(manifest, "not-after").into());
    let audience = &manifest["audience"];
    let named = ["gateways", "fleets", "platforms"].map(|key| remarks(audience, key)).concat().join(", ");
    line("For", if named.is_empty() { "everybody".into() } else { named });
    line("Notes", text(manifest, "notes").into());
    let (carried, blobs) = (number(totals, "carried"), number(totals, "blobs"));
    let sizes = (output::size(number(totals, "carried-bytes")), output::size(number(totals, "bytes")));
    line("Carries", format!("{carried} of {blobs} blobs, {} of {}", sizes.0, sizes.1));
    if refused.is_none() {
        let here = match done["inForce"] == true {
            true => "is in force already".into(),
            false => format!(
                "would bring {} blobs, {}",
                number(done, "missing"),
                output::size(number(done, "missingBytes"))
            ),
        };
        line("Import", here);
    }
    for (sign, key) in [("+", "added"), ("~", "changed"), ("-", "removed")] {
        for name in remarks(done, key) {
            let _ = writeln!(out, "  {sign} {name}");
        }
    }
    out
}
