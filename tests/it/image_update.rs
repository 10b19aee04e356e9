//! Updates of a whole appliance by a signed bundle, and every way in which one can go wrong: each a real boot. All of them are
//! long, and run by `scripts/test --long`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::image::{BOOT, Workshop, made};
use crate::support::vm::{Cable, Vm};

/// As `BOOT`, for three tries of a bad system and one of the good.
const FALLBACK: Duration = Duration::from_secs(900);
/// How many times the plug is pulled during an update.
const KILLS: u32 = 20;
/// A system whose edge never starts; it gives up sooner than a gateway would, so that the test ends.
const BROKEN: [(&str, &str); 2] = [
    ("usr/lib/systemd/system/edge.service.d/zz.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/false\n"),
    (
        "usr/lib/systemd/system/edge-healthy.service.d/zz.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/edge system healthy --timeout 30s\n",
    ),
];

/// Makes a system of another version and puts it on a stick, as a disk that a machine can be given: its path.
fn stick(workshop: &Workshop, version: &str, overlay: &[(&str, &str)]) -> Result<PathBuf> {
    let mut more = vec!["--image-version".to_owned(), version.to_owned()];
    for (path, text) in overlay {
        workshop.place.write(&format!("overlay-{version}/{path}"), text);
    }
    if !overlay.is_empty() {
        more.extend([
            "--overlay".into(),
            workshop.place.path(&format!("overlay-{version}")).display().to_string(),
        ]);
    }
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let image = workshop.make(&format!("{version}.img"), &more)?;
    let folder = workshop.place.path(&format!("stick-{version}"));
    fs::create_dir_all(&folder)?;
    let (to, system) = (folder.display().to_string(), format!("{}.system", image.display()));
    let create = [
        "bundle", "create", "--stream", "system", "--keys", "KEYS", "--full", "--to", &to, "--system",
        &system,
    ];
    workshop.place.run(&create).good();
    let disk = workshop.place.path(&format!("stick-{version}.img"));
    fs::File::create(&disk)?.set_len(1 << 30)?;
    let made =
        Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&folder).arg(&disk).status()?;
    ensure!(made.success(), "cannot make the stick");
    Ok(disk)
}

/// Plugs the stick in: a copy of it, in the machine's folder.
fn plug(machine: &mut Vm, stick: &Path) -> Result<()> {
    fs::copy(stick, machine.disk().with_file_name("stick.img"))?;
    machine.more = [
        "-drive",
        "if=none,id=stick,format=raw,file=/work/stick.img",
        "-device",
        "virtio-blk-pci,drive=stick",
    ]
    .map(String::from)
    .to_vec();
    Ok(())
}

const IMPORT: &str = "mkdir -p /run/stick && mount /dev/vdb /run/stick && edge bundle import /run/stick";

/// A machine of slot a that runs, with a stick in it.
fn running(workshop: &Workshop, name: &str, image: &Path, stick: &Path) -> Result<Vm> {
    let mut machine = workshop.machine(name, image, Cable::Lonely)?;
    plug(&mut machine, stick)?;
    machine.start()?;
    machine.wait("edge: slot a is good", BOOT)?;
    Ok(machine)
}

fn reboot(machine: &mut Vm) -> Result<()> {
    machine.again()?;
    // Told to a shell that stays behind: who asks has his answer before the connection ends.
    machine.run("(sleep 1; systemctl reboot) >/dev/null 2>&1 &")?;
    Ok(())
}

/// The state of slot a and of slot b.
fn states(machine: &mut Vm) -> Result<[String; 2]> {
    let status: Value = serde_json::from_str(&machine.run("edge system status -o json")?)?;
    let state = |at: usize| status["slots"][at]["state"].as_str().unwrap_or_default().to_owned();
    Ok([state(0), state(1)])
}

/// Writes noise over most of a slot's root, as rot does.
fn spoil(machine: &mut Vm, slot: char) -> Result<()> {
    let text = format!(
        "dd if=/dev/urandom of=/dev/disk/edge/root_{slot} bs=1M seek=1 count=150 conv=notrunc,fsync status=none"
    );
    machine.run(&text).map(drop)
}

#[test]
#[ignore = "boots machines of its own"]
fn a_system_that_is_updated_and_rots_later_comes_back() -> Result<()> {
    let (workshop, image) = made();
    let stick = stick(workshop, "2.0", &[])?;
    let mut machine = running(workshop, "update", image, &stick)?;
    machine.run(IMPORT)?;
    assert_eq!(states(&mut machine)?, ["good", "staged"]);
    reboot(&mut machine)?;
    machine.wait("edge: slot b is good", BOOT)?;
    assert_eq!(states(&mut machine)?, ["good", "good"]);
    assert!(machine.run("cat /usr/lib/os-release")?.contains("IMAGE_VERSION=2.0"));
    // What it had, it has: the pod of slot a's image runs.
    machine.wait("GREETING from greeter", BOOT)?;
    // The same bundle is nothing new.
    let again = machine.try_run(
        "umount /run/stick 2>/dev/null; mount /dev/vdb /run/stick; edge bundle import /run/stick",
        BOOT,
    )?;
    assert_eq!(states(&mut machine)?, ["good", "good"], "{}", String::from_utf8_lossy(&again.stderr));

    // Rot, long after the system was found good: nobody reboots it for ever.
    spoil(&mut machine, 'b')?;
    machine.again()?;
    machine.run("sync; (sleep 1; reboot -ff) >/dev/null 2>&1 &")?;
    machine.wait("edge: slot a is good", FALLBACK)?;
    assert_eq!(states(&mut machine)?[0], "good");
    Ok(())
}

/// A reset gives all up but who the machine is, and takes the first boot's configuration again.
#[test]
#[ignore = "boots a machine of its own"]
fn a_reset_leaves_who_the_machine_is_and_nothing_else() -> Result<()> {
    let (workshop, image) = made();
    let mut machine = workshop.machine("reset", image, Cable::Lonely)?;
    machine.start()?;
    machine.wait("edge: slot a is good", BOOT)?;
    let identity = machine.run("cat /etc/machine-id")?;
    machine.run("touch /var/lib/edge/kept && edge system reset --yes")?;
    reboot(&mut machine)?;
    machine.wait("edge: factory reset", BOOT)?;
    machine.wait("edge: slot a is good", BOOT)?;
    let told = machine.run("cat /etc/machine-id; test -e /var/lib/edge/kept || echo gone")?;
    assert_eq!(told, format!("{identity}gone\n"));
    // Its image is in the bundle that came with the machine's own.
    machine.wait("GREETING from greeter", BOOT)?;
    Ok(())
}

#[test]
#[ignore = "boots machines of its own"]
fn a_system_that_is_spoilt_or_never_healthy_is_given_up() -> Result<()> {
    let (workshop, image) = made();
    let good = stick(workshop, "2.1", &[])?;
    let mut machine = running(workshop, "spoilt", image, &good)?;
    machine.run(IMPORT)?;
    spoil(&mut machine, 'b')?;
    reboot(&mut machine)?;
    machine.wait("edge: slot a is good", FALLBACK)?;
    assert_eq!(states(&mut machine)?, ["good", "failed"]);
    machine.kill()?;

    let broken = stick(workshop, "2.2", &BROKEN)?;
    plug(&mut machine, &broken)?;
    machine.start()?;
    machine.wait("edge: slot a is good", BOOT)?;
    machine.run(IMPORT)?;
    assert_eq!(states(&mut machine)?, ["good", "staged"]);
    reboot(&mut machine)?;
    machine.wait("this system is not healthy", FALLBACK)?;
    machine.wait("edge: slot a is good", FALLBACK)?;
    assert_eq!(states(&mut machine)?, ["good", "failed"]);
    Ok(())
}

/// The plug is pulled at random moments of an update, and of the boots after it: it boots again, the old or the new.
#[test]
#[ignore = "boots a machine twenty times"]
fn a_power_cut_at_any_moment_of_an_update_leaves_a_system_that_boots() -> Result<()> {
    let (workshop, image) = made();
    let stick = stick(workshop, "2.3", &[])?;
    let mut machine = running(workshop, "cut", image, &stick)?;
    let mut seed = [0; 1];
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    for round in 0..KILLS {
        // An update takes some seconds; the moment is chosen among all of them.
        let place = machine.disk().parent().context("no folder")?.to_owned();
        let background = format!("umount /run/stick 2>/dev/null; ({IMPORT}) >/dev/null 2>&1 &");
        machine.run(&background)?;
        fs::File::open("/dev/urandom")
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut seed))?;
        let moment = Duration::from_millis(u64::from(seed[0]) * 60);
        std::thread::sleep(moment);
        machine.kill()?;
        machine.start()?;
        machine
            .wait(" is good (", FALLBACK)
            .with_context(|| format!("round {round}, cut after {moment:?}"))?;
        let slot = machine.run("cat /run/edge-slot")?;
        let states = states(&mut machine)?;
        *seen.entry(format!("{} {states:?}", slot.trim())).or_default() += 1;
        assert!(states.contains(&"good".to_owned()), "round {round}, cut after {moment:?}: {states:?}");
        if slot.trim() == "b" {
            // The new one is there: begin again from a card as it was.
            machine.kill()?;
            fs::copy(image, place.join("disk.img"))?;
            fs::OpenOptions::new().write(true).open(place.join("disk.img"))?.set_len(4 << 30)?;
            machine.start()?;
            machine.wait("edge: slot a is good", BOOT)?;
        }
    }
    println!("{seen:?}");
    Ok(())
}
