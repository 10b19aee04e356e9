//! The objects of a pack by their names: each delta is applied to its base, however they hang together, within a bounded
//! memory.
//!
//! A base is held while what is made of it is not done. The largest part of a tree of deltas comes last, and then its base
//! is let go, so that a chain holds one object and not all of them. Where a tree still wants more than [`HELD`], the oldest
//! bases are let go and made again. At its peak: what is held, and three objects of the largest size.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _};

use flate2::read::ZlibDecoder;

use super::index::Span;
use super::objects::LARGEST;
use super::receive::{Base, Entry, damaged};
use super::{Error, Kind, Oid, delta};

/// Bytes of bases that are held.
const HELD: usize = if cfg!(test) { 8 << 10 } else { 16 << 20 };
/// The longest chain of deltas; git makes none that is longer.
const LONGEST: usize = 4095;
/// Bytes that may be made in all: a small pack can be made to cost days.
const WORK: u64 = 1 << 40;
/// No entry has this number.
const NONE: u32 = u32::MAX;

/// The trees of deltas of a pack, as far as they were walked.
pub(super) struct Trees<'a> {
    file: &'a File,
    pub(super) entries: Vec<Entry>,
    /// The names of the entries, as far as they are known.
    pub(super) ids: Vec<Option<Oid>>,
    /// Entries that wait for the object of a name.
    pub(super) waiting: BTreeMap<Oid, Vec<u32>>,
    /// Base and delta, by number; of one base those with most behind them come first.
    edges: Vec<(u32, u32)>,
    /// The entry that each is made of.
    bases: Vec<u32>,
    /// From the root of a tree to where the walk is.
    path: Vec<Step>,
    held: usize,
    work: u64,
}

/// A base whose deltas are not all done.
struct Step {
    entry: u32,
    kind: Kind,
    depth: usize,
    /// Let go where too much is held.
    bytes: Option<Vec<u8>>,
    /// The last of them is the next.
    left: Vec<u32>,
}

impl<'a> Trees<'a> {
    pub(super) fn new(file: &'a File, entries: Vec<Entry>) -> Self {
        let mut bases = vec![NONE; entries.len()];
        let mut waiting: BTreeMap<Oid, Vec<u32>> = BTreeMap::new();
        for (at, entry) in (0_u32..).zip(&entries) {
            match entry.base {
                Base::At(base) => bases[at as usize] = base,
                Base::Named(id) => waiting.entry(id).or_default().push(at),
                Base::Whole(_) => {}
            }
        }
        // A base of this kind comes before what is made of it.
        let mut behind = vec![1_u32; entries.len()];
        for at in (0..entries.len()).rev() {
            if bases[at] != NONE {
                behind[bases[at] as usize] = behind[bases[at] as usize].saturating_add(behind[at]);
            }
        }
        let all = bases.iter().zip(0_u32..).filter(|(base, _)| **base != NONE);
        let mut edges: Vec<(u32, u32)> = all.map(|(base, at)| (*base, at)).collect();
        edges.sort_unstable_by_key(|(base, at)| (*base, std::cmp::Reverse(behind[*at as usize])));
        let ids = vec![None; entries.len()];
        Self { file, entries, ids, waiting, edges, bases, path: Vec::new(), held: 0, work: 0 }
    }

    /// Takes one entry more, which is whole.
    pub(super) fn add(&mut self, entry: Entry) {
        self.entries.push(entry);
        self.ids.push(None);
        self.bases.push(NONE);
    }

    /// Names all that hangs on the whole objects among the entries from `first` on.
    ///
    /// # Errors
    /// [`Error::Pack`] for what is damaged or costs too much; [`Error::File`].
    pub(super) fn walk(&mut self, first: usize) -> Result<(), Error> {
        for at in first..self.entries.len() {
            let entry = self.entries[at];
            let Base::Whole(kind) = entry.base else { continue };
            let bytes = unpack(self.file, &entry)?;
            let at = u32::try_from(at).map_err(|_| damaged("it has too many entries"))?;
            self.found(at, kind, 0, bytes)?;
            while let Some(step) = self.path.len().checked_sub(1) {
                self.step(step)?;
            }
        }
        Ok(())
    }

    /// Goes on with the last base: with one delta, or without it if none is left.
    fn step(&mut self, at: usize) -> Result<(), Error> {
        let Some(next) = self.path[at].left.pop() else {
            self.let_go(at);
            self.path.pop();
            return Ok(());
        };
        let (entry, kind, depth) = (self.path[at].entry, self.path[at].kind, self.path[at].depth + 1);
        if depth > LONGEST {
            return Err(Error::Pack(format!("a chain of its deltas is longer than {LONGEST}")));
        }
        self.bases[next as usize] = entry;
        let base = match self.path[at].bytes.take() {
            Some(bytes) => {
                self.held -= bytes.len();
                bytes
            }
            None => self.again(entry)?,
        };
        let made = self.made(&base, next)?;
        if self.path[at].left.is_empty() {
            self.path.pop();
            drop(base);
        } else {
            self.hold(at, base);
        }
        self.found(next, kind, depth, made)
    }

    /// Names an object, and looks at what is made of it next.
    fn found(&mut self, at: u32, kind: Kind, depth: usize, bytes: Vec<u8>) -> Result<(), Error> {
        let id = gix_object::compute_hash(gix_hash::Kind::Sha1, kind, &bytes)
            .map_err(|_| damaged("an object cannot be named"))?;
        self.ids[at as usize] = Some(id);
        let begin = self.edges.partition_point(|(base, _)| *base < at);
        let own = self.edges[begin..].iter().take_while(|(base, _)| *base == at);
        let mut left: Vec<u32> = own.map(|(_, delta)| *delta).collect();
        left.extend(self.waiting.remove(&id).into_iter().flatten());
        if !left.is_empty() {
            self.path.push(Step { entry: at, kind, depth, bytes: None, left });
            self.hold(self.path.len() - 1, bytes);
        }
        Ok(())
    }

    fn hold(&mut self, at: usize, bytes: Vec<u8>) {
        self.held += bytes.len();
        self.path[at].bytes = Some(bytes);
        for other in 0..at {
            if self.held <= HELD {
                return;
            }
            self.let_go(other);
        }
    }

    fn let_go(&mut self, at: usize) {
        self.held -= self.path[at].bytes.take().map_or(0, |bytes| bytes.len());
    }

    /// Makes an object again that was let go: from the nearest one that is held, or from the root.
    fn again(&mut self, entry: u32) -> Result<Vec<u8>, Error> {
        let (mut chain, mut at) = (Vec::new(), entry);
        let mut bytes = loop {
            let held = self.path.iter().find(|step| step.entry == at).and_then(|step| step.bytes.as_ref());
            match (held, self.bases[at as usize]) {
                (Some(held), _) => {
                    let held = held.clone();
                    break held;
                }
                (None, NONE) => break unpack(self.file, &self.entries[at as usize])?,
                (None, base) => {
                    chain.push(at);
                    at = base;
                }
            }
        };
        while let Some(next) = chain.pop() {
            bytes = self.made(&bytes, next)?;
        }
        Ok(bytes)
    }

    /// What a delta makes of its base.
    fn made(&mut self, base: &[u8], at: u32) -> Result<Vec<u8>, Error> {
        let wrong = || damaged("a delta does not fit its base");
        let delta = unpack(self.file, &self.entries[at as usize])?;
        let (of, size, begin) = delta::sizes(&delta).ok_or_else(wrong)?;
        if size > LARGEST as u64 {
            let most = LARGEST >> 20;
            return Err(Error::Pack(format!(
                "it holds an object of {size} bytes, and the most are {most} MiB"
            )));
        }
        self.work += size + delta.len() as u64;
        if self.work > WORK {
            return Err(Error::Pack("its deltas take too much work".into()));
        }
        let size = usize::try_from(size).map_err(|_| wrong())?;
        let made = (of == base.len() as u64).then(|| delta::apply(base, &delta[begin..], size)).flatten();
        made.ok_or_else(wrong)
    }
}

/// An entry's data, which are as large as it says: that was seen as they came.
fn unpack(file: &File, entry: &Entry) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(entry.size as usize);
    let from = Span { file, at: entry.data, end: entry.end };
    let room = usize::try_from(entry.end - entry.data).unwrap_or(usize::MAX).min(32 << 10);
    let mut data = ZlibDecoder::new(BufReader::with_capacity(room, from)).take(u64::from(entry.size));
    data.read_to_end(&mut bytes).map_err(Error::File)?;
    if bytes.len() == entry.size as usize { Ok(bytes) } else { Err(damaged("an entry has changed")) }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
