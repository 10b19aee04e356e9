//! Handing open files to another process through a Unix socket, and telling whether it sees the same file system.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Files that one message carries at the most; the kernel's own limit.
pub const MOST: usize = 253;
/// What the message says beside them: an empty line, which HTTP passes over.
const LINE: &[u8] = b"\r\n";

/// Sends `files` ahead of all else. Nothing is sent where there are none.
///
/// # Errors
/// More than [`MOST`]; the socket's.
pub async fn send(stream: &UnixStream, files: &[OwnedFd]) -> io::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    if files.len() > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("more than {MOST} files at once")));
    }
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let sent = stream.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        beside.push(SendAncillaryMessage::ScmRights(&files));
        Ok(sendmsg(stream, &[IoSlice::new(LINE)], &mut beside, SendFlags::empty())?)
    });
    sent.await.map(|_| ())
}

/// The first bytes of a connection, and the files that came with them.
///
/// # Errors
/// The socket's.
pub async fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let got = stream.async_io(Interest::READABLE, || {
        let mut first = [0; 256];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut first)];
        let read = recvmsg(stream, &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC)?.bytes;
        let files = beside.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        let files = files.flatten().collect();
        Ok((first[..read].to_vec(), files))
    });
    got.await
}

/// What tells views of the file system apart: a process with another one has other mounts, so that a path may lead it
/// elsewhere. `None` where the kernel does not say.
pub fn view() -> Option<String> {
    // The ID of a mount is its alone, whatever the namespace.
    let root = statx(CWD, "/", AtFlags::empty(), StatxFlags::MNT_ID).ok();
    let root = root.filter(|found| found.stx_mask & StatxFlags::MNT_ID.bits() != 0);
    root.map(|found| format!("mount-{}", found.stx_mnt_id)).or_else(|| {
        // Before Linux 5.8.
        let link = std::fs::read_link("/proc/self/ns/mnt").ok()?;
        Some(link.to_string_lossy().into_owned())
    })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[tokio::test]
    async fn files_come_with_the_first_bytes_and_what_follows_stays_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "handed over").unwrap();
        let (one, other) = UnixStream::pair().unwrap();
        send(&one, &[std::fs::File::open(&path).unwrap().into(), std::fs::File::open("/").unwrap().into()])
            .await
            .unwrap();
        one.try_write(b"GET /").unwrap();
        let (first, mut files) = receive(&other).await.unwrap();
        assert_eq!((first.as_slice(), files.len()), (LINE, 2));
        let mut text = String::new();
        std::fs::File::from(files.remove(0)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "handed over");
        let (then, none) = receive(&other).await.unwrap();
        assert_eq!((then.as_slice(), none.len()), (&b"GET /"[..], 0));
    }

    #[test]
    fn a_view_is_its_own() {
        assert!(view().is_some());
        assert_eq!(view(), view());
    }
}
