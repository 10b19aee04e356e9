//! How large is what a bundle names: of an image, all that its manifest leads to and that is of the bundle's state.
//!
//! What manifests lead to lies in a file, for there may be 100,000 of them; in memory is what stands in `blobs.list`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Error;
use super::copy::part_of;
use super::facts::LARGEST_IMAGE_MANIFEST;
use super::list::{BlobLine, Content, RefLine};
use super::open::{Opened, Spool};
use super::state::beginning;
use crate::oci;
use crate::store::Store;
use crate::sys::digest::Digest;

/// Bytes of a record of the file: a number of digests, or the beginning of one.
const RECORD: usize = 16;

/// The sizes of all blobs of a bundle, and what its manifests lead to.
pub struct Sizes {
    /// In order.
    blobs: Vec<Blob>,
    links: File,
}

/// A blob of a bundle's state.
struct Blob {
    /// The beginning of its digest.
    name: u128,
    size: u64,
    leads: Leads,
}

/// What a blob leads to.
#[derive(Clone, Copy)]
enum Leads {
    Nowhere,
    /// To what stands at this record of the file.
    To(u32),
    /// It is a manifest that cannot be read, or is not what was signed.
    Unknown,
}

impl Sizes {
    /// Reads the manifests of an opened bundle: those of `store`, and of the stick what is not there. `scratch` is a folder of
    /// this machine's.
    ///
    /// # Errors
    /// Those of the disk and of the store. A manifest that the stick does not give has no size, and is no error.
    pub fn of(opened: &Opened, store: &Store, scratch: &Path) -> Result<Self, Error> {
        // As many as were counted before: see `state`.
        let totals = opened.manifest.totals.blobs;
        let mut blobs = Vec::with_capacity(usize::try_from(totals).unwrap_or_default());
        let mut spool = Spool::new(scratch)?;
        let (mut links, mut at) = (BufWriter::new(spool.file()), 0_u64);
        let mut lines = opened.blob_lines()?;
        while let Some(line) = lines.next_blob(opened.manifest.part_size)? {
            let leads = match line.kind {
                Content::Manifest => match children(opened, store, &line)? {
                    Some(children) => put(&mut links, &mut at, &children)?,
                    None => Leads::Unknown,
                },
                Content::Blob | Content::System => Leads::Nowhere,
            };
            blobs.push(Blob { name: beginning(line.digest.hex()), size: line.size, leads });
        }
        links.flush().map_err(Error::Files)?;
        drop(links);
        blobs.sort_unstable_by_key(|blob| blob.name);
        let links = spool.file().try_clone().map_err(Error::Files)?;
        Ok(Self { blobs, links })
    }

    /// Bytes of what a line names, each blob once; `None` where a manifest of it cannot be read. What of an image is not of
    /// the bundle's state, such as another platform's, counts nothing.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn of_ref(&self, line: &RefLine) -> Result<Option<u64>, Error> {
        if let RefLine::File { size, .. } = line {
            return Ok(Some(*size));
        }
        let mut open: Vec<u128> = line.digests().into_iter().map(|digest| beginning(digest.hex())).collect();
        let (mut seen, mut bytes) = (BTreeSet::new(), 0_u64);
        while let Some(name) = open.pop() {
            let found = self.blobs.binary_search_by_key(&name, |blob| blob.name);
            let Some(blob) = found.ok().and_then(|at| self.blobs.get(at)) else { continue };
            if !seen.insert(name) {
                continue;
            }
            bytes = bytes.saturating_add(blob.size);
            match blob.leads {
                Leads::Nowhere => {}
                Leads::To(at) => self.follow(at, &mut open)?,
                Leads::Unknown => return Ok(None),
            }
        }
        Ok(Some(bytes))
    }

    fn follow(&self, at: u32, into: &mut Vec<u128>) -> Result<(), Error> {
        let read = |at: u64| {
            let mut record = [0; RECORD];
            self.links.read_exact_at(&mut record, at * RECORD as u64).map_err(Error::Files)?;
            Ok::<_, Error>(u128::from_le_bytes(record))
        };
        let count = u64::try_from(read(at.into())?).unwrap_or_default();
        for next in 1..=count {
            into.push(read(u64::from(at) + next)?);
        }
        Ok(())
    }
}

/// Writes what a manifest leads to at record `at` of the file.
fn put(links: &mut impl Write, at: &mut u64, children: &[u128]) -> Result<Leads, Error> {
    let Ok(first) = u32::try_from(*at) else { return Ok(Leads::Unknown) };
    for record in std::iter::once(&(children.len() as u128)).chain(children) {
        links.write_all(&record.to_le_bytes()).map_err(Error::Files)?;
        *at += 1;
    }
    Ok(Leads::To(first))
}

/// The beginnings of the digests that a manifest leads to; `None` where it cannot be had.
fn children(opened: &Opened, store: &Store, line: &BlobLine) -> Result<Option<Vec<u128>>, Error> {
    if line.size > LARGEST_IMAGE_MANIFEST {
        return Ok(None);
    }
    let here = store.glance(&line.digest)?.map(|blob| blob.intact()).transpose()?.flatten();
    let bytes = here.or_else(|| on_stick(opened, line).ok().flatten());
    let Some(facts) = bytes.and_then(|bytes| oci::facts_of(&bytes, "").ok()) else { return Ok(None) };
    Ok(Some(facts.children.iter().map(|child| beginning(child.digest.hex())).collect()))
}

/// The bytes of a manifest that lies on the stick, if they are what was signed.
fn on_stick(opened: &Opened, line: &BlobLine) -> Result<Option<Vec<u8>>, Error> {
    let Some(lying) = opened.lying(line)? else { return Ok(None) };
    let mut bytes = Vec::new();
    for index in 0..lying.files {
        let (steps, file) = part_of(&lying, opened.manifest.part_size, line, index)?;
        let read = file.take(line.size).read_to_end(&mut bytes);
        read.map_err(|e| lying.stick.broken(e, "read", &steps.join("/")))?;
    }
    let right = Digest::of(line.digest.algorithm(), &bytes) == line.digest;
    Ok(right.then_some(bytes))
}
