//! The data partition and a first boot's configuration, with the real cryptsetup and mkfs.ext4. A machine without
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
    for cut in 1..=2 {
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

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: a, image: b}]\n";

const NETWORK: &str =
    "[Match]\nName=eth0\n[Network]\nAddress=192.0.2.7/24\nGateway=192.0.2.1\nDNS=192.0.2.1\n";

pub fn provision(machine: &Machine) -> String {
    let mut command = machine.edge(&["system", "provision"]);
    // The appliance's own paths: nothing else is said of them.
    command.env_remove("EDGE_CONFIG");
    crate::command::Done::of(command.output().unwrap()).good().out
}

#[test]
fn a_first_boot_takes_its_configuration_once_and_a_reset_brings_it_back() {
    let machine = Machine::new();
    let put = |below: &str, text: &str| machine.place.write(&format!("machine/{below}"), text);
    machine.place.run(&["bundle", "keygen", "--out", "KEYS"]).good();
    let root = machine.place.read("KEYS/1.root.json");
    put("efi/edge-config/edge.toml", "[bundle]\ngateway = \"ship-7\"\n");
    put("efi/edge-config/1.root.json", &root);
    put("efi/edge-config/authorized_keys", "ssh-ed25519 no key\n");
    put("efi/edge-config/static-pods/web.yaml", POD);
    put("efi/edge-config/static-pods/bad.yaml", "kind: Deployment\n");
    put("efi/edge-config/network/10-lan.network", NETWORK);
    put("efi/edge-config/network/20-bad.network", "[Match]\nName=eth1\n[Network]\nAddress=192.0.2.300/24\n");
    put("efi/edge-config/readme.txt", "mine");
    let said = provision(&machine);
    assert!(
        said.contains("`network/20-bad.network` on the EFI system partition is not taken: `Address=192.0.2.300/24` is no address"),
        "{said}"
    );
    assert!(
        said.contains("`authorized_keys` on the EFI system partition is not taken: `ssh-ed25519 no key`"),
        "{said}"
    );
    assert!(
        said.contains("`static-pods/bad.yaml` on the EFI system partition is not taken: it is no Pod"),
        "{said}"
    );
    assert!(said.contains("configuration taken from the EFI system partition: "), "{said}");
    let read = |below: &str| std::fs::read_to_string(machine.root(below)).unwrap();
    assert_eq!(read("var/etc/edge/edge.toml"), "[bundle]\ngateway = \"ship-7\"\n");
    assert_eq!(read("var/lib/kubelet/static-pods/web.yaml"), POD);
    assert_eq!(read("var/etc/systemd/network/10-lan.network"), NETWORK);
    let mode =
        std::fs::metadata(machine.root("var/etc/systemd/network/10-lan.network")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o644, "networkd is no root");
    assert_eq!(read("run/edge/kubelet.env"), "KUBELET_ARGS=\n");
    assert!(!machine.root("var/etc/edge/authorized_keys").exists());
    // What was taken does not stay on FAT; what was not, does.
    let left = run(
        "sh",
        &["-c", &format!("cd {} && find . -type f | sort", machine.root("efi/edge-config").display())],
    );
    assert_eq!(left, "./authorized_keys\n./network/20-bad.network\n./readme.txt\n./static-pods/bad.yaml\n");
    let pinned = machine.run(&["trust", "show", "-o", "json"]).good().out;
    assert!(pinned.contains("\"version\": 1"), "{pinned}");

    // A second boot, with something else there: it is provisioned already.
    put("efi/edge-config/edge.toml", "[bundle]\ngateway = \"thief\"\n");
    assert_eq!(provision(&machine), "");
    assert_eq!(read("var/etc/edge/edge.toml"), "[bundle]\ngateway = \"ship-7\"\n");

    // A reset: all of /var is gone. What lies on the EFI system partition comes first, then what identity kept.
    std::fs::remove_dir_all(machine.root("var")).unwrap();
    std::fs::remove_dir_all(machine.place.path("state")).unwrap();
    std::fs::remove_dir_all(machine.root("efi/edge-config")).unwrap();
    let said = provision(&machine);
    assert!(
        said.contains(
            "taken from identity: edge.toml, 1.root.json, static-pods/web.yaml, network/10-lan.network"
        ),
        "{said}"
    );
    assert_eq!(read("var/etc/systemd/network/10-lan.network"), NETWORK);
    assert_eq!(read("var/etc/edge/edge.toml"), "[bundle]\ngateway = \"ship-7\"\n");
}

#[test]
fn a_wrong_configuration_is_told_and_asked_for_again() {
    let machine = Machine::new();
    let put = |below: &str, text: &str| machine.place.write(&format!("machine/{below}"), text);
    assert_eq!(provision(&machine), "", "nothing is there");
    assert!(!machine.root("var/etc/edge/edge.toml").exists());
    put("efi/edge-config/edge.toml", "offline-mode = 7\n");
    put("efi/edge-config/cloud.kubeconfig", "apiVersion: v1\n");
    let said = provision(&machine);
    assert!(
        said.contains("`edge.toml` on the EFI system partition is not taken: ")
            && said.contains("offline-mode"),
        "{said}"
    );
    assert!(said.contains("`cloud.kubeconfig` on the EFI system partition is not taken: "), "{said}");
    assert_eq!(said.lines().count(), 2, "one line each: {said}");
    assert!(!machine.root("var/etc/edge/edge.toml").exists());
    put("efi/edge-config/edge.toml", "offline-mode = false\n");
    assert!(provision(&machine).contains("configuration taken"));
    assert!(machine.root("var/etc/edge/edge.toml").exists());
}
