//! Where history is cut for a client that does not want all of it.

use std::collections::{HashMap, HashSet};

use super::walk::{ancestors, commit, peel};
use super::{Error, Kind, Oid, Reader};

/// How far a client's history is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// So many commits from what is wanted.
    Commits(u32),
    /// So many more than the client has.
    More(u32),
    /// Commits since then, in seconds since 1970.
    Since(i64),
}

/// Where history is cut: commits that from now on have no parents at the client, and those that get theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Without their parents.
    pub shallow: Vec<Oid>,
    /// The client had them without, and gets their parents.
    pub unshallow: Vec<Oid>,
}

/// Cuts history. Commits that a client has of other repositories say nothing here.
///
/// # Errors
/// [`Error`]; [`Error::Pack`] where all is older than what is asked for: git refuses that too, with these words.
pub fn cut(
    reader: &mut Reader,
    wants: &[Oid],
    client_shallow: &HashSet<Oid>,
    depth: Depth,
) -> Result<Cut, Error> {
    let mut tips = Vec::new();
    for want in wants {
        if let (_, target, Kind::Commit) = peel(reader, want)? {
            tips.push(target);
        }
    }
    let mut cut = Cut::default();
    let mut open: HashSet<Oid> = HashSet::new();
    if let Depth::Since(since) = depth {
        let mut seen = HashSet::new();
        let mut times = HashMap::new();
        ancestors(reader, &tips, &HashSet::new(), &mut seen, |id, commit| {
            times.insert(id, (commit.time, commit.parents.clone()));
            commit.time >= since
        })?;
        let late = |id: &Oid| times.get(id).is_some_and(|(time, _)| *time >= since);
        if !times.is_empty() && !times.keys().any(late) {
            return Err(Error::Pack("no commits selected for shallow requests".into()));
        }
        for (id, (_, parents)) in times.iter().filter(|(id, _)| late(id)) {
            if parents.iter().all(late) {
                open.insert(*id);
            } else {
                cut.shallow.push(*id);
            }
        }
    } else {
        // Breadth first: a commit counts by the shortest way to it.
        let (mut level, left) = match depth {
            Depth::More(more) => {
                let known = client_shallow.iter().filter(|id| reader.has(id)).copied();
                (known.collect(), more.saturating_add(1))
            }
            Depth::Commits(most) => (tips, most),
            Depth::Since(_) => (Vec::new(), 0),
        };
        let mut seen: HashSet<Oid> = level.iter().copied().collect();
        let mut count = 1;
        while !level.is_empty() {
            let mut next = Vec::new();
            for id in &level {
                let parents = commit(reader, id)?.parents;
                if count >= left && !parents.is_empty() {
                    cut.shallow.push(*id);
                    continue;
                }
                open.insert(*id);
                next.extend(parents.into_iter().filter(|parent| seen.insert(*parent)));
            }
            (level, count) = (next, count.saturating_add(1));
        }
    }
    cut.unshallow = client_shallow.iter().filter(|id| open.contains(*id)).copied().collect();
    cut.shallow.sort();
    cut.unshallow.sort();
    Ok(cut)
}
