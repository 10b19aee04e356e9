//! What of every pod must be known at every look, and no more: read at every change of the cache, so it must cost
//! little.

use super::orders::ANNOTATIONS;
use crate::cache::{CacheError, ObjectKey, Reader};
use crate::pods::heal;

/// One pod.
pub struct Row {
    /// Under which the kubelet runs it.
    pub uid: String,
    /// Where it is in the cache.
    pub key: ObjectKey,
    /// The values of [`ANNOTATIONS`].
    pub orders: [Option<String>; 2],
    /// What its annotation says of self-heal, if anything.
    pub heals: Option<bool>,
}

impl Row {
    /// `namespace/name`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.key.namespace, self.key.name)
    }
}

/// This node's pods.
pub fn rows(reader: &Reader, node: &str) -> Result<Vec<Row>, CacheError> {
    let annotation = |name: &str| format!("$.metadata.annotations.\"{name}\"");
    let (restart, whole) = (annotation(ANNOTATIONS[0].0), annotation(ANNOTATIONS[1].0));
    let [mirror, hash, heals] =
        ["kubernetes.io/config.mirror", "kubernetes.io/config.hash", heal::ENABLED].map(annotation);
    let paths = [
        "$.spec.nodeName",
        "$.metadata.uid",
        "$.metadata.namespace",
        "$.metadata.name",
        &mirror,
        &hash,
        &restart,
        &whole,
        &heals,
    ];
    let all = reader.texts("v1/pods", paths)?;
    let row = |[at, uid, namespace, name, mirror, hash, restart, whole, heals]: [Option<String>; 9]| {
        if at.as_deref() != Some(node) {
            return None;
        }
        let key = ObjectKey { resource: "v1/pods".to_owned(), namespace: namespace?, name: name? };
        let uid = if mirror.is_some() { hash.or(mirror)? } else { uid? };
        let heals = heals.and_then(|text| text.parse().ok());
        Some(Row { uid, key, orders: [restart, whole], heals })
    };
    Ok(all.into_iter().filter_map(row).collect())
}
