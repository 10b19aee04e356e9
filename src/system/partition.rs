//! Partitions by their labels, and what is in them: those of the disk that the machine was started from alone. A stick, or
//! another card, may have partitions of the same names.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::entry::VerityId;
use super::slot::Slot;
use super::{Error, Places};
use crate::sys::durable;

/// The block device of the partition `label`, as the kernel tells of the disk that the initrd started from.
///
/// # Errors
/// [`Error::NoDisk`], [`Error::NoPartition`].
pub fn device(places: &Places, label: &str) -> Result<PathBuf, Error> {
    let folder = told(places, label)?;
    Ok(places.at("/dev").join(folder.file_name().unwrap_or_default()))
}

/// The number of the partition `label` on that disk.
///
/// # Errors
/// [`Error::NoDisk`], [`Error::NoPartition`]; where the kernel does not tell it.
pub fn number(places: &Places, label: &str) -> Result<u32, Error> {
    let path = told(places, label)?.join("partition");
    let text = std::fs::read_to_string(&path).map_err(|e| durable::named(e, "read", &path))?;
    text.trim().parse().map_err(|_| Error::Unfit(format!("`{}` is no number", path.display())))
}

/// Where the kernel tells of the partition `label`.
fn told(places: &Places, label: &str) -> Result<PathBuf, Error> {
    let disk = disk(places)?;
    let wanted = format!("PARTNAME={label}");
    let entries =
        std::fs::read_dir(places.at("/sys/class/block").join(&disk)).into_iter().flatten().flatten();
    for entry in entries {
        let told = std::fs::read_to_string(entry.path().join("uevent")).unwrap_or_default();
        if told.lines().any(|line| line == wanted) {
            return Ok(entry.path());
        }
    }
    Err(Error::NoPartition { label: label.to_owned(), disk })
}

/// The whole disk that the machine was started from.
///
/// # Errors
/// [`Error::NoDisk`].
pub fn whole(places: &Places) -> Result<PathBuf, Error> {
    Ok(places.at("/dev").join(disk(places)?))
}

/// The kernel's name of the disk, such as `mmcblk0`.
fn disk(places: &Places) -> Result<String, Error> {
    let path = places.at("/run/edge-disk");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let name = text.trim();
    let is_name = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    if is_name { Ok(name.to_owned()) } else { Err(Error::NoDisk(path)) }
}

/// The root file system of a slot.
///
/// # Errors
/// [`Error::NoPartition`].
pub fn root(places: &Places, slot: Slot) -> Result<PathBuf, Error> {
    device(places, &format!("root_{slot}"))
}

/// The hash tree of a slot.
///
/// # Errors
/// [`Error::NoPartition`].
pub fn verity(places: &Places, slot: Slot) -> Result<PathBuf, Error> {
    device(places, &format!("verity_{slot}"))
}

/// Bytes of a partition.
///
/// # Errors
/// Where it cannot be opened.
pub fn size(device: &std::path::Path) -> Result<u64, Error> {
    let size = File::open(device).and_then(|mut file| file.seek(SeekFrom::End(0)));
    Ok(size.map_err(|e| durable::named(e, "read the size of", device))?)
}

/// The id of the hash tree in a slot: cryptsetup's verity superblock, version 1. `None` where there is none.
///
/// # Errors
/// Where the partition is missing or cannot be read.
pub fn verity_id(places: &Places, slot: Slot) -> Result<Option<VerityId>, Error> {
    let device = verity(places, slot)?;
    let mut head = [0; 32];
    let read = File::open(&device).and_then(|file| file.read_exact_at(&mut head, 0));
    match read {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(durable::named(e, "read", &device).into()),
    }
    let known = &head[..8] == b"verity\0\0" && head[8..12] == 1_u32.to_le_bytes();
    let mut id = [0; 16];
    id.copy_from_slice(&head[16..]);
    Ok(known.then_some(VerityId(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(places: &Places, path: &str, text: &str) {
        let path = places.at(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path)
            .and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()))
            .unwrap();
    }

    #[test]
    fn partitions_are_those_of_the_disk_that_was_started_from() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::below(root.path());
        let said = |label: &str| device(&places, label).unwrap_err().to_string();
        assert!(said("data").contains("run/edge-disk` names no disk hint: "), "{}", said("data"));
        // A stick with partitions of the same names, which sorts first and has udev's link.
        put(&places, "/sys/class/block/mmcblk0/mmcblk0p3/uevent", "DEVTYPE=partition\nPARTNAME=data\n");
        put(&places, "/sys/class/block/mmcblk0/mmcblk0p4/uevent", "DEVTYPE=partition\nPARTNAME=root_b\n");
        put(&places, "/sys/class/block/sda1/uevent", "DEVTYPE=partition\nPARTNAME=data\n");
        put(&places, "/sys/class/block/sda/sda1/uevent", "DEVTYPE=partition\nPARTNAME=data\n");
        put(&places, "/dev/disk/by-partlabel/data", "");
        assert!(said("data").contains("run/edge-disk"), "{}", said("data"));
        put(&places, "/run/edge-disk", "mmcblk0\n");
        assert_eq!(device(&places, "data").unwrap(), places.at("/dev/mmcblk0p3"));
        assert_eq!(root_of(&places), places.at("/dev/mmcblk0p4"));
        put(&places, "/sys/class/block/mmcblk0/mmcblk0p4/partition", "4\n");
        assert_eq!(number(&places, "root_b").unwrap(), 4);
        put(&places, "/run/edge-disk", "sda\n");
        assert_eq!(device(&places, "data").unwrap(), places.at("/dev/sda1"));
        assert!(said("root_b").contains("disk `sda` has no partition `root_b` hint: "), "{}", said("root_b"));
        for none in ["", "\n", "../sda", ".."] {
            put(&places, "/run/edge-disk", none);
            assert!(matches!(device(&places, "data"), Err(Error::NoDisk(_))), "{none}");
        }
    }

    fn root_of(places: &Places) -> PathBuf {
        root(places, Slot::B).unwrap()
    }
}
