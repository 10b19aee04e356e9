//! A drive of tests, which tells whether it was told to flush.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder on a drive that notes whether it was told to flush: of FAT, `syncfs` does not, and what syncs a folder does.
pub struct Drive {
    folder: tempfile::TempDir,
    flushes: Arc<AtomicU32>,
    _server: fuser::BackgroundSession,
}

impl Drive {
    /// A new one.
    pub fn mounted() -> Self {
        let (folder, flushes) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU32::new(0)));
        let server = Server(flushes.clone());
        let _server = fuser::spawn_mount(server, folder.path(), &fuser::Config::default()).unwrap();
        Self { folder, flushes, _server }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How often it was told to.
    pub fn flushes(&self) -> u32 {
        self.flushes.load(Ordering::SeqCst)
    }
}

struct Server(Arc<AtomicU32>);

impl fuser::Filesystem for Server {
    fn getattr(
        &self,
        _: &fuser::Request,
        ino: fuser::INodeNo,
        _: Option<fuser::FileHandle>,
        reply: fuser::ReplyAttr,
    ) {
        let then = std::time::UNIX_EPOCH;
        let attributes = fuser::FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: then,
            mtime: then,
            ctime: then,
            crtime: then,
            kind: fuser::FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&std::time::Duration::from_secs(3600), &attributes);
    }

    fn fsyncdir(
        &self,
        _: &fuser::Request,
        _: fuser::INodeNo,
        _: fuser::FileHandle,
        _: bool,
        reply: fuser::ReplyEmpty,
    ) {
        self.0.fetch_add(1, Ordering::SeqCst);
        reply.ok();
    }
}
