//! Which of several bundles of one stream is for this gateway: a stick may carry one for each of a fleet. And which need not
//! be looked at again.

use std::path::{Path, PathBuf};

use super::import::Gateway;
use super::manifest::own_platform;
use super::open::signed;
use super::stick::{Found, is_finished};
use super::{Error, Fault, name};

/// The bundle of a stream that this gateway takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its folder.
    pub folder: PathBuf,
    /// A line for each newer one, which is left to others.
    pub left: Vec<String>,
}

impl Gateway {
    /// The newest bundle but those that are signed for others, and folders of bundles that were never finished. What is wrong
    /// with it the import says: no older one stands in for one that is spoiled. Where there is no other, it is the newest.
    pub fn choose(&self, found: &Found) -> Chosen {
        let mut left = Vec::new();
        for folder in found.all() {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            if !is_finished(folder) {
                left.push(format!("`{name}` is newer, and left: it was never finished"));
                continue;
            }
            let Err(Error::Content(Fault::Audience { wanted, found: me, .. })) = self.check_meant(folder)
            else {
                return Chosen { folder: folder.to_owned(), left };
            };
            left.push(format!("`{name}` is newer, and left: it is for {wanted}, and this is {me}"));
        }
        Chosen { folder: found.newest().to_owned(), left: Vec::new() }
    }

    /// Whether a bundle of that folder's name, or a later one of its stream, was imported before. Where something is damaged
    /// here, the last one is not: it may bring that again.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn is_known(&self, folder: &str) -> Result<bool, Error> {
        let Some((stream, seq)) = name::parse_folder(folder) else { return Ok(false) };
        let highest = self.highest(stream)?;
        Ok(highest > seq || (highest == seq && !self.is_lost(stream)? && self.store.damaged()?.is_empty()))
    }

    /// The folder's name of the newest bundle of that one's stream, where it is a later one and nothing of the stream is here
    /// any more: the data was reset, and no older one takes its place.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn lost_after(&self, folder: &str) -> Result<Option<String>, Error> {
        let Some((stream, seq)) = name::parse_folder(folder) else { return Ok(None) };
        let highest = self.highest(stream)?;
        Ok((highest > seq && self.is_lost(stream)?).then(|| name::folder(stream, highest)))
    }

    fn check_meant(&self, folder: &Path) -> Result<(), Error> {
        let chain = self.chain()?;
        let passed = self.passed(&chain)?;
        let manifest = signed(folder, chain, passed)?.manifest;
        Ok(manifest.check_audience(&self.me, &own_platform())?)
    }
}
