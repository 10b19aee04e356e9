//! What is kept for clients has a bound.

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
    writer.finish(id, &list, "PodList", "7").map(drop)
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
    let synced = cache.read(|r| Ok(r.scopes("one", "v1/pods", "")?.iter().any(|s| s.key.labels.is_empty())));
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
