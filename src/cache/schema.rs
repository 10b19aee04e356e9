//! The tables of `cache.db`, and how an older file becomes one of today.
//!
//! Migrations only add, so that the release before this one opens the file too: a snap reverts, an image falls
//! back. `schema_tests` holds each step to that.

use rusqlite::Connection;

use super::told;
use crate::sys::tables;

/// One step a version; step N brings a file of version N to N + 1. A step that was released is never changed.
pub(super) const STEPS: [&str; 6] = [
    "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
    CREATE TABLE identity (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE object (
        id INTEGER PRIMARY KEY,
        resource TEXT NOT NULL,     -- group/version/resource, such as v1/pods
        namespace TEXT NOT NULL,    -- empty for cluster-scoped ones
        name TEXT NOT NULL,
        uid TEXT NOT NULL,
        version TEXT NOT NULL,      -- metadata.resourceVersion
        at INTEGER NOT NULL,        -- seconds since 1970 of the last write
        body BLOB NOT NULL,         -- JSON without metadata.managedFields
        UNIQUE (resource, namespace, name));
    CREATE TABLE scope (
        id INTEGER PRIMARY KEY,
        identity INTEGER NOT NULL REFERENCES identity (id),
        resource TEXT NOT NULL,
        namespace TEXT NOT NULL,    -- empty for all
        labels TEXT NOT NULL,       -- canonical selectors, empty for none
        fields TEXT NOT NULL,
        kind TEXT NOT NULL,         -- of the list, such as PodList
        version TEXT NOT NULL,      -- of the list; empty until synced
        synced INTEGER,             -- seconds since 1970; NULL is never
        used INTEGER NOT NULL,      -- day on which it was last asked for
        UNIQUE (identity, resource, namespace, labels, fields));
    CREATE TABLE member (
        scope INTEGER NOT NULL REFERENCES scope (id),
        object INTEGER NOT NULL REFERENCES object (id),
        PRIMARY KEY (scope, object)) WITHOUT ROWID;
    CREATE INDEX member_object ON member (object);
    CREATE TABLE document (
        identity INTEGER NOT NULL REFERENCES identity (id),
        path TEXT NOT NULL,
        variant TEXT NOT NULL,      -- the Accept header it answered
        type TEXT NOT NULL,
        etag TEXT NOT NULL,
        at INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (identity, path, variant));
    CREATE TABLE token (
        namespace TEXT NOT NULL,
        account TEXT NOT NULL,
        audiences TEXT NOT NULL,
        expiration INTEGER NOT NULL, -- seconds asked for
        bound TEXT NOT NULL,        -- kind/uid of what it is bound to
        at INTEGER NOT NULL,
        body BLOB NOT NULL,         -- the TokenRequest as answered
        PRIMARY KEY (namespace, account, audiences, expiration, bound));
    CREATE TABLE caller (
        digest TEXT PRIMARY KEY,    -- SHA-256 of a bearer token the cloud accepted
        identity TEXT NOT NULL,
        at INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE verifier (
        kid TEXT PRIMARY KEY,       -- a public key of the cloud's token issuer
        jwk TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE change (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        resource TEXT NOT NULL,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        uid TEXT NOT NULL,
        subresource TEXT NOT NULL,
        at INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT '',
        base BLOB,                  -- the cloud's object before the first local edit
        body BLOB);
    CREATE INDEX change_object ON change (resource, namespace, name);
",
    "
    CREATE TABLE refused (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        object TEXT NOT NULL,       -- what a change was about that the cloud did not take
        why TEXT NOT NULL,
        at INTEGER NOT NULL);
",
    "
    CREATE TABLE author (
        change INTEGER PRIMARY KEY, -- a change that a client other than kubelet made
        identity TEXT NOT NULL);
    CREATE TRIGGER author_gone AFTER DELETE ON change
        BEGIN DELETE FROM author WHERE change = OLD.id; END;
    CREATE TABLE written (
        identity TEXT NOT NULL,     -- whom the cloud has let write this
        resource TEXT NOT NULL,
        subresource TEXT NOT NULL,
        PRIMARY KEY (identity, resource, subresource)) WITHOUT ROWID;
",
    "
    CREATE TABLE audience (
        digest TEXT PRIMARY KEY,    -- of a caller's token
        issuer TEXT NOT NULL,       -- who it says has issued it
        audiences TEXT NOT NULL) WITHOUT ROWID; -- whom it is for, a line each
    CREATE TRIGGER caller_gone AFTER DELETE ON caller
        BEGIN DELETE FROM audience WHERE digest = OLD.digest; END;
",
    "
    CREATE TABLE told (
        scope INTEGER NOT NULL,     -- of a client, and a Secret in it
        object INTEGER NOT NULL,
        version TEXT NOT NULL,      -- metadata.resourceVersion that it was told last
        PRIMARY KEY (scope, object)) WITHOUT ROWID;
    CREATE TRIGGER member_gone AFTER DELETE ON member
        BEGIN DELETE FROM told WHERE scope = OLD.scope AND object = OLD.object; END;
",
    "
    CREATE TABLE fresh (
        scope INTEGER PRIMARY KEY,  -- that was watched, or read again and again, when the cloud was there last
        until INTEGER NOT NULL);    -- seconds since 1970 when it was last known to be as the cloud had it
    CREATE TRIGGER scope_gone AFTER DELETE ON scope
        BEGIN DELETE FROM fresh WHERE scope = OLD.id; END;
",
];

/// Brings `connection` to today's tables. A file of a later version is taken as it is: later
/// versions only add.
pub fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    bring_up(connection)?;
    told::seed(connection)
}

/// The same of a file that is known to be damaged: what fails for that and is not needed to read the rest is left out.
pub fn migrate_damaged(connection: &mut Connection) -> rusqlite::Result<()> {
    bring_up(connection)?;
    if let Err(error) = told::seed(connection) {
        tracing::warn!(%error, "Secrets that clients have read by the release before are not shown to them");
    }
    Ok(())
}

fn bring_up(connection: &mut Connection) -> rusqlite::Result<()> {
    match tables::migrate(connection, &STEPS)? {
        0 => {}
        taken => {
            tracing::info!(taken, version = STEPS.len(), "the cache's tables are brought to this version")
        }
    }
    Ok(())
}
