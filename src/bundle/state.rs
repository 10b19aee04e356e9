//! What can be judged without reading a blob: that the lists are in order and agree, that every file is there with its
//! length and no other, that what is left out is here.

use std::collections::{BTreeMap, BTreeSet};

use super::copy::part_of;
use super::gather::Key;
use super::import::is_carried;
use super::list::{Content, RefLine};
use super::manifest::{Layout, Totals};
use super::open::Opened;
use super::{Error, Fault, name};
use crate::oci::{is_repository_path, is_tag};
use crate::store::Store;
use crate::sys::digest::Digest;

/// What is here of a bundle's state.
pub struct Found {
    /// Blobs that lie on the stick and that are not here.
    pub missing: u64,
    /// Their bytes.
    pub missing_bytes: u64,
    /// How many it leaves out and are nowhere else either, and the first of them.
    pub absent: Option<(u64, Digest)>,
}

/// What to do about blobs that a bundle leaves out, and that are not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It is refused.
    Refused,
    /// They are told: it is in force, and what it does carry may be of use.
    Told,
}

/// Checks the lists, the files and what is here; says what of it is not.
///
/// # Errors
/// [`Fault`].
pub fn check(opened: &Opened, store: &Store, lost: Lost) -> Result<Found, Error> {
    let wanted = refs(opened)?;
    let mut checked = blobs(opened, wanted)?;
    let mut found = Found { missing: 0, missing_bytes: 0, absent: None };
    let mut lines = opened.blob_lines()?;
    while let Some(line) = lines.next_blob(opened.manifest.part_size)? {
        if line.kind == Content::System || store.glance(&line.digest)?.is_some() {
            continue;
        }
        if opened.lying(&line)?.is_some() {
            found.missing += 1;
            found.missing_bytes += line.size;
        } else {
            found.absent.get_or_insert((0, line.digest)).0 += 1;
        }
    }
    if let (Some((missing, first)), Lost::Refused) = (&found.absent, lost) {
        return Err(Fault::Base { missing: *missing, first: first.clone() }.into());
    }
    extras(opened, &mut checked)?;
    Ok(found)
}

/// Checks all that does not depend on what is here, for `edge bundle verify`.
///
/// # Errors
/// [`Fault`].
pub fn check_alone(opened: &Opened) -> Result<(), Error> {
    let mut checked = blobs(opened, refs(opened)?)?;
    extras(opened, &mut checked)
}

/// Reads every ref and says which blobs must be listed for them.
fn refs(opened: &Opened) -> Result<BTreeSet<Key>, Error> {
    let (mut wanted, mut named) = (BTreeSet::new(), BTreeSet::new());
    let mut lines = opened.ref_lines()?;
    while let Some(line) = lines.next_ref()? {
        check_names(&line).map_err(|why| lines.fault(why))?;
        // As digests: there may be 100,000 names, of any length.
        if !named.insert(Key::of(&Digest::sha256(line.own_name().as_bytes()))) {
            return Err(lines
                .fault("its name stands there twice hint: make the bundle again with this version of edge")
                .into());
        }
        wanted.extend(line.digests().into_iter().map(Key::of));
    }
    Ok(wanted)
}

fn check_names(line: &RefLine) -> Result<(), String> {
    let tag = |name: &str| is_tag(name) || name.parse::<Digest>().is_ok();
    let good = match line {
        RefLine::Image { repository, name, .. } => is_repository(repository) && tag(name),
        RefLine::File { name, .. } => is_tag(name),
        RefLine::Chart { repository, name, version, .. } => {
            let path = repository.is_empty() || repository.split('/').all(crate::oci::chart::is_path_part);
            path && crate::oci::chart::is_path_part(name) && crate::oci::chart::is_path_part(version)
        }
    };
    if good { Ok(()) } else { Err("it names nothing that could be served".into()) }
}

/// `<host>/<path>`, or a path alone for what was pushed without a host.
fn is_repository(text: &str) -> bool {
    let (host, path) = text.split_once('/').unwrap_or(("", text));
    let host_like = !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-:[]_".contains(&b));
    is_repository_path(text) || (host_like && is_repository_path(path))
}

/// What the folders of blobs must hold.
struct Checked {
    /// The first bytes of each digest that is carried, in order.
    known: Vec<u128>,
    /// Files of all of them.
    files: u64,
}

fn blobs(opened: &Opened, mut wanted: BTreeSet<Key>) -> Result<Checked, Error> {
    let manifest = &*opened.manifest;
    let mut totals = Totals::default();
    let mut checked = Checked { known: Vec::new(), files: 0 };
    let mut system: BTreeMap<Key, u64> = BTreeMap::new();
    for file in manifest.system.iter().flat_map(|part| part.files.all()) {
        system.insert(Key::of(&file.digest), file.size);
    }
    let mut last: Option<Digest> = None;
    let mut lines = opened.blob_lines()?;
    while let Some(line) = lines.next_blob(manifest.part_size)? {
        if last.is_some_and(|last| last >= line.digest) {
            return Err(lines.fault("it is out of order, or stands there twice").into());
        }
        match line.kind {
            Content::System => {
                let signed = system.remove(&Key::of(&line.digest));
                if signed != Some(line.size) || !is_carried(&line.carried) {
                    return Err(lines
                        .fault("it is no part of the system that was signed, or is left out")
                        .into());
                }
            }
            _ => {
                wanted.remove(&Key::of(&line.digest));
            }
        }
        totals.blobs += 1;
        totals.bytes = totals.bytes.saturating_add(line.size);
        if is_carried(&line.carried) {
            totals.carried += 1;
            totals.carried_bytes = totals.carried_bytes.saturating_add(line.size);
            checked.files += line.files();
            checked.known.push(beginning(line.digest.hex()));
            if let Some(lying) = opened.lying(&line)? {
                for index in 0..lying.files {
                    part_of(&lying, manifest.part_size, &line, index)?;
                }
            }
        }
        last = Some(line.digest);
    }
    if totals != manifest.totals {
        return Err(lines.fault("the list does not come to what the manifest says").into());
    }
    if let Some(digest) = system.into_keys().next().and_then(|key| key.digest()) {
        return Err(Fault::Unlisted { name: "the system".into(), digest }.into());
    }
    if let Some(digest) = wanted.first().and_then(Key::digest) {
        return Err(Fault::Unlisted { name: "a ref".into(), digest }.into());
    }
    checked.known.sort_unstable();
    Ok(checked)
}

/// 32 hex digits tell any two digests of one bundle apart.
pub(super) fn beginning(hex: &str) -> u128 {
    hex.get(..32).and_then(|hex| u128::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

/// Refuses files that are not part of the bundle. They would not be read, but somebody put them there.
fn extras(opened: &Opened, checked: &mut Checked) -> Result<(), Error> {
    let manifest = &*opened.manifest;
    let ours = [
        name::FORMAT,
        name::TRUST,
        name::MANIFEST,
        name::BLOBS_LIST,
        name::REFS_LIST,
        name::BLOBS,
        name::COMPLETE,
    ];
    let extra = |shown: String| Err(Error::from(Fault::Extra(shown)));
    opened.stick.names(&[], |found| {
        let known = ours.contains(&found) || name::FOR_OTHERS.contains(&found);
        if known { Ok(()) } else { extra(found.into()) }
    })?;
    let mut folders = Vec::new();
    opened.stick.names(&[name::BLOBS], |found| {
        if !["sha256", "sha512"].contains(&found) {
            return extra(format!("{}/{found}", name::BLOBS));
        }
        folders.push(vec![name::BLOBS.to_owned(), found.to_owned()]);
        Ok(())
    })?;
    if manifest.layout == Layout::Sharded {
        let mut shards = Vec::new();
        for steps in folders {
            let path: Vec<&str> = steps.iter().map(String::as_str).collect();
            opened.stick.names(&path, |found| {
                shards.push([steps.clone(), vec![found.to_owned()]].concat());
                Ok(())
            })?;
        }
        folders = shards;
    }
    let mut count = 0;
    for steps in folders {
        let path: Vec<&str> = steps.iter().map(String::as_str).collect();
        opened.stick.names(&path, |found| {
            count += 1;
            let known = !found.is_empty() && checked.known.binary_search(&beginning(found)).is_ok();
            if known { Ok(()) } else { extra(format!("{}/{found}", path.join("/"))) }
        })?;
    }
    // Every listed file is there, so more of them means a part or a name too many.
    if count > checked.files { extra(format!("a file below {}", name::BLOBS)) } else { Ok(()) }
}
