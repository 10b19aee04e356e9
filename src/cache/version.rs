//! Versions of what was changed here and not by the cloud.
//!
//! Each change here has one of its own, as each change in the cloud has: clients take an object of the version that they
//! know for one that they have seen. They rise from one change to the next, also over a restart, and begin where no cloud
//! comes to, so that none of them is current there.

use serde_json::Value;

use super::{CacheError, NODE, Object, Reader, Writer};

/// What was changed here has a version of at least this; it fits into 63 bits, as clients read versions.
const FIRST: u64 = 9_000_000_000_000_000_000;
/// Under which name the last one is kept.
const LAST: &str = "version-last";
/// Under which name it is kept from which on they are of this outage.
const SINCE: &str = "version-since";

/// The number of a version that was given here; `None` of one of the cloud's.
pub fn given(version: &str) -> Option<u64> {
    version.parse().ok().filter(|number| *number >= FIRST)
}

/// A version after `before` and after `last`, and after all that were given before the clock was set back by less than
/// it has run since.
pub fn next(last: Option<u64>, before: Option<u64>) -> u64 {
    let now = FIRST + u64::try_from(crate::sys::clock::now().as_millisecond()).unwrap_or(0);
    last.max(before).map_or(now, |last| now.max(last.saturating_add(1)))
}

/// The versions that were given in this outage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    since: u64,
    last: u64,
}

impl Given {
    /// The last of them.
    pub fn last(self) -> Option<u64> {
        (self.last >= self.since && self.last > 0).then_some(self.last)
    }

    /// Whether `version` is one of them: whoever has seen it knows what there was then.
    pub fn holds(self, version: u64) -> bool {
        (self.since..=self.last).contains(&version)
    }
}

impl Reader {
    /// The versions that were given in this outage.
    ///
    /// # Errors
    /// The statement's.
    pub fn given(&self) -> Result<Given, CacheError> {
        let number =
            |key| Ok::<_, CacheError>(self.meta(key)?.and_then(|text| text.parse().ok()).unwrap_or(0));
        Ok(Given { since: number(SINCE)?, last: number(LAST)? })
    }
}

impl Writer {
    /// `known` as it was changed here, with a version of its own.
    ///
    /// # Errors
    /// The statement's.
    pub fn changed(&self, known: &Object, mut body: Value) -> Result<Object, CacheError> {
        let version = self.next_version(known)?;
        if let Some(meta) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.insert("resourceVersion".to_owned(), Value::from(version.to_string()));
        }
        Ok(Object { body, ..known.clone() })
    }

    /// Whoever goes on from a version that was given until now must read everything anew: something has happened since
    /// that is not told to him.
    ///
    /// # Errors
    /// The statement's.
    pub fn outdate_versions(&self) -> Result<(), CacheError> {
        let Some(last) = self.last_version()? else { return Ok(()) };
        self.set_meta(SINCE, &last.saturating_add(1).to_string())
    }

    fn next_version(&self, known: &Object) -> Result<u64, CacheError> {
        let next = next(self.last_version()?, given(known.shown_version()));
        self.set_meta(LAST, &next.to_string())?;
        Ok(next)
    }

    fn last_version(&self) -> Result<Option<u64>, CacheError> {
        Ok(self.meta(LAST)?.and_then(|text| text.parse().ok()))
    }
}

impl Object {
    /// The version that clients are shown.
    pub fn shown_version(&self) -> &str {
        self.body.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default()
    }

    /// The version that `identity` is shown. Of nodes kubelet is shown the cloud's: it holds that Node for the newest
    /// whose version is the highest that it ever saw, and would take none from the cloud any more.
    pub fn version_for(&self, identity: &str) -> &str {
        match identity == NODE && self.key.resource == "v1/nodes" {
            true if self.version.is_empty() => "0",
            true => &self.version,
            false => self.shown_version(),
        }
    }

    /// The object as `identity` is shown it.
    #[must_use]
    pub fn shown_to(mut self, identity: &str) -> Self {
        let version = Value::from(self.version_for(identity));
        if let Some(shown) = self.body.pointer_mut("/metadata/resourceVersion") {
            *shown = version;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cache::Cache;

    fn object(resource: &str, version: &str) -> Object {
        let body = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": version}});
        Object::new(resource, body).unwrap()
    }

    async fn change(cache: &Cache, known: Object) -> Object {
        cache.commit(move |writer| writer.changed(&known, known.body.clone())).await.unwrap()
    }

    #[tokio::test]
    async fn they_rise_over_a_restart_and_are_of_one_outage() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Cache::open(folder.path(), folder.path()).unwrap().cache;
        let cache = open();
        let given_now = async |cache: &Cache| cache.read(|reader| reader.given()).await.unwrap();
        assert_eq!(given_now(&cache).await.last(), None);
        let first = change(&cache, object("v1/pods", "7")).await;
        assert_eq!(first.version, "7", "what it was made from is kept");
        // As if the clock had been an hour ahead.
        let ahead = given(first.shown_version()).unwrap() + 3_600_000;
        cache.commit(move |writer| writer.set_meta(LAST, &ahead.to_string())).await.unwrap();
        drop(cache);
        let cache = open();
        let second = change(&cache, object("v1/pods", "8")).await;
        assert_eq!(given(second.shown_version()), Some(ahead + 1));
        let held = given_now(&cache).await;
        assert!(held.holds(ahead) && !held.holds(ahead + 2) && held.last() == Some(ahead + 1));
        cache.commit(|writer| writer.outdate_versions()).await.unwrap();
        let held = given_now(&cache).await;
        assert!(!held.holds(ahead + 1) && held.last().is_none());
        let third = change(&cache, second).await;
        assert_eq!(given(third.shown_version()), Some(ahead + 2));
        assert!(given_now(&cache).await.holds(ahead + 2));
    }

    #[tokio::test]
    async fn kubelet_is_shown_the_clouds_version_of_nodes() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        for (resource, identity, is_given) in
            [("v1/nodes", NODE, false), ("v1/nodes", "other", true), ("v1/pods", NODE, true)]
        {
            let changed = change(&cache, object(resource, "7")).await.shown_to(identity);
            assert_eq!(given(changed.shown_version()).is_some(), is_given, "{resource} {identity}");
            assert!(is_given || changed.shown_version() == "7");
        }
    }
}
