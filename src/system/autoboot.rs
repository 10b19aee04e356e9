//! `autoboot.txt` on the first partition of a Raspberry Pi's card, which says what its boot loader starts by itself and what
//! it tries once after `reboot "0 tryboot"`; and which partition it started. The format is that of the Pi's own documentation.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use super::{Error, Places};
use crate::sys::{durable, failpoint};

/// The largest that the boot loader reads, in bytes.
pub(super) const LARGEST: u64 = 512;
/// Where the boot loader tells the number of the partition that it started.
const STARTED: &str = "/proc/device-tree/chosen/bootloader/partition";

/// The numbers of two partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Autoboot {
    /// Of the one that is started.
    pub by_itself: u32,
    /// Of the one that is tried.
    pub tried: u32,
}

impl Autoboot {
    /// What a text says; `None` where it does not name both.
    pub fn parse(text: &str) -> Option<Self> {
        let (mut by_itself, mut tried, mut section) = (None, None, "all");
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name;
            } else if let Some(number) = line.strip_prefix("boot_partition=") {
                match section {
                    "all" => by_itself = number.trim().parse().ok(),
                    "tryboot" => tried = number.trim().parse().ok(),
                    _ => {}
                }
            }
        }
        Some(Self { by_itself: by_itself?, tried: tried? })
    }

    /// The whole of the file. Of partitions below 10 it always has as many bytes.
    pub fn text(self) -> String {
        let Self { by_itself, tried } = self;
        format!("[all]\ntryboot_a_b=1\nboot_partition={by_itself}\n[tryboot]\nboot_partition={tried}\n")
    }

    /// What lies on the card; `None` where that is none or says nothing that is understood.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(places: &Places) -> Result<Option<Self>, Error> {
        Ok(bytes(places)?.and_then(|bytes| Self::parse(&String::from_utf8_lossy(&bytes))))
    }

    /// Makes it what lies on the card, if it is not yet. The first partition must be writable: see [`super::esp::Esp`].
    ///
    /// The new text goes over the old one, of the same length and in one sector, so that one write of one sector is all
    /// that a power cut can part: FAT has no journal, and a file renamed over another one is a change of its folder and
    /// of both its tables, in an order that nobody promises.
    ///
    /// # Errors
    /// Where it does not come to the medium.
    pub fn write(self, places: &Places) -> Result<(), Error> {
        let (path, text) = (path(places), self.text());
        // One that cannot be read may be written all the same.
        let old = bytes(places).unwrap_or_default();
        if old.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        let failed = |e| durable::named(e, "write", &path);
        failpoint::pass("autoboot");
        if old.is_some_and(|old| old.len() == text.len()) {
            let mut options = OpenOptions::new();
            let file = options.write(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path).map_err(failed)?;
            file.write_all_at(text.as_bytes(), 0).map_err(failed)?;
            file.sync_all().map_err(failed)?;
        } else {
            // Somebody wrote another one, or took it away.
            durable::write(&path, text.as_bytes(), 0o600)?;
        }
        super::esp::sync(&places.esp())?;
        failpoint::pass("autoboot-written");
        Ok(())
    }
}

/// The number of the partition that the boot loader started; `None` where it does not tell.
pub fn started(places: &Places) -> Option<u32> {
    let bytes = std::fs::read(places.at(STARTED)).ok()?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Where it lies.
pub(super) fn path(places: &Places) -> PathBuf {
    places.esp().join("autoboot.txt")
}

fn bytes(places: &Places) -> Result<Option<Vec<u8>>, Error> {
    let path = path(places);
    let mut bytes = Vec::new();
    match std::fs::File::open(&path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(durable::named(e, "read", &path).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_one_of_the_card() {
        let card = include_str!("../../config/autoboot.txt");
        let autoboot = Autoboot { by_itself: 2, tried: 3 };
        assert_eq!((Autoboot::parse(card), autoboot.text().as_str()), (Some(autoboot), card));
        let turned = Autoboot { by_itself: 3, tried: 2 };
        assert_eq!(turned.text().len(), card.len());
        assert_eq!(Autoboot::parse("boot_partition = 2\n"), None);
        assert_eq!(Autoboot::parse("boot_partition=3\r\n[tryboot]\r\nboot_partition=2\r\n"), Some(turned));
        for bad in
            ["", "[all]\nboot_partition=2\n", "[tryboot]\nboot_partition=2\n", "[all]\nboot_partition=two\n"]
        {
            assert_eq!(Autoboot::parse(bad), None, "{bad}");
        }
    }

    /// FAT has no journal: the file keeps its place, whatever it says.
    #[test]
    fn a_new_text_goes_over_the_old_one_in_one_sector() {
        use std::os::unix::fs::MetadataExt as _;
        let root = tempfile::tempdir().unwrap();
        let places = Places::below(root.path());
        std::fs::create_dir_all(places.esp()).unwrap();
        let inode = || std::fs::metadata(path(&places)).unwrap().ino();
        let (one, other) = (Autoboot { by_itself: 2, tried: 3 }, Autoboot { by_itself: 3, tried: 2 });
        assert_eq!(Autoboot::read(&places).unwrap(), None);
        one.write(&places).unwrap();
        let first = inode();
        other.write(&places).unwrap();
        assert_eq!((Autoboot::read(&places).unwrap(), inode()), (Some(other), first));
        assert!(other.text().len() <= 512);
        // What a person wrote is made what it should be.
        durable::write(&path(&places), b"[all]\nboot_partition=2 # mine\n", 0o600).unwrap();
        assert_eq!(Autoboot::read(&places).unwrap(), None);
        one.write(&places).unwrap();
        assert_eq!(Autoboot::read(&places).unwrap(), Some(one));
    }

    #[test]
    fn the_boot_loader_says_what_it_started() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::below(root.path());
        assert_eq!(started(&places), None);
        std::fs::create_dir_all(places.at(STARTED).parent().unwrap()).unwrap();
        durable::write(&places.at(STARTED), &[0, 0, 0, 3], 0o600).unwrap();
        assert_eq!(started(&places), Some(3));
    }
}
