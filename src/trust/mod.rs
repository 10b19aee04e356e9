//! Keys and certificates that are edge's own, and what was verified with them.
//!
//! Two things that share nothing: the local certificate authority (`ca`), and the signatures of bundles: Ed25519
//! keys (`key`), envelopes (`envelope`, DSSE), the chain of roots (`root`, `anchor`), the rules against replay
//! (`sequence`), gateways' keys (`gateway`). And of others' authorities, which of them signed what (`certificate`).
//!
//! Refuses to know what a certificate or a signed document is used for. Whoever holds a [`Verified`] value got it
//! from here, and nobody else can make one.

mod anchor;
pub mod ca;
pub mod certificate;
mod envelope;
mod error;
pub mod gateway;
mod key;
mod refusal;
mod root;
pub mod sequence;
pub mod strict;
mod verified;

pub use anchor::{
    Anchor, AnchorError, Chain, file_name as root_file_name, read_file as read_root_file, version_of,
};
pub use envelope::Envelope;
pub use error::{Error, KeyError};
pub use gateway::{Enrolled, is_name};
pub use key::{KeyId, PublicKey, SecretKey};
pub use refusal::Refusal;
pub use root::{Draft, LARGEST_ROOT, ROOT_TYPE, Role, RoleName, Root};
pub use verified::Verified;
