//! What can go wrong with a bundle, and which of it means that the bundle is not to be believed.

use std::io;
use std::path::PathBuf;

use super::system::Asked;
use crate::oci;
use crate::store;
use crate::sys::digest::Digest;
use crate::trust::{AnchorError, KeyError, Refusal};

/// Why a bundle was not made, read or imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A signature, or the rules against replay.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What the signed manifest says does not fit this gateway, or what lies beside it.
    #[error(transparent)]
    Content(#[from] Fault),
    /// The roots, or gateways' keys.
    #[error(transparent)]
    Trust(#[from] AnchorError),
    /// A signing key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The stick cannot be read or written; the text names the file.
    #[error("{0} hint: is the stick still plugged in? run the same command again, it goes on where it was")]
    Stick(#[source] io::Error),
    /// A file on this machine.
    #[error(transparent)]
    Files(io::Error),
    /// There is no bundle there.
    #[error("`{}` holds no bundle hint: give the folder that has `edge-bundle` in it, or one of the folders below that", .0.display())]
    NotThere(PathBuf),
    /// More lies there than anybody made for one stick.
    #[error("`{}` has more than {most} entries hint: give the folder of the one bundle that is meant, or remove the others", .folder.display())]
    TooMany {
        /// Where.
        folder: PathBuf,
        /// The most that are looked at.
        most: usize,
    },
    /// More than one stream is there.
    #[error("`{}` holds bundles of several streams: {streams} hint: give the folder of one", .folder.display())]
    Several {
        /// Where.
        folder: PathBuf,
        /// Their folders' names.
        streams: String,
    },
    /// Asked for wrongly.
    #[error("{0}")]
    Usage(String),
    /// Something that was asked for is not in the store.
    #[error(
        "`{0}` is not in the store hint: `edge image list` and `edge chart list` say what is; pull or add it first"
    )]
    Absent(String),
    /// Only some of an image is in the store.
    #[error(
        "`{name}` is not whole: `{missing}` of it is not in the store hint: `edge image pull` brings all of it"
    )]
    Partial {
        /// Its name; with the digest of one of its images where it has several.
        name: String,
        /// The first thing that it lacks.
        missing: Digest,
    },
    /// The bundle holds no such file.
    #[error("the bundle holds no file `{name}` hint: {}", files(.there))]
    NoFile {
        /// What was asked for.
        name: String,
        /// What it holds.
        there: Vec<String>,
    },
    /// A file that the bundle leaves out, and that is not here either.
    #[error(
        "`{0}` does not lie in this bundle, which leaves out what its receiver has, and is not here either hint: extract it where the bundle was imported, or make one with `--full`"
    )]
    NotCarried(String),
    /// Where a file was to be written, something lies.
    #[error("`{}` is there already hint: remove it, or choose another name", .0.display())]
    Taken(PathBuf),
    /// No room on the stick.
    #[error("`{}` has {free} bytes free, and {needed} are needed hint: {}use a larger stick, or leave images out", .folder.display(), removable(.older))]
    NoRoom {
        /// Where.
        folder: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
        /// What lies there of the stream, the oldest first, and the bytes of each.
        older: Vec<(String, u64)>,
    },
    /// A bundle lies where the next one would be made.
    #[error(
        "`{}` is there already, and this depot does not remember it hint: another depot made it, or this one was put back to an older state: use another stick, or remove `{}` if it is there and run the same command again: numbers go on after what lies on the stick",
        .folder.display(), .record.display()
    )]
    NumberTaken {
        /// Its folder.
        folder: PathBuf,
        /// What the depot remembers of the stream.
        record: PathBuf,
    },
    /// What was written reads back differently.
    #[error("`{0}` reads back differently than it was written hint: the stick is damaged; use another one")]
    ReadBack(String),
    /// The appliance's system cannot be staged.
    #[error("{0}")]
    System(String),
    /// The appliance's system cannot be staged before the one that runs is found good; nothing was changed.
    #[error("{why} hint: {}", early(.asked))]
    SystemEarly {
        /// Why not yet.
        why: String,
        /// Who asked.
        asked: Asked,
    },
    /// There is nothing to go back to.
    #[error("stream `{0}` has no earlier generation to go back to")]
    NoEarlier(String),
    /// A generation that is not there was asked for.
    #[error(
        "stream `{stream}` has no generation {number} hint: it has {there}; `edge bundle history` tells of each"
    )]
    NoGeneration {
        /// The stream.
        stream: String,
        /// What was asked for.
        number: u64,
        /// Those that there are.
        there: String,
    },
    /// A stream that is not there was asked for.
    #[error("there is no stream `{0}` hint: `edge bundle history` says which there are")]
    NoStream(String),
    /// Whoever asked for it went away before its turn came.
    #[error("it was called off while it waited for its turn; nothing was changed")]
    CalledOff,
    /// Threads cannot be had.
    #[error("cannot start threads: {0}")]
    Threads(#[from] io::Error),
    /// A registry did not take or give the bundle.
    #[error("the registry: {0}")]
    Registry(#[from] oci::Error),
    /// A registry has had enough of us, for longer than somebody waits.
    #[error(
        "`{url}` is rate limited for {seconds} s hint: run the same command again after that, it goes on where it was"
    )]
    Limited {
        /// What was asked for.
        url: String,
        /// When to come again.
        seconds: u64,
    },
    /// What a registry holds under that name is no bundle.
    #[error("`{reference}` is no bundle: {why}")]
    Artifact {
        /// What was asked for.
        reference: String,
        /// What is wrong.
        why: String,
    },
}

/// Why a bundle whose signature holds is refused all the same.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Another format, or an edge that is too old for it.
    #[error("the bundle is of format `{found}`, and this edge reads `{wanted}` hint: update edge first")]
    Format {
        /// What it says.
        found: String,
        /// What is read.
        wanted: String,
    },
    /// A field of the manifest that cannot be.
    #[error("the manifest is not valid: {0}")]
    Manifest(String),
    /// It is for somebody else.
    #[error("the bundle is for {wanted}, and this is {found}{hint}")]
    Audience {
        /// Whom it is for.
        wanted: String,
        /// Who this is.
        found: String,
        /// What to do, or nothing.
        hint: &'static str,
    },
    /// It holds the system of another kind of machine.
    #[error("the bundle holds {0}")]
    System(String),
    /// Its time is over.
    #[error("the bundle was to be used until {until}, and it is at least {passed} hint: make a new one")]
    Late {
        /// Its end.
        until: jiff::Timestamp,
        /// A time that has certainly passed.
        passed: jiff::Timestamp,
    },
    /// It is dated past the end of the root that vouches for it.
    #[error("the bundle is dated {created}, which is after its root's end at {expires}")]
    Dated {
        /// Its date.
        created: jiff::Timestamp,
        /// The root's end.
        expires: jiff::Timestamp,
    },
    /// It is dated so far ahead that no clock which is right can have said so.
    #[error(
        "the bundle is dated {created}, more than a year after {known}, the latest time that is known here hint: set the clock of whichever machine is wrong, this one or the depot, and make the bundle anew if it was the depot's; a next root tells the time as well"
    )]
    Ahead {
        /// Its date.
        created: jiff::Timestamp,
        /// The latest time of which anything is known, the machine's clock among it.
        known: jiff::Timestamp,
    },
    /// It builds on what this gateway does not have.
    #[error(
        "the bundle builds on a state that this gateway does not have: {missing} blobs are missing, the first is `{first}` hint: make it with this gateway's receipt, or with `--full`"
    )]
    Base {
        /// How many.
        missing: u64,
        /// One of them.
        first: Digest,
    },
    /// A file that the manifest names is not there.
    #[error("`{0}` is missing")]
    Missing(String),
    /// A file that the manifest does not name.
    #[error("`{0}` does not belong to the bundle")]
    Extra(String),
    /// A link, a pipe, a folder or a device where a file should be.
    #[error("`{0}` is not a plain file")]
    NotAFile(String),
    /// A file of another length.
    #[error("`{name}` has {found} bytes, and {wanted} are signed")]
    Size {
        /// Which.
        name: String,
        /// What it has.
        found: u64,
        /// What is signed.
        wanted: u64,
    },
    /// A file of another content.
    #[error("`{0}` is not what was signed")]
    Digest(String),
    /// A list that contradicts the manifest, or itself.
    #[error("`{name}` line {line}: {why}")]
    List {
        /// Which list.
        name: &'static str,
        /// From 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// A name is given to something that the bundle does not hold.
    #[error("`{name}` stands for `{digest}`, which the bundle does not list")]
    Unlisted {
        /// The ref or chart.
        name: String,
        /// What it stands for.
        digest: Digest,
    },
    /// Bytes that are said to be a manifest of an image, and are none.
    #[error("`{digest}` is no image manifest: {why}")]
    Image {
        /// Which.
        digest: Digest,
        /// What is wrong.
        why: String,
    },
}

/// What to do about a system that came too early.
fn early(asked: &Asked) -> &'static str {
    match asked {
        Asked::ByHand => {
            "wait until `edge system status` says so, or `edge system rollback`, and import again"
        }
        Asked::ByStick => "it is tried again by itself, or `edge system rollback`",
    }
}

/// What may go from a full stick, for a hint.
fn removable(older: &[(String, u64)]) -> String {
    let named: Vec<String> =
        older.iter().take(10).map(|(name, bytes)| format!("`{name}` ({bytes} bytes)")).collect();
    let more = older.len().saturating_sub(named.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match named.is_empty() {
        true => String::new(),
        false => format!("remove what no gateway needs any more of {}{more}, ", named.join(", ")),
    }
}

/// The files of a bundle, for a hint.
fn files(there: &[String]) -> String {
    let shown = there.iter().take(10).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match there.len() {
        0 => "it holds no file; whoever makes it adds one with `--file`".into(),
        count if count > 10 => format!("it holds {shown} and {} more", count - 10),
        _ => format!("it holds {shown}"),
    }
}

impl Error {
    /// Whether the bundle itself is refused (exit code 3), and not the machine at fault.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Content(_) | Self::Trust(AnchorError::Refused(_)) => true,
            Self::Store(e) => {
                matches!(e, store::Error::Rollback { .. } | store::Error::DigestMismatch { .. })
            }
            _ => false,
        }
    }

    /// Whether it was asked for wrongly (exit code 2).
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_) | Self::Several { .. } | Self::Trust(AnchorError::NotPinned))
    }
}
