//! The data partition, with the real cryptsetup and mkfs.ext4. A machine without
//! device mapper cannot open LUKS; what stands in its place checks the passphrase with cryptsetup itself, and shows the
//! payload by a loop device.

use std::path::PathBuf;

use crate::bundle_disk::run;
use crate::system::Machine;

/// Everything but opening and closing is cryptsetup's own.
const CRYPTSETUP: &str = r#"#!/bin/sh
# Each call is written down; the one whose number stands in `cut` is where the power goes.
echo "$*" >> @ROOT@/calls
real=@REAL@
[ "$(wc -l < @ROOT@/calls)" = "$(cat @ROOT@/cut 2>/dev/null)" ] && { kill -9 $PPID; exit 1; }
case $1 in
open)
    for device; do last=$before before=$device; done
    $real open --test-passphrase --type luks2 --key-file - "$last" || exit 2
    offset=$($real luksDump "$last" | sed -n 's/.*offset: \([0-9]*\) \[bytes\].*/\1/p' | head -1)
    ln -s "$(losetup -f --show -o "$offset" "$last")" @ROOT@/dev/mapper/data
    ;;
close)
    losetup -d "$(readlink @ROOT@/dev/mapper/data)" && rm @ROOT@/dev/mapper/data
    ;;
*) exec $real "$@" ;;
esac
"#;

struct Disk {
    machine: Machine,
}

impl Disk {
    fn new() -> Self {
        let machine = Machine::new();
        let real = run("sh", &["-c", "command -v cryptsetup"]);
        let root = machine.root("");
        let script = CRYPTSETUP
            .replace("@ROOT@", root.display().to_string().trim_end_matches('/'))
            .replace("@REAL@", real.trim());
        machine.place.write("machine/bin/cryptsetup", &script);
        run("chmod", &["755", &machine.root("bin/cryptsetup").display().to_string()]);
        // This processor has AES; the kernel of a test machine need not have anything else.
        machine.place.write("machine/proc/cpuinfo", "flags : aes\n");
        Self { machine }
    }

    fn mapped(&self) -> PathBuf {
        self.machine.root("dev/mapper/data")
    }

    /// As at a boot: nothing is open.
    fn power_off(&self) {
        if let Ok(device) = std::fs::read_link(self.mapped()) {
            run("losetup", &["-d", &device.display().to_string()]);
            std::fs::remove_file(self.mapped()).unwrap();
        }
        let _ = std::fs::remove_file(self.machine.root("calls"));
    }

    fn open(&self) -> String {
        self.machine.run(&["system", "open-data"]).good().out
    }

    fn has(&self, name: &str) -> bool {
        self.machine.root("identity").join(name).exists()
    }

    /// The UUID of the file system in it.
    fn uuid(&self) -> String {
        let info = run("dumpe2fs", &["-h", &self.mapped().display().to_string()]);
        let line = info.lines().find(|line| line.starts_with("Filesystem UUID:")).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.power_off();
    }
}

#[test]
fn data_is_made_once_and_opened_ever_after_until_a_reset() {
    let disk = Disk::new();
    assert_eq!(disk.open(), "edge: the data partition is made\n");
    let first = disk.uuid();
    let key = std::fs::read(disk.machine.root("identity/data.key")).unwrap();
    assert_eq!(key.len(), 32);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(disk.machine.root("identity/data.key")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(disk.open(), "", "open already");
    disk.power_off();
    assert_eq!(disk.open(), "");
    assert_eq!(disk.uuid(), first);

    // A key that does not fit, or is gone, formats nothing.
    disk.power_off();
    std::fs::write(disk.machine.root("identity/data.key"), [7; 32]).unwrap();
    disk.machine.run(&["system", "open-data"]).bad(1, "the data partition cannot be opened: ");
    std::fs::remove_file(disk.machine.root("identity/data.key")).unwrap();
    disk.machine.run(&["system", "open-data"]).bad(1, "cannot be opened: cannot read `");
    std::fs::write(disk.machine.root("identity/data.key"), &key).unwrap();
    assert_eq!(disk.open(), "");
    assert_eq!(disk.uuid(), first);

    // A reset: the old key opens nothing any more, not even with the old header's place known.
    disk.machine.run(&["system", "reset"]).bad(2, "a reset gives all data up");
    disk.machine.run(&["system", "reset", "--yes"]).good();
    disk.power_off();
    assert_eq!(disk.open(), "edge: factory reset: the data is gone, and made anew\n");
    assert_ne!(disk.uuid(), first);
    assert!(!disk.has("factory-reset") && disk.has("data-ready"));
    assert_ne!(std::fs::read(disk.machine.root("identity/data.key")).unwrap(), key);
}

/// Killed at each call of cryptsetup, at a first boot and at a reset: the next boot ends it.
#[test]
fn a_cut_while_data_is_made_or_given_up_costs_nothing() {
    let disk = Disk::new();
    // The key of the one before is tried first.
    for cut in 1..=3 {
        std::fs::write(disk.machine.root("cut"), cut.to_string()).unwrap();
        let done = disk.machine.run(&["system", "open-data"]);
        assert_eq!(done.code, -1, "{cut}: {done:?}");
        assert!(!disk.has("data-ready"), "{cut}");
        disk.power_off();
    }
    std::fs::remove_file(disk.machine.root("cut")).unwrap();
    assert_eq!(disk.open(), "edge: the data partition is made\n");
    let mut last = disk.uuid();
    for cut in 1..=3 {
        disk.machine.run(&["system", "reset", "--yes"]).good();
        disk.power_off();
        std::fs::write(disk.machine.root("cut"), cut.to_string()).unwrap();
        let done = disk.machine.run(&["system", "open-data"]);
        assert_eq!(done.code, -1, "{cut}: {done:?}");
        disk.power_off();
        std::fs::remove_file(disk.machine.root("cut")).unwrap();
        disk.open();
        assert_ne!(disk.uuid(), last, "{cut}");
        last = disk.uuid();
        assert!(!disk.has("factory-reset"), "{cut}");
    }
}

/// What e2fsck takes from a worn identity may be the note alone that the data is made.
#[test]
fn data_that_was_used_is_not_made_anew_where_the_note_of_it_is_lost() {
    let disk = Disk::new();
    disk.open();
    let (first, note) = (disk.uuid(), disk.machine.root("identity/data-ready"));
    // Made, and cut off before that was noted.
    disk.power_off();
    std::fs::remove_file(&note).unwrap();
    assert_eq!(disk.open(), "edge: the data partition is made\n");
    let second = disk.uuid();
    assert_ne!(second, first);

    run("debugfs", &["-w", "-R", "set_super_value mnt_count 1", &disk.mapped().display().to_string()]);
    disk.power_off();
    std::fs::remove_file(&note).unwrap();
    let done = disk.machine.run(&["system", "open-data"]).good();
    assert!(done.err.contains("identity had lost `data-ready`") && done.out.is_empty(), "{done:?}");
    assert_eq!(disk.uuid(), second);
    disk.power_off();
    assert_eq!((disk.open(), disk.uuid()), (String::new(), second));
}

/// The real systemd-creds and a software TPM: the key is nowhere on the disk, and of no use beside another TPM.
#[test]
fn the_key_is_sealed_to_a_tpm_where_there_is_one() {
    let disk = Disk::new();
    let root = disk.machine.root("");
    let (state, socket) = (root.join("tpm"), root.join("tpm.sock"));
    let start = |state: &std::path::Path| {
        std::fs::create_dir_all(state).unwrap();
        let _ = std::fs::remove_file(&socket);
        let child = std::process::Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", state.display()))
            .args(["--server", &format!("type=unixio,path={}", socket.display())])
            .args(["--ctrl", &format!("type=unixio,path={}.ctrl", socket.display())])
            // It says of each client that it has gone, which would bury what a failed test says.
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while !socket.exists() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        child
    };
    // Each client ends the software's session; so each gets one of its own.
    let script = format!(
        "#!/bin/sh\nexec $(PATH=/usr/bin:/bin command -v systemd-creds) --tpm2-device=swtpm:path={} \"$@\"\n",
        socket.display()
    );
    disk.machine.place.write("machine/bin/systemd-creds", &script);
    run("chmod", &["755", &disk.machine.root("bin/systemd-creds").display().to_string()]);
    disk.machine.place.write("machine/dev/tpmrm0", "");
    let mut tpm = start(&state);
    assert_eq!(disk.open(), "edge: the data partition is made\n");
    let first = disk.uuid();
    assert!(disk.has("data.key.tpm") && !disk.has("data.key"));
    disk.power_off();
    assert_eq!(disk.open(), "");
    assert_eq!(disk.uuid(), first);
    // Its driver comes late. A TPM that starts anew has room for sessions again.
    disk.power_off();
    tpm.kill().unwrap();
    tpm.wait().unwrap();
    tpm = start(&state);
    let device = disk.machine.root("dev/tpmrm0");
    std::fs::remove_file(&device).unwrap();
    let late = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        std::fs::write(device, "").unwrap();
    });
    let begun = std::time::Instant::now();
    assert_eq!(disk.open(), "");
    assert!(begun.elapsed() >= std::time::Duration::from_millis(900), "{:?}", begun.elapsed());
    late.join().unwrap();
    disk.power_off();
    tpm.kill().unwrap();
    tpm.wait().unwrap();
    let mut other = start(&root.join("other-tpm"));
    disk.machine
        .run(&["system", "open-data"])
        .bad(1, "the data partition cannot be opened: `systemd-creds decrypt");
    other.kill().unwrap();
    other.wait().unwrap();

    // A TPM that does not answer is told, and the machine starts all the same.
    let disk = Disk::new();
    disk.machine.place.write("machine/bin/systemd-creds", "#!/bin/sh\necho no TPM2 support >&2\nexit 1\n");
    run("chmod", &["755", &disk.machine.root("bin/systemd-creds").display().to_string()]);
    disk.machine.place.write("machine/dev/tpmrm0", "");
    let done = disk.machine.run(&["system", "open-data"]).good();
    assert!(
        done.err.contains("the key of the data is not sealed to the TPM: ") && disk.has("data.key"),
        "{done:?}"
    );
    // And at later boots, as where it came later.
    disk.power_off();
    let done = disk.machine.run(&["system", "open-data"]).good();
    assert!(
        done.err.contains("the key of the data lies open on identity, and this machine has a TPM"),
        "{done:?}"
    );
}

#[test]
fn a_partition_that_is_missing_or_too_small_is_told() {
    let disk = Disk::new();
    let told = disk.machine.root("sys/class/block/vda/vda-data");
    std::fs::rename(&told, disk.machine.root("hidden")).unwrap();
    disk.machine.run(&["system", "open-data"]).bad(1, "disk `vda` has no partition `data` hint: ");
    std::fs::rename(disk.machine.root("hidden"), &told).unwrap();
    std::fs::File::create(disk.machine.partition("data")).unwrap().set_len(1 << 20).unwrap();
    disk.machine.run(&["system", "open-data"]).bad(1, "partition `data` has 1048576 bytes");
    assert!(!disk.has("data-ready"));
}
