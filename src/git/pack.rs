//! Packs: one that comes is indexed, its deltas resolved and all its objects hashed before anybody sees it; one that
//! goes reuses what is compressed already.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use gix_pack::data::output::{Count, bytes::FromEntriesIter, count::PackLocation, entry};
use gix_utils::progress::Discard;

use super::objects::LARGEST;
use super::{Error, Objects, Oid};

/// Objects of a pack that are held in memory at a time.
const CHUNK: usize = 16;

/// A pack that was taken, in the folder that was named.
#[derive(Clone, Debug)]
pub struct Taken {
    /// `pack-<hash>.pack`; `None` for one without objects.
    pub pack: Option<PathBuf>,
    /// How many objects are in it, bases of deltas that were here among them.
    pub objects: u32,
}

/// Reads a pack to its end and leaves it in `folder`, with its index, synced. `bases` completes a thin one.
///
/// # Errors
/// [`Error::Pack`] for what is no pack, is damaged or would take too much memory; [`Error::File`].
pub fn take(coming: &mut dyn BufRead, folder: &Path, bases: &Objects) -> Result<Taken, Error> {
    let options = gix_pack::bundle::write::Options {
        thread_limit: Some(1),
        alloc_limit_bytes: Some(LARGEST),
        ..Default::default()
    };
    let kind = gix_hash::Kind::Sha1;
    let going = AtomicBool::new(false);
    let bases = Some(bases.clone());
    let taken = gix_pack::Bundle::write_to_directory(
        coming,
        Some(folder),
        &mut Discard,
        &going,
        bases,
        kind,
        options,
    );
    let taken = taken.map_err(|e| Error::Pack(said(&e)))?;
    let files = [&taken.data_path, &taken.index_path];
    for path in files.into_iter().flatten() {
        std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(Error::File)?;
    }
    if let Some(keep) = &taken.keep_path {
        std::fs::remove_file(keep).map_err(Error::File)?;
    }
    Ok(Taken { pack: taken.data_path, objects: taken.index.num_objects })
}

/// Writes a pack of these objects.
///
/// # Errors
/// [`Error::Pack`], also where `out` takes no more.
pub fn write(objects: &Objects, ids: &[Oid], out: impl Write) -> Result<(), Error> {
    let failed = |e: gix_error::Error| Error::Pack(said(&e));
    let number = u32::try_from(ids.len()).map_err(|_| Error::Pack("too many objects for a pack".into()))?;
    let counts = ids.iter().map(|id| Count { id: *id, entry_pack_location: PackLocation::NotLookedUp });
    let options =
        entry::iter_from_counts::Options { thread_limit: Some(1), chunk_size: CHUNK, ..Default::default() };
    let entries = entry::iter_from_counts(counts.collect(), objects.clone(), Box::new(Discard), options)
        .map_err(failed)?;
    let entries = entries.map(|chunk| chunk.map(|(_, entries)| entries));
    let version = gix_pack::data::Version::V2;
    for written in FromEntriesIter::new(entries, out, number, version, gix_hash::Kind::Sha1) {
        written.map_err(failed)?;
    }
    Ok(())
}

/// An error with its causes, on one line.
fn said(error: &gix_error::Error) -> String {
    error.to_string().lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(": ")
}
