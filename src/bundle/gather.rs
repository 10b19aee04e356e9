//! What goes into a bundle: the refs that were asked for, and all blobs that they need.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::list::{Content, RefLine};
use super::names::{Found, Names};
use super::ride::Riding;
use super::system::SystemPart;
use super::{Error, ride, whole};
use crate::oci::{ParsedManifest, Platform, Reference};
use crate::store::{Chart, Ref, Store};
use crate::sys::digest::{Algorithm, Digest};

/// What is asked for. Nothing at all is everything that the store has.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Images, as people write them.
    pub images: Vec<String>,
    /// Charts, `NAME[:VERSION]`; without a version, all that are here.
    pub charts: Vec<String>,
    /// Files that ride along.
    pub files: Vec<Riding>,
    /// Platforms whose images are taken from indexes; all of them if empty.
    pub platforms: Vec<Platform>,
    /// The folder of an appliance's system that rides along.
    pub system: Option<PathBuf>,
}

/// What was gathered.
#[derive(Debug)]
pub struct Gathered {
    /// Lines of `refs.list`, and what other tools call their manifests.
    pub names: Names,
    /// Every blob that the refs need, in the order of digests.
    pub blobs: BTreeMap<Key, Fact>,
    /// Blobs that are not in the store: files, and the manifests made for them.
    pub sources: BTreeMap<Key, Source>,
    /// The system that rides along.
    pub system: Option<SystemPart>,
    /// A line for each image that is left out, or of which no platform that was asked for is here.
    pub lacking: Vec<String>,
    /// Those of them that say what was left out.
    left_out: BTreeSet<String>,
    /// The artifacts of files that ride along, by the files' names.
    pub riding: BTreeMap<String, Digest>,
}

/// How an image came to go in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// Somebody named it, and waits for it.
    Singly,
    /// With all else that is here, or with what it is about.
    AmongOthers,
}

/// A digest in as little memory as it takes: there may be 100,000. Ordered as the text is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-512.
    Sha512(Box<[u8; 64]>),
}

/// What is known of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: Content,
}

/// Where a blob's bytes come from, if not from the store.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    Path(PathBuf),
    /// Made here.
    Bytes(Vec<u8>),
}

impl Key {
    /// Of a digest.
    pub fn of(digest: &Digest) -> Self {
        let hex = digest.hex().as_bytes();
        let nibble =
            |b: u8| if b.is_ascii_digit() { b - b'0' } else { b.wrapping_sub(b'a').wrapping_add(10) };
        let fill = |into: &mut [u8]| {
            for (byte, pair) in into.iter_mut().zip(hex.chunks(2)) {
                *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
            }
        };
        match digest.algorithm() {
            Algorithm::Sha256 => {
                let mut bytes = [0; 32];
                fill(&mut bytes);
                Self::Sha256(bytes)
            }
            Algorithm::Sha512 => {
                let mut bytes = Box::new([0; 64]);
                fill(&mut bytes[..]);
                Self::Sha512(bytes)
            }
        }
    }

    /// The digest, or `None` for what cannot be.
    pub fn digest(&self) -> Option<Digest> {
        let (name, bytes): (&str, &[u8]) = match self {
            Self::Sha256(bytes) => ("sha256", bytes),
            Self::Sha512(bytes) => ("sha512", &bytes[..]),
        };
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        format!("{name}:{hex}").parse().ok()
    }
}

/// Gathers from `store` what `selection` asks for; the names lie in a file of `folder` meanwhile.
///
/// # Errors
/// [`Error::Absent`] for what is not here.
pub fn gather(store: &Store, selection: &Selection, folder: &Path) -> Result<Gathered, Error> {
    let mut gathered = Gathered {
        names: Names::new(folder)?,
        blobs: BTreeMap::new(),
        sources: BTreeMap::new(),
        system: None,
        lacking: Vec::new(),
        left_out: BTreeSet::new(),
        riding: BTreeMap::new(),
    };
    if selection.images.is_empty() && selection.charts.is_empty() && selection.files.is_empty() {
        everything(store, selection, &mut gathered)?;
    }
    for text in &selection.images {
        image(store, selection, &mut gathered, text)?;
    }
    for text in &selection.charts {
        charts(store, &mut gathered, text)?;
    }
    for riding in &selection.files {
        ride::file(&mut gathered, riding)?;
    }
    if let Some(folder) = &selection.system {
        ride::system(&mut gathered, folder)?;
    }
    Ok(gathered)
}

/// All that there is at one moment, and then what each of it needs.
fn everything(store: &Store, selection: &Selection, gathered: &mut Gathered) -> Result<(), Error> {
    // First, so that little time passes until what they need is looked up.
    store.each_chart(|chart| {
        gathered.names.push(&Found::Blob(chart.digest.clone()))?;
        chart.provenance.iter().try_for_each(|it| gathered.names.push(&Found::Blob(it.clone())))?;
        add_chart_line(gathered, chart)
    })?;
    store.each_ref(None, |Ref { repository, name, digest, .. }| {
        gathered.names.push(&Found::Image { repository, name, digest })
    })?;
    let mut last = 0;
    while let Some((number, found)) = gathered.names.next(last)? {
        last = number;
        match found {
            Found::Image { repository, name, digest } => {
                add_image(store, selection, gathered, (&repository, &name, &digest), Named::AmongOthers)?;
            }
            Found::Blob(digest) => add_blob(store, gathered, &digest)?,
        }
    }
    Ok(())
}

fn image(store: &Store, selection: &Selection, gathered: &mut Gathered, text: &str) -> Result<(), Error> {
    let reference: Reference = text.parse().map_err(|e| Error::Usage(format!("{e}")))?;
    let repository = reference.repository();
    let found = store.manifest(&repository, reference.name())?;
    // What was pushed here without a host is asked for without one.
    let bare = reference.host == "docker.io" && found.is_none();
    let (repository, found) = match found {
        Some(found) => (repository, Some(found)),
        None if bare => {
            let short = text.split(['@', ':']).next().unwrap_or(text).to_owned();
            (short.clone(), store.manifest(&short, reference.name())?)
        }
        None => (repository, None),
    };
    let found = found.ok_or_else(|| Error::Absent(text.into()))?;
    let name = reference.tag.as_deref().filter(|_| reference.digest.is_none()).unwrap_or(reference.name());
    add_image(store, selection, gathered, (&repository, name, &found.blob.digest), Named::Singly)
}

/// Adds a name, what it needs, and what is about it: signatures and the like, by subject and by tag. What is among
/// others and not whole is left out, with a line that says so.
fn add_image(
    store: &Store,
    selection: &Selection,
    gathered: &mut Gathered,
    (repository, name, digest): (&str, &str, &Digest),
    named: Named,
) -> Result<(), Error> {
    let line = RefLine::Image { repository: repository.into(), name: name.into(), digest: digest.clone() };
    let text = text_of(&line);
    if gathered.names.contains(&text)? {
        return Ok(());
    }
    let whole::Found { media_type, pieces, partial, lacks } =
        whole::find(store, digest, &selection.platforms)?;
    let shown = line.shown();
    if lacks {
        let platforms: Vec<String> = selection.platforms.iter().map(Platform::to_string).collect();
        let lacking = format!("{shown} for {}", platforms.join(" or "));
        if named == Named::Singly {
            return Err(Error::Absent(lacking));
        }
        gathered.lacking.push(format!("`{lacking}` is not in the store: no gateway of that kind can run it"));
    }
    for (image, missing) in partial {
        let of = if image == *digest { shown.clone() } else { format!("{shown} ({image})") };
        if named == Named::Singly {
            return Err(Error::Partial { name: of, missing });
        }
        let said = format!("`{of}` is left out: `{missing}` of it is not in the store");
        if gathered.left_out.insert(said.clone()) {
            gathered.lacking.push(said);
        }
    }
    if pieces.is_empty() {
        return Ok(());
    }
    gathered.names.insert(&text, Some((&shown, digest, &media_type)))?;
    for piece in pieces {
        for (blob, size) in piece.blobs {
            gathered.blobs.entry(Key::of(&blob)).or_insert(Fact { size, kind: Content::Blob });
        }
        gathered.blobs.insert(Key::of(&piece.digest), Fact { size: piece.size, kind: Content::Manifest });
        // Another repository may have other signatures of the same image.
        if gathered.names.look(repository, &piece.digest)? {
            add_about(store, selection, gathered, repository, &piece.digest)?;
        }
    }
    Ok(())
}

/// Adds what is about a manifest in a repository.
fn add_about(
    store: &Store,
    selection: &Selection,
    gathered: &mut Gathered,
    repository: &str,
    about: &Digest,
) -> Result<(), Error> {
    for referrer in store.referrers(repository, about)? {
        let it = (repository, referrer.digest.as_str(), &referrer.digest);
        add_image(store, selection, gathered, it, Named::AmongOthers)?;
    }
    let prefix = ParsedManifest::referrers_tag(about);
    for tag in store.tags(repository, &prefix, 20)?.unwrap_or_default() {
        if tag.starts_with(&prefix)
            && let Some(found) = store.manifest(repository, &tag)?
        {
            let it = (repository, tag.as_str(), &found.blob.digest);
            add_image(store, selection, gathered, it, Named::AmongOthers)?;
        }
    }
    if let Some(found) = store.manifest(repository, &prefix)? {
        let it = (repository, prefix.as_str(), &found.blob.digest);
        add_image(store, selection, gathered, it, Named::AmongOthers)?;
    }
    Ok(())
}

fn add_blob(store: &Store, gathered: &mut Gathered, digest: &Digest) -> Result<(), Error> {
    let key = Key::of(digest);
    if gathered.blobs.contains_key(&key) {
        return Ok(());
    }
    let blob = store.glance(digest)?.ok_or_else(|| Error::Absent(digest.to_string()))?;
    gathered.blobs.insert(key, Fact { size: blob.size, kind: Content::Blob });
    Ok(())
}

fn charts(store: &Store, gathered: &mut Gathered, text: &str) -> Result<(), Error> {
    let (path, version) = match text.split_once(':') {
        Some((path, version)) => (path, Some(version)),
        None => (text, None),
    };
    let (repository, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut any = false;
    for chart in store.charts(repository, Some(name))? {
        if version.is_none_or(|version| chart.version == version) {
            add_blob(store, gathered, &chart.digest)?;
            chart.provenance.iter().try_for_each(|it| add_blob(store, gathered, it))?;
            add_chart_line(gathered, chart)?;
            any = true;
        }
    }
    if any { Ok(()) } else { Err(Error::Absent(format!("chart {text}"))) }
}

fn add_chart_line(gathered: &Gathered, chart: Chart) -> Result<(), Error> {
    let Chart { repository, name, version, digest, provenance, created, entry, owner: _ } = chart;
    let line = RefLine::Chart { repository, name, version, digest, provenance, created, entry };
    gathered.names.insert(&text_of(&line), None)
}

/// As a line of `refs.list`.
pub(super) fn text_of(line: &RefLine) -> String {
    serde_json::to_string(line).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_digests_in_their_order() {
        let mut digests: Vec<Digest> = (0..50_u8)
            .map(|n| Digest::of(if n % 3 == 0 { Algorithm::Sha512 } else { Algorithm::Sha256 }, &[n]))
            .collect();
        let mut keys: Vec<Key> = digests.iter().map(Key::of).collect();
        digests.sort();
        keys.sort();
        let back: Vec<Digest> = keys.iter().filter_map(Key::digest).collect();
        assert_eq!(back, digests);
    }
}
