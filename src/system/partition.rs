//! Partitions by their labels, and what is in them.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::entry::VerityId;
use super::slot::Slot;
use super::{Error, Places};
use crate::sys::durable;

/// The block device of the partition `label`: by udev's link, or as the kernel itself tells.
///
/// # Errors
/// [`Error::NoPartition`].
pub fn device(places: &Places, label: &str) -> Result<PathBuf, Error> {
    let link = places.at(&format!("/dev/disk/by-partlabel/{label}"));
    if link.exists() {
        return Ok(link);
    }
    let wanted = format!("PARTNAME={label}");
    let entries = std::fs::read_dir(places.at("/sys/class/block")).into_iter().flatten().flatten();
    for entry in entries {
        let told = std::fs::read_to_string(entry.path().join("uevent")).unwrap_or_default();
        if told.lines().any(|line| line == wanted) {
            return Ok(places.at("/dev").join(entry.file_name()));
        }
    }
    Err(Error::NoPartition(label.to_owned()))
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

    #[test]
    fn partitions_are_found_by_udev_or_by_the_kernel() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::below(root.path());
        assert!(matches!(device(&places, "data"), Err(Error::NoPartition(_))));
        let block = places.at("/sys/class/block/mmcblk0p3");
        std::fs::create_dir_all(&block).unwrap();
        std::fs::File::create(block.join("uevent"))
            .and_then(|mut f| std::io::Write::write_all(&mut f, b"DEVTYPE=partition\nPARTNAME=data\n"))
            .unwrap();
        assert_eq!(device(&places, "data").unwrap(), places.at("/dev/mmcblk0p3"));
        let links = places.at("/dev/disk/by-partlabel");
        std::fs::create_dir_all(&links).unwrap();
        std::fs::File::create(links.join("data")).unwrap();
        assert_eq!(device(&places, "data").unwrap(), links.join("data"));
    }
}
