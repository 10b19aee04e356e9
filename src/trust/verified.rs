//! What was verified, as a type: whoever has one need not ask.

use std::ops::Deref;

use crate::sys::digest::Digest;

/// A value whose signatures held. Only `trust` can make one.
#[derive(Clone, Debug)]
pub struct Verified<T> {
    value: T,
    digest: Digest,
}

impl<T> Verified<T> {
    /// `envelope` is what the value was in, signatures included.
    pub(super) fn new(value: T, envelope: &[u8]) -> Self {
        Self { value, digest: Digest::sha256(envelope) }
    }

    /// The digest of the envelope that it came in.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
