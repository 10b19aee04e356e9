//! Which changes go first, and what the cloud's answers mean for them.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use http::{Method, StatusCode, header};
use serde_json::json;

use super::*;
use crate::cache::{NewChange, Writer};
use crate::kube::patch::PatchType;
use crate::proxy::fate::fate;
use crate::proxy::input::Input;
use crate::proxy::resolve::Resolver;
use crate::proxy::{apply, stand_in};

fn change(id: i64, resource: &str, name: &str, attempts: u32) -> Change {
    let key = ObjectKey { resource: resource.into(), namespace: "ns".into(), name: name.into() };
    let what = NewChange {
        kind: ChangeKind::Patch,
        key,
        uid: "u".into(),
        subresource: "status".into(),
        author: Author::Node,
        manager: None,
        base: None,
        body: None,
    };
    Change { id, what, at: 0, attempts, error: String::new() }
}

#[test]
fn the_first_round_leaves_events_and_whole_objects_that_are_put_off() {
    let changes = vec![
        change(1, "v1/pods", "a", ATTEMPTS),
        change(2, "v1/pods", "a", 0),
        change(3, "v1/pods", "b", ATTEMPTS - 1),
        change(4, "v1/events", "e", 0),
    ];
    let ids = |round: Round| -> Vec<i64> { round.choose(changes.clone()).iter().map(|c| c.id).collect() };
    assert_eq!(ids(Round::First), [3]);
    assert_eq!(ids(Round::All), [1, 2, 3, 4]);
}

#[test]
fn nothing_of_kubelet_s_is_put_off_by_a_client() {
    let mut changes = vec![change(1, "v1/pods", "a", ATTEMPTS), change(2, "v1/pods", "a", 0)];
    changes[0].what.author = Author::Client("client".into());
    assert_eq!(Round::First.choose(changes).iter().map(|c| c.id).collect::<Vec<_>>(), [2]);
}

#[test]
fn what_is_about_another_object_of_the_name_goes_without_alarm() {
    let (change, mut made) = (change(1, "v1/pods", "a", 0), change(2, "v1/events", "a", 0));
    made.what.kind = ChangeKind::Create;
    let of = |change: &Change, code: u16, status: Value| {
        fate(change, StatusCode::from_u16(code).unwrap(), status.to_string().as_bytes())
    };
    let fate = |code: u16, status: Value| of(&change, code, status);
    let invalid = |field: &str| {
        json!({"kind": "Status", "message": "Pod \"a\" is invalid", "reason": "Invalid",
            "details": {"causes": [{"reason": "FieldValueInvalid", "field": field}]}})
    };
    assert!(matches!(fate(422, invalid("metadata.uid")), Fate::Gone(_)));
    assert!(matches!(fate(422, invalid("spec.nodeName")), Fate::Never(_)));
    assert!(matches!(fate(404, json!({"kind": "Status"})), Fate::Gone(_)));
    let other = "Precondition failed: UID in precondition: x, UID in object meta: y";
    assert!(matches!(fate(409, json!({"message": other})), Fate::Gone(_)));
    assert!(matches!(fate(409, json!({"message": "the object has been modified"})), Fate::Never(_)));
    let quota = "Operation cannot be fulfilled on resourcequotas \"events\": the object has been modified";
    assert!(matches!(of(&made, 409, json!({"reason": "Conflict", "message": quota})), Fate::Later(..)));
    assert!(matches!(of(&made, 409, json!({"reason": "AlreadyExists"})), Fate::Done(None)));
    assert!(matches!(of(&made, 409, json!(null)), Fate::Done(None)));
    assert!(matches!(fate(403, json!({})), Fate::Forbidden(_)));
    assert!(matches!(fate(500, json!({})), Fate::Later(_, 1)));
}

pub(super) fn pod(version: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n"}, "status": {"phase": "Running"},
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": version.to_string()}})
}

/// Says something new of the pod, as kubelet does.
pub(super) async fn say(cache: &Cache, word: String) {
    let key = ObjectKey { resource: "v1/pods".into(), namespace: "ns".into(), name: "p".into() };
    let input = Input::Patch(PatchType::Merge, json!({"status": {"message": word}}));
    let job = move |writer: &mut Writer| match apply::edit(writer, &mut Vec::new(), &key, "status", &input)? {
        apply::Found::Done(..) => Ok(()),
        apply::Found::Failed(failure) => Err(CacheError::Refused(failure.message)),
    };
    cache.commit(job).await.unwrap();
}

/// A cache with a pod that kubelet has read, and the way of its changes to `cloud`.
pub(super) async fn of_one_pod(cloud: &stand_in::Cloud) -> (tempfile::TempDir, Cache, Outbox) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let known = Object::new("v1/pods", pod(1)).unwrap();
    cache.commit(move |writer| writer.put_single("node", &known)).await.unwrap();
    let upstream = Upstream::new(cloud.credentials.credentials.borrow().clone(), Resolver).unwrap();
    let outbox = Outbox::new(cache.clone(), Arc::new(upstream), Arc::default());
    (folder, cache, outbox)
}

/// Somebody labels the pod in the cloud, and kubelet, which has not heard of it, says more while it is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_told_the_cloud_is_not_taken_back_by_who_has_not_heard_of_it() {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let cloud = stand_in::Cloud::new(Arc::new(move |_| {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        Box::pin(async move {
            if !is_first {
                return stand_in::json(500, &json!({"kind": "Status"}));
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut labelled = pod(2);
            labelled["metadata"]["labels"] = json!({"theirs": "1"});
            stand_in::json(200, &labelled)
        })
    }))
    .await;
    let (_folder, cache, outbox) = of_one_pod(&cloud).await;
    say(&cache, "one".into()).await;
    let telling = tokio::spawn(async move { outbox.replay(Round::All).await });
    while asked.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    say(&cache, "two".into()).await;
    telling.await.unwrap().unwrap();
    let key = ObjectKey { resource: "v1/pods".into(), namespace: "ns".into(), name: "p".into() };
    let read = cache.read(move |reader| Ok((reader.changes()?, reader.object(&key)?))).await.unwrap();
    let ([waiting], Some(now)) = (&read.0[..], &read.1) else { panic!("{read:?}") };
    let base = serde_json::from_slice(waiting.what.base.as_deref().unwrap()).unwrap();
    let patch = told(&waiting.what, &base, &now.body).unwrap().unwrap();
    assert_eq!(patch, json!({"metadata": {"uid": "u"}, "status": {"message": "two"}}));
}

/// kubelet has taken back what it said, so nothing is to be told, and says more before that is written down.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_while_nothing_was_to_be_told_waits() {
    let (cloud, asked) = answering(Arc::new(500.into()), None).await;
    let (_folder, cache, outbox) = of_one_pod(&cloud).await;
    let mut before = pod(2);
    before["status"]["message"] = "".into();
    read(&cache, before).await;
    for word in ["one", ""] {
        say(&cache, word.into()).await;
    }
    let change = cache.read(|reader| reader.changes()).await.unwrap().remove(0);
    let sent = outbox.current(&change).await.unwrap();
    assert!(matches!(sent, Sent::Same(_)));
    say(&cache, "two".into()).await;
    outbox.keep(&change, sent, Fate::Done(None)).await.unwrap();
    outbox.replay(Round::First).await.unwrap();
    assert_ne!(asked.load(Ordering::Relaxed), 0, "it is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_faster_than_the_link_holds_no_round_up() {
    let told = Arc::new(std::sync::atomic::AtomicU64::new(2));
    let count = told.clone();
    let cloud = stand_in::Cloud::new(Arc::new(move |_| {
        let version = count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stand_in::json(200, &pod(version))
        })
    }))
    .await;
    let (_folder, cache, outbox) = of_one_pod(&cloud).await;
    say(&cache, "first".to_owned()).await;
    let writes = cache.clone();
    let writer = tokio::spawn(async move {
        for n in 0.. {
            say(&writes, format!("word {n}")).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    for round in [Round::First, Round::All] {
        let before = told.load(Ordering::Relaxed);
        let ended = tokio::time::timeout(Duration::from_secs(5), outbox.replay(round)).await;
        assert_eq!(ended.expect("the round goes on for ever"), Ok(()));
        assert!(told.load(Ordering::Relaxed) > before, "nothing was told");
    }
    assert!(!writer.is_finished(), "it has written all the time");
    writer.abort();
    let _ = writer.await;
    outbox.replay(Round::All).await.unwrap();
    assert_eq!(cache.read(|reader| reader.changes()).await.unwrap().len(), 0, "the rest is told later");
}

/// As behind a webhook that does not answer, and that some changes have to pass.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_gets_no_answer_keeps_no_link_down_that_is_up() {
    let is_there = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let there = is_there.clone();
    let cloud = stand_in::Cloud::new(Arc::new(move |head| {
        let answers = head.method != Method::PATCH && there.load(Ordering::Relaxed);
        Box::pin(async move {
            if !answers {
                std::future::pending::<()>().await;
            }
            stand_in::json(200, &json!({}))
        })
    }))
    .await;
    let (_folder, cache, mut outbox) = of_one_pod(&cloud).await;
    outbox.patience = Duration::from_millis(300);
    say(&cache, "first".to_owned()).await;
    is_there.store(false, Ordering::Relaxed);
    outbox.replay(Round::First).await.expect_err("nobody answers at all");
    assert_eq!(cache.read(|reader| reader.changes()).await.unwrap()[0].attempts, 0, "it was not its fault");
    is_there.store(true, Ordering::Relaxed);
    assert_eq!(outbox.replay(Round::First).await, Ok(()));
    let waiting = cache.read(|reader| reader.changes()).await.unwrap();
    assert!(
        is_late(&waiting[0]) && waiting[0].error.contains("no answer"),
        "it waits for later: {waiting:?}"
    );
}

/// As of a load balancer that has lost its servers, or that keeps one request from the cloud.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_what_stands_before_the_cloud_is_no_judgement() {
    let is_there = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let there = is_there.clone();
    let cloud = stand_in::Cloud::new(Arc::new(move |head| {
        let answers = head.method != Method::PATCH && there.load(Ordering::Relaxed);
        let (code, body) = if answers { (200, json!({})) } else { (404, json!("nobody is here")) };
        Box::pin(std::future::ready(stand_in::json(code, &body)))
    }))
    .await;
    let (_folder, cache, outbox) = of_one_pod(&cloud).await;
    say(&cache, "first".to_owned()).await;
    outbox.replay(Round::First).await.expect_err("no API server answers");
    let waiting = cache.read(|reader| reader.changes()).await.unwrap();
    assert_eq!(waiting.iter().map(|change| change.attempts).collect::<Vec<_>>(), [0]);
    is_there.store(true, Ordering::Relaxed);
    assert_eq!(outbox.replay(Round::First).await, Ok(()));
    let waiting = cache.read(|reader| reader.changes()).await.unwrap();
    assert!(is_late(&waiting[0]) && waiting[0].error.contains("404, and not as"), "it waits: {waiting:?}");
}

/// A cloud that answers each PATCH as it is told to, and counts them; what is read there is as it was.
pub(super) async fn answering(
    code: Arc<AtomicU16>,
    after: Option<&'static str>,
) -> (stand_in::Cloud, Arc<AtomicU32>) {
    let asked = Arc::<AtomicU32>::default();
    let count = asked.clone();
    let cloud = stand_in::Cloud::new(Arc::new(move |head| {
        let mut answered = stand_in::json(200, &pod(9));
        if head.method == Method::PATCH {
            count.fetch_add(1, Ordering::Relaxed);
            let code = code.load(Ordering::Relaxed);
            answered = stand_in::json(code, &if code == 200 { pod(9) } else { json!({"kind": "Status"}) });
            after.map(|after| answered.headers_mut().insert(header::RETRY_AFTER, after.parse().unwrap()));
        }
        Box::pin(std::future::ready(answered)) as _
    }))
    .await;
    (cloud, asked)
}

/// What a client reads once the link is up.
pub(super) async fn read_anew(cache: &Cache, version: u64) -> Value {
    read(cache, pod(version)).await
}

pub(super) async fn read(cache: &Cache, object: Value) -> Value {
    let read = Object::new("v1/pods", object).unwrap();
    cache.commit(move |writer| writer.put_single("node", &read)).await.unwrap();
    cache.read(|reader| reader.all("v1/pods")).await.unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_put_off_is_told_although_its_object_was_read_anew_unless_it_says_something_newer() {
    let ready = json!([{"type": "Ready", "status": "False"}, {"type": "Other", "status": "True"}]);
    for (status, expected) in [
        (json!({"phase": "Running"}), 1),
        (json!({"phase": "Succeeded", "reason": "other", "conditions": ready}), 1),
        (json!({"phase": "Running", "message": "first"}), 1),
        (json!({"phase": "Running", "message": "newer"}), 0),
    ] {
        let code = Arc::new(std::sync::atomic::AtomicU16::new(500));
        let (cloud, asked) = answering(code.clone(), None).await;
        let (_folder, cache, outbox) = of_one_pod(&cloud).await;
        say(&cache, "first".to_owned()).await;
        let change = cache.read(|reader| reader.changes()).await.unwrap().remove(0);
        cache.commit(move |w| w.fail_change(change.id, ATTEMPTS - 1, "500")).await.unwrap();
        assert_eq!(outbox.replay(Round::First).await, Ok(()), "the link is used without it");
        let mut anew = pod(8);
        anew["status"] = status.clone();
        assert_eq!(read(&cache, anew).await["status"], status);
        let before = asked.load(Ordering::Relaxed);
        code.store(200, Ordering::Relaxed);
        outbox.replay(Round::All).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed) - before, expected, "{status}");
        assert_eq!(cache.read(|reader| reader.changes()).await.unwrap().len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cloud_says_when_it_is_asked_again() {
    let code = Arc::new(std::sync::atomic::AtomicU16::new(429));
    let (cloud, asked) = answering(code.clone(), Some("3")).await;
    let (_folder, cache, outbox) = of_one_pod(&cloud).await;
    say(&cache, "first".to_owned()).await;
    let began = tokio::time::Instant::now();
    let heard = asked.clone();
    let round = tokio::spawn(async move { outbox.replay(Round::First).await });
    while heard.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    code.store(200, Ordering::Relaxed);
    round.await.unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_asks_for_time_again_and_again_keeps_no_link_from_use() {
    let (cloud, asked) = answering(Arc::new(429.into()), Some("6")).await;
    let (_folder, cache, outbox) = of_one_pod(&cloud).await;
    say(&cache, "first".to_owned()).await;
    let round = tokio::time::timeout(Duration::from_secs(15), outbox.replay(Round::First));
    assert_eq!(round.await.expect("the link is kept from use"), Ok(()));
    assert_eq!(asked.load(Ordering::Relaxed), 2, "once before the pause and once after it");
    assert!(is_late(&cache.read(|reader| reader.changes()).await.unwrap()[0]), "it waits for later");
}

#[tokio::test(flavor = "multi_thread")]
async fn once_the_cloud_was_told_its_own_version_is_kept() {
    let shown = async |cache: &Cache, object: Value| {
        let read = read(cache, object).await;
        read["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
    };
    for (words, asks) in [(vec!["first"], 1), (vec!["first", ""], 0)] {
        let (cloud, asked) = answering(Arc::new(200.into()), None).await;
        let (_folder, cache, outbox) = of_one_pod(&cloud).await;
        let mut before = pod(2);
        before["status"]["message"] = "".into();
        shown(&cache, before.clone()).await;
        for word in &words {
            say(&cache, (*word).to_owned()).await;
        }
        let here = shown(&cache, before.clone()).await;
        assert!(crate::cache::version::given(&here).is_some(), "what waits stays: {here}");
        outbox.replay(Round::First).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), asks, "{words:?}");
        let expected = if asks == 0 { before } else { pod(9) };
        let version = expected["metadata"]["resourceVersion"].clone();
        assert_eq!(shown(&cache, expected).await, version);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cloud_refuses_is_not_kept_as_if_it_were_the_clouds() {
    for code in [422, 403, 404] {
        let (cloud, _) = answering(Arc::new(code.into()), None).await;
        let (_folder, cache, outbox) = of_one_pod(&cloud).await;
        say(&cache, "first".to_owned()).await;
        assert_eq!(read_anew(&cache, 1).await["status"]["message"], "first", "it waits");
        outbox.replay(Round::First).await.unwrap();
        assert_eq!(cache.read(|reader| reader.changes()).await.unwrap().len(), 0);
        assert_eq!(read_anew(&cache, 1).await["status"].get("message"), None, "{code}");
    }
}
