//! Images for ARM, made here: one that is booted in an emulator, and one for a board that nobody has at hand, which is read.
//! Long, and of `scripts/test --long`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command::Place;
use crate::image::Workshop;
use crate::image_update::{IMPORT, bundled, plug, reboot, states};
use crate::support::vm::{self, Arch, Cable, Vm};
use crate::support::{image_archive_of, parts};

/// An emulator of another kind of machine takes its time.
const BOOT: Duration = Duration::from_secs(900);

/// As the one of `image`, on the console of this machine.
const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: greeter}
spec:
  containers:
  - name: greeter
    image: docker.io/ship/greeter:arm64
    command: [sh, -c, 'echo GREETING from $(hostname) > /dev/ttyAMA0; sleep 2147483647']
    securityContext: {privileged: true}
";

/// Makes an image of the arm64 programs that `scripts/test --long` built; its path.
fn make(workshop: &Workshop, board: &str, name: &str, more: &[&str]) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kubelet =
        Command::new(root.join("scripts/parts.d/kubernetes")).arg(parts::cache()).arg("arm64").output()?;
    ensure!(kubelet.status.success(), "{}", String::from_utf8_lossy(&kubelet.stderr));
    let kubelet = String::from_utf8(kubelet.stdout)?;
    let image = workshop.place.path(&format!("{name}.img"));
    let made = Command::new(env!("CARGO_BIN_EXE_edge-pack"))
        .args(["image", "--arch", "arm64", "--board", board, "--kubelet", kubelet.trim(), "--edge"])
        .arg(root.join("target/snap/edge-arm64"))
        .arg("--authorized-key")
        .arg(workshop.place.path("owner/key.pub"))
        .arg("--out")
        .arg(&image)
        .args(more)
        .output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(image)
}

/// A folder with a bundle of one image, of the busybox that is among the packages of an image that was made; that folder.
fn bundle(workshop: &Workshop) -> Result<PathBuf> {
    let cache = parts::cache().join("image-cache");
    let is_busybox = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("busybox-static_") && name.ends_with("_arm64.deb")
    };
    let package = fs::read_dir(&cache)?.flatten().map(|entry| entry.path()).find(is_busybox);
    let package = package.with_context(|| format!("no busybox-static of arm64 in `{}`", cache.display()))?;
    let tree = workshop.place.path("busybox");
    let unpacked = Command::new("dpkg-deb").arg("-x").arg(&package).arg(&tree).status()?;
    ensure!(unpacked.success(), "cannot unpack `{}`", package.display());
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| tree.join(path));
    let busybox = busybox.iter().find(|path| path.exists()).context("the package has no busybox")?;

    // In a store of its own: that of the workshop has the image for this machine.
    let depot = Place { folder: tempfile::tempdir_in(workshop.place.folder.path())? };
    fs::create_dir(depot.path("etc"))?;
    depot.write("etc/edge.toml", "");
    let name = ["docker.io/ship/greeter:arm64"];
    let archive = image_archive_of(depot.folder.path(), &name, &[], ("arm64", busybox))?;
    depot.run(&["image", "import", &archive.display().to_string()]).good();
    let stick = workshop.place.path("stick-arm64");
    fs::create_dir(&stick)?;
    let [keys, to] = [workshop.place.path("KEYS"), stick.clone()].map(|path| path.display().to_string());
    depot.run(&["bundle", "create", "--stream", "main", "--keys", &keys, "--to", &to, "--full"]).good();
    Ok(stick)
}

/// From a blank card: what came with the image runs, and an update by a bundle is staged, tried, and good.
#[test]
#[ignore = "boots a machine of its own; needs scripts/parts --arm64"]
fn an_arm64_image_boots_runs_its_pod_and_is_updated() -> Result<()> {
    let workshop = Workshop::new("arm64")?;
    let newer = make(&workshop, "generic-efi", "2.0", &["--image-version", "2.0"])?;
    let system = bundled(&workshop, "2.0", &PathBuf::from(format!("{}.system", newer.display())))?;
    let stick = bundle(&workshop)?.display().to_string();
    let trust = workshop.place.path("KEYS/1.root.json").display().to_string();
    workshop.place.write("pods-arm64/greeter.yaml", POD);
    let pods = workshop.place.path("pods-arm64").display().to_string();
    let own = ["--trust", &trust, "--static-pods", &pods, "--image-bundle", &stick];
    let image = make(&workshop, "generic-efi", "generic-efi", &own)?;
    let place = workshop.place.path("machine");
    fs::create_dir_all(&place)?;
    fs::copy(workshop.place.path("owner/key"), place.join("key"))?;
    let mut machine = Vm::new(Arch::Arm64, &place, &image, 4, Cable::Lonely)?;
    plug(&mut machine, &system)?;
    machine.start()?;
    machine.wait("edge: slot a is good", BOOT)?;
    assert_eq!(machine.run("uname -m; cat /run/edge-slot")?, "aarch64\na\n");
    machine.wait("GREETING from greeter", BOOT)?;

    machine.run(IMPORT)?;
    assert_eq!(states(&mut machine)?, ["good", "staged"]);
    reboot(&mut machine)?;
    machine.wait("edge: slot b is good", BOOT)?;
    assert_eq!(states(&mut machine)?, ["good", "good"]);
    assert!(machine.run("cat /run/edge-slot /usr/lib/os-release")?.contains("IMAGE_VERSION=2.0"));
    machine.wait("GREETING from greeter", BOOT)?;
    Ok(())
}

#[test]
#[ignore = "makes an image of its own; needs scripts/parts --arm64"]
fn a_raspberry_pi_s_card_has_what_its_boot_loader_reads() -> Result<()> {
    let workshop = Workshop::new("raspberry-pi")?;
    let image = make(&workshop, "raspberry-pi", "raspberry-pi", &[])?;
    let place = image.parent().context("no folder")?;
    let tool = |arguments: &[&str]| -> Result<String> {
        let output = vm::tool(place, arguments)?.output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let table: Value = serde_json::from_str(&tool(&["sfdisk", "--json", "/work/raspberry-pi.img"])?)?;
    let partitions = table["partitiontable"]["partitions"].as_array().context("no partitions")?.clone();
    let names: Vec<_> = partitions.iter().filter_map(|partition| partition["name"].as_str()).collect();
    let wanted = ["ESP", "boot_a", "boot_b", "root_a", "verity_a", "root_b", "verity_b", "identity", "data"];
    assert_eq!(names, wanted);
    let at = |number: usize| {
        let sector = partitions[number]["start"].as_u64().unwrap_or_default();
        format!("/work/raspberry-pi.img@@{}", sector * 512)
    };
    // The numbers are those of the partitions: what autoboot.txt names is boot_a, and boot_b for a try.
    let autoboot = tool(&["mtype", "-i", &at(0), "::autoboot.txt"])?;
    assert_eq!(autoboot, "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n");
    let listed = tool(&["mdir", "-b", "-i", &at(1), "::"])?;
    for file in [
        "config.txt",
        "cmdline.txt",
        "vmlinuz",
        "initrd",
        "start4.elf",
        "fixup4.dat",
        "bcm2711-rpi-4-b.dtb",
        "bcm2711-rpi-400.dtb",
        "bcm2711-rpi-cm4-io.dtb",
        "bcm2712-rpi-5-b.dtb",
    ] {
        assert!(listed.contains(&format!("::/{file}")), "no {file}: {listed}");
    }
    let config = tool(&["mtype", "-i", &at(1), "::config.txt"])?;
    assert!(config.contains("kernel=vmlinuz\ninitramfs initrd followkernel\n"), "{config}");
    let system: Value =
        serde_json::from_str(&fs::read_to_string(place.join("raspberry-pi.img.system/system.json"))?)?;
    let words = tool(&["mtype", "-i", &at(1), "::cmdline.txt"])?;
    let hash = system["roothash"].as_str().context("no roothash")?;
    assert!(words.contains(&format!("roothash={hash}")), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");

    // What a bundle brings of it is what lies in its first slot, and edge finds in it which root it boots.
    let boot = place.join("raspberry-pi.img.system/boot.img");
    let image = fs::File::open(&image)?;
    let mut there = vec![0; usize::try_from(fs::metadata(&boot)?.len())?];
    let from = partitions[1]["start"].as_u64().unwrap_or_default() * 512;
    std::os::unix::fs::FileExt::read_exact_at(&image, &mut there, from)?;
    ensure!(fs::read(&boot)? == there, "boot.img is not what lies in boot_a");
    let id = edge::system::verity_of_boot(&boot)?.context("no system in boot.img")?;
    assert_eq!(id.to_string(), system["verity-uuid"]);
    assert_eq!((&system["boot"], &system["board"]), (&"raspberry-pi".into(), &"raspberry-pi".into()));
    // The other one begins empty: what is no file system is started by no boot loader.
    let mut other = vec![1; 1 << 20];
    let from = partitions[2]["start"].as_u64().unwrap_or_default() * 512;
    std::os::unix::fs::FileExt::read_exact_at(&image, &mut other, from)?;
    ensure!(other.iter().all(|byte| *byte == 0), "boot_b holds something");
    ensure!(there.len() < 128 << 20, "its end is carried for nothing: {} bytes", there.len());
    Ok(())
}
