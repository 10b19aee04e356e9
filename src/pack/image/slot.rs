//! One system, as it lies in a slot: the root as erofs, its hashes, and the boot entry that names both by their hash.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::board::{Board, Boot, Kernel};
use super::root::ROOT;
use super::tools::Tools;
use super::{ImagePlan, put, raspberry};
use crate::pack::elf::Machine;

/// A system whose files lie in `system` of the work folder.
#[derive(Clone, Debug)]
pub struct System {
    /// The UUID in the superblock of the hashes, without hyphens.
    pub verity: String,
    /// The hash at the root of the hashes.
    pub root_hash: String,
    /// Bytes of `root.erofs`.
    pub root_size: u64,
}

/// The identity of every root: a mount tells systems apart by their hashes.
const UUID: &str = "0ed6e000-0000-4000-8000-0000000000b1";
/// Of all systems alike, so that systemd-boot orders entries by their file names: see ARCHITECTURE.md.
const OS_RELEASE: &str = "NAME=\"Edge Appliance\"\nID=edge\nIMAGE_ID=edge\nPRETTY_NAME=\"Edge Appliance\"\n";

/// Makes `root.erofs`, `root.verity`, what is booted, and `system.json` in the folder `system` of the work folder, of the root
/// and the initrd that lie there.
///
/// # Errors
/// A tool fails; the root is too large for the board's partition.
pub fn make(
    plan: &ImagePlan,
    board: &Board,
    kernel: &Kernel,
    release: &str,
    tools: &Tools,
) -> Result<System> {
    let system = tools.work().join("system");
    fs::create_dir_all(&system)?;
    let epoch = format!("-T{}", tools.epoch());
    let fixed = ["--quiet", "-zlz4hc,12", &epoch, "--all-time", "-U", UUID, "--all-root", "-x-1"];
    tools.run("mkfs.erofs", fixed.into_iter().chain(["/work/system/root.erofs", ROOT]))?;
    let root_size = fs::metadata(system.join("root.erofs"))?.len();
    let limit = board.partitions.root << 20;
    ensure!(
        root_size <= limit,
        "the root has {root_size} bytes, and its partition {limit} hint: partitions.root of the board"
    );
    // The salt and the identity are of the content: the same content gives the same hashes.
    let salt = super::sum(tools, "/work/system/root.erofs")?;
    let verity = salt.get(..32).unwrap_or_default().to_owned();
    let uuid = hyphened(&verity);
    tools.run(
        "veritysetup",
        [
            "format",
            &format!("--salt={salt}"),
            &format!("--uuid={uuid}"),
            "--hash=sha256",
            "--root-hash-file=/work/root-hash",
            "/work/system/root.erofs",
            "/work/system/root.verity",
        ],
    )?;
    let root_hash = fs::read_to_string(tools.work().join("root-hash"))?.trim().to_owned();
    let words = command_line(kernel, &verity, &root_hash);
    match board.boot {
        Boot::SystemdBoot => entry(plan.machine, release, &words, tools)?,
        Boot::RaspberryPi => raspberry::boot_partition(board, kernel, release, &words, tools)?,
    }
    describe(plan, board, &verity, &root_hash, &system, tools)?;
    Ok(System { verity, root_hash, root_size })
}

/// What the kernel is told.
fn command_line(kernel: &Kernel, verity: &str, root_hash: &str) -> String {
    let mut words: Vec<String> = kernel.console.iter().map(|console| format!("console={console}")).collect();
    words.extend(kernel.command_line.iter().cloned());
    // Nobody is there to be asked how a damaged file system shall be mended, and `preen` leaves most damage as it is.
    let fixed =
        "panic=5 ro quiet fsck.repair=yes systemd.show_status=1 systemd.firstboot=off systemd.gpt_auto=no";
    words.extend([fixed.to_owned(), format!("edge.verity={verity}"), format!("roothash={root_hash}")]);
    words.join(" ")
}

/// The boot entry: kernel, initrd and command line in one file that UEFI starts.
fn entry(machine: Machine, release: &str, words: &str, tools: &Tools) -> Result<()> {
    let (arch, _) = efi(machine)?;
    put(&tools.work().join("os-release"), OS_RELEASE.as_bytes(), 0o644)?;
    tools.run(
        "ukify",
        [
            "build",
            &format!("--efi-arch={arch}"),
            &format!("--stub=/work/efi/linux{arch}.efi.stub"),
            &format!("--linux=/work/boot/vmlinuz-{release}"),
            "--initrd=/work/initrd",
            "--os-release=@/work/os-release",
            &format!("--uname={release}"),
            &format!("--cmdline={words}"),
            "--output=/work/system/edge.efi",
        ],
    )?;
    fs::set_permissions(
        tools.work().join("system/edge.efi"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )?;
    Ok(())
}

/// The file of a system that is booted.
fn boot_file(board: &Board) -> &'static str {
    match board.boot {
        Boot::SystemdBoot => "edge.efi",
        Boot::RaspberryPi => raspberry::BOOT,
    }
}

/// UEFI's names for a machine: within file names, and of the program that it starts where nothing says another.
///
/// # Errors
/// No UEFI is known for it.
pub fn efi(machine: Machine) -> Result<(&'static str, &'static str)> {
    match machine {
        Machine::Amd64 => Ok(("x64", "BOOTX64.EFI")),
        Machine::Arm64 => Ok(("aa64", "BOOTAA64.EFI")),
        Machine::Armhf => anyhow::bail!("no image is made for armhf hint: amd64, arm64"),
    }
}

/// `system.json`: what a bundle says of the system that it brings.
fn describe(
    plan: &ImagePlan,
    board: &Board,
    verity: &str,
    root_hash: &str,
    system: &Path,
    tools: &Tools,
) -> Result<()> {
    let mut files = serde_json::Map::new();
    for name in ["root.erofs", "root.verity", boot_file(board)] {
        let sha256 = super::sum(tools, &format!("/work/system/{name}"))?;
        let size = fs::metadata(system.join(name)).with_context(|| format!("no `{name}`"))?.len();
        // The tools differ in what they let others read; none of it is secret.
        fs::set_permissions(system.join(name), fs::Permissions::from_mode(0o644))?;
        files.insert(name.to_owned(), json!({"size": size, "digest": format!("sha256:{sha256}")}));
    }
    let mut facts = facts(plan, board);
    facts["verity-uuid"] = hyphened(verity).into();
    facts["roothash"] = root_hash.into();
    facts["files"] = files.into();
    put(&system.join("system.json"), (serde_json::to_string_pretty(&facts)? + "\n").as_bytes(), 0o644)
}

/// What a system says of itself: in the root, for the gateway that runs it, and beside the image, for a bundle.
pub fn facts(plan: &ImagePlan, board: &Board) -> Value {
    json!({
        "format": 1, "version": plan.version, "arch": plan.machine.name(), "board": board.name,
        "boot": board.boot.word(),
    })
}

/// 32 digits as a UUID is written.
fn hyphened(hex: &str) -> String {
    let mut out = String::new();
    for (at, digit) in hex.chars().enumerate() {
        if [8, 12, 16, 20].contains(&at) {
            out.push('-');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_two_digits_are_a_uuid() {
        assert_eq!(hyphened("11112222333344445555666677778888"), "11112222-3333-4444-5555-666677778888");
    }
}
