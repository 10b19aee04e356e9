//! The EFI system partition as an appliance mounts it, read only: whoever writes there makes it writable for that moment.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use crate::bundle_disk::run;
use crate::system::Machine;
use crate::system_import::Two;
use crate::system_provision::provision;

/// Of a machine, while this lives.
struct Sealed(PathBuf);

impl Sealed {
    fn new(machine: &Machine) -> Self {
        let (at, aside) = (machine.root("efi"), machine.root("efi-before"));
        std::fs::rename(&at, &aside).unwrap();
        std::fs::create_dir(&at).unwrap();
        let [path, before] = [&at, &aside].map(|path| path.display().to_string());
        run("mount", &["-t", "tmpfs", "-o", "mode=700", "tmpfs", &path]);
        let sealed = Self(at);
        sealed.open(|| run("cp", &["-a", &format!("{before}/."), &path]));
        sealed
    }

    /// What others than the running system do there: its firmware, and a person at another machine.
    fn open<T>(&self, work: impl FnOnce() -> T) -> T {
        let remount = |how: &str| run("mount", &["-o", how, &self.0.display().to_string()]);
        remount("remount,rw");
        let done = work();
        remount("remount,ro");
        done
    }

    #[track_caller]
    fn check(&self, after: &str) {
        let written = std::fs::File::create(self.0.join("later"));
        assert_eq!(written.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem, "after {after}");
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn whoever_writes_the_efi_system_partition_leaves_it_read_only() {
    let two = Two::new();
    let (machine, places) = (&two.machine, edge::system::Places::below(&two.machine.root("")));
    let efi = Sealed::new(machine);
    efi.check("the mount");

    // A first boot, after a power cut while the card was written elsewhere.
    efi.open(|| {
        machine.place.write("machine/efi/edge-config/edge.toml", "offline-mode = false\n");
        machine.place.write("machine/efi/FSCK0000.REC", "of what was written as the power went");
    });
    let said = provision(machine);
    assert!(said.contains("taken from the EFI system partition: edge.toml"), "{said}");
    let left = ["edge-config", "FSCK0000.REC"].map(|name| machine.root("efi").join(name).exists());
    assert_eq!(left, [false; 2], "what was taken, and what a check found, is removed");
    efi.check("a first boot");

    // An update that breaks off in the middle of its kernel, and one that does not.
    two.make(2, 3);
    let kernel = std::fs::read(two.depot.path("system-2/edge.efi")).unwrap();
    let digest = edge::sys::digest::Digest::sha256(&kernel);
    let blob = two.depot.path("stick/edge-bundle/main-1/blobs/sha256").join(digest.hex());
    let mut damaged = kernel.clone();
    damaged[200_000] ^= 1;
    std::fs::write(&blob, damaged).unwrap();
    two.refused(3, "is not what was signed");
    assert_eq!(machine.states(), "good empty a");
    efi.check("an import that broke off");
    std::fs::write(&blob, kernel).unwrap();
    two.import().good();
    assert_eq!(machine.states(), "good staged b");
    efi.check("an import");

    // It is found good, is not well later, and is given up by hand.
    assert_eq!(efi.open(|| machine.boot()), "b");
    machine.arm();
    assert_eq!(machine.states(), "good good b");
    efi.check("a good boot");
    efi.open(|| machine.boot());
    edge::system::unhealthy(&places, "kubelet is not well").unwrap();
    efi.check("a boot that was not well");
    machine.run(&["system", "rollback"]).good();
    assert_eq!(machine.states(), "good trying a");
    efi.check("a rollback");
    assert_eq!(efi.open(|| machine.boot()), "a");
    machine.arm();
    assert_eq!(machine.states(), "good failed a");
    efi.check("a good boot of the other slot");

    machine.run(&["system", "reset", "--yes"]).good();
    efi.check("a reset that was asked for");
}
