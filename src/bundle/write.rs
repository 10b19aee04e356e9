//! Writes the files of a bundle: roots, blobs, lists, and what other tools read.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::create::Plan;
use super::gather::{Fact, Gathered, Key, Source};
use super::list::{BlobLine, Carried, ListWriter};
use super::manifest::{self, Layout, Totals};
use super::stick::{in_order, let_go};
use super::{Error, name};
use crate::store::Store;
use crate::sys::beside::Beside;
use crate::sys::digest::{Algorithm, Digest, Hasher};
use crate::sys::durable;
use crate::sys::progress::{Progress, Unit};

/// Writes one bundle.
pub(super) struct Writer<'a> {
    pub(super) store: &'a Store,
    pub(super) gathered: &'a Gathered,
    pub(super) there: &'a BTreeSet<&'a Key>,
    pub(super) folder: &'a Path,
    pub(super) layout: Layout,
    pub(super) plan: &'a Plan,
}

impl Writer<'_> {
    pub(super) fn put(&self, file: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.folder.join(file);
        let mut created = self.new_file(&path)?;
        created.write_all(bytes).map_err(|e| Error::Stick(durable::named(e, "write", &path)))
    }

    fn new_file(&self, path: &Path) -> Result<File, Error> {
        let opened = OpenOptions::new().write(true).create(true).truncate(true).open(path);
        opened.map_err(|e| Error::Stick(durable::named(e, "create", path)))
    }

    /// Writes files that are there before anything else, by their steps.
    pub(super) fn small(&self, files: &[(Vec<String>, &[u8])]) -> Result<(), Error> {
        make_folder(&self.folder.join(name::TRUST))?;
        files.iter().try_for_each(|(steps, bytes)| self.put(&steps.join("/"), bytes))
    }

    pub(super) fn refs(&self) -> Result<manifest::List, Error> {
        let path = self.folder.join(name::REFS_LIST);
        let failed = |e| Error::Stick(durable::named(e, "write", &path));
        let mut list = ListWriter::new(BufWriter::new(self.new_file(&path)?));
        self.gathered.names.each_line(|line| list.line(line).map_err(failed))?;
        Ok(list.end().map_err(failed)?.0)
    }

    pub(super) fn blobs(&self, totals: &Totals, progress: &Progress) -> Result<manifest::List, Error> {
        let path = self.folder.join(name::BLOBS_LIST);
        let failed = |e| Error::Stick(durable::named(e, "write", &path));
        let mut list = ListWriter::new(BufWriter::new(self.new_file(&path)?));
        let mut item = progress.item("copy to the stick", Some(totals.carried_bytes), Unit::Bytes);
        let (mut made, beside) = (BTreeSet::new(), Beside::start()?);
        for (key, fact) in &self.gathered.blobs {
            let Some(digest) = key.digest() else { continue };
            let carried = match self.there.contains(key) {
                true => Carried::No,
                false => self.copy(key, &digest, *fact, &mut made, &beside, &mut |bytes| item.add(bytes))?,
            };
            let line = BlobLine { digest, size: fact.size, kind: fact.kind, carried };
            list.line(&line.to_text()).map_err(failed)?;
        }
        let (list, _) = list.end().map_err(failed)?;
        item.done();
        Ok(list)
    }

    /// Copies a blob and checks on the way that the depot's own copy is still what it should be.
    fn copy(
        &self,
        key: &Key,
        digest: &Digest,
        fact: Fact,
        made: &mut BTreeSet<PathBuf>,
        beside: &Beside,
        copied: &mut dyn FnMut(u64),
    ) -> Result<Carried, Error> {
        let mut from = self.source(key, digest)?;
        let count = name::parts(fact.size, self.plan.part_size);
        let single = count == 1 && digest.algorithm() == Algorithm::Sha256;
        let (mut hashers, mut parts) = (vec![Hasher::new(digest.algorithm())], Vec::new());
        for index in 0..count {
            let path = self.folder.join(name::part(self.layout, digest, count, index).join("/"));
            if let Some(folder) = path.parent()
                && made.insert(folder.to_owned())
            {
                make_folder(folder)?;
            }
            let mut to = self.new_file(&path)?;
            hashers.extend((!single).then(|| Hasher::new(Algorithm::Sha256)));
            let length = name::part_length(fact.size, self.plan.part_size, index);
            from.read(length, &mut hashers, beside, |piece| {
                copied(piece.len() as u64);
                to.write_all(piece).map_err(|e| Error::Stick(durable::named(e, "write", &path)))
            })?;
            // The stick, which is slow, begins to write now.
            let_go(&to);
            if !single {
                parts.extend(hashers.pop().map(Hasher::finish));
            }
        }
        if let Some(actual) = hashers.pop().map(Hasher::finish).filter(|actual| actual != digest) {
            return Err(crate::store::Error::DigestMismatch { expected: digest.clone(), actual }.into());
        }
        Ok(if single { Carried::Whole } else { Carried::Parts(parts) })
    }

    fn source(&self, key: &Key, digest: &Digest) -> Result<Content<'_>, Error> {
        let file = match self.gathered.sources.get(key) {
            Some(Source::Bytes(bytes)) => return Ok(Content::Bytes(bytes)),
            Some(Source::Path(path)) => {
                File::open(path).map_err(|e| Error::Files(durable::named(e, "open", path)))?
            }
            None => {
                let blob = self.store.glance(digest)?;
                blob.ok_or_else(|| Error::Absent(digest.to_string()))?.open()?
            }
        };
        in_order(&file);
        Ok(Content::File(file))
    }

    /// `index.json` and `oci-layout`, with which skopeo and oras read the same folder.
    pub(super) fn for_others(&self) -> Result<(), Error> {
        self.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let path = self.folder.join("index.json");
        let failed = |e| Error::Stick(durable::named(e, "write", &path));
        let mut out = BufWriter::new(self.new_file(&path)?);
        out.write_all(br#"{"schemaVersion":2,"manifests":["#).map_err(failed)?;
        let mut first = true;
        self.gathered.names.each_manifest(|shown, digest, media_type| {
            let key = Key::of(digest);
            let Some(fact) = self.gathered.blobs.get(&key).filter(|_| !self.there.contains(&key)) else {
                return Ok(());
            };
            let entry = serde_json::json!({
                "mediaType": media_type,
                "digest": digest,
                "size": fact.size,
                "annotations": {"org.opencontainers.image.ref.name": shown},
            });
            let comma = if first { "" } else { "," };
            first = false;
            write!(out, "{comma}{entry}").map_err(failed)
        })?;
        out.write_all(b"]}").and_then(|()| out.flush()).map_err(failed)
    }
}

/// Where a blob's bytes come from. A file does not stay in the page cache once it was read.
enum Content<'a> {
    Bytes(&'a [u8]),
    File(File),
}

impl Content<'_> {
    /// Hands `take` the next `most` bytes, or as many as there are, hashed by each of `hashers`.
    fn read(
        &mut self,
        most: u64,
        hashers: &mut Vec<Hasher>,
        beside: &Beside,
        mut take: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self {
            Self::Bytes(left) => {
                let (piece, later) =
                    left.split_at(usize::try_from(most).unwrap_or(usize::MAX).min(left.len()));
                *left = later;
                hashers.iter_mut().for_each(|hasher| hasher.update(piece));
                take(piece)
            }
            Self::File(file) => beside.read(file, most, hashers, Error::Files, take).map(|_| ()),
        }
    }
}

impl Drop for Content<'_> {
    fn drop(&mut self) {
        if let Self::File(file) = self {
            let_go(file);
        }
    }
}

fn make_folder(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|e| Error::Stick(durable::named(e, "make", path)))
}
