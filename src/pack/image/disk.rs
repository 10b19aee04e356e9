//! The disk: a partition table with fixed identities, the partition that the firmware reads, one slot filled and one empty,
//! identity, bundles that came with the image, and data.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::board::{Board, Boot};
use super::root::ROOT;
use super::slot::efi;
use super::tools::Tools;
use super::{ImagePlan, put, raspberry};
use crate::pack::elf::Machine;

/// What holds the bundles on a stick.
pub const BUNDLES: &str = "edge-bundle";
const MIB: u64 = 1024 * 1024;
/// Where the root has what lies on the EFI system partition beside the boot entries.
const FIRMWARE: &str = "usr/share/edge/efi";
/// What is fixed is the same for every image: its partitions are found by their labels, and told apart by their disk.
const DISK: &str = "0ED6E000-0000-4000-8000-0000000000";
const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
/// A FAT that is no ESP.
const BASIC: &str = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7";
/// What fills the first boot partition of a Raspberry Pi.
const BOOT: &str = "system/boot.img";
const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
const VAR: &str = "4D21B016-B534-45C2-A9FB-5C16E091FD2D";

/// A partition: its label, type, size in bytes, and the file of the work folder that fills it.
struct Partition {
    label: &'static str,
    kind: &'static str,
    size: u64,
    content: Option<&'static str>,
}

/// The types of a root and its hashes, of the Discoverable Partitions Specification.
fn kinds(machine: Machine) -> Result<(&'static str, &'static str)> {
    match machine {
        Machine::Amd64 => {
            Ok(("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5"))
        }
        Machine::Arm64 => {
            Ok(("B921B045-1DF0-41C3-AF44-4C6F280D3FAE", "DF3300CE-D69F-4C92-978C-9BFB0F38D820"))
        }
        Machine::Armhf => efi(machine).map(|_| ("", "")),
    }
}

/// Makes `disk.img` in the work folder, of the system that lies there.
///
/// # Errors
/// A tool fails; a bundle cannot be read.
pub fn make(plan: &ImagePlan, board: &Board, tools: &Tools) -> Result<()> {
    match board.boot {
        Boot::SystemdBoot => boot_partition(board, tools)?,
        Boot::RaspberryPi => raspberry::first_partition(board, tools)?,
    }
    identity(board, tools)?;
    let preload = preload(plan, tools)?;
    let (root, verity) = kinds(plan.machine)?;
    let sizes = &board.partitions;
    let part = |label, kind, size, content| Partition { label, kind, size, content };
    let mut parts = vec![
        part("ESP", ESP, sizes.esp * MIB, Some("esp")),
        part("boot_a", BASIC, sizes.boot * MIB, Some(BOOT)),
        part("boot_b", BASIC, sizes.boot * MIB, None),
        part("root_a", root, sizes.root * MIB, Some("system/root.erofs")),
        part("verity_a", verity, sizes.verity * MIB, Some("system/root.verity")),
        part("root_b", root, sizes.root * MIB, None),
        part("verity_b", verity, sizes.verity * MIB, None),
        part("identity", LINUX, sizes.identity * MIB, Some("identity")),
    ];
    // Only the Raspberry Pi has boot partitions.
    parts.retain(|part| part.size > 0);
    if let Some(size) = preload {
        parts.push(part("preload", LINUX, size, Some("preload")));
    }
    parts.push(part("data", VAR, sizes.data * MIB, None));
    for part in &parts {
        let Some(content) = part.content else { continue };
        let size = fs::metadata(tools.work().join(content))?.len();
        ensure!(size <= part.size, "`{}` has {size} bytes, and its partition {}", part.label, part.size);
    }
    let mut table = format!("label: gpt\nlabel-id: {DISK}01\n");
    let (mut start, mut fill) = (MIB, String::new());
    for (number, part) in (0x10..).zip(&parts) {
        table += &format!(
            "start={},size={},type={},uuid={DISK}{number:02X},name={}\n",
            start / 512,
            part.size / 512,
            part.kind,
            part.label
        );
        if let Some(content) = part.content {
            fill += &format!(
                "dd if=/work/{content} of=/work/disk.img bs=1M seek={} conv=notrunc,sparse status=none\n",
                start / MIB
            );
        }
        start += part.size;
    }
    put(&tools.work().join("table"), table.as_bytes(), 0o644)?;
    let text = format!(
        "rm -f /work/disk.img; truncate -s {} /work/disk.img\n\
         sfdisk -q --no-reread --no-tell-kernel /work/disk.img </work/table\n{fill}",
        start + MIB
    );
    tools.shell(&text, [""; 0]).context("cannot make the disk").map(drop)
}

/// systemd-boot's configuration. No key shows its menu: noise on a serial console would stop the boot there for ever.
const LOADER: &str = include_str!("../../../config/loader.conf");

/// Puts what lies on the EFI system partition beside the boot entries into the root: a system that was found good brings it over.
///
/// # Errors
/// The packages have no systemd-boot.
pub fn lay_firmware(machine: Machine, tools: &Tools, root: &Path) -> Result<()> {
    let (arch, default) = efi(machine)?;
    let own = root.join(FIRMWARE);
    let from = tools.work().join(format!("efi/systemd-boot{arch}.efi"));
    let program = fs::read(&from).with_context(|| format!("the packages have no `{}`", from.display()))?;
    put(&own.join("EFI/BOOT").join(default), &program, 0o644)?;
    put(&own.join("loader/loader.conf"), LOADER.as_bytes(), 0o644)?;
    put(&own.join("startup.nsh"), startup(default).as_bytes(), 0o644)
}

/// What the firmware's shell runs, where systemd-boot ended because an entry could not be started: the next try. It finds the
/// program in the folders that it looks for programs in, and starts anew where that ends too.
fn startup(default: &str) -> String {
    format!("@echo -off\r\n{default}\r\nreset\r\n")
}

/// The FAT: systemd-boot, and the entry of the first slot with three tries.
fn boot_partition(board: &Board, tools: &Tools) -> Result<()> {
    let text = format!(
        r#"cd /work; mkdir -p esp.d; cp -r {ROOT}/{FIRMWARE}/. esp.d/; mkdir -p esp.d/EFI/Linux
cp system/edge.efi esp.d/EFI/Linux/edge-1+3.efi
{}"#,
        raspberry::fat("esp.d", "esp", board.partitions.esp, "0ED6E010", tools.epoch())
    );
    tools.shell(&text, [""; 0]).context("cannot make the partition that the firmware reads").map(drop)
}

/// An empty file system, whose identifiers are fixed.
fn identity(board: &Board, tools: &Tools) -> Result<()> {
    let text = format!(
        "rm -f /work/identity; truncate -s {}M /work/identity\n\
         mke2fs -q -t ext4 -L identity -U 0ed6e000-0000-4000-8000-0000000000a1 \
         -E hash_seed=0ed6e000-0000-4000-8000-0000000000a2,root_owner=0:0 -O ^metadata_csum_seed /work/identity",
        board.partitions.identity
    );
    tools.shell(&text, [""; 0]).context("cannot make the identity partition").map(drop)
}

/// The bundles that come with the image; the size of their partition.
fn preload(plan: &ImagePlan, tools: &Tools) -> Result<Option<u64>> {
    if plan.bundles.is_empty() {
        return Ok(None);
    }
    // As on a stick: all bundles in the one folder where `edge bundle import` looks for them.
    let folder = tools.work().join("preload.d").join(BUNDLES);
    for bundle in &plan.bundles {
        let from = bundle.join(BUNDLES);
        super::root::copy_folder(&from, &folder, super::root::Modes::Plain)
            .with_context(|| format!("cannot take the bundle `{}`", bundle.display()))?;
    }
    let epoch = format!("-T{}", tools.epoch());
    let uuid = "0ed6e000-0000-4000-8000-0000000000c1";
    // What bundles hold is compressed already, and is read once.
    tools.run(
        "mkfs.erofs",
        [
            "--quiet",
            &epoch,
            "--all-time",
            "--all-root",
            "-U",
            uuid,
            "-x-1",
            "/work/preload",
            "/work/preload.d",
        ],
    )?;
    Ok(Some(fs::metadata(tools.work().join("preload"))?.len().next_multiple_of(MIB)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_waits_for_a_key_and_what_cannot_be_started_is_tried_again() {
        let words: Vec<&str> = LOADER.lines().collect();
        assert_eq!(words, ["timeout menu-disabled", "editor no", "auto-entries no", "auto-firmware no"]);
        assert_eq!(startup("BOOTX64.EFI"), "@echo -off\r\nBOOTX64.EFI\r\nreset\r\n");
    }
}
