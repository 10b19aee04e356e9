//! Repositories and refs that no rule wants any more.

use std::path::{Path, PathBuf};

use super::GitRule;
use crate::git::{Error, KEPT, Repository, folder, is_name};
use crate::mirror::prune::{Unpruned, Unwanted};
use crate::store::Store;

/// What a removed repository's folder is called until it is gone.
const REMOVED: &str = "removed";

/// What became of repositories.
#[derive(Default)]
pub(in crate::mirror) struct Left {
    /// What goes, or went.
    pub(in crate::mirror) gone: Vec<Unwanted>,
    /// How many repositories stay.
    pub(in crate::mirror) kept: usize,
    /// What could not be looked at or removed; the others were.
    pub(in crate::mirror) failed: Vec<Unpruned>,
}

/// Removes what no rule wants any more, or only says what that is.
pub(in crate::mirror) fn prune(
    (state_dir, store): (&Path, &Store),
    rules: &[GitRule],
    dry: bool,
) -> Result<Left, Error> {
    let mut left = Left::default();
    for half in half_removed(state_dir)? {
        let name = half.file_stem().unwrap_or_default().to_string_lossy();
        let unwanted = Unwanted { kind: "git", name: format!("{name}.git"), size: size(&half) };
        left.note(unwanted, if dry { Ok(()) } else { erase(&half) });
    }
    for name in here(state_dir)? {
        let folder = folder(state_dir, &name);
        if let Some(rule) = rules.iter().find(|rule| rule.name == name) {
            left.kept += 1;
            match refs(&folder, rule, store, dry) {
                Ok(gone) => left.gone.extend(gone),
                Err(error) => left.failed.push(Unpruned { name: rule.title(), why: error.to_string() }),
            }
            continue;
        }
        let size = Repository::open(&folder).map_or_else(|_| size(&folder), |known| known.objects.size());
        let unwanted = Unwanted { kind: "git", name: format!("{name}.git"), size };
        left.note(unwanted, if dry { Ok(()) } else { remove(&folder) });
    }
    Ok(left)
}

impl Left {
    fn note(&mut self, unwanted: Unwanted, removed: Result<(), Error>) {
        match removed {
            Ok(()) => self.gone.push(unwanted),
            Err(error) => self.failed.push(Unpruned { name: unwanted.name, why: error.to_string() }),
        }
    }
}

/// The refs of a repository that its rule does not want any more, which go, and their objects with them; its packs, where
/// they hold what no ref needs.
fn refs(folder: &Path, rule: &GitRule, store: &Store, dry: bool) -> Result<Vec<Unwanted>, Error> {
    let mut known = if dry { Repository::open(folder)? } else { Repository::open_to_change(folder)? };
    let chooser = rule.chooser();
    let (stay, go): (Vec<_>, Vec<_>) =
        known.refs.clone().into_iter().partition(|(name, _)| !name.starts_with(KEPT) && chooser.wants(name));
    // Also where an earlier one had no room for it.
    let half_packed = known.is_half_packed();
    if !dry && (!go.is_empty() || half_packed) {
        let head = super::choose_head(&stay.iter().cloned().collect(), None, &known.head);
        known.flip(stay.into_iter().collect(), &head)?;
        known.repack(super::room(store.clone()))?;
    }
    let unwanted =
        |name: &String| Unwanted { kind: "git-ref", name: format!("{} {name}", rule.title()), size: 0 };
    let mut gone: Vec<Unwanted> = go.iter().map(|(name, _)| unwanted(name)).collect();
    if gone.is_empty() && half_packed {
        gone.push(Unwanted { kind: "git-packs", name: format!("{} packs", rule.title()), size: 0 });
    }
    Ok(gone)
}

/// The names of all repositories here.
pub(in crate::mirror) fn here(state_dir: &Path) -> Result<Vec<String>, Error> {
    let files = files(state_dir)?;
    let name = |path: &PathBuf| path.file_name()?.to_str()?.strip_suffix(".git").map(str::to_owned);
    let mut names: Vec<String> = files.iter().filter_map(name).filter(|name| is_name(name)).collect();
    names.sort();
    Ok(names)
}

/// Folders of repositories whose removal was cut short.
fn half_removed(state_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = files(state_dir)?;
    files.retain(|path| path.extension().is_some_and(|end| end == REMOVED));
    Ok(files)
}

fn files(state_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match std::fs::read_dir(state_dir.join("git")) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::File)?,
    };
    entries.map(|entry| Ok(entry.map_err(Error::File)?.path())).collect()
}

/// Bytes of all files below a folder, as far as they can be seen.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

/// First its name goes, so that no half of it is ever served.
fn remove(folder: &Path) -> Result<(), Error> {
    let aside = folder.with_extension(REMOVED);
    erase(&aside)?;
    std::fs::rename(folder, &aside).map_err(Error::File)?;
    erase(&aside)
}

fn erase(folder: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File(crate::sys::durable::named(e, "remove", folder)))
        }
        _ => Ok(()),
    }
}
