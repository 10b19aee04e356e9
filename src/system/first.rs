//! What is read before anything of a slot: the partition table, and on the first partition a Raspberry Pi's `autoboot.txt`, or the
//! firmware's program and its configuration, as the system that runs has them in its root, whose hash tree covers them.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use super::esp::Esp;
use super::loader::Loader;
use super::mend::{Damage, HINT, Looked, settled};
use super::record::Sum;
use super::slot::Slot;
use super::{Error, Places, autoboot, copies, fat, partition, tryboot};
use crate::sys::digest::Digest;
use crate::sys::durable;

/// Where the root has what lies on the EFI system partition beside the boot entries.
const OWN: &str = "/usr/share/edge/efi";
/// What the table's parts have, in bytes. The image's builder makes no others.
const SECTOR: usize = 512;
/// The largest array of partitions that is read, in bytes; the usual one has 16 KiB.
const MOST: usize = 1 << 20;

/// Looks at it, and mends what it can.
///
/// # Errors
/// Those of the root's own files; a partition that every appliance has is not there.
pub(super) fn look(places: &Places, loader: Loader, booted: Slot, looked: &mut Looked) -> Result<(), Error> {
    look_at_table(places, looked)?;
    match loader {
        Loader::RaspberryPi => look_at_autoboot(places, booted, looked),
        Loader::SystemdBoot => look_at_own(places, looked),
    }
}

/// The table by its own sums: who gave the disk more room changed it, and them.
fn look_at_table(places: &Places, looked: &mut Looked) -> Result<(), Error> {
    let disk = partition::whole(places)?;
    match is_table(&disk) {
        Ok(true) => {}
        Ok(false) => looked.damaged.push(Damage {
            slot: None,
            what: format!(
                "the partition table of `{}` reads otherwise than it was written {HINT}",
                disk.display()
            ),
        }),
        Err(error) => looked.unread.push(durable::named(error, "read", &disk).to_string()),
    }
    Ok(())
}

/// UEFI Specification 2.10, 5.3: the header in the second sector has a sum of itself at byte 16, and one of the array of
/// partitions at byte 88; where that is, of how many and how large ones, is said at bytes 72, 80 and 84.
fn is_table(disk: &Path) -> io::Result<bool> {
    let file = File::open(disk)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut head = [0; 2 * SECTOR];
    file.read_exact_at(&mut head, 0)?;
    let (first, header) = head.split_at(SECTOR);
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let size = |at: usize| usize::try_from(number(at)).unwrap_or(usize::MAX);
    let (length, array) = (size(12), size(80).saturating_mul(size(84)));
    if first[510..] != [0x55, 0xaa]
        || header[..8] != *b"EFI PART"
        || !(92..=SECTOR).contains(&length)
        || array > MOST
    {
        return Ok(false);
    }
    let mut bare = header[..length].to_vec();
    bare[16..20].fill(0);
    let mut partitions = vec![0; array];
    let at = u64::from(number(72)) | u64::from(number(76)) << 32;
    if crc32(&bare) != number(16) {
        return Ok(false);
    }
    file.read_exact_at(&mut partitions, at.saturating_mul(SECTOR as u64))?;
    Ok(crc32(&partitions) == number(88))
}

/// As in Ethernet.
fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = flate2::Crc::new();
    sum.update(bytes);
    sum.sum()
}

/// Also how a card that is in the field gets another boot loader: with a system that was found good.
fn look_at_own(places: &Places, looked: &mut Looked) -> Result<(), Error> {
    let own = places.at(OWN);
    for name in files_below(&own).map_err(|e| durable::named(e, "list", &own))? {
        let (from, path) = (own.join(&name), places.esp().join(&name));
        let bytes = std::fs::read(&from).map_err(|e| durable::named(e, "read", &from))?;
        let sum = Sum { digest: Digest::sha256(&bytes), size: bytes.len() as u64 };
        let is_longer = || path.metadata().is_ok_and(|data| data.len() != sum.size);
        if matches!(copies::reads(&path, &sum), Ok(true)) && !is_longer() {
            continue;
        }
        // An older system takes nothing back.
        if std::fs::read(&path).is_ok_and(|there| version(&there) > version(&bytes)) {
            continue;
        }
        let what =
            format!("`{}` on the EFI system partition was otherwise than this system has it", name.display());
        let mended = places.lock("esp.lock").and_then(|_lock| match settled(places)? {
            Some(_) => replaced(places, &path, &from, &sum).map(|()| true),
            None => Ok(false),
        });
        match mended {
            Ok(true) => looked.mended.push(format!("{what}, and is mended")),
            Ok(false) => {}
            Err(error) => {
                let hint =
                    if matches!(error, Error::ReadBack(_)) { format!(" {HINT}") } else { String::new() };
                let what = format!("{what}, and is not mended: {error}{hint}");
                looked.damaged.push(Damage { slot: None, what });
            }
        }
    }
    Ok(())
}

/// Which systemd-boot a program says that it is; less than any where it says nothing.
fn version(program: &[u8]) -> Option<Vec<u32>> {
    const SAYS: &[u8] = b"#### LoaderInfo: systemd-boot ";
    let at = program.windows(SAYS.len()).position(|found| found == SAYS)? + SAYS.len();
    let said: Vec<u8> = program[at..]
        .iter()
        .copied()
        .take_while(|byte| byte.is_ascii_digit() || b".-~".contains(byte))
        .collect();
    let numbers = said.split(|byte| !byte.is_ascii_digit()).filter(|number| !number.is_empty());
    Some(numbers.filter_map(|number| std::str::from_utf8(number).ok()?.parse().ok()).collect())
}

fn replaced(places: &Places, path: &Path, from: &Path, sum: &Sum) -> Result<(), Error> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        let _writable = crate::sys::mounts::Writable::new(&places.esp())?;
        std::fs::create_dir_all(folder).map_err(|e| durable::named(e, "make folder", folder))?;
    }
    copies::replace(places, path, from, sum)
}

/// All files below a folder, by their paths in it; none where there is no folder: an older system has none.
fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(below) = folders.pop() {
        let listed = match std::fs::read_dir(folder.join(&below)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            listed => listed?,
        };
        for entry in listed {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if entry.file_type()?.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

/// What `autoboot.txt` says as edge writes it is right, whichever slot it names: who had it name the other one meant it.
fn look_at_autoboot(places: &Places, booted: Slot, looked: &mut Looked) -> Result<(), Error> {
    let texts =
        [tryboot::autoboot(places, booted)?.text(), tryboot::autoboot(places, booted.other())?.text()];
    let is_one = |found: &[u8]| texts.iter().any(|text| found == text.as_bytes());
    let is_right = || autoboot_as_mounted(places).is_ok_and(|found| is_one(&found));
    let what = "`autoboot.txt` read otherwise than it was written";
    if !is_right() {
        let mended = Esp::first(places).and_then(|_first| {
            // Somebody may have rolled back meanwhile.
            match settled(places)? {
                Some(_) if !is_right() => tryboot::autoboot(places, booted)?.write(places).map(|()| true),
                _ => Ok(false),
            }
        });
        let damaged = match mended {
            Ok(false) => None,
            Ok(true) if is_right() => {
                looked.mended.push(format!("{what}, and is mended: it starts slot {booted}"));
                None
            }
            Ok(true) => Some(format!("{what}, and does so again {HINT}")),
            Err(error) => Some(format!("{what}, and is not mended: {error} {HINT}")),
        };
        if let Some(what) = damaged {
            looked.damaged.push(Damage { slot: None, what });
            return Ok(());
        }
    }
    // While it is mounted, its folder and table are in memory; the boot loader has the card alone.
    let device = partition::device(places, "ESP")?;
    match autoboot_as_it_lies(&device) {
        Ok(Some(found)) if is_one(&found) => {}
        Ok(_) => looked.damaged.push(Damage {
            slot: None,
            what: format!("partition `ESP` reads otherwise than it was written: the boot loader finds no `autoboot.txt` {HINT}"),
        }),
        Err(error) => looked.unread.push(durable::named(error, "read", &device).to_string()),
    }
    Ok(())
}

/// Its bytes by way of its folder and table as they are in memory, and of the medium's own sector.
fn autoboot_as_mounted(places: &Places) -> io::Result<Vec<u8>> {
    let mut file = File::open(autoboot::path(places))?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut bytes = Vec::new();
    file.by_ref().take(autoboot::LARGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Its bytes as the boot loader finds them.
fn autoboot_as_it_lies(device: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = File::open(device)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    fat::read(&file, &[], b"AUTOBOOTTXT")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The least table, of an array of 128 partitions that has nothing but a number; for a disk of tests.
    pub fn table() -> Vec<u8> {
        let mut disk = vec![0; 34 * SECTOR];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[2 * SECTOR] = 7;
        let array = crc32(&disk[2 * SECTOR..]);
        let header = &mut disk[SECTOR..2 * SECTOR];
        header[..8].copy_from_slice(b"EFI PART");
        for (at, number) in [(12, 92), (72, 2), (80, 128), (84, 128), (88, array)] {
            header[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let sum = crc32(&header[..92]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        disk
    }

    #[test]
    fn the_boot_loader_says_how_new_it_is() {
        let says = |text: &str| version(format!("MZ..#### LoaderInfo: systemd-boot {text} ####").as_bytes());
        assert_eq!(says("257.13-1~deb13u1"), Some(vec![257, 13, 1]));
        assert!(says("258") > says("257.13-1~deb13u1") && says("257.9") < says("257.13"));
        assert!(version(b"rotten") < says("1"));
    }

    #[test]
    fn a_table_is_known_by_its_own_sums() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let is = |bytes: &[u8]| {
            durable::write(&path, bytes, 0o600).unwrap();
            is_table(&path).unwrap()
        };
        let good = table();
        assert!(is(&good));
        // The first sector's end, the header, its sum, how many partitions, one of them, what follows.
        for at in [511, SECTOR, SECTOR + 16, SECTOR + 17, SECTOR + 82, 2 * SECTOR + 300, 34 * SECTOR - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            assert!(!is(&bad), "{at}");
        }
    }
}
