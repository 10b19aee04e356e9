//! Sticks that are plugged into an appliance that runs, and pulled out of it, as QEMU emulates USB: kernel, udev and the
//! confinement of edge's own unit are those of a gateway. One boot; long, and of `scripts/test --long`.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::image::{BOOT, HEALTHY, Workshop, made};
use crate::mirror::noise;
use crate::support::monitor::{Monitor, WITH_MONITOR};
use crate::support::vm::{self, Cable, Vm};

const MIB: u64 = 1 << 20;
/// As fast as a stick that is slow: what is pulled out in the middle is not through yet.
const SLOW: u64 = 8 * MIB;

/// Whether a stick has a partition, as those that are sold, or is one file system.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Partition,
    Whole,
}

/// Runs a shell's words among the tools, in the folder of a machine.
fn shell(place: &Path, words: &str) -> Result<String> {
    let output = vm::tool(place, &["sh", "-ec", words])?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{words}`: {said}{}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stdout)?)
}

/// Makes a bundle of `files` by the depot at `from`, and of that the stick `name` with FAT32; what `create` said.
fn stick(place: &Path, from: &Workshop, name: &str, shape: Shape, files: &[Vec<u8>]) -> Result<Value> {
    let top = place.join(name);
    fs::create_dir_all(top.join("files"))?;
    let to = top.join("top");
    fs::create_dir_all(&to)?;
    let to = to.display().to_string();
    let mut create = vec!["bundle", "create", "--stream", "main", "--keys", "KEYS", "--full", "--to", &to];
    create.extend(["--for", "ship-7", "-o", "json"]);
    let mut paths = Vec::new();
    for (number, bytes) in files.iter().enumerate() {
        let path = top.join(format!("files/{name}-{number}.bin"));
        fs::write(&path, bytes)?;
        paths.push(path.display().to_string());
    }
    create.extend(paths.iter().flat_map(|path| ["--file", path.as_str()]));
    let made = serde_json::from_str(&from.place.run(&create).good().out)?;
    let bytes: u64 = files.iter().map(|bytes| bytes.len() as u64).sum();
    let part = File::create(place.join("part.img"))?;
    part.set_len(2 * bytes + 64 * MIB)?;
    shell(
        place,
        &format!(
            "mkfs.vfat -F 32 /work/part.img >/dev/null; mcopy -s -i /work/part.img /work/{name}/top/* ::"
        ),
    )?;
    let words = match shape {
        Shape::Whole => format!("mv /work/part.img /work/{name}.img"),
        // As partitioning tools begin it.
        Shape::Partition => format!(
            "dd if=/work/part.img of=/work/{name}.img bs=1M seek=1 conv=sparse status=none
             printf 'label: dos\\nstart=2048, type=c\\n' | sfdisk -q /work/{name}.img; rm /work/part.img"
        ),
    };
    shell(place, &words)?;
    Ok(made)
}

/// What lies on a stick that was pulled out: a text. The file system is as it should be, and nobody had it open.
fn read(place: &Path, name: &str, shape: Shape, file: &str) -> Result<String> {
    let skip = if shape == Shape::Partition { 1 } else { 0 };
    shell(
        place,
        &format!(
            "dd if=/work/{name}.img of=/work/looked.img bs=1M skip={skip} conv=sparse status=none
             fsck.fat -n /work/looked.img >/work/looked || {{ cat /work/looked; exit 1; }}
             mtype -i /work/looked.img ::{file}; rm /work/looked.img"
        ),
    )
}

/// What `edge status` says of bundles: the state, and the line.
fn told(machine: &mut Vm) -> Result<(String, String)> {
    let status: Value = serde_json::from_str(&machine.run("edge status -o json")?)?;
    let parts = status["parts"].as_array().context("no parts")?;
    let part = parts.iter().find(|part| part["part"] == "bundle").context("no part `bundle`")?;
    let text = |key: &str| part[key].as_str().unwrap_or_default().to_owned();
    Ok((text("state"), text("message")))
}

/// Waits until that is so; the line.
fn wait(machine: &mut Vm, state: &str, word: &str) -> Result<String> {
    let end = Instant::now() + BOOT;
    loop {
        let (now, line) = told(machine)?;
        if now == state && line.contains(word) {
            return Ok(line);
        }
        ensure!(Instant::now() < end, "bundle is {now}, {line:?}, and not {state}, {word:?}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The number in force, and that nothing of a stick is mounted where edge sees it.
fn in_force(machine: &mut Vm) -> Result<u64> {
    machine.run("! grep /bundle/stick /proc/$(systemctl show -p MainPID --value edge)/mountinfo")?;
    let history: Value = serde_json::from_str(&machine.run("edge bundle history main -o json")?)?;
    let mut all = history.as_array().into_iter().flatten();
    all.find(|one| one["current"] == true).and_then(|one| one["seq"].as_u64()).context("none in force")
}

#[test]
#[ignore = "boots a machine of its own"]
fn a_stick_is_imported_when_it_is_plugged_in_and_after_it_was_pulled_out() -> Result<()> {
    let (workshop, image) = made();
    let mut machine = workshop.machine("sticks", image, Cable::Lonely)?;
    let place = machine.disk().parent().context("no folder")?.to_owned();
    let few = stick(&place, workshop, "few", Shape::Partition, &[b"for the crew".to_vec()])?;
    let many: Vec<Vec<u8>> = (0..12).map(|seed| noise(seed, 8 << 20)).collect();
    let many = stick(&place, workshop, "many", Shape::Whole, &many)?;
    let (first, second) = (few["seq"].as_u64().context("no seq")?, many["seq"].as_u64().context("no seq")?);
    // Of another depot.
    let others = Workshop::new("image-others")?;
    stick(&place, &others, "foreign", Shape::Partition, &[b"for another crew".to_vec()])?;

    machine.more = WITH_MONITOR.map(String::from).to_vec();
    machine.start()?;
    machine.wait(HEALTHY, BOOT)?;
    let mut monitor = Monitor::of(&place)?;
    // For sticks that are formatted elsewhere.
    machine.run("modprobe exfat && grep -w exfat /proc/filesystems")?;
    machine.run("edge config set bundle.auto-import=true && systemctl reload edge")?;
    wait(&mut machine, "good", "")?;
    assert!(in_force(&mut machine)? < first);

    // Pulled out as soon as it is told.
    monitor.plug("few.img", SLOW)?;
    let line = wait(&mut machine, "good", &format!("main-{first} is in force, 1 refs"))?;
    monitor.pull()?;
    assert!(line.starts_with("/dev/sda1: "), "{line}");
    let outcome = read(&place, "few", Shape::Partition, "edge-receipts/ship-7.txt")?;
    assert!(outcome.contains(&format!("main-{first} is in force, 1 refs")), "{outcome}");
    let receipt = read(&place, "few", Shape::Partition, "edge-receipts/ship-7.main.dsse")?;
    assert!(receipt.contains("payload"), "{receipt}");
    let log = machine.run("journalctl -b -u edge -o cat --no-pager | grep 'imported from a stick'")?;
    assert!(log.contains("/dev/sda1") && log.contains(&format!("main-{first} is in force")), "{log}");
    assert_eq!(in_force(&mut machine)?, first);

    // Nothing is written on what is not ours.
    let before = fs::read(place.join("foreign.img"))?;
    monitor.plug("foreign.img", SLOW)?;
    machine.run("for i in $(seq 60); do [ -b /dev/sd?1 ] && exit; sleep 1; done; exit 1")?;
    std::thread::sleep(Duration::from_secs(10));
    let (state, line) = told(&mut machine)?;
    monitor.pull()?;
    assert_eq!((state.as_str(), line.contains("main-")), ("good", true), "{line}");
    assert!(fs::read(place.join("foreign.img"))? == before, "it was written to");
    assert_eq!(in_force(&mut machine)?, first);

    // Pulled out in the middle, and plugged in again.
    monitor.plug("many.img", SLOW)?;
    let end = Instant::now() + BOOT;
    while monitor.read()? < 48 * MIB {
        ensure!(Instant::now() < end, "{} bytes of it were read: {:?}", monitor.read()?, told(&mut machine)?);
        std::thread::sleep(Duration::from_millis(50));
    }
    monitor.pull()?;
    wait(&mut machine, "good", "; it was pulled")?;
    assert_eq!(in_force(&mut machine)?, first);
    monitor.plug("many.img", SLOW)?;
    let line = wait(&mut machine, "good", &format!("main-{second} is in force, 12 refs, "))?;
    monitor.pull()?;
    assert_eq!(in_force(&mut machine)?, second);
    let came = line.split_once(" refs, ").and_then(|(_, came)| came.split(' ').next()?.parse::<u64>().ok());
    assert!(came < many["carried"].as_u64(), "what had come came again: {line}, {many}");
    let outcome = read(&place, "many", Shape::Whole, "edge-receipts/ship-7.txt")?;
    assert!(outcome.contains(&format!("main-{second} is in force")), "{outcome}");
    Ok(())
}
