//! Bytes of an answer, as the objects that the cache keeps; and which resources are newer than this edge's tables.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::replay;
use crate::cache::{Cache, CacheError, Object};
use crate::kube::codec::Decoded;
use crate::kube::{Encoding, meta, table};

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

/// How much of an object is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// Its metadata alone, which is all that its reader has asked for.
    Metadata,
}

/// Turns an object's bytes into what the cache keeps.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Such as `v1/pods`; as [`super::replay::bare`] has it where only metadata is kept.
    pub resource: String,
    /// How much of each object the answer holds.
    pub extent: Extent,
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
                // Asked for it is by its own name, however much of it is wanted.
                self.unknown.note(replay::plain(&self.resource));
            }
            CacheError::Refused(format!("an answer of {} is unreadable: {error}", self.resource))
        })
    }

    pub fn object(&self, bytes: &[u8]) -> Result<Object, CacheError> {
        self.keep(self.value(bytes)?)
    }

    /// As the cache keeps it. A view is never taken for the object: whoever reads that later would find it empty.
    pub fn keep(&self, value: Value) -> Result<Object, CacheError> {
        let value = match self.extent {
            Extent::Metadata => table::partial(&value),
            Extent::Whole if is_view(&value) => {
                let kind = meta::kind(&value).unwrap_or_default();
                return Err(CacheError::Refused(format!("a {kind} is not all of {}", self.resource)));
            }
            Extent::Whole => value,
        };
        Object::new(&self.resource, value)
            .ok_or_else(|| CacheError::Refused(format!("an object of {} has no name", self.resource)))
    }
}

/// Whether it is what an API server makes of an object for whoever wants less, or a table.
fn is_view(value: &Value) -> bool {
    value.get("apiVersion").and_then(Value::as_str).is_some_and(|version| version.starts_with("meta.k8s.io/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_whom_only_metadata_is_unknown_it_is_asked_in_json_too() {
        let folder = tempfile::tempdir().unwrap();
        let unknown = Unknown::new(Cache::open(folder.path(), folder.path()).unwrap().cache);
        for (resource, extent) in
            [("v1/pods".to_owned(), Extent::Whole), (replay::bare("v1/nodes"), Extent::Metadata)]
        {
            let encoding = Encoding::Protobuf;
            let decoder = Decoder { resource, extent, encoding, unknown: unknown.clone() };
            assert!(decoder.value(b"no protobuf").is_err());
        }
        assert!(unknown.contains("v1/pods") && unknown.contains("v1/nodes"), "{unknown:?}");
    }
}
