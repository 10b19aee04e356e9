//! Which pods need which images of the store: the cache and the store, tied together.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::task::TaskError;
use crate::cache::Reader;
use crate::oci::Reference;
use crate::pods::pins::{Needed, needed};
use crate::store::Store;
use crate::sys::digest::Digest;
use crate::sys::durable;

/// The holder of what pods need.
const HOLDER: &str = "pods";

/// The cached pods of this node with what each needs.
pub struct Pods {
    /// `namespace/name` and its images; `None` while pods were never listed, which is not the same as none.
    known: Option<Vec<(String, Needed)>>,
}

/// The pods of the cache in the state folder.
///
/// # Errors
/// The cache is there and cannot be read.
pub fn pods(state: &Path) -> Result<Pods, TaskError> {
    let path = state.join("cache.db");
    if !durable::exists(&path).map_err(TaskError::failed)? {
        return Ok(Pods { known: None });
    }
    let read = Reader::open(&path).and_then(|reader| reader.own_pods());
    let pods = read.map_err(|e| TaskError::failed(format!("cannot read which pods need images: {e}")))?;
    let one = |pod: Value| {
        let part = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
        (format!("{}/{}", part("namespace"), part("name")), needed(std::slice::from_ref(&pod)))
    };
    Ok(Pods { known: pods.map(|pods| pods.into_iter().map(one).collect()) })
}

impl Pods {
    /// The pods that need an image of this full name or digest, as `pod namespace/name`.
    pub fn of(&self, name: &str, digest: &Digest) -> Vec<String> {
        let needs = |needed: &Needed| needed.names.contains(name) || needed.digests.contains(digest.as_str());
        let pods = self.known.iter().flatten().filter(|(_, needed)| needs(needed));
        pods.map(|(pod, _)| format!("pod {pod}")).collect()
    }
}

/// Has the store keep the images of the cached pods, whatever refs and limits say. What pods needed before stays where
/// they are not known now.
///
/// # Errors
/// The cache cannot be read, or the store not written to: then nothing may be collected.
pub fn pin(store: &Store, state: &Path) -> Result<(), TaskError> {
    let Some(known) = pods(state)?.known else { return Ok(()) };
    let mut digests: BTreeSet<Digest> = BTreeSet::new();
    for (_, needed) in known {
        digests.extend(needed.digests.iter().filter_map(|digest| digest.parse().ok()));
        for name in needed.names.iter().filter_map(|name| name.parse::<Reference>().ok()) {
            let found = store.manifest(&name.repository(), name.name())?;
            digests.extend(found.map(|manifest| manifest.blob.digest));
        }
    }
    Ok(store.set_pins(HOLDER, digests.into_iter().collect())?)
}
