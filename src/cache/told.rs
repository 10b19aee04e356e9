//! What an identity was told and what it may read no more: which version of a Secret, what it has written itself, and
//! what the cloud refuses it.
//!
//! An object is stored once, and whoever reads it brings it up to date for all. Of a Secret that is too much: its next
//! version may be one that a client may not read any more. So it is noted which version each client was told.

use std::collections::HashSet;

use rusqlite::{Connection, params};

use super::scope::NODE;
use super::{CacheError, Object, ObjectKey, Reader, ScopeId, Writer, seconds};

/// The resource of which it matters who was told which version. What kubelet reads is the node's own.
pub const SECRETS: &str = "v1/secrets";

/// What the cloud lets a client read no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied<'a> {
    /// Lists in the namespace, and so those of all namespaces too.
    Lists,
    /// Lists of the object of this name; it may still be one that is read without a list.
    ListOf(&'a str),
    /// The object of this name.
    Get(&'a str),
}

/// Secrets that clients have read by a release that did not note versions: those that were there when it ended.
const SEED: &str = "
    INSERT OR IGNORE INTO told (scope, object, version)
    SELECT member.scope, member.object, object.version FROM object
    JOIN member ON member.object = object.id JOIN scope ON scope.id = member.scope
    JOIN identity ON identity.id = scope.identity
    WHERE object.resource = 'v1/secrets' AND identity.name <> 'node'";

/// Takes what clients have read by the release before for told. Each time a file is opened, since that release may have
/// been there again in between; it looks at the Secrets that clients have read, and writes only what is new.
pub(super) fn seed(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute(SEED, []).map(drop)
}

impl Writer {
    /// Whoever reads `scope` was told `object`, which is in `row`.
    pub(super) fn tell_reader(&self, scope: ScopeId, row: i64, object: &Object) -> Result<(), CacheError> {
        if object.key.resource != SECRETS {
            return Ok(());
        }
        let sql = "SELECT identity.name FROM identity JOIN scope ON scope.identity = identity.id WHERE scope.id = ?";
        let identity: String = self.db().prepare_cached(sql)?.query_row([scope.0], |row| row.get(0))?;
        self.tell(&identity, row, object)
    }

    /// `identity` was told `object`, which is in `row`: that is noted in each of its scopes that hold it. What it was told
    /// of the version that is here stays: an older one that comes later, as in a long list, takes nothing back.
    pub(super) fn tell(&self, identity: &str, row: i64, object: &Object) -> Result<(), CacheError> {
        if object.key.resource != SECRETS || identity == NODE {
            return Ok(());
        }
        self.db()
            .prepare_cached(
                "INSERT INTO told (scope, object, version)
                 SELECT member.scope, member.object, ?3 FROM member JOIN scope ON scope.id = member.scope
                 JOIN identity ON identity.id = scope.identity WHERE member.object = ?2 AND identity.name = ?1
                 ON CONFLICT (scope, object) DO UPDATE SET version = excluded.version
                 WHERE version <> excluded.version
                 AND version <> (SELECT object.version FROM object WHERE object.id = ?2)",
            )?
            .execute(params![identity, row, object.version])?;
        Ok(())
    }

    /// `identity` has changed an object: news for whoever has read it, itself included.
    ///
    /// # Errors
    /// The statement's.
    pub fn put_written(&mut self, identity: &str, object: &Object) -> Result<(), CacheError> {
        self.refresh(object)?;
        match self.object(&object.key)? {
            Some((row, _)) => self.tell(identity, row, object),
            None => Ok(()),
        }
    }

    /// `identity` has made an object: from now on it is in each of its lists that say what there is, and there by its
    /// name if it was asked for by that. Who has read neither reads nothing here by having made something.
    ///
    /// # Errors
    /// The statement's.
    pub fn put_created(&mut self, identity: &str, object: &Object) -> Result<(), CacheError> {
        let by_name = format!("metadata.name={}", object.key.name);
        let scopes: Vec<ScopeId> = self
            .db()
            .prepare_cached(
                "SELECT scope.id FROM scope JOIN identity ON identity.id = scope.identity
                 WHERE identity.name = ? AND scope.resource = ? AND scope.namespace IN ('', ?)
                 AND scope.labels = '' AND scope.fields IN ('', ?) AND scope.synced NOT NULL",
            )?
            .query_map(params![identity, object.key.resource, object.key.namespace, by_name], |row| {
                row.get(0).map(ScopeId)
            })?
            .collect::<Result<_, _>>()?;
        if scopes.is_empty() {
            return Ok(());
        }
        // A watch may have told more of it already.
        let row = self.store_as_of(object, self.since().or(Some(seconds())))?;
        scopes.into_iter().try_for_each(|scope| self.join(scope, row))?;
        self.tell(identity, row, object)
    }

    /// The cloud refuses `identity` to read `resource` in a namespace. What it has read so is forgotten for it. Rights
    /// do not look at selectors, but they do at names: lists of one name are asked for by it.
    ///
    /// # Errors
    /// The statement's.
    pub fn forbid(
        &mut self,
        identity: &str,
        resource: &str,
        namespace: &str,
        denied: Denied<'_>,
    ) -> Result<(), CacheError> {
        let (name, is_list) = match denied {
            Denied::Lists => (None, true),
            Denied::ListOf(name) => (Some(name), true),
            Denied::Get(name) => (Some(name), false),
        };
        let fields = name.map_or_else(String::new, |name| format!("metadata.name={name}"));
        let scopes: HashSet<ScopeId> = self
            .db()
            .prepare_cached(
                "SELECT scope.id FROM scope JOIN identity ON identity.id = scope.identity
                 WHERE identity.name = ?1 AND scope.resource = ?2 AND CASE WHEN ?4
                 THEN scope.namespace = ?3 AND instr(',' || scope.fields || ',', ',' || ?5 || ',')
                     AND NOT (?6 AND scope.kind = '')
                 ELSE scope.namespace IN ('', ?3) AND NOT instr(',' || scope.fields, ',metadata.name=') END",
            )?
            .query_map(params![identity, resource, namespace, name.is_some(), fields, is_list], |row| {
                row.get(0).map(ScopeId)
            })?
            .collect::<Result<_, _>>()?;
        if scopes.is_empty() {
            return Ok(());
        }
        self.drop_scopes(&scopes)?;
        self.interned.forget();
        Ok(())
    }
}

impl Reader {
    /// The rows of a scope's Secrets that its reader was not told as they are here, by namespace and name: somebody
    /// else has read them since. Reads no bodies, so that it costs little memory however many there are.
    ///
    /// # Errors
    /// The statement's.
    pub fn untold(&self, scope: ScopeId) -> Result<Vec<i64>, CacheError> {
        let sql = "SELECT object.id FROM member JOIN object ON object.id = member.object
                   JOIN scope ON scope.id = member.scope JOIN identity ON identity.id = scope.identity
                   LEFT JOIN told ON told.scope = member.scope AND told.object = member.object
                   WHERE member.scope = ?1 AND object.resource = ?2 AND identity.name <> ?3
                   AND told.version IS NOT object.version ORDER BY object.namespace, object.name";
        let mut statement = self.db().prepare_cached(sql)?;
        let rows = statement.query_map(params![scope.0, SECRETS, NODE], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether the reader of `scope` was told `object` of it as it is here.
    ///
    /// # Errors
    /// The statement's.
    pub fn is_told(&self, scope: ScopeId, object: &Object) -> Result<bool, CacheError> {
        let ObjectKey { resource, namespace, name } = &object.key;
        if resource != SECRETS {
            return Ok(true);
        }
        let sql = "SELECT 1 FROM scope JOIN identity ON identity.id = scope.identity LEFT JOIN told
                   ON told.scope = scope.id AND told.object =
                       (SELECT id FROM object WHERE resource = ?2 AND namespace = ?3 AND name = ?4)
                   WHERE scope.id = ?1 AND (identity.name = ?6 OR told.version = ?5)";
        let mut statement = self.db().prepare_cached(sql)?;
        Ok(statement.exists(params![scope.0, resource, namespace, name, object.version, NODE])?)
    }

    /// Whether `identity` was told this object, which it has read before, as it is here.
    pub(super) fn was_told(&self, identity: &str, object: &Object) -> Result<bool, CacheError> {
        if object.key.resource != SECRETS || identity == NODE {
            return Ok(true);
        }
        let ObjectKey { resource, namespace, name } = &object.key;
        Ok(self
            .db()
            .prepare_cached(
                "SELECT 1 FROM told JOIN object ON object.id = told.object
                 JOIN scope ON scope.id = told.scope JOIN identity ON identity.id = scope.identity
                 WHERE object.resource = ? AND object.namespace = ? AND object.name = ?
                 AND identity.name = ? AND told.version = ?",
            )?
            .exists(params![resource, namespace, name, identity, object.version])?)
    }
}

/// Why an object that was read is not shown.
pub fn is_newer(key: &ObjectKey) -> CacheError {
    CacheError::Refused(format!("{key} has changed since this client read it"))
}
