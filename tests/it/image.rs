//! The appliance image, made and booted: real packages, real firmware, a real kernel.
//!
//! The machine's owner comes in by SSH, with the key that the image was built with, and sees the console. The long ones
//! are of `scripts/test --long`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command::Place;
use crate::support::vm::{self, Arch, Cable, Disk, Vm};
use crate::support::{image_archive, parts};

/// The pod that comes with the image: it writes to the console of the machine, for there may be no other way out.
const POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: greeter
spec:
  containers:
  - name: greeter
    image: docker.io/ship/greeter:1
    command: [sh, -c, 'echo GREETING from $(hostname) > /dev/ttyS0; sleep 2147483647']
    securityContext:
      privileged: true
  - name: confined
    image: docker.io/ship/greeter:1
    command: [sh, -c, 'cat /proc/self/attr/current; sleep 2147483647']
    securityContext:
      appArmorProfile: {type: RuntimeDefault}
";
/// The address that QEMU's own network lets the tests in at.
pub const NETWORK: &str =
    "[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nDNS=10.0.2.3\n";
/// How long a machine without KVM may take to a healthy system.
pub const BOOT: Duration = Duration::from_secs(400);
/// What `edge system healthy` writes to the console.
pub const HEALTHY: &str = "edge: slot a is good";

/// What images are made of in these tests: programs, a bundle and keys, in a folder that lives as long as the tests.
pub struct Workshop {
    pub place: Place,
}

impl Workshop {
    /// In a folder of this name.
    pub fn new(name: &str) -> Result<Self> {
        // What outlives the tests of one run, gigabytes of it, goes when the next one begins.
        let rest = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if rest.exists() {
            std::fs::remove_dir_all(&rest)?;
        }
        std::fs::create_dir_all(&rest)?;
        let place = Place { folder: tempfile::tempdir_in(&rest)? };
        std::fs::create_dir(place.path("etc"))?;
        place.write(
            "etc/edge.toml",
            "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n",
        );
        Vm::key(&place.path("owner"))?;
        place.run(&["bundle", "keygen", "--out", "KEYS"]).good();
        let archive = image_archive(place.folder.path(), &["docker.io/ship/greeter:1"])?;
        place.run(&["image", "import", &archive.display().to_string()]).good();
        std::fs::create_dir(place.path("stick"))?;
        let stick = place.path("stick").display().to_string();
        place
            .run(&["bundle", "create", "--stream", "main", "--keys", "KEYS", "--to", &stick, "--full"])
            .good();
        place.write("pods/greeter.yaml", POD);
        place.write("gateway.toml", "[bundle]\ngateway = \"ship-7\"\n");
        Ok(Self { place })
    }

    /// `edge-pack image` with what every image of these tests has.
    pub fn pack(&self, out: &Path, more: &[&str]) -> Result<Command> {
        let edge = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/snap-test/edge-amd64");
        ensure!(
            edge.exists(),
            "no static edge hint: scripts/snap --quick --arch amd64 --out target/snap-test"
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-pack"));
        command.args(["image", "--arch", "amd64", "--edge"]).arg(edge).arg("--out").arg(out);
        if !more.contains(&"--kubelet") {
            command.arg("--kubelet").arg(parts::kubernetes("kubelet")?);
        }
        for (option, below) in [
            ("--authorized-key", "owner/key.pub"),
            ("--trust", "KEYS/1.root.json"),
            ("--config", "gateway.toml"),
            ("--static-pods", "pods"),
            ("--image-bundle", "stick"),
        ] {
            command.arg(option).arg(self.place.path(below));
        }
        command.args(more).env("SOURCE_DATE_EPOCH", "1767225600");
        Ok(command)
    }

    /// Makes an image; its path.
    pub fn make(&self, name: &str, more: &[&str]) -> Result<PathBuf> {
        let out = self.place.path(name);
        let output = self.pack(&out, more)?.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(out)
    }

    /// A machine that boots the image, whose owner is of this workshop.
    pub fn machine(&self, name: &str, image: &Path, cable: Cable) -> Result<Vm> {
        let place = self.place.path(name);
        std::fs::create_dir_all(&place)?;
        std::fs::copy(self.place.path("owner/key"), place.join("key"))?;
        Vm::new(Arch::Amd64, &place, image, 4, cable)
    }
}

/// The image that most tests boot, made once.
pub fn made() -> &'static (Workshop, PathBuf) {
    static MADE: OnceLock<(Workshop, PathBuf)> = OnceLock::new();
    MADE.get_or_init(|| {
        let workshop = Workshop::new("image").unwrap();
        let image = workshop.make("edge.img", &[]).unwrap();
        (workshop, image)
    })
}

fn json(path: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(path).with_context(|| path.display().to_string())?)?)
}

/// A machine that never saw a network: from a blank card to a healthy gateway whose pod runs.
#[test]
fn a_gateway_boots_from_the_image_and_runs_the_pod_that_came_with_it() -> Result<()> {
    let (workshop, image) = made();
    let beside = |end: &str| PathBuf::from(format!("{}{end}", image.display()));
    let sbom = json(&beside(".spdx.json"))?;
    let names: Vec<&str> =
        sbom["packages"].as_array().unwrap().iter().filter_map(|package| package["name"].as_str()).collect();
    assert!(
        ["edge", "kubelet", "containerd", "runc", "systemd"].iter().all(|name| names.contains(name)),
        "{names:?}"
    );
    let system = json(&beside(".system/system.json"))?;
    assert_eq!((&system["format"], &system["arch"]), (&1.into(), &"amd64".into()));

    let lock = std::fs::read_to_string(beside(".lock"))?;
    assert!(lock.contains("sha256") && std::fs::read_to_string(beside(".system/packages.lock"))? == lock);

    let mut machine = workshop.machine("first", image, Cable::Lonely)?;
    machine.start()?;
    machine.wait(HEALTHY, BOOT)?;
    machine.wait("GREETING from greeter", BOOT)?;

    let told = machine.run("cat /run/edge-slot; ls /efi/EFI/Linux; systemctl --failed --no-legend --plain; systemctl is-active edge containerd kubelet chrony nftables systemd-networkd")?;
    assert!(told.starts_with("a\nedge-1+3.efi\n"), "{told}");
    // No unit that failed stands between, and each of those that are asked for is active.
    let (_, states) = told.split_once("+3.efi\n").context("no boot entry")?;
    assert_eq!(states.lines().collect::<Vec<_>>(), ["active"; 6], "{told}");
    // Their file systems were looked at before they were mounted.
    let told =
        machine.run("systemctl is-active systemd-fsck@dev-mapper-data systemd-fsck@dev-disk-edge-ESP")?;
    assert_eq!(told, "active\n".repeat(2));
    // All is of the disk that was started from, and what runs as edge's unit may open it: it writes the other slot.
    let told = machine.run("cat /run/edge-disk; ls /dev/disk/edge; findmnt -no SOURCE /efi; sh -ec 'echo $$ >/sys/fs/cgroup/system.slice/edge.service/cgroup.procs; dd if=/dev/disk/edge/root_b of=/dev/null bs=4096 count=1 status=none; echo opened; dd if=/dev/kmsg of=/dev/null count=0 2>/dev/null || echo closed'")?;
    for part in ["vda\n", "\nESP\n", "\ndata\n", "\nroot_b\n", "/dev/vda1\n", "opened\nclosed\n"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // What it was made of, to be read on it; and the partition of the boot entries is writable while edge writes there alone.
    assert_eq!(machine.run("cat /usr/share/edge/packages.lock")?, lock);
    let told = machine.run("findmnt -no OPTIONS /efi; findmnt -no OPTIONS /identity")?;
    assert!(told.lines().count() == 2 && told.lines().all(|options| options.starts_with("ro,")), "{told}");
    // Who opens connections to port 22 has a limit of their own: this is QEMU's address for us.
    let told = machine.run("nft list set inet edge ssh")?;
    assert!(told.contains("10.0.2.2 limit rate over "), "{told}");
    // A file of the owner's firewall that is wrong costs itself alone.
    machine.run("printf 'table inet own {\n chain c {\n ip daddr 10.0.0.9 drop\n }\n}\n' >/etc/edge/nftables.d/20-own.nft; echo slip >/etc/edge/nftables.d/10-wrong.nft; systemctl reload nftables")?;
    let told = machine.run("nft list ruleset; edge status -o json")?;
    for part in [
        "169.254.64.45 drop",
        "table inet own {",
        "firewall: `/etc/edge/nftables.d/10-wrong.nft` is not in force: ",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    machine.wait("edge: firewall: `/etc/edge/nftables.d/10-wrong.nft` is not in force: ", BOOT)?;
    // Loaded again it is there once; others' rules outlive a restart, and its own go with the file.
    let told = machine.run("iptables -t nat -N EDGE-TEST; systemctl reload nftables; systemctl restart nftables; iptables -t nat -S EDGE-TEST; iptables -t nat -X EDGE-TEST; nft list table inet own")?;
    assert!(told.contains("-N EDGE-TEST") && told.matches("10.0.0.9 drop").count() == 1, "{told}");
    machine.run("rm /etc/edge/nftables.d/*; systemctl reload nftables; nft list table inet own && exit 1; nft list table inet edge || exit 1; edge status -o json | grep -q firewall: && exit 1; exit 0")?;
    // Nothing of the system can be written, not even by root, and none of it is what an attacker wrote to the disk.
    for attempt in [
        "touch /usr/bin/x",
        "touch /etc/x",
        "mount -o remount,rw /",
        "dd if=/dev/zero of=/dev/mapper/root count=1",
    ] {
        let output = machine.try_run(attempt, BOOT)?;
        assert!(!output.status.success(), "`{attempt}` was allowed");
    }
    // The data partition took what the disk of 4 GiB has left, under a key.
    let size: u64 = machine.run("df --output=size -B1M /var | tail -1")?.trim().parse()?;
    assert!((2000..3000).contains(&size), "{size} MiB of data");
    let told = machine.run("cryptsetup status data")?;
    assert!(told.contains("LUKS2"), "{told}");
    // A container that is not privileged is confined, as on any Debian.
    let told = machine.run("for i in $(seq 90); do edge pod logs greeter-$(hostname) -c confined | grep . && exit; sleep 1; done; edge pod describe greeter-$(hostname)")?;
    assert_eq!(told, "cri-containerd.apparmor.d (enforce)\n");
    let told = machine.run("sysctl -n kernel.sysrq net.ipv4.conf.default.rp_filter net.ipv4.conf.lo.rp_filter net.ipv4.conf.all.rp_filter fs.protected_fifos")?;
    assert_eq!(told, "0\n2\n2\n0\n1\n");
    // Alone, the machine's own clock is the time.
    // What heeds no signal keeps a reboot waiting no longer than kubelet would.
    let told = machine.run("systemctl show -p TimeoutStopUSec 'cri-containerd-*.scope' | sort -u")?;
    assert_eq!(told.trim(), "TimeoutStopUSec=30s");
    // Its own filter, beside systemd's.
    let told = machine.run("tr '\\0' ' ' </proc/$(systemctl show -p MainPID --value chrony)/cmdline")?;
    assert!(told.trim().ends_with("/chronyd -F 1"), "{told}");
    let told = machine.run("chronyc -n tracking")?;
    let says = |key: &str, value: &str| {
        told.lines().any(|line| {
            line.split_once(':').is_some_and(|(k, v)| k.trim() == key && v.trim().starts_with(value))
        })
    };
    assert!(says("Reference ID", "7F7F0101") && says("Stratum", "10"), "{told}");
    // Flash: the journal is kept and bounded, writes wait for each other, and the card is told what is free.
    let told = machine.run("findmnt -no OPTIONS /var; ls /var/log/journal; cat /etc/machine-id; journalctl -b -u systemd-journald -o cat; systemctl is-enabled fstrim.timer; systemctl is-active fstrim.timer; fstrim -v /var")?;
    let options: Vec<&str> = told.lines().next().unwrap_or_default().split(',').collect();
    assert!(options.contains(&"noatime") && options.contains(&"commit=30"), "{told}");
    let mut lines = told.lines().skip(1);
    assert_eq!(lines.next(), lines.next(), "the journal is not this machine's: {told}");
    assert!(
        told.contains("System Journal (/var/log/journal/")
            && (told.contains(" max 64M, ") || told.contains(" max 64.0M, ")),
        "{told}"
    );
    assert!(told.contains("\nenabled\nactive\n/var: ") && told.contains(" trimmed"), "{told}");
    // With 7 % free, below kubelet's own default, it removes nothing and ends no pod: three of its looks.
    machine.run("set -- $(df -B1M --output=size,avail /var | tail -1); fallocate -l $(($2 - $1 * 7 / 100))M /var/filled")?;
    machine.run("sleep 35")?;
    let told = machine.run("df --output=pcent /var | tail -1; journalctl -b -u kubelet -o cat | grep -c 'attempting to reclaim' || true; pgrep -fc 'sleep [2]147483647'; rm /var/filled")?;
    let words: Vec<&str> = told.split_whitespace().collect();
    assert!(matches!(words[..], ["92%" | "93%" | "94%", "0", n] if n != "0"), "{told}");
    // Nobody has a password, nor none: all are locked.
    let told = machine.run("cut -d: -f2 /etc/passwd /etc/shadow | sort -u")?;
    assert!(told.lines().all(|word| word == "x" || word.starts_with(['!', '*'])), "{told}");
    Ok(())
}

/// The folder that any computer can write on the card: what is right in it is taken, and one line tells what is not. The
/// machine starts from USB, and its own disk is no stick to it.
#[test]
#[ignore = "boots a machine of its own"]
fn what_lies_on_the_card_is_taken_at_the_first_boot() -> Result<()> {
    let (workshop, image) = made();
    let mut machine = workshop.machine("card", image, Cable::Lonely)?;
    machine.kind = Disk::Usb;
    let folder = machine.disk().with_file_name("edge-config");
    std::fs::create_dir_all(folder.join("network"))?;
    std::fs::write(folder.join("network/10-lan.network"), NETWORK)?;
    std::fs::write(folder.join("edge.toml"), "offline-mod = true\n")?;
    std::fs::copy(workshop.place.path("owner/key.pub"), folder.join("authorized_keys"))?;
    let place = machine.disk().parent().context("no folder")?.to_owned();
    let copy = ["mcopy", "-s", "-i", "/work/disk.img@@1M", "/work/edge-config", "::"];
    let output = vm::tool(&place, &copy)?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    machine.start()?;
    machine.wait("`edge.toml` on the EFI system partition is not taken", BOOT)?;
    machine.wait(HEALTHY, BOOT)?;
    let console = machine.console()?;
    let line = console.lines().find(|line| line.contains("`edge.toml` on")).unwrap_or_default();
    assert!(line.contains("is not taken: ") && line.contains("offline-mod"), "{line}");
    // What was taken does not stay where anybody can read it; what was wrong does, for who mends it.
    let told = machine.run("cat /var/etc/edge/authorized_keys; ls /efi/edge-config")?;
    assert!(told.starts_with("ssh-ed25519 ") && told.ends_with(" owner\nedge.toml\n"), "{told}");
    // Nobody was asked for the address.
    let told = machine.run(
        "networkctl status --no-pager --lines=0 'en*'; ip -4 -o addr show scope global; cat /run/edge-disk",
    )?;
    assert!(told.contains("/etc/systemd/network/10-lan.network"), "{told}");
    assert!(told.contains("inet 10.0.2.15/24 ") && !told.contains("dynamic"), "{told}");
    assert!(told.ends_with("sda\n"), "{told}");
    Ok(())
}

/// No card, no cable: what the pod needs is all in the image.
#[test]
#[ignore = "boots a machine of its own"]
fn without_any_network_card_the_pod_runs_too() -> Result<()> {
    let (workshop, image) = made();
    let mut machine = workshop.machine("no-card", image, Cable::None)?;
    machine.start()?;
    machine.wait(HEALTHY, BOOT)?;
    machine.wait("GREETING from greeter", BOOT)?;
    Ok(())
}

#[test]
#[ignore = "makes the image twice"]
fn made_again_in_another_folder_the_image_is_the_same() -> Result<()> {
    let (workshop, image) = made();
    let lock = format!("{}.lock", image.display());
    let other = workshop.place.path("elsewhere/deeper/again.img");
    // As somebody else would: with other habits, in another part of the world.
    let plain = workshop.pack(&other, &["--lock", &lock])?;
    let mut command = Command::new("sh");
    command
        .args(["-ec", "umask 077; cd /; exec \"$@\"", "sh"])
        .arg(plain.get_program())
        .args(plain.get_args());
    command.env("SOURCE_DATE_EPOCH", "1767225600").env("TZ", "Pacific/Kiritimati").env("LC_ALL", "C");
    let output = command.env("HOME", "/nonexistent").env("USER", "somebody").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for end in
        ["", ".zst", ".lock", ".spdx.json", ".system/root.erofs", ".system/root.verity", ".system/edge.efi"]
    {
        let [one, two] = [image, &other].map(|image| format!("{}{end}", image.display()));
        let same = Command::new("cmp").args([&one, &two]).output()?;
        assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    }
    Ok(())
}

#[test]
fn a_lock_of_other_packages_is_refused() -> Result<()> {
    let (workshop, image) = made();
    let lock = std::fs::read_to_string(format!("{}.lock", image.display()))?;
    let at = lock.find("version = \"").context("no version")? + "version = \"".len();
    let other = workshop.place.write("other.lock", &format!("{}9{}", &lock[..at], &lock[at..]));
    let out = workshop.place.path("refused.img");
    let output = workshop.pack(&out, &["--verify-lock", "--lock", &other.display().to_string()])?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("the packages are not those of the lock: apparmor 9"), "{said}");
    assert!(!out.exists());
    // Nor is what edge and kubelet were built with a package.
    let at = lock.find("\nname = \"rustc\"\nversion = \"").context("no rustc")?;
    let other = format!("{}{}", &lock[..at], lock[at..].replacen("version = \"", "version = \"9", 1));
    let other = workshop.place.write("compilers.lock", &other);
    let output = workshop.pack(&out, &["--verify-lock", "--lock", &other.display().to_string()])?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("not built with the compilers of the lock: rustc 9"), "{said}");
    assert!(lock.contains("\nname = \"go\"\nversion = \"go1."), "{lock}");
    assert!(!out.exists());
    Ok(())
}

/// A module that is not there would be missed on the gateway alone, which does not find its disk then. A kubelet is none the
/// worse for being linked with glibc, as this one is and upstream's was until 1.36: it is looked at before.
#[test]
fn a_board_that_lists_a_module_its_kernel_lacks_is_refused() -> Result<()> {
    let (workshop, image) = made();
    let board = include_str!("../../config/boards/generic-efi.toml").replace("\"nvme\"", "\"nvmee\"");
    let board = workshop.place.write("mine.toml", &board).display().to_string();
    let out = workshop.place.path("no-module.img");
    let lock = format!("{}.lock", image.display());
    let more = ["--board", &board, "--lock", &lock, "--kubelet", "/bin/true"];
    let output = workshop.pack(&out, &more)?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(
        last.contains("board `mine`: its kernel ") && last.contains(" has no module `nvmee` hint: "),
        "{last}"
    );
    assert!(!out.exists());
    Ok(())
}

/// Rot, or somebody with the card in his hand: what is read is what was built, or the machine restarts.
#[test]
#[ignore = "boots a machine of its own"]
fn what_was_changed_on_the_disk_is_not_read() -> Result<()> {
    let (workshop, image) = made();
    let mut machine = workshop.machine("rot", image, Cable::Lonely)?;
    // The first slot begins at 257 MiB: all of it but its first MiB.
    let spoil = Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "seek=258", "count=200", "conv=notrunc", "status=none"])
        .arg(format!("of={}", machine.disk().display()))
        .status()?;
    ensure!(spoil.success(), "cannot spoil the disk");
    machine.start()?;
    machine.wait("dm-verity device corrupted", BOOT)?;
    assert!(!machine.console()?.contains(HEALTHY));
    Ok(())
}

#[test]
fn what_cannot_be_made_is_told_before_the_work() {
    let place = Place::new();
    let refused = |code: i32, arguments: &[&str], why: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-pack"));
        command.arg("image").args(arguments).args(["--out", &place.path("x.img").display().to_string()]);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.lines().count()), (Some(code), 1), "{said}");
        assert!(said.starts_with("edge-pack: no image was made: ") && said.contains(why), "{why}: {said}");
    };
    let good = ["--arch", "amd64", "--edge", "/bin/busybox", "--kubelet", "/bin/busybox"];
    let with = |more: &[&str], why: &str| refused(1, &[&good, more].concat(), why);
    refused(2, &[&good[..], &["--board", "toaster"]].concat(), "no board `toaster` hint: generic-efi");
    with(&["--image-version", "a b"], "version `a b` is not of 1 to 64 letters");
    let (nowhere, etc) =
        (place.path("nowhere").display().to_string(), place.path("etc").display().to_string());
    with(&["--image-bundle", &nowhere], "nowhere` is no folder");
    with(&["--image-bundle", &etc], "etc` holds no bundle hint: `edge bundle create --to` made it");
    with(&["--lock", &nowhere], "cannot read lock");
    with(&["--parts", &nowhere], "nowhere/image-tools` hint: scripts/image makes it");
    assert!(!place.path("nowhere").exists());
    let config = place.write("bad.toml", "offline-mod = true\n");
    refused(2, &[&good[..], &["--config", &config.display().to_string()]].concat(), "offline-mod");
    with(&["--trust", &config.display().to_string()], "bad.toml");
    // It would lie in an image that everybody may have, and let nobody in.
    let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n";
    let key = place.write("id_ed25519", private).display().to_string();
    let no_key = "id_ed25519`: `-----BEGIN OPENSSH PRIVATE KEY-----` is no public key hint: ";
    refused(2, &[&good[..], &["--authorized-key", &key]].concat(), no_key);
    let pod =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: a, image: b}]\n";
    place.write("pods/good.yaml", pod);
    let pods = ["--static-pods", &place.path("pods").display().to_string()].map(str::to_owned);
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    place.write("pods/web.yml", "apiVersion: apps/v1\nkind: Deployment\n");
    refused(2, &[&good[..], &pods].concat(), "pods/web.yml`: it is no Pod of `v1`");
    std::fs::rename(place.path("pods/web.yml"), place.path("pods/web.json")).unwrap();
    refused(2, &[&good[..], &pods].concat(), "pods/web.json`: its name does not end in .yaml or .yml");
    std::fs::remove_file(place.path("pods/web.json")).unwrap();
    with(&[&pods[..], &["--lock", &nowhere]].concat(), "cannot read lock");
    refused(
        1,
        &["--arch", "arm64", "--edge", "/bin/busybox", "--kubelet", "/bin/busybox"],
        "--edge: `/bin/busybox` is no static program for arm64: it is for another machine",
    );
    refused(
        1,
        &["--arch", "amd64", "--edge", "/bin/busybox", "--kubelet", "/etc/hosts"],
        "--kubelet: `/etc/hosts` is no program for amd64: it is no ELF file",
    );
    refused(
        2,
        &["--arch", "amd64", "--edge", "/bin/busybox", "--kubelet", "https://127.0.0.1:1/kubelet"],
        "hint: --kubelet-sha256",
    );
}

/// The tools are those of the tree; this test says what to run when it is not there.
#[test]
fn the_tools_are_there() -> Result<()> {
    let place = tempfile::tempdir()?;
    let output = vm::tool(place.path(), &["mkfs.erofs", "--version"])?.output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
