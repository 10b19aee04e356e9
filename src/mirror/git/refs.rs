//! What becomes of refs when an upstream's have changed: nothing that was here is lost by it. Pure.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::git::{BRANCHES, KEPT, Oid, Refs, TAGS};

/// What became of a ref.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turn {
    /// It was not here.
    New,
    /// A branch went on.
    Moved,
    /// It is another one upstream, without the old one: that is kept under another name.
    Replaced,
    /// Upstream has it no more; it stays.
    Gone,
}

/// A ref that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Its name.
    #[serde(rename = "ref")]
    pub name: String,
    /// What became of it.
    pub turn: Turn,
    /// What was here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What is upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The name that what was here has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
}

/// The refs to have, and what changes. `upstream` are those that are wanted; `goes_on` says whether the second of two
/// commits has the first behind it.
pub(super) fn turn(
    here: &Refs,
    upstream: &Refs,
    mut goes_on: impl FnMut(&Oid, &Oid) -> bool,
) -> (Refs, Vec<Change>) {
    let (mut next, mut changes) = (here.clone(), Vec::new());
    for (name, to) in upstream {
        let from = here.get(name);
        let mut change = Change {
            name: name.clone(),
            turn: Turn::New,
            from: from.map(ToString::to_string),
            to: Some(to.to_string()),
            kept: None,
        };
        match from {
            Some(from) if from == to => continue,
            Some(from) if name.starts_with(BRANCHES) && goes_on(from, to) => change.turn = Turn::Moved,
            Some(from) => {
                change.turn = Turn::Replaced;
                change.kept = Some(keep(&mut next, name, from));
            }
            None => {}
        }
        next.insert(name.clone(), *to);
        changes.push(change);
    }
    let folders: BTreeSet<&str> = upstream.keys().flat_map(|name| folders(name)).collect();
    for (name, from) in
        here.iter().filter(|(name, _)| !name.starts_with(KEPT) && !upstream.contains_key(*name))
    {
        // `a` and `a/b` cannot both be in a clone: the one that upstream still has goes before.
        let clash =
            folders.contains(name.as_str()) || self::folders(name).any(|above| upstream.contains_key(above));
        let kept = clash.then(|| {
            next.remove(name);
            keep(&mut next, name, from)
        });
        let from = Some(from.to_string());
        changes.push(Change { name: name.clone(), turn: Turn::Gone, from, to: None, kept });
    }
    (next, changes)
}

/// The names above a ref's, `refs/heads/a` of `refs/heads/a/b`.
fn folders(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').skip(2).map(move |(at, _)| &name[..at])
}

/// Gives what was here a name that no upstream has.
fn keep(refs: &mut Refs, name: &str, id: &Oid) -> String {
    let short = name.strip_prefix("refs/").unwrap_or(name);
    let kept = format!("{KEPT}{}/{}", short.replace('/', "-"), &id.to_string()[..12]);
    refs.insert(kept.clone(), *id);
    kept
}

/// The longest name that an upstream may give, in bytes: one that is kept becomes longer.
const LONGEST: usize = 900;

/// Whether a name is one that an upstream may give.
pub(super) fn is_theirs(name: &str) -> bool {
    (name.starts_with(BRANCHES) || name.starts_with(TAGS))
        && name.len() <= LONGEST
        && crate::git::is_ref(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: u8) -> Oid {
        crate::git::oid(&[digit; 40]).unwrap()
    }

    fn refs(all: &[(&str, u8)]) -> Refs {
        all.iter().map(|(name, digit)| ((*name).to_owned(), id(*digit))).collect()
    }

    #[test]
    fn nothing_that_was_here_is_lost_by_what_upstream_says() {
        let here = refs(&[
            ("refs/heads/main", b'1'),
            ("refs/heads/dev", b'1'),
            ("refs/heads/gone", b'2'),
            ("refs/heads/a", b'3'),
            ("refs/tags/v1", b'4'),
            ("refs/tags/old", b'5'),
            ("refs/kept/heads-x/111111111111", b'1'),
        ]);
        let upstream = refs(&[
            ("refs/heads/main", b'6'),
            ("refs/heads/dev", b'7'),
            ("refs/heads/a/b", b'8'),
            ("refs/tags/v1", b'9'),
            ("refs/heads/new", b'6'),
        ]);
        let (next, changes) = turn(&here, &upstream, |_, to| *to == id(b'6'));
        let said: Vec<_> = changes.iter().map(|c| (c.name.as_str(), c.turn, c.kept.as_deref())).collect();
        assert_eq!(
            said,
            [
                ("refs/heads/a/b", Turn::New, None),
                ("refs/heads/dev", Turn::Replaced, Some("refs/kept/heads-dev/111111111111")),
                ("refs/heads/main", Turn::Moved, None),
                ("refs/heads/new", Turn::New, None),
                ("refs/tags/v1", Turn::Replaced, Some("refs/kept/tags-v1/444444444444")),
                ("refs/heads/a", Turn::Gone, Some("refs/kept/heads-a/333333333333")),
                ("refs/heads/gone", Turn::Gone, None),
                ("refs/tags/old", Turn::Gone, None),
            ]
        );
        for id in here.values() {
            assert!(next.values().any(|kept| kept == id || *id == self::id(b'1')), "{id} is lost");
        }
        assert_eq!(next["refs/heads/main"], id(b'6'));
        assert_eq!((next.get("refs/heads/a"), next["refs/heads/gone"]), (None, id(b'2')));
        assert_eq!(turn(&next, &next, |_, _| false).1, []);
    }

    #[test]
    fn only_branches_and_tags_with_proper_names_are_taken() {
        for (name, taken) in [
            ("refs/heads/main", true),
            ("refs/tags/v1", true),
            ("refs/pull/1/head", false),
            ("refs/kept/x", false),
            ("HEAD", false),
            ("refs/heads/../../x", false),
            ("refs/heads/a\nb", false),
        ] {
            assert_eq!(is_theirs(name), taken, "{name}");
        }
        let long = |length: usize| format!("{BRANCHES}{}", "a".repeat(length - BRANCHES.len()));
        assert_eq!([LONGEST, LONGEST + 1].map(|length| is_theirs(&long(length))), [true, false]);
        let kept = keep(&mut Refs::new(), &long(LONGEST), &id(b'1'));
        assert!(crate::git::is_ref(&kept), "{} bytes", kept.len());
    }
}
