//! A pack as it comes: written to disk, cut into its entries, and held to the checksum at its end. What its entries hold is
//! looked at later (`resolve`); nothing of them is in memory but where they are.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Write as _};

use flate2::{Crc, Decompress, FlushDecompress, Status};
use gix_pack::data::entry::Header;

use super::objects::LARGEST;
use super::{Error, Kind, Oid};

/// Bytes of a pack before its first entry.
pub(super) const HEAD: usize = 12;
/// The most objects that a pack may have: an empty one takes ten bytes of it, and two hundred of memory.
const MOST: u32 = 2_000_000;
/// Bytes of a checksum.
pub(super) const SUM: u64 = 20;

/// What an entry is made of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Base {
    /// Itself.
    Whole(Kind),
    /// The entry of this number, before it.
    At(u32),
    /// The object of this name, wherever it is.
    Named(Oid),
}

/// An entry: where it begins, where its data begin, and where it ends, in bytes of the pack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) begin: u64,
    pub(super) data: u64,
    pub(super) end: u64,
    pub(super) crc32: u32,
    /// Bytes that its data unpack to.
    pub(super) size: u32,
    pub(super) base: Base,
}

/// A pack on disk.
pub(super) struct Received {
    pub(super) file: File,
    pub(super) entries: Vec<Entry>,
    pub(super) sum: Oid,
}

/// Reads a pack to its end into `file`.
///
/// # Errors
/// [`Error::Pack`] for what is no pack, is damaged, or holds what is larger than [`LARGEST`] or more than [`MOST`]
/// objects; [`Error::File`].
pub(super) fn receive(from: &mut dyn BufRead, file: File) -> Result<Received, Error> {
    let hash = gix_hash::hasher(gix_hash::Kind::Sha1);
    let mut tee = Tee { from, into: BufWriter::with_capacity(64 << 10, file), hash, crc: Crc::new(), at: 0 };
    let mut head = [0; HEAD];
    tee.read_exact(&mut head).map_err(short)?;
    let (_, count) = gix_pack::data::header::decode(&head).map_err(|_| damaged("it is no pack"))?;
    if count > MOST {
        return Err(Error::Pack(format!("it holds {count} objects, and the most are {MOST}")));
    }
    let mut entries: Vec<Entry> = Vec::new();
    let mut inflate = Decompress::new(true);
    let mut waste = vec![0; 32 << 10];
    for _ in 0..count {
        let entry = one(&mut tee, &entries, &mut inflate, &mut waste)?;
        entries.push(entry);
    }
    let sum = tee.hash.try_finalize().map_err(|_| damaged("its checksum is of no use"))?;
    tee.hash = gix_hash::hasher(gix_hash::Kind::Sha1);
    let mut told = [0; SUM as usize];
    tee.read_exact(&mut told).map_err(short)?;
    if sum.as_slice() != told {
        return Err(damaged("it is not what its checksum says"));
    }
    let file = tee.into.into_inner().map_err(|e| Error::File(e.into_error()))?;
    Ok(Received { file, entries, sum })
}

pub(super) fn damaged(why: &str) -> Error {
    Error::Pack(format!("the pack is damaged: {why}"))
}

fn short(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it ends early"),
        // What is said of an entry that is none.
        io::ErrorKind::Other | io::ErrorKind::InvalidData => damaged(&error.to_string()),
        _ => Error::File(error),
    }
}

fn one(
    tee: &mut Tee<'_>,
    before: &[Entry],
    inflate: &mut Decompress,
    waste: &mut [u8],
) -> Result<Entry, Error> {
    let begin = tee.at;
    tee.crc.reset();
    let head = gix_pack::data::Entry::from_read(tee, begin, SUM as usize).map_err(short)?;
    if head.decompressed_size > LARGEST as u64 {
        let (size, most) = (head.decompressed_size, LARGEST >> 20);
        return Err(Error::Pack(format!("it holds an object of {size} bytes, and the most are {most} MiB")));
    }
    let base = match head.header {
        Header::OfsDelta { base_distance } => {
            let at = begin.checked_sub(base_distance);
            let found = at.and_then(|at| before.binary_search_by_key(&at, |entry| entry.begin).ok());
            let found = found.ok_or_else(|| damaged("a delta's base is no entry"))?;
            Base::At(u32::try_from(found).map_err(|_| damaged("it has too many entries"))?)
        }
        Header::RefDelta { base_id } => Base::Named(base_id),
        whole => Base::Whole(whole.as_kind().ok_or_else(|| damaged("an entry is of no kind"))?),
    };
    let data = tee.at;
    skip(tee, inflate, waste, head.decompressed_size)?;
    let size = u32::try_from(head.decompressed_size).map_err(|_| damaged("an entry is too large"))?;
    Ok(Entry { begin, data, end: tee.at, crc32: tee.crc.sum(), size, base })
}

/// Passes an entry's data on, which must unpack to `size` bytes.
fn skip(tee: &mut Tee<'_>, inflate: &mut Decompress, waste: &mut [u8], size: u64) -> Result<(), Error> {
    inflate.reset(true);
    loop {
        let buffer = tee.from.fill_buf().map_err(short)?;
        if buffer.is_empty() {
            return Err(damaged("it ends early"));
        }
        let (taken, made) = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(buffer, waste, FlushDecompress::None);
        let status = status.map_err(|_| damaged("an entry cannot be unpacked"))?;
        let taken = inflate.total_in() - taken;
        // No more than is in the buffer.
        tee.pass(usize::try_from(taken).unwrap_or_default()).map_err(short)?;
        if status == Status::StreamEnd && inflate.total_out() == size {
            return Ok(());
        }
        let stuck = taken == 0 && inflate.total_out() == made;
        if status == Status::StreamEnd || inflate.total_out() > size || stuck {
            return Err(damaged("an entry is not as large as it says"));
        }
    }
}

/// Passes bytes on into a file, and sums them up.
struct Tee<'a> {
    from: &'a mut dyn BufRead,
    into: BufWriter<File>,
    hash: gix_hash::Hasher,
    crc: Crc,
    at: u64,
}

impl Tee<'_> {
    fn pass(&mut self, amount: usize) -> io::Result<()> {
        let piece = &self.from.fill_buf()?[..amount];
        self.into.write_all(piece)?;
        self.hash.update(piece);
        self.crc.update(piece);
        self.from.consume(amount);
        self.at += amount as u64;
        Ok(())
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.from.fill_buf()?;
        let length = ready.len().min(buffer.len());
        buffer[..length].copy_from_slice(&ready[..length]);
        self.pass(length)?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_of_more_objects_than_anybody_has_is_refused_before_they_come() {
        let head = |count: u32| [b"PACK".as_slice(), &2_u32.to_be_bytes(), &count.to_be_bytes()].concat();
        for (count, why) in
            [(MOST + 1, "it holds 2000001 objects"), (u32::MAX, "objects"), (MOST, "it ends early")]
        {
            let mut from = io::Cursor::new(head(count));
            let error = receive(&mut from, tempfile::tempfile().unwrap()).err().unwrap().to_string();
            assert!(error.contains(why), "{count}: {error}");
        }
    }
}
