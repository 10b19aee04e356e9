//! Updates of a whole appliance by a signed bundle, and every way in which one can go wrong: each a real boot. All of them are
//! long, and run by `scripts/test --long`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::image::{BOOT, Workshop, made};
use crate::support::vm::{Cable, Disk, Vm};

/// As `BOOT`, for three tries of a bad system and one of the good.
pub const FALLBACK: Duration = Duration::from_secs(900);
/// A system whose edge never starts; it gives up sooner than a gateway would, so that the test ends.
const BROKEN: [(&str, &str); 2] = [
    ("usr/lib/systemd/system/edge.service.d/zz.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/false\n"),
    (
        "usr/lib/systemd/system/edge-healthy.service.d/zz.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/edge system healthy --timeout 30s\n",
    ),
];

/// Makes a system of another version; the folder that a bundle takes it from.
pub fn system(workshop: &Workshop, version: &str, overlay: &[(&str, &str)]) -> Result<PathBuf> {
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
    Ok(PathBuf::from(format!("{}.system", image.display())))
}

/// Signs a bundle with a system and puts it on the stick `name`, as a disk that a machine can be given: its path.
pub fn bundled(workshop: &Workshop, name: &str, system: &Path) -> Result<PathBuf> {
    let folder = workshop.place.path(&format!("stick-{name}"));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let (to, system) = (folder.display().to_string(), system.display().to_string());
    let create = [
        "bundle", "create", "--stream", "system", "--keys", "KEYS", "--full", "--to", &to, "--system",
        &system,
    ];
    workshop.place.run(&create).good();
    let disk = workshop.place.path(&format!("stick-{name}.img"));
    fs::File::create(&disk)?.set_len(1 << 29)?;
    let made =
        Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&folder).arg(&disk).status()?;
    ensure!(made.success(), "cannot make the stick");
    Ok(disk)
}

/// Both.
fn stick(workshop: &Workshop, version: &str, overlay: &[(&str, &str)]) -> Result<PathBuf> {
    bundled(workshop, version, &system(workshop, version, overlay)?)
}

/// Plugs the stick in: a copy of it, in the machine's folder.
pub fn plug(machine: &mut Vm, stick: &Path) -> Result<()> {
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

pub const IMPORT: &str = "mkdir -p /run/stick && mount /dev/vdb /run/stick && edge bundle import /run/stick";

/// A machine of slot a that runs, with a stick in it.
fn running(workshop: &Workshop, name: &str, image: &Path, stick: &Path) -> Result<Vm> {
    let mut machine = workshop.machine(name, image, Cable::Lonely)?;
    plug(&mut machine, stick)?;
    machine.start()?;
    machine.wait("edge: slot a is good", BOOT)?;
    Ok(machine)
}

pub fn reboot(machine: &mut Vm) -> Result<()> {
    machine.again()?;
    // Told to a shell that stays behind: who asks has his answer before the connection ends.
    machine.run("(sleep 1; systemctl reboot) >/dev/null 2>&1 &")?;
    Ok(())
}

/// The state of slot a and of slot b.
pub fn states(machine: &mut Vm) -> Result<[String; 2]> {
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

    // Back by hand; what was given up is staged again when somebody imports it again.
    machine.run("edge system rollback")?;
    reboot(&mut machine)?;
    machine.wait("edge: slot a is good", BOOT)?;
    assert_eq!(states(&mut machine)?, ["good", "failed"]);
    machine.run(IMPORT)?;
    assert_eq!(states(&mut machine)?, ["good", "staged"]);
    reboot(&mut machine)?;
    machine.wait("edge: slot b is good", BOOT)?;

    // Rot, long after the system was found good: nobody reboots it for ever.
    spoil(&mut machine, 'b')?;
    machine.again()?;
    machine.run("sync; (sleep 1; reboot -ff) >/dev/null 2>&1 &")?;
    machine.wait("edge: slot a is good", FALLBACK)?;
    assert_eq!(states(&mut machine)?[0], "good");
    Ok(())
}

/// Worn flash says of a sector that it cannot be read, more often than it reads wrong: to the kernel that is no corruption by
/// itself.
#[test]
#[ignore = "boots machines of its own"]
fn a_sector_that_cannot_be_read_any_more_leads_back_too() -> Result<()> {
    let (workshop, image) = made();
    let stick = stick(workshop, "2.4", &[])?;
    let mut machine = running(workshop, "worn", image, &stick)?;
    machine.run(IMPORT)?;
    reboot(&mut machine)?;
    machine.wait("edge: slot b is good", BOOT)?;
    let table = machine.run("dmsetup table root")?;
    assert!(table.trim().ends_with(" 2 restart_on_corruption restart_on_error"), "{table}");
    // In the second block of a large file that nothing reads, as packed as it is.
    let unread = machine.run("ls /usr/lib/modules/*/kernel/fs/btrfs/btrfs.ko*")?.trim().to_owned();
    let first = format!(
        "start=$(cat /sys/class/block/$(basename $(readlink -f /dev/disk/edge/root_b))/start)\n\
         at=$(filefrag -v -b512 {unread} | awk '$1 == \"0:\" {{ sub(/[.].*/, \"\", $4); print $4 }}')\n\
         [ \"$at\" -gt 0 ] && echo $((start + at + 8))"
    );
    let sector: u64 = machine.run(&first)?.trim().parse()?;
    // Off as it should be: the boot after a power cut would read all of the root.
    machine.run("(sleep 1; systemctl poweroff) >/dev/null 2>&1 &")?;
    machine.wait_off(BOOT)?;
    machine.kind = Disk::Worn(sector);
    machine.start()?;
    machine.wait("edge: slot b is good", BOOT)?;

    // Found good long ago, and whole but for this.
    machine.again()?;
    machine.run(&format!("(sleep 1; cat {unread}) >/dev/null 2>&1 &"))?;
    machine.wait("dm-verity device has I/O error", BOOT)?;
    machine.wait("edge: slot a is good", FALLBACK)?;
    assert_eq!(states(&mut machine)?[0], "good");
    Ok(())
}

/// Writes noise over the middle of what starts slot b, as rot does; nothing else of the card is touched.
fn spoil_entry(machine: &mut Vm) -> Result<()> {
    let text = r#"mount -o remount,rw /efi; entry=$(ls /efi/EFI/Linux/edge-2+*.efi); size=$(stat -c %s "$entry")
dd if=/dev/urandom of="$entry" bs=1M seek=$((size / 4 >> 20)) count=$((size / 2 >> 20)) conv=notrunc,fsync status=none
sync -f /efi"#;
    machine.run(text).map(drop)
}

/// The end of what starts slot b is lost: firmware does not load it. Noise would be begun, and hang there until the next power
/// cut, of which each takes a try.
fn cut_entry(machine: &mut Vm) -> Result<()> {
    let text = r#"mount -o remount,rw /efi; entry=$(ls /efi/EFI/Linux/edge-2+*.efi); size=$(stat -c %s "$entry")
truncate -s $((size / 4)) "$entry"; sync -f /efi"#;
    machine.run(text).map(drop)
}

/// The firmware goes to its shell where an entry cannot be started, and that one to the next try.
#[test]
#[ignore = "boots machines of its own"]
fn a_boot_entry_that_rots_is_given_up_by_itself_and_mended() -> Result<()> {
    let (workshop, image) = made();
    let good = stick(workshop, "2.3", &[])?;
    let mut machine = running(workshop, "rotten-entry", image, &good)?;
    // What lies beside the entries is what the root has.
    let same = "cd /usr/share/edge/efi; for file in EFI/BOOT/BOOTX64.EFI loader/loader.conf startup.nsh; do [ \"$(sha256sum <$file)\" = \"$(sha256sum </efi/$file)\" ] || exit 1; done";
    machine.run(same)?;
    machine.run(IMPORT)?;
    reboot(&mut machine)?;
    machine.wait("edge: slot b is good", BOOT)?;
    // Until the first look, after which there is a copy of both.
    let kept = "for i in $(seq 300); do [ \"$(ls /var/lib/edge/boot/*.img 2>/dev/null | wc -l)\" -lt 2 ] || break; sleep 2; done; ls /var/lib/edge/boot";
    let told = machine.run(kept)?;
    assert_eq!(told.lines().filter(|name| name.ends_with(".img")).count(), 2, "{told}");
    // While it runs, without waiting for a day: a daemon that starts looks.
    let sum = "cd /efi/EFI/Linux; sha256sum edge-2*.efi";
    let before = machine.run(sum)?;
    spoil_entry(&mut machine)?;
    assert_ne!(machine.run(sum)?, before);
    machine.run("systemctl restart edge")?;
    let looked = "for i in $(seq 300); do ! journalctl -b -u edge -o cat | grep -q 'the boot entry of slot b read otherwise' || exit 0; sleep 2; done; exit 1";
    machine.run(looked)?;
    assert_eq!((machine.run(sum)?, states(&mut machine)?), (before.clone(), ["good".into(), "good".into()]));

    // While it is off: slot b does not start, and slot a, which does, mends it.
    cut_entry(&mut machine)?;
    machine.again()?;
    machine.run("sync; (sleep 1; reboot -ff) >/dev/null 2>&1 &")?;
    machine.wait("edge: slot a is good", FALLBACK)?;
    machine.run(looked)?;
    assert_eq!((machine.run(sum)?, states(&mut machine)?), (before, ["good".into(), "good".into()]));
    assert_eq!(machine.run("cat /run/edge-slot")?.trim(), "a");
    reboot(&mut machine)?;
    machine.wait("edge: slot b is good", BOOT)?;

    // Nobody has a copy: the shell alone leads back, and what is lost is started by nobody.
    machine.run("systemctl stop edge; rm -r /var/lib/edge/boot")?;
    cut_entry(&mut machine)?;
    machine.again()?;
    machine.run("sync; (sleep 1; reboot -ff) >/dev/null 2>&1 &")?;
    machine.wait("edge: slot a is good", FALLBACK)?;
    let lost = "for i in $(seq 300); do edge system status | grep -q 'the boot entry of slot b reads otherwise' && exit 0; sleep 2; done; exit 1";
    machine.run(lost)?;
    assert_eq!(states(&mut machine)?, ["good", "failed"]);
    assert_eq!(machine.run("ls /efi/EFI/Linux")?.trim(), "edge-1+3.efi");
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
