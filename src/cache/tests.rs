use serde_json::json;

use super::*;

fn pod(name: &str, version: &str) -> Object {
    let body = json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"),
        "resourceVersion": version, "managedFields": [{"manager": "m"}]}, "spec": {"nodeName": "n"}});
    Object::new("v1/pods", body).unwrap()
}

fn scope(identity: &str, fields: &str) -> ScopeKey {
    ScopeKey {
        identity: identity.into(),
        resource: "v1/pods".into(),
        namespace: String::new(),
        labels: String::new(),
        fields: fields.into(),
    }
}

async fn list(cache: &Cache, key: ScopeKey, objects: Vec<Object>) {
    cache
        .commit(move |w| {
            let id = w.scope(&key)?;
            let mut list = ListRecord::default();
            for object in &objects {
                w.put_listed(id, &mut list, object)?;
            }
            w.finish(id, &list, "PodList", "7")
        })
        .await
        .unwrap();
}

async fn names(cache: &Cache, identity: &'static str) -> Option<Vec<String>> {
    cache
        .read(move |r| {
            let Some(scope) = r.scopes(identity, "v1/pods", "")?.into_iter().next() else { return Ok(None) };
            let rows = r.members(scope.id)?;
            Ok(Some(r.objects(scope.id, &rows)?.into_iter().map(|o| o.key.name).collect()))
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn empty_and_never_synced_are_two_things() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    assert_eq!(names(&cache, "node").await, None);
    list(&cache, scope("node", ""), vec![]).await;
    assert_eq!(names(&cache, "node").await, Some(vec![]));
}

#[tokio::test]
async fn texts_come_out_of_every_object() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let mut second = pod("b", "1");
    second.body["metadata"]["annotations"] = json!({"edge.io/restart": "now \"quoted\""});
    list(&cache, scope("node", ""), vec![pod("a", "1"), second]).await;
    let paths = ["$.metadata.uid", "$.metadata.annotations.\"edge.io/restart\"", "$.spec"];
    let found = cache.read(move |r| r.texts("v1/pods", paths)).await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(found, [[text("uid-a"), None, None], [text("uid-b"), text("now \"quoted\""), None]]);
}

#[tokio::test]
async fn what_others_have_read_are_no_pods_of_this_node() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let own = || cache.read(|r| r.own_pods());
    let client = "system:serviceaccount:ns:a/u";
    list(&cache, scope(client, ""), vec![pod("mine", "1"), pod("other", "1")]).await;
    // A client's list, and one pod that the kubelet has read by its name, are no list of the node's pods.
    list(&cache, scope("node", "metadata.name=mine"), vec![pod("mine", "1")]).await;
    list(&cache, scope(client, "spec.nodeName=m"), vec![pod("other", "1")]).await;
    assert_eq!(own().await.unwrap(), None);
    assert!(!cache.read(|r| r.knows_own_pods()).await.unwrap());
    list(&cache, scope("node", "spec.nodeName=n"), vec![pod("mine", "1")]).await;
    assert!(cache.read(|r| r.knows_own_pods()).await.unwrap());
    let names = |pods: Vec<serde_json::Value>| -> Vec<String> {
        pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(own().await.unwrap().map(names), Some(vec!["mine".to_owned()]));
    assert_eq!(cache.read(|r| r.all("v1/pods")).await.unwrap().len(), 2);
    list(&cache, scope("node", "spec.nodeName=n"), vec![]).await;
    assert_eq!(own().await.unwrap(), Some(vec![]), "none is not the same as not known");
    // Whoever holds the kubelet's kubeconfig may look at another node's.
    cache.commit(|w| w.set_node_name("n")).await.unwrap();
    list(&cache, scope("node", "spec.nodeName=other"), vec![pod("other", "1")]).await;
    assert_eq!(own().await.unwrap(), Some(vec![]));
    cache.commit(|w| w.set_node_name("m")).await.unwrap();
    assert!(!cache.read(|r| r.knows_own_pods()).await.unwrap());
}

/// A list that comes slowly was read by the cloud when it began.
#[tokio::test]
async fn what_was_read_while_a_list_came_is_not_made_older_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let version = || async {
        let all = cache.read(|r| r.all("v1/pods")).await.unwrap();
        all[0]["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
    };
    list(&cache, scope("node", ""), vec![pod("a", "9")]).await;
    list(&cache, scope("client", ""), vec![pod("a", "7")]).await;
    assert_eq!(version().await, "9");
    list(&cache, scope("client", ""), vec![pod("a", "10")]).await;
    assert_eq!(version().await, "10", "versions are numbers");
    // Read longer ago than the list: etcd was restored meanwhile, and its versions begin lower.
    cache.commit(|w| Ok(w.db().execute("UPDATE object SET at = at - 60", [])?)).await.unwrap();
    list(&cache, scope("client", ""), vec![pod("a", "3")]).await;
    assert_eq!(version().await, "3");
}

#[tokio::test]
async fn a_complete_list_prunes_and_an_unfinished_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    list(&cache, scope("node", ""), vec![pod("a", "1"), pod("b", "1")]).await;
    cache
        .commit(|w| {
            let id = w.scope(&scope("node", ""))?;
            w.put_listed(id, &mut ListRecord::default(), &pod("c", "1"))
        })
        .await
        .unwrap();
    assert_eq!(names(&cache, "node").await.unwrap(), ["a", "b", "c"]);
    list(&cache, scope("node", ""), vec![pod("b", "1")]).await;
    assert_eq!(names(&cache, "node").await.unwrap(), ["b"]);
    assert_eq!(cache.read(|r| r.all("v1/pods")).await.unwrap().len(), 1, "what nobody reads is gone");
}

/// Flash wears out: a kubelet reads each ConfigMap anew every few minutes, at a version that always rises.
#[tokio::test]
async fn a_list_that_is_read_again_within_the_hour_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    list(&cache, scope("node", ""), vec![pod("a", "1")]).await;
    let read_again = |minutes: i64, version: &'static str| {
        cache.commit(move |w| {
            w.db().execute("UPDATE scope SET synced = ?", [seconds() - minutes * 60])?;
            let id = w.scope(&scope("node", ""))?;
            let before = w.db().total_changes();
            w.mark_synced(id, "PodList", version)?;
            Ok(w.db().total_changes() - before)
        })
    };
    assert_eq!(read_again(50, "8").await.unwrap(), 0);
    assert_eq!(read_again(70, "9").await.unwrap(), 1);
}

#[tokio::test]
async fn an_identity_reads_only_what_it_has_read() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    list(&cache, scope("node", ""), vec![pod("a", "1")]).await;
    let key = pod("a", "1").key;
    let (mine, other) = cache.read(move |r| Ok((r.get("node", &key)?, r.get("other", &key)?))).await.unwrap();
    assert!(mine.is_some() && other.is_none());
    assert_eq!(mine.unwrap().body["metadata"].get("managedFields"), None);
}

#[tokio::test]
async fn leaving_one_scope_keeps_it_in_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    list(&cache, scope("node", ""), vec![pod("a", "1")]).await;
    list(&cache, scope("other", "x=y"), vec![pod("a", "1")]).await;
    let take = |identity: &'static str, fields: &'static str| {
        cache.commit(move |w| {
            let id = w.scope(&scope(identity, fields))?;
            w.take(id, &pod("a", "1"))
        })
    };
    take("other", "x=y").await.unwrap();
    assert_eq!(names(&cache, "node").await.unwrap(), ["a"]);
    take("node", "").await.unwrap();
    assert!(cache.read(|r| r.all("v1/pods")).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_commit_leaves_nothing_and_spoils_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let (kept, refused) = tokio::join!(
        cache.commit(|w| w.set_meta("kept", "1")),
        cache.commit(|w| {
            w.set_meta("refused", "1")?;
            Err::<(), _>(CacheError::Refused("no".into()))
        })
    );
    kept.unwrap();
    assert_eq!(refused.unwrap_err().to_string(), "no");
    let (kept, refused) = cache.read(|r| Ok((r.meta("kept")?, r.meta("refused")?))).await.unwrap();
    assert_eq!((kept.as_deref(), refused), (Some("1"), None));
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cache.db"), vec![7; 9000]).unwrap();
    let opened = Cache::open(folder.path(), folder.path()).unwrap();
    let (aside, why) = opened.damaged.unwrap();
    assert!(aside.exists() && !why.is_empty());
    opened.cache.flush().await.unwrap();
}

#[tokio::test]
async fn a_heartbeat_alone_is_not_written_but_a_condition_is() {
    let node = |version: &str, beat: &str, ready: &str| {
        let body = json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": version},
            "status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": beat}]}});
        Object::new("v1/nodes", body).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    for (version, beat, ready, stored) in
        [("1", "t1", "True", "1"), ("2", "t2", "True", "1"), ("3", "t3", "False", "3")]
    {
        let object = node(version, beat, ready);
        let key = ScopeKey { resource: "v1/nodes".into(), ..scope("node", "") };
        let key_of = object.key.clone();
        cache
            .commit(move |w| {
                let id = w.scope(&key)?;
                w.put(id, &object)
            })
            .await
            .unwrap();
        let found = cache.read(move |r| r.get("node", &key_of)).await.unwrap().unwrap();
        assert_eq!(found.version, stored);
    }
}

#[tokio::test]
async fn an_event_that_goes_on_happening_is_not_written_each_time() {
    let event = |version: &str, count: u64, message: &str| {
        let body = json!({"metadata": {"name": "e", "namespace": "a", "uid": "u", "resourceVersion": version},
            "message": message, "count": count, "lastTimestamp": version});
        Object::new("v1/events", body).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let key = ScopeKey { resource: "v1/events".into(), ..scope("node", "") };
    for (version, count, message, stored) in [
        ("1", 1, "no", "1"),
        ("2", 3, "no", "2"),
        ("3", 4, "no", "2"),
        ("4", 40, "no", "2"),
        ("5", 41, "yes", "5"),
    ] {
        let (object, key) = (event(version, count, message), key.clone());
        let key_of = object.key.clone();
        cache.commit(move |w| w.scope(&key).and_then(|id| w.put(id, &object))).await.unwrap();
        let found = cache.read(move |r| r.get("node", &key_of)).await.unwrap().unwrap();
        assert_eq!(found.version, stored);
    }
}

#[tokio::test]
async fn clearing_keeps_what_waits_for_the_cloud() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    list(&cache, scope("node", ""), vec![pod("a", "1"), pod("b", "1")]).await;
    cache
        .commit(|w| {
            w.push_change(&NewChange {
                kind: ChangeKind::Patch,
                key: pod("a", "1").key,
                uid: "uid-a".into(),
                subresource: "status".into(),
                author: Author::Node,
                manager: None,
                base: Some(b"{}".to_vec()),
                body: None,
            })?;
            w.clear()
        })
        .await
        .unwrap();
    cache.compact().await.unwrap();
    let left = cache.read(|r| Ok((r.all("v1/pods")?, r.changes()?))).await.unwrap();
    assert_eq!((left.0.len(), left.1.len()), (1, 1));
    let text = std::fs::read(folder.path().join("cache.db")).unwrap();
    assert!(!text.windows(5).any(|w| w == b"uid-b"), "what was cleared is not on the disk");
}

#[tokio::test]
async fn clearing_keeps_the_tokens_in_whose_names_the_cloud_is_yet_to_be_told() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let kept = async || {
        let read = cache.read(|r| Ok([r.token(&token("Pod/uid-a"))?, r.token(&token("Pod/uid-b"))?]));
        let tokens = read.await.unwrap().map(|body| body.is_some());
        // What the cloud took a client's token for says which one is sent.
        let callers = cache.read(|r| Ok(["00aa", "00bb"].map(|digest| r.caller(digest).unwrap().is_some())));
        assert_eq!(callers.await.unwrap(), tokens);
        tokens
    };
    let event = NewChange {
        kind: ChangeKind::Create,
        key: ObjectKey { resource: "v1/events".into(), namespace: "ns".into(), name: "a.1".into() },
        uid: String::new(),
        subresource: String::new(),
        author: Author::Client("system:serviceaccount:ns:default/uid-a".into()),
        manager: None,
        base: None,
        body: Some(b"{}".to_vec()),
    };
    let id = cache
        .commit(move |w| {
            w.put_token(&token("Pod/uid-a"), b"{}")?;
            w.put_token(&token("Pod/uid-b"), b"{}")?;
            for (digest, uid) in [("00aa", "uid-a"), ("00bb", "uid-b")] {
                w.accept_caller(
                    digest,
                    &format!("system:serviceaccount:ns:default/{uid}"),
                    &Purpose::default(),
                )?;
            }
            let id = w.push_change(&event)?;
            w.clear()?;
            Ok(id)
        })
        .await
        .unwrap();
    assert_eq!(kept().await, [true, false]);
    cache
        .commit(move |w| {
            w.drop_change(id)?;
            w.clear()
        })
        .await
        .unwrap();
    assert_eq!(kept().await, [false, false]);
}

/// Bound to `bound`, for the API server.
fn token(bound: &str) -> TokenKey {
    TokenKey {
        namespace: "ns".into(),
        account: "default".into(),
        audiences: String::new(),
        expiration: 3600,
        bound: bound.into(),
    }
}

#[tokio::test]
async fn tokens_of_pods_that_are_not_listed_any_more_go() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    list(&cache, scope("node", ""), vec![pod("a", "1"), pod("b", "1")]).await;
    let keys = ["Pod/uid-a", "Pod/uid-b", "Secret/uid-b", ""].map(token);
    let kept = keys.clone();
    cache
        .commit(move |w| {
            kept.iter().try_for_each(|key| w.put_token(key, b"{}"))?;
            w.accept_caller("00ff", "system:serviceaccount:ns:default/uid-b", &Purpose::default())
        })
        .await
        .unwrap();
    list(&cache, scope("node", ""), vec![pod("a", "1")]).await;
    let gone = cache
        .commit(|w| {
            let pods = w.scope(&scope("node", ""))?;
            w.drop_tokens_beside(pods)
        })
        .await
        .unwrap();
    let left = cache
        .read(move |r| {
            keys.iter().map(|key| Ok(r.token(key)?.is_some())).collect::<Result<Vec<_>, CacheError>>()
        })
        .await
        .unwrap();
    assert_eq!((gone, left), (1, vec![true, false, true, true]));
    assert_eq!(cache.read(|r| r.caller("00ff")).await.unwrap(), None, "nor is anybody taken for that pod");
}

#[tokio::test]
async fn of_the_tokens_of_an_identity_the_newest_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let accept = |w: &mut Writer| {
        let purpose = Purpose::default();
        w.accept_caller("other", "token:other", &purpose)?;
        (0..200)
            .try_for_each(|n| w.accept_caller(&format!("{n:04}"), "system:serviceaccount:ns:a/u", &purpose))
    };
    cache.commit(accept).await.unwrap();
    let left = cache
        .read(|r| {
            let kept = (0..200).filter(|n| matches!(r.caller(&format!("{n:04}")), Ok(Some(_)))).count();
            Ok((kept, r.caller("0199")?.is_some(), r.caller("other")?.is_some()))
        })
        .await
        .unwrap();
    // 64 and the one that came last, which is one of them where a second has begun since.
    assert!(matches!(left, (64 | 65, true, true)), "{left:?}");
}

/// A batch that ends as on a full disk, once `what` was recorded in it; returns when writing is possible again.
async fn lose(cache: &Cache, what: impl FnOnce(&mut Writer) -> Result<(), CacheError> + Send + 'static) {
    cache.flush().await.unwrap();
    let mut trouble = cache.follow_trouble();
    cache.record(0, what);
    let full = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
    cache.record(0, move |_| Err(CacheError::Statement(full)));
    trouble.wait_for(Option::is_some).await.unwrap();
    while cache.flush().await.is_err() {}
}

#[tokio::test]
async fn a_list_of_which_a_part_was_rolled_back_is_not_synced_and_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let begun = Arc::new(std::sync::Mutex::new(ListRecord::default()));
    let feed = |name: &'static str| {
        let begun = begun.clone();
        move |w: &mut Writer| {
            let id = w.scope(&scope("node", ""))?;
            w.put_listed(id, &mut begun.lock().unwrap(), &pod(name, "1"))
        }
    };
    let end = || {
        let begun = begun.clone();
        cache.commit(move |w| {
            let id = w.scope(&scope("node", ""))?;
            w.finish(id, &begun.lock().unwrap(), "PodList", "7")
        })
    };
    lose(&cache, feed("a")).await;
    let lost = *cache.lost().borrow();
    cache.commit(feed("b")).await.unwrap();
    end().await.unwrap();
    assert_eq!(names(&cache, "node").await, None, "half a list");
    assert_eq!(*cache.lost().borrow(), lost + 1, "nobody reads it anew");

    *begun.lock().unwrap() = ListRecord::default();
    cache.commit(feed("a")).await.unwrap();
    cache.commit(feed("b")).await.unwrap();
    end().await.unwrap();
    assert_eq!(names(&cache, "node").await.unwrap(), ["a", "b"]);
}

/// As a mirror run does that writes to a slow card: kubelet is answered meanwhile.
#[test]
fn what_else_blocks_keeps_no_reader_waiting() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build();
    runtime.unwrap().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        list(&cache, scope("node", ""), vec![pod("a", "1")]).await;
        let (release, held) = std::sync::mpsc::channel::<()>();
        let blocking = tokio::task::spawn_blocking(move || held.recv());
        let read = tokio::time::timeout(std::time::Duration::from_secs(20), names(&cache, "node")).await;
        drop(release);
        assert!(blocking.await.unwrap().is_err(), "it was let go");
        assert_eq!(read.expect("it has waited for the other").unwrap(), ["a"]);
    });
}
