//! The other bundles of a stream on the same stick: what the newest leaves out may lie there, as a full one and what was
//! made after it are carried together. Nothing of them is believed: a blob has the size and the digest that the newest
//! signs, or it is none.

use std::path::Path;

use super::list::BlobLine;
use super::manifest::{Layout, Manifest};
use super::stick::{Stick, is_finished};
use super::{Error, Found, name};

/// How many of them are looked at, the newest first; each is held open.
const MOST: usize = 64;

/// The files of a blob.
pub struct Lying<'a> {
    /// The bundle that has them.
    pub stick: &'a Stick,
    /// How they lie there.
    pub layout: Layout,
    /// How many there are.
    pub files: u64,
}

/// Other bundles of the same stream.
pub struct Siblings(Vec<Stick>);

impl Siblings {
    /// Those that lie beside the bundle in `folder`; none where it leaves nothing out, or lies alone.
    pub fn of(folder: &Path, manifest: &Manifest) -> Self {
        let bundles = folder.parent().filter(|parent| parent.ends_with(name::BUNDLES));
        let Some(bundles) = bundles.filter(|_| manifest.totals.carried < manifest.totals.blobs) else {
            return Self(Vec::new());
        };
        // What cannot be listed or opened is of no use; what is missing then is told.
        let found: Vec<Found> = super::find(bundles).unwrap_or_default();
        let others = found.iter().flat_map(Found::all).filter(|other| {
            let named = other.file_name().and_then(|name| name.to_str()).and_then(name::parse_folder);
            named.is_some_and(|(stream, seq)| stream == manifest.stream && seq != manifest.seq)
        });
        let others = others.filter(|other| *other != folder && is_finished(other));
        Self(others.take(MOST).filter_map(|other| Stick::open(other).ok()).collect())
    }

    /// The first that has all files of a blob, of the right lengths.
    ///
    /// # Errors
    /// Where the stick cannot be read.
    pub fn find(&self, line: &BlobLine, part_size: u64) -> Result<Option<Lying<'_>>, Error> {
        let files = name::parts(line.size, part_size);
        for stick in &self.0 {
            for layout in [Layout::Flat, Layout::Sharded] {
                let lying = Lying { stick, layout, files };
                if lying.is_whole(line, part_size)? {
                    return Ok(Some(lying));
                }
            }
        }
        Ok(None)
    }
}

impl Lying<'_> {
    /// The steps to one of the files.
    pub fn steps(&self, line: &BlobLine, index: u64) -> Vec<String> {
        name::part(self.layout, &line.digest, self.files, index)
    }

    fn is_whole(&self, line: &BlobLine, part_size: u64) -> Result<bool, Error> {
        for index in 0..self.files {
            let wanted = name::part_length(line.size, part_size, index);
            match self.stick.file(&self.steps(line, index)) {
                Ok(Some((_, found))) if found == wanted => {}
                // A link or a pipe is no file of a bundle.
                Ok(_) | Err(Error::Content(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
