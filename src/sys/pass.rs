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

/// Files that one message carries at the most; the kernel's own limit. A message with so many is followed by another, or by
/// what else there is to say.
const MOST: usize = 253;
/// What each message says beside them: an empty line, which HTTP passes over.
const LINE: &[u8] = b"\r\n";

/// Sends `files` ahead of all else. Nothing is sent where there are none.
///
/// # Errors
/// The socket's.
pub async fn send(stream: &UnixStream, files: &[OwnedFd]) -> io::Result<()> {
    for files in files.chunks(MOST) {
        let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let sent = stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            beside.push(SendAncillaryMessage::ScmRights(&files));
            Ok(sendmsg(stream, &[IoSlice::new(LINE)], &mut beside, SendFlags::empty())?)
        });
        sent.await?;
    }
    Ok(())
}

/// The first bytes of a connection, and the files that came with them.
///
/// # Errors
/// The socket's.
pub async fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut first, mut files) = (Vec::new(), Vec::new());
    loop {
        let (bytes, came) = message(stream).await?;
        let is_full = came.len() == MOST;
        first.extend(bytes);
        files.extend(came);
        if !is_full {
            return Ok((first, files));
        }
    }
}

async fn message(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
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

    #[tokio::test]
    async fn more_files_than_one_message_takes_come_all_and_in_order() {
        crate::sys::descriptors::raise().unwrap();
        for count in [MOST, MOST + 1, 2 * MOST + 44] {
            let file = |length: usize| {
                let file = tempfile::tempfile().unwrap();
                file.set_len(length as u64).unwrap();
                OwnedFd::from(file)
            };
            let files: Vec<OwnedFd> = (0..count).map(file).collect();
            let (one, other) = UnixStream::pair().unwrap();
            let sent = async {
                send(&one, &files).await.unwrap();
                one.writable().await.unwrap();
                one.try_write(b"GET /").unwrap();
            };
            let ((), got) = tokio::join!(sent, receive(&other));
            let (mut first, came) = got.unwrap();
            if !first.ends_with(b"GET /") {
                first.extend(receive(&other).await.unwrap().0);
            }
            assert_eq!(first, [LINE.repeat(count.div_ceil(MOST)), b"GET /".to_vec()].concat());
            let lengths = came.into_iter().map(|file| std::fs::File::from(file).metadata().unwrap().len());
            assert!(lengths.eq(0..count as u64), "{count}");
        }
    }

    #[test]
    fn a_view_is_its_own() {
        assert!(view().is_some());
        assert_eq!(view(), view());
    }
}
