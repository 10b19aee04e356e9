//! Packs: one that comes is indexed, its deltas resolved and all its objects hashed before anybody sees it; one that
//! goes reuses what is compressed already.

use std::fs::File;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use gix_pack::data::output::{Count, bytes::FromEntriesIter, count::PackLocation, entry};
use gix_utils::progress::Discard;

use super::index::Named;
use super::receive::receive;
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
/// [`Error::Pack`] for what is no pack, is damaged, or holds more than edge takes; [`Error::File`].
pub fn take(coming: &mut dyn BufRead, folder: &Path, bases: &Objects) -> Result<Taken, Error> {
    let part = folder.join("part");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&part);
    let named = Named::of(receive(coming, file.map_err(Error::File)?)?, bases)?;
    let objects = u32::try_from(named.objects.len()).unwrap_or(u32::MAX);
    if named.objects.is_empty() {
        std::fs::remove_file(&part).map_err(Error::File)?;
        return Ok(Taken { pack: None, objects });
    }
    let path = folder.join(format!("pack-{}.pack", named.sum));
    let index = path.with_extension("idx");
    named.write(File::create(&index).map_err(Error::File)?)?;
    for path in [&part, &index] {
        File::open(path).and_then(|file| file.sync_all()).map_err(Error::File)?;
    }
    std::fs::rename(&part, &path).map_err(Error::File)?;
    Ok(Taken { pack: Some(path), objects })
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
