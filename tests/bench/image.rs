//! The appliance image: how large it is, how long it takes to make and to boot, and what it takes of memory.
//!
//! `scripts/bench.d/image` makes the images and says where they are; see there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::vm::{Arch, Cable, Vm};
use crate::table::{Table, median};

/// Megabytes of the compressed image, as a link counts them.
const MOST: f64 = 220.0;

pub fn measure(table: &mut Table) -> Result<()> {
    let folder = std::env::var_os("EDGE_BENCH_IMAGES").map(PathBuf::from);
    let folder = folder.context("no image to measure hint: scripts/bench image makes it")?;
    let seconds = std::fs::read_to_string(folder.join("seconds")).context("no `seconds`")?;
    let size = std::fs::metadata(folder.join("edge.img.zst"))?.len() as f64 / 1e6;
    table.add(
        "image, zstd -3",
        "-",
        &format!("{size:.0} MB"),
        &format!("{size:.0} MB"),
        &format!("<= {MOST:.0} MB"),
    );
    let seconds = seconds.trim();
    table.add("image, made in", "-", &format!("{seconds} s"), &format!("{seconds} s"), "<= 180 s");
    let (mut with, mut without, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    // As of the other figures that take long: RUNS alternating runs, 3 unless set.
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3_usize);
    for _ in 0..runs {
        without.push(boot(&folder, "masked.img")?.1.as_secs_f64());
        let (mut machine, took) = boot(&folder, "edge.img")?;
        with.push(took.as_secs_f64());
        memory.push(used(&mut machine)?);
    }
    let (with, without) = (median(with), median(without));
    let cells = [format!("{without:.1} s"), format!("{with:.1} s"), format!("{:.2}x", with / without)];
    table.add("image, boot to healthy", &cells[0], &cells[1], &cells[2], "<= 1.2x");
    let memory = format!("{:.0} MB", median(memory));
    table.add("image, memory without pods", "-", &memory, &memory, "<= 200 MB");
    Ok(())
}

/// Boots an image from a blank card; the machine, and how long it took to be healthy.
fn boot(folder: &Path, image: &str) -> Result<(Vm, Duration)> {
    let place = folder.join("machine");
    std::fs::create_dir_all(&place)?;
    std::fs::copy(folder.join("key"), place.join("key"))?;
    let mut machine = Vm::new(Arch::Arm64, &place, &folder.join(image), 4, Cable::Lonely)?;
    machine.start()?;
    // The first boot makes the data partition and keys; the second is as all others are.
    machine.wait("edge: slot a is good", Duration::from_secs(400))?;
    machine.run("sync; (sleep 1; systemctl poweroff) >/dev/null 2>&1 &")?;
    machine.wait_off(Duration::from_secs(120))?;
    machine.start()?;
    let took = machine.wait("edge: slot a is good", Duration::from_secs(400))?;
    Ok((machine, took))
}

/// What `free` calls used, in MB, a minute after the boot.
fn used(machine: &mut Vm) -> Result<f64> {
    std::thread::sleep(Duration::from_secs(60));
    let told = machine.run("cat /proc/meminfo")?;
    let of = |name: &str| -> Result<f64> {
        let line = told.lines().find(|line| line.starts_with(&format!("{name}:")));
        let kib =
            line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse::<f64>().ok());
        kib.with_context(|| format!("no `{name}` in /proc/meminfo"))
    };
    let free = ["MemFree", "Buffers", "Cached", "SReclaimable"].into_iter().map(of).sum::<Result<f64>>()?;
    let used = (of("MemTotal")? - free) * 1024.0 / 1e6;
    ensure!(used > 0.0, "{told}");
    Ok(used)
}
