use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::cache::{ListRecord, Object, ScopeKey};
use crate::cri;

/// What was told: reason and message.
type Told = Arc<Mutex<Vec<String>>>;

/// A pod of the node `n`, whose container fails again and again, with an annotation.
async fn put(cache: &Cache, order: &str, version: &str) {
    let status = json!({"name": "main", "restartCount": 9, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {"terminated": {"exitCode": 3}}});
    let body = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "u", "resourceVersion": version,
                     "annotations": {"edge.io/restart": order}},
        "spec": {"nodeName": "n", "containers": [{"name": "main"}]},
        "status": {"phase": "Running", "containerStatuses": [status]}});
    let key = ScopeKey {
        identity: "node".into(),
        resource: "v1/pods".into(),
        namespace: String::new(),
        labels: String::new(),
        fields: "spec.nodeName=n".into(),
    };
    let object = Object::new("v1/pods", body).unwrap();
    let commit = cache.commit(move |w| {
        let id = w.scope(&key)?;
        let mut list = ListRecord::default();
        w.put_listed(id, &mut list, &object)?;
        w.finish(id, &list, "PodList", "7")
    });
    commit.await.unwrap();
}

/// A tender whose notebook lies in `folder`, and what it tells. There is no runtime.
fn tender(cache: &Cache, folder: &Path) -> (Tender, Told) {
    let told = Told::default();
    let heard = told.clone();
    let tell: Tell = Arc::new(move |event| {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        heard.lock().unwrap().push(format!("{}: {}", text("reason"), text("message")));
        Box::pin(async { Ok(()) })
    });
    let runtime =
        Runtime::new(&cri::Settings { endpoint: "unix:///nowhere".into(), ..Default::default() }).unwrap();
    let kubelet = Settings::default().kubelet_healthz;
    let hand = Hand { runtime, cache: cache.clone(), kubelet, turns: folder.join("turns") };
    let tender = Tender {
        hand,
        node: "n".to_owned(),
        tell,
        settings: watch::channel(Settings::default()).1,
        part: health::Board::default().part("self-heal"),
        book: Notebook::open(folder, "boot", clock::now(), clock::since_boot()).0,
        at_work: JoinSet::new(),
        healing: BTreeSet::new(),
        addresses: Addresses::default(),
        rest: None,
        unsaved: None,
        put_off: BTreeSet::new(),
    };
    (tender, told)
}

#[tokio::test]
async fn an_order_that_cannot_be_remembered_waits_and_is_not_lost() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::open(place.path(), place.path()).unwrap().cache;
    let folder = place.path().join("state");
    crate::sys::durable::folder(&folder, 0o700).unwrap();
    let (mut tender, told) = tender(&cache, &folder);
    put(&cache, "1", "1").await;
    tender.look().await;
    put(&cache, "2", "2").await;
    // Root may write anywhere, but not where no folder is.
    std::fs::remove_dir_all(&folder).unwrap();
    for _ in 0..3 {
        assert_eq!(tender.look().await, Some(PUT_OFF));
    }
    assert!(tender.at_work.is_empty(), "nothing is stopped");
    let once = told.lock().unwrap().clone();
    assert_eq!(once.len(), 1, "{once:?}");
    let said = "RestartFailed: restart by edge.io/restart=2 put off until it can be remembered: ";
    assert!(once[0].starts_with(said), "{once:?}");
    crate::sys::durable::folder(&folder, 0o700).unwrap();
    assert_eq!(tender.look().await, None);
    assert_eq!(tender.at_work.len(), 1, "now it is carried out");
    tender.look().await;
    assert_eq!(tender.at_work.len(), 1, "once");
}

#[tokio::test]
async fn a_restart_that_cannot_be_remembered_is_not_done_and_does_not_count() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::open(place.path(), place.path()).unwrap().cache;
    let folder = place.path().join("state");
    let (mut tender, told) = tender(&cache, &folder);
    let settings = heal::Settings { enabled: true, broken_for: Duration::ZERO, ..heal::Settings::default() };
    let symptoms =
        Symptoms { broken: Some(heal::Broken::NoAddress), runs: true, is_there: true, ..Symptoms::default() };
    let looked =
        || vec![(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u"}}), symptoms.clone())];
    tender.book.begin("u", orders::Orders::default());
    for _ in 0..9 {
        tender.judge(looked(), &settings).await;
    }
    assert_eq!(tender.book.page("u").unwrap().heal.restarts, 0);
    assert!(tender.at_work.is_empty() && told.lock().unwrap().is_empty(), "{told:?}");
    crate::sys::durable::folder(&folder, 0o700).unwrap();
    tender.judge(looked(), &settings).await;
    assert_eq!((tender.book.page("u").unwrap().heal.restarts, tender.at_work.len()), (1, 1));
}

#[tokio::test]
async fn a_pod_that_has_ended_or_is_healed_no_longer_is_nobody_s_trouble() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::open(place.path(), place.path()).unwrap().cache;
    let (mut tender, _) = tender(&cache, place.path());
    let settings = heal::Settings { enabled: true, ..heal::Settings::default() };
    let pod = |heals: &str| json!({"metadata": {"name": "once", "namespace": "ns", "uid": "u", "annotations": {heal::ENABLED: heals}}});
    let fails = Symptoms { failing: vec!["main".into()], ..Symptoms::default() };
    for (heals, symptoms, judged) in [
        ("true", fails.clone(), true),
        ("true", Symptoms { ending: true, ..fails.clone() }, false),
        ("true", Symptoms { is_static: true, ..fails.clone() }, false),
        ("false", fails, false),
    ] {
        tender.book.begin("u", orders::Orders::default());
        heal::give_up(&mut tender.book.page("u").unwrap().heal, "5 failed starts".into());
        let told = format!("{heals} {symptoms:?}");
        let of = tender.judge(vec![(pod(heals), symptoms)], &settings).await;
        assert_eq!(of.contains("u"), judged, "{told}");
    }
}
