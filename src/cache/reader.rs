//! Reading back: what is on disk and nothing else.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::object::COLUMNS;
use super::scope::{NODE, SCOPE_SELECT};
use super::{CacheError, Change, Object, ObjectKey, Scope, ScopeId, Writer, open};

/// The threads that read: they come when somebody reads, and go when nobody has for some seconds. A runtime that nothing else
/// runs on.
#[derive(Debug)]
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    /// At most `count` of them.
    ///
    /// # Errors
    /// The system's.
    pub fn new(count: usize) -> std::io::Result<Self> {
        let mut threads = Builder::new_current_thread();
        threads.max_blocking_threads(count).thread_stack_size(1 << 20).thread_name("cache-reader");
        threads.build().map(Some).map(Self)
    }

    /// Runs `job` on one of them; `None` once they are to end.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<JoinHandle<T>> {
        self.0.as_ref().map(|threads| threads.handle().spawn_blocking(job))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // The last handle on the cache may go in an asynchronous task, which must not wait.
        if let Some(threads) = self.0.take() {
            threads.shutdown_background();
        }
    }
}

/// A connection that only reads.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
}

/// Under which name the name of this node is kept.
const NODE_NAME: &str = "node-name";

/// The lists of this node's pods that its kubelet reads; where the node's name is not kept, those of any node.
const OWN: &str = "SELECT scope.id FROM scope JOIN identity ON identity.id = scope.identity
     WHERE identity.name = ?1 AND scope.resource = 'v1/pods' AND scope.namespace = '' AND scope.labels = ''
     AND scope.fields LIKE 'spec.nodeName=%' AND scope.fields NOT LIKE '%,%' AND scope.synced NOT NULL
     AND scope.fields = COALESCE(
         (SELECT 'spec.nodeName=' || value FROM meta WHERE key = 'node-name'), scope.fields)";

fn knows_own_pods(db: &Connection) -> Result<bool, CacheError> {
    let sql = format!("SELECT EXISTS ({OWN})");
    Ok(db.prepare_cached(&sql)?.query_row([NODE], |row| row.get(0))?)
}

impl Reader {
    /// Opens the database at `path` for reading.
    ///
    /// # Errors
    /// [`CacheError::Database`].
    pub fn open(path: &Path) -> Result<Self, CacheError> {
        let connection = open::connect_reader(path).map_err(|source| CacheError::Database {
            operation: "read",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { connection })
    }

    pub(super) fn db(&self) -> &Connection {
        &self.connection
    }

    /// Every synced scope of the identity that a list of `resource` in `namespace` could be part of:
    /// of that namespace or of all. The caller chooses by selectors.
    ///
    /// # Errors
    /// The statement's.
    pub fn scopes(&self, identity: &str, resource: &str, namespace: &str) -> Result<Vec<Scope>, CacheError> {
        let sql = format!(
            "{SCOPE_SELECT} WHERE identity.name = ? AND scope.resource = ? AND scope.namespace IN ('', ?)
             AND scope.synced NOT NULL"
        );
        let mut statement = self.db().prepare_cached(&sql)?;
        let rows = statement.query_map([identity, resource, namespace], Scope::from_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The rows of a scope's objects, in the order of namespace and name.
    ///
    /// # Errors
    /// The statement's.
    pub fn members(&self, scope: ScopeId) -> Result<Vec<i64>, CacheError> {
        let sql = "SELECT object.id FROM member JOIN object ON object.id = member.object
                   WHERE member.scope = ? ORDER BY object.namespace, object.name";
        let mut statement = self.db().prepare_cached(sql)?;
        Ok(statement.query_map([scope.0], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }

    /// Of the scope's objects those that were changed here and not by the cloud, and those that the cloud changed after
    /// the version `since`, by namespace and name.
    ///
    /// # Errors
    /// The statement's.
    pub fn changed_since(&self, scope: ScopeId, since: u64) -> Result<Vec<Object>, CacheError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM member JOIN object ON object.id = member.object
             WHERE member.scope = ? AND (object.version = '' OR CAST(object.version AS INTEGER) > ? OR EXISTS
                 (SELECT 1 FROM change WHERE change.resource = object.resource
                  AND change.namespace = object.namespace AND change.name = object.name))
             ORDER BY object.namespace, object.name"
        );
        let mut statement = self.db().prepare_cached(&sql)?;
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        let rows = statement.query_map([scope.0, since], Object::from_row)?;
        Ok(rows.map(|row| row.map(|(_, object)| object)).collect::<Result<_, _>>()?)
    }

    /// What was deleted here and the cloud does not know of yet, as it was last, and as the cloud has it if it was changed
    /// here before. The release before this one kept no more of it than its name.
    ///
    /// # Errors
    /// The statement's.
    pub fn deleted(&self, resource: &str) -> Result<Vec<(Object, Option<Object>)>, CacheError> {
        let sql = "SELECT namespace, name, uid, base,
                 (SELECT told.base FROM change AS told WHERE told.resource = ?1 AND told.kind = 'patch'
                  AND told.namespace = change.namespace AND told.name = change.name AND told.uid = change.uid
                  ORDER BY told.id LIMIT 1)
             FROM change WHERE resource = ?1 AND kind = 'delete'
             AND NOT EXISTS (SELECT 1 FROM object WHERE object.resource = ?1 AND object.uid = change.uid
                 AND object.namespace = change.namespace AND object.name = change.name) ORDER BY id";
        let mut statement = self.db().prepare_cached(sql)?;
        let rows = statement.query_map([resource], |row| {
            let key = ObjectKey { resource: resource.to_owned(), namespace: row.get(0)?, name: row.get(1)? };
            let (uid, last): (String, Option<Vec<u8>>) = (row.get(2)?, row.get(3)?);
            let read = |body: Option<Vec<u8>>| serde_json::from_slice(&body?).ok();
            let body = read(last).unwrap_or_else(
                || json!({"metadata": {"name": key.name, "namespace": key.namespace, "uid": uid}}),
            );
            let last = Object { key, uid, version: String::new(), body };
            let before = read(row.get(4)?).map(|body| Object { body, ..last.clone() });
            Ok((last, before))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Those of `rows` that are still in the scope, in the same order.
    ///
    /// # Errors
    /// The statement's.
    pub fn objects(&self, scope: ScopeId, rows: &[i64]) -> Result<Vec<Object>, CacheError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM object WHERE id = ?1
             AND EXISTS (SELECT 1 FROM member WHERE scope = ?2 AND object = ?1)"
        );
        let mut statement = self.db().prepare_cached(&sql)?;
        let read = |row: &i64| statement.query_row(params![row, scope.0], Object::from_row).optional();
        let found = rows.iter().map(read).filter_map(Result::transpose);
        Ok(found.map(|object| object.map(|(_, object)| object)).collect::<Result<_, _>>()?)
    }

    /// One object, if the identity has read it.
    ///
    /// # Errors
    /// The statement's; [`super::is_newer`] of a Secret that only others have read as it is now.
    pub fn get(&self, identity: &str, key: &ObjectKey) -> Result<Option<Object>, CacheError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM object WHERE resource = ?1 AND namespace = ?2 AND name = ?3
             AND EXISTS (SELECT 1 FROM member JOIN scope ON scope.id = member.scope
                         JOIN identity ON identity.id = scope.identity
                         WHERE member.object = object.id AND identity.name = ?4)"
        );
        let mut statement = self.db().prepare_cached(&sql)?;
        let found = statement
            .query_row(params![key.resource, key.namespace, key.name, identity], Object::from_row)
            .optional()?;
        let Some((_, object)) = found else { return Ok(None) };
        if self.was_told(identity, &object)? { Ok(Some(object)) } else { Err(super::is_newer(key)) }
    }

    /// One object, whoever read it: for edge's own use, never for a client.
    ///
    /// # Errors
    /// The statement's.
    pub fn object(&self, key: &ObjectKey) -> Result<Option<Object>, CacheError> {
        let sql = format!("SELECT {COLUMNS} FROM object WHERE resource = ? AND namespace = ? AND name = ?");
        let mut statement = self.db().prepare_cached(&sql)?;
        let found = statement
            .query_row(params![key.resource, key.namespace, key.name], Object::from_row)
            .optional()?;
        Ok(found.map(|(_, object)| object))
    }

    /// Every object of a resource, whoever read it: for edge's own views, never for a client.
    ///
    /// # Errors
    /// The statement's.
    pub fn all(&self, resource: &str) -> Result<Vec<Value>, CacheError> {
        let sql = format!("SELECT {COLUMNS} FROM object WHERE resource = ? ORDER BY namespace, name");
        let mut statement = self.db().prepare_cached(&sql)?;
        let rows = statement.query_map([resource], Object::from_row)?;
        Ok(rows.map(|row| row.map(|(_, object)| object.body)).collect::<Result<_, _>>()?)
    }

    /// The pods of this node: those of the lists that its kubelet reads, whoever else has read more. `None` while it has
    /// read none to its end, which is not the same as no pods.
    ///
    /// # Errors
    /// The statement's.
    pub fn own_pods(&self) -> Result<Option<Vec<Value>>, CacheError> {
        if !self.knows_own_pods()? {
            return Ok(None);
        }
        let sql = format!(
            "SELECT {COLUMNS} FROM object WHERE id IN (SELECT object FROM member WHERE scope IN ({OWN}))
             ORDER BY namespace, name"
        );
        let mut statement = self.db().prepare_cached(&sql)?;
        let rows = statement.query_map([NODE], Object::from_row)?;
        Ok(Some(rows.map(|row| row.map(|(_, object)| object.body)).collect::<Result<_, _>>()?))
    }

    /// Whether this node's kubelet has read the list of its pods to its end.
    ///
    /// # Errors
    /// The statement's.
    pub fn knows_own_pods(&self) -> Result<bool, CacheError> {
        knows_own_pods(self.db())
    }

    /// Texts out of every object of a resource, at these paths of SQLite's JSON (`$.metadata.uid`), without reading
    /// the objects as a whole.
    ///
    /// # Errors
    /// The statement's.
    pub fn texts<const N: usize>(
        &self,
        resource: &str,
        paths: [&str; N],
    ) -> Result<Vec<[Option<String>; N]>, CacheError> {
        // All paths in one call, so that SQLite reads each object once; with the last one they are always a list.
        let places: Vec<String> = (2..N + 2).map(|n| format!("?{n}")).collect();
        let sql = format!(
            "SELECT json_extract(CAST(body AS TEXT), {}, '$.kind') FROM object WHERE resource = ?1
             ORDER BY namespace, name",
            places.join(", ")
        );
        let mut statement = self.db().prepare_cached(&sql)?;
        let given = rusqlite::params_from_iter(std::iter::once(resource).chain(paths));
        let mut found = Vec::new();
        for row in statement.query_map(given, |row| row.get::<_, String>(0))? {
            let row = row?;
            let all: Vec<Value> = serde_json::from_str(&row)
                .map_err(|source| CacheError::Body { key: resource.to_owned(), source })?;
            let mut all = all.into_iter();
            found.push(std::array::from_fn(|_| match all.next() {
                Some(Value::String(text)) => Some(text),
                _ => None,
            }));
        }
        Ok(found)
    }

    /// Whether anything is kept that was read from the cloud.
    ///
    /// # Errors
    /// The statement's.
    pub fn is_empty(&self) -> Result<bool, CacheError> {
        let sql =
            "SELECT EXISTS (SELECT 1 FROM object UNION ALL SELECT 1 FROM scope UNION ALL SELECT 1 FROM token
                   UNION ALL SELECT 1 FROM document UNION ALL SELECT 1 FROM caller)";
        Ok(!self.db().prepare_cached(sql)?.query_row([], |row| row.get::<_, bool>(0))?)
    }

    /// What waits to be replayed, oldest first.
    ///
    /// # Errors
    /// The statement's.
    pub fn changes(&self) -> Result<Vec<Change>, CacheError> {
        let mut statement = self.db().prepare_cached(&Change::select("ORDER BY id"))?;
        let rows = statement.query_map([], Change::from_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether a deletion of the object waits to be told to the cloud.
    ///
    /// # Errors
    /// The statement's.
    pub fn is_deleted(&self, key: &ObjectKey) -> Result<bool, CacheError> {
        let sql =
            "SELECT 1 FROM change WHERE resource = ? AND namespace = ? AND name = ? AND kind = 'delete'";
        Ok(self.db().prepare_cached(sql)?.exists([&key.resource, &key.namespace, &key.name])?)
    }

    /// A small fact.
    ///
    /// # Errors
    /// The statement's.
    pub fn meta(&self, key: &str) -> Result<Option<String>, CacheError> {
        Ok(self
            .db()
            .prepare_cached("SELECT value FROM meta WHERE key = ?")?
            .query_row([key], |row| row.get(0))
            .optional()?)
    }
}

impl Writer {
    /// This node's name, by which its own pods are known.
    ///
    /// # Errors
    /// The statement's.
    pub fn set_node_name(&self, name: &str) -> Result<(), CacheError> {
        if self.node_name()?.as_deref() == Some(name) {
            return Ok(());
        }
        self.set_meta(NODE_NAME, name)
    }

    /// As [`Reader::knows_own_pods`].
    ///
    /// # Errors
    /// The statement's.
    pub fn knows_own_pods(&self) -> Result<bool, CacheError> {
        knows_own_pods(self.db())
    }

    /// What was kept as this node's name.
    ///
    /// # Errors
    /// The statement's.
    pub fn node_name(&self) -> Result<Option<String>, CacheError> {
        self.meta(NODE_NAME)
    }

    /// As [`Reader::meta`].
    pub(super) fn meta(&self, key: &str) -> Result<Option<String>, CacheError> {
        let mut statement = self.db().prepare_cached("SELECT value FROM meta WHERE key = ?")?;
        Ok(statement.query_row([key], |row| row.get(0)).optional()?)
    }
}
