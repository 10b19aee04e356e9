//! How much is kept for clients: so many lists of one identity, and so many identities. Whoever may read anything could
//! fill the disk otherwise, with a new selector or the name of what is not there in each request.
//!
//! The node's own lists have no bound: kubelet asks for what its pods need, and without any of it one does not start.

use std::collections::{HashMap, HashSet};

use super::scope::{NODE, pod_of};
use super::{CacheError, ScopeId, ScopeKey, Writer, today};

/// Lists kept of one identity.
const SCOPES: usize = 2000;
/// Bytes of their selectors: some are as long as a request may be.
const TEXT: usize = 512 << 10;
/// Identities kept beside the node's: some times the pods that a node takes.
const IDENTITIES: usize = 512;
/// Of this many, one goes when there are too many: making room one by one would look at all of them each time.
const LUMP: usize = 10;
/// Lists that are remembered as used lately.
const REMEMBERED: usize = 4096;
/// Bytes of a list's selectors up to which it is.
const SHORT: usize = 1024;

/// Whether a waiting change is told as the difference of this object from what the cloud has.
pub(super) const TOLD_FROM: &str = "EXISTS (SELECT 1 FROM change WHERE change.resource = object.resource
    AND change.namespace = object.namespace AND change.name = object.name
    AND change.kind = 'patch' AND change.body IS NULL)";

/// When a list was used last.
#[derive(Clone, Copy, Debug)]
struct Used {
    id: ScopeId,
    /// The day on which the file was told so.
    day: i64,
    /// Rises with each use.
    turn: u64,
}

/// The rows of scopes that were used lately, to spare look-ups, and how many an identity has.
#[derive(Debug, Default)]
pub(super) struct Interned {
    scopes: HashMap<ScopeKey, Used>,
    /// Lists, and bytes of their selectors, by the identity's row.
    sizes: HashMap<i64, (usize, usize)>,
    turn: u64,
}

impl Interned {
    pub(super) fn forget(&mut self) {
        self.scopes.clear();
        self.sizes.clear();
    }

    /// The row of `key`, if the file knows that it was used today.
    pub(super) fn known(&mut self, key: &ScopeKey) -> Option<ScopeId> {
        self.turn += 1;
        let used = self.scopes.get_mut(key).filter(|used| used.day == today())?;
        used.turn = self.turn;
        Some(used.id)
    }

    /// The file knows now that it was used today.
    pub(super) fn note(&mut self, key: &ScopeKey, id: ScopeId) {
        if selectors(key) > SHORT {
            return;
        }
        if self.scopes.len() >= REMEMBERED {
            let mut turns: Vec<u64> = self.scopes.values().map(|used| used.turn).collect();
            let middle = *turns.select_nth_unstable(REMEMBERED / 2).1;
            self.scopes.retain(|_, used| used.turn > middle);
        }
        self.scopes.insert(key.clone(), Used { id, day: today(), turn: self.turn });
    }
}

fn selectors(key: &ScopeKey) -> usize {
    key.labels.len() + key.fields.len()
}

impl Writer {
    /// `new` was made for the identity in row `identity`: those that it used last longest ago make room.
    pub(super) fn bound_scopes(
        &mut self,
        key: &ScopeKey,
        identity: i64,
        new: ScopeId,
    ) -> Result<(), CacheError> {
        if key.identity == NODE {
            return Ok(());
        }
        let (mut count, mut text) = match self.interned.sizes.get(&identity) {
            Some((count, text)) => (count + 1, text + selectors(key)),
            None => self
                .db()
                .prepare_cached(
                    "SELECT count(*), coalesce(sum(length(labels) + length(fields)), 0) FROM scope WHERE identity = ?",
                )?
                .query_row([identity], |row| Ok((row.get(0)?, row.get(1)?)))?,
        };
        if count > SCOPES || text > TEXT {
            let mut dropped = HashSet::new();
            for (scope, freed) in self.by_use(identity)? {
                if count <= SCOPES - SCOPES / LUMP && text <= TEXT - TEXT / LUMP {
                    break;
                }
                if scope != new {
                    (count, text) = (count - 1, text - freed);
                    dropped.insert(scope);
                }
            }
            self.drop_scopes(&dropped)?;
        }
        self.interned.sizes.insert(identity, (count, text));
        Ok(())
    }

    /// The lists of an identity with the bytes of their selectors, those first that were used longest ago.
    fn by_use(&self, identity: i64) -> Result<Vec<(ScopeId, usize)>, CacheError> {
        let turns: HashMap<ScopeId, u64> =
            self.interned.scopes.values().map(|used| (used.id, used.turn)).collect();
        let mut statement = self.db().prepare_cached(
            "SELECT id, used, length(labels) + length(fields) FROM scope WHERE identity = ? ORDER BY id",
        )?;
        let rows = statement.query_map([identity], |row| {
            Ok((ScopeId(row.get(0)?), row.get::<_, i64>(1)?, row.get::<_, usize>(2)?))
        })?;
        let mut all: Vec<_> = rows.collect::<Result<_, _>>()?;
        all.sort_by_key(|(id, day, _)| (*day, turns.get(id).copied().unwrap_or_default()));
        Ok(all.into_iter().map(|(id, _, text)| (id, text)).collect())
    }

    /// Forgets lists, with what only they held.
    pub(super) fn drop_scopes(&mut self, scopes: &HashSet<ScopeId>) -> Result<(), CacheError> {
        self.interned.scopes.retain(|_, used| !scopes.contains(&used.id));
        self.gone.drop_scopes(scopes);
        for scope in scopes {
            let held: Vec<i64> = self
                .db()
                .prepare_cached("SELECT object FROM member WHERE scope = ?")?
                .query_map([scope.0], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            self.db().prepare_cached("DELETE FROM member WHERE scope = ?")?.execute([scope.0])?;
            self.db().prepare_cached("DELETE FROM scope WHERE id = ?")?.execute([scope.0])?;
            for object in held {
                // What is to be told of it is its difference from what the cloud has.
                if !self.is_to_be_told(object)? {
                    self.drop_if_unread(object)?;
                }
            }
        }
        Ok(())
    }

    /// Forgets all that an identity has read.
    pub(super) fn forget_read(&mut self, name: &str) -> Result<(), CacheError> {
        let identity = self.identity_row(name)?;
        let scopes = self.by_use(identity)?.into_iter().map(|(scope, _)| scope).collect();
        self.drop_scopes(&scopes)?;
        self.db().prepare_cached("DELETE FROM document WHERE identity = ?")?.execute([identity])?;
        self.interned.sizes.remove(&identity);
        Ok(())
    }

    /// Forgets what the clients in a pod that is gone have read. What they told in an outage and the cloud has not heard
    /// yet stays, and with it what its author has read.
    pub(super) fn forget_pod(&mut self, uid: &str) -> Result<(), CacheError> {
        let gone: Vec<(i64, String)> = self
            .db()
            .prepare_cached(&format!(
                "SELECT id, name FROM identity WHERE name LIKE 'system:serviceaccount:%' AND {} = ?
                 AND NOT EXISTS (SELECT 1 FROM author WHERE author.identity = identity.name)",
                pod_of("name")
            ))?
            .query_map([uid], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        for (identity, name) in gone {
            self.forget_identity(identity, &name)?;
            self.db().prepare_cached("DELETE FROM written WHERE identity = ?")?.execute([name])?;
        }
        Ok(())
    }

    pub(super) fn forget_identity(&mut self, identity: i64, name: &str) -> Result<(), CacheError> {
        self.forget_read(name)?;
        self.db().prepare_cached("DELETE FROM identity WHERE id = ?")?.execute([identity])?;
        Ok(())
    }

    fn is_to_be_told(&self, object: i64) -> Result<bool, CacheError> {
        let sql = format!("SELECT 1 FROM object WHERE id = ? AND {TOLD_FROM}");
        Ok(self.db().prepare_cached(&sql)?.exists([object])?)
    }

    /// `new` was made: the identities that have read nothing for longest make room, with all that is kept for them; those
    /// of pods that are on this node last, for many read once, at their start.
    pub(super) fn bound_identities(&mut self, new: &str) -> Result<(), CacheError> {
        let sql = "SELECT count(*) FROM identity WHERE name <> ?";
        let count: usize = self.db().prepare_cached(sql)?.query_row([NODE], |row| row.get(0))?;
        if count <= IDENTITIES {
            return Ok(());
        }
        let mut turns: HashMap<&str, u64> = HashMap::new();
        for (key, used) in &self.interned.scopes {
            let turn = turns.entry(&key.identity).or_default();
            *turn = used.turn.max(*turn);
        }
        let mut all: Vec<(i64, String, i64, bool)> = self
            .db()
            .prepare_cached(&format!(
                "SELECT identity.id, identity.name, coalesce(max(scope.used), 0), {} IN
                         (SELECT uid FROM object JOIN member ON member.object = object.id
                          JOIN scope AS list ON list.id = member.scope JOIN identity AS node ON node.id = list.identity
                          WHERE object.resource = 'v1/pods' AND node.name = ?1)
                 FROM identity LEFT JOIN scope ON scope.identity = identity.id
                 WHERE identity.name NOT IN (?1, ?2) AND identity.name NOT LIKE 'edge:%' GROUP BY identity.id ORDER BY identity.id",
                pod_of("identity.name")
            ))?
            .query_map([NODE, new], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
            .collect::<Result<_, _>>()?;
        all.sort_by_key(|(_, name, day, is_here)| {
            (*is_here, *day, turns.get(&**name).copied().unwrap_or_default())
        });
        for (identity, name, ..) in all.into_iter().take(count - IDENTITIES + IDENTITIES / LUMP) {
            self.forget_identity(identity, &name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "bound_tests.rs"]
mod tests;
