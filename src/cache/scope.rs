//! What an identity has read: lists, and which objects were in them.

use std::collections::HashSet;

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::object::HEARTBEAT;
use super::{CacheError, Object, ObjectKey, Writer, seconds};

/// The identity under which the kubelet's readings are kept.
pub const NODE: &str = "node";

/// The uid of the pod whose service account an identity is, as SQL cuts it out of `column`.
pub(super) fn pod_of(column: &str) -> String {
    format!("substr({column}, instr({column}, '/') + 1)")
}

/// The row of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScopeId(pub(super) i64);

/// One list as one identity asks for it. Selectors are in canonical form, empty for none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScopeKey {
    /// Who reads, such as `node` or `system:serviceaccount:ns:name/UID`.
    pub identity: String,
    /// Such as `v1/pods`.
    pub resource: String,
    /// Empty for all namespaces, and for cluster-scoped resources.
    pub namespace: String,
    /// Label selector.
    pub labels: String,
    /// Field selector; a single object that was read by name is the scope `metadata.name=NAME`.
    pub fields: String,
}

impl ScopeKey {
    /// The list of one that a reading by name is.
    pub fn of_one(identity: &str, key: &ObjectKey) -> Self {
        Self {
            identity: identity.to_owned(),
            resource: key.resource.clone(),
            namespace: key.namespace.clone(),
            labels: String::new(),
            fields: format!("metadata.name={}", key.name),
        }
    }
}

/// A scope that was read in full at least once.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Its row.
    pub id: ScopeId,
    /// What was asked.
    pub key: ScopeKey,
    /// The kind of the list, such as `PodList`; empty where only single objects were read.
    pub kind: String,
    /// The list's resourceVersion.
    pub version: String,
    /// Seconds since 1970 when it was last known to be complete.
    pub synced: i64,
}

/// A list on its way in: which objects it held so far.
#[derive(Debug)]
pub struct ListRecord {
    seen: HashSet<i64>,
    /// When it was asked for, in seconds since 1970: the cloud read it then or later.
    since: i64,
    /// [`super::Cache::rollbacks`] when its first object was written, and where.
    begun: Option<(u64, ScopeId)>,
}

impl Default for ListRecord {
    fn default() -> Self {
        Self { seen: HashSet::new(), since: seconds(), begun: None }
    }
}

/// Days since 1970.
pub fn today() -> i64 {
    seconds() / 86_400
}

impl Writer {
    /// The row of `key`, made if it is not there; notes that it was used today.
    ///
    /// # Errors
    /// The statement's.
    pub fn scope(&mut self, key: &ScopeKey) -> Result<ScopeId, CacheError> {
        let today = today();
        if let Some(id) = self.interned.known(key) {
            return Ok(id);
        }
        let identity = self.identity(&key.identity)?;
        let known: Option<(i64, i64)> = self
            .db()
            .prepare_cached(
                "SELECT id, used FROM scope
                 WHERE identity = ? AND resource = ? AND namespace = ? AND labels = ? AND fields = ?",
            )?
            .query_row(params![identity, key.resource, key.namespace, key.labels, key.fields], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let id = match known {
            Some((id, used)) => {
                if used != today {
                    self.db()
                        .prepare_cached("UPDATE scope SET used = ? WHERE id = ?")?
                        .execute([today, id])?;
                }
                ScopeId(id)
            }
            None => {
                let id = self
                    .db()
                    .prepare_cached(
                        "INSERT INTO scope (identity, resource, namespace, labels, fields, kind, version, used)
                         VALUES (?, ?, ?, ?, ?, '', '', ?) RETURNING id",
                    )?
                    .query_row(
                        params![identity, key.resource, key.namespace, key.labels, key.fields, today],
                        |row| row.get(0).map(ScopeId),
                    )?;
                self.bound_scopes(key, identity, id)?;
                id
            }
        };
        self.interned.note(key, id);
        Ok(id)
    }

    fn identity(&mut self, name: &str) -> Result<i64, CacheError> {
        let known = self
            .db()
            .prepare_cached("SELECT id FROM identity WHERE name = ?")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        if let Some(id) = known {
            return Ok(id);
        }
        let id = self
            .db()
            .prepare_cached("INSERT INTO identity (name) VALUES (?) RETURNING id")?
            .query_row([name], |row| row.get(0))?;
        self.bound_identities(name)?;
        Ok(id)
    }

    pub(super) fn identity_row(&mut self, name: &str) -> Result<i64, CacheError> {
        self.identity(name)
    }

    /// An object that is in the scope now.
    ///
    /// # Errors
    /// The statement's.
    pub fn put(&mut self, scope: ScopeId, object: &Object) -> Result<(), CacheError> {
        let id = self.store(object)?;
        self.join(scope, id)?;
        self.tell_reader(scope, id, object)
    }

    /// An object of a list that is still arriving.
    ///
    /// # Errors
    /// The statement's.
    pub fn put_listed(
        &mut self,
        scope: ScopeId,
        list: &mut ListRecord,
        object: &Object,
    ) -> Result<(), CacheError> {
        list.begun.get_or_insert((self.rollbacks(), scope));
        list.since = self.asked_for(list);
        if self.gone.is_after(scope, object, list.since) {
            return Ok(());
        }
        let id = self.store_as_of(object, Some(list.since))?;
        list.seen.insert(id);
        self.join(scope, id)?;
        self.tell_reader(scope, id, object)
    }

    /// Writes an object that was changed here, whatever version it has, into every scope given.
    ///
    /// # Errors
    /// The statement's.
    pub fn put_local(&mut self, scopes: &[ScopeId], object: &Object) -> Result<(), CacheError> {
        let id = self.overwrite(object)?;
        scopes.iter().try_for_each(|scope| self.join(*scope, id))
    }

    /// An object that `identity` has read by its name. If it is in no list of this identity, it becomes
    /// one of its own, `metadata.name=NAME`. One that has gone since it was asked for is not put back.
    ///
    /// # Errors
    /// The statement's.
    pub fn put_single(&mut self, identity: &str, object: &Object) -> Result<(), CacheError> {
        if self.since().is_some_and(|asked| self.gone.is_over(object, asked)) {
            return Ok(());
        }
        if self.has_read(identity, &object.key)? {
            let id = self.store(object)?;
            self.note_read(identity, &object.key)?;
            self.note_whole(&ScopeKey::of_one(identity, &object.key));
            return self.tell(identity, id, object);
        }
        let list = ScopeKey::of_one(identity, &object.key);
        let scope = self.scope(&list)?;
        self.note_whole(&list);
        self.put(scope, object)?;
        self.mark_synced(scope, "", &object.version)
    }

    /// The cloud told `identity` that there is no such object: a list of one, synced and empty.
    ///
    /// # Errors
    /// The statement's.
    pub fn put_absent(&mut self, identity: &str, key: &ObjectKey) -> Result<(), CacheError> {
        self.take_everywhere(identity, key, None)?;
        let list = ScopeKey::of_one(identity, key);
        let scope = self.scope(&list)?;
        self.note_whole(&list);
        self.mark_synced(scope, "", "")
    }

    /// Whether `identity` has read the object.
    ///
    /// # Errors
    /// The statement's.
    pub fn has_read(&self, identity: &str, key: &ObjectKey) -> Result<bool, CacheError> {
        Ok(self
            .db()
            .prepare_cached(
                "SELECT 1 FROM object JOIN member ON member.object = object.id
                 JOIN scope ON scope.id = member.scope JOIN identity ON identity.id = scope.identity
                 WHERE object.resource = ? AND object.namespace = ? AND object.name = ? AND identity.name = ?",
            )?
            .exists(params![key.resource, key.namespace, key.name, identity])?)
    }

    /// Refreshes an object if somebody has read it; one that nobody reads is not kept.
    ///
    /// # Errors
    /// The statement's.
    pub fn refresh(&mut self, object: &Object) -> Result<(), CacheError> {
        if self.object(&object.key)?.is_some() {
            self.store(object)?;
        }
        Ok(())
    }

    /// When a list was asked for: by its own word, or by that of the answer that is being taken if it is earlier.
    fn asked_for(&self, list: &ListRecord) -> i64 {
        self.since().map_or(list.since, |asked| asked.min(list.since))
    }

    /// The list is complete: what it did not hold is no longer in the scope, and the scope counts as
    /// synced; what a watch has told since the cloud read it stays. Only a list that arrived whole may end here. One of
    /// which a part was rolled back since it began says nothing, and is to be read anew; nor does one that has made room
    /// for others of its identity. Of both it gives false.
    ///
    /// # Errors
    /// The statement's.
    pub fn finish(
        &mut self,
        scope: ScopeId,
        list: &ListRecord,
        kind: &str,
        version: &str,
    ) -> Result<bool, CacheError> {
        match list.begun {
            Some((begun, _)) if begun != self.rollbacks() => {
                self.note_loss();
                return Ok(false);
            }
            Some((_, begun)) if begun != scope => return Ok(false),
            _ => {}
        }
        let members: Vec<i64> = self
            .db()
            .prepare_cached("SELECT object FROM member WHERE scope = ?")?
            .query_map([scope.0], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let since = self.asked_for(list);
        for gone in members.into_iter().filter(|id| !list.seen.contains(id)) {
            if self.has_come_since(gone, since, version)? {
                continue;
            }
            self.db()
                .prepare_cached("DELETE FROM member WHERE scope = ? AND object = ?")?
                .execute([scope.0, gone])?;
            self.drop_if_unread(gone)?;
        }
        self.mark_synced(scope, kind, version)?;
        Ok(true)
    }

    /// The scope was read in full at `version`. Once that is written, a later version is not for an hour: a kubelet
    /// reads each ConfigMap anew every few minutes, and the version of the cloud always rises. An earlier one is: the
    /// cloud was restored from a backup, and would never tell what comes after the later one. What is empty is not known
    /// this time, as where one object was asked for: what a list has told before stays.
    ///
    /// # Errors
    /// The statement's.
    pub fn mark_synced(&mut self, scope: ScopeId, kind: &str, version: &str) -> Result<(), CacheError> {
        self.db()
            .prepare_cached(
                "UPDATE scope SET kind = iif(?2 = '', kind, ?2), version = iif(?3 = '', version, ?3), synced = ?4
                 WHERE id = ?1 AND (synced IS NULL OR (?2 <> '' AND kind <> ?2)
                     OR (version <> ?3 AND (synced < ?4 - ?5
                         OR (?2 <> '' AND CAST(?3 AS INTEGER) < CAST(version AS INTEGER)))))",
            )?
            .execute(params![scope.0, kind, version, seconds(), HEARTBEAT])?;
        Ok(())
    }

    pub(super) fn join(&self, scope: ScopeId, object: i64) -> Result<(), CacheError> {
        self.db()
            .prepare_cached("INSERT OR IGNORE INTO member (scope, object) VALUES (?, ?)")?
            .execute([scope.0, object])?;
        Ok(())
    }

    /// Every synced scope of `resource` that an object in `namespace` could be in, for the caller to
    /// match its selectors.
    ///
    /// # Errors
    /// The statement's.
    pub fn scopes_over(&self, resource: &str, namespace: &str) -> Result<Vec<Scope>, CacheError> {
        let sql = format!(
            "{SCOPE_SELECT} WHERE scope.resource = ? AND scope.namespace IN ('', ?) AND synced NOT NULL"
        );
        let mut statement = self.db().prepare_cached(&sql)?;
        let rows = statement.query_map([resource, namespace], Scope::from_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Reads what [`Scope::from_row`] takes.
pub(super) const SCOPE_SELECT: &str =
    "SELECT scope.id, identity.name, scope.resource, scope.namespace, scope.labels, scope.fields,
            scope.kind, scope.version, scope.synced
     FROM scope JOIN identity ON identity.id = scope.identity";

impl Scope {
    pub(super) fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let key = ScopeKey {
            identity: row.get(1)?,
            resource: row.get(2)?,
            namespace: row.get(3)?,
            labels: row.get(4)?,
            fields: row.get(5)?,
        };
        Ok(Self {
            id: ScopeId(row.get(0)?),
            key,
            kind: row.get(6)?,
            version: row.get(7)?,
            synced: row.get(8)?,
        })
    }
}
