//! A disk with a cache that a power cut empties. QEMU writes down each write and each flush of its machine in their order
//! (in the format of the kernel's dm-log-writes), and nothing comes to the medium itself: after the cut that gets what was
//! flushed, and no more than luck adds.

use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::vm::tool;

const SECTOR: u64 = 512;
/// The first bytes of a record: 0x6a736677736872, and version 1.
const MAGIC: [u8; 16] = [0x72, 0x68, 0x73, 0x77, 0x66, 0x73, 0x6a, 0, 1, 0, 0, 0, 0, 0, 0, 0];
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// What the cut cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Writes before the last flush.
    pub flushed: usize,
    /// Later ones that came to the medium all the same.
    pub lucky: usize,
    /// Later ones that did not.
    pub lost: usize,
}

/// A new cache before the medium `disk.img` of `place`, and a new record.
pub fn prepare(place: &Path) -> Result<()> {
    let make =
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/work/disk.img", "/work/cache.qcow2"];
    let output = tool(place, &make)?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // As large as it may ever be: the end of what was written reads as zeros.
    File::create(place.join("writes"))?.set_len(256 << 30)?;
    Ok(())
}

/// Bytes in the record.
pub fn written(place: &Path) -> Result<u64> {
    Ok(fs::metadata(place.join("writes"))?.blocks() * 512)
}

/// A write: where it goes on the disk and where its bytes lie in the record, all in bytes.
struct Write {
    to: u64,
    from: u64,
    length: u64,
    is_sure: bool,
}

/// Brings what was flushed to the medium, and of the rest what `scattered` decides.
pub fn lose(place: &Path, scattered: Option<u64>) -> Result<Lost> {
    let record = File::open(place.join("writes"))?;
    let (writes, flushed) = read(&record)?.context("the record has gaps")?;
    let medium = File::options().write(true).open(place.join("disk.img"))?;
    let mut luck = scattered.unwrap_or(0);
    let mut told = Lost { flushed, lucky: 0, lost: 0 };
    for (index, write) in writes.iter().enumerate() {
        if index >= flushed && !write.is_sure {
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if scattered.is_none() || luck >> 63 == 0 {
                told.lost += 1;
                continue;
            }
            told.lucky += 1;
        }
        let mut bytes = vec![0; usize::try_from(write.length)?];
        record.read_exact_at(&mut bytes, write.from)?;
        medium.write_all_at(&bytes, write.to)?;
    }
    fs::remove_file(place.join("writes"))?;
    fs::remove_file(place.join("cache.qcow2"))?;
    Ok(told)
}

/// Whether the record has each write before the last flush. QEMU writes entries side by side: one that is still being written
/// hides those behind it.
pub fn is_whole(place: &Path) -> Result<bool> {
    Ok(read(&File::open(place.join("writes"))?)?.is_some())
}

/// All writes of a record, and how many of them come before its last flush; `None` for one that has gaps.
fn read(record: &File) -> Result<Option<(Vec<Write>, usize)>> {
    let mut from = BufReader::new(record);
    let mut head = [0; 32];
    from.read_exact(&mut head)?;
    // QEMU writes the head with the first flush: a machine may be cut before one, in its firmware.
    ensure!(head[..16] == MAGIC || head == [0; 32], "QEMU's record begins with {head:02x?}");
    // As many entries as there were at the last flush that the machine was told of.
    let known = u64::from_le_bytes(head[16..24].try_into().context("eight bytes")?);
    let (mut at, mut writes, mut flushed, mut entries) = (SECTOR, Vec::new(), 0, 0);
    loop {
        from.seek(SeekFrom::Start(at))?;
        from.read_exact(&mut head)?;
        let field = |index: usize| -> Result<u64> {
            Ok(u64::from_le_bytes(head[8 * index..8 * index + 8].try_into().context("eight bytes")?))
        };
        let (sector, sectors, flags) = (field(0)?, field(1)?, field(2)?);
        if sectors == 0 && flags == 0 {
            return Ok((entries >= known).then_some((writes, flushed)));
        }
        ensure!(flags < 16, "the record is damaged at {at}: flags {flags:#x}");
        at += SECTOR;
        entries += 1;
        if flags & FLUSH != 0 {
            flushed = writes.len();
        }
        // What was discarded may be anything; it stays as it was.
        if flags & DISCARD == 0 {
            let is_sure = flags & FUA != 0;
            if sectors > 0 {
                writes.push(Write { to: sector * SECTOR, from: at, length: sectors * SECTOR, is_sure });
            }
            at += sectors * SECTOR;
        }
    }
}
