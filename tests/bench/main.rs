//! Figures of edge on a real cluster, each beside the same thing without edge in the same run. Prints them beside what
//! they should be, and says which miss it; with `--check` that fails the run, else only a part that does not work does.
//!
//! `bench [--long] [--check] [NAME...]`, with `latency`, `list`, `memory`, `objects`, `clients`, `idle`, `reboot`, `network`, `pods`, `image` as names; see `scripts/bench`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a run that cannot go on ends")]
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::exit, reason = "this is a command")]
#![allow(
    clippy::disallowed_methods,
    reason = "times of a benchmark are monotonic, its files need not be durable"
)]

mod client;
mod clients;
mod idle;
mod image;
#[path = "../it/incluster_flannel.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod incluster_flannel;
mod latency;
mod list;
mod memory;
mod network;
#[path = "../it/network_scene.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod network_scene;
mod objects;
mod pods;
mod reading;
mod reboot;
mod rig;
#[path = "../support/mod.rs"]
mod support;
mod table;

use anyhow::{Result, ensure};

use table::Table;

/// What can be measured, in the order in which it is.
const NAMES: [&str; 9] =
    ["latency", "list", "memory", "objects", "clients", "reboot", "network", "pods", "idle"];
/// What is measured only where it is asked for by name: `scripts/bench.d` prepares it.
const PREPARED: [&str; 1] = ["image"];

fn main() {
    let (flags, names): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
    let long = flags.iter().any(|flag| flag == "--long");
    if let Err(error) = run(long, &flags, &names) {
        eprintln!("bench: {error:#}");
        std::process::exit(1);
    }
}

fn run(long: bool, flags: &[String], names: &[String]) -> Result<()> {
    let known = |flag: &String| ["--long", "--check"].contains(&flag.as_str());
    ensure!(flags.iter().all(known), "unknown flag hint: --long, --check");
    for name in names {
        let known = NAMES.iter().chain(&PREPARED).any(|known| known == name);
        ensure!(known, "no figure `{name}` hint: one of {}", NAMES.join(", "));
    }
    let mut table = Table::default();
    if names.iter().any(|name| name == "image") {
        image::measure(&mut table)?;
    }
    for name in NAMES {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        match name {
            "latency" => latency::measure(&mut table)?,
            "list" => list::measure(&mut table)?,
            "memory" => memory::measure(&mut table)?,
            "objects" => objects::measure(&mut table)?,
            "clients" => clients::measure(&mut table)?,
            "pods" => pods::measure(&mut table)?,
            "network" => network::measure(&mut table)?,
            "idle" => idle::measure(&mut table, long)?,
            _ => reboot::measure(&mut table)?,
        }
    }
    table.print();
    let missed = table.missed();
    ensure!(
        missed == 0 || !flags.iter().any(|flag| flag == "--check"),
        "{missed} of the figures miss their targets"
    );
    Ok(())
}
