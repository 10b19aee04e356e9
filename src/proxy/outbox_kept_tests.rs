//! What becomes of changes where the cache takes nothing, and where the cloud or the cache is not the one that they are of.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::json;

use super::tests::{answering, of_one_pod, pod, read, read_anew, say};
use super::*;
use crate::cache::{NewChange, Purpose, Writer};
use crate::proxy::input::Input;
use crate::proxy::{apply, stand_in};

/// The database of a cache, beside the cache.
fn beside(cache: &Cache) -> rusqlite::Connection {
    rusqlite::Connection::open(cache.path()).unwrap()
}

/// As on a card that is full or read-only, or damaged where the changes are.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_takes_nothing_keeps_no_link_down_and_nothing_is_told_twice() {
    let (cloud, asked) = answering(Arc::new(200.into()), None).await;
    let (_folder, cache, outbox) = of_one_pod(&cloud).await;
    let count = || asked.load(Ordering::Relaxed);
    say(&cache, "first".to_owned()).await;
    let stuck = "CREATE TRIGGER stuck BEFORE DELETE ON change BEGIN SELECT RAISE(ABORT, 'stuck'); END";
    beside(&cache).execute_batch(stuck).unwrap();
    assert_eq!(outbox.replay(Round::First).await, Ok(()), "the cloud answers");
    for round in [Round::All, Round::First] {
        assert_eq!(outbox.replay(round).await, Ok(()));
        assert_eq!(count(), 1, "kubelet may have told the cloud something newer");
    }
    say(&cache, "second".to_owned()).await;
    outbox.replay(Round::First).await.unwrap();
    assert_eq!(count(), 2, "that is news");
    beside(&cache).execute_batch("DROP TRIGGER stuck").unwrap();
    outbox.replay(Round::All).await.unwrap();
    assert_eq!((count(), cache.read(|reader| reader.changes()).await.unwrap().len()), (2, 0));
    assert_eq!(read_anew(&cache, 1).await["status"].get("message"), None, "the cloud's takes its place");

    beside(&cache).execute_batch("ALTER TABLE change RENAME TO elsewhere").unwrap();
    assert_eq!(outbox.replay(Round::First).await, Ok(()), "what waits cannot be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_and_is_read_anew_is_not_told_once_more() {
    let (cloud, asked) = answering(Arc::new(200.into()), None).await;
    let (_folder, cache, outbox) = of_one_pod(&cloud).await;
    say(&cache, "first".to_owned()).await;
    let stuck = "CREATE TRIGGER stuck BEFORE DELETE ON change BEGIN SELECT RAISE(ABORT, 'stuck'); END";
    beside(&cache).execute_batch(stuck).unwrap();
    outbox.replay(Round::First).await.unwrap();
    let mut newer = pod(12);
    newer["status"]["message"] = "newer".into();
    read(&cache, newer.clone()).await;
    beside(&cache).execute_batch("DROP TRIGGER stuck").unwrap();
    outbox.replay(Round::All).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(cache.read(|reader| reader.changes()).await.unwrap().len(), 0);
    assert_eq!(read(&cache, newer).await["status"]["message"], "newer");
}

/// A card that is full when the cloud does not take a change for now: the link is used, kubelet tells newer things through
/// it, and nothing of that is kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_off_is_not_told_over_what_the_cloud_has_heard_since() {
    let applied = |word: &str| json!({"apiVersion": "v1", "kind": "Pod", "status": {"message": word}});
    // Of what is applied, and of the difference, with and without a disk that takes down that it was put off.
    for (by_apply, stuck) in [(false, true), (false, false), (true, false)] {
        let (is_there, told) = (Arc::new(Mutex::new(pod(1))), Arc::<AtomicU32>::default());
        let (there, count) = (is_there.clone(), told.clone());
        let cloud = stand_in::Cloud::new(Arc::new(move |head| {
            let mut answered = stand_in::json(200, &there.lock().unwrap());
            if head.method == Method::PATCH && count.fetch_add(1, Ordering::Relaxed) < ATTEMPTS {
                answered = stand_in::json(500, &json!({"kind": "Status"}));
            }
            Box::pin(std::future::ready(answered)) as _
        }))
        .await;
        let (_folder, cache, outbox) = of_one_pod(&cloud).await;
        if by_apply {
            let manager = crate::cache::FieldManager { name: "one".into(), force: true };
            let key = ObjectKey { resource: "v1/pods".into(), namespace: "ns".into(), name: "p".into() };
            let input = Input::Apply(manager, applied("first"));
            let job = move |w: &mut Writer| apply::edit(w, &mut Vec::new(), &key, "status", &input).map(drop);
            cache.commit(job).await.unwrap();
        } else {
            say(&cache, "first".to_owned()).await;
        }
        if stuck {
            let stuck =
                "CREATE TRIGGER stuck BEFORE UPDATE ON change BEGIN SELECT RAISE(ABORT, 'stuck'); END";
            beside(&cache).execute_batch(stuck).unwrap();
            told.store(ATTEMPTS - 1, Ordering::Relaxed);
        }
        assert_eq!(outbox.replay(Round::First).await, Ok(()), "the link is used without it");
        is_there.lock().unwrap()["status"]["message"] = "newer".into();
        assert_eq!(outbox.replay(Round::All).await, Ok(()));
        assert_eq!(told.load(Ordering::Relaxed), ATTEMPTS, "by apply: {by_apply}, stuck: {stuck}");
        assert_eq!(cache.read(|reader| reader.changes()).await.unwrap().len(), 0);
    }
}

/// The backup is older than the wish to have the pod deleted, which kubelet has done in the outage.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_a_restored_cloud_does_not_delete_lives_on() {
    for (is_wanted, is_mirror, expected) in [
        (false, false, vec![]),
        (true, false, vec![Method::PATCH, Method::DELETE]),
        (false, true, vec![Method::PATCH, Method::DELETE]),
    ] {
        let asked = Arc::<Mutex<Vec<Method>>>::default();
        let noted = asked.clone();
        let mut there = pod(1);
        if is_wanted {
            there["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        let cloud = stand_in::Cloud::new(Arc::new(move |head: http::request::Parts| {
            if head.method != Method::GET {
                noted.lock().unwrap().push(head.method);
            }
            Box::pin(std::future::ready(stand_in::json(200, &there))) as _
        }))
        .await;
        let (_folder, cache, outbox) = of_one_pod(&cloud).await;
        let mut known = pod(5);
        if !is_mirror {
            known["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        read(&cache, known).await;
        say(&cache, "ended".to_owned()).await;
        let key = ObjectKey { resource: "v1/pods".into(), namespace: "ns".into(), name: "p".into() };
        let input = Input::Object(json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}}));
        cache.commit(move |w| apply::delete(w, &mut Vec::new(), &key, &input).map(drop)).await.unwrap();
        assert_eq!(outbox.replay(Round::First).await, Ok(()));
        assert_eq!(*asked.lock().unwrap(), expected, "wanted: {is_wanted}, mirror: {is_mirror}");
        let (left, refused) = cache.read(|r| Ok((r.changes()?.len(), r.refused()?.len()))).await.unwrap();
        assert_eq!((left, refused), (0, 0));
    }
}

/// As after a cache that was damaged in an outage: the mirror of a static pod is made here, and the cloud has one.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_here_and_is_there_already_is_kept_as_the_cloud_has_it_and_goes_with_that() {
    let cloud = stand_in::Cloud::new(Arc::new(move |head: http::request::Parts| {
        let code = if head.method == Method::POST { 409 } else { 200 };
        Box::pin(std::future::ready(stand_in::json(code, &json!({"kind": "Status"})))) as _
    }))
    .await;
    let (_folder, cache, outbox) = of_one_pod(&cloud).await;
    let key = ObjectKey { resource: "v1/pods".into(), namespace: "ns".into(), name: "mirror".into() };
    let mirror = |uid: &str| {
        let meta = json!({"name": "mirror", "namespace": "ns", "uid": uid, "resourceVersion": "7"});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"nodeName": "n"}})
    };
    let (of, body) = (key.clone(), mirror("of kubelet"));
    let job =
        move |w: &mut Writer| apply::create(w, &mut Vec::new(), &of, body, StatusCode::CREATED).map(drop);
    cache.commit(job).await.unwrap();
    assert_eq!(outbox.replay(Round::First).await, Ok(()));
    let real = Object::new("v1/pods", mirror("real")).unwrap();
    let gone = real.clone();
    cache.commit(move |w| w.put_single("node", &real)).await.unwrap();
    let there = key.clone();
    let now = cache.read(move |reader| reader.object(&there)).await.unwrap().expect("it was read");
    assert_eq!(now.uid, "real");
    cache.commit(move |w| w.take_gone("node", &gone)).await.unwrap();
    assert!(
        cache.read(move |reader| reader.object(&key)).await.unwrap().is_none(),
        "nobody reads it any more"
    );
}

/// Tokens of a pod that asks for one with an audience, which the cloud takes nevertheless.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_told_is_told_with_the_token_that_the_cloud_has_taken_from_it() {
    const OWN: &str = "system:serviceaccount:ns:one/u1";
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let cloud = stand_in::Cloud::new(Arc::new(move |head: http::request::Parts| {
        if head.method == Method::POST {
            noted.lock().unwrap().push(head.headers[header::AUTHORIZATION].clone());
        }
        Box::pin(std::future::ready(stand_in::json(201, &json!({})))) as _
    }))
    .await;
    for (audience, told) in [("", true), ("the-api", true), ("somebody-else", false)] {
        let (_folder, cache, outbox) = of_one_pod(&cloud).await;
        let (key, body) = stand_in::pod_token(OWN, audience);
        let answer: Value = serde_json::from_slice(&body).unwrap();
        let event = NewChange {
            kind: ChangeKind::Create,
            key: ObjectKey { resource: "v1/events".into(), namespace: "ns".into(), name: "e".into() },
            subresource: String::new(),
            uid: String::new(),
            base: None,
            body: Some(json!({"kind": "Event", "metadata": {"name": "e"}}).to_string().into_bytes()),
            author: Author::Client(OWN.into()),
            manager: None,
        };
        let job = move |writer: &mut Writer| {
            let purpose = Purpose { issuer: "cluster".into(), audiences: vec!["the-api".into()] };
            writer.accept_caller("digest", OWN, &purpose)?;
            writer.put_token(&key, &body)?;
            writer.push_change(&event).map(drop)
        };
        cache.commit(job).await.unwrap();
        outbox.replay(Round::All).await.unwrap();
        let bearer = format!("Bearer {}", answer["status"]["token"].as_str().unwrap());
        let expected = told.then(|| bearer.parse::<HeaderValue>().unwrap());
        assert_eq!(seen.lock().unwrap().drain(..).collect::<Vec<HeaderValue>>(), Vec::from_iter(expected));
        let (left, refused) = cache.read(|r| Ok((r.changes()?.len(), r.refused()?.len()))).await.unwrap();
        assert_eq!(
            (left, refused),
            (0, usize::from(!told)),
            "for {audience}: it is told that it was not taken"
        );
    }
}
