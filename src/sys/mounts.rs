//! Mounting: sticks, read only, without devices, set-user-id or programs; and what is mounted read only, writable for
//! the moment of a write.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::durable;

/// What never happens on a stick.
const NEVER: MsFlags = MsFlags::MS_NODEV.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NOEXEC);

/// The kind whose own settings may ask much of the kernel.
const EXT4: &str = "ext4";

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mount {
    /// Tells a mount from a later one at the same place.
    pub id: u64,
    /// `major:minor`.
    pub device: String,
    /// Where.
    pub at: PathBuf,
    options: String,
}

impl Mount {
    /// The same without its options, which change when it is made writable for a moment.
    pub fn bare(&self) -> Self {
        Self { options: String::new(), ..self.clone() }
    }
}

/// Everything that is mounted.
///
/// # Errors
/// Where the kernel does not say.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(std::fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let id = fields.next()?.parse().ok()?;
    let device = fields.nth(1)?.to_owned();
    let at = PathBuf::from(unescaped(fields.nth(1)?));
    Some(Mount { id, device, at, options: fields.next()?.to_owned() })
}

/// The kernel writes blanks and the like as `\040`.
fn unescaped(text: &str) -> String {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| bytes[at] == b'\\') {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The disk that an appliance was started from, such as `sda`, as its initrd wrote it down below `root`; empty on other
/// machines.
pub fn own_disk(root: &Path) -> String {
    read(&root.join("run/edge-disk"))
}

/// Whether the block device that `folder` in sysfs is of is one that people plug in, and has a medium; then what tells
/// this time from the last. The disk `own` is none, and nothing of it: a machine may be started from USB.
pub fn is_stick(folder: &Path, own: &str) -> Option<String> {
    let real = std::fs::canonicalize(folder).ok()?;
    let whole = if folder.join("partition").exists() { real.parent()?.to_owned() } else { real.clone() };
    if whole.file_name()?.to_str() == Some(own) {
        return None;
    }
    let plugged = read(&whole.join("removable")) == "1" || real.to_string_lossy().contains("/usb");
    let medium = read(&folder.join("size")).parse::<u64>().is_ok_and(|size| size > 0);
    (plugged && medium).then(|| read(&whole.join("diskseq")))
}

/// A small file of the kernel's, without its line end; empty where it cannot be read.
pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A stick that edge itself has mounted; unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    /// Where.
    pub at: PathBuf,
}

impl Mounted {
    /// Mounts a block device read only at `at`. `None` where it holds no file system that a stick has.
    ///
    /// # Errors
    /// Where it cannot be read or mounted.
    pub fn new(device: &Path, at: &Path) -> io::Result<Option<Self>> {
        let found = file_system(device)?;
        Self::of(device, at, found)
    }

    /// The same of FAT and exFAT alone. What an ext4 says goes deeper into the kernel, so that of whoever passes by is left
    /// alone where nothing is to be taken of it.
    ///
    /// # Errors
    /// Where it cannot be read or mounted.
    pub fn plain(device: &Path, at: &Path) -> io::Result<Option<Self>> {
        let found = file_system(device)?.filter(|(kind, _)| *kind != EXT4);
        Self::of(device, at, found)
    }

    fn of(device: &Path, at: &Path, found: Option<(&str, &str)>) -> io::Result<Option<Self>> {
        let Some((kind, options)) = found else { return Ok(None) };
        durable::folder(at, 0o700)?;
        mount(Some(device), at, Some(kind), MsFlags::MS_RDONLY | NEVER, Some(options))
            .map_err(|e| durable::named(e.into(), "mount", device))?;
        Ok(Some(Self { at: at.to_owned() }))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.at, MntFlags::MNT_DETACH) {
            tracing::warn!(at = %self.at.display(), %error, "cannot unmount");
        }
    }
}

/// The file system of a device, by its magic numbers, and what to mount it with.
fn file_system(device: &Path) -> io::Result<Option<(&'static str, &'static str)>> {
    let mut head = vec![0; 4096];
    let mut file = File::open(device).map_err(|e| durable::named(e, "open", device))?;
    if file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut head)).is_err() {
        // No medium, or nothing on it.
        return Ok(None);
    }
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    Ok(if at(3, b"EXFAT   ") {
        Some(("exfat", ""))
    } else if at(0x52, b"FAT32   ") || at(0x36, b"FAT1") {
        Some(("vfat", "utf8"))
    } else if at(0x438, &[0x53, 0xef]) {
        // A journal is not replayed: that would write. And a stick has no say in what its faults do to this machine: by
        // `errors=panic` of its own, each would restart it.
        Some((EXT4, "noload,errors=continue"))
    } else {
        None
    })
}

/// While it lives, what lies at a path can be written to, also where it is mounted read only.
#[derive(Debug)]
pub struct Writable {
    mount: Option<Mount>,
}

impl Writable {
    /// Makes the file system of `path` writable, if it is not.
    ///
    /// # Errors
    /// Where it may not be.
    pub fn new(path: &Path) -> io::Result<Self> {
        let failed = |e: io::Error| durable::named(e, "make writable", path);
        let stat = nix::sys::statvfs::statvfs(path).map_err(|e| failed(e.into()))?;
        if !stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
            return Ok(Self { mount: None });
        }
        let device = std::fs::metadata(path).map_err(failed)?.dev();
        let device = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let real = std::fs::canonicalize(path).map_err(failed)?;
        let of = |mount: &Mount| mount.device == device && real.starts_with(&mount.at);
        let all = mounts().map_err(failed)?;
        let found = all.into_iter().filter(of).max_by_key(|mount| mount.at.as_os_str().len());
        let found = found.ok_or_else(|| failed(io::Error::other("nothing is mounted there")))?;
        remount(&found, MsFlags::empty()).map_err(failed)?;
        Ok(Self { mount: Some(found) })
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        let Some(mount) = &self.mount else { return };
        // Mounting read only syncs too; this one is for a medium that goes just then.
        if let Err(error) = durable::sync_file_system(&mount.at) {
            tracing::warn!(at = %mount.at.display(), %error, "what was written there may not be on the medium");
        }
        if let Err(error) = remount(mount, MsFlags::MS_RDONLY) {
            tracing::warn!(at = %mount.at.display(), %error, "what was mounted read only stays writable");
        }
    }
}

fn remount(mount_: &Mount, more: MsFlags) -> io::Result<()> {
    let mut flags = MsFlags::MS_REMOUNT | more;
    for option in mount_.options.split(',') {
        flags |= match option {
            "nodev" => MsFlags::MS_NODEV,
            "nosuid" => MsFlags::MS_NOSUID,
            "noexec" => MsFlags::MS_NOEXEC,
            "noatime" => MsFlags::MS_NOATIME,
            "relatime" => MsFlags::MS_RELATIME,
            _ => MsFlags::empty(),
        };
    }
    Ok(mount(None::<&str>, &mount_.at, None::<&str>, flags, None::<&str>)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = r"36 35 98:0 /mnt1 /media/my\040stick ro,nodev,relatime master:1 - vfat /dev/sda1 rw";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.device.as_str()), (36, "98:0"));
        assert_eq!(mount.at, Path::new("/media/my stick"));
        assert_eq!(mount.options, "ro,nodev,relatime");
        assert_eq!(unescaped(r"a\134b\x"), r"a\b\x");
        assert!(mounts().unwrap().iter().any(|mount| mount.at == Path::new("/proc")));
    }

    #[test]
    fn the_disk_that_was_started_from_is_no_stick() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            File::create(path).and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes())).unwrap();
        };
        let class = root.path().join("class");
        std::fs::create_dir_all(&class).unwrap();
        // Two of USB: the first one is what the machine was started from.
        for (disk, number) in [("sda", "3"), ("sdb", "4")] {
            let folder = format!("devices/pci0/usb1/block/{disk}");
            put(&format!("{folder}/removable"), "1\n");
            put(&format!("{folder}/size"), "100\n");
            put(&format!("{folder}/diskseq"), number);
            put(&format!("{folder}/{disk}1/partition"), "1\n");
            put(&format!("{folder}/{disk}1/size"), "90\n");
            for (name, to) in
                [(disk.to_owned(), folder.clone()), (format!("{disk}1"), format!("{folder}/{disk}1"))]
            {
                std::os::unix::fs::symlink(root.path().join(to), class.join(name)).unwrap();
            }
        }
        put("run/edge-disk", "sda\n");
        let own = own_disk(root.path());
        let stick = |name: &str, own: &str| is_stick(&class.join(name), own);
        for (name, number) in [("sda", None), ("sda1", None), ("sdb", Some("4")), ("sdb1", Some("4"))] {
            assert_eq!(stick(name, &own).as_deref(), number, "{name}");
        }
        // Other machines have no disk of that kind.
        assert_eq!(own_disk(&root.path().join("nowhere")), "");
        assert_eq!(stick("sda1", "").as_deref(), Some("3"));
    }
}
