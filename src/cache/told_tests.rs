//! Who reads which version of a Secret, and what an identity's own writes and the cloud's refusals change.

use serde_json::json;

use super::*;

const CLIENT: &str = "system:serviceaccount:ns:a/u";

fn object(resource: &str, name: &str, version: &str) -> Object {
    let meta =
        json!({"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": version});
    Object::new(resource, json!({"metadata": meta, "data": {"v": version}})).unwrap()
}

fn secret(version: &str) -> Object {
    object("v1/secrets", "s", version)
}

fn scope(identity: &str, resource: &str, namespace: &str, labels: &str, fields: &str) -> ScopeKey {
    ScopeKey {
        identity: identity.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        labels: labels.into(),
        fields: fields.into(),
    }
}

fn list(w: &mut Writer, key: &ScopeKey, objects: &[Object]) -> Result<(), CacheError> {
    let (id, mut list) = (w.scope(key)?, ListRecord::default());
    objects.iter().try_for_each(|object| w.put_listed(id, &mut list, object))?;
    w.finish(id, &list, "List", "7").map(drop)
}

async fn cache() -> (tempfile::TempDir, Cache) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    (folder, cache)
}

/// The version that an identity reads by name, or why it reads none.
async fn reads(cache: &Cache, identity: &'static str) -> Result<Option<String>, String> {
    let read = cache.read(move |r| r.get(identity, &secret("").key)).await;
    read.map(|found| found.map(|object| object.version)).map_err(|error| error.to_string())
}

/// Whether all of the client's list may be shown.
async fn lists(cache: &Cache) -> bool {
    let untold = cache.read(|r| {
        let scope = r.scopes(CLIENT, "v1/secrets", "ns")?.remove(0).id;
        let (members, untold) = (r.members(scope)?, r.untold(scope)?);
        let objects = r.objects(scope, &members)?;
        assert_eq!(objects.len(), 1);
        let expected = if r.is_told(scope, &objects[0])? { Vec::new() } else { members };
        assert_eq!(untold, expected);
        Ok(!untold.is_empty())
    });
    !untold.await.unwrap()
}

#[tokio::test]
async fn a_secret_that_others_have_read_since_is_not_shown() {
    let (_folder, cache) = cache().await;
    let (own, kubelet) =
        (scope(CLIENT, "v1/secrets", "ns", "", ""), scope(NODE, "v1/secrets", "ns", "", "metadata.name=s"));
    let of_client = own.clone();
    cache.commit(move |w| list(w, &of_client, &[secret("1")])).await.unwrap();
    assert!(reads(&cache, CLIENT).await == Ok(Some("1".into())) && lists(&cache).await);
    // It was rotated, and kubelet mounts it.
    cache.commit(move |w| list(w, &kubelet, &[secret("2")])).await.unwrap();
    assert_eq!(reads(&cache, NODE).await, Ok(Some("2".into())));
    let why = reads(&cache, CLIENT).await.unwrap_err();
    assert!(why.contains("v1/secrets ns/s has changed since"), "{why}");
    assert!(!lists(&cache).await);
    // A list that began before comes late.
    let of_client = own.clone();
    cache.commit(move |w| list(w, &of_client, &[secret("1")])).await.unwrap();
    assert!(reads(&cache, CLIENT).await.is_err() && !lists(&cache).await);
    // Each way in which it is told makes it known in all its lists, and nothing older takes that back.
    type Way = fn(&mut Writer, &ScopeKey, Object) -> Result<(), CacheError>;
    let ways: [Way; 3] = [
        |w, _, object| w.put_single(CLIENT, &object),
        |w, key, object| w.scope(key).and_then(|id| w.put(id, &object)),
        |w, _, object| w.put_written(CLIENT, &object),
    ];
    for (way, version) in ways.into_iter().zip(["3", "4", "5"]) {
        let key = own.clone();
        cache.commit(move |w| w.refresh(&secret(version))).await.unwrap();
        assert!(reads(&cache, CLIENT).await.is_err(), "{version}");
        cache.commit(move |w| way(w, &key, secret(version))).await.unwrap();
        let key = own.clone();
        cache.commit(move |w| list(w, &key, &[secret("1")])).await.unwrap();
        assert_eq!(reads(&cache, CLIENT).await, Ok(Some(version.into())));
        assert!(lists(&cache).await, "{version}");
    }
}

#[tokio::test]
async fn what_an_older_release_has_kept_counts_as_told_when_this_one_begins() {
    let (folder, cache) = cache().await;
    let client = scope(CLIENT, "v1/secrets", "ns", "", "");
    cache
        .commit(move |w| {
            list(w, &client, &[secret("1")])?;
            Ok(w.db().execute("DELETE FROM told", [])?)
        })
        .await
        .unwrap();
    assert!(reads(&cache, CLIENT).await.is_err());
    drop(cache);
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    assert_eq!(reads(&cache, CLIENT).await, Ok(Some("1".into())));
    let gone = cache.commit(|w| {
        w.put_absent(CLIENT, &secret("").key)?;
        Ok(w.db().query_row("SELECT count(*) FROM told", [], |row| row.get::<_, i64>(0))?)
    });
    assert_eq!(gone.await.unwrap(), 0, "with what it was about");
}

#[tokio::test]
async fn what_the_cloud_refuses_is_forgotten_for_whom_it_refuses() {
    let kept = async |namespace: &'static str, denied: Denied<'static>| {
        let (_folder, cache) = cache().await;
        let all = [
            ("all", "", "", ""),
            ("ns", "ns", "", ""),
            ("labels", "ns", "x=y", ""),
            ("other", "other", "", ""),
            ("name", "ns", "", "metadata.name=s"),
            ("name-all", "", "", "metadata.name=s"),
            ("long", "ns", "", "metadata.name=s.long"),
        ];
        let job = move |w: &mut Writer| {
            for identity in [CLIENT, NODE] {
                for (_, namespace, labels, fields) in all {
                    list(w, &scope(identity, "v1/secrets", namespace, labels, fields), &[secret("1")])?;
                }
            }
            list(w, &scope(CLIENT, "v1/pods", "ns", "", ""), &[])?;
            w.forbid(CLIENT, "v1/secrets", namespace, denied)
        };
        cache.commit(job).await.unwrap();
        let read = cache.read(move |r| {
            let mut left = Vec::new();
            for namespace in ["ns", "other"] {
                for scope in r.scopes(CLIENT, "v1/secrets", namespace)? {
                    let key = scope.key;
                    let of = all
                        .iter()
                        .find(|(_, n, l, f)| (*n, *l, *f) == (&*key.namespace, &*key.labels, &*key.fields));
                    left.push(of.unwrap().0);
                }
            }
            left.sort_unstable();
            left.dedup();
            Ok((left, r.scopes(NODE, "v1/secrets", "ns")?.len(), r.scopes(CLIENT, "v1/pods", "ns")?.len()))
        });
        let (left, node, pods) = read.await.unwrap();
        assert_eq!((node, pods), (6, 1), "of others, and of another resource");
        left
    };
    assert_eq!(kept("ns", Denied::Lists).await, ["long", "name", "name-all", "other"]);
    assert_eq!(kept("", Denied::Lists).await, ["labels", "long", "name", "name-all", "ns", "other"]);
    assert_eq!(kept("ns", Denied::Get("s")).await, ["all", "labels", "long", "name-all", "ns", "other"]);
    assert_eq!(kept("ns", Denied::ListOf("s")).await, kept("ns", Denied::Get("s")).await);
    assert_eq!(kept("", Denied::Get("s")).await, ["all", "labels", "long", "name", "ns", "other"]);
    assert_eq!(kept("ns", Denied::Get("%")).await.len(), 7);
}

/// Who may get one object and list none: clients ask for lists of one name too.
#[tokio::test]
async fn what_was_read_by_name_alone_a_refused_list_does_not_take() {
    let (_folder, cache) = cache().await;
    cache.commit(|w| w.put_single(CLIENT, &secret("1"))).await.unwrap();
    for (denied, expected) in [
        (Denied::Lists, true),
        (Denied::ListOf("s"), true),
        (Denied::Get("other"), true),
        (Denied::Get("s"), false),
    ] {
        cache.commit(move |w| w.forbid(CLIENT, "v1/secrets", "ns", denied)).await.unwrap();
        assert_eq!(reads(&cache, CLIENT).await.unwrap().is_some(), expected, "{denied:?}");
    }
}

#[tokio::test]
async fn a_client_reads_what_it_has_made_where_it_reads_at_all() {
    let (_folder, cache) = cache().await;
    let map = |version: &str| object("v1/configmaps", "c", version);
    let job = move |w: &mut Writer| {
        w.put_absent("asked", &map("1").key)?;
        list(w, &scope("listed", "v1/configmaps", "ns", "", ""), &[])?;
        list(w, &scope("selected", "v1/configmaps", "ns", "x=y", ""), &[])?;
        // A watch was faster.
        w.scope(&scope("listed", "v1/configmaps", "ns", "", "")).and_then(|id| w.put(id, &map("2")))?;
        ["asked", "listed", "selected", "neither"].iter().try_for_each(|who| w.put_created(who, &map("1")))
    };
    cache.commit(job).await.unwrap();
    for (identity, expected) in [("asked", true), ("listed", true), ("selected", false), ("neither", false)] {
        let read = cache.read(move |r| r.get(identity, &map("").key)).await.unwrap();
        assert_eq!(read.map(|object| object.version), expected.then(|| "2".to_owned()), "{identity}");
    }
}

#[tokio::test]
async fn what_a_list_has_told_is_not_lost_when_one_object_is_asked_for() {
    let (_folder, cache) = cache().await;
    let key = scope(NODE, "v1/secrets", "ns", "", "metadata.name=s");
    let job = move |w: &mut Writer| {
        list(w, &key, &[secret("1")])?;
        w.put_absent(NODE, &secret("").key)?;
        w.put_single(NODE, &secret("9"))?;
        w.put_absent(NODE, &secret("").key)
    };
    cache.commit(job).await.unwrap();
    let scopes = cache.read(|r| r.scopes(NODE, "v1/secrets", "ns")).await.unwrap();
    assert_eq!((scopes.len(), &*scopes[0].kind, &*scopes[0].version), (1, "List", "7"));
}

#[tokio::test]
async fn of_a_list_only_what_its_reader_was_not_told_is_named() {
    let (_folder, cache) = cache().await;
    let all = ["a", "b", "c", "d"];
    let job = move |w: &mut Writer| {
        let secrets = all.map(|name| object("v1/secrets", name, "1"));
        for identity in [CLIENT, NODE] {
            list(w, &scope(identity, "v1/secrets", "ns", "", ""), &secrets)?;
        }
        list(w, &scope(CLIENT, "v1/configmaps", "ns", "", ""), &[object("v1/configmaps", "a", "1")])?;
        for (resource, name) in [("v1/secrets", "b"), ("v1/secrets", "d"), ("v1/configmaps", "a")] {
            w.refresh(&object(resource, name, "2"))?;
        }
        Ok(())
    };
    cache.commit(job).await.unwrap();
    for (identity, resource, expected) in [
        (CLIENT, "v1/secrets", vec!["b", "d"]),
        (NODE, "v1/secrets", vec![]),
        (CLIENT, "v1/configmaps", vec![]),
    ] {
        let named = cache.read(move |r| {
            let scope = r.scopes(identity, resource, "ns")?.remove(0).id;
            r.objects(scope, &r.untold(scope)?)
        });
        let names: Vec<String> = named.await.unwrap().into_iter().map(|object| object.key.name).collect();
        assert_eq!(names, expected, "{identity} {resource}");
    }
}

/// The block with a client's Secret is lost: what that does not need is served.
#[tokio::test]
async fn a_secret_that_cannot_be_read_takes_nothing_else_with_it() {
    let (folder, cache) = cache().await;
    let mut lost = secret("1");
    lost.body["data"]["v"] = json!("lost".repeat(700));
    let job = move |w: &mut Writer| {
        let pods: Vec<Object> = (0..50).map(|n| object("v1/pods", &format!("p{n}"), "1")).collect();
        list(w, &scope(NODE, "v1/pods", "ns", "", ""), &pods)?;
        list(w, &scope(CLIENT, "v1/secrets", "ns", "", ""), &[lost])
    };
    cache.commit(job).await.unwrap();
    let settled = rusqlite::Connection::open(cache.path()).unwrap();
    settled.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let (copy, mut bytes) = (folder.path().join("copy.db"), std::fs::read(cache.path()).unwrap());
    let is_lost = |page: &&mut [u8]| page.windows(16).any(|part| part == b"lostlostlostlost");
    let pages: Vec<&mut [u8]> = bytes.chunks_mut(4096).filter(is_lost).collect();
    assert_eq!(pages.len(), 1, "the Secret has a page of its own");
    pages.into_iter().for_each(|page| page.fill(0));
    crate::sys::durable::write(&copy, &bytes, 0o600).unwrap();
    let damaged = |opened: Result<_, CacheError>| match opened {
        Err(CacheError::Database { source, .. }) => open::is_damage(&source),
        _ => false,
    };
    assert!(damaged(open::connect(&copy)));
    let _connection = open::connect_damaged(&copy).unwrap();
    let reader = Reader::open(&copy).unwrap();
    let pods = reader.scopes(NODE, "v1/pods", "ns").unwrap().remove(0).id;
    let rows = reader.members(pods).unwrap();
    assert_eq!(reader.objects(pods, &rows).unwrap().len(), 50);
    assert!(reader.get(CLIENT, &secret("").key).is_err());
}
