//! `edge system` on a stand-in for an appliance: its partitions are files, its EFI system partition a folder, and all
//! of it lies below one root. The kernels are the least that carries a command line; hash trees are veritysetup's own.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bundle_disk::run;
use crate::command::{Daemon, Done, Place};
use crate::cri_stub::{Fake, Stub};

/// The id of what the card was written with.
pub const FACTORY: &str = "11111111-0000-4000-8000-000000000001";

/// An appliance, with a gateway's own folders.
pub struct Machine {
    pub place: Place,
}

impl Machine {
    /// As it is when its card was just booted: slot a, tried once.
    pub fn new() -> Self {
        let machine = Self { place: Place::new() };
        let root = |below: &str| machine.root(below);
        for folder in ["run", "efi/EFI/Linux", "identity", "dev/mapper", "sys/class/block/vda", "proc", "bin"]
        {
            std::fs::create_dir_all(root(folder)).unwrap();
        }
        for (label, size) in [("root_a", 24), ("verity_a", 2), ("root_b", 24), ("verity_b", 2), ("data", 64)]
        {
            let file = std::fs::File::create(machine.partition(label)).unwrap();
            file.set_len(size << 20).unwrap();
            let told = format!("DEVTYPE=partition\nPARTNAME={label}\n");
            machine.place.write(&format!("machine/sys/class/block/vda/vda-{label}/uevent"), &told);
        }
        std::fs::write(root("dev/vda"), table()).unwrap();
        std::fs::write(root("run/edge-slot"), "a\n").unwrap();
        std::fs::write(root("run/edge-disk"), "vda\n").unwrap();
        let mut tree = std::fs::OpenOptions::new().write(true).open(machine.partition("verity_a")).unwrap();
        std::io::Write::write_all(&mut tree, &superblock(FACTORY)).unwrap();
        // The root file system has a link where everything looks for the configuration.
        std::fs::create_dir_all(root("etc")).unwrap();
        std::os::unix::fs::symlink("../var/etc/edge", root("etc/edge")).unwrap();
        machine.put_entry("edge-1+2-1.efi", FACTORY);
        let network = include_str!("../../config/appliance/usr/share/edge/cni/99-edge.conflist");
        machine.place.write("machine/usr/share/edge/cni/99-edge.conflist", network);
        let release = json!({"format": 1, "version": "1.0", "arch": "amd64", "board": "generic-efi"});
        machine.place.write("machine/usr/share/edge/system.json", &release.to_string());
        machine
    }

    /// A path of the appliance.
    pub fn root(&self, below: &str) -> PathBuf {
        self.place.path("machine").join(below)
    }

    pub fn partition(&self, label: &str) -> PathBuf {
        self.root("dev").join(format!("vda-{label}"))
    }

    pub fn edge(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.edge(arguments);
        let path = format!("{}:{}", self.root("bin").display(), std::env::var("PATH").unwrap());
        command.env("EDGE_SYSTEM_ROOT", self.root("")).env("PATH", path);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.edge(arguments).output().unwrap())
    }

    /// Boots the entry that systemd-boot would take, and counts as it does; the slot.
    pub fn boot(&self) -> String {
        let mut all: Vec<(bool, u64, String)> = self
            .entries()
            .into_iter()
            .map(|name| {
                let bare = name.strip_prefix("edge-").unwrap().strip_suffix(".efi").unwrap().to_owned();
                let (number, count) = bare.split_once('+').map_or((&*bare, None), |(n, c)| (n, Some(c)));
                (
                    count.is_none_or(|count| count.split('-').next() != Some("0")),
                    number.parse().unwrap(),
                    name.clone(),
                )
            })
            .collect();
        all.sort();
        let (_, number, name) = all.pop().expect("nothing to boot");
        // /run is the boot's own.
        let _ = std::fs::remove_file(self.root("run/edge-judged"));
        let count = name.split_once('+').unwrap().1.strip_suffix(".efi").unwrap().to_owned();
        let (left, done) = count.split_once('-').unwrap_or((&count, "0"));
        let (left, done): (u32, u32) = (left.parse().unwrap(), done.parse().unwrap());
        let counted = format!("edge-{number}+{}-{}.efi", left.saturating_sub(1), done + 1);
        let folder = self.root("efi/EFI/Linux");
        std::fs::rename(folder.join(&name), folder.join(&counted)).unwrap();
        let kernel = String::from_utf8_lossy(&std::fs::read(folder.join(&counted)).unwrap()).into_owned();
        let id = kernel.split("edge.verity=").nth(1).unwrap()[..32].to_owned();
        let slot = ["a", "b"].into_iter().find(|slot| self.verity_of(slot).replace('-', "") == id);
        let slot = slot.expect("the initrd finds no slot");
        std::fs::write(self.root("run/edge-slot"), slot).unwrap();
        slot.to_owned()
    }

    /// Boots slot b on its last try; slot a is good.
    fn on_trial(&self) {
        self.arm();
        let id = system(&self.place.path("new"), 2, 1);
        std::fs::copy(self.place.path("new/root.verity"), self.partition("verity_b")).unwrap();
        self.put_entry("edge-2+1.efi", &id);
        assert_eq!(self.boot(), "b");
    }

    /// Has what systemctl is asked written down; where.
    fn records_reboots(&self) -> PathBuf {
        let told = self.root("rebooted");
        self.place.write("machine/bin/systemctl", &format!("#!/bin/sh\necho \"$@\" >> {}\n", told.display()));
        Command::new("chmod").arg("755").arg(self.root("bin/systemctl")).status().unwrap();
        told
    }

    /// What edge-fallback.service says.
    pub fn fall_back(&self) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/appliance/usr/share/edge/fallback");
        let path = format!("{}:{}", self.root("bin").display(), std::env::var("PATH").unwrap());
        // As in the appliance; busybox's own would sleep by itself.
        let mut command = Command::new("dash");
        let root = self.root("").display().to_string();
        command.args([&script.display().to_string(), root.trim_end_matches('/')]).env("PATH", path);
        Done::of(command.output().unwrap()).good().out
    }

    /// Marks the booted slot good, as edge-healthy.service does.
    pub fn arm(&self) {
        edge::system::arm(&edge::system::Places::below(&self.root(""))).unwrap().unwrap();
    }

    pub fn verity_of(&self, slot: &str) -> String {
        let head = std::fs::read(self.partition(&format!("verity_{slot}"))).unwrap();
        if !head.starts_with(b"verity\0\0") {
            return String::new();
        }
        head[16..32].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn entries(&self) -> Vec<String> {
        let listed = std::fs::read_dir(self.root("efi/EFI/Linux")).unwrap().flatten();
        let names = listed.map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".efi")).collect();
        names.sort();
        names
    }

    pub fn put_entry(&self, name: &str, id: &str) {
        std::fs::write(self.root("efi/EFI/Linux").join(name), kernel(id)).unwrap();
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["system", "status", "-o", "json"]).good().out).unwrap()
    }

    /// The states of a and b, and the slot of the next boot.
    pub fn states(&self) -> String {
        let status = self.status();
        let state = |index: usize| status["slots"][index]["state"].as_str().unwrap().to_owned();
        format!("{} {} {}", state(0), state(1), status["next"].as_str().unwrap_or("-"))
    }
}

/// A partition table of no partitions, whose sums are right.
fn table() -> Vec<u8> {
    let sum = |bytes: &[u8]| {
        !bytes.iter().fold(u32::MAX, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 * (sum & 1)))
        })
    };
    let mut disk = vec![0; 34 * 512];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let array = sum(&disk[1024..]);
    let header = &mut disk[512..1024];
    header[..8].copy_from_slice(b"EFI PART");
    for (at, number) in [(12, 92), (72, 2), (80, 128), (84, 128), (88, array)] {
        header[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    let own = sum(&header[..92]);
    header[16..20].copy_from_slice(&own.to_le_bytes());
    disk
}

/// A hash tree's first bytes.
fn superblock(id: &str) -> Vec<u8> {
    let mut head = vec![0; 512];
    head[..8].copy_from_slice(b"verity\0\0");
    head[8] = 1;
    let hex = id.replace('-', "");
    for at in 0..16 {
        head[16 + at] = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    }
    head
}

/// A PE of one section, which holds a command line.
pub fn kernel(id: &str) -> Vec<u8> {
    let line = format!("ro quiet edge.verity={} roothash=00", id.replace('-', ""));
    let mut image = vec![0; 0x200];
    image[..2].copy_from_slice(b"MZ");
    image[0x3c] = 0x40;
    image[0x40..0x44].copy_from_slice(b"PE\0\0");
    image[0x46] = 1;
    image[0x58..0x60].copy_from_slice(b".cmdline");
    image[0x60..0x64].copy_from_slice(&u32::try_from(line.len()).unwrap().to_le_bytes());
    image[0x68..0x6c].copy_from_slice(&0x200_u32.to_le_bytes());
    image[0x6c..0x70].copy_from_slice(&0x200_u32.to_le_bytes());
    image.extend_from_slice(line.as_bytes());
    // As large as it pleases: the rest is never looked at.
    image.resize(300_000, 7);
    image
}

/// A system as `edge-pack image` writes it beside its image; `number` tells one from another.
pub fn system(folder: &Path, number: u8, megabytes: usize) -> String {
    std::fs::create_dir_all(folder).unwrap();
    let mut root = vec![0; megabytes << 20];
    for (at, byte) in root.iter_mut().enumerate() {
        *byte = u8::try_from((at * 31 + at / 4096) % 251).unwrap() ^ number;
    }
    let id = format!("22222222-0000-4000-8000-0000000000{number:02x}");
    let path = |name: &str| folder.join(name);
    std::fs::write(path("root.erofs"), &root).unwrap();
    let made = Command::new("veritysetup")
        .args(["format", "--salt=00", &format!("--uuid={id}")])
        .args([path("root.erofs"), path("root.verity")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::write(path("edge.efi"), kernel(&id)).unwrap();
    describe(folder, &id, &format!("2.{number}"), "amd64", "generic-efi");
    id
}

/// Writes `system.json` over what lies in a folder.
pub fn describe(folder: &Path, id: &str, version: &str, arch: &str, board: &str) {
    let files = ["root.erofs", "root.verity", "edge.efi", "boot.img"].into_iter().filter_map(|name| {
        let bytes = std::fs::read(folder.join(name)).ok()?;
        let sum = edge::sys::digest::Digest::sha256(&bytes);
        Some((name.to_owned(), json!({"digest": sum, "size": bytes.len()})))
    });
    let described = json!({
        "format": 1, "version": version, "arch": arch, "board": board, "verity-uuid": id, "roothash": "00",
        "files": files.collect::<serde_json::Map<_, _>>(),
    });
    std::fs::write(folder.join("system.json"), described.to_string()).unwrap();
}

#[test]
fn another_machine_says_so_in_one_line() {
    let place = Place::new();
    for words in [
        &["system", "status"][..],
        &["system", "rollback"],
        &["system", "reset", "--yes"],
        &["system", "open-data"],
        &["system", "provision"],
        &["system", "healthy", "--timeout", "1s"],
        &["system", "begin-trial"],
    ] {
        let mut command = place.edge(words);
        command.env("EDGE_SYSTEM_ROOT", place.path("nothing"));
        Done::of(command.output().unwrap()).bad(1, "this machine is no edge appliance");
    }
}

#[test]
fn a_good_boot_gets_its_tries_back_and_a_bad_one_is_given_up() {
    let machine = Machine::new();
    assert_eq!(machine.states(), "trying empty a");
    machine.run(&["system", "rollback"]).bad(1, "there is no other good slot to go back to: slot b is empty");
    machine.arm();
    assert_eq!((machine.states().as_str(), machine.entries()), ("good empty a", vec!["edge-1+3.efi".into()]));
    // edge-fallback.timer looks for it.
    assert!(machine.root("run/edge-judged").exists());
    let told = machine.run(&["system", "status"]).good().out;
    assert!(told.contains("a      good    1.0                edge-1+3.efi   running"), "{told}");

    // Another system appears in b, is booted, and is found good.
    let id = system(&machine.place.path("new"), 2, 1);
    std::fs::copy(machine.place.path("new/root.verity"), machine.partition("verity_b")).unwrap();
    machine.put_entry("edge-2+3.efi", &id);
    assert_eq!(machine.states(), "good staged b");
    assert_eq!(machine.boot(), "b");
    assert_eq!(machine.states(), "good trying b");
    machine.arm();
    assert_eq!(machine.states(), "good good b");

    // It rots: three boots that are never healthy, then the old one.
    let places = edge::system::Places::below(&machine.root(""));
    for left in (0..3).rev() {
        assert_eq!(machine.boot(), "b");
        let turned = edge::system::unhealthy(&places, "kubelet is not well").unwrap();
        assert_eq!(turned, edge::system::Fallback::Reboot { left, other: edge::system::Slot::A });
    }
    assert_eq!(machine.boot(), "a");
    assert_eq!(machine.states(), "good failed a");
    let told = machine.run(&["system", "status"]).good().out;
    assert!(told.contains("slot b: kubelet is not well"), "{told}");
    let turned = edge::system::unhealthy(&places, "kubelet is not well").unwrap();
    assert_eq!(turned, edge::system::Fallback::Nowhere("slot b is failed".into()));
    machine.run(&["system", "rollback"]).bad(1, "slot b is failed");
}

#[test]
fn rolled_back_by_hand_it_boots_the_other_one() {
    let machine = Machine::new();
    machine.arm();
    let id = system(&machine.place.path("new"), 2, 1);
    std::fs::copy(machine.place.path("new/root.verity"), machine.partition("verity_b")).unwrap();
    machine.put_entry("edge-2+3.efi", &id);
    machine.boot();
    machine.arm();
    machine.boot();
    let said = machine.run(&["system", "rollback"]).good().out;
    assert!(said.contains("the next boot goes to slot a"), "{said}");
    assert_eq!(machine.entries(), ["edge-1+3.efi", "edge-2+0-1.efi"]);
    assert_eq!(machine.boot(), "a");
    assert_eq!(machine.states(), "good failed a");
    assert_eq!(machine.status()["slots"][1]["reason"], "rolled back by hand");
}

#[test]
fn an_unhealthy_system_starts_anew_only_when_there_is_a_better_one() {
    let machine = Machine::new();
    let told = machine.records_reboots();
    let healthy = ["system", "healthy", "--timeout", "1s"];
    machine
        .run(&healthy)
        .bad(1, "this system is not healthy, and there is none to fall back to (slot b is empty)");
    assert!(!told.exists());
    machine.on_trial();
    machine.run(&healthy).bad(1, "cannot reach the daemon");
    assert_eq!(std::fs::read_to_string(&told).unwrap(), "reboot\n");
    assert_eq!(machine.boot(), "a");
    assert_eq!(machine.states(), "good failed a");
}

#[test]
fn a_configuration_that_this_system_refuses_is_no_healthy_system() {
    let machine = Machine::new();
    machine.place.write("etc/edge.toml", "of-a-newer-edge = true\n");
    let done = machine.run(&["system", "healthy", "--timeout", "1s"]);
    assert!(done.err.contains("of-a-newer-edge"), "{}", done.err);
    done.bad(1, "this system is not healthy, and there is none to fall back to");
    // What was judged is not judged again by edge-fallback.service.
    assert!(machine.root("run/edge-judged").exists());
}

/// A kubelet that says that it is well; where.
pub fn kubelet() -> SocketAddr {
    kubelet_that_says("200 OK")
}

fn kubelet_that_says(status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|stream| say(stream.unwrap(), status)));
    address
}

fn say(mut stream: TcpStream, status: &str) {
    let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
    let _ = std::io::Write::write_all(&mut stream, format!("HTTP/1.0 {status}\r\n\r\n").as_bytes());
}

/// A kubelet that says that it is well and ends, over and over.
fn kubelet_that_ends() -> SocketAddr {
    const LIFE: Duration = Duration::from_millis(1500);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::thread::spawn(move || {
        loop {
            let (listener, born) = (TcpListener::bind(address).unwrap(), Instant::now());
            listener.set_nonblocking(true).unwrap();
            while born.elapsed() < LIFE {
                match listener.accept() {
                    Ok((stream, _)) => say(stream, "200 OK"),
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
            drop(listener);
            std::thread::sleep(LIFE);
        }
    });
    address
}

/// What a daemon is told that has such a runtime and such a kubelet.
fn parts(stub: &Stub, kubelet: SocketAddr) -> String {
    format!(
        "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n[runtime]\nendpoint = \"{}\"\n[pods]\nkubelet-healthz = \"{kubelet}\"\n",
        stub.endpoint()
    )
}

/// edge is up; each of the others alone keeps the system from being found good.
#[tokio::test(flavor = "multi_thread")]
async fn a_system_whose_runtime_or_kubelet_is_not_up_is_not_healthy() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (fake, kubelet, why) in [
        (Fake::without("RuntimeReady"), kubelet(), "the container runtime is not ready: "),
        (Fake::without("NetworkReady"), kubelet(), "the container runtime is not ready: "),
        (Fake::default(), nobody, "kubelet is not well: "),
        (Fake::default(), kubelet_that_says("500 no"), "kubelet is not well: `127.0.0.1:"),
    ] {
        let (machine, stub) = (Machine::new(), Stub::new(fake));
        machine.place.write("etc/edge.toml", &parts(&stub, kubelet));
        let _daemon = Daemon::start_by(&machine.place, machine.edge(&["daemon"]));
        let done = machine.run(&["system", "healthy", "--timeout", "2s"]);
        assert!(done.err.contains(why), "{why}: {}", done.err);
        done.bad(1, "this system is not healthy");
    }
}

/// As over what its kernel lacks: kubelet says that it is well as soon as it listens.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_ends_over_and_over_fails_a_trial() {
    let machine = Machine::new();
    machine.records_reboots();
    machine.on_trial();
    let stub = Stub::new(Fake::default());
    machine.place.write("etc/edge.toml", &parts(&stub, kubelet_that_ends()));
    let _daemon = Daemon::start_by(&machine.place, machine.edge(&["daemon"]));
    let done = machine.run(&["system", "healthy", "--timeout", "4s"]);
    assert!(
        done.code == 1 && done.err.contains("this system is not healthy: kubelet is not well: "),
        "{done:?}"
    );
    assert_eq!(machine.boot(), "a");
    assert_eq!(machine.states(), "good failed a");
}

/// What pods wrote can fill it, and the other system would find it as full.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_no_fault_of_the_system() {
    let machine = Machine::new();
    let stub = Stub::new(Fake::default());
    machine.place.write("etc/edge.toml", &parts(&stub, kubelet()));
    std::fs::create_dir_all(machine.root("var/lib")).unwrap();
    let state = Mounted::new(machine.place.path("state"));
    let start = || Daemon::start_by(&machine.place, machine.edge(&["daemon"]));
    let mut first = start();
    run("kill", &[&first.0.id().to_string()]);
    first.0.wait().unwrap();
    // What SQLite makes beside the database finds no room.
    for name in ["cache.db-wal", "cache.db-shm"] {
        let _ = std::fs::remove_file(state.0.join(name));
    }
    let filled = state.0.join("pods-data");
    let fill = format!("head -c 1G /dev/zero >{} || true", filled.display());
    run("sh", &["-c", &fill]);
    let daemon = start();
    let status = machine.run(&["status", "-o", "json"]).good().out;
    assert!(status.contains("cannot be written, a copy in memory is served"), "{status}");
    let healthy = ["system", "healthy", "--timeout", "5s"];
    let said = machine.run(&healthy).good().out;
    assert!(said.contains("slot a is good"), "{said}");
    drop(daemon);

    // Where there is room, it may be this system that cannot write.
    std::fs::remove_file(&filled).unwrap();
    run("mount", &["-o", "remount,ro", &state.0.display().to_string()]);
    let _daemon = start();
    machine.run(&healthy).bad(1, "edge's cache: ");
}

/// A small disk of its own.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", &at.display().to_string()]);
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// edge-fallback.service, where edge cannot judge: it starts anew as long as the boot loader counts, and no longer.
#[test]
fn what_does_not_come_up_starts_anew_until_no_tries_are_left() {
    let machine = Machine::new();
    let told = machine.root("rebooted");
    for (name, text) in
        [("systemctl", format!("echo \"$@\" >> {}", told.display())), ("sleep", String::new())]
    {
        machine.place.write(&format!("machine/bin/{name}"), &format!("#!/bin/sh\n{text}\n"));
        Command::new("chmod").arg("755").arg(machine.root("bin").join(name)).status().unwrap();
    }
    let fall_back = || {
        let _ = std::fs::remove_file(&told);
        (machine.fall_back(), std::fs::read_to_string(&told).unwrap_or_default())
    };
    // A boot loader that does not count would start the same for ever.
    let (said, rebooted) = fall_back();
    assert!(
        said.contains("did not come up, and no boot entry has tries left") && rebooted.is_empty(),
        "{said}"
    );
    machine.place.write(
        "machine/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
        "",
    );
    // The card's entry was tried once; another one was staged.
    let id = system(&machine.place.path("new"), 2, 1);
    std::fs::copy(machine.place.path("new/root.verity"), machine.partition("verity_b")).unwrap();
    machine.put_entry("edge-2+3.efi", &id);
    let mut slots = String::new();
    for boot in 0.. {
        let (said, rebooted) = fall_back();
        if rebooted.is_empty() {
            assert!(said.contains("no boot entry has tries left"), "{said}");
            break;
        }
        assert_eq!(rebooted, "reboot --force\n");
        assert!(said.contains("starting anew in 10 s") && boot < 10, "{said}");
        slots += &machine.boot();
    }
    assert_eq!(slots, "bbbaa");
    machine.put_entry("edge-3+3.efi", &id);
    // As long as what came with the image is imported there is nothing to judge, and then there is time to.
    let (mark, slept) = (machine.root("run/edge-importing"), machine.root("slept"));
    let sleeps = |then: &str| {
        let text = format!("#!/bin/sh\necho $1 >> {}\n{then}\n", slept.display());
        machine.place.write("machine/bin/sleep", &text);
        let _ = std::fs::remove_file(&slept);
    };
    let waited = || std::fs::read_to_string(&slept).unwrap_or_default();
    // Each is a minute; it comes further until the third of them.
    let three = format!(
        "touch -d @$(($(stat -c %Y {mark}) - 60)) {mark}\n[ $(wc -l < {}) -gt 3 ] || touch {mark}",
        slept.display(),
        mark = mark.display()
    );
    sleeps(&three);
    std::fs::write(&mark, "").unwrap();
    assert_eq!(fall_back().1, "reboot --force\n");
    assert_eq!(waited(), "60\n".repeat(3 + 15) + "10\n");
    sleeps(&format!(
        "{three}\n[ $(wc -l < {}) -lt 5 ] || touch {}",
        slept.display(),
        machine.root("run/edge-judged").display()
    ));
    std::fs::write(&mark, "").unwrap();
    assert_eq!((fall_back(), waited()), ((String::new(), String::new()), "60\n".repeat(5)));
    std::fs::remove_file(machine.root("run/edge-judged")).unwrap();
    // One that hangs comes no further.
    sleeps("");
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    std::fs::File::create(&mark).unwrap().set_modified(old).unwrap();
    assert_eq!((fall_back().1.as_str(), waited().as_str()), ("reboot --force\n", "10\n"));
    // Judged already: not a word.
    machine.place.write("machine/run/edge-judged", "");
    assert_eq!(fall_back(), (String::new(), String::new()));
}

#[test]
fn a_damaged_record_is_none() {
    let machine = Machine::new();
    machine.arm();
    std::fs::write(machine.root("identity/system.json"), "{\"format\": 1, \"slots\": {\"a\"").unwrap();
    assert_eq!(machine.states(), "trying empty a");
    machine.arm();
    assert_eq!(machine.states(), "good empty a");
}
