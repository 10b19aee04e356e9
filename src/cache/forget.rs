//! What is forgotten with time, and what is not though nobody asks for it.

use std::collections::HashSet;

use rusqlite::params;

use super::bound::TOLD_FROM;
use super::scope::{SCOPE_SELECT, pod_of};
use super::{CacheError, NODE, ObjectKey, Scope, ScopeKey, Writer, today};

impl Writer {
    /// Keeps at most `most` waiting creations of `resource` by the node, the newest.
    ///
    /// # Errors
    /// The statement's.
    pub fn bound_node_creations(&self, resource: &str, most: usize) -> Result<usize, CacheError> {
        Ok(self
            .db()
            .prepare_cached(
                "DELETE FROM change WHERE kind = 'create' AND resource = ?1
                 AND id NOT IN (SELECT change FROM author) AND id <=
                 (SELECT id FROM change WHERE kind = 'create' AND resource = ?1
                  AND id NOT IN (SELECT change FROM author) ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            )?
            .execute(params![resource, i64::try_from(most).unwrap_or(i64::MAX)])?)
    }

    /// How many creations of `resource` wait that `identity` made, and how many that any client did.
    ///
    /// # Errors
    /// The statement's.
    pub fn client_creations(&self, resource: &str, identity: &str) -> Result<(usize, usize), CacheError> {
        let sql = "SELECT count(*) FILTER (WHERE identity = ?2), count(*) FROM author
                   JOIN change ON change.id = author.change WHERE kind = 'create' AND resource = ?1";
        let (own, all): (i64, i64) = self
            .db()
            .prepare_cached(sql)?
            .query_row([resource, identity], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok((usize::try_from(own).unwrap_or(0), usize::try_from(all).unwrap_or(0)))
    }

    /// Keeps at most `most` objects of `resource`, those written last.
    ///
    /// # Errors
    /// The statement's.
    pub fn bound_objects(&self, resource: &str, most: usize) -> Result<(), CacheError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let old = "SELECT id FROM object WHERE resource = ?1 ORDER BY at DESC, id DESC LIMIT -1 OFFSET ?2";
        self.db()
            .prepare_cached(&format!("DELETE FROM member WHERE object IN ({old})"))?
            .execute(params![resource, most])?;
        self.db()
            .prepare_cached(&format!("DELETE FROM object WHERE id IN ({old})"))?
            .execute(params![resource, most])?;
        Ok(())
    }

    /// Counts every list that holds the object as used today: somebody needs it without asking for it.
    ///
    /// # Errors
    /// The statement's.
    pub fn keep_used(&self, key: &ObjectKey) -> Result<(), CacheError> {
        self.db()
            .prepare_cached(
                "UPDATE scope SET used = ?1 WHERE used < ?1 AND id IN
                 (SELECT member.scope FROM member JOIN object ON object.id = member.object
                  WHERE object.resource = ?2 AND object.namespace = ?3 AND object.name = ?4)",
            )?
            .execute(params![today(), key.resource, key.namespace, key.name])?;
        Ok(())
    }

    /// Counts all that the clients in the pod of this uid have read as used today: what a program reads once, at its start,
    /// it reads again when its pod is started anew.
    ///
    /// # Errors
    /// The statement's.
    pub fn keep_used_by(&self, uid: &str) -> Result<(), CacheError> {
        self.db()
            .prepare_cached(&format!(
                "UPDATE scope SET used = ?1 WHERE used < ?1 AND identity IN (SELECT id FROM identity WHERE {} = ?2)",
                pod_of("name")
            ))?
            .execute(params![today(), uid])?;
        Ok(())
    }

    /// An object that was read by its name was read so again: the list of one that it is was used today. (One that it is in
    /// beside is not.)
    pub(super) fn note_read(&mut self, identity: &str, key: &ObjectKey) -> Result<(), CacheError> {
        let scope = ScopeKey::of_one(identity, key);
        if self.interned.known(&scope).is_some() {
            return Ok(());
        }
        self.db()
            .prepare_cached(
                "UPDATE scope SET used = ?1 WHERE used < ?1 AND resource = ?2 AND namespace = ?3 AND labels = ''
                 AND fields = ?4 AND identity = (SELECT id FROM identity WHERE name = ?5)",
            )?
            .execute(params![today(), scope.resource, scope.namespace, scope.fields, identity])?;
        Ok(())
    }

    /// Forgets what clients have read, but for those that `is_chosen` takes by their identity, and of these what is of a
    /// resource that `is_left_out`. What waits to be told to the cloud stays. Gives the lists that are forgotten.
    ///
    /// # Errors
    /// The statement's.
    pub fn keep_clients(
        &mut self,
        is_chosen: impl Fn(&str) -> bool,
        is_left_out: impl Fn(&str) -> bool,
    ) -> Result<Vec<ScopeKey>, CacheError> {
        let clients = "identity.name <> ? AND identity.name NOT LIKE 'edge:%'";
        let mut lists: Vec<Scope> = self
            .db()
            .prepare(&format!("{SCOPE_SELECT} WHERE {clients}"))?
            .query_map([NODE], Scope::from_row)?
            .collect::<Result<_, _>>()?;
        lists.retain(|list| !is_chosen(&list.key.identity) || is_left_out(&list.key.resource));
        let scopes: HashSet<_> = lists.iter().map(|list| list.id).collect();
        self.drop_scopes(&scopes)?;
        let mut identities: Vec<(i64, String)> = self
            .db()
            .prepare(&format!("SELECT id, name FROM identity WHERE {clients}"))?
            .query_map([NODE], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        identities.retain(|(_, name)| !is_chosen(name));
        identities.iter().try_for_each(|(identity, name)| self.forget_identity(*identity, name))?;
        self.interned.forget();
        Ok(lists.into_iter().map(|list| list.key).collect())
    }

    /// Forgets scopes that nobody asked for since `day` (days since 1970), with what only they held.
    ///
    /// # Errors
    /// The statement's.
    pub fn forget_unused(&mut self, day: i64) -> Result<usize, CacheError> {
        let stale = "SELECT id FROM scope WHERE used < ?";
        self.db().execute(&format!("DELETE FROM member WHERE scope IN ({stale})"), [day])?;
        let scopes = self.db().execute("DELETE FROM scope WHERE used < ?", [day])?;
        if scopes > 0 {
            let unread = "NOT EXISTS (SELECT 1 FROM member WHERE object = object.id)";
            self.db().execute(&format!("DELETE FROM object WHERE {unread} AND NOT {TOLD_FROM}"), [])?;
            self.interned.forget();
        }
        Ok(scopes)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cache::{Cache, Object};

    #[tokio::test]
    async fn what_a_pod_read_at_its_start_is_kept_as_long_as_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let object = |name: &str| {
            let meta = json!({"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1"});
            Object::new("v1/pods", json!({ "metadata": meta })).unwrap()
        };
        let clients = ["here", "gone", "busy"].map(|uid| format!("system:serviceaccount:ns:flannel/{uid}"));
        let job = move |w: &mut Writer| {
            for client in &clients {
                w.put_single(client, &object("own"))?;
            }
            w.db().execute("UPDATE scope SET used = used - 20", [])?;
            w.interned.forget();
            w.put_single(&clients[2], &object("own"))?;
            w.keep_used_by("here")?;
            assert_eq!(w.forget_unused(today() - 14)?, 1);
            clients.iter().map(|client| w.has_read(client, &object("own").key)).collect()
        };
        let left: Vec<bool> = cache.commit(job).await.unwrap();
        assert_eq!(left, [true, false, true], "of a pod that is there, of none, and read again");
    }
}
