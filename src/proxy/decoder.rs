//! Bytes of an answer, as the objects that the cache keeps; and which resources are newer than this edge's tables.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::cache::{Cache, CacheError, Object};
use crate::kube::Encoding;
use crate::kube::codec::Decoded;

/// Resources whose protobuf holds what this edge does not know: newer than its tables. They are
/// asked for in JSON from then on, so that nothing is lost silently.
#[derive(Clone, Debug)]
pub struct Unknown {
    resources: Arc<Mutex<HashSet<String>>>,
    cache: Cache,
}

impl Unknown {
    /// Knows of none yet.
    pub fn new(cache: Cache) -> Self {
        Self { resources: Arc::default(), cache }
    }

    /// Whether `resource` must be asked for in JSON.
    pub fn contains(&self, resource: &str) -> bool {
        self.resources.lock().is_ok_and(|set| set.contains(resource))
    }

    fn note(&self, resource: &str) {
        if self.resources.lock().is_ok_and(|mut set| set.insert(resource.to_owned())) {
            tracing::info!(resource, "is newer than this edge: asked for in JSON from now on");
            self.cache.resync();
        }
    }
}

/// Turns an object's bytes into what the cache keeps.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Such as `v1/pods`.
    pub resource: String,
    /// How the answer is encoded.
    pub encoding: Encoding,
    /// Where to note what is newer than this edge.
    pub unknown: Unknown,
}

impl Decoder {
    /// Decodes one object or Status.
    ///
    /// # Errors
    /// [`CacheError::Refused`] when it is none.
    pub fn value(&self, bytes: &[u8]) -> Result<Value, CacheError> {
        self.whole(self.encoding.decode(bytes))
    }

    /// Only whole objects are kept; of one with fields that are not known here, the resource is noted.
    pub fn whole(&self, decoded: Result<Decoded, crate::kube::Error>) -> Result<Value, CacheError> {
        decoded.and_then(Decoded::whole).map_err(|error| {
            if self.encoding == Encoding::Protobuf {
                self.unknown.note(&self.resource);
            }
            CacheError::Refused(format!("an answer of {} is unreadable: {error}", self.resource))
        })
    }

    pub fn object(&self, bytes: &[u8]) -> Result<Object, CacheError> {
        self.keep(self.value(bytes)?)
    }

    pub fn keep(&self, value: Value) -> Result<Object, CacheError> {
        Object::new(&self.resource, value)
            .ok_or_else(|| CacheError::Refused(format!("an object of {} has no name", self.resource)))
    }
}
