//! Why something signed is not believed. Every one of these ends a command with exit code 3.

use std::path::PathBuf;

use super::key::KeyId;

/// Why a signed document was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Larger than anything honest.
    #[error("`{what}` has more than {most} bytes")]
    TooLarge {
        /// Which document.
        what: String,
        /// The most that is read, in bytes.
        most: u64,
    },
    /// Not JSON, or JSON that could be read in two ways.
    #[error("`{what}` cannot be read: {why}")]
    Malformed {
        /// Which document.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The signature is for a document of another kind.
    #[error("`{what}` is signed as `{found}`, not as `{wanted}`")]
    PayloadType {
        /// Which document.
        what: String,
        /// What it says it is.
        found: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// Fewer keys than needed vouch for it.
    #[error(
        "`{what}` is signed by {found} of the {needed} keys that are needed{}",
        if *.found == 0 { " hint: it is unsigned, was changed, or comes from a depot with another root" } else { "" }
    )]
    Threshold {
        /// Which document.
        what: String,
        /// Distinct trusted keys whose signature holds.
        found: usize,
        /// Keys that must sign.
        needed: u32,
    },
    /// A root that contradicts itself.
    #[error("root version {version} is not valid: {why}")]
    Root {
        /// Which.
        version: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A root that does not follow the one before it.
    #[error(
        "a root of version {found} cannot follow version {pinned} hint: every version between is needed, in order"
    )]
    RootOrder {
        /// The version that is trusted.
        pinned: u64,
        /// The version that came.
        found: u64,
    },
    /// The root says that it is no longer to be used.
    #[error(
        "the root of version {version} expired at {expires} hint: bring a newer root, made with `edge trust rotate`"
    )]
    RootExpired {
        /// Which.
        version: u64,
        /// When.
        expires: jiff::Timestamp,
    },
    /// Another root has the same version.
    #[error("root version {version} is pinned already, and this is another one hint: `{}` holds what is pinned, for good: set this gateway up anew (an appliance: write its card anew; `edge system reset` keeps the root)", .folder.display())]
    RootOther {
        /// The version.
        version: u64,
        /// Where the pinned roots are.
        folder: PathBuf,
    },
    /// An older or equal sequence number.
    #[error(
        "sequence {seq} of stream `{stream}` is not above {highest}, the highest that was accepted hint: a step back is a new bundle with the old content"
    )]
    SeqOld {
        /// The stream.
        stream: String,
        /// What came.
        seq: u64,
        /// The highest accepted.
        highest: u64,
    },
    /// A sequence number that would lock out all later ones.
    #[error(
        "sequence {seq} of stream `{stream}` is too far ahead of {highest} hint: at most {most} ahead; a root with new bundle keys starts anew"
    )]
    SeqFar {
        /// The stream.
        stream: String,
        /// What came.
        seq: u64,
        /// The highest accepted.
        highest: u64,
        /// The largest step.
        most: u64,
    },
    /// A signature by a key that nobody enrolled.
    #[error(
        "`{what}` is signed by the unknown key `{key}` hint: `edge trust enrol` makes a gateway's key known"
    )]
    UnknownKey {
        /// Which document.
        what: String,
        /// The key.
        key: KeyId,
    },
    /// A gateway shows another key than the one that was enrolled.
    #[error("gateway `{gateway}` is enrolled with the key `{known}`, and this receipt is of `{found}` hint: if the gateway was set up anew, remove `{}` first", .file.display())]
    OtherKey {
        /// The gateway.
        gateway: String,
        /// The enrolled key.
        known: KeyId,
        /// The key that came.
        found: KeyId,
        /// Where the enrolled key is.
        file: PathBuf,
    },
}
