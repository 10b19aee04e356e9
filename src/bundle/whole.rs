//! What is here of an image, and whether that is enough to run it: a name that a client only looked at, through a
//! registry that pulls through, has its manifest here and no layers.

use std::collections::BTreeMap;

use super::facts::{chosen, runs};
use super::{Error, Fault};
use crate::oci::{ParsedManifest, Platform, media};
use crate::store::Store;
use crate::sys::digest::Digest;

/// A manifest that goes in, with its bytes' size and its blobs with theirs.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) blobs: Vec<(Digest, u64)>,
}

/// An image as it is here.
#[derive(Debug)]
pub(super) struct Found {
    /// The media type of the manifest at the top.
    pub(super) media_type: String,
    /// What of it is whole: the manifest at the top first, and nothing where that is not.
    pub(super) pieces: Vec<Piece>,
    /// Manifests of images that are here and not whole, each with the first thing that it lacks.
    pub(super) partial: Vec<(Digest, Digest)>,
    /// Whether an index has nothing whole here for the platforms that were asked for.
    pub(super) lacks: bool,
}

/// A manifest that was met on the way down.
struct Met {
    piece: Piece,
    parsed: ParsedManifest,
    /// The first blob that is not here.
    missing: Option<Digest>,
}

/// Looks at all that `platforms` need of an image, every platform where none is given.
///
/// # Errors
/// [`Fault::Image`] for a manifest that is none.
pub(super) fn find(store: &Store, top: &Digest, platforms: &[Platform]) -> Result<Found, Error> {
    let mut met: Vec<Met> = Vec::new();
    let mut places: BTreeMap<Digest, usize> = BTreeMap::new();
    let mut waiting = vec![top.clone()];
    while let Some(digest) = waiting.pop() {
        if places.contains_key(&digest) {
            continue;
        }
        let blob = match store.glance(&digest)? {
            Some(blob) => blob,
            // A child that is not here was left out before, by a mirror's platforms.
            None => continue,
        };
        let parsed = ParsedManifest::parse(&blob.read()?, "")
            .map_err(|e| Fault::Image { digest: digest.clone(), why: e.to_string() })?;
        let (mut blobs, mut missing) = (Vec::new(), None);
        for child in parsed.blobs() {
            match store.glance(&child.digest)? {
                Some(blob) => blobs.push((child.digest.clone(), blob.size)),
                None => drop(missing.get_or_insert_with(|| child.digest.clone())),
            }
        }
        waiting.extend(chosen(&parsed, platforms).into_iter().map(|child| child.digest.clone()));
        places.insert(digest.clone(), met.len());
        met.push(Met { piece: Piece { digest, size: blob.size, blobs }, parsed, missing });
    }
    let mut found = judge(met, &places, platforms);
    if places.is_empty() {
        found.partial.push((top.clone(), top.clone()));
    }
    Ok(found)
}

/// What of the manifests that were met is whole. A digest names what was there before it, so that nothing is below
/// itself; one may be below several, and is met before some of them.
fn judge(met: Vec<Met>, places: &BTreeMap<Digest, usize>, platforms: &[Platform]) -> Found {
    let mut found = Found {
        media_type: met
            .first()
            .map_or_else(|| media::OCI_MANIFEST.to_owned(), |top| top.parsed.media_type.clone()),
        pieces: Vec::new(),
        partial: Vec::new(),
        lacks: false,
    };
    // From the bottom up: which are whole.
    let mut verdicts: Vec<Option<bool>> = vec![None; met.len()];
    let mut stack: Vec<usize> = (0..met.len()).collect();
    while let Some(&at) = stack.last() {
        if verdicts[at].is_some() {
            stack.pop();
            continue;
        }
        let below = below(&met[at], places, platforms);
        let open: Vec<usize> = below.iter().copied().filter(|child| verdicts[*child].is_none()).collect();
        if !open.is_empty() {
            stack.extend(open);
            continue;
        }
        // An index is for those of its images that are here; one that has none of them is a list of nothing.
        let listed = !met[at].parsed.manifests.is_empty();
        let any = below.iter().any(|child| verdicts[*child] == Some(true));
        let other =
            !platforms.is_empty() && met[at].parsed.manifests.iter().any(|child| child.platform.is_some());
        verdicts[at] = Some(met[at].missing.is_none() && (!listed || any || other));
        stack.pop();
    }
    // From the top down: what of that is reached.
    let (mut names_platforms, mut is_one_here) = (false, false);
    let mut reached = vec![false; met.len()];
    let mut waiting = if met.is_empty() { Vec::new() } else { vec![0] };
    while let Some(at) = waiting.pop() {
        if std::mem::replace(&mut reached[at], true) {
            continue;
        }
        if verdicts[at] != Some(true) {
            let lacking = met[at]
                .missing
                .clone()
                .or_else(|| met[at].parsed.manifests.first().map(|child| child.digest.clone()));
            found.partial.extend(lacking.map(|lacking| (met[at].piece.digest.clone(), lacking)));
            continue;
        }
        let parsed = &met[at].parsed;
        names_platforms |= parsed.manifests.iter().any(|child| child.platform.is_some());
        // An attestation is of no platform, and no image.
        is_one_here |= chosen(parsed, platforms).into_iter().any(|child| {
            let whole = places.get(&child.digest).is_some_and(|at| verdicts[*at] == Some(true));
            whole && child.platform.as_ref().is_some_and(|theirs| runs(platforms, theirs))
        });
        waiting.extend(below(&met[at], places, platforms));
    }
    found.lacks = !platforms.is_empty() && names_platforms && !is_one_here;
    let whole = |at: usize| reached[at] && verdicts[at] == Some(true);
    found.pieces =
        met.into_iter().enumerate().filter(|(at, _)| whole(*at)).map(|(_, met)| met.piece).collect();
    found
}

/// The places of what is here below a manifest.
fn below(met: &Met, places: &BTreeMap<Digest, usize>, platforms: &[Platform]) -> Vec<usize> {
    let children = chosen(&met.parsed, platforms).into_iter();
    children.filter_map(|child| places.get(&child.digest).copied()).collect()
}
