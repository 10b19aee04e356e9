//! Receipts: what a gateway says that it has, signed with its own key. A depot leaves those blobs out next time.
//!
//! A receipt can only shrink a delta, never change what is signed; a full bundle is always possible.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::gather::Key;
use super::list::{ListReader, ListWriter};
use super::manifest::List;
use super::{Error, Fault, name};
use crate::sys::digest::{Algorithm, Digest, Hasher};
use crate::sys::durable;
use crate::trust::{Enrolled, PublicKey, Refusal, SecretKey, gateway, is_name};

/// What a receipt is signed as.
pub const RECEIPT_TYPE: &str = "application/vnd.edge.bundle.receipt.v1+json";
/// The largest receipt, in bytes.
pub const LARGEST_RECEIPT: u64 = 64 << 10;
/// Receipts that are read of one folder.
const MOST_RECEIPTS: usize = 10_000;

/// What is signed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub struct Receipt {
    /// Who says it.
    pub gateway: String,
    /// With which key; `edge trust enrol` makes it known.
    pub key: String,
    /// Of which stream.
    pub stream: String,
    /// The number that was imported.
    pub seq: u64,
    /// The manifest that was imported.
    pub manifest: Digest,
    /// The state that came of it.
    pub snapshot: Digest,
    /// When, by the gateway's clock.
    pub imported: Timestamp,
    /// The file beside it that names every blob of that state, one a line.
    pub have: List,
}

/// A receipt that a depot believes, with the file of what is there.
#[derive(Debug)]
pub struct Believed {
    /// What it says.
    pub receipt: Receipt,
    have: PathBuf,
}

/// Both files' names.
fn names(gateway: &str, stream: &str) -> (String, String) {
    (format!("{gateway}.{stream}.dsse"), format!("{gateway}.{stream}.have"))
}

/// Writes a receipt of `receipt` into `folder`: the list first, so that what is signed is there.
///
/// # Errors
/// [`Error::Stick`].
pub fn write(
    folder: &Path,
    mut receipt: Receipt,
    key: &SecretKey,
    blobs: impl Iterator<Item = Result<Digest, Error>>,
) -> Result<PathBuf, Error> {
    real_folder(folder)?;
    let (signed, have) = names(&receipt.gateway, &receipt.stream);
    let path = folder.join(&have);
    let failed = |e| Error::Stick(durable::named(e, "write", &path));
    let mut written = None;
    put_new(&path, |file| {
        let mut list = ListWriter::new(BufWriter::new(file));
        for digest in blobs {
            list.line(digest?.as_str()).map_err(failed)?;
        }
        written = Some(list.end().map_err(failed)?.0);
        Ok(())
    })?;
    receipt.have = written.unwrap_or(receipt.have);
    let bytes = gateway::seal(&receipt, RECEIPT_TYPE, key)?;
    let path = folder.join(signed);
    put_new(&path, |file| {
        file.write_all(&bytes).map_err(|e| Error::Stick(durable::named(e, "write", &path)))
    })?;
    Ok(path)
}

/// Makes a folder on the stick, if it is not there. A link in its place would have root write wherever it points to.
///
/// # Errors
/// [`Fault::NotAFile`] for a link.
pub fn real_folder(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Fault::NotAFile(path.display().to_string()).into()),
        Err(_) => std::fs::create_dir(path).map_err(|e| Error::Stick(durable::named(e, "make", path))),
    }
}

/// Replaces a file on the stick: written beside it, synced, renamed. Never through a link that lies there.
fn put_new(path: &Path, write: impl FnOnce(&mut File) -> Result<(), Error>) -> Result<(), Error> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let failed = |operation: &'static str, e| Error::Stick(durable::named(e, operation, &part));
    match std::fs::remove_file(&part) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove", e)),
        _ => {}
    }
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&part);
    let mut file = opened.map_err(|e| failed("create", e))?;
    write(&mut file)?;
    file.sync_all().map_err(|e| failed("sync", e))?;
    std::fs::rename(&part, path).map_err(|e| failed("rename", e))?;
    durable::sync_folder_of(path).map_err(Error::Stick)
}

/// The receipts in `folder` for `stream` of gateways that are enrolled, and one line for each that is ignored.
///
/// # Errors
/// Where the folder cannot be read.
pub fn read_all(
    folder: &Path,
    stream: &str,
    enrolled: &Enrolled,
) -> Result<(Vec<Believed>, Vec<String>), Error> {
    let (mut believed, mut ignored) = (Vec::new(), Vec::new());
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((believed, ignored)),
        Err(e) => return Err(Error::Stick(durable::named(e, "list", folder))),
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).take(MOST_RECEIPTS).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "dsse")) {
        match read(path, enrolled) {
            Ok(receipt) if receipt.receipt.stream == stream => believed.push(receipt),
            Ok(_) => {}
            Err(why) => ignored.push(format!("the receipt `{}` is ignored: {why}", path.display())),
        }
    }
    Ok((believed, ignored))
}

fn read(path: &Path, enrolled: &Enrolled) -> Result<Believed, Error> {
    let bytes = read_small(path)?;
    let what = path.display().to_string();
    let claimed = claim(&bytes, &what)?;
    let key = PublicKey::parse(&claimed.key)
        .ok_or_else(|| Refusal::Malformed { what: what.clone(), why: "its key is none".into() })?;
    let known = enrolled.key(&claimed.gateway)?;
    let known = known
        .filter(|known| *known == key)
        .ok_or(Refusal::UnknownKey { what: what.clone(), key: key.id() })?;
    let receipt = gateway::open::<Receipt>(&bytes, &what, RECEIPT_TYPE, LARGEST_RECEIPT, &known)?;
    let have = path.with_file_name(names(&receipt.gateway, &receipt.stream).1);
    check_have(&have, &receipt.have)?;
    Ok(Believed { receipt: (*receipt).clone(), have })
}

/// Enrols the gateway of a receipt, because a person says that it is the gateway's. Says its name and key.
///
/// # Errors
/// [`Refusal`] where it is not signed by the key that it names.
pub fn enrol(path: &Path, enrolled: &Enrolled) -> Result<(String, PublicKey), Error> {
    let bytes = read_small(path)?;
    let what = path.display().to_string();
    let claimed = claim(&bytes, &what)?;
    let key = PublicKey::parse(&claimed.key)
        .ok_or_else(|| Refusal::Malformed { what: what.clone(), why: "its key is none".into() })?;
    gateway::open::<Receipt>(&bytes, &what, RECEIPT_TYPE, LARGEST_RECEIPT, &key)?;
    enrolled.enrol(&claimed.gateway, &key)?;
    Ok((claimed.gateway, key))
}

fn claim(bytes: &[u8], what: &str) -> Result<Receipt, Error> {
    let claimed: Receipt = gateway::peek(bytes, what, LARGEST_RECEIPT)?;
    if !is_name(&claimed.gateway) || !is_name(&claimed.stream) {
        return Err(Refusal::Malformed { what: what.into(), why: "it names nobody".into() }.into());
    }
    Ok(claimed)
}

fn read_small(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST_RECEIPT + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::Stick(durable::named(e, "read", path)))?;
    Ok(bytes)
}

fn check_have(path: &Path, list: &List) -> Result<(), Error> {
    let failed = |e| Error::Stick(durable::named(e, "read", path));
    let mut file = File::open(path).map_err(failed)?.take(list.size.saturating_add(1));
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    if hasher.finish() == list.digest {
        Ok(())
    } else {
        Err(Fault::Digest(path.display().to_string()).into())
    }
}

impl Believed {
    /// Removes from `carried` what this gateway does not say that it has.
    fn retain(&self, carried: &mut BTreeSet<Key>) -> Result<(), Error> {
        let file = File::open(&self.have).map_err(|e| Error::Stick(durable::named(e, "read", &self.have)))?;
        let mut reader = ListReader::blobs(BufReader::with_capacity(64 << 10, file));
        let mut both = BTreeSet::new();
        while let Some(line) = reader.next_line()? {
            if let Ok(digest) = line.parse::<Digest>() {
                both.extend(carried.take(&Key::of(&digest)));
            }
        }
        *carried = both;
        Ok(())
    }
}

/// The blobs among `wanted` that every one of `receipts` has. None where there is no receipt.
///
/// # Errors
/// Where a list cannot be read.
pub fn common<'a>(
    receipts: &[Believed],
    wanted: impl Iterator<Item = &'a Key>,
) -> Result<BTreeSet<Key>, Error> {
    if receipts.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut common: BTreeSet<Key> = wanted.cloned().collect();
    for receipt in receipts {
        receipt.retain(&mut common)?;
    }
    Ok(common)
}

/// The folder of receipts that belongs to the bundle in `folder`.
pub fn folder_beside(folder: &Path) -> Option<PathBuf> {
    let bundles = folder.parent()?;
    (bundles.file_name()? == name::BUNDLES).then(|| bundles.with_file_name(name::RECEIPTS))
}

/// Writes a text file on the stick, for people.
///
/// # Errors
/// [`Error::Stick`].
pub fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        real_folder(folder)?;
    }
    put_new(path, |file| {
        file.write_all(text.as_bytes()).map_err(|e| Error::Stick(durable::named(e, "write", path)))
    })
}
