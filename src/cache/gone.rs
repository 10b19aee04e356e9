//! What is not there any more, and what a list that is still on its way says of it.
//!
//! The cloud read a list when it began, and on a slow link it is minutes until all of it is here. A watch of the same scope
//! tells meanwhile what has come and gone since; and what it has told once it does not tell again.

use std::collections::{HashMap, HashSet};

use rusqlite::params;

use super::{CacheError, Object, ObjectKey, ScopeId, Writer, compares, seconds};

/// Deletions that are remembered at the most.
const REMEMBERED: usize = 2048;
/// For how long, in seconds: longer than any list is on its way.
const KEPT: i64 = 3600;

/// Objects that watches have told to be gone lately: by uid, from one scope or from all.
#[derive(Debug, Default)]
pub(super) struct Gone {
    all: HashMap<(Option<ScopeId>, String), At>,
    /// How many were told.
    turn: u64,
}

/// Of which version that was, and when it was told, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
struct At {
    version: u64,
    told: i64,
    turn: u64,
}

impl Gone {
    fn note(&mut self, scope: Option<ScopeId>, object: &Object) {
        // Events go by the thousand, and nothing depends on one.
        if object.key.resource.ends_with("/events") {
            return;
        }
        let Ok(version) = object.version.parse() else { return };
        let told = seconds();
        if self.all.len() >= REMEMBERED {
            let mut turns: Vec<u64> = self.all.values().map(|at| at.turn).collect();
            let middle = *turns.select_nth_unstable(REMEMBERED / 2).1;
            self.all.retain(|_, at| at.turn > middle && told - at.told < KEPT);
        }
        self.turn += 1;
        self.all.insert((scope, object.uid.clone()), At { version, told, turn: self.turn });
    }

    /// Forgets what was told of these scopes: others may come to have their numbers.
    pub(super) fn drop_scopes(&mut self, scopes: &HashSet<ScopeId>) {
        self.all.retain(|(scope, _), _| scope.is_none_or(|scope| !scopes.contains(&scope)));
    }

    /// Whether `object`, of a list that the cloud read at `since` or later, is what it was before it went from the scope.
    pub(super) fn is_after(&self, scope: ScopeId, object: &Object, since: i64) -> bool {
        self.is_over(object, since) || self.went_from(Some(scope), object, since)
    }

    /// Whether `object`, which the cloud read at `since` or later, is what it was before it was gone.
    pub(super) fn is_over(&self, object: &Object, since: i64) -> bool {
        self.went_from(None, object, since)
    }

    fn went_from(&self, from: Option<ScopeId>, object: &Object, since: i64) -> bool {
        if self.all.is_empty() || object.uid.is_empty() {
            return false;
        }
        let Ok(read) = object.version.parse::<u64>() else { return false };
        let gone = self.all.get(&(from, object.uid.clone()));
        gone.is_some_and(|at| (since..=compares()).contains(&at.told) && at.version >= read)
    }
}

impl Writer {
    /// Whether a member that is not in a list of this version, which the cloud read at `since` or later, came after that.
    pub(super) fn has_come_since(&self, object: i64, since: i64, version: &str) -> Result<bool, CacheError> {
        let Ok(version) = version.parse::<i64>() else { return Ok(false) };
        let sql = "SELECT 1 FROM object WHERE id = ? AND at BETWEEN ? AND ? AND CAST(version AS INTEGER) > ?";
        let is_later = self.db().prepare_cached(sql)?.exists(params![object, since, compares(), version])?;
        Ok(is_later && !self.is_changed_here(object)?)
    }

    /// Takes an object out of the scope; out of the file once no scope holds it. Another one that was made under its
    /// name since stays.
    ///
    /// # Errors
    /// The statement's.
    pub fn take(&mut self, scope: ScopeId, object: &Object) -> Result<(), CacheError> {
        self.gone.note(Some(scope), object);
        let Some((id, known)) = self.object(&object.key)? else { return Ok(()) };
        if known.uid != object.uid {
            return Ok(());
        }
        self.db()
            .prepare_cached("DELETE FROM member WHERE scope = ? AND object = ?")?
            .execute([scope.0, id])?;
        self.drop_if_unread(id)
    }

    /// The same where a watch of `identity` says that the object is gone, and not from a list alone.
    ///
    /// # Errors
    /// The statement's.
    pub fn take_gone(&mut self, identity: &str, object: &Object) -> Result<(), CacheError> {
        self.gone.note(None, object);
        self.take_everywhere(identity, &object.key, Some(&object.uid))
    }

    /// Takes an object out of every scope of `identity`, because the cloud says it is not there: the one of that uid,
    /// or whichever.
    ///
    /// # Errors
    /// The statement's.
    pub fn take_everywhere(
        &mut self,
        identity: &str,
        key: &ObjectKey,
        uid: Option<&str>,
    ) -> Result<(), CacheError> {
        let Some((id, known)) = self.object(key)? else { return Ok(()) };
        if uid.is_some_and(|uid| known.uid != uid) {
            return Ok(());
        }
        self.db()
            .prepare_cached(
                "DELETE FROM member WHERE object = ?1 AND scope IN
                 (SELECT scope.id FROM scope JOIN identity ON identity.id = scope.identity
                  WHERE identity.name = ?2)",
            )?
            .execute(params![id, identity])?;
        self.drop_if_unread(id)
    }

    /// Removes an object for everybody, as after a deletion on this node.
    ///
    /// # Errors
    /// The statement's.
    pub fn remove(&mut self, key: &ObjectKey) -> Result<(), CacheError> {
        let Some((id, _)) = self.object(key)? else { return Ok(()) };
        self.db().prepare_cached("DELETE FROM member WHERE object = ?")?.execute([id])?;
        self.drop_if_unread(id)
    }

    pub(super) fn drop_if_unread(&self, object: i64) -> Result<(), CacheError> {
        self.db()
            .prepare_cached(
                "DELETE FROM object WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM member WHERE object = ?1)",
            )?
            .execute([object])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cache::{Cache, ListRecord, NODE, ScopeKey};

    fn pod(name: &str, version: u64) -> Object {
        let meta =
            json!({"name": name, "namespace": "ns", "uid": name, "resourceVersion": version.to_string()});
        Object::new("v1/pods", json!({ "metadata": meta })).unwrap()
    }

    fn scope(labels: &str) -> ScopeKey {
        ScopeKey {
            identity: NODE.into(),
            resource: "v1/pods".into(),
            namespace: String::new(),
            labels: labels.into(),
            fields: String::new(),
        }
    }

    async fn names(cache: &Cache, labels: &'static str) -> Vec<String> {
        let read = cache.read(move |r| {
            let of = r.scopes(NODE, "v1/pods", "")?.into_iter().find(|s| s.key.labels == labels).unwrap();
            let rows = r.members(of.id)?;
            Ok(r.objects(of.id, &rows)?.into_iter().map(|object| object.key.name).collect())
        });
        read.await.unwrap()
    }

    /// As on a slow link, or where somebody lists what kubelet watches.
    #[tokio::test]
    async fn what_a_watch_tells_while_a_list_is_on_its_way_outlasts_the_list() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let job = |w: &mut Writer| {
            let (all, some) = (w.scope(&scope(""))?, w.scope(&scope("a=b"))?);
            for id in [all, some] {
                let mut first = ListRecord::default();
                ["stays", "missed", "deleted", "left", "back"]
                    .iter()
                    .try_for_each(|name| w.put_listed(id, &mut first, &pod(name, 5)))?;
                w.finish(id, &first, "PodList", "6")?;
            }
            // The cloud reads both at version 10.
            let (mut list, mut selected) = (ListRecord::default(), ListRecord::default());
            w.put(all, &pod("new", 11))?;
            w.put(some, &pod("new", 11))?;
            w.take_gone(NODE, &pod("deleted", 12))?;
            w.take(some, &pod("left", 13))?;
            w.take(some, &pod("back", 8))?;
            for name in ["stays", "deleted", "left", "back"] {
                let version = if name == "back" { 9 } else { 5 };
                w.put_listed(all, &mut list, &pod(name, version))?;
                w.put_listed(some, &mut selected, &pod(name, version))?;
            }
            w.finish(all, &list, "PodList", "10")?;
            w.finish(some, &selected, "PodList", "10")
        };
        cache.commit(job).await.unwrap();
        assert_eq!(names(&cache, "").await, ["back", "left", "new", "stays"]);
        assert_eq!(names(&cache, "a=b").await, ["back", "new", "stays"], "of it alone `left` is gone");
    }

    /// Versions begin lower then, and nothing that was told before holds any more.
    #[tokio::test]
    async fn a_list_that_begins_later_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let job = |w: &mut Writer| {
            let id = w.scope(&scope(""))?;
            w.put(id, &pod("new", 20))?;
            w.take_gone(NODE, &pod("restored", 20))?;
            w.db().execute("UPDATE object SET at = at - 60", [])?;
            w.gone.all.values_mut().for_each(|at| at.told -= 60);
            let mut list = ListRecord::default();
            w.put_listed(id, &mut list, &pod("restored", 3))?;
            w.finish(id, &list, "PodList", "4")
        };
        cache.commit(job).await.unwrap();
        assert_eq!(names(&cache, "").await, ["restored"]);
    }

    #[test]
    fn so_many_deletions_are_remembered_and_no_more() {
        let mut gone = Gone::default();
        (0..10 * REMEMBERED).for_each(|n| gone.note(None, &pod(&n.to_string(), 1)));
        assert!(gone.all.len() <= REMEMBERED);
        let last = 10 * REMEMBERED - 1;
        let is_known = |n: usize| gone.is_after(ScopeId(1), &pod(&n.to_string(), 1), 0);
        assert!((last - REMEMBERED / 4..=last).all(is_known), "the last ones, all of one second");
        assert!(!is_known(0));
    }

    #[test]
    fn what_was_told_of_a_scope_goes_with_it() {
        let (mut gone, dropped, stays) = (Gone::default(), ScopeId(7), ScopeId(8));
        gone.note(Some(dropped), &pod("a", 5));
        gone.note(Some(stays), &pod("a", 5));
        gone.drop_scopes(&HashSet::from([dropped]));
        assert!(!gone.is_after(dropped, &pod("a", 5), 0));
        assert!(gone.is_after(stays, &pod("a", 5), 0));
    }
}
