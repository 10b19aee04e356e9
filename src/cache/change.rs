//! What changed on this node while the cloud was away, waiting to be told to it.

use rusqlite::{OptionalExtension, Row, params};
use serde_json::Value;

use super::{CacheError, NODE, ObjectKey, Reader, Writer, seconds};

/// What is to be done in the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The subresource's part of the object differs from `base`: patch the difference.
    Patch,
    /// POST `body`.
    Create,
    /// DELETE with `body` as its options.
    Delete,
    /// PATCH with `body` by server-side apply, as the change's field manager.
    Apply,
}

impl ChangeKind {
    /// As it stands in the file and in `edge status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Patch => "patch",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Apply => "apply",
        }
    }
}

/// In whose name fields are set by server-side apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldManager {
    /// What the client calls itself.
    pub name: String,
    /// Whether it takes fields from other managers.
    pub force: bool,
}

/// Who made a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Author {
    /// Kubelet of this node, or edge itself.
    Node,
    /// Another client, by its identity.
    Client(String),
}

impl Author {
    /// The identity by which it reads.
    pub fn identity(&self) -> &str {
        match self {
            Self::Node => NODE,
            Self::Client(identity) => identity,
        }
    }
}

/// Kind and field manager in one column, so that the release before this one, which knows neither, sends such a change
/// as a patch.
fn kind_text(change: &NewChange) -> String {
    match &change.manager {
        Some(manager) if manager.force => format!("apply! {}", manager.name),
        Some(manager) => format!("apply {}", manager.name),
        None => change.kind.as_str().to_owned(),
    }
}

fn parse_kind(text: &str) -> (ChangeKind, Option<FieldManager>) {
    let manager =
        |name: &str, force| (ChangeKind::Apply, Some(FieldManager { name: name.to_owned(), force }));
    match text.split_once(' ') {
        Some(("apply", name)) => manager(name, false),
        Some(("apply!", name)) => manager(name, true),
        _ if text == "create" => (ChangeKind::Create, None),
        _ if text == "delete" => (ChangeKind::Delete, None),
        _ => (ChangeKind::Patch, None),
    }
}

/// A change that is to be kept.
#[derive(Clone, Debug)]
pub struct NewChange {
    /// What to do.
    pub kind: ChangeKind,
    /// To which object.
    pub key: ObjectKey,
    /// Of which uid; empty when it has none yet.
    pub uid: String,
    /// Such as `status`; empty for the object itself.
    pub subresource: String,
    /// Who made it.
    pub author: Author,
    /// Of [`ChangeKind::Apply`], and of nothing else.
    pub manager: Option<FieldManager>,
    /// The cloud's object before the first local edit, as JSON; of [`ChangeKind::Delete`] the object as it was last.
    pub base: Option<Vec<u8>>,
    /// What to send, as JSON; for [`ChangeKind::Patch`] the cached object is compared with `base`.
    pub body: Option<Vec<u8>>,
}

/// A change that waits.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its row; changes are replayed in this order.
    pub id: i64,
    /// What waits.
    pub what: NewChange,
    /// Seconds since 1970 of the first edit.
    pub at: i64,
    /// How often the cloud was asked already.
    pub attempts: u32,
    /// What it said last; empty if it was not asked.
    pub error: String,
}

const COLUMNS: &str =
    "id, kind, resource, namespace, name, uid, subresource, at, attempts, error, base, body,
     (SELECT identity FROM author WHERE author.change = change.id)";

impl Change {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let (kind, manager) = parse_kind(&row.get::<_, String>(1)?);
        let key = ObjectKey { resource: row.get(2)?, namespace: row.get(3)?, name: row.get(4)? };
        Ok(Self {
            id: row.get(0)?,
            what: NewChange {
                kind,
                key,
                uid: row.get(5)?,
                subresource: row.get(6)?,
                author: row.get::<_, Option<String>>(12)?.map_or(Author::Node, Author::Client),
                manager,
                base: row.get(10)?,
                body: row.get(11)?,
            },
            at: row.get(7)?,
            attempts: row.get(8)?,
            error: row.get(9)?,
        })
    }

    pub(super) fn select(order: &str) -> String {
        format!("SELECT {COLUMNS} FROM change {order}")
    }
}

/// A change that the cloud did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it was about.
    pub object: String,
    /// What the cloud said.
    pub why: String,
    /// When, in seconds since 1970.
    pub at: i64,
}

/// Refusals kept for `edge status`; of more, the oldest go.
pub(super) const REFUSED: u32 = 20;

impl Reader {
    /// What the cloud refused for good lately, oldest first.
    ///
    /// # Errors
    /// The statement's.
    pub fn refused(&self) -> Result<Vec<Refused>, CacheError> {
        let mut statement = self.db().prepare_cached("SELECT object, why, at FROM refused ORDER BY id")?;
        let rows = statement
            .query_map([], |row| Ok(Refused { object: row.get(0)?, why: row.get(1)?, at: row.get(2)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

impl Writer {
    /// The cloud will never take it: it waits no longer, and what was said is kept to be shown.
    ///
    /// # Errors
    /// The statement's.
    pub fn refuse_change(&self, change: &Change, why: &str) -> Result<(), CacheError> {
        self.drop_untaken(change)?;
        self.db()
            .prepare_cached("INSERT INTO refused (object, why, at) VALUES (?, ?, ?)")?
            .execute(params![change.what.key.to_string(), why, seconds()])?;
        self.db()
            .prepare_cached("DELETE FROM refused WHERE id <= (SELECT MAX(id) FROM refused) - ?")?
            .execute([REFUSED])?;
        Ok(())
    }

    /// The change waits no longer. What it made of the object here is not the cloud's, and is not taken for that of its
    /// version, whoever reads it next.
    ///
    /// # Errors
    /// The statement's.
    pub fn drop_untaken(&self, change: &Change) -> Result<(), CacheError> {
        self.drop_change(change.id)?;
        let (key, uid) = (&change.what.key, &change.what.uid);
        if self.is_edited(key, uid)? {
            return Ok(());
        }
        self.db()
            .prepare_cached(
                "UPDATE object SET version = '' WHERE resource = ? AND namespace = ? AND name = ? AND uid = ?",
            )?
            .execute([&key.resource, &key.namespace, &key.name, uid])?;
        Ok(())
    }

    /// Every change that waits is given up.
    ///
    /// # Errors
    /// The statement's.
    pub fn drop_all_changes(&self) -> Result<(), CacheError> {
        self.db().execute("DELETE FROM change", [])?;
        Ok(())
    }

    /// The change of this kind that waits for the object, so that edits add up in one.
    ///
    /// # Errors
    /// The statement's.
    pub fn waiting(
        &self,
        kind: ChangeKind,
        key: &ObjectKey,
        subresource: &str,
    ) -> Result<Option<Change>, CacheError> {
        let sql = Change::select(
            "WHERE kind = ? AND resource = ? AND namespace = ? AND name = ? AND subresource = ? ORDER BY id DESC LIMIT 1",
        );
        Ok(self
            .db()
            .prepare_cached(&sql)?
            .query_row(
                params![kind.as_str(), key.resource, key.namespace, key.name, subresource],
                Change::from_row,
            )
            .optional()?)
    }

    /// The patches that wait for this part of the object, in their order.
    ///
    /// # Errors
    /// The statement's.
    pub fn patches(&self, key: &ObjectKey, subresource: &str) -> Result<Vec<Change>, CacheError> {
        let sql = Change::select(
            "WHERE (kind = 'patch' OR kind LIKE 'apply%') AND resource = ? AND namespace = ? AND name = ?
             AND subresource = ? ORDER BY id",
        );
        let mut statement = self.db().prepare_cached(&sql)?;
        let rows =
            statement.query_map([&key.resource, &key.namespace, &key.name, subresource], Change::from_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The patches that wait for any part of the object of this uid, in their order.
    ///
    /// # Errors
    /// The statement's.
    pub(super) fn edits(&self, key: &ObjectKey, uid: &str) -> Result<Vec<Change>, CacheError> {
        let sql = Change::select(
            "WHERE (kind = 'patch' OR kind LIKE 'apply%') AND resource = ? AND namespace = ? AND name = ?
             AND uid = ? ORDER BY id",
        );
        let mut statement = self.db().prepare_cached(&sql)?;
        let rows = statement.query_map([&key.resource, &key.namespace, &key.name, uid], Change::from_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether a patch of the object waits.
    ///
    /// # Errors
    /// The statement's.
    pub fn is_edited(&self, key: &ObjectKey, uid: &str) -> Result<bool, CacheError> {
        let sql = "SELECT 1 FROM change WHERE (kind = 'patch' OR kind LIKE 'apply%')
                   AND resource = ? AND namespace = ? AND name = ? AND uid = ?";
        Ok(self.db().prepare_cached(sql)?.exists([&key.resource, &key.namespace, &key.name, uid])?)
    }

    /// Keeps a change for later.
    ///
    /// # Errors
    /// The statement's.
    pub fn push_change(&self, change: &NewChange) -> Result<i64, CacheError> {
        self.db()
            .prepare_cached(
                "INSERT INTO change (kind, resource, namespace, name, uid, subresource, at, base, body)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                kind_text(change),
                change.key.resource,
                change.key.namespace,
                change.key.name,
                change.uid,
                change.subresource,
                seconds(),
                change.base,
                change.body
            ])?;
        let id = self.db().last_insert_rowid();
        if let Author::Client(identity) = &change.author {
            self.db()
                .prepare_cached("INSERT OR REPLACE INTO author (change, identity) VALUES (?, ?)")?
                .execute(params![id, identity])?;
        }
        Ok(id)
    }

    /// Replaces what a waiting change will send.
    ///
    /// # Errors
    /// The statement's.
    pub fn rewrite_change(&self, id: i64, body: &[u8]) -> Result<(), CacheError> {
        self.db().prepare_cached("UPDATE change SET body = ? WHERE id = ?")?.execute(params![body, id])?;
        Ok(())
    }

    /// Replaces what a waiting patch begins with, and what it will send: nothing is its difference from that.
    pub(super) fn rewrite_edit(&self, id: i64, base: &Value, body: Option<&Value>) -> Result<(), CacheError> {
        let bytes = |value: &Value| value.to_string().into_bytes();
        self.db().prepare_cached("UPDATE change SET base = ?, body = ? WHERE id = ?")?.execute(params![
            bytes(base),
            body.map(bytes),
            id
        ])?;
        Ok(())
    }

    /// The cloud has part of it: the rest is the difference from `base`, the object with that part. One that was fixed
    /// meanwhile keeps what it says.
    ///
    /// # Errors
    /// The statement's.
    pub fn rebase_change(&self, id: i64, base: &[u8]) -> Result<(), CacheError> {
        self.db()
            .prepare_cached("UPDATE change SET base = ? WHERE id = ? AND body IS NULL")?
            .execute(params![base, id])?;
        Ok(())
    }

    /// The cloud has it, or will never take it.
    ///
    /// # Errors
    /// The statement's.
    pub fn drop_change(&self, id: i64) -> Result<(), CacheError> {
        self.db().prepare_cached("DELETE FROM change WHERE id = ?")?.execute([id])?;
        Ok(())
    }

    /// Every change to an object that is gone.
    ///
    /// # Errors
    /// The statement's.
    pub fn drop_changes_of(&self, key: &ObjectKey, uid: &str) -> Result<(), CacheError> {
        self.db()
            .prepare_cached(
                "DELETE FROM change WHERE resource = ? AND namespace = ? AND name = ? AND uid = ?",
            )?
            .execute([&key.resource, &key.namespace, &key.name, uid])?;
        Ok(())
    }

    /// The cloud was asked and said no for now, which counts as so many times.
    ///
    /// # Errors
    /// The statement's.
    pub fn fail_change(&self, id: i64, times: u32, error: &str) -> Result<(), CacheError> {
        self.db()
            .prepare_cached("UPDATE change SET attempts = attempts + ?, error = ? WHERE id = ?")?
            .execute(params![times, error, id])?;
        Ok(())
    }
}
