//! `edge trust`: whose bundles and receipts are believed, and the ceremonies that change it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Global;
use super::bundle::{date, perform, show, still_to_come};
use super::failure::Usage;
use super::output::{self, Format};
use crate::bundle::keys;
use crate::daemon::bundle::{Order, read_passphrase};
use crate::sys::{clock, durable};
use crate::trust::{Draft, PublicKey, RoleName, Root, SecretKey, read_root_file, root_file_name};

/// `edge trust`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge trust pin 1.root.json                                     at the gateway, once
  edge trust enrol edge-receipts/ship-7.main.dsse                at the depot, once for each gateway
  edge trust rotate --keys KEYS --bundle-key NEW/bundle.pub      writes the next root, unsigned
  edge trust sign KEYS/2.root.json --key root-1.key              on each machine that has a root key")]
pub struct Trust {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Believe a depot's root; another one is refused from then on
    Pin(Pin),
    /// Show what is believed, or what a root file says and who has signed it
    Show(Show),
    /// Sign a root file with one key
    Sign(Sign),
    /// Write the next root, to be signed
    Rotate(Rotate),
    /// Believe the receipts of a gateway
    Enrol(Enrol),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  edge trust pin 1.root.json")]
struct Pin {
    /// `1.root.json`, or a later one
    #[arg(value_name = "ROOT")]
    file: PathBuf,
}

#[derive(Debug, Args)]
struct Show {
    /// A root file instead of what is pinned here
    #[arg(value_name = "ROOT")]
    file: Option<PathBuf>,
    /// How to write the result
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  edge trust sign KEYS/2.root.json --key root-1.key")]
struct Sign {
    /// The root file; the signature is added to it
    #[arg(value_name = "ROOT")]
    file: PathBuf,
    /// The key
    #[arg(long, value_name = "KEY")]
    key: PathBuf,
    /// A file whose first line opens the key
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge trust rotate --keys KEYS --bundle-key NEW/bundle.pub
  edge trust rotate --keys KEYS --expires 2030-12-31")]
struct Rotate {
    /// The depot's folder of keys, with every root so far
    #[arg(long, value_name = "KEYS")]
    keys: PathBuf,
    /// A public key that signs roots from then on
    #[arg(long = "add-root-key", value_name = "PUB")]
    add: Vec<String>,
    /// A root key that no longer does, by the beginning of its name
    #[arg(long = "drop-root-key", value_name = "NAME")]
    drop: Vec<String>,
    /// How many root keys must sign
    #[arg(long, value_name = "N")]
    threshold: Option<u32>,
    /// A public key that signs bundles from then on, in place of those before
    #[arg(long = "bundle-key", value_name = "PUB")]
    bundle: Vec<String>,
    /// When the root expires [default: as before]
    #[arg(long, value_name = "DATE", value_parser = date)]
    expires: Option<Timestamp>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  edge trust enrol /media/stick/edge-receipts/ship-7.main.dsse")]
struct Enrol {
    /// A receipt of the gateway's, from its own stick
    #[arg(value_name = "RECEIPT")]
    receipt: PathBuf,
}

impl Trust {
    pub fn run(&self, global: &Global) -> Result<()> {
        match &self.command {
            Command::Pin(command) => {
                let done = perform(global, Order::Pin { file: std::path::absolute(&command.file)? })?;
                output::result(&format!("root version {} is pinned", done["root"]["version"]))
            }
            Command::Show(command) => match &command.file {
                Some(file) => show(command.output, &describe(file)?, described),
                None => show(command.output, &perform(global, Order::Show)?, pinned),
            },
            Command::Sign(command) => command.run(),
            Command::Rotate(command) => command.run(),
            Command::Enrol(command) => {
                let order = Order::Enrol { receipt: std::path::absolute(&command.receipt)? };
                let done = perform(global, order)?;
                let word = |key: &str| done[key].as_str().unwrap_or_default().to_owned();
                output::result(&format!(
                    "gateway `{}` is enrolled with the key {}",
                    word("gateway"),
                    word("key")
                ))
            }
        }
    }
}

impl Sign {
    fn run(&self) -> Result<()> {
        let passphrase = self.passphrase_file.as_deref().map(read_passphrase).transpose();
        let key = SecretKey::read(&self.key, passphrase.map_err(|e| Usage(e.message))?.as_deref())?;
        let mut draft = read(&self.file)?;
        let before = previous(&self.file, &draft.root);
        let id = key.public().id();
        let may = |root: &Root| root.keys(RoleName::Root).contains_key(&id);
        if !may(&draft.root) && !before.as_ref().is_some_and(may) {
            return Err(
                Usage(format!("the key {id} is no root key of this root, nor of the one before it")).into()
            );
        }
        // A root may be out already: each of its signatures is kept as it is.
        if std::iter::once(&draft.root).chain(&before).any(|by| draft.signers(by).contains(&id)) {
            output::note(&format!("`{}` has the signature of this key already", self.file.display()));
            return output::result(&described(&describe(&self.file)?));
        }
        draft.envelope_mut().sign(&key)?;
        durable::write(&self.file, &draft.to_bytes(), 0o644)?;
        output::result(&described(&describe(&self.file)?))
    }
}

impl Rotate {
    fn run(&self) -> Result<()> {
        still_to_come("--expires", self.expires)?;
        let chain = keys::read_chain(&self.keys)?;
        let public = |given: &Vec<String>| -> Result<Vec<PublicKey>> {
            Ok(given.iter().map(|text| keys::read_public(text)).collect::<Result<_, _>>()?)
        };
        let rotation = keys::Rotation {
            add_root: public(&self.add)?,
            drop_root: self.drop.clone(),
            threshold: self.threshold,
            bundle: public(&self.bundle)?,
            expires: self.expires,
        };
        let draft = keys::next_root(&chain, &rotation, clock::now())?;
        let path = self.keys.join(root_file_name(draft.root.version));
        if path.exists() {
            return Err(
                Usage(format!("`{}` is there already hint: sign it, or remove it", path.display())).into()
            );
        }
        durable::write(&path, &draft.to_bytes(), 0o644)?;
        output::result(&format!("{}\n{}", path.display(), described(&describe(&path)?)))
    }
}

fn read(file: &Path) -> Result<Draft> {
    let bytes = read_root_file(file)?;
    Ok(Draft::read(&bytes, &file.display().to_string())?)
}

/// The root before, where it lies beside.
fn previous(file: &Path, root: &Root) -> Option<Root> {
    let path = file.with_file_name(root_file_name(root.version.checked_sub(1)?));
    read(&path).ok().map(|draft| draft.root)
}

/// What a root file says, and which signatures it still needs.
fn describe(file: &Path) -> Result<Value> {
    let draft = read(file).with_context(|| format!("cannot show `{}`", file.display()))?;
    let root = &draft.root;
    let state = |by: &Root| {
        let signed: Vec<String> = draft.signers(by).iter().map(|id| id.as_str().to_owned()).collect();
        json!({"version": by.version, "needed": by.role(RoleName::Root).threshold, "signed": signed})
    };
    let mut by = vec![state(root)];
    by.extend(previous(file, root).as_ref().map(state));
    Ok(json!({
        "version": root.version,
        "created": root.created,
        "expires": root.expires,
        "root": root.role(RoleName::Root),
        "bundle": root.role(RoleName::Bundle),
        "signatures": by,
    }))
}

fn described(done: &Value) -> String {
    let mut out = root(done);
    for by in done["signatures"].as_array().into_iter().flatten() {
        let signed = by["signed"].as_array().map_or(0, Vec::len) as u64;
        let needed = by["needed"].as_u64().unwrap_or(0);
        let word = if signed >= needed { "enough" } else { "NOT ENOUGH" };
        out += &format!(
            "Signed      by {signed} of the {needed} needed keys of version {}: {word}\n",
            by["version"]
        );
    }
    out
}

fn root(root: &Value) -> String {
    let mut out = format!("Root        version {}\n", root["version"]);
    let expires = root["expires"].as_str().unwrap_or("never");
    out += &format!("Expires     {expires}\n");
    for (name, key) in [("Root keys", "root"), ("Bundle keys", "bundle")] {
        let keys = root[key]["keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let short: Vec<&str> = keys.map(|id| id.get(..16).unwrap_or(id)).collect();
        out += &format!("{name:<12}{} of {}\n", root[key]["threshold"], short.join(" "));
    }
    out
}

fn pinned(done: &Value) -> String {
    let mut out = match done["root"].is_null() {
        true => "no root is pinned\n".to_owned(),
        false => root(&done["root"]),
    };
    for gateway in done["gateways"].as_array().into_iter().flatten() {
        let word = |key: &str| gateway[key].as_str().unwrap_or_default().to_owned();
        let key = word("key");
        out += &format!("Gateway     {} with the key {}\n", word("gateway"), key.get(..16).unwrap_or(&key));
    }
    out
}
