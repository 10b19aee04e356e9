//! Another system in a bundle, imported by an appliance: all of it or nothing, and never over what runs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::bundle_disk::{Disk, Mounted, ONE, ext4};
use crate::command::{Daemon, Done, Place};
use crate::system::{FACTORY, Machine, describe, kernel, system};

const CONFIG: &str = "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n";

/// A depot and an appliance, whose first system is good.
pub struct Two {
    pub depot: Place,
    pub machine: Machine,
}

impl Two {
    pub fn new() -> Self {
        let (depot, machine) = (Place::new(), Machine::new());
        depot.write("etc/edge.toml", CONFIG);
        machine.place.write("etc/edge.toml", CONFIG);
        std::fs::create_dir(depot.path("stick")).unwrap();
        depot.run(&["bundle", "keygen", "--out", "KEYS"]).good();
        let root = depot.path("KEYS/1.root.json").display().to_string();
        machine.run(&["trust", "pin", &root]).good();
        machine.arm();
        Self { depot, machine }
    }

    pub fn stick(&self) -> String {
        self.depot.path("stick").display().to_string()
    }

    pub fn create(&self, more: &[&str]) -> Done {
        self.create_of("main", more)
    }

    pub fn create_of(&self, stream: &str, more: &[&str]) -> Done {
        let stick = self.stick();
        let words = ["bundle", "create", "--stream", stream, "--keys", "KEYS", "--to", &stick];
        self.depot.run(&[&words, more].concat())
    }

    /// A bundle with system `number` and a file.
    pub fn make(&self, number: u8, megabytes: usize) -> String {
        let folder = self.depot.path(&format!("system-{number}"));
        let id = system(&folder, number, megabytes);
        let file = self.depot.write("notes.txt", &format!("of bundle {number}"));
        self.create(&["--file", &file.display().to_string(), "--system", &folder.display().to_string()])
            .good();
        id
    }

    /// Refused, with a last line that says so.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &str) {
        let done = self.import();
        let last = done.err.lines().last().unwrap_or_default();
        assert!(done.code == code && last.starts_with("edge: ") && last.contains(words), "{words}: {done:?}");
    }

    pub fn import(&self) -> Done {
        self.machine.run(&["bundle", "import", &self.stick()])
    }

    /// The stick where the appliance takes sticks by itself, with `more` in its configuration.
    fn plugged_in(&self, more: &str) -> Mounted {
        let media = self.machine.place.path("media/stick");
        let above = media.parent().unwrap().display().to_string();
        let auto = format!("[bundle]\nauto-import = true\nmedia-dirs = [\"{above}\"]\n");
        self.machine.place.write("etc/edge.toml", &format!("{CONFIG}{auto}{more}"));
        Mounted::new(Path::new(&self.stick()), &media, "bind")
    }

    /// Whether slot b is what the depot's folder holds, byte by byte.
    #[track_caller]
    fn check_b(&self, number: u8) {
        let folder = self.depot.path(&format!("system-{number}"));
        for (name, label) in [("root.erofs", "root_b"), ("root.verity", "verity_b")] {
            let (wanted, found) = (
                std::fs::read(folder.join(name)).unwrap(),
                std::fs::read(self.machine.partition(label)).unwrap(),
            );
            assert!(found.starts_with(&wanted), "{label} is not {name}");
        }
    }

    /// What must hold at any moment: slot a as it was written, and b absent or whole.
    fn check_any(&self, case: &str) -> bool {
        let entry = std::fs::read(self.machine.root("efi/EFI/Linux/edge-1+3.efi")).unwrap();
        assert!(entry == kernel(FACTORY), "{case}: the entry of the system that runs");
        assert_eq!(self.machine.verity_of("a"), FACTORY.replace('-', ""), "{case}");
        let b = self.machine.entries().into_iter().find(|name| name != "edge-1+3.efi");
        let Some(name) = b else { return false };
        let kernel = std::fs::read(self.machine.root("efi/EFI/Linux").join(name)).unwrap();
        let number = [2, 3].into_iter().find(|number| {
            let folder = self.depot.path(&format!("system-{number}"));
            std::fs::read(folder.join("edge.efi")).is_ok_and(|wanted| wanted == kernel)
        });
        self.check_b(number.unwrap_or_else(|| panic!("{case}: a kernel that is of no system")));
        true
    }
}

#[test]
fn an_update_goes_to_the_other_slot_and_is_tried() {
    let two = Two::new();
    two.make(2, 3);
    let told = two.machine.run(&["bundle", "inspect", &two.stick()]).good().out;
    assert!(told.contains("System      2.2 for amd64 on generic-efi, 3"), "{told}");
    let told = two.machine.run(&["bundle", "verify", &two.stick()]).good().out;
    assert!(told.contains("System      2.2 for amd64 on generic-efi"), "{told}");
    let told = two.import().good();
    assert!(told.out.contains("system 2.2 is staged in slot b; the next boot tries it"), "{told:?}");
    assert!(told.err.contains("system 2.2: 3"), "{told:?}");
    two.check_b(2);
    assert_eq!(two.machine.states(), "good staged b");
    assert_eq!(two.machine.entries(), ["edge-1+3.efi", "edge-2+3.efi"]);
    let status = two.machine.status();
    let b = &status["slots"][1];
    assert_eq!((&b["version"], &b["stream"], &b["seq"]), (&"2.2".into(), &"main".into(), &1.into()));
    let told = two.machine.run(&["bundle", "history"]).good().out;
    assert!(told.contains("SYSTEM") && told.contains("2.2"), "{told}");

    // Nothing of it is in the store, and the receipt does not claim it.
    let digest = b["verity"].as_str().unwrap();
    assert_eq!(digest.len(), 36);
    let receipts = std::fs::read_dir(two.depot.path("stick/edge-receipts")).unwrap().flatten();
    let have = receipts.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "have"));
    assert_eq!(std::fs::read_to_string(have.unwrap()).unwrap().lines().count(), 3, "the file alone");
    assert_eq!(two.machine.run(&["store", "verify"]).good().out.split(' ').next(), Some("6"));

    // The same bundle again stages it again, with a new number, unless it is good.
    let told = two.import().good().out;
    assert!(told.contains("it is in force already; its system alone is staged again"), "{told}");
    assert_eq!(two.machine.entries(), ["edge-1+3.efi", "edge-3+3.efi"]);
    assert_eq!(two.machine.boot(), "b");
    let told = two.import().good().out;
    assert!(told.contains("system 2.2 runs already, in slot b"), "{told}");
    // What is not found good yet is not traded for what is good.
    two.make(3, 2);
    let early = "slot a is the only good one, and slot b that runs was not found good yet hint: wait until ";
    two.refused(1, early);
    two.machine.arm();
    assert_eq!(two.machine.states(), "good good b");

    // The next one goes to a; what was there is gone first.
    let telling = two.import().good().out;
    assert!(telling.contains("system 2.3 is staged in slot a"), "{telling}");
    assert_eq!(two.machine.states(), "staged good a");
    assert_eq!(two.machine.entries(), ["edge-3+3.efi", "edge-4+3.efi"]);
    assert_eq!(two.machine.boot(), "a");
    two.machine.arm();
    assert_eq!(two.machine.states(), "good good a");
    // An older one is refused like any older bundle.
    let old = format!("{}/edge-bundle/main-1", two.stick());
    two.machine.run(&["bundle", "import", &old]).bad(3, "sequence 1 of stream `main` is not above 2");
}

#[test]
fn the_daemon_does_it_too_and_a_failed_one_is_staged_again_by_hand() {
    let two = Two::new();
    two.make(2, 2);
    let mut daemon =
        two.machine.edge(&["daemon"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !two.machine.run(&["status"]).code.eq(&0) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let told = two.import();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let told = told.good();
    assert!(told.out.contains("system 2.2 is staged in slot b"), "{told:?}");
    two.check_b(2);
    for _ in 0..3 {
        assert_eq!(two.machine.boot(), "b");
    }
    assert_eq!(two.machine.boot(), "a");
    assert_eq!(two.machine.states(), "good failed a");
    two.machine.arm();
    assert!(two.import().good().out.contains("staged in slot b"));
    assert_eq!(two.machine.states(), "good staged b");
}

/// A stick that stays plugged in brings a system once, starts it, and does not bring a failed one again.
#[test]
fn with_auto_import_it_starts_by_itself_and_once() {
    let two = Two::new();
    two.make(2, 2);
    let rebooted = two.machine.root("rebooted");
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", rebooted.display());
    two.machine.place.write("machine/bin/systemctl", &script);
    Command::new("chmod").arg("755").arg(two.machine.root("bin/systemctl")).status().unwrap();
    let _mounted = two.plugged_in("[system]\nreboot = \"after-import\"\n");
    let boot = |until: &dyn Fn() -> bool| {
        let mut daemon = two.machine.edge(&["daemon"]);
        let mut daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = std::time::Instant::now();
        while !until() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{}", two.machine.run(&["status"]).out);
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    };
    let reboots = || std::fs::read_to_string(&rebooted).unwrap_or_default().lines().count();
    boot(&|| reboots() == 1);
    two.check_b(2);
    let outcome = std::fs::read_dir(two.depot.path("stick/edge-receipts")).unwrap().flatten();
    let outcome =
        outcome.map(|e| e.path()).find(|path| path.extension().is_some_and(|e| e == "txt")).unwrap();
    let told = std::fs::read_to_string(&outcome).unwrap();
    assert!(told.contains("system 2.2 is staged in slot b"), "{told}");
    for _ in 0..3 {
        assert_eq!(two.machine.boot(), "b");
    }
    assert_eq!(two.machine.boot(), "a");
    std::fs::remove_file(&outcome).unwrap();
    let looked = || {
        let status = two.machine.run(&["status", "-o", "json"]);
        serde_json::from_str::<Value>(&status.out).is_ok_and(|status| {
            let parts = status["parts"].as_array().cloned().unwrap_or_default();
            parts.iter().any(|part| {
                part["part"] == "bundle" && part["message"].as_str().unwrap().contains("nothing new")
            })
        })
    };
    boot(&looked);
    assert_eq!((reboots(), two.machine.states().as_str()), (1, "good failed a"));
    // A person who imports it again means it, and the same setting starts it.
    let told = two.import().good().out;
    assert!(told.contains("staged in slot b; the next boot tries it; the machine starts anew"), "{told}");
    assert_eq!(reboots(), 2);
}

/// After an update's reboot it takes minutes until the new system is found good. Nobody stands by to plug the stick in again.
#[test]
fn a_stick_that_comes_before_the_boot_is_judged_is_taken_after_it() {
    let two = Two::new();
    two.make(2, 1);
    two.import().good();
    assert_eq!(two.machine.boot(), "b");
    two.make(3, 1);
    let _mounted = two.plugged_in("");
    let daemon = Daemon::start_by(&two.machine.place, two.machine.edge(&["daemon"]));
    let wait = |words: &str| {
        let begun = std::time::Instant::now();
        while !two.machine.run(&["status", "-o", "json"]).out.contains(words) {
            let log = two.machine.place.read("daemon.log");
            assert!(begun.elapsed() < Duration::from_secs(40), "not so in time: {words}\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait("slot b that runs was not found good yet hint: it is tried again by itself");
    assert_eq!(two.machine.states(), "good trying b");
    two.machine.arm();
    wait("system 2.3 is staged in slot a");
    drop(daemon);
    assert_eq!(two.machine.states(), "staged good a");
}

#[test]
fn another_machine_takes_all_but_the_system() {
    let two = Two::new();
    two.make(2, 1);
    let gateway = Place::new();
    gateway.run(&["trust", "pin", &two.depot.path("KEYS/1.root.json").display().to_string()]).good();
    let mut import = gateway.edge(&["bundle", "import", &two.stick()]);
    let told = Done::of(import.env("EDGE_SYSTEM_ROOT", gateway.path("nothing")).output().unwrap()).good().out;
    assert!(told.contains("in force as generation 1: 1 refs"), "{told}");
    assert!(told.contains("system 2.2 in it is for an appliance, which this is not: left out"), "{told}");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_changes() {
    let two = Two::new();
    let folder = two.depot.path("system-2");
    let id = system(&folder, 2, 2);
    let shown = folder.display().to_string();
    let before = two.machine.states();
    let refused = |code: i32, words: &str| {
        two.create(&["--system", &shown]).good();
        two.refused(code, words);
        assert_eq!(two.machine.states(), before, "{words}");
        assert_eq!(two.machine.entries(), ["edge-1+3.efi"], "{words}");
        let history = two.machine.run(&["bundle", "history", "-o", "json"]).good().out;
        assert_eq!(history.trim(), "[]", "{words}");
    };
    describe(&folder, &id, "2.2", "arm64", "generic-efi");
    refused(3, "the bundle holds a system for architecture `arm64`, and this appliance is of `amd64`");
    describe(&folder, &id, "2.2", "amd64", "raspberry-pi");
    refused(3, "the bundle holds a system for board `raspberry-pi`, and this appliance is of `generic-efi`");
    std::fs::write(folder.join("edge.efi"), kernel(FACTORY)).unwrap();
    describe(&folder, &id, "2.2", "amd64", "generic-efi");
    refused(3, "kernel, hash tree and root file system do not belong together");
    system(&folder, 2, 30);
    refused(1, "partition `root_b` has 25165824 bytes, and the system needs 31457280");
    system(&folder, 2, 2);
    let esp = two.machine.root("efi");
    let words = ["-t", "tmpfs", "-o", "size=1400k", "tmpfs"];
    assert!(Command::new("mount").args(words).arg(&esp).status().unwrap().success());
    std::fs::create_dir_all(esp.join("EFI/Linux")).unwrap();
    two.machine.put_entry("edge-1+3.efi", FACTORY);
    std::fs::write(esp.join("filling"), vec![0; 400_000]).unwrap();
    two.create(&["--system", &shown]).good();
    let done = two.import();
    let entries = two.machine.entries();
    assert!(Command::new("umount").arg(&esp).status().unwrap().success());
    done.bad(1, "the EFI system partition has ");
    assert_eq!(entries, ["edge-1+3.efi"]);
    // What is not what its own description says never becomes a bundle.
    std::fs::write(folder.join("root.erofs"), "other").unwrap();
    two.create(&["--system", &shown]).bad(2, "is not what `system.json` says of it");
    two.create(&["--system", "nowhere"]).bad(2, "system.json");
}

#[test]
fn a_damaged_or_pulled_stick_leaves_the_slot_empty_and_all_else_as_it_was() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let two = Two::new();
    two.make(2, 4);
    let root = std::fs::read(two.depot.path("system-2/root.erofs")).unwrap();
    let digest = edge::sys::digest::Digest::sha256(&root);
    let blob = two.depot.path("stick/edge-bundle/main-1/blobs/sha256").join(digest.hex());
    let mut damaged = root.clone();
    damaged[3 << 20] ^= 1;
    std::fs::write(&blob, damaged).unwrap();
    two.refused(3, "is not what was signed");
    assert_eq!(two.machine.states(), "good empty a");
    assert_eq!(two.machine.run(&["bundle", "history", "-o", "json"]).good().out.trim(), "[]");
    let left = two.machine.run(&["store", "verify"]).good().out;
    assert!(left.starts_with("0 blobs"), "a refused import leaves nothing: {left}");
    std::fs::write(&blob, root).unwrap();

    let image = std::fs::read(ext4(two.depot.folder.path(), 64, Some(Path::new(&two.stick())))).unwrap();
    let mut pulled = 0;
    for requests in [8, 12, 16, 20, 24, 40] {
        let disk = Disk::new(&two.depot.path("pulled"), image.clone(), "ro,noload");
        disk.medium.pull_after(requests);
        let done = two.machine.run(&["bundle", "import", &disk.path().display().to_string()]);
        if done.code != 0 {
            pulled += 1;
            assert!(done.err.contains("still plugged in?"), "{requests}: {done:?}");
            assert_eq!(two.machine.states(), "good empty a", "{requests}");
        }
        // The kernel reads ahead as it likes: one that was pulled too late leaves nothing for the next one to spoil.
        if two.check_any(&requests.to_string()) {
            break;
        }
    }
    assert!(pulled > 1, "it was never pulled in time");
    two.import().good();
    two.check_b(2);
}

/// kill -9 at any moment: whatever boots then is whole, and the same command again ends it.
#[test]
fn killed_at_any_moment_what_runs_boots_again() {
    let two = Two::new();
    two.make(2, 16);
    two.import().good();
    // Of one size, so that a later one of this number has the same bytes: one in b may outlive six kills.
    two.make(3, 16);
    let begun = std::time::Instant::now();
    two.import().good();
    let mut whole = begun.elapsed();
    let (mut empty, mut killed) = (0, 0);
    for round in 0..100_u32 {
        if killed >= 24 {
            break;
        }
        // Each begins with another whole system in b, as a good one would be.
        if round % 6 == 0 {
            std::fs::remove_dir_all(two.depot.path("stick/edge-bundle")).unwrap();
            two.make(if round % 12 == 0 { 2 } else { 3 }, 16);
        }
        let mut import = two.machine.edge(&["bundle", "import", &two.stick()]);
        let mut child = import.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * (round % 12) / 13);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        match status.code() {
            None => killed += 1,
            // It was quicker than the one that was measured.
            Some(_) => whole = whole * 4 / 5,
        }
        empty += u32::from(!two.check_any(&format!("round {round}")));
        let state = two.machine.states();
        assert!(["good empty a", "good staged b"].contains(&&*state), "round {round}: {state}");
    }
    assert!(killed >= 24 && empty >= 3, "{killed} killed, {empty} in between");
    two.import().good();
    assert!(two.check_any("at the end"));
    let left: Vec<_> = std::fs::read_dir(two.machine.root("efi/EFI/Linux")).unwrap().flatten().collect();
    assert_eq!(left.len(), 2, "what was never finished is gone: {left:?}");
}

/// The sticks of one bundle are for every edge that could read it before; one with a system asks for one that knows it.
#[test]
fn only_a_bundle_with_a_system_asks_for_a_newer_edge() {
    let two = Two::new();
    let importer = |folder: &str| {
        let path = two.depot.path("stick/edge-bundle").join(folder).join("manifest.dsse");
        let envelope: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        use base64::Engine as _;
        let payload = envelope["payload"].as_str().unwrap();
        let payload = base64::engine::general_purpose::STANDARD.decode(payload).unwrap();
        serde_json::from_slice::<Value>(&payload).unwrap()["importer"].as_u64().unwrap()
    };
    let file = two.depot.write("notes.txt", "x").display().to_string();
    two.create(&["--file", &file]).good();
    two.make(2, 1);
    assert_eq!((importer("main-1"), importer("main-2")), (1, 2));
}
