//! Reading and writing past the page cache, where the file system can: bytes that pass through once would push out of a small
//! machine's memory what it works with, and copying them twice costs more than the disk does.
//!
//! Where it cannot (a network file system, an old tmpfs, an odd length), the same calls go through the page cache.

use std::fs::File;
use std::io::{self, Read, Write};

use memmap2::{Advice, MmapMut};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// What offsets, lengths and memory are multiples of: the largest logical block of the disks there are.
const ALIGN: usize = 4096;

/// What a page of memory is at its largest. One of these is a single request to a disk; 4 KiB pages that lie anywhere make a
/// request of at most half a megabyte, which on the same disk takes twice as long.
const HUGE: usize = 2 << 20;

/// Bytes of a file from which on the way past the page cache is worth it.
const LARGE: u64 = 256 << 10;

/// Memory that a disk can be handed, of a fixed size.
pub struct Buffer {
    memory: MmapMut,
    start: usize,
    size: usize,
    filled: usize,
}

impl Buffer {
    /// With room for `size` bytes, rounded up to whole blocks. What is not used of it takes no memory.
    ///
    /// # Errors
    /// Where there is no memory.
    pub fn new(size: usize) -> io::Result<Self> {
        let size = size.next_multiple_of(ALIGN);
        if size < HUGE {
            return Ok(Self { memory: MmapMut::map_anon(size)?, start: 0, size, filled: 0 });
        }
        let memory = MmapMut::map_anon(size.next_multiple_of(HUGE) + HUGE)?;
        // Advice: without it there are more requests.
        let _ = memory.advise(Advice::HugePage);
        let start = memory.as_ptr().align_offset(HUGE).min(HUGE);
        Ok(Self { memory, start, size, filled: 0 })
    }

    /// Bytes there is room for.
    pub fn size(&self) -> usize {
        self.size
    }

    /// What was read last.
    pub fn filled(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.size]
    }
}

/// A file, read or written from its start to its end.
pub struct Direct {
    file: File,
    direct: bool,
    /// Bytes from the start.
    at: u64,
}

impl Direct {
    /// A file that has, or will have, `size` bytes: past the page cache if it is large and the file system can.
    pub fn new(file: File, size: u64) -> Self {
        let direct = size >= LARGE && set(&file, true);
        Self { file, direct, at: 0 }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` with the next bytes of the `most` that are still wanted; says how many, fewer than there is room for
    /// only at the end of those or of the file.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(&mut self, buffer: &mut Buffer, most: u64) -> io::Result<usize> {
        let room = buffer.room();
        let wanted = usize::try_from(most).unwrap_or(usize::MAX).min(room.len());
        // A disk reads whole blocks: what lies behind the last byte that is wanted is not looked at.
        let ask = if self.direct { wanted.next_multiple_of(ALIGN) } else { wanted };
        let mut filled = 0;
        while filled < wanted {
            match (&self.file).read(&mut room[filled..ask]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted || self.refused(&e) => {}
                Err(e) => return Err(e),
            }
            if self.direct && filled < wanted && !filled.is_multiple_of(ALIGN) {
                self.through_cache();
            }
        }
        let filled = filled.min(wanted);
        buffer.filled = filled;
        self.at += filled as u64;
        Ok(filled)
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let aligned = self.at.is_multiple_of(ALIGN as u64) && bytes.as_ptr().align_offset(ALIGN) == 0;
        // The end of a file is seldom a whole block.
        let blocks = if self.direct && aligned { bytes.len() / ALIGN * ALIGN } else { 0 };
        let (whole, rest) = bytes.split_at(blocks);
        self.write_whole(whole)?;
        if self.direct && !rest.is_empty() {
            self.through_cache();
        }
        self.write_whole(rest)
    }

    fn write_whole(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&self.file).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.at += written as u64;
                    bytes = &bytes[written..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted || self.refused(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether an error means that this file cannot be had past the page cache after all; then it goes through it.
    fn refused(&mut self, error: &io::Error) -> bool {
        let refused = self.direct && error.kind() == io::ErrorKind::InvalidInput;
        if refused {
            self.through_cache();
        }
        refused
    }

    fn through_cache(&mut self) {
        set(&self.file, false);
        self.direct = false;
    }
}

/// Whether it was done.
fn set(file: &File, direct: bool) -> bool {
    fcntl_getfl(file)
        .and_then(|flags| {
            let mut wanted = flags;
            wanted.set(OFlags::DIRECT, direct);
            fcntl_setfl(file, wanted)
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;

    /// In the folder of the build, which is on a disk, and in memory, which often has no way past the page cache.
    fn files() -> Vec<File> {
        let on_disk = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        vec![on_disk, tempfile::tempfile_in("/dev/shm").unwrap()]
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect()
    }

    #[test]
    fn what_was_written_is_read_whatever_the_lengths_of_pieces() {
        for lengths in
            [&[0][..], &[1], &[ALIGN], &[3 * ALIGN, 2 * ALIGN + 5], &[ALIGN + 1, ALIGN, 7, 2 * ALIGN]]
        {
            for file in files() {
                let mut all = Vec::new();
                let mut written = Direct::new(file.try_clone().unwrap(), LARGE);
                for length in lengths {
                    // A buffer's memory is aligned; what lies behind its first byte is not.
                    let source = bytes(*length);
                    let mut source_file = tempfile::tempfile().unwrap();
                    source_file.write_all(&source).unwrap();
                    source_file.rewind().unwrap();
                    let mut buffer = Buffer::new(4 * ALIGN).unwrap();
                    let read = Direct::new(source_file, 0).read(&mut buffer, u64::MAX).unwrap();
                    assert_eq!((read, buffer.filled()), (*length, &source[..]));
                    written.write(buffer.filled()).unwrap();
                    all.extend(source);
                }
                (&file).rewind().unwrap();
                for room in [ALIGN, 2 * ALIGN, 64 * ALIGN] {
                    (&file).rewind().unwrap();
                    let (mut direct, mut got) = (Direct::new(file.try_clone().unwrap(), LARGE), Vec::new());
                    let mut buffer = Buffer::new(room).unwrap();
                    while direct.read(&mut buffer, (all.len() - got.len()) as u64).unwrap() > 0 {
                        got.extend_from_slice(buffer.filled());
                    }
                    assert_eq!(got, all, "{lengths:?} by {room}");
                }
            }
        }
    }

    #[test]
    fn no_more_is_read_than_is_wanted_or_there() {
        for file in files() {
            (&file).write_all(&bytes(2 * ALIGN + 9)).unwrap();
            for (most, wanted) in [(0, 0), (1, 1), (ALIGN + 3, ALIGN + 3), (9 * ALIGN, 2 * ALIGN + 9)] {
                (&file).rewind().unwrap();
                let mut buffer = Buffer::new(16 * ALIGN).unwrap();
                let read =
                    Direct::new(file.try_clone().unwrap(), LARGE).read(&mut buffer, most as u64).unwrap();
                assert_eq!((read, buffer.filled()), (wanted, &bytes(2 * ALIGN + 9)[..wanted]));
            }
        }
    }
}
