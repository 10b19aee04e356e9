//! Receipts: what a gateway says that it has, signed with its own key. A depot leaves those blobs out next time.
//!
//! A receipt can only shrink a delta, never change what is signed; a full bundle is always possible.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags, open};
use serde::{Deserialize, Serialize};

use super::gather::Key;
use super::list::{ListReader, ListWriter};
use super::manifest::{LARGEST_LIST, List};
use super::put::Folder;
use super::stick::Stick;
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
    /// The highest number that was imported.
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

/// A receipt that a depot believes, with the folder where the list of what is there lies.
#[derive(Debug)]
pub struct Believed {
    /// What it says.
    pub receipt: Receipt,
    stick: Arc<Stick>,
    /// Whether it lies under a name that an older edge gave it.
    is_former: bool,
}

/// Both files' names. A name may hold dots, and neither a name nor an older edge writes a `_`: so a stream with dots stands
/// behind one, and `7.main` of gateway `ship` lies beside `main` of `ship.7`.
fn names(gateway: &str, stream: &str) -> (String, String) {
    joined(gateway, if stream.contains('.') { '_' } else { '.' }, stream)
}

/// What they were called before, whatever the stream's name.
fn former_names(gateway: &str, stream: &str) -> (String, String) {
    joined(gateway, '.', stream)
}

fn joined(gateway: &str, between: char, stream: &str) -> (String, String) {
    (format!("{gateway}{between}{stream}.dsse"), format!("{gateway}{between}{stream}.have"))
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
    let into = Folder::make(folder)?;
    let (signed, have) = names(&receipt.gateway, &receipt.stream);
    let path = folder.join(&have);
    let failed = |e| Error::Stick(durable::named(e, "write", &path));
    let mut written = None;
    into.replace(&have, |file| {
        let mut list = ListWriter::new(BufWriter::new(file));
        for digest in blobs {
            list.line(digest?.as_str()).map_err(failed)?;
        }
        written = Some(list.end().map_err(failed)?.0);
        Ok(())
    })?;
    receipt.have = written.unwrap_or(receipt.have);
    let bytes = gateway::seal(&receipt, RECEIPT_TYPE, key)?;
    into.replace(&signed, |file| {
        file.write_all(&bytes).map_err(|e| Error::Stick(durable::named(e, "write", &folder.join(&signed))))
    })
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
    if matches!(durable::exists(folder), Ok(false)) {
        return Ok((believed, ignored));
    }
    let stick = Arc::new(Stick::open(folder)?);
    let mut files = BTreeSet::new();
    stick.names(&[], |name| {
        if files.len() < MOST_RECEIPTS && name.ends_with(".dsse") {
            files.insert(name.to_owned());
        }
        Ok(())
    })?;
    for name in &files {
        match read(&stick, name, enrolled) {
            Ok(receipt) if receipt.receipt.stream == stream => believed.push(receipt),
            Ok(_) => {}
            Err(why) => {
                ignored.push(format!("the receipt `{}` is ignored: {why}", folder.join(name).display()));
            }
        }
    }
    // Nobody takes an older edge's away; what the gateway has written since counts.
    let (former, mut today): (Vec<_>, Vec<_>) = believed.into_iter().partition(|one| one.is_former);
    for one in former {
        if !today.iter().any(|other| other.receipt.gateway == one.receipt.gateway) {
            today.push(one);
        }
    }
    Ok((today, ignored))
}

fn read(stick: &Arc<Stick>, name: &str, enrolled: &Enrolled) -> Result<Believed, Error> {
    let what = stick.path().join(name).display().to_string();
    let bytes = stick.small(&[name], LARGEST_RECEIPT)?.ok_or_else(|| Fault::Missing(what.clone()))?;
    let claimed = claim(&bytes, &what)?;
    let key = PublicKey::parse(&claimed.key)
        .ok_or_else(|| Refusal::Malformed { what: what.clone(), why: "its key is none".into() })?;
    let known = enrolled.key(&claimed.gateway)?;
    let known = known
        .filter(|known| *known == key)
        .ok_or(Refusal::UnknownKey { what: what.clone(), key: key.id() })?;
    let receipt = gateway::open::<Receipt>(&bytes, &what, RECEIPT_TYPE, LARGEST_RECEIPT, &known)?;
    let (gateway, stream) = (&receipt.gateway, &receipt.stream);
    let is_former = names(gateway, stream).0 != name && former_names(gateway, stream).0 == name;
    let believed = Believed { receipt: (*receipt).clone(), stick: stick.clone(), is_former };
    believed.check()?;
    Ok(believed)
}

/// Enrols the gateway of a receipt, because a person says that it is the gateway's. Says its name and key.
///
/// # Errors
/// [`Refusal`] where it is not signed by the key that it names.
pub fn enrol(path: &Path, enrolled: &Enrolled) -> Result<(String, PublicKey), Error> {
    let what = path.display().to_string();
    let bytes = read_given(path)?.ok_or_else(|| Fault::NotAFile(what.clone()))?;
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

/// A receipt that a person names; `None` for what is no file. A pipe would let an opening without O_NONBLOCK wait for
/// ever.
fn read_given(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = |e| Error::Stick(durable::named(e, "read", path));
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?);
    if !file.metadata().map_err(failed)?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(LARGEST_RECEIPT + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

impl Believed {
    /// The list that lies beside.
    fn open_have(&self) -> Result<(File, String), Error> {
        let (gateway, stream) = (&self.receipt.gateway, &self.receipt.stream);
        let (_, name) = if self.is_former { former_names(gateway, stream) } else { names(gateway, stream) };
        let list = &self.receipt.have;
        if list.size > LARGEST_LIST {
            let what = self.stick.path().join(name).display().to_string();
            return Err(Refusal::TooLarge { what, most: LARGEST_LIST }.into());
        }
        Ok((self.stick.sized(&[&name], list.size)?, name))
    }

    /// Whether it is what the receipt says of it.
    fn check(&self) -> Result<(), Error> {
        let (file, name) = self.open_have()?;
        let mut file = file.take(self.receipt.have.size);
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.take_all(&mut file).map_err(|e| self.stick.broken(e, "read", &name))?;
        if hasher.finish() == self.receipt.have.digest {
            Ok(())
        } else {
            Err(Fault::Digest(self.stick.path().join(name).display().to_string()).into())
        }
    }

    /// Removes from `carried` what this gateway does not say that it has.
    fn retain(&self, carried: &mut BTreeSet<&Key>) -> Result<(), Error> {
        let file = self.open_have()?.0.take(self.receipt.have.size);
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
) -> Result<BTreeSet<&'a Key>, Error> {
    if receipts.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut common: BTreeSet<&Key> = wanted.collect();
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
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(Fault::NotAFile(path.display().to_string()).into());
    };
    let written = Folder::make(folder)?.replace(name, |file| {
        file.write_all(text.as_bytes()).map_err(|e| Error::Stick(durable::named(e, "write", path)))
    });
    written.map(|_| ())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]
mod tests {
    use super::*;

    /// A receipt of gateway `a`, that is enrolled, in the folder `receipts`.
    fn written(folder: &Path) -> Enrolled {
        let enrolled = Enrolled::below(&folder.join("state"));
        assert_eq!(receive(folder, &enrolled, "a", "main", b"x"), "a.main.dsse");
        enrolled
    }

    /// A receipt of a gateway that is enrolled by it, and has this blob; the file's name.
    fn receive(folder: &Path, enrolled: &Enrolled, gateway: &str, stream: &str, blob: &[u8]) -> String {
        let key = gateway::own_key(&folder.join("state").join(gateway)).unwrap();
        let digest = Digest::sha256(blob);
        let receipt = Receipt {
            gateway: gateway.into(),
            key: key.public().text(),
            stream: stream.into(),
            seq: 1,
            manifest: digest.clone(),
            snapshot: digest.clone(),
            imported: Timestamp::UNIX_EPOCH,
            have: List { digest: digest.clone(), size: 0, lines: 0 },
        };
        let path = write(&folder.join("receipts"), receipt, &key, [Ok(digest)].into_iter()).unwrap();
        enrol(&path, enrolled).unwrap();
        path.file_name().unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn no_gateway_writes_over_the_receipt_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let (receipts, enrolled) =
            (folder.path().join("receipts"), Enrolled::below(&folder.path().join("state")));
        // As an older edge wrote it.
        assert_eq!(receive(folder.path(), &enrolled, "ship", "7.main", b"before"), "ship_7.main.dsse");
        for end in ["dsse", "have"] {
            let at = |between: &str| receipts.join(format!("ship{between}7.main.{end}"));
            std::fs::rename(at("_"), at(".")).unwrap();
        }
        let said = |stream: &str, gateway: &str, blob: &[u8]| {
            let (good, ignored) = read_all(&receipts, stream, &enrolled).unwrap();
            assert_eq!((good.len(), ignored), (1, Vec::new()), "{stream}");
            assert_eq!(good[0].receipt.gateway, gateway);
            assert_eq!(common(&good, [Key::of(&Digest::sha256(blob))].iter()).unwrap().len(), 1, "{stream}");
        };
        said("7.main", "ship", b"before");
        // What the gateway writes today counts more, and another one's is no longer in its place.
        receive(folder.path(), &enrolled, "ship", "7.main", b"ship");
        said("7.main", "ship", b"ship");
        receive(folder.path(), &enrolled, "ship.7", "main", b"ship.7");
        said("7.main", "ship", b"ship");
        said("main", "ship.7", b"ship.7");
    }

    #[test]
    fn what_is_no_file_makes_nobody_wait_and_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let enrolled = written(folder.path());
        let at = |name: &str| folder.path().join("receipts").join(name);
        let read = || read_all(&folder.path().join("receipts"), "main", &enrolled).unwrap();
        let (good, ignored) = read();
        assert_eq!((good.len(), ignored.len()), (1, 0), "{ignored:?}");
        assert_eq!(common(&good, [Key::of(&Digest::sha256(b"x"))].iter()).unwrap().len(), 1);

        nix::unistd::mkfifo(&at("pipe.dsse"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(at("a.main.dsse"), at("link.dsse")).unwrap();
        let (good, ignored) = read();
        assert_eq!((good.len(), ignored.len()), (1, 2), "{ignored:?}");
        assert!(ignored[0].contains("link.dsse") && ignored[1].contains("pipe.dsse"), "{ignored:?}");
        let refused = enrol(&at("pipe.dsse"), &enrolled).unwrap_err();
        assert!(matches!(refused, Error::Content(Fault::NotAFile(_))), "{refused}");

        // The list beside a receipt that is signed.
        for spoil in ["pipe", "link", "longer"] {
            let text = std::fs::read(at("a.main.have")).unwrap();
            std::fs::remove_file(at("a.main.have")).unwrap();
            match spoil {
                "pipe" => nix::unistd::mkfifo(&at("a.main.have"), nix::sys::stat::Mode::S_IRWXU).unwrap(),
                "link" => std::os::unix::fs::symlink("/dev/zero", at("a.main.have")).unwrap(),
                _ => std::fs::write(at("a.main.have"), [&text[..], b"more"].concat()).unwrap(),
            }
            assert_eq!((read().0.len(), read().1.len()), (0, 3), "{spoil}");
            std::fs::remove_file(at("a.main.have")).unwrap();
            std::fs::write(at("a.main.have"), text).unwrap();
        }
        assert_eq!(read().0.len(), 1);
    }
}
