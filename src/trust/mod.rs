//! Keys and certificates that are edge's own, and what was verified with them.
//!
//! Refuses to know what a certificate is used for: rooms ask it to sign, and say for whom.

pub mod ca;
mod error;

pub use error::Error;
