//! The roots that this machine believes, as files; which of them counts stands in `store.db`.
//!
//! A root's file is written before the transaction that raises the version, so a power cut leaves at most a
//! file that nothing points to.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::root::{LARGEST_ROOT, RoleName, Root, say_the_same};
use super::{KeyError, Refusal, Verified};
use crate::sys::durable;

/// Versions that are followed at once.
const MOST_ROOTS: u64 = 1000;

/// The folder of the pinned roots, such as `/var/lib/edge/trust/roots`.
#[derive(Clone, Debug)]
pub struct Anchor {
    folder: PathBuf,
}

/// The roots believed, the oldest first, without gaps; never empty.
#[derive(Clone, Debug)]
pub struct Chain {
    roots: Vec<Verified<Root>>,
    files: Vec<Vec<u8>>,
    current: Verified<Root>,
}

/// Why a chain cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// No root was ever pinned.
    #[error("no root is pinned hint: `edge trust pin 1.root.json` once, with the root of your depot")]
    NotPinned,
    /// What came is not believed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A file of the pinned roots cannot be read or written.
    #[error("the pinned roots: {0}")]
    Files(#[source] io::Error),
    /// The file of an enrolled gateway holds no key.
    #[error(
        "`{}`, the key of gateway `{gateway}`, is damaged hint: remove it, and enrol the gateway by a receipt from its own stick: `edge trust enrol`",
        .path.display()
    )]
    Enrolment {
        /// Which.
        gateway: String,
        /// The file.
        path: PathBuf,
    },
}

impl From<KeyError> for AnchorError {
    fn from(error: KeyError) -> Self {
        Self::Files(io::Error::other(error.to_string()))
    }
}

impl Anchor {
    /// Below the state folder.
    pub fn below(state_folder: &Path) -> Self {
        Self { folder: state_folder.join("trust/roots") }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The chain up to `version`, which `store.db` says is pinned.
    ///
    /// # Errors
    /// [`AnchorError::NotPinned`] where it says nothing.
    pub fn load(&self, version: Option<u64>) -> Result<Chain, AnchorError> {
        let version = version.filter(|v| *v > 0).ok_or(AnchorError::NotPinned)?;
        let mut first = version;
        while first > 1 && self.file(first - 1).exists() {
            first -= 1;
        }
        let mut chain = Chain::begin(self.read(first)?, &self.name(first))?;
        for next in first + 1..=version {
            chain.push(self.read(next)?, &self.name(next))?;
        }
        Ok(chain)
    }

    /// The newest version of which there is a file; `None` where there is none.
    ///
    /// # Errors
    /// [`AnchorError::Files`].
    pub fn newest(&self) -> Result<Option<u64>, AnchorError> {
        let failed = |e| AnchorError::Files(durable::named(e, "list", &self.folder));
        let mut newest = None;
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            newest = newest.max(name.to_str().and_then(version_of));
        }
        Ok(newest)
    }

    /// Pins a first root, called `what` in errors. The caller notes the version in the trust state when this has returned.
    ///
    /// # Errors
    /// [`Refusal::RootOther`] where a root is pinned already and this is another.
    pub fn pin(&self, bytes: &[u8], what: &str, pinned: Option<u64>) -> Result<u64, AnchorError> {
        let root = Verified::<Root>::pinned(bytes, what)?;
        if let Some(pinned) = pinned.filter(|v| *v > 0) {
            let known = self.load(Some(pinned))?;
            if known.agrees(root.version, bytes) == Some(true) {
                return Ok(pinned);
            }
            return Err(Refusal::RootOther { version: pinned, folder: self.folder.clone() }.into());
        }
        self.write(root.version, bytes)?;
        Ok(root.version)
    }

    /// Keeps the files of roots that `chain` has and this folder has not.
    ///
    /// # Errors
    /// [`AnchorError::Files`].
    pub fn keep(&self, chain: &Chain, above: u64) -> Result<(), AnchorError> {
        for (root, bytes) in chain.roots.iter().zip(&chain.files) {
            if root.version > above {
                self.write(root.version, bytes)?;
            }
        }
        Ok(())
    }

    fn write(&self, version: u64, bytes: &[u8]) -> Result<(), AnchorError> {
        durable::folder(&self.folder, 0o700).map_err(AnchorError::Files)?;
        durable::write(&self.file(version), bytes, 0o600).map_err(AnchorError::Files)
    }

    fn file(&self, version: u64) -> PathBuf {
        self.folder.join(file_name(version))
    }

    fn name(&self, version: u64) -> String {
        self.file(version).display().to_string()
    }

    fn read(&self, version: u64) -> Result<Vec<u8>, AnchorError> {
        let path = self.file(version);
        std::fs::read(&path).map_err(|e| AnchorError::Files(durable::named(e, "read", &path)))
    }
}

impl Chain {
    /// A chain of one root that a person vouches for, such as a depot's own.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn begin(bytes: Vec<u8>, what: &str) -> Result<Self, Refusal> {
        let root = Verified::<Root>::pinned(&bytes, what)?;
        Ok(Self { current: root.clone(), roots: vec![root], files: vec![bytes] })
    }

    /// Follows to the next version.
    ///
    /// # Errors
    /// [`Refusal`]; the chain is as it was then.
    pub fn push(&mut self, bytes: Vec<u8>, what: &str) -> Result<(), Refusal> {
        let next = self.current.next(&bytes, what)?;
        self.current = next.clone();
        self.roots.push(next);
        self.files.push(bytes);
        Ok(())
    }

    /// Follows as far as `root` (a version to its file's bytes, `None` where there is none) leads; `newest` is the
    /// highest version it has. Believes nothing of a chain that has a gap or another root in it.
    ///
    /// # Errors
    /// [`Refusal`], or what `root` said.
    pub fn follow<E: From<Refusal>>(
        &mut self,
        newest: u64,
        mut root: impl FnMut(u64) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        let pinned = self.current.version;
        if newest > pinned.saturating_add(MOST_ROOTS) {
            return Err(Refusal::RootOrder { pinned, found: newest }.into());
        }
        for version in pinned + 1..=newest {
            let bytes = root(version)?.ok_or(Refusal::RootOrder { pinned: version - 1, found: newest })?;
            self.push(bytes, &file_name(version))?;
        }
        Ok(())
    }

    /// The newest root.
    pub fn current(&self) -> &Verified<Root> {
        &self.current
    }

    /// The bytes of one version's file.
    pub fn file(&self, version: u64) -> Option<&[u8]> {
        let at = self.roots.iter().position(|root| root.version == version)?;
        Some(&self.files[at])
    }

    /// Whether `bytes` say what the root of `version` says; `None` where that version is not here. Signatures may differ: one
    /// more may be added to a root after it was published, and this one was believed with those that it had.
    pub fn agrees(&self, version: u64, bytes: &[u8]) -> Option<bool> {
        self.file(version).map(|ours| ours == bytes || say_the_same(ours, bytes))
    }

    /// All files by version, the oldest first.
    pub fn files(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.roots.iter().map(|root| root.version).zip(self.files.iter().map(Vec::as_slice))
    }

    /// Whether no bundle key of the newest root was one in any version up to `before`: whatever sequence numbers
    /// were accepted until then, nothing that bore them can be replayed.
    pub fn keys_are_new_since(&self, before: u64) -> bool {
        let now = &self.current.role(RoleName::Bundle).keys;
        let mut old: BTreeSet<&String> = BTreeSet::new();
        for root in self.roots.iter().filter(|root| root.version <= before) {
            old.extend(&root.role(RoleName::Bundle).keys);
        }
        self.current.version > before && now.is_disjoint(&old.into_iter().cloned().collect())
    }
}

/// `3.root.json`.
pub fn file_name(version: u64) -> String {
    format!("{version}.root.json")
}

/// The version that a file name bears.
pub fn version_of(name: &str) -> Option<u64> {
    let version: u64 = name.strip_suffix(".root.json")?.parse().ok()?;
    (file_name(version) == name).then_some(version)
}

/// Reads a root file, never more than a root can be.
///
/// # Errors
/// Where it cannot be read.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST_ROOT + 1).read_to_end(&mut bytes))
        .map_err(|e| durable::named(e, "read", path))?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
