//! The Raspberry Pi: two boot partitions, and a first one whose `autoboot.txt` says which is booted, and which is tried
//! once after `reboot "0 tryboot"`. The format is that of the Pi's own documentation, "autoboot.txt" and "config.txt".

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context, Result};

use super::board::{Board, Kernel};
use super::put;
use super::tools::Tools;

/// The file of a system that fills a boot partition.
pub const BOOT: &str = "boot.img";

/// Partition 2 holds the system of the first slot, 3 that of the second: the numbers of their place on the disk.
const AUTOBOOT: &str = include_str!("../../../config/autoboot.txt");
/// What a kernel has that takes `reboot "0 tryboot"` for more than a restart. Upstream's has not: it is Raspberry Pi's own.
const TRYBOOT: &str = "tryboot";
/// Bytes that are looked at at once.
const PIECE: u64 = 1 << 20;
/// `os_check=0`: the loader of the Pi 5 looks for words of the Pi's own kernels, which Debian's has not.
const CONFIG: &str = "arm_64bit=1\nenable_uart=1\nuart_2ndstage=0\nos_check=0\nkernel=vmlinuz\ninitramfs initrd followkernel\n\
                      disable_splash=1\n";

/// Makes `boot.img` in the folder `system` of the work folder: kernel, initrd, device trees, firmware and the command line.
///
/// # Errors
/// The packages lack a file; a tool fails.
pub fn boot_partition(
    board: &Board,
    kernel: &Kernel,
    release: &str,
    words: &str,
    tools: &Tools,
) -> Result<()> {
    let folder = tools.work().join("boot.d");
    put(&folder.join("config.txt"), CONFIG.as_bytes(), 0o644)?;
    put(&folder.join("cmdline.txt"), format!("{words}\n").as_bytes(), 0o644)?;
    let trees = kernel.device_trees.iter().map(|tree| format!("device-trees/{tree}"));
    let copied = trees.collect::<Vec<_>>().join(" ");
    let text = format!(
        r#"cd /work; cp {copied} boot.d/
[ ! -d firmware ] || cp firmware/* boot.d/
cp boot/vmlinuz-{release} boot.d/vmlinuz; cp initrd boot.d/initrd
{}"#,
        fat("boot.d", &format!("system/{BOOT}"), board.partitions.boot, "0ED6E011", tools.epoch())
    );
    tools.shell(&text, [""; 0]).context("cannot make the boot partition")?;
    let image = tools.work().join("system").join(BOOT);
    trim(&image).with_context(|| format!("cannot trim `{}`", image.display()))
}

/// Takes the zeros off the end of an image, in whole pieces but one: a bundle carries what has content, and the partition
/// has room for the rest. The one is what a file's own last bytes may be, where another system's lay before.
fn trim(image: &std::path::Path) -> std::io::Result<()> {
    let file = File::options().read(true).write(true).open(image)?;
    let mut length = file.metadata()?.len();
    let whole = length;
    let mut piece = vec![0; usize::try_from(PIECE).unwrap_or_default()];
    while length >= PIECE {
        file.read_exact_at(&mut piece, length - PIECE)?;
        if piece.iter().any(|byte| *byte != 0) {
            break;
        }
        length -= PIECE;
    }
    file.set_len((length + PIECE).min(whole))
}

/// Whether the kernel of release `release` can ask the boot loader for a trial. A kernel that is packed otherwise than by
/// gzip cannot be told, and counts as one that cannot.
///
/// # Errors
/// A tool fails.
pub fn knows_tryboot(release: &str, tools: &Tools) -> Result<bool> {
    // All is read: `-q` would end zcat by a signal, which `pipefail` takes for a failure.
    let text = format!("zcat -f /work/boot/vmlinuz-{release} | grep -acF {TRYBOOT} || true");
    Ok(tools.shell(&text, [""; 0]).context("cannot read the kernel")?.trim() != "0")
}

/// Makes `esp` in the work folder: the partition that is read first.
///
/// # Errors
/// A tool fails.
pub fn first_partition(board: &Board, tools: &Tools) -> Result<()> {
    put(&tools.work().join("esp.d/autoboot.txt"), AUTOBOOT.as_bytes(), 0o644)?;
    let text = format!("cd /work\n{}", fat("esp.d", "esp", board.partitions.esp, "0ED6E010", tools.epoch()));
    tools.shell(&text, [""; 0]).context("cannot make the partition that the firmware reads").map(drop)
}

/// The shell's text that makes a FAT of a folder: one by one in the order of their names, since mcopy takes a folder's as
/// the host's file system lists them. A folder is copied while it is empty, to have its time.
pub fn fat(folder: &str, image: &str, mib: u64, serial: &str, epoch: i64) -> String {
    // FAT32 has at least 65,525 clusters; what is smaller cannot be one with sectors of 512 bytes.
    format!(
        "find {folder} -exec touch -d @{epoch} {{}} +\n\
         rm -f {image}; truncate -s {mib}M {image}\n\
         mkfs.vfat --invariant -F32 -s1 -n EDGE -i {serial} {image} >/dev/null\n\
         mkdir {folder}.empty; (cd {folder}; find . -mindepth 1 -printf '%P\\n') | LC_ALL=C sort | while read -r name; do\n\
         from={folder} to=/; case $name in */*) to=/${{name%/*}} ;; esac\n\
         [ ! -d \"$from/$name\" ] || {{ from={folder}.empty; mkdir \"$from/$name\"; touch -d @{epoch} \"$from/$name\"; }}\n\
         mcopy -s -m -i {image} \"$from/$name\" \"::$to\"; done"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_image_that_has_no_content_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("boot.img");
        for (content, left) in [(0, 2), (PIECE - 1, 2), (PIECE, 3), (8 * PIECE - 1, 8)] {
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            file.set_len(8 * PIECE).unwrap();
            file.write_all_at(&[1], content).unwrap();
            trim(&path).unwrap();
            let mut last = [0];
            file.read_exact_at(&mut last, content).unwrap();
            assert_eq!((file.metadata().unwrap().len(), last), (left * PIECE, [1]), "{content}");
        }
    }
}
