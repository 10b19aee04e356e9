//! A first boot's configuration: what is taken of it, what is refused, and what a reset brings back.

use edge::sys::mounts::Mounted;

use crate::bundle_disk::{Loop, ONE, ext4, run};
use crate::command::Daemon;
use crate::system::Machine;

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: a, image: b}]\n";

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDsVMgZqMCuRtQl1UfP0xqUBSJnrLlrEkN9A1Vk8m2Zp owner\n";

const NETWORK: &str =
    "[Match]\nName=eth0\n[Network]\nAddress=192.0.2.7/24\nGateway=192.0.2.1\nDNS=192.0.2.1\n";

pub fn provision(machine: &Machine) -> String {
    let mut command = machine.edge(&["system", "provision"]);
    // The appliance's own paths: nothing else is said of them.
    command.env_remove("EDGE_CONFIG");
    crate::command::Done::of(command.output().unwrap()).good().out
}

/// The same by a clock that says `time`, such as `@2026-01-01 00:00:00`, and that it may not set.
pub fn provision_at(machine: &Machine, time: &str) -> String {
    let edge = machine.edge(&["system", "provision"]);
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set=-sys_time", "env", "LD_PRELOAD=libfaketimeMT.so.1"]);
    command.env("LD_LIBRARY_PATH", "/usr/lib/x86_64-linux-gnu/faketime").arg(format!("FAKETIME={time}"));
    command.arg(edge.get_program()).args(edge.get_args()).current_dir(machine.place.folder.path());
    for (name, value) in edge.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env_remove("EDGE_CONFIG");
    crate::command::Done::of(command.output().unwrap()).good().out
}

/// What the cloud confirmed lies in the cache, and outlives a reset on identity.
#[test]
fn a_clock_that_boots_long_ago_is_set_to_what_the_cloud_confirmed() {
    let machine = Machine::new();
    let state = machine.place.path("state");
    std::fs::create_dir_all(&state).unwrap();
    let passed = jiff::Timestamp::now().as_second() - 1000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = edge::cache::Cache::open(&state, &state).unwrap().cache;
        cache.commit(move |writer| writer.set_meta("time", &passed.to_string())).await.unwrap();
    });
    let time = jiff::Timestamp::from_second(passed).unwrap();
    let expected = format!("the clock is behind {time}, which has certainly passed, and cannot be set: ");
    let said = provision_at(&machine, "@2024-01-01 00:00:00");
    assert!(said.contains(&expected), "{said}");
    // A reset: identity alone is left.
    std::fs::remove_dir_all(&state).unwrap();
    let said = provision_at(&machine, "@2024-01-01 00:00:00");
    assert!(said.contains(&expected), "{said}");
    // A clock that is right is left alone.
    assert!(!provision(&machine).contains("clock"), "the clock is right");
}

/// Off each night in a long outage: each day would be the same one.
#[test]
fn a_clock_without_a_battery_goes_on_from_what_it_said_last() {
    let machine = Machine::new();
    machine
        .place
        .write("etc/edge.toml", "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n");
    let mut daemon = Daemon::start_by(&machine.place, machine.edge(&["daemon"]));
    run("kill", &[&daemon.0.id().to_string()]);
    daemon.0.wait().unwrap();
    let noted: i64 = machine.place.read("state/clock").trim().parse().unwrap();
    assert!((jiff::Timestamp::now().as_second() - noted).abs() < 60, "{noted}");
    let time = jiff::Timestamp::from_second(noted).unwrap();
    let said = provision_at(&machine, "@2024-01-01 00:00:00");
    let expected = format!("the clock is behind {time}, which it said last, and cannot be set: ");
    assert!(said.contains(&expected), "{said}");
    // What a battery says is right, whatever the clock was before.
    machine.place.write("machine/sys/class/rtc/rtc0/hctosys", "1\n");
    let said = provision_at(&machine, "@2024-01-01 00:00:00");
    assert!(!said.contains("clock"), "{said}");
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

    // A reset: all of /var is gone. What lies on the EFI system partition comes first, then what identity kept.
    reset(&machine);
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
fn a_name_that_is_a_little_wrong_is_told_with_the_one_that_was_meant() {
    let machine = Machine::new();
    let put = |below: &str, text: &str| machine.place.write(&format!("machine/{below}"), text);
    put("efi/edge-config/edge.toml.txt", "offline-mode = false\n");
    put("efi/edge-config/.DS_Store", "");
    put("efi/edge-config/factory-reset", "");
    let said = provision(&machine);
    let line = "edge: not taken from the EFI system partition, no file of a configuration: `edge.toml.txt` (`edge.toml`?)\n";
    assert_eq!(said, line);
    put("efi/edge-config/kubeconfig", "");
    put("efi/edge-config/notes", "");
    put("efi/edge-config/static-pods/web.json", POD);
    put("efi/edge-config/network/eth0.conf", NETWORK);
    put("efi/edge-config/authorized_keys", KEY);
    let said = provision(&machine);
    let all = "`edge.toml.txt` (`edge.toml`?), `kubeconfig` (`cloud.kubeconfig`?), `network/eth0.conf` (they end in `.network`), \
               `notes`, `static-pods/web.json` (they end in `.yaml` or `.yml`)\n";
    assert!(
        said.contains(all) && said.contains("taken from the EFI system partition: authorized_keys\n"),
        "{said}"
    );
}

/// As edge-data.service leaves it: what is on identity stays.
fn reset(machine: &Machine) {
    std::fs::remove_dir_all(machine.root("var")).unwrap();
    std::fs::remove_dir_all(machine.place.path("state")).unwrap();
}

#[test]
fn a_wrong_configuration_is_told_and_asked_for_again() {
    let machine = Machine::new();
    let put = |below: &str, text: &str| machine.place.write(&format!("machine/{below}"), text);
    let is_there = |below: &str| machine.root(below).exists();
    assert_eq!(provision(&machine), "", "nothing is there");
    assert!(!is_there("var/etc/edge/edge.toml"));
    put("efi/edge-config/edge.toml", "offline-mode = 7\n");
    put("efi/edge-config/cloud.kubeconfig", "apiVersion: v1\n");
    put("efi/edge-config/authorized_keys", KEY);
    let said = provision(&machine);
    assert!(
        said.contains("`edge.toml` on the EFI system partition is not taken: ")
            && said.contains("offline-mode"),
        "{said}"
    );
    assert!(said.contains("`cloud.kubeconfig` on the EFI system partition is not taken: "), "{said}");
    assert_eq!(said.lines().count(), 3, "one line each: {said}");
    assert!(is_there("var/etc/edge/authorized_keys") && !is_there("efi/edge-config/authorized_keys"));
    assert!(!is_there("var/etc/edge/edge.toml"));

    // Where the wrong file is out of sight, its place is not given to the defaults.
    let wrong = machine.root("efi/edge-config");
    std::fs::rename(&wrong, machine.root("hidden")).unwrap();
    let said = provision(&machine);
    assert!(said.contains("`edge.toml` was refused, and is still asked for in `edge-config`"), "{said}");
    assert!(!is_there("var/etc/edge/edge.toml"));
    std::fs::rename(machine.root("hidden"), &wrong).unwrap();

    // Put right, it is taken beside what was taken before, and a reset brings all of it back.
    put("efi/edge-config/edge.toml", "offline-mode = false\n");
    assert!(provision(&machine).contains("configuration taken from the EFI system partition: edge.toml\n"));
    assert!(is_there("var/etc/edge/edge.toml"));
    // A power cut before that was noted, and before anything is removed from FAT.
    let note = std::fs::read_to_string(machine.root("identity/given.json")).unwrap();
    assert!(note.contains("\"open\":false"), "{note}");
    put("identity/given.json", &note.replace("\"open\":false", "\"open\":true"));
    std::fs::remove_file(machine.root("var/etc/edge/edge.toml")).unwrap();
    std::fs::remove_dir_all(&wrong).unwrap();
    put("efi/edge-config/edge.toml", "offline-mode = false\n");
    provision(&machine);
    reset(&machine);
    let said = provision(&machine);
    assert!(said.contains("configuration taken from identity: edge.toml, authorized_keys\n"), "{said}");
    assert!(is_there("var/etc/edge/authorized_keys"));
}

/// After a reset a new configuration takes the place of the one that was kept, and not before all of it is good.
#[test]
fn what_a_new_configuration_does_not_have_goes_once_all_of_it_is_good() {
    let machine = Machine::new();
    let put = |below: &str, text: &str| machine.place.write(&format!("machine/{below}"), text);
    let kept = |name: &str| machine.root("identity/config").join(name).exists();
    put("efi/edge-config/edge.toml", "offline-mode = false\n");
    put("efi/edge-config/authorized_keys", KEY);
    put("efi/edge-config/static-pods/web.yaml", POD);
    provision(&machine);
    reset(&machine);
    put("efi/edge-config/edge.toml", "offline-mode = 7\n");
    put("efi/edge-config/static-pods/other.yaml", POD);
    let said = provision(&machine);
    assert!(
        said.contains("configuration taken from the EFI system partition: static-pods/other.yaml"),
        "{said}"
    );
    assert!(kept("authorized_keys") && kept("edge.toml") && kept("static-pods/web.yaml"), "{said}");
    put("efi/edge-config/edge.toml", "[bundle]\ngateway = \"ship-8\"\n");
    provision(&machine);
    assert!(kept("edge.toml") && kept("static-pods/other.yaml"));
    assert!(!kept("authorized_keys") && !kept("static-pods/web.yaml"), "they were withdrawn");
    reset(&machine);
    let said = provision(&machine);
    assert!(said.contains("taken from identity: edge.toml, static-pods/other.yaml\n"), "{said}");
}

/// Whoever passes by may plug one in, and tune2fs says in a moment that each of its faults ends the kernel.
#[test]
fn a_stick_has_no_say_in_what_its_faults_do() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let machine = Machine::new();
    machine.place.write("stick/edge-config/edge.toml", "[bundle]\ngateway = \"ship-7\"\n");
    let image = ext4(machine.place.folder.path(), 16, Some(&machine.place.path("stick")));
    run("tune2fs", &["-e", "panic", &image.display().to_string()]);
    let device = Loop::over(&image, &["--read-only"]);
    let at = machine.place.path("mounted");
    {
        let _mounted = Mounted::new(&device.0, &at).unwrap().unwrap();
        let all = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let line = all.lines().find(|line| line.contains(&at.display().to_string())).unwrap();
        assert!(line.contains("errors=continue") && !line.contains("errors=panic"), "{line}");
    }
    assert!(Mounted::plain(&device.0, &at).unwrap().is_none());

    // A first boot takes what is on it. No later one looks at it any more.
    for (name, text) in [("removable", "1\n"), ("size", "32768\n"), ("diskseq", "9\n")] {
        machine.place.write(&format!("machine/sys/class/block/sda/{name}"), text);
    }
    std::os::unix::fs::symlink(&device.0, machine.root("dev/sda")).unwrap();
    let said = provision(&machine);
    assert!(
        said.contains("configuration taken from stick `") && said.contains("/dev/sda`: edge.toml"),
        "{said}"
    );
    let said = provision(&machine);
    assert!(!said.contains("stick"), "{said}");
}

#[test]
fn what_was_refused_is_taken_once_it_is_good_and_nothing_else_is() {
    let machine = Machine::new();
    let put = |below: &str, text: &str| machine.place.write(&format!("machine/{below}"), text);
    let read = |below: &str| std::fs::read_to_string(machine.root(below)).unwrap_or_default();
    let ours = "[bundle]\ngateway = \"ship-7\"\n";
    put("efi/edge-config/edge.toml", ours);
    put("efi/edge-config/authorized_keys", "ssh-ed25519 no key\n");
    put("efi/edge-config/static-pods/bad.yaml", "kind: Deployment\n");
    provision(&machine);
    assert_eq!(read("var/etc/edge/edge.toml"), ours);
    // It is told at each boot for as long as it is there.
    let said = provision(&machine);
    let refused = "`authorized_keys` on the EFI system partition is not taken: `ssh-ed25519 no key`";
    assert!(said.contains(refused) && said.contains("`static-pods/bad.yaml` on"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");

    put("efi/edge-config/authorized_keys", KEY);
    put("efi/edge-config/edge.toml", "[bundle]\ngateway = \"thief\"\n");
    put("efi/edge-config/static-pods/web.yaml", POD);
    let said = provision(&machine);
    assert!(said.contains("configuration taken from the EFI system partition: authorized_keys\n"), "{said}");
    assert!(
        said.contains("the EFI system partition: `edge.toml`, `static-pods/web.yaml` in `edge-config` is ignored, this machine has its configuration hint: `edge system reset`"),
        "{said}"
    );
    assert_eq!(read("var/etc/edge/authorized_keys"), KEY);
    assert_eq!(read("identity/config/authorized_keys"), KEY);
    assert_eq!(read("var/etc/edge/edge.toml"), ours);
    assert!(!machine.root("var/lib/kubelet/static-pods/web.yaml").exists());
    assert!(!machine.root("efi/edge-config/authorized_keys").exists(), "it does not stay on FAT");

    // Once is enough: another key is ignored as everything else is.
    put("efi/edge-config/authorized_keys", &KEY.replace("owner", "thief"));
    let said = provision(&machine);
    assert!(
        said.contains("the EFI system partition: `authorized_keys`, `edge.toml`, `static-pods/web.yaml` in"),
        "{said}"
    );
    assert_eq!(read("var/etc/edge/authorized_keys"), KEY);
}

/// One file on a card of a fleet's image does not cost it the fleet's key, root and settings.
#[test]
fn what_the_card_does_not_have_is_taken_from_the_image() {
    let machine = Machine::new();
    let put = |below: &str, text: &str| machine.place.write(&format!("machine/{below}"), text);
    let read = |below: &str| std::fs::read_to_string(machine.root(below)).unwrap_or_default();
    machine.place.run(&["bundle", "keygen", "--out", "KEYS"]).good();
    let (image, fleet) = ("usr/share/edge/config", "[bundle]\nfleet = \"north\"\n");
    put(&format!("{image}/edge.toml"), fleet);
    put(&format!("{image}/1.root.json"), &machine.place.read("KEYS/1.root.json"));
    put(&format!("{image}/authorized_keys"), KEY);
    put(&format!("{image}/static-pods/web.yaml"), POD);
    put("efi/edge-config/network/10-lan.network", NETWORK);
    put("efi/edge-config/authorized_keys", &KEY.replace("owner", "technician"));
    put("efi/edge-config/static-pods/web.yaml", "kind: Deployment\n");
    // As a power cut leaves it: the note is there, and no file.
    let names =
        ["edge.toml", "1.root.json", "authorized_keys", "static-pods/web.yaml", "network/10-lan.network"];
    put(
        "identity/given.json",
        &serde_json::json!({"format": 1, "open": true, "taken": names, "refused": []}).to_string(),
    );
    let said = provision(&machine);
    let lines = "edge: configuration taken from the EFI system partition: authorized_keys, network/10-lan.network\n\
                 edge: configuration taken from the image: edge.toml, 1.root.json\n";
    assert!(said.contains(lines), "{said}");
    assert_eq!(read("var/etc/edge/edge.toml"), fleet);
    assert!(read("var/etc/edge/authorized_keys").ends_with(" technician\n"));
    let pinned = machine.run(&["trust", "show", "-o", "json"]).good().out;
    assert!(pinned.contains("\"version\": 1"), "{pinned}");
    // The card's own pod is wrong, and still asked for.
    assert_eq!(read("var/lib/kubelet/static-pods/web.yaml"), "");
    put("efi/edge-config/static-pods/web.yaml", &POD.replace("b}", "c}"));
    assert!(provision(&machine).contains("taken from the EFI system partition: static-pods/web.yaml\n"));
    assert!(read("var/lib/kubelet/static-pods/web.yaml").contains("c}"));
    reset(&machine);
    let said = provision(&machine);
    let all = "edge.toml, 1.root.json, authorized_keys, static-pods/web.yaml, network/10-lan.network\n";
    assert!(said.contains(&format!("configuration taken from identity: {all}")), "{said}");
    assert!(!said.contains("the image"), "{said}");
}

#[test]
fn pods_have_a_network_whatever_a_power_cut_left() {
    let machine = Machine::new();
    let network = machine.root("var/etc/cni/net.d/99-edge.conflist");
    let ours = std::fs::read(machine.root("usr/share/edge/cni/99-edge.conflist")).unwrap();
    assert!(!ours.is_empty());
    machine.place.write("machine/efi/edge-config/edge.toml", "offline-mode = false\n");
    provision(&machine);
    assert_eq!(std::fs::read(&network).unwrap(), ours);
    std::fs::write(&network, "").unwrap();
    assert_eq!(provision(&machine), "");
    assert_eq!(std::fs::read(&network).unwrap(), ours);
    // An owner's own change stays.
    std::fs::write(&network, "{}").unwrap();
    provision(&machine);
    assert_eq!(std::fs::read(&network).unwrap(), b"{}");
    std::fs::remove_file(&network).unwrap();
    std::fs::remove_file(machine.root("usr/share/edge/cni/99-edge.conflist")).unwrap();
    let said = provision(&machine);
    assert!(said.contains("edge: pods have no network: cannot read `"), "{said}");
}
