//! An appliance whose boot loader is a Raspberry Pi's: two boot partitions, which are real FATs here, and `autoboot.txt`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::command::Daemon;
use crate::support::vm;
use crate::system::{FACTORY, Machine, describe, system};
use crate::system_import::Two;

const AUTOBOOT: &str = include_str!("../../config/autoboot.txt");

/// A boot partition as `edge-pack image` makes one, without what only a board reads; its end has no content and is cut off.
fn boot_image(folder: &Path, id: &str) -> Result<PathBuf> {
    let words = format!("console=tty0 ro quiet edge.verity={} roothash=00\n", id.replace('-', ""));
    std::fs::write(folder.join("cmdline.txt"), words)?;
    std::fs::write(folder.join("config.txt"), "kernel=vmlinuz\n")?;
    std::fs::write(folder.join("a long name of no short one.dtb"), vec![7; 300_000])?;
    let text = r#"cd /work; rm -f boot.img; truncate -s 40M boot.img
mkfs.vfat --invariant -F32 -s1 -n EDGE -i 0ED6E011 boot.img >/dev/null
for name in "a long name of no short one.dtb" config.txt cmdline.txt; do mcopy -m -i boot.img "$name" ::/; done
truncate -s 2M boot.img"#;
    let output = vm::tool(folder, &["bash", "-ec", text])?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(folder.join("boot.img"))
}

/// The first partition as it lies on the card; as it is mounted it is a folder.
fn first_partition(machine: &Machine) -> Result<()> {
    let folder = machine.place.path("first");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("autoboot.txt"), AUTOBOOT)?;
    let text = r#"cd /work; truncate -s 40M esp.img
mkfs.vfat --invariant -F32 -s1 -n EDGE -i 0ED6E010 esp.img >/dev/null; mcopy -m -i esp.img autoboot.txt ::/"#;
    let output = vm::tool(&folder, &["bash", "-ec", text])?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(folder.join("esp.img"), machine.partition("ESP"))?;
    let told = "DEVTYPE=partition\nPARTNAME=ESP\n";
    machine.place.write("machine/sys/class/block/vda/vda-ESP/uevent", told);
    Ok(())
}

/// The same machine as if it were a Raspberry Pi, whose first system is good.
fn pi() -> Result<Two> {
    let two = Two::new();
    let machine = &two.machine;
    std::fs::remove_dir_all(machine.root("efi/EFI"))?;
    std::fs::remove_file(machine.root("identity/system.json"))?;
    machine.place.write("machine/efi/autoboot.txt", AUTOBOOT);
    let release = r#"{"format": 1, "version": "1.0", "arch": "amd64", "board": "raspberry-pi", "boot": "raspberry-pi", "tryboot": true}"#;
    machine.place.write("machine/usr/share/edge/system.json", release);
    for (number, label) in [(2, "boot_a"), (3, "boot_b")] {
        std::fs::File::create(machine.partition(label))?.set_len(8 << 20)?;
        let told = format!("machine/sys/class/block/vda/vda-{label}");
        machine.place.write(&format!("{told}/uevent"), &format!("DEVTYPE=partition\nPARTNAME={label}\n"));
        machine.place.write(&format!("{told}/partition"), &format!("{number}\n"));
    }
    first_partition(machine)?;
    let folder = machine.place.path("factory");
    std::fs::create_dir_all(&folder)?;
    std::fs::copy(boot_image(&folder, FACTORY)?, machine.partition("boot_a"))?;
    started(machine, "a");
    machine.arm();
    Ok(two)
}

/// As the boot loader and the initrd leave it.
fn started(machine: &Machine, slot: &str) {
    std::fs::write(machine.root("run/edge-slot"), slot).unwrap();
    let folder = machine.root("proc/device-tree/chosen/bootloader");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("partition"), [0, 0, 0, if slot == "a" { 2 } else { 3 }]).unwrap();
    for name in ["run/edge-judged", "run/edge-turns", "run/systemd/reboot-param"] {
        let _ = std::fs::remove_file(machine.root(name));
    }
}

/// A systemctl that writes down how it is called, and tells of these jobs.
fn systemctl(machine: &Machine, jobs: &str) -> PathBuf {
    let told = machine.root("called");
    let _ = std::fs::remove_file(&told);
    let text =
        format!("#!/bin/sh\necho \"$@\" >> {}\n[ \"$1\" != list-jobs ] || echo '{jobs}'\n", told.display());
    machine.place.write("machine/bin/systemctl", &text);
    machine.place.write("machine/bin/sleep", "#!/bin/sh\n");
    for name in ["systemctl", "sleep"] {
        Command::new("chmod").arg("755").arg(machine.root("bin").join(name)).status().unwrap();
    }
    told
}

fn autoboot(machine: &Machine) -> String {
    std::fs::read_to_string(machine.root("efi/autoboot.txt")).unwrap()
}

/// A bundle with system `number`.
fn make(two: &Two, number: u8) -> Result<PathBuf> {
    let folder = two.depot.path(&format!("system-{number}"));
    let id = system(&folder, number, 2);
    std::fs::remove_file(folder.join("edge.efi"))?;
    let made = two.depot.path("made");
    std::fs::create_dir_all(&made)?;
    std::fs::copy(boot_image(&made, &id)?, folder.join("boot.img"))?;
    describe(&folder, &id, &format!("2.{number}"), "amd64", "raspberry-pi");
    two.create(&["--system", &folder.display().to_string()]).good();
    Ok(folder)
}

#[test]
fn an_update_is_tried_once_and_started_by_itself_when_it_is_good() -> Result<()> {
    let two = pi()?;
    let machine = &two.machine;
    assert_eq!(machine.states(), "good empty a");
    let folder = make(&two, 2)?;
    let told = two.import().good().out;
    assert!(
        told.contains("system 2.2 is staged in slot b; `systemctl reboot` tries it once, and power "),
        "{told}"
    );
    for (name, label) in [("root.erofs", "root_b"), ("root.verity", "verity_b"), ("boot.img", "boot_b")] {
        let there = std::fs::read(machine.partition(label))?;
        assert!(there.starts_with(&std::fs::read(folder.join(name))?), "{label} is not {name}");
    }
    assert_eq!((machine.states().as_str(), autoboot(machine).as_str()), ("good staged b", AUTOBOOT));
    let told = machine.run(&["system", "status"]).good().out;
    assert!(told.contains("b      staged   2.2       main-1   boot_b   next restart, once"), "{told}");
    assert!(told.contains("boot_a   running, and after power off and on\n"), "{told}");

    // Only a restart tries it; its boot loader is asked by what systemd gives the kernel.
    let parameter = machine.root("run/systemd/reboot-param");
    for jobs in ["", "5 poweroff.target start waiting", "5 soft-reboot.target start waiting"] {
        systemctl(machine, jobs);
        assert_eq!(machine.run(&["system", "begin-trial"]).good().out, "", "{jobs}");
        assert!(!parameter.exists() && machine.states() == "good staged b", "{jobs}");
    }
    systemctl(machine, "5 reboot.target start waiting");
    let told = machine.run(&["system", "begin-trial"]).good().out;
    assert!(told.contains("this restart tries slot b, once"), "{told}");
    assert_eq!(std::fs::read_to_string(&parameter)?, "0 tryboot\n");

    // Unhealthy: any start leads back.
    started(machine, "b");
    let called = systemctl(machine, "");
    let done = machine.run(&["system", "healthy", "--timeout", "1s"]);
    assert!(done.err.contains("the next boot is slot a"), "{}", done.err);
    assert_eq!(
        (std::fs::read_to_string(&called)?.as_str(), autoboot(machine).as_str()),
        ("reboot\n", AUTOBOOT)
    );
    started(machine, "a");
    assert_eq!(machine.states(), "good failed a");
    assert_eq!(machine.run(&["system", "begin-trial"]).good().out, "");

    // By hand once more, and good.
    assert!(two.import().good().out.contains("staged in slot b"));
    systemctl(machine, "5 reboot.target start waiting");
    machine.run(&["system", "begin-trial"]).good();
    started(machine, "b");
    machine.arm();
    assert_eq!((machine.states().as_str(), autoboot(machine)), ("good good b", turned()));
    let said = machine.run(&["system", "rollback"]).good().out;
    assert!(said.contains("the next boot goes to slot a"), "{said}");
    assert_eq!(autoboot(machine), AUTOBOOT);
    started(machine, "a");
    assert_eq!(machine.states(), "good failed a");
    assert_eq!(machine.status()["slots"][1]["reason"], "rolled back by hand");
    Ok(())
}

fn turned() -> String {
    AUTOBOOT.replace('2', "x").replace('3', "2").replace('x', "3")
}

#[test]
fn a_system_that_could_not_be_tried_is_refused() -> Result<()> {
    let two = pi()?;
    make(&two, 2)?;
    let release = r#"{"format": 1, "version": "1.0", "arch": "amd64", "board": "raspberry-pi", "boot": "raspberry-pi", "tryboot": false}"#;
    two.machine.place.write("machine/usr/share/edge/system.json", release);
    let before = std::fs::read(two.machine.partition("root_b"))?;
    two.import().bad(1, "cannot ask the boot loader for a trial (`tryboot`) hint: ");
    assert_eq!(
        (two.machine.states().as_str(), std::fs::read(two.machine.partition("root_b"))? == before),
        ("good empty a", true)
    );
    // A folder with two kernels, or with none, is no system.
    let folder = two.depot.path("system-2");
    std::fs::write(folder.join("edge.efi"), "x")?;
    describe(&folder, FACTORY, "2.2", "amd64", "raspberry-pi");
    two.create(&["--system", &folder.display().to_string()])
        .bad(2, "it has not one kernel, as `edge.efi` or as `boot.img`");
    Ok(())
}

/// The initrd's own text, with a folder in the place of everything.
struct Initrd(tempfile::TempDir);

impl Initrd {
    fn new() -> Self {
        let initrd = Self(tempfile::tempdir().unwrap());
        for folder in ["run", "identity", "card", "proc/device-tree/chosen/bootloader"] {
            std::fs::create_dir_all(initrd.at(folder)).unwrap();
        }
        std::fs::write(initrd.at("card/autoboot.txt"), AUTOBOOT).unwrap();
        initrd
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_default()
    }

    /// Starts a slot, with the first partition mounted by a link; whether it goes on, and what it says.
    fn start(&self, slot: &str, verity: &str) -> (bool, String) {
        for name in ["edge-boots", "edge-turns"] {
            let _ = std::fs::remove_file(self.at("run").join(name));
        }
        let tries = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/appliance.tries");
        let text = format!(
            r#"set -u
b=busybox top={} slot={slot} verity={verity}
say() {{ echo "$*"; }}
number() {{ case $1 in boot_a) echo 2 ;; boot_b) echo 3 ;; esac; }}
first() {{ rmdir "$1" && ln -s card "$1"; }}
last() {{ rm "$1"; }}
. {}
count"#,
            self.0.path().display(),
            tries.display()
        );
        let output = Command::new("busybox").args(["sh", "-c", &text]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        (output.status.success(), said)
    }
}

#[test]
fn the_initrd_turns_away_from_what_was_not_found_good_three_times() {
    let initrd = Initrd::new();
    // Without another one to turn to it is started for ever.
    for (wanted, turns) in [("1\n", ""), ("2\n", ""), ("3\n", ""), ("3\n", "")] {
        assert_eq!(initrd.start("a", "aa"), (true, String::new()));
        assert_eq!(
            (initrd.read("run/edge-boots").as_str(), initrd.read("run/edge-turns").as_str()),
            (wanted, turns)
        );
    }
    // What was good has none that count; another system begins anew; one that is its own spare has none.
    std::fs::write(initrd.at("identity/spare"), "a\n").unwrap();
    for _ in 0..5 {
        assert!(initrd.start("a", "aa").0);
    }
    for boots in 1..=3 {
        assert_eq!(initrd.start("b", "bb"), (true, String::new()));
        assert_eq!(initrd.read("identity/boots"), format!("bb {boots}\n"));
        assert_eq!(initrd.read("run/edge-turns"), "counted\n");
    }
    // A trial is not counted.
    let tryboot = initrd.at("proc/device-tree/chosen/bootloader/tryboot");
    std::fs::write(&tryboot, [0, 0, 0, 1]).unwrap();
    assert_eq!(initrd.start("b", "bb"), (true, "slot b is tried\n".into()));
    assert_eq!(
        (initrd.read("run/edge-turns").as_str(), initrd.read("run/edge-boots").as_str()),
        ("tried\n", "")
    );
    std::fs::write(&tryboot, [0, 0, 0, 0]).unwrap();
    std::fs::write(initrd.at("card/autoboot.txt"), turned()).unwrap();
    let (goes_on, said) = initrd.start("b", "bb");
    assert!(
        !goes_on && said.contains("slot b was started 3 times and not found good: slot a is the one"),
        "{said}"
    );
    assert_eq!(
        (initrd.read("card/autoboot.txt").as_str(), initrd.read("identity/given-up").as_str()),
        (AUTOBOOT, "bb\n")
    );
    // What is not as edge wrote it stays so, and nothing turns for ever.
    std::fs::write(initrd.at("card/autoboot.txt"), "[all]\nboot_partition=3\n").unwrap();
    assert_eq!(initrd.start("b", "bb"), (true, String::new()));
    assert_eq!(initrd.read("card/autoboot.txt"), "[all]\nboot_partition=3\n");
    assert_eq!(initrd.read("run/edge-turns"), "");
}

/// edge-fallback.service, where edge cannot judge.
#[test]
fn where_the_initrd_counts_what_does_not_come_up_starts_anew() -> Result<()> {
    let two = pi()?;
    let machine = &two.machine;
    started(machine, "a");
    let called = systemctl(machine, "");
    assert!(machine.fall_back().contains("no boot entry has tries left") && !called.exists());
    for turns in ["tried", "counted"] {
        std::fs::write(machine.root("run/edge-turns"), turns)?;
        let said = machine.fall_back();
        assert!(said.contains("did not come up: starting anew in 10 s"), "{said}");
        assert_eq!(std::fs::read_to_string(&called)?, "reboot --force\n");
        std::fs::remove_file(&called)?;
    }
    std::fs::write(machine.root("run/edge-judged"), "")?;
    assert!(machine.fall_back().is_empty() && !called.exists());
    Ok(())
}

/// A daemon looks as soon as its boot was found good.
#[test]
fn what_rots_on_a_boot_partition_is_mended_by_the_daemon_or_told() -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let two = pi()?;
    let machine = &two.machine;
    let rot = |at: u64| {
        let file = std::fs::File::options().read(true).write(true).open(machine.partition("boot_a")).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
    };
    let boot = || {
        let _daemon = Daemon::start_by(&machine.place, machine.edge(&["daemon"]));
        let begun = std::time::Instant::now();
        loop {
            let status: Value =
                serde_json::from_str(&machine.run(&["status", "-o", "json"]).good().out).unwrap();
            let part =
                status["parts"].as_array().unwrap().iter().find(|part| part["part"] == "boot").cloned();
            let part = part.unwrap_or_default();
            // It is good until it has looked, with nothing to say.
            if part["message"].as_str().is_some_and(|message| !message.is_empty()) {
                return part;
            }
            assert!(
                begun.elapsed() < std::time::Duration::from_secs(40),
                "{}",
                machine.place.read("daemon.log")
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    let look = || edge::system::mend_boot(&edge::system::Places::below(&machine.root("")));
    assert_eq!(look()?.map(|looked| (looked.mended.len(), looked.damaged.len())), Some((0, 0)));
    let before = std::fs::read(machine.partition("boot_a"))?;
    rot(700 << 10);
    std::fs::write(machine.root("efi/autoboot.txt"), "[all]\nboot_part")?;
    let part = boot();
    let message = part["message"].as_str().unwrap_or_default();
    for word in [
        "`autoboot.txt` read otherwise than it was written, and is mended",
        "partition `boot_a` read otherwise",
    ] {
        assert!(part["state"] == "good" && message.contains(word), "{part}");
    }
    assert!(std::fs::read(machine.partition("boot_a"))? == before && autoboot(machine) == AUTOBOOT);

    // What is in memory of the mounted folder says nothing of the card: there the name is another one.
    let first = machine.partition("ESP");
    let good = std::fs::read(&first)?;
    let at = good.windows(11).position(|name| name == b"AUTOBOOTTXT").context("no name")?;
    let mut bad = good.clone();
    bad[at] ^= 1;
    std::fs::write(&first, bad)?;
    let damaged = look()?.map(|looked| looked.damaged).unwrap_or_default();
    assert!(damaged.len() == 1 && damaged[0].what.contains("finds no `autoboot.txt`"), "{damaged:?}");
    std::fs::write(&first, good)?;

    rot(700 << 10);
    std::fs::remove_dir_all(machine.root("var/lib/edge/boot"))?;
    let part = boot();
    assert_eq!(part["state"], "trouble", "{part}");
    let line = "partition `boot_a` reads otherwise than it was written, and is not mended: no copy of it is whole hint: the machine may not start again: `edge bundle import` of another system writes slot b";
    assert_eq!(part["message"], line);
    assert_eq!(machine.status()["damage"][0]["slot"], "a");
    let told = machine.run(&["system", "status"]).good().out;
    assert!(told.contains(line), "{told}");
    Ok(())
}
