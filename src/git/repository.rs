//! A bare repository: a folder with packs, and one file with all refs, which is replaced whole. So refs change in one
//! go, and a name of an upstream's is never a file's name here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gix_object::bstr::ByteSlice as _;

use super::{Error, Objects, Oid, oid, pack};
use crate::sys::{durable, failpoint};

/// Where branches are.
pub const BRANCHES: &str = "refs/heads/";
/// Where tags are.
pub const TAGS: &str = "refs/tags/";
/// Where what an upstream has replaced is kept.
pub const KEPT: &str = "refs/kept/";
/// Refs by name.
pub type Refs = BTreeMap<String, Oid>;

const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n";
const HEADER: &str = "# pack-refs with: sorted \n";

/// The folder of a repository.
pub fn folder(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join("git").join(format!("{name}.git"))
}

/// Whether this can be a repository's name: small letters, digits, `.`, `_` and `-`, at most 63, a letter or digit first.
pub fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    first && name.len() <= 63 && name.bytes().all(plain) && !name.ends_with(".git") && !name.contains("..")
}

/// Whether this can be a ref's name, below `refs/`.
pub fn is_ref(name: &str) -> bool {
    name.starts_with("refs/")
        && name.len() <= 1024
        && gix_validate::reference::name(name.as_bytes().as_bstr()).is_ok()
}

/// A repository as it was when it was opened.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Its folder.
    pub folder: PathBuf,
    /// All refs.
    pub refs: Refs,
    /// The branch that `HEAD` names, whether there is one of that name or not.
    pub head: String,
    /// Its objects.
    pub objects: Objects,
}

impl Repository {
    /// Opens one.
    ///
    /// # Errors
    /// [`Error::Absent`], [`Error::Damaged`], [`Error::File`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        match Self::read(folder, Objects::open) {
            Err(Error::Damaged { .. } | Error::File(_)) => {}
            other => return other,
        }
        // Packs may have been made one in between, or somebody was cut short at that.
        let here = Self::read(folder, Objects::open_whole)?;
        match here.refs.values().find(|id| !here.objects.has(id)) {
            Some(gone) => {
                let why = format!("object {gone} of a ref is gone");
                Err(Error::Damaged { path: packs(folder), why })
            }
            None => Ok(here),
        }
    }

    /// First the refs: all they need is among what is here afterwards.
    fn read(folder: &Path, objects: impl FnOnce(&Path) -> Result<Objects, Error>) -> Result<Self, Error> {
        let (refs, head) = read_refs(folder)?;
        Ok(Self { folder: folder.to_owned(), refs, head, objects: objects(&packs(folder))? })
    }

    /// Opens one, and makes it if there is none.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn open_or_create(folder: &Path) -> Result<Self, Error> {
        match Self::open(folder) {
            Err(Error::Absent(_)) => {}
            other => return other,
        }
        durable::folder(&folder.join("refs"), 0o700).map_err(Error::File)?;
        durable::folder(&packs(folder), 0o700).map_err(Error::File)?;
        durable::write(&folder.join("config"), CONFIG.as_bytes(), 0o600).map_err(Error::File)?;
        write_head(folder, &format!("{BRANCHES}main"))?;
        durable::write(&folder.join("packed-refs"), HEADER.as_bytes(), 0o600).map_err(Error::File)?;
        Self::open(folder)
    }

    /// A folder for a pack that comes, of its own.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn incoming(&self) -> Result<Incoming, Error> {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let incoming = Incoming(self.folder.join("objects/incoming").join(name));
        durable::folder(incoming.path(), 0o700).map_err(Error::File)?;
        Ok(incoming)
    }

    /// Lets a pack that was taken be one of the repository's. The refs are what they were.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn admit(&mut self, taken: &pack::Taken) -> Result<(), Error> {
        let Some(path) = &taken.pack else { return Ok(()) };
        // Whoever looks for packs looks for indexes: that comes last.
        for end in ["pack", "idx"] {
            let from = path.with_extension(end);
            let to = packs(&self.folder).join(from.file_name().unwrap_or_default());
            failpoint::pass("pack-rename");
            std::fs::rename(&from, &to).map_err(|e| Error::File(durable::named(e, "rename", &from)))?;
            durable::sync_folder_of(&to).map_err(Error::File)?;
        }
        self.objects = Objects::open(&packs(&self.folder))?;
        Ok(())
    }

    /// The objects here and those of a pack that was taken and is not admitted yet.
    ///
    /// # Errors
    /// [`Error`].
    pub fn with(&self, incoming: &Path) -> Result<Objects, Error> {
        Objects::open_both(&packs(&self.folder), incoming)
    }

    /// Changes all refs in one go, then `HEAD`.
    ///
    /// # Errors
    /// [`Error::Missing`] for a ref to what is not here; [`Error::Refused`] for a name that would not be read again;
    /// [`Error::File`].
    pub fn flip(&mut self, refs: Refs, head: &str) -> Result<(), Error> {
        if let Some(absent) = refs.values().find(|id| !self.objects.has(id)) {
            return Err(Error::Missing(*absent));
        }
        if let Some((name, id)) = refs.iter().find(|(name, _)| !is_ref(name)) {
            return Err(Error::Refused { id: *id, why: format!("`{}` is no ref", name.escape_debug()) });
        }
        let mut text = HEADER.to_owned();
        for (name, id) in &refs {
            text.push_str(&format!("{id} {name}\n"));
        }
        durable::write(&self.folder.join("packed-refs"), text.as_bytes(), 0o600).map_err(Error::File)?;
        self.refs = refs;
        if self.head != head {
            write_head(&self.folder, head)?;
            self.head = head.to_owned();
        }
        Ok(())
    }
}

/// A folder for a pack that comes; what is not admitted goes with it.
#[derive(Debug)]
pub struct Incoming(PathBuf);

impl Incoming {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, folder = %self.0.display(), "a pack that was given up is left behind");
        }
    }
}

pub(super) fn packs(folder: &Path) -> PathBuf {
    folder.join("objects/pack")
}

fn write_head(folder: &Path, branch: &str) -> Result<(), Error> {
    durable::write(&folder.join("HEAD"), format!("ref: {branch}\n").as_bytes(), 0o600).map_err(Error::File)
}

/// All refs, and the branch of `HEAD`, without opening a pack.
///
/// # Errors
/// As [`Repository::open`].
pub fn read_refs(folder: &Path) -> Result<(Refs, String), Error> {
    let path = folder.join("packed-refs");
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Error::Absent(folder.to_owned())),
        other => other.map_err(|e| Error::File(durable::named(e, "read", &path)))?,
    };
    let mut refs = Refs::new();
    for line in text.lines().filter(|line| !line.starts_with(['#', '^'])) {
        let parsed = line.split_once(' ').and_then(|(id, name)| Some((oid(id.as_bytes())?, name)));
        let Some((id, name)) = parsed.filter(|(_, name)| is_ref(name)) else {
            return Err(Error::Damaged { path, why: format!("`{line}` is no ref") });
        };
        refs.insert(name.to_owned(), id);
    }
    let path = folder.join("HEAD");
    let head = std::fs::read_to_string(&path).map_err(|e| Error::File(durable::named(e, "read", &path)))?;
    let head = head.trim_end().strip_prefix("ref: ").unwrap_or_default().to_owned();
    Ok((refs, head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_folder() {
        for good in ["config", "a", "team.app-1_x"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".a", "a/b", "A", "a.git", "-a", "a..b", "a b", "a\0", &"a".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
        for good in ["refs/heads/main", "refs/tags/v1.0", "refs/heads/a/b", "refs/heads/ä"] {
            assert!(is_ref(good), "{good}");
        }
        for bad in [
            "HEAD",
            "refs/heads/../x",
            "refs/heads/a b",
            "refs/heads/a\n",
            "refs/heads/.a",
            "refs/heads/a.lock",
        ] {
            assert!(!is_ref(bad), "{bad}");
        }
    }

    #[test]
    fn refs_to_what_is_not_here_are_refused_and_a_broken_file_is_named() {
        let state = tempfile::tempdir().unwrap();
        let folder = folder(state.path(), "config");
        assert!(matches!(Repository::open(&folder), Err(Error::Absent(_))));
        let mut made = Repository::open_or_create(&folder).unwrap();
        let refs = Refs::from([("refs/heads/main".to_owned(), oid(&[b'1'; 40]).unwrap())]);
        assert!(matches!(made.flip(refs, "refs/heads/main"), Err(Error::Missing(_))));
        assert!(Repository::open(&folder).unwrap().refs.is_empty());
        durable::write(&folder.join("packed-refs"), b"x refs/heads/main\n", 0o600).unwrap();
        let error = Repository::open(&folder).unwrap_err().to_string();
        assert!(error.contains("packed-refs` is damaged: `x refs/heads/main` is no ref hint:"), "{error}");
    }
}
