//! A disk of the test's own: a file that a FUSE server in this process answers for, below a loop device. It writes down
//! every write and every flush in their order, and can be pulled out.
//!
//! So the kernel's own file system and loop driver are between edge and the record, on any kernel that has both; the
//! machines that run the tests have neither NBD, ublk nor device mapper.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};

/// What happened to the disk.
pub enum Step {
    /// Bytes came to a place.
    Write(u64, Vec<u8>),
    /// Everything before is on the medium.
    Flush,
}

/// What server and test share.
pub struct Medium {
    pub bytes: Mutex<Vec<u8>>,
    pub steps: Mutex<Vec<Step>>,
    /// Requests that are answered before the disk is pulled out; negative: it stays.
    left: AtomicI64,
    /// Places that cannot be read.
    bad: Mutex<Vec<Range<u64>>>,
    /// Milliseconds that each reading takes.
    pub slow: AtomicU64,
    /// A sector of which the disk keeps another first byte than was written; it says nothing of that.
    pub forged: Mutex<Option<Vec<u8>>>,
}

impl Medium {
    /// Pulls the disk out after `requests` more.
    pub fn pull_after(&self, requests: i64) {
        self.left.store(requests, Ordering::SeqCst);
    }

    /// Spoils the one place that holds `block`.
    pub fn spoil(&self, block: &[u8]) {
        let bytes = self.bytes.lock().unwrap();
        let found = bytes.chunks(block.len()).enumerate().filter(|(_, there)| *there == block);
        let places: Vec<u64> = found.map(|(n, _)| (n * block.len()) as u64).collect();
        // Let go before anything fails: the disk could not even be unmounted.
        drop(bytes);
        let [at] = places[..] else { panic!("it is at {} places", places.len()) };
        self.bad.lock().unwrap().push(at..at + block.len() as u64);
    }

    fn is_bad(&self, at: u64, size: u32) -> bool {
        self.bad.lock().unwrap().iter().any(|bad| bad.start < at + u64::from(size) && at < bad.end)
    }

    fn is_gone(&self) -> bool {
        let left = self.left.load(Ordering::SeqCst);
        if left > 0 {
            self.left.fetch_sub(1, Ordering::SeqCst);
        }
        left == 0
    }
}

struct Server(Arc<Medium>);

const DISK: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(3600);

impl Server {
    fn attributes(&self, node: INodeNo) -> FileAttr {
        let (kind, size) = match node == DISK {
            true => (FileType::RegularFile, self.0.bytes.lock().unwrap().len() as u64),
            false => (FileType::Directory, 0),
        };
        FileAttr {
            ino: node,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some("disk") => reply.entry(&TTL, &self.attributes(DISK), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(node));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Without this the kernel's cache of this file would lie between the loop device and the record.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.0.is_gone() || self.0.is_bad(offset, size) {
            return reply.error(Errno::EIO);
        }
        std::thread::sleep(Duration::from_millis(self.0.slow.load(Ordering::SeqCst)));
        let bytes = self.0.bytes.lock().unwrap();
        let from = usize::try_from(offset).unwrap().min(bytes.len());
        let to = (from + size as usize).min(bytes.len());
        reply.data(&bytes[from..to]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.0.is_gone() {
            return reply.error(Errno::EIO);
        }
        let mut bytes = self.0.bytes.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        bytes[from..from + data.len()].copy_from_slice(data);
        if let Some(block) = &*self.0.forged.lock().unwrap() {
            let kept = bytes[from..from + data.len()].chunks_mut(512);
            kept.filter(|kept| kept == block).for_each(|kept| kept[0] ^= 1);
        }
        self.0.steps.lock().unwrap().push(Step::Write(offset, data.to_vec()));
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if self.0.is_gone() {
            return reply.error(Errno::EIO);
        }
        self.0.steps.lock().unwrap().push(Step::Flush);
        reply.ok();
    }
}

/// One of these tests at a time: loop devices are the machine's.
pub static ONE: Mutex<()> = Mutex::new(());

/// A loop device over some file; detached when dropped.
pub struct Loop(pub PathBuf);

impl Loop {
    pub fn over(file: &Path, more: &[&str]) -> Self {
        let file = file.display().to_string();
        let arguments = [&["--find", "--show"], more, &[&file]].concat();
        Self(PathBuf::from(run("losetup", &arguments).trim()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// Something that is mounted; unmounted when dropped.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn new(device: &Path, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-o", options, &device.display().to_string(), &at.display().to_string()]);
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A store that was just dropped closes its files on a thread of its own.
        for _ in 0..100 {
            if Command::new("umount").arg(&self.0).output().is_ok_and(|done| done.status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The disk, mounted. Fields drop in this order.
pub struct Disk {
    pub mounted: Option<Mounted>,
    device: Option<Loop>,
    _server: BackgroundSession,
    pub medium: Arc<Medium>,
    folder: PathBuf,
}

impl Disk {
    /// A disk with `image` on it, mounted below `folder`.
    pub fn new(folder: &Path, image: Vec<u8>, options: &str) -> Self {
        let medium = Arc::new(Medium {
            bytes: Mutex::new(image),
            steps: Mutex::new(Vec::new()),
            left: AtomicI64::new(-1),
            bad: Mutex::default(),
            forged: Mutex::default(),
            slow: AtomicU64::new(0),
        });
        let at = folder.join("fuse");
        std::fs::create_dir_all(&at).unwrap();
        let server = fuser::spawn_mount(Server(medium.clone()), &at, &Config::default()).unwrap();
        let device = Loop::over(&at.join("disk"), &[]);
        let mounted = Mounted::new(&device.0, &folder.join("disk"), options);
        Self {
            mounted: Some(mounted),
            device: Some(device),
            _server: server,
            medium,
            folder: folder.to_owned(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// Unmounts it and gives what happened.
    pub fn end(mut self) -> Vec<Step> {
        self.mounted = None;
        self.device = None;
        std::mem::take(&mut *self.medium.steps.lock().unwrap())
    }
}

/// A FAT32 image of `size` MiB that holds a copy of what is in `from`, made without the kernel.
pub fn fat32(folder: &Path, size: u32, from: &Path) -> PathBuf {
    let image = folder.join("image.fat32");
    std::fs::File::create(&image).unwrap().set_len(u64::from(size) << 20).unwrap();
    let shown = image.display().to_string();
    run("mformat", &["-i", &shown, "-F", "::"]);
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        run("mcopy", &["-s", "-i", &shown, &entry.path().display().to_string(), "::"]);
    }
    image
}

/// An ext4 image of `size` MiB that holds a copy of `from`.
pub fn ext4(folder: &Path, size: u32, from: Option<&Path>) -> PathBuf {
    let image = folder.join("image.ext4");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(u64::from(size) << 20).unwrap();
    let shown = image.display().to_string();
    let source = from.map(|path| path.display().to_string());
    let mut arguments = vec!["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    if let Some(source) = &source {
        arguments.extend(["-d", source]);
    }
    arguments.push(&shown);
    run("mke2fs", &arguments);
    image
}
