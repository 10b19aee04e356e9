//! Repositories and refs that no rule wants any more.

use std::path::Path;

use super::GitRule;
use crate::git::{Error, KEPT, Repository, folder, is_name};
use crate::mirror::prune::Unwanted;
use crate::store::Store;

/// Removes what no rule wants any more, or only says what that is; and how many repositories and refs stay.
pub(in crate::mirror) fn prune(
    (state_dir, store): (&Path, &Store),
    rules: &[GitRule],
    dry: bool,
) -> Result<(Vec<Unwanted>, usize), Error> {
    let (mut gone, mut kept) = (Vec::new(), 0);
    for name in here(state_dir)? {
        let folder = folder(state_dir, &name);
        let Some(rule) = rules.iter().find(|rule| rule.name == name) else {
            let size = Repository::open(&folder).map_or(0, |known| known.objects.size());
            gone.push(Unwanted { kind: "git", name: format!("{name}.git"), size });
            if !dry {
                remove(&folder)?;
            }
            continue;
        };
        let mut known = if dry { Repository::open(&folder)? } else { Repository::open_to_change(&folder)? };
        let chooser = rule.chooser();
        let (stay, go): (Vec<_>, Vec<_>) = known
            .refs
            .clone()
            .into_iter()
            .partition(|(name, _)| !name.starts_with(KEPT) && chooser.wants(name));
        kept += 1;
        gone.extend(go.iter().map(|(name, _)| Unwanted {
            kind: "git-ref",
            name: format!("{} {name}", rule.title()),
            size: 0,
        }));
        // Also where an earlier one had no room for it.
        if !dry && (!go.is_empty() || known.is_half_packed()) {
            let head = super::choose_head(&stay.iter().cloned().collect(), None, &known.head);
            known.flip(stay.into_iter().collect(), &head)?;
            known.repack(super::room(store.clone()))?;
        }
    }
    Ok((gone, kept))
}

/// The names of all repositories here.
pub(in crate::mirror) fn here(state_dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(state_dir.join("git")) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::File)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let file = entry.map_err(Error::File)?.file_name();
        let name = file.to_str().and_then(|file| file.strip_suffix(".git"));
        names.extend(name.filter(|name| is_name(name)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// First its name goes, so that no half of it is ever served.
fn remove(folder: &Path) -> Result<(), Error> {
    let aside = folder.with_extension("removed");
    match std::fs::remove_dir_all(&aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::File(e)),
        _ => {}
    }
    std::fs::rename(folder, &aside).map_err(Error::File)?;
    std::fs::remove_dir_all(&aside).map_err(Error::File)
}
