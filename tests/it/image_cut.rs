//! Power cuts of a whole appliance whose disk loses what was not flushed, its EFI system partition's writes among it: in
//! updates, in the boots after them, in a first boot and in a reset. Each is a real boot; long, and of `scripts/test --long`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::image::{BOOT, HEALTHY, Workshop, made};
use crate::image_update::{FALLBACK, IMPORT, bundled, plug, states, system};
use crate::support::vm::{Cable, Disk, Vm};

/// systemd's first line on the console.
const SYSTEMD: &str = "Welcome to";
/// How many times the plug is pulled during updates; `EDGE_VM_CUTS` says another number.
const CUTS: u32 = 20;

/// Numbers between 0 and 1, from a seed that is told: the same seed cuts at the same places.
struct Luck(u64);

impl Luck {
    #[allow(clippy::print_stdout, reason = "a test says what it drew")]
    fn new() -> Result<Self> {
        let seed = match std::env::var("EDGE_VM_SEED") {
            Ok(seed) => seed.parse().context("EDGE_VM_SEED")?,
            Err(_) => std::time::UNIX_EPOCH.elapsed()?.as_millis().try_into()?,
        };
        println!("EDGE_VM_SEED={seed}");
        Ok(Self(seed))
    }

    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 32).unwrap_or_default()) / f64::from(u32::MAX)
    }

    /// Every second cut loses all that was not flushed, each other one only some of it.
    fn scattered(&self, round: u32) -> Option<u64> {
        (round % 2 == 1).then_some(self.0)
    }
}

/// The systems that updates go between.
struct Systems<'a> {
    workshop: &'a Workshop,
    folders: [PathBuf; 2],
    /// Their hash trees, as `edge system status` tells them.
    ids: [String; 2],
    /// What a stick brings, and which of both.
    stick: Option<(PathBuf, usize)>,
}

impl<'a> Systems<'a> {
    fn new(workshop: &'a Workshop) -> Result<Self> {
        let folders = [system(workshop, "2.3", &[])?, system(workshop, "2.4", &[])?];
        let id = |folder: &Path| -> Result<String> {
            Ok(described(folder)?["verity-uuid"].as_str().context("no id")?.to_owned())
        };
        let ids = [id(&folders[0])?, id(&folders[1])?];
        Ok(Self { workshop, folders, ids, stick: None })
    }

    /// Has a stick that brings another system than the one that runs.
    fn other_than(&mut self, running: &str) -> Result<&Path> {
        let other = usize::from(self.ids[0] == running);
        if self.stick.as_ref().is_none_or(|(_, on_it)| *on_it != other) {
            let name = if other == 0 { "cut-0" } else { "cut-1" };
            self.stick = Some((bundled(self.workshop, name, &self.folders[other])?, other));
        }
        self.stick.as_ref().map(|(path, _)| path.as_path()).context("no stick")
    }

    /// Bytes that an update of it writes.
    fn size(&self) -> Result<u64> {
        let files = described(&self.folders[0])?["files"].clone();
        Ok(files.as_object().context("no files")?.values().filter_map(|file| file["size"].as_u64()).sum())
    }
}

fn described(system: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(system.join("system.json"))?)?)
}

/// Waits until the machine has written so many bytes more, or the import has ended. What is written is read back in between:
/// nothing is written then, and on a machine beside others for minutes.
fn wait_written(machine: &mut Vm, from: u64, more: u64) -> Result<()> {
    let mut asked = Instant::now();
    loop {
        if machine.written()?.saturating_sub(from) >= more {
            return Ok(());
        }
        if asked.elapsed() > Duration::from_secs(10) {
            if machine.run("cat /run/imported 2>/dev/null || :")? == "over\n" {
                return Ok(());
            }
            asked = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "boots a machine thirty times"]
fn a_power_cut_at_any_moment_of_an_update_leaves_a_system_that_boots() -> Result<()> {
    let cuts = std::env::var("EDGE_VM_CUTS").ok().map(|cuts| cuts.parse()).transpose()?.unwrap_or(CUTS);
    let (workshop, image) = made();
    let mut systems = Systems::new(workshop)?;
    let size = systems.size()?;
    let mut machine = workshop.machine("cut", image, Cable::Lonely)?;
    machine.kind = Disk::Cached;
    let stick = systems.other_than("")?.to_owned();
    plug(&mut machine, &stick)?;
    let plugged = machine.disk().with_file_name("stick.img");
    machine.start()?;
    let mut boot = machine.wait(" is good (", BOOT)?;
    let (mut luck, mut seen, mut lost) = (Luck::new()?, BTreeMap::<String, u32>::new(), 0);
    for round in 0..cuts {
        let status: Value = serde_json::from_str(&machine.run("edge system status -o json")?)?;
        let running = |status: &Value| -> Result<String> {
            let slots = status["slots"].as_array().context("no slots")?;
            let booted = slots.iter().find(|slot| slot["booted"] == true).context("none is booted")?;
            Ok(booted["verity"].as_str().context("no id")?.to_owned())
        };
        let before = running(&status)?;
        // The same device with another stick in it.
        let stick = systems.other_than(&before)?;
        let copied = Command::new("cp").arg("--sparse=always").arg(stick).arg(&plugged).status()?;
        ensure!(copied.success(), "cannot change the stick");
        let from = machine.written()?;
        machine.run(&format!(
            "blockdev --flushbufs /dev/vdb; ({IMPORT}; echo over >/run/imported) >/run/import 2>&1 &"
        ))?;
        // Half of the cuts fall into all of the update, the others into its end, where the boot entry is written, or after it:
        // more than all is never written, but the end of the import is waited for.
        let part = if round % 4 < 2 { luck.next() } else { 0.9 + 0.2 * luck.next() };
        wait_written(&mut machine, from, (size as f64 * part) as u64)?;
        std::thread::sleep(Duration::from_secs_f64(3.0 * luck.next() * f64::from(round % 2)));
        let cut = machine.cut(luck.scattered(round))?;
        lost += cut.lost;
        let mut told = format!("round {round}, cut at {part:.2}: {cut:?}");
        machine.start()?;
        // And in every second one the boot that follows is cut as well.
        if round % 2 == 0 {
            let moment = boot.mul_f64(1.1 * luck.next());
            let until = Instant::now() + moment;
            while Instant::now() < until {
                std::thread::sleep(Duration::from_millis(50));
            }
            told +=
                &format!("; again {moment:?} into its boot: {:?}", machine.cut(luck.scattered(round / 2))?);
            machine.start()?;
        }
        boot = machine.wait(" is good (", FALLBACK).context(told.clone())?;
        let status: Value = serde_json::from_str(&machine.run("edge system status -o json")?)?;
        let after = running(&status)?;
        let states = states(&mut machine)?;
        let booted = status["booted"].as_str().context("no slot")?;
        let state = &states[usize::from(booted == "b")];
        assert_eq!(state, "good", "{told}: {status}");
        assert!(after == before || systems.ids.contains(&after), "{told}: {status}");
        // What is said to be staged is all there.
        let other = if booted == "a" { "b" } else { "a" };
        if states[usize::from(booted == "a")] == "staged" {
            let file = &described(&systems.folders[systems.stick.as_ref().map_or(0, |stick| stick.1)])?["files"]
                ["root.erofs"];
            let (size, digest) = (&file["size"], file["digest"].as_str().context("no digest")?);
            let read = machine.run(&format!("head -c {size} /dev/disk/edge/root_{other} | sha256sum"))?;
            assert_eq!(digest.strip_prefix("sha256:"), read.split(' ').next(), "{told}");
        }
        let outcome = if after == before { "the old" } else { "the new" };
        println!("{told}: {outcome}, {states:?}, healthy after {boot:?}");
        *seen.entry(outcome.to_owned()).or_default() += 1;
    }
    println!("{seen:?}");
    println!("{lost} writes were lost");
    // Cuts that all fell on one side, or cost nothing, would show nothing.
    assert!(cuts < CUTS || (seen.len() == 2 && lost > 0), "{seen:?}");
    Ok(())
}

/// The first boot makes the data, takes the configuration and imports what came with the image; a reset does it anew.
#[test]
#[ignore = "boots a machine twelve times"]
fn a_power_cut_in_a_first_boot_or_a_reset_costs_nothing_but_that_boot() -> Result<()> {
    let (workshop, image) = made();
    let mut machine = workshop.machine("first-cut", image, Cable::Lonely)?;
    machine.kind = Disk::Cached;
    let mut luck = Luck::new()?;
    machine.start()?;
    // From here on a boot does what counts.
    machine.wait(SYSTEMD, BOOT)?;
    let mut span = Duration::from_secs(30);
    for step in ["a first boot", "a reset"] {
        for round in 0..4 {
            // More cuts than an entry has tries: the only system is started all the same.
            let moment = span.mul_f64(luck.next());
            std::thread::sleep(moment);
            let lost = machine.cut(luck.scattered(round))?;
            println!("{step}, cut {moment:?} after the initrd: {lost:?}");
            machine.start()?;
            machine.wait(SYSTEMD, FALLBACK).with_context(|| format!("{step}, {moment:?}, {lost:?}"))?;
        }
        let begun = Instant::now();
        machine.wait(HEALTHY, FALLBACK).context(step)?;
        span = begun.elapsed();
        let told = machine
            .run("ls /identity; cat /etc/edge/edge.toml; edge bundle history -o json; cat /etc/machine-id")?;
        for part in ["data-ready", "trust.json", "gateway = \"ship-7\"", "\"main\""] {
            assert!(told.contains(part), "{step}: {part}: {told}");
        }
        assert!(!told.contains("factory-reset"), "{step}: {told}");
        machine.wait("GREETING from greeter", BOOT).context(step)?;
        if step == "a first boot" {
            machine.run("touch /var/lib/edge/kept && edge system reset --yes")?;
            machine.cut(None)?;
            machine.start()?;
            machine.wait(SYSTEMD, BOOT)?;
        } else {
            assert_eq!(machine.run("test -e /var/lib/edge/kept || echo gone")?, "gone\n");
        }
    }
    Ok(())
}
