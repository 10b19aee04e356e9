//! What hangs on what: commits on their parents, trees on what they list, tags on what they name; which of it a client
//! lacks; and whether all of it is here and harms nobody who checks it out.

use std::collections::{BTreeSet, HashMap, HashSet};

use gix_object::bstr::ByteSlice as _;
use gix_object::tree::EntryRef;
use gix_object::{CommitRefIter, TagRefIter, TreeRefIter};
use gix_validate::path::component;

use super::{Error, Kind, Oid, Reader};

/// The deepest that tags may name tags.
const TAGS: usize = 8;

/// A commit, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The tree that it holds.
    pub tree: Oid,
    /// The commits before it.
    pub parents: Vec<Oid>,
    /// When it was made, in seconds since 1970.
    pub time: i64,
}

/// Reads a commit.
///
/// # Errors
/// [`Error`], also for an object that is none.
pub fn commit(reader: &mut Reader, id: &Oid) -> Result<Commit, Error> {
    let (kind, data) = reader.read(id)?;
    let refused = |why: String| Error::Refused { id: *id, why };
    if kind != Kind::Commit {
        return Err(refused(format!("it is a {kind}, where a commit should be")));
    }
    let mut parsed = CommitRefIter::from_bytes(data, gix_hash::Kind::Sha1);
    let tree = parsed.tree_id().map_err(|e| refused(e.to_string()))?;
    let time = parsed.committer().ok().map_or(0, |by| by.seconds());
    Ok(Commit { tree, parents: parsed.parent_ids().collect(), time })
}

/// What a tag stands for in the end, and the tags on the way there.
///
/// # Errors
/// [`Error`].
pub fn peel(reader: &mut Reader, id: &Oid) -> Result<(Vec<Oid>, Oid, Kind), Error> {
    let (mut tags, mut at) = (Vec::new(), *id);
    loop {
        let (kind, data) = reader.read(&at)?;
        if kind != Kind::Tag {
            return Ok((tags, at, kind));
        }
        let refused = |why: String| Error::Refused { id: at, why };
        let target = TagRefIter::from_bytes(data, gix_hash::Kind::Sha1).target_id();
        let target = target.map_err(|e| refused(e.to_string()))?;
        if tags.len() == TAGS {
            return Err(refused("tags name one another too deep".into()));
        }
        tags.push(at);
        at = target;
    }
}

/// Which objects a client asks for, and which it has.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// What is wanted: commits, tags, or anything else.
    pub wants: Vec<Oid>,
    /// What the client has all of, but for what its shallow commits hang on.
    pub haves: Vec<Oid>,
    /// Commits that the client has without their parents.
    pub client_shallow: HashSet<Oid>,
    /// Commits that are to come without their parents.
    pub shallow: HashSet<Oid>,
    /// Leave files out.
    pub without_blobs: bool,
}

/// What was seen. A hostile tree may call a folder a file: that it was seen as the one says nothing about the other.
#[derive(Default)]
struct Seen {
    trees: HashSet<Oid>,
    others: HashSet<Oid>,
}

/// The objects that answer `ask`, each once, commits first.
///
/// # Errors
/// [`Error`].
pub fn objects(reader: &mut Reader, ask: &Ask) -> Result<Vec<Oid>, Error> {
    let blobs = if ask.without_blobs { Blobs::Left } else { Blobs::Listed };
    collect(reader, ask, (blobs, Names::Taken))
}

fn collect(reader: &mut Reader, ask: &Ask, how: (Blobs, Names)) -> Result<Vec<Oid>, Error> {
    let mut found = Vec::new();
    let mut seen = Seen::default();
    let mut known: HashSet<Oid> = HashSet::new();
    let mut edges: BTreeSet<Oid> = BTreeSet::new();
    let mut tips = Vec::new();
    for have in &ask.haves {
        let (tags, target, kind) = peel(reader, have)?;
        seen.others.extend(tags);
        match kind {
            Kind::Commit => tips.push(target),
            Kind::Tree => drop(edges.insert(target)),
            _ => drop(seen.others.insert(target)),
        }
    }
    ancestors(reader, &tips, &ask.client_shallow, &mut known, |_, _| true)?;
    let (mut starts, mut trees) = (Vec::new(), Vec::new());
    for want in &ask.wants {
        let (tags, target, kind) = peel(reader, want)?;
        found.extend(tags.into_iter().filter(|tag| seen.others.insert(*tag)));
        match kind {
            Kind::Commit => starts.push(target),
            Kind::Tree => trees.push(target),
            _ if seen.others.insert(target) => found.push(target),
            _ => {}
        }
    }
    let mut walked = known.clone();
    ancestors(reader, &starts, &ask.shallow, &mut walked, |id, commit| {
        found.push(id);
        trees.push(commit.tree);
        edges.extend(commit.parents.iter().filter(|parent| known.contains(*parent)));
        true
    })?;
    // What the client has of the commits next to those that it lacks need not travel.
    edges.extend(tips);
    for edge in edges {
        let tree = match reader.read(&edge)?.0 {
            Kind::Commit => commit(reader, &edge)?.tree,
            _ => edge,
        };
        self::trees(reader, tree, (Blobs::Listed, Names::Taken), &mut seen, |_| {})?;
    }
    for tree in trees {
        self::trees(reader, tree, how, &mut seen, |id| found.push(id))?;
    }
    Ok(found)
}

/// Visits commits that hang on `tips` and are not `seen`; stops at those in `stop`, and where `visit` says so.
pub(super) fn ancestors(
    reader: &mut Reader,
    tips: &[Oid],
    stop: &HashSet<Oid>,
    seen: &mut HashSet<Oid>,
    mut visit: impl FnMut(Oid, &Commit) -> bool,
) -> Result<(), Error> {
    // Noted before it waits: a commit may name another as its parent many times.
    let mut stack: Vec<Oid> = tips.iter().rev().filter(|tip| seen.insert(**tip)).copied().collect();
    while let Some(id) = stack.pop() {
        let commit = commit(reader, &id)?;
        if visit(id, &commit) && !stop.contains(&id) {
            stack.extend(commit.parents.iter().filter(|parent| seen.insert(**parent)));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Blobs {
    Listed,
    Left,
}

/// Whether file names are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Taken,
    Checked,
}

/// Visits a tree and all below it that is not `seen`.
fn trees(
    reader: &mut Reader,
    tree: Oid,
    how: (Blobs, Names),
    seen: &mut Seen,
    mut visit: impl FnMut(Oid),
) -> Result<(), Error> {
    if !seen.trees.insert(tree) {
        return Ok(());
    }
    if !seen.others.contains(&tree) {
        visit(tree);
    }
    let mut stack = vec![tree];
    while let Some(id) = stack.pop() {
        let (kind, data) = reader.read(&id)?;
        let refused = |why: String| Error::Refused { id, why };
        if kind != Kind::Tree {
            return Err(refused(format!("it is a {kind}, where a tree should be")));
        }
        let (below, files) = listed(data, how, seen, &mut visit).map_err(refused)?;
        stack.extend(below);
        for file in files.iter().filter(|_| how.1 == Names::Checked) {
            match reader.kind(file)? {
                Kind::Blob => {}
                kind => return Err(refused(format!("{file} is a {kind}, where a file should be"))),
            }
        }
    }
    Ok(())
}

/// Visits the trees and files that a tree lists and that are not `seen`, and says which those are. They are noted
/// before they wait: a tree may list another a million times.
fn listed(
    tree: &[u8],
    (blobs, names): (Blobs, Names),
    seen: &mut Seen,
    visit: &mut impl FnMut(Oid),
) -> Result<(Vec<Oid>, Vec<Oid>), String> {
    let (mut below, mut files) = (Vec::new(), Vec::new());
    for entry in TreeRefIter::from_bytes(tree, gix_hash::Kind::Sha1) {
        let entry = entry.map_err(|e| e.to_string())?;
        if names == Names::Checked {
            harmless(&entry)?;
        }
        let child = entry.oid.to_owned();
        match entry.mode.is_tree() {
            true if !seen.trees.insert(child) => {}
            true => {
                below.push(child);
                if !seen.others.contains(&child) {
                    visit(child);
                }
            }
            // Another repository's commit is never here.
            false if entry.mode.is_commit() || blobs == Blobs::Left => {}
            false if !seen.others.insert(child) => {}
            false => {
                files.push(child);
                if !seen.trees.contains(&child) {
                    visit(child);
                }
            }
        }
    }
    Ok((below, files))
}

/// Whether one of `goals` hangs on `tip`, or is it.
///
/// # Errors
/// [`Error`].
pub fn reaches(reader: &mut Reader, tip: &Oid, goals: &HashSet<Oid>) -> Result<bool, Error> {
    let (_, target, kind) = peel(reader, tip)?;
    if goals.contains(tip) || goals.contains(&target) || kind != Kind::Commit {
        return Ok(goals.contains(tip) || goals.contains(&target));
    }
    let (mut found, mut seen) = (false, HashSet::new());
    ancestors(reader, &[target], &HashSet::new(), &mut seen, |id, _| {
        found |= goals.contains(&id);
        !found
    })?;
    Ok(found)
}

/// Whether each of `tips` has one of `goals` behind it, or a commit that an earlier one came by on its way to one: near
/// enough to know whether a pack will be small, and no commit is read twice.
///
/// # Errors
/// [`Error`].
pub fn all_reach(reader: &mut Reader, tips: &[Oid], goals: &HashSet<Oid>) -> Result<bool, Error> {
    let mut seen: HashMap<Oid, usize> = HashMap::new();
    for (number, tip) in tips.iter().enumerate() {
        let (_, target, kind) = peel(reader, tip)?;
        let mut found = goals.contains(tip) || goals.contains(&target);
        let mut stack = vec![target];
        while let (false, Kind::Commit, Some(id)) = (found, kind, stack.pop()) {
            match seen.insert(id, number) {
                Some(before) if before != number => found = true,
                Some(_) => {}
                None if goals.contains(&id) => found = true,
                None => stack
                    .extend(commit(reader, &id)?.parents.iter().filter(|p| seen.get(*p) != Some(&number))),
            }
        }
        if !found {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Checks all that hangs on `tips` and not on `known`, of which that is known: whether it is here, is what it should
/// be, and has no names that would harm a checkout.
///
/// # Errors
/// The first object that does not pass.
pub fn check(reader: &mut Reader, tips: &[Oid], known: &[Oid]) -> Result<usize, Error> {
    let ask = Ask { wants: tips.to_vec(), haves: known.to_vec(), ..Ask::default() };
    let found = collect(reader, &ask, (Blobs::Listed, Names::Checked))?;
    match found.iter().find(|id| !reader.has(id)) {
        Some(absent) => Err(Error::Missing(*absent)),
        None => Ok(found.len()),
    }
}

/// A name that git itself would not write into a working folder.
fn harmless(entry: &EntryRef<'_>) -> Result<(), String> {
    let mode = entry.mode.is_link().then_some(component::Mode::Symlink);
    let options = component::Options { protect_windows: false, ..component::Options::default() };
    let checked = gix_validate::path::component(entry.filename.as_bstr(), mode, options);
    checked
        .map(drop)
        .map_err(|why| format!("it has the file name `{}`: {why}", entry.filename.as_bytes().escape_ascii()))
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
