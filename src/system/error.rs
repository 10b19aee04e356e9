//! What can go wrong with the appliance's own parts.

use std::io;
use std::path::PathBuf;

use super::slot::Slot;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another kind of machine.
    #[error("this machine is no edge appliance: `{}` is not there hint: `edge-pack image` makes one", .0.display())]
    NotAppliance(PathBuf),
    /// The initrd's word cannot be read.
    #[error("`{}` names no slot: `{text}`", .path.display())]
    BootedSlot {
        /// The initrd's file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// A file; the text names it.
    #[error(transparent)]
    Files(#[from] io::Error),
    /// A partition that every appliance has.
    #[error("disk `{disk}` has no partition `{label}` hint: is this the disk that the image was written to?")]
    NoPartition {
        /// The partition's name.
        label: String,
        /// The disk that the machine was started from.
        disk: String,
    },
    /// The initrd did not say which disk the machine was started from, and no other may be touched.
    #[error("`{}` names no disk hint: the initrd writes it; restart the machine", .0.display())]
    NoDisk(PathBuf),
    /// A program failed.
    #[error("`{command}` failed: {why}")]
    Run {
        /// Its words, without secrets.
        command: String,
        /// What it said, on one line.
        why: String,
    },
    /// The data cannot be opened, and is not given up for that.
    #[error(
        "the data partition cannot be opened: {0} hint: nothing is formatted; to give the data up and begin anew, plug in a stick with the file `edge-config/factory-reset` and restart"
    )]
    Data(String),
    /// There is no slot to go back to.
    #[error("there is no other good slot to go back to: {0}")]
    NoOther(String),
    /// The slot that would be written over is the only good one, until the one that runs is found good too.
    #[error("slot {other} is the only good one, and slot {booted} that runs was not found good yet")]
    OnlyGood {
        /// It.
        other: Slot,
        /// The one that runs.
        booted: Slot,
    },
    /// What was to be staged cannot be now.
    #[error("{0}")]
    Unfit(String),
    /// What was to be staged is no system for this machine.
    #[error("it is {0}")]
    OtherMachine(String),
    /// What was written reads back differently.
    #[error(
        "partition `{0}` reads back differently than it was written hint: the disk is damaged; the booted slot is untouched"
    )]
    ReadBack(String),
    /// No random bytes.
    #[error("the system gives no random bytes")]
    Randomness,
    /// `trust.json` is no copy that can be used.
    #[error("`{}` is damaged: {why} hint: what the store knows stays; after a reset, `edge trust pin ROOT` begins anew", .path.display())]
    Kept {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The store did not take what was kept.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// A root does not hold.
    #[error(transparent)]
    Trust(#[from] crate::trust::AnchorError),
}
