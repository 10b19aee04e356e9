//! How much is kept for clients: so many lists of one identity, and so many identities. Whoever may read anything could
//! fill the disk otherwise, with a new selector or the name of what is not there in each request.
//!
//! The node's own lists have no bound: kubelet asks for what its pods need, and without any of it one does not start.

use std::collections::{HashMap, HashSet};

use super::scope::NODE;
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
            .prepare_cached(
                "SELECT id, name FROM identity WHERE name LIKE 'system:serviceaccount:%'
                 AND substr(name, instr(name, '/') + 1) = ?
                 AND NOT EXISTS (SELECT 1 FROM author WHERE author.identity = identity.name)",
            )?
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
            .prepare_cached(
                "SELECT identity.id, identity.name, coalesce(max(scope.used), 0),
                     substr(identity.name, instr(identity.name, '/') + 1) IN
                         (SELECT uid FROM object JOIN member ON member.object = object.id
                          JOIN scope AS list ON list.id = member.scope JOIN identity AS node ON node.id = list.identity
                          WHERE object.resource = 'v1/pods' AND node.name = ?1)
                 FROM identity LEFT JOIN scope ON scope.identity = identity.id
                 WHERE identity.name NOT IN (?1, ?2) AND identity.name NOT LIKE 'edge:%' GROUP BY identity.id ORDER BY identity.id",
            )?
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
mod tests {
    use super::*;
    use crate::cache::{Author, Cache, ChangeKind, ListRecord, NewChange, Object, ObjectKey};

    fn scope(identity: &str, labels: &str) -> ScopeKey {
        ScopeKey {
            identity: identity.into(),
            resource: "v1/pods".into(),
            namespace: String::new(),
            labels: labels.into(),
            fields: String::new(),
        }
    }

    fn pod(name: &str) -> Object {
        let meta = serde_json::json!({"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1"});
        Object::new("v1/pods", serde_json::json!({ "metadata": meta })).unwrap()
    }

    fn list(writer: &mut Writer, key: &ScopeKey, names: &[&str]) -> Result<(), CacheError> {
        let (id, mut list) = (writer.scope(key)?, ListRecord::default());
        names.iter().try_for_each(|name| writer.put_listed(id, &mut list, &pod(name)))?;
        writer.finish(id, &list, "PodList", "7")
    }

    async fn count(cache: &Cache, what: &'static str) -> usize {
        cache.commit(move |w| Ok(w.db().query_row(what, [], |row| row.get(0))?)).await.unwrap()
    }

    const CLIENTS: &str =
        "SELECT count(*) FROM scope JOIN identity ON identity.id = identity WHERE name <> 'node'";

    #[tokio::test]
    async fn a_client_with_ever_new_selectors_and_names_does_not_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let kubelet = |w: &mut Writer| {
            list(w, &scope(NODE, ""), &["a", "b"])?;
            (0..3000).try_for_each(|n| list(w, &scope(NODE, &format!("n={n}")), &[]))
        };
        cache.commit(kubelet).await.unwrap();
        let flood = |w: &mut Writer| {
            // Its status was told here, and waits for the cloud as the difference from this object.
            list(w, &scope("one", "told=yes"), &["told"])?;
            w.push_change(&NewChange {
                kind: ChangeKind::Patch,
                key: pod("told").key,
                uid: "told".into(),
                subresource: "status".into(),
                author: Author::Client("one".into()),
                manager: None,
                base: Some(b"{}".to_vec()),
                body: None,
            })?;
            for n in 0..10_000 {
                list(w, &scope("one", &format!("n={n}")), &[&format!("only-{n}")])?;
                let (resource, namespace) = ("v1/secrets".into(), "ns".into());
                w.put_absent("one", &ObjectKey { resource, namespace, name: format!("absent-{n}") })?;
                if n % 100 == 0 {
                    list(w, &scope("one", ""), &["a", "c"])?;
                }
            }
            list(w, &scope("two", "x=y"), &["d"])
        };
        cache.commit(flood).await.unwrap();
        let kept = count(&cache, CLIENTS).await;
        assert!((SCOPES / 2..=SCOPES + 1).contains(&kept), "{kept} lists of clients");
        let unread = "SELECT count(*) FROM object WHERE id NOT IN (SELECT object FROM member)";
        assert_eq!(count(&cache, unread).await, 1, "the one that is told from");
        assert!(cache.read(|r| Ok(r.object(&pod("told").key)?.is_some())).await.unwrap());
        assert!(count(&cache, "SELECT count(*) FROM object").await < SCOPES + 10);
        let read = cache.read(|r| {
            let of = |identity: &str| r.scopes(identity, "v1/pods", "");
            let whole = of("one")?.into_iter().find(|scope| scope.key.labels.is_empty());
            let members = whole.map(|scope| r.members(scope.id)).transpose()?.unwrap_or_default();
            Ok((of(NODE)?.len(), members.len(), of("two")?.len()))
        });
        assert_eq!(read.await.unwrap(), (3001, 2, 1), "kubelet's, the one that it goes on using, another's");
    }

    #[tokio::test]
    async fn nor_does_one_with_long_selectors() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let flood = |w: &mut Writer| {
            (0..100).try_for_each(|n| list(w, &scope("one", &format!("n in ({n:0>60000})")), &[]))
        };
        cache.commit(flood).await.unwrap();
        let text = count(&cache, "SELECT sum(length(labels)) FROM scope").await;
        assert!((TEXT / 2..=TEXT).contains(&text), "{text} bytes");
    }

    #[tokio::test]
    async fn a_list_that_made_room_while_it_arrived_is_not_synced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let job = |w: &mut Writer| {
            let (first, mut half) = (w.scope(&scope("one", ""))?, ListRecord::default());
            w.put_listed(first, &mut half, &pod("a"))?;
            (0..2 * SCOPES).try_for_each(|n| list(w, &scope("one", &format!("n={n}")), &[]))?;
            let second = w.scope(&scope("one", ""))?;
            w.put_listed(second, &mut half, &pod("b"))?;
            w.finish(second, &half, "PodList", "7")
        };
        cache.commit(job).await.unwrap();
        let synced =
            cache.read(|r| Ok(r.scopes("one", "v1/pods", "")?.iter().any(|s| s.key.labels.is_empty())));
        assert!(!synced.await.unwrap(), "half a list");
    }

    #[tokio::test]
    async fn identities_that_read_nothing_any_more_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let job = |w: &mut Writer| {
            list(w, &scope(NODE, ""), &["a"])?;
            for n in 0..3 * IDENTITIES {
                list(w, &scope(&format!("token:{n}"), ""), &["a", &format!("only-{n}")])?;
                list(w, &scope("steady", ""), &["a", "b"])?;
            }
            Ok(())
        };
        cache.commit(job).await.unwrap();
        let kept = count(&cache, "SELECT count(*) FROM identity").await;
        assert!((IDENTITIES / 2..=IDENTITIES + 1).contains(&kept), "{kept} identities");
        assert!(count(&cache, CLIENTS).await <= IDENTITIES);
        assert!(count(&cache, "SELECT count(*) FROM object").await <= IDENTITIES + 2);
        let read = cache.read(|r| Ok((r.scopes(NODE, "v1/pods", "")?, r.scopes("steady", "v1/pods", "")?)));
        let (node, steady) = read.await.unwrap();
        assert_eq!((node.len(), steady.len()), (1, 1));
    }

    #[tokio::test]
    async fn what_a_pod_read_once_outlives_many_pods_that_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let client = |uid: &str| format!("system:serviceaccount:ns:job/{uid}");
        let job = move |w: &mut Writer| {
            list(w, &scope(NODE, ""), &["here"])?;
            list(w, &scope(&client("here"), ""), &["a"])?;
            (0..3 * IDENTITIES).try_for_each(|n| list(w, &scope(&client(&n.to_string()), ""), &["a"]))
        };
        cache.commit(job).await.unwrap();
        assert!(count(&cache, CLIENTS).await <= IDENTITIES);
        let kept = cache.read(move |r| r.scopes(&client("here"), "v1/pods", "")).await.unwrap();
        assert_eq!(kept.len(), 1);
    }

    #[tokio::test]
    async fn with_a_pod_goes_what_it_has_read() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let client = |uid: &str| format!("system:serviceaccount:ns:job/{uid}");
        let job = move |w: &mut Writer| {
            list(w, &scope(NODE, ""), &["here"])?;
            for uid in ["here", "done", "unseen", "tells"] {
                list(w, &scope(&client(uid), ""), &["a", &format!("only-{uid}")])?;
            }
            list(w, &scope("token:00ff", ""), &["a"])?;
            list(w, &scope("system:serviceaccount:ns:job/", ""), &["a"])?;
            w.push_change(&NewChange {
                kind: ChangeKind::Create,
                key: ObjectKey { resource: "v1/events".into(), ..pod("told").key },
                uid: String::new(),
                subresource: String::new(),
                author: Author::Client(client("tells")),
                manager: None,
                base: None,
                body: Some(b"{}".to_vec()),
            })?;
            w.drop_tokens_of("Pod/done")?;
            let pods = w.scope(&scope(NODE, ""))?;
            w.drop_tokens_beside(pods)
        };
        cache.commit(job).await.unwrap();
        let names = cache.commit(|w| {
            let mut statement = w.db().prepare("SELECT name FROM identity ORDER BY name")?;
            let names: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            Ok(names)
        });
        let pods = ["", "here", "tells"].map(client);
        let expected = [NODE, &pods[0], &pods[1], &pods[2], "token:00ff"];
        assert_eq!(names.await.unwrap(), expected);
        let objects = "SELECT count(*) FROM object WHERE resource = 'v1/pods'";
        assert_eq!(count(&cache, objects).await, 4, "`here`, `a`, and what is only known to those that stay");
    }
}
