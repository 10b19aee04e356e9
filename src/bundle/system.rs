//! The system of an appliance in a bundle: what is signed of it, and how it goes from the stick to a slot. What a slot
//! is and how one becomes bootable is not known here: see [`Appliance`].

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::extract::{line_of, pour};
use super::import::Gateway;
use super::list::Content;
use super::manifest::Manifest;
use super::open::Opened;
use super::{Error, Fault};
use crate::store::Store;
use crate::sys::beside::Beside;
use crate::sys::digest::{Algorithm, Digest, Hasher};
use crate::sys::durable;
use crate::sys::progress::{Progress, Unit};
use crate::trust::strict;

/// The file that describes a system, beside its parts.
pub const DESCRIPTION: &str = "system.json";
/// The largest description, in bytes.
const LARGEST: u64 = 64 << 10;

/// What is signed of a system.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SystemPart {
    /// For people.
    pub version: String,
    /// The architecture in Go's words, such as `arm64`.
    pub arch: String,
    /// The board, such as `generic-efi`.
    pub board: String,
    /// The UUID of the hash tree, by which the kernel finds its root file system.
    pub verity_uuid: String,
    /// Its files.
    pub files: SystemFiles,
}

/// The files of a system.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SystemFiles {
    /// The root file system.
    pub root: SystemFile,
    /// Its hash tree.
    pub verity: SystemFile,
    /// The kernel with all that it boots by.
    pub kernel: SystemFile,
    /// [`DESCRIPTION`].
    pub description: SystemFile,
}

/// One of them.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SystemFile {
    /// Of its bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// [`DESCRIPTION`], as the image's builder writes it. More may stand in it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Description {
    format: u32,
    version: String,
    arch: String,
    board: String,
    verity_uuid: String,
    files: Described,
}

#[derive(Deserialize)]
struct Described {
    #[serde(rename = "root.erofs")]
    root: SystemFile,
    #[serde(rename = "root.verity")]
    verity: SystemFile,
    /// A boot entry.
    #[serde(rename = "edge.efi")]
    entry: Option<SystemFile>,
    /// A boot partition.
    #[serde(rename = "boot.img")]
    boot: Option<SystemFile>,
}

impl SystemFiles {
    /// All of them.
    pub fn all(&self) -> [&SystemFile; 4] {
        [&self.root, &self.verity, &self.kernel, &self.description]
    }
}

impl SystemPart {
    /// Refuses what no depot writes.
    ///
    /// # Errors
    /// [`Fault::Manifest`].
    pub(super) fn check(&self) -> Result<(), Fault> {
        let word = |text: &str| {
            (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        };
        let words =
            [&self.version, &self.arch, &self.board, &self.verity_uuid].into_iter().all(|text| word(text));
        let sums = self.files.all().iter().all(|file| {
            file.size > 0 && file.size <= 8 << 30 && file.digest.algorithm() == Algorithm::Sha256
        });
        if words && sums && self.files.description.size <= LARGEST {
            Ok(())
        } else {
            Err(Fault::Manifest("its system is not described properly".into()))
        }
    }

    /// Bytes of what goes to a slot.
    pub fn size(&self) -> u64 {
        [&self.files.root, &self.files.verity, &self.files.kernel].iter().map(|file| file.size).sum()
    }
}

/// What the folder of a system holds, by its description, and the names of its files there in the order of
/// [`SystemFiles::all`]. The other files are not looked at.
///
/// # Errors
/// [`Error::Usage`] where it is none.
pub fn read(folder: &Path) -> Result<(SystemPart, [&'static str; 4]), Error> {
    let path = folder.join(DESCRIPTION);
    let bytes = std::fs::read(&path).map_err(|e| {
        let why = durable::named(e, "read", &path);
        Error::Usage(format!("{why} hint: give the folder `….system` that `edge-pack image` made"))
    })?;
    let broken = |why: String| Error::Usage(format!("`{}` describes no system: {why}", path.display()));
    let read: Description = strict::parse(&bytes, DESCRIPTION, LARGEST).map_err(|e| broken(e.to_string()))?;
    if read.format != 1 {
        return Err(broken(format!("it is of format {}, and this edge reads 1", read.format)));
    }
    let Described { root, verity, entry, boot } = read.files;
    let (name, kernel) = match (entry, boot) {
        (Some(entry), None) => ("edge.efi", entry),
        (None, Some(boot)) => ("boot.img", boot),
        _ => return Err(broken("it has not one kernel, as `edge.efi` or as `boot.img`".into())),
    };
    let description = SystemFile { digest: Digest::sha256(&bytes), size: bytes.len() as u64 };
    let part = SystemPart {
        version: read.version,
        arch: read.arch,
        board: read.board,
        verity_uuid: read.verity_uuid,
        files: SystemFiles { root, verity, kernel, description },
    };
    part.check().map_err(|e| broken(e.to_string()))?;
    Ok((part, ["root.erofs", "root.verity", name, DESCRIPTION]))
}

/// Who asks for an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A person.
    ByHand,
    /// A stick that was plugged in. It may stay there over many boots.
    ByStick,
}

/// Which bundle brings a system.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its stream.
    pub stream: &'a str,
    /// Its number.
    pub seq: u64,
    /// Its manifest.
    pub manifest: &'a Digest,
    /// Who asks.
    pub asked: Asked,
}

/// What an appliance makes of a system that it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be staged.
    Stage,
    /// It is not, and that is well; why.
    Leave(String),
}

/// The machine that systems are for; the daemon and the commands have one where they run on an appliance.
pub trait Appliance: fmt::Debug + Send + Sync {
    /// Judges before anything is changed.
    ///
    /// # Errors
    /// [`Error::Content`] for another machine's system, [`Error::System`] where it cannot be staged, [`Error::SystemEarly`]
    /// where it cannot yet.
    fn judge(&self, part: &SystemPart, origin: Origin<'_>) -> Result<Verdict, Error>;

    /// Begins: from here on the slot that it goes to is not bootable.
    ///
    /// # Errors
    /// As for [`Appliance::judge`].
    fn stage(&self, part: &SystemPart, origin: Origin<'_>) -> Result<Box<dyn Staging + '_>, Error>;

    /// Keeps the trust state where a reset does not reach it.
    ///
    /// # Errors
    /// [`Error::System`].
    fn keep_trust(&self, store: &Store) -> Result<(), Error>;

    /// Whether a staged system is to be started at once.
    fn is_eager(&self) -> bool;

    /// Starts it, by starting the machine anew.
    ///
    /// # Errors
    /// [`Error::System`].
    fn start_staged(&self) -> Result<(), Error>;
}

/// A part of a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The root file system.
    Root,
    /// Its hash tree.
    Verity,
    /// The kernel.
    Kernel,
}

/// A slot that is being written. Dropped before it is made bootable, it stays as it is then: not bootable.
pub trait Staging {
    /// Begins a piece.
    ///
    /// # Errors
    /// [`Error::System`].
    fn begin(&mut self, piece: Piece) -> Result<(), Error>;

    /// The next bytes of it.
    ///
    /// # Errors
    /// [`Error::System`].
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error>;

    /// Brings it to the medium, and checks that the medium has it.
    ///
    /// # Errors
    /// [`Error::System`] where it reads back differently.
    fn end(&mut self) -> Result<(), Error>;

    /// Makes the slot bootable; what is said of it to people.
    ///
    /// # Errors
    /// [`Error::System`].
    fn commit(self: Box<Self>) -> Result<String, Error>;
}

impl Gateway {
    /// What of the bundle is to be staged here, and into `remarks` why nothing is.
    pub(super) fn judge_system<'a>(
        &self,
        manifest: &'a Manifest,
        origin: Origin<'_>,
        remarks: &mut Vec<String>,
    ) -> Result<Option<&'a SystemPart>, Error> {
        let Some(part) = &manifest.system else { return Ok(None) };
        let Some(appliance) = &self.appliance else {
            remarks.push(format!(
                "system {} in it is for an appliance, which this is not: left out",
                part.version
            ));
            return Ok(None);
        };
        Ok(match appliance.judge(part, origin)? {
            Verdict::Stage => Some(part),
            Verdict::Leave(why) => {
                remarks.push(why);
                None
            }
        })
    }

    /// Writes the other slot, which cannot be booted before it is committed.
    pub(super) fn stage_system(
        &self,
        opened: &Opened,
        part: &SystemPart,
        origin: Origin<'_>,
        progress: &Progress,
    ) -> Result<Box<dyn Staging + '_>, Error> {
        let appliance =
            self.appliance.as_ref().ok_or_else(|| Error::System("there are no slots here".into()))?;
        let mut staging = appliance.stage(part, origin)?;
        copy(opened, part, &mut *staging, progress)?;
        Ok(staging)
    }
}

/// Copies the system of a bundle to a slot; what is written is what was hashed.
fn copy(
    opened: &Opened,
    part: &SystemPart,
    staging: &mut dyn Staging,
    progress: &Progress,
) -> Result<(), Error> {
    let beside = Beside::start()?;
    let mut written = progress.item(format!("system {}", part.version), Some(part.size()), Unit::Bytes);
    let files = &part.files;
    for (piece, file) in
        [(Piece::Root, &files.root), (Piece::Verity, &files.verity), (Piece::Kernel, &files.kernel)]
    {
        staging.begin(piece)?;
        stream(opened, file, &beside, &mut |bytes| {
            written.add(bytes.len() as u64);
            staging.write(bytes)
        })?;
        staging.end()?;
    }
    // Nothing of the description is acted on; what is signed is all that counts, and it must be there whole.
    stream(opened, &files.description, &beside, &mut |_| Ok(()))?;
    written.done();
    Ok(())
}

fn stream(
    opened: &Opened,
    file: &SystemFile,
    beside: &Beside,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = line_of(opened, &file.digest)?.filter(|line| line.kind == Content::System);
    let line =
        line.ok_or_else(|| Fault::Unlisted { name: "the system".into(), digest: file.digest.clone() })?;
    let mut hashers = vec![Hasher::new(Algorithm::Sha256)];
    pour(opened, &line, beside, &mut hashers, take)?;
    match hashers.pop().map(Hasher::finish) == Some(file.digest.clone()) {
        true => Ok(()),
        false => Err(Fault::Digest(file.digest.to_string()).into()),
    }
}
