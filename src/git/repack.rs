//! Many packs made one, and what an end in the middle of that, or of a pack that came, has left behind.
//!
//! Whoever changes a repository is alone in it. Readers come and go all the same: what they have open they keep, and what
//! they look for lies in some pack with an index at all times.

use std::collections::BTreeSet;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use super::repository::packs;
use super::{Error, Oid, Repository, pack, walk};
use crate::sys::{durable, failpoint};

/// Of how many packs one was to be made that is not made yet.
const NOTE: &str = "objects/repack";

impl Repository {
    /// Opens one to change it, and removes what one that was cut short has left: the caller is alone in it.
    ///
    /// # Errors
    /// As [`Repository::open`]; [`Error::Damaged`] where a pack is gone, and something that refs need with it.
    pub fn open_to_change(folder: &Path) -> Result<Self, Error> {
        let here = Self::open(folder)?;
        here.tidy()?;
        Ok(here)
    }

    fn tidy(&self) -> Result<(), Error> {
        match std::fs::remove_dir_all(self.folder.join("objects/incoming")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::File(e)),
            _ => {}
        }
        let files = files(&packs(&self.folder))?;
        let with = |end: &str| -> BTreeSet<PathBuf> {
            let of_kind = files.iter().filter(|path| path.extension().is_some_and(|known| known == end));
            of_kind.map(|path| path.with_extension("")).collect()
        };
        let (indexes, data) = (with("idx"), with("pack"));
        if let Some(first) = indexes.difference(&data).next() {
            let tips: Vec<Oid> = self.refs.values().copied().collect();
            walk::check(&mut self.objects.reader(), &tips, &[]).map_err(|error| Error::Damaged {
                path: first.with_extension("pack"),
                why: format!("it is gone, and so is what only it had: {error}"),
            })?;
        }
        let torn: Vec<PathBuf> = indexes
            .difference(&data)
            .map(|path| path.with_extension("idx"))
            .chain(data.difference(&indexes).map(|path| path.with_extension("pack")))
            .collect();
        self.remove(&torn)
    }

    /// Whether its packs should be made one: there are more than `most`, and twice as many as when that failed.
    pub fn is_scattered(&self, most: usize) -> bool {
        let packs = self.objects.packs();
        packs > most && packs >= self.tried().unwrap_or(0).saturating_mul(2)
    }

    /// Whether its packs were to be made one, and are not: some of them may hold what no ref needs.
    pub fn is_half_packed(&self) -> bool {
        self.tried().is_some()
    }

    fn tried(&self) -> Option<usize> {
        // What cannot be read says as much as none: it is tried again.
        std::fs::read_to_string(self.folder.join(NOTE)).ok()?.trim().parse().ok()
    }

    /// Makes one pack of all that refs need, and removes the others. `room` is asked before a byte is written, with how
    /// many it may take.
    ///
    /// # Errors
    /// [`Error`]; the packs are what they were then, or one more, and [`Repository::is_scattered`] remembers it.
    pub fn repack(&mut self, room: impl FnOnce(u64) -> Result<(), Error>) -> Result<(), Error> {
        let note = self.folder.join(NOTE);
        durable::write(&note, format!("{}\n", self.objects.packs()).as_bytes(), 0o600)
            .map_err(Error::File)?;
        let wants = self.refs.values().copied().collect();
        let ids = walk::objects(&mut self.objects.reader(), &walk::Ask { wants, ..walk::Ask::default() })?;
        room(self.objects.room(&ids))?;
        let incoming = self.incoming()?;
        let taken = self.copied(&ids, incoming.path())?;
        self.admit(&taken)?;
        let kept = taken.pack.as_deref().map(|path| path.with_extension(""));
        let name = kept.as_deref().and_then(Path::file_name);
        let mut others = files(&packs(&self.folder))?;
        others.retain(|path| path.file_stem() != name);
        self.remove(&others)?;
        self.objects = super::Objects::open(&packs(&self.folder))?;
        durable::remove(&note).map_err(Error::File)
    }

    /// A pack of these objects in `folder`, written once: what makes it and what checks it are two threads.
    fn copied(&self, ids: &[Oid], folder: &Path) -> Result<pack::Taken, Error> {
        let (from, to) = std::io::pipe().map_err(Error::File)?;
        let objects = self.objects.clone();
        std::thread::scope(|scope| {
            let write = move || pack::write(&objects, ids, BufWriter::new(to));
            let writer = std::thread::Builder::new().name("git".into()).spawn_scoped(scope, write);
            let writer = writer.map_err(Error::File)?;
            let taken = pack::take(&mut BufReader::with_capacity(64 << 10, from), folder, &self.objects);
            let broke_off = || Error::Pack("the making of a pack broke off".into());
            let written = writer.join().map_err(|_| broke_off())?;
            match (taken, written) {
                // The disk is why the pipe broke.
                (Err(error @ Error::File(_)), _) => Err(error),
                (_, Err(error)) => Err(error),
                (taken, Ok(())) => taken,
            }
        })
    }

    /// Removes files of packs: first all indexes, by which packs are found, so that no index is ever without its pack.
    fn remove(&self, files: &[PathBuf]) -> Result<(), Error> {
        let is_index = |path: &&PathBuf| path.extension().is_some_and(|end| end == "idx");
        let (indexes, others): (Vec<_>, Vec<_>) = files.iter().partition(is_index);
        for some in [indexes, others] {
            for path in &some {
                failpoint::pass("pack-unlink");
                std::fs::remove_file(path).map_err(|e| Error::File(durable::named(e, "remove", path)))?;
            }
            if let Some(last) = some.last() {
                durable::sync_folder_of(last).map_err(Error::File)?;
            }
        }
        Ok(())
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::File(durable::named(e, "list", folder)))?;
    entries.map(|entry| Ok(entry.map_err(Error::File)?.path())).collect()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
#[path = "repack_tests.rs"]
mod tests;
