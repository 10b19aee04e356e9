//! What each kind of answer becomes in the cache; of lists and watches `listed` knows.

use serde_json::Value;

use super::decoder::Decoder;
use super::discovery;
use super::own_issuers::OwnIssuers;
use super::record::Intake;
use super::replay::bare;
use crate::cache::{Cache, CacheError, Document, ObjectKey, TokenKey, Writer};
use crate::kube::meta;

/// Bytes of one object at the most; etcd takes 1.5 MiB, and what is larger is no object.
pub const OBJECT_LIMIT: usize = 16 << 20;

/// Takes what an answer carries once all of it is there; of one that broke off it hears nothing.
pub trait TakeWhole: Send {
    /// Keeps what the bytes tell.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn take(&mut self, writer: &mut Writer, bytes: Vec<u8>) -> Result<(), CacheError>;
}

/// Gathers the bytes of an answer that makes sense only as a whole.
pub struct Gathered<T> {
    taker: T,
    bytes: Vec<u8>,
}

impl<T: TakeWhole> Gathered<T> {
    /// Gathers for `taker`.
    pub fn new(taker: T) -> Self {
        Self { taker, bytes: Vec::new() }
    }
}

impl<T: TakeWhole> Intake for Gathered<T> {
    fn feed(&mut self, _: &mut Writer, bytes: &[u8]) -> Result<(), CacheError> {
        if self.bytes.len() + bytes.len() > OBJECT_LIMIT {
            return Err(CacheError::Refused(format!("an answer is larger than {OBJECT_LIMIT} bytes")));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self, writer: &mut Writer, whole: bool) -> Result<(), CacheError> {
        if !whole {
            return Ok(());
        }
        self.taker.take(writer, std::mem::take(&mut self.bytes))
    }
}

/// A single object that was read or written by name.
pub struct SingleIntake {
    /// How to decode it.
    pub decoder: Decoder,
    /// Who asked.
    pub identity: String,
    /// Which object.
    pub key: ObjectKey,
    /// What was learnt.
    pub single: Single,
}

/// What the answer about a single object means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Single {
    /// It was read: its reader may read it again.
    Read,
    /// It was written: news for whoever has read it.
    Written,
    /// It was made.
    Created,
    /// It was deleted: a Status says so, or the object as it was last, or as it is until its finalizers are done.
    Deleted,
    /// There is none of this name, says a Status.
    Absent,
}

impl TakeWhole for SingleIntake {
    fn take(&mut self, writer: &mut Writer, bytes: Vec<u8>) -> Result<(), CacheError> {
        let value = self.decoder.value(&bytes)?;
        match self.single {
            Single::Absent if is_not_found(&value, &self.key.name) => {
                writer.put_absent(&self.identity, &self.key)
            }
            Single::Absent => Ok(()),
            Single::Read if meta::kind(&value) != Some("Status") => {
                writer.put_single(&self.identity, &self.decoder.keep(value)?)
            }
            Single::Written if meta::kind(&value) != Some("Status") => {
                writer.put_written(&self.identity, &self.decoder.keep(value)?)
            }
            Single::Created if meta::kind(&value) != Some("Status") => {
                writer.put_created(&self.identity, &self.decoder.keep(value)?)
            }
            Single::Read | Single::Written | Single::Created => Ok(()),
            Single::Deleted if is_there_still(&value) => {
                writer.put_written(&self.identity, &self.decoder.keep(value)?)
            }
            // Neither a Status nor an object: nothing that says what is gone.
            Single::Deleted if meta::kind(&value) != Some("Status") && meta::uid(&value).is_none() => Ok(()),
            Single::Deleted => self.each_extent(|key| {
                let uid = value.pointer("/details/uid").and_then(Value::as_str).or_else(|| meta::uid(&value));
                writer.take_everywhere(&self.identity, key, uid)
            }),
        }
    }
}

impl SingleIntake {
    /// What was learnt holds of the object, and of its metadata alone.
    fn each_extent(
        &self,
        mut learn: impl FnMut(&ObjectKey) -> Result<(), CacheError>,
    ) -> Result<(), CacheError> {
        learn(&self.key)?;
        learn(&ObjectKey { resource: bare(&self.key.resource), ..self.key.clone() })
    }
}

/// Whether an object that was deleted waits for its finalizers, which a namespace has in its spec too, or for its
/// containers to end.
fn is_there_still(value: &Value) -> bool {
    let has = |at: &str| value.pointer(at).and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    let ends = meta::deletion_timestamp(value).is_some()
        && meta::deletion_grace_period_seconds(value).is_some_and(|seconds| seconds > 0);
    meta::kind(value) != Some("Status") && (has("/metadata/finalizers") || has("/spec/finalizers") || ends)
}

/// Whether this is an API server's word, with this reason.
pub fn is_status(value: &Value, reason: &str) -> bool {
    meta::kind(value) == Some("Status") && value.get("reason").and_then(Value::as_str) == Some(reason)
}

/// Whether this is an API server's word that the object is not there, and not a 404 of something in
/// between.
fn is_not_found(status: &Value, name: &str) -> bool {
    is_status(status, "NotFound") && status.pointer("/details/name").and_then(Value::as_str) == Some(name)
}

/// A document such as `/apis`.
pub struct DocumentIntake {
    /// Who read it.
    pub identity: String,
    /// Its path, with the query.
    pub path: String,
    /// Its Content-Type and ETag; the body comes when it is whole.
    pub document: Document,
}

impl TakeWhole for DocumentIntake {
    fn take(&mut self, writer: &mut Writer, bytes: Vec<u8>) -> Result<(), CacheError> {
        self.document.body = bytes;
        discovery::put(writer, &self.identity, &self.path, &self.document)
    }
}

/// The answer to a TokenRequest.
pub struct TokenIntake {
    /// How to decode it.
    pub decoder: Decoder,
    /// What was asked.
    pub key: TokenKey,
    /// Whom its issuer is noted with.
    pub own: (OwnIssuers, Cache),
}

impl TakeWhole for TokenIntake {
    fn take(&mut self, writer: &mut Writer, bytes: Vec<u8>) -> Result<(), CacheError> {
        // The token alone is needed, whatever a newer cloud says beside it.
        let decoded = self.decoder.encoding.decode(&bytes);
        let value = decoded.map_err(unreadable)?.value;
        let token = value.pointer("/status/token").and_then(Value::as_str).filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(());
        }
        self.own.0.learn_token(&self.own.1, token);
        writer.put_token(&self.key, value.to_string().as_bytes())
    }
}

/// An event of the kubelet's that went to the cloud, kept to be shown here too.
pub struct EventIntake {
    /// How to decode it.
    pub decoder: Decoder,
}

impl TakeWhole for EventIntake {
    fn take(&mut self, writer: &mut Writer, bytes: Vec<u8>) -> Result<(), CacheError> {
        let value = self.decoder.value(&bytes)?;
        if meta::kind(&value) == Some("Status") {
            return Ok(());
        }
        super::apply::keep_event(writer, self.decoder.keep(value)?)
    }
}

pub fn unreadable(error: crate::kube::Error) -> CacheError {
    CacheError::Refused(error.to_string())
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
