//! One object as the cache keeps it.

use rusqlite::{OptionalExtension, Row, params};
use serde_json::Value;

use super::{CacheError, Writer, compares, seconds, version};

/// Which object: resource is group/version/resource, namespace is empty for cluster-scoped ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Such as `v1/pods` or `apps/v1/deployments`.
    pub resource: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            return write!(f, "{} {}", self.resource, self.name);
        }
        write!(f, "{} {}/{}", self.resource, self.namespace, self.name)
    }
}

/// An object and the few facts of it that the cache must know.
#[derive(Clone, Debug)]
pub struct Object {
    /// Which one.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: String,
    /// The cloud's version that it is, or that it was made from by changes here, which have others
    /// ([`super::version`]); empty where that is not known.
    pub version: String,
    /// The whole object, without `metadata.managedFields`.
    pub body: Value,
}

impl Object {
    /// Takes an object of `resource` as it came; `managedFields` are dropped, for nobody on a gateway
    /// reads them and they are a third of every object. `None` when it has no name.
    pub fn new(resource: &str, mut body: Value) -> Option<Self> {
        let meta = body.get_mut("metadata")?.as_object_mut()?;
        meta.remove("managedFields");
        let text = |key: &str| meta.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = ObjectKey { resource: resource.into(), namespace: text("namespace"), name: text("name") };
        let (uid, version) = (text("uid"), text("resourceVersion"));
        if key.name.is_empty() {
            return None;
        }
        Some(Self { key, uid, version, body })
    }

    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<(i64, Self)> {
        let key = ObjectKey { resource: row.get(1)?, namespace: row.get(2)?, name: row.get(3)? };
        let body: Vec<u8> = row.get(6)?;
        let body = serde_json::from_slice(&body).map_err(|e| {
            rusqlite::Error::FromSqlConversionFailure(6, rusqlite::types::Type::Blob, Box::new(e))
        })?;
        Ok((row.get(0)?, Self { key, uid: row.get(4)?, version: row.get(5)?, body }))
    }
}

/// The columns that [`Object::from_row`] reads.
pub(super) const COLUMNS: &str =
    "object.id, object.resource, object.namespace, object.name, object.uid, object.version, object.body";

const LEASES: &str = "coordination.k8s.io/v1/leases";

/// How long a change that is nothing but a heartbeat may stay out of the file, in seconds.
pub(super) const HEARTBEAT: i64 = 3600;
/// How often it is news that an event happens: from then on it is a heartbeat.
const NEWS: u64 = 3;

impl Writer {
    /// The object under `key`, and its row.
    pub fn object(&self, key: &ObjectKey) -> Result<Option<(i64, Object)>, CacheError> {
        let sql = format!("SELECT {COLUMNS} FROM object WHERE resource = ? AND namespace = ? AND name = ?");
        let mut statement = self.db().prepare_cached(&sql)?;
        Ok(statement
            .query_row(params![key.resource, key.namespace, key.name], Object::from_row)
            .optional()?)
    }

    /// Every object of a resource in a namespace, whoever read it.
    ///
    /// # Errors
    /// The statement's.
    pub fn objects_in(&self, resource: &str, namespace: &str) -> Result<Vec<Object>, CacheError> {
        let sql = format!("SELECT {COLUMNS} FROM object WHERE resource = ? AND namespace = ? ORDER BY name");
        let mut statement = self.db().prepare_cached(&sql)?;
        let rows = statement.query_map([resource, namespace], Object::from_row)?;
        Ok(rows.map(|row| row.map(|(_, object)| object)).collect::<Result<_, _>>()?)
    }

    /// Writes the object unless the file holds just this already, or it brings a heartbeat alone; gives its row. What
    /// somebody has read since this was asked for, and is newer, stays.
    pub(super) fn store(&self, object: &Object) -> Result<i64, CacheError> {
        self.store_as_of(object, self.since())
    }

    /// As [`Self::store`], for what the cloud read at `since` or later, in seconds since 1970. This is the one rule by
    /// which an older version is told from a newer one, of lists, watches, readings by name and answers to writes: what was
    /// written before `since` gives way whatever its version, for the cloud may have been restored from a backup, and begins
    /// lower then; what was read since stays where its version is higher, for an answer over a slow link comes late.
    pub(super) fn store_as_of(&self, object: &Object, since: Option<i64>) -> Result<i64, CacheError> {
        match self.row(&object.key)? {
            Some(row)
                if since.is_some_and(|since| (since..=compares()).contains(&row.at))
                    && row.is_newer(object)
                    && !self.is_changed_here(row.id)? =>
            {
                Ok(row.id)
            }
            Some(row) if row.holds(object) => Ok(row.id),
            // The body is read only for what may be a heartbeat.
            Some(row) if beats(object) && row.is_young() && !row.version.is_empty() => {
                match self.object(&object.key)? {
                    Some((_, known)) if is_as_before(&known, object) => Ok(row.id),
                    _ => self.supersede(object),
                }
            }
            Some(_) => self.supersede(object),
            None => self.overwrite(object),
        }
    }

    /// Writes what the cloud has over what is kept, from which nothing that waits is told any more.
    fn supersede(&self, object: &Object) -> Result<i64, CacheError> {
        self.keep_edits(object)?;
        self.overwrite(object)
    }

    /// Whether all news of `object` against `known`, which the file holds, are heartbeats, and the file's are not an hour
    /// old: of a node or a lease their times, of an event that happened often that it happened again. Such news stay out
    /// of the file, because flash wears out.
    ///
    /// # Errors
    /// The statement's.
    pub fn is_heartbeat(&self, object: &Object, known: &Object) -> Result<bool, CacheError> {
        Ok(beats(object)
            && is_as_before(known, object)
            && self.row(&object.key)?.is_some_and(|row| row.is_young()))
    }

    fn row(&self, key: &ObjectKey) -> Result<Option<Known>, CacheError> {
        let mut statement = self.db().prepare_cached(
            "SELECT id, uid, version, at FROM object WHERE resource = ? AND namespace = ? AND name = ?",
        )?;
        let known = statement.query_row(params![key.resource, key.namespace, key.name], |row| {
            Ok(Known { id: row.get(0)?, uid: row.get(1)?, version: row.get(2)?, at: row.get(3)? })
        });
        Ok(known.optional()?)
    }

    /// Whether the object was changed on this node last: its version is that of the cloud's object before, and when that
    /// was read is not known any more.
    pub(super) fn is_changed_here(&self, row: i64) -> Result<bool, CacheError> {
        let sql =
            "SELECT json_extract(CAST(body AS TEXT), '$.metadata.resourceVersion') FROM object WHERE id = ?";
        let shown: Option<String> = self.db().prepare_cached(sql)?.query_row([row], |row| row.get(0))?;
        Ok(shown.is_some_and(|shown| version::given(&shown).is_some()))
    }

    /// Writes the object whatever the file holds; gives its row.
    pub(super) fn overwrite(&self, object: &Object) -> Result<i64, CacheError> {
        let body = serde_json::to_vec(&object.body)
            .map_err(|source| CacheError::Body { key: object.key.to_string(), source })?;
        let id = self
            .db()
            .prepare_cached(
                "INSERT INTO object (resource, namespace, name, uid, version, at, body)
                 VALUES (?, ?, ?, ?, ?, ?, ?)
                 ON CONFLICT (resource, namespace, name) DO UPDATE
                 SET uid = excluded.uid, version = excluded.version, at = excluded.at, body = excluded.body
                 RETURNING id",
            )?
            .query_row(
                params![
                    object.key.resource,
                    object.key.namespace,
                    object.key.name,
                    object.uid,
                    object.version,
                    seconds(),
                    body
                ],
                |row| row.get(0),
            )?;
        Ok(id)
    }
}

/// What the file says of an object, without its body.
struct Known {
    id: i64,
    uid: String,
    version: String,
    at: i64,
}

impl Known {
    fn holds(&self, object: &Object) -> bool {
        self.uid == object.uid && self.version == object.version && !self.version.is_empty()
    }

    /// Whether the file has a later version of the same object.
    fn is_newer(&self, object: &Object) -> bool {
        let number = |version: &str| version.parse::<u64>().ok();
        self.uid == object.uid
            && number(&self.version).zip(number(&object.version)).is_some_and(|(here, there)| here > there)
    }

    /// Whether it was written within the hour. A clock that was set back does not make it so.
    fn is_young(&self) -> bool {
        (0..HEARTBEAT).contains(&(seconds() - self.at))
    }
}

/// Whether it is one of those that come again and again with nothing new.
fn beats(object: &Object) -> bool {
    match object.key.resource.as_str() {
        "v1/nodes" | LEASES => true,
        "v1/events" | "events.k8s.io/v1/events" => {
            let times = ["/count", "/deprecatedCount", "/series/count"];
            times.iter().filter_map(|at| object.body.pointer(at)?.as_u64()).any(|times| times > NEWS)
        }
        _ => false,
    }
}

/// Whether they differ in heartbeats alone.
fn is_as_before(known: &Object, object: &Object) -> bool {
    without_heartbeat(&known.body) == without_heartbeat(&object.body)
}

fn without_heartbeat(object: &Value) -> Value {
    let mut rest = object.clone();
    if let Some(meta) = rest.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("resourceVersion");
    }
    for repeated in ["count", "lastTimestamp", "series", "deprecatedCount", "deprecatedLastTimestamp"] {
        rest.as_object_mut().and_then(|object| object.remove(repeated));
    }
    if let Some(spec) = rest.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("renewTime");
    }
    if let Some(conditions) = rest.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            condition.remove("lastHeartbeatTime");
        }
    }
    rest
}
