//! The index of a pack (gitformat-pack, version 2), which names its objects and says where they are; and the bases that a
//! thin pack leaves out.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt as _;

use flate2::{Compression, Crc, write::ZlibEncoder};
use gix_pack::data::entry::Header;

use super::receive::{Base, Entry, HEAD, Received, SUM, damaged};
use super::resolve::Trees;
use super::{Error, Kind, Objects, Oid};

/// An offset from here on stands in a table of its own.
const FAR: u64 = 1 << 31;

/// A pack all of whose objects are known.
pub(super) struct Named {
    /// In the order of their names.
    pub(super) objects: Vec<(Oid, Entry)>,
    /// The checksum of the pack.
    pub(super) sum: Oid,
}

impl Named {
    /// Names all objects of a pack. What its deltas are made of and is not in it comes from `bases`, and is added to it.
    ///
    /// # Errors
    /// [`Error::Pack`], [`Error::File`].
    pub(super) fn of(received: Received, bases: &Objects) -> Result<Self, Error> {
        let Received { file, entries, mut sum } = received;
        let count = entries.len();
        let mut trees = Trees::new(&file, entries);
        trees.walk(0)?;
        let missing: Vec<Oid> = trees.waiting.keys().copied().collect();
        if !missing.is_empty() {
            let mut end = file.metadata().map_err(Error::File)?.len() - SUM;
            let mut reader = bases.reader();
            for id in missing.iter().filter(|id| bases.has(id)) {
                let (kind, data) = reader.read(id)?;
                let entry = append(&file, end, kind, data)?;
                end = entry.end;
                trees.add(entry);
            }
            trees.walk(count)?;
            if let Some(id) = trees.waiting.keys().next() {
                return Err(damaged(&format!("the base {id} of a delta is not there")));
            }
            sum = seal(&file, trees.entries.len(), end)?;
        }
        let mut objects = Vec::with_capacity(trees.entries.len());
        for (id, entry) in trees.ids.into_iter().zip(trees.entries) {
            objects.push((id.ok_or_else(|| damaged("a delta hangs on nothing"))?, entry));
        }
        objects.sort_unstable_by_key(|(id, entry)| (*id, entry.begin));
        Ok(Self { objects, sum })
    }

    /// Writes the index.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn write(&self, into: File) -> Result<(), Error> {
        let mut out = Summed { into: BufWriter::new(into), hash: gix_hash::hasher(gix_hash::Kind::Sha1) };
        self.tables(&mut out).map_err(Error::File)?;
        let sum = out.hash.try_finalize().map_err(|_| damaged("its index cannot be summed up"))?;
        out.into.write_all(sum.as_slice()).and_then(|()| out.into.flush()).map_err(Error::File)
    }

    fn tables(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(b"\xfftOc\0\0\0\x02")?;
        for byte in 0..=u8::MAX {
            let upto = self.objects.partition_point(|(id, _)| id.first_byte() <= byte);
            out.write_all(&number(upto)?.to_be_bytes())?;
        }
        for (id, _) in &self.objects {
            out.write_all(id.as_slice())?;
        }
        for (_, entry) in &self.objects {
            out.write_all(&entry.crc32.to_be_bytes())?;
        }
        let mut far = Vec::new();
        for (_, entry) in &self.objects {
            let near = u32::try_from(entry.begin).ok().filter(|_| entry.begin < FAR);
            let told = match near {
                Some(near) => near,
                None => {
                    far.push(entry.begin);
                    number(far.len() - 1)? | 1 << 31
                }
            };
            out.write_all(&told.to_be_bytes())?;
        }
        for begin in far {
            out.write_all(&begin.to_be_bytes())?;
        }
        out.write_all(self.sum.as_slice())
    }
}

fn number(count: usize) -> io::Result<u32> {
    u32::try_from(count).map_err(|_| io::Error::other("too many objects for an index"))
}

/// Writes an object as an entry at `at`.
fn append(file: &File, at: u64, kind: Kind, data: &[u8]) -> Result<Entry, Error> {
    let header = match kind {
        Kind::Commit => Header::Commit,
        Kind::Tree => Header::Tree,
        Kind::Blob => Header::Blob,
        Kind::Tag => Header::Tag,
    };
    let mut bytes = Vec::new();
    let head = header.write_to(data.len() as u64, &mut bytes).map_err(Error::File)?;
    let mut packed = ZlibEncoder::new(bytes, Compression::fast());
    let bytes = packed.write_all(data).and_then(|()| packed.finish()).map_err(Error::File)?;
    file.write_all_at(&bytes, at).map_err(Error::File)?;
    let mut crc = Crc::new();
    crc.update(&bytes);
    let size = u32::try_from(data.len()).map_err(|_| damaged("a base is too large"))?;
    let (data, end) = (at + head as u64, at + bytes.len() as u64);
    Ok(Entry { begin: at, data, end, crc32: crc.sum(), size, base: Base::Whole(kind) })
}

/// Makes a pack that was added to whole again: its number of entries, and the checksum at its end.
fn seal(file: &File, count: usize, end: u64) -> Result<Oid, Error> {
    let count = number(count).map_err(Error::File)?;
    file.write_all_at(&count.to_be_bytes(), HEAD as u64 - 4).map_err(Error::File)?;
    let mut hash = gix_hash::hasher(gix_hash::Kind::Sha1);
    let mut from = BufReader::with_capacity(64 << 10, Span { file, at: 0, end });
    let mut piece = vec![0; 64 << 10];
    loop {
        match from.read(&mut piece).map_err(Error::File)? {
            0 => break,
            read => hash.update(&piece[..read]),
        }
    }
    let sum = hash.try_finalize().map_err(|_| damaged("it cannot be summed up"))?;
    file.write_all_at(sum.as_slice(), end).map_err(Error::File)?;
    file.set_len(end + SUM).map_err(Error::File)?;
    Ok(sum)
}

/// A file from some byte to another.
pub(super) struct Span<'a> {
    pub(super) file: &'a File,
    pub(super) at: u64,
    pub(super) end: u64,
}

impl Read for Span<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..left], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Sums up what is written.
struct Summed<W> {
    into: W,
    hash: gix_hash::Hasher,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.into.write(buffer)?;
        self.hash.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}
