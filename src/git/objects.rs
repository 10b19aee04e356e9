//! The objects of a repository's packs.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use gix_pack::cache::lru::MemoryCappedHashmap;
use gix_pack::data::decode::header::ResolvedBase;
use gix_pack::data::entry::Location;

use super::{Error, Kind, Oid};
use crate::sys::durable;

/// Bytes of bases of deltas that a reader remembers.
const REMEMBERED: usize = 4 << 20;
/// The largest object that is read, in bytes: a small pack can hold one that is very large, and a chain of them.
pub(super) const LARGEST: usize = 32 << 20;

/// Bytes of an index for an object.
const INDEXED: u64 = 28;

/// What an index without its pack is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Torn {
    Refused,
    PassedOver,
}

/// The packs of a repository, open. Clones share them.
#[derive(Clone)]
pub struct Objects {
    packs: Arc<Vec<Pack>>,
}

struct Pack {
    bundle: gix_pack::Bundle,
    /// Where its entries begin, in order: one ends where the next begins.
    offsets: OnceLock<Vec<u64>>,
}

impl Pack {
    fn has(&self, id: &gix_hash::oid) -> bool {
        self.bundle.index.lookup(id).is_some()
    }

    fn place(&self, id: &gix_hash::oid) -> Option<Location> {
        let begin = self.bundle.index.pack_offset_at_index(self.bundle.index.lookup(id)?);
        let offsets = self.offsets.get_or_init(|| self.bundle.index.sorted_offsets());
        let next = offsets.partition_point(|offset| *offset <= begin);
        let end = offsets.get(next).copied().unwrap_or(self.bundle.pack.pack_end() as u64);
        let entry_size = usize::try_from(end.checked_sub(begin)?).ok()?;
        Some(Location { pack_id: self.bundle.pack.id, entry_size, pack_offset: begin })
    }
}

impl Objects {
    /// Opens all packs of a folder.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        Self::of(&[folder], Torn::Refused)
    }

    /// Opens all packs of a folder that are whole: where somebody was cut short while it removed packs, an index may have
    /// lost its pack.
    pub(super) fn open_whole(folder: &Path) -> Result<Self, Error> {
        Self::of(&[folder], Torn::PassedOver)
    }

    /// Opens all packs of two folders.
    pub(super) fn open_both(one: &Path, two: &Path) -> Result<Self, Error> {
        Self::of(&[one, two], Torn::Refused)
    }

    fn of(folders: &[&Path], torn: Torn) -> Result<Self, Error> {
        let mut paths = Vec::new();
        for folder in folders {
            for entry in std::fs::read_dir(folder).map_err(Error::File)? {
                let path = entry.map_err(Error::File)?.path();
                if path.extension().is_some_and(|end| end == "idx") {
                    paths.push(path);
                }
            }
        }
        paths.sort();
        let mut packs = Vec::new();
        for path in paths {
            if torn == Torn::PassedOver
                && !durable::exists(&path.with_extension("pack")).map_err(Error::File)?
            {
                tracing::warn!(index = %path.display(), "the pack of an index is gone: it is passed over");
                continue;
            }
            let damaged = |e: gix_error::Error| Error::Damaged { path: path.clone(), why: e.to_string() };
            let mut bundle = gix_pack::Bundle::at(&path, gix_hash::Kind::Sha1).map_err(damaged)?;
            bundle.pack = bundle.pack.with_alloc_limit_bytes(Some(LARGEST));
            bundle.pack.id = u32::try_from(packs.len()).unwrap_or(u32::MAX);
            packs.push(Pack { bundle, offsets: OnceLock::new() });
        }
        Ok(Self { packs: Arc::new(packs) })
    }

    /// Whether an object is here.
    pub fn has(&self, id: &Oid) -> bool {
        self.packs.iter().any(|pack| pack.has(id))
    }

    /// How many packs there are.
    pub fn packs(&self) -> usize {
        self.packs.len()
    }

    /// Bytes of a pack of these objects and of its index, about: what is a delta of something else is made whole.
    pub(super) fn room(&self, ids: &[Oid]) -> u64 {
        let entries = ids.iter().filter_map(|id| self.with(id)?.place(id));
        entries.map(|place| place.entry_size as u64 + INDEXED).sum()
    }

    /// Bytes of all packs.
    pub fn size(&self) -> u64 {
        self.packs.iter().map(|pack| pack.bundle.pack.data_len() as u64).sum()
    }

    /// Reads objects one after the other.
    pub fn reader(&self) -> Reader {
        Reader {
            objects: self.clone(),
            inflate: gix_zlib::Inflate::default(),
            cache: MemoryCappedHashmap::new(REMEMBERED),
            buffer: Vec::new(),
            gone: None,
        }
    }

    fn bundle(&self, pack: u32) -> Option<&gix_pack::Bundle> {
        self.packs.get(usize::try_from(pack).ok()?).map(|pack| &pack.bundle)
    }

    fn with(&self, id: &gix_hash::oid) -> Option<&Pack> {
        self.packs.iter().find(|pack| pack.has(id))
    }
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("packs", &self.packs.len()).finish()
    }
}

/// Reads objects; what deltas need is remembered in between.
pub struct Reader {
    objects: Objects,
    inflate: gix_zlib::Inflate,
    cache: MemoryCappedHashmap,
    buffer: Vec<u8>,
    gone: Option<Box<dyn Fn() -> bool + Send>>,
}

impl Reader {
    /// Reads no more once nobody waits for it.
    pub fn unless(mut self, gone: impl Fn() -> bool + Send + 'static) -> Self {
        self.gone = Some(Box::new(gone));
        self
    }

    /// Whether an object is here.
    pub fn has(&self, id: &Oid) -> bool {
        self.objects.has(id)
    }

    /// An object's kind and bytes.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Pack`] for one that cannot be read.
    pub fn read(&mut self, id: &Oid) -> Result<(Kind, &[u8]), Error> {
        if self.gone.as_ref().is_some_and(|gone| gone()) {
            return Err(Error::Pack("nobody waits for it any more".into()));
        }
        let pack = self.objects.with(id).ok_or(Error::Missing(*id))?;
        let found = pack.bundle.find(id, &mut self.buffer, &mut self.inflate, &mut self.cache);
        match found {
            Ok(Some((data, _))) => Ok((data.kind, data.data)),
            Ok(None) => Err(Error::Missing(*id)),
            Err(why) => Err(Error::Pack(format!("object {id}: {why}"))),
        }
    }

    /// An object's kind, by its head alone.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn kind(&mut self, id: &Oid) -> Result<Kind, Error> {
        let pack = &self.objects.with(id).ok_or(Error::Missing(*id))?.bundle;
        let entry = |id: &gix_hash::oid| {
            let at = pack.index.lookup(id).map(|at| pack.index.pack_offset_at_index(at));
            at.map(|at| pack.pack.entry(at)).transpose()
        };
        let base = |id: &gix_hash::oid| Ok(entry(id)?.map(ResolvedBase::InPack));
        let failed = |e: gix_error::Error| Error::Pack(format!("object {id}: {e}"));
        let own = entry(id).map_err(failed)?.ok_or(Error::Missing(*id))?;
        Ok(pack.pack.decode_header(own, &mut self.inflate, &base).map_err(failed)?.kind)
    }
}

type Found<'a> = Option<(gix_object::Data<'a>, Option<Location>)>;

/// What a pack is made from.
impl gix_pack::Find for Objects {
    fn contains(&self, id: &gix_hash::oid) -> bool {
        self.packs.iter().any(|pack| pack.has(id))
    }

    fn try_find_cached<'a>(
        &self,
        id: &gix_hash::oid,
        buffer: &'a mut Vec<u8>,
        cache: &mut dyn gix_pack::cache::DecodeEntry,
    ) -> gix_error::Result<Found<'a>> {
        let Some(pack) = self.with(id) else { return Ok(None) };
        let found = pack.bundle.find(id, buffer, &mut gix_zlib::Inflate::default(), cache)?;
        Ok(found.map(|(data, place)| (data, Some(place))))
    }

    fn location_by_oid(&self, id: &gix_hash::oid, _: &mut Vec<u8>) -> gix_error::Result<Option<Location>> {
        Ok(self.with(id).and_then(|pack| pack.place(id)))
    }

    fn pack_offsets_and_oid(&self, pack: u32) -> gix_error::Result<Option<Vec<(u64, Oid)>>> {
        Ok(self
            .bundle(pack)
            .map(|bundle| bundle.index.iter().map(|entry| (entry.pack_offset, entry.oid)).collect()))
    }

    fn entry_by_location(&self, place: &Location) -> Option<gix_pack::find::Entry> {
        let bundle = self.bundle(place.pack_id)?;
        let data = bundle.pack.entry_slice(place.entry_range(place.pack_offset))?.to_vec();
        Some(gix_pack::find::Entry { data, version: bundle.pack.version() })
    }
}

/// The bases of a thin pack's deltas.
impl gix_object::Find for Objects {
    fn try_find<'a>(
        &self,
        id: &gix_hash::oid,
        buffer: &'a mut Vec<u8>,
    ) -> gix_error::Result<Option<gix_object::Data<'a>>> {
        let found = gix_pack::Find::try_find_cached(self, id, buffer, &mut gix_pack::cache::Never)?;
        Ok(found.map(|(data, _)| data))
    }
}
