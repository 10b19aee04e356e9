//! What an answer takes out of the cache, and what it does not.

use serde_json::json;

use super::*;
use crate::cache::{Begins, Count, Object, ScopeKey};
use crate::kube::Encoding;
use crate::proxy::caller::NODE;
use crate::proxy::decoder::{Extent, Unknown};
use crate::proxy::listed::{ListIntake, Pages, WatchIntake};
use crate::proxy::record::Recording;
use crate::proxy::torn::Torn;

fn scope(labels: &str, fields: &str) -> ScopeKey {
    ScopeKey {
        identity: NODE.into(),
        resource: "v1/pods".into(),
        namespace: String::new(),
        labels: labels.into(),
        fields: fields.into(),
    }
}

fn pod(name: &str, uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "own"},
        "metadata": {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": "7"}})
}

fn decoder(cache: &Cache) -> Decoder {
    let (resource, unknown) = ("v1/pods".to_owned(), Unknown::new(cache.clone()));
    Decoder { resource, extent: Extent::Whole, encoding: Encoding::Json, unknown }
}

async fn take(cache: &Cache, mut intake: impl Intake + 'static, bytes: Value) {
    let bytes = bytes.to_string() + "\n";
    let job = move |writer: &mut Writer| {
        intake.feed(writer, bytes.as_bytes())?;
        intake.end(writer, true)
    };
    cache.commit(job).await.unwrap();
}

async fn list(cache: &Cache, labels: &str, fields: &str, pods: Vec<Value>) {
    let list =
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": pods});
    let intake = ListIntake::new(decoder(cache), scope(labels, fields), Pages::default(), None);
    take(cache, intake, list).await;
}

async fn deleted(cache: &Cache, labels: &str, fields: &str, pod: Value) {
    let intake = WatchIntake::new(decoder(cache), scope(labels, fields), Begins::AfterList, cache);
    take(cache, intake, json!({"type": "DELETED", "object": pod})).await;
}

/// A cache of the node `own` with its pod `p`, and a token of that.
async fn cache(folder: &tempfile::TempDir) -> Cache {
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    cache.commit(|writer| writer.set_node_name("own")).await.unwrap();
    list(&cache, "", "spec.nodeName=own", vec![pod("p", "u")]).await;
    cache.commit(|writer| writer.put_token(&token(), b"{}")).await.unwrap();
    cache
}

fn token() -> TokenKey {
    let request = crate::kube::Request::parse("POST", "/api/v1/namespaces/ns/serviceaccounts/a/token", "");
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u"});
    crate::proxy::token::key(request.resource().unwrap(), &json!({"spec": {"boundObjectRef": bound}}))
}

async fn has_token(cache: &Cache) -> bool {
    cache.read(|reader| reader.token(&token())).await.unwrap().is_some()
}

#[tokio::test]
async fn only_this_nodes_own_list_and_a_deletion_say_that_tokens_are_over() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    list(&cache, "", "spec.nodeName=other", vec![]).await;
    list(&cache, "app=x", "spec.nodeName=own", vec![pod("p", "u")]).await;
    deleted(&cache, "app=x", "spec.nodeName=own", pod("p", "u")).await;
    assert!(has_token(&cache).await, "another node's list, or a label that changed");
    assert_eq!(cache.read(|reader| reader.own_pods()).await.unwrap().unwrap().len(), 1);
    deleted(&cache, "", "spec.nodeName=own", pod("p", "u")).await;
    assert!(!has_token(&cache).await);
    cache.commit(|writer| writer.put_token(&token(), b"{}")).await.unwrap();
    list(&cache, "", "spec.nodeName=own", vec![]).await;
    assert!(!has_token(&cache).await);
}

/// Has a page of this node's pods as `identity` reads it on its way into the cache: `asked` and `next` are continue tokens.
fn page(
    cache: &Cache,
    pages: &Pages,
    (identity, asked, next): (&str, Option<&str>, Option<&str>),
    name: &str,
) -> Recording {
    let scope = ScopeKey { identity: identity.into(), ..scope("", "spec.nodeName=own") };
    let intake = ListIntake::new(decoder(cache), scope, pages.clone(), asked.map(str::to_owned));
    let mut recording = Recording::new(cache.clone(), Box::new(intake), None, false);
    let meta = json!({"resourceVersion": "9", "continue": next});
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": [pod(name, name)]});
    recording.feed(list.to_string().into());
    recording
}

#[tokio::test]
async fn a_list_in_pages_is_whole_however_fast_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    let pages = Pages::default();
    page(&cache, &pages, (NODE, None, Some("2")), "first").end(true);
    page(&cache, &pages, (NODE, Some("2"), Some("3")), "second").end(false);
    page(&cache, &pages, (NODE, Some("2"), Some("3")), "second").end(true);
    page(&cache, &pages, (NODE, Some("3"), None), "third").end(true);
    cache.commit(|_| Ok(())).await.unwrap();
    let own = cache.read(|reader| reader.own_pods()).await.unwrap().unwrap();
    let names: Vec<_> = own.iter().map(|pod| pod["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["first", "second", "third"], "and the pod that was there before is in no page");
}

#[tokio::test]
async fn whoever_begins_many_lists_gives_up_his_own_and_of_one_without_a_beginning_nothing_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    let torn = Torn::default();
    let pages = Pages::new(torn.clone());
    let is_told = |identity: &str| {
        let list = ScopeKey { identity: identity.into(), ..scope("", "spec.nodeName=own") };
        futures_util::FutureExt::now_or_never(torn.tell(&list)).is_some()
    };
    page(&cache, &pages, ("operator", None, Some("next")), "first").end(true);
    for n in 0..100 {
        page(&cache, &pages, ("hostile", None, Some(&n.to_string())), "first").end(true);
    }
    page(&cache, &pages, ("operator", Some("next"), None), "second").end(true);
    page(&cache, &pages, ("hostile", Some("0"), None), "never").end(true);
    cache.commit(|_| Ok(())).await.unwrap();
    let has_read = async |identity: &'static str, name: &str| {
        let key = ObjectKey { resource: "v1/pods".into(), namespace: "ns".into(), name: name.into() };
        cache.read(move |reader| reader.get(identity, &key)).await.unwrap().is_some()
    };
    assert!(has_read("operator", "second").await && !is_told("operator"));
    assert!(!has_read("hostile", "never").await && is_told("hostile"), "it is to read anew");
}

#[tokio::test]
async fn deleted_takes_out_what_it_means_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    let is_read = async || {
        let key = ObjectKey { resource: "v1/pods".into(), namespace: "ns".into(), name: "p".into() };
        cache.read(move |reader| reader.get(NODE, &key)).await.unwrap().is_some()
    };
    // As a scheduler's list tells it once the pod has its node.
    list(&cache, "", "spec.nodeName=", vec![pod("p", "u")]).await;
    deleted(&cache, "", "spec.nodeName=", pod("p", "u")).await;
    assert!(is_read().await && has_token(&cache).await);
    // Somebody else has read its successor already.
    deleted(&cache, "", "spec.nodeName=own", pod("p", "before")).await;
    deleted(&cache, "app=x", "", pod("p", "before")).await;
    assert!(is_read().await && has_token(&cache).await);
    deleted(&cache, "", "spec.nodeName=own", pod("p", "u")).await;
    assert!(!is_read().await && !has_token(&cache).await);
}

#[tokio::test]
async fn a_deletion_is_believed_of_what_waits_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let ended = "2026-01-01T00:00:00Z";
    let namespace = |meta: Value, spec: Value| {
        let mut object = json!({"apiVersion": "v1", "kind": "Namespace", "spec": spec,
            "metadata": {"name": "n", "uid": "u", "resourceVersion": "8"}});
        let known = object["metadata"].as_object_mut().unwrap();
        known.extend(meta.as_object().unwrap().clone());
        object
    };
    let key = ObjectKey { resource: "v1/namespaces".into(), namespace: String::new(), name: "n".into() };
    let decoder = || Decoder { resource: "v1/namespaces".into(), ..decoder(&cache) };
    for (answer, is_there) in [
        (namespace(json!({"deletionTimestamp": ended}), json!({"finalizers": ["kubernetes"]})), true),
        (namespace(json!({"deletionTimestamp": ended, "finalizers": ["x.io/y"]}), json!({})), true),
        (namespace(json!({}), json!({"finalizers": ["kubernetes"]})), true),
        (namespace(json!({"deletionTimestamp": ended}), json!({"finalizers": []})), false),
        (namespace(json!({}), json!({})), false),
        (namespace(json!({"uid": "of one before"}), json!({})), true),
        (json!({"metadata": {"name": "n"}}), true),
        (json!({}), true),
        (json!({"kind": "Status", "details": {"name": "n", "uid": "u"}}), false),
    ] {
        let known =
            Object::new("v1/namespaces", namespace(json!({"resourceVersion": "7"}), json!({}))).unwrap();
        cache.commit(move |writer| writer.put_single(NODE, &known)).await.unwrap();
        let (decoder, key, single) = (decoder(), key.clone(), Single::Deleted);
        let intake = SingleIntake { decoder, identity: NODE.into(), key: key.clone(), single };
        take(&cache, Gathered::new(intake), answer.clone()).await;
        let read = cache.read(move |reader| reader.get(NODE, &key)).await.unwrap();
        assert_eq!(read.is_some(), is_there, "{answer}");
    }
}

/// The cloud is newer than this edge, and says more of a token than is known here.
#[tokio::test]
async fn the_token_of_a_newer_cloud_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    let answered = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["b"]},
        "status": {"token": "real", "expirationTimestamp": "2026-01-01T00:00:00Z"}});
    let decoder = Decoder { encoding: Encoding::Protobuf, ..decoder(&cache) };
    let own = (OwnIssuers::of(&cache).await.unwrap(), cache.clone());
    let key = TokenKey { audiences: "b".into(), ..token() };
    let mut intake = TokenIntake { decoder, key: key.clone(), own };
    let bytes = crate::proxy::stand_in::newer(&answered).to_vec();
    cache.commit(move |writer| intake.take(writer, bytes)).await.unwrap();
    let kept = cache.read(move |reader| reader.token(&key)).await.unwrap().expect("it was not kept");
    assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap()["status"]["token"], "real");
}

async fn pods_kept(cache: &Cache) -> Count {
    let fresh = cache.freshness(Some(std::time::Instant::now()), true);
    let mut counts = cache.read(move |reader| reader.counts(&fresh)).await.unwrap();
    counts.remove(counts.iter().position(|count| count.resource == "v1/pods").unwrap())
}

#[tokio::test]
async fn what_is_watched_is_current_while_all_of_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    let watch = |begins| {
        let intake = WatchIntake::new(decoder(&cache), scope("", "spec.nodeName=own"), begins, &cache);
        Recording::new(cache.clone(), Box::new(intake), None, false)
    };
    let is_current = async || {
        cache.flush().await.unwrap();
        pods_kept(&cache).await.is_current
    };
    let tell = |recording: &mut Recording, event: Value| recording.feed((event.to_string() + "\n").into());
    assert!(!is_current().await, "a list that was read once");
    let recording = watch(Begins::AfterList);
    assert!(is_current().await, "though nothing has come yet");
    recording.end(true);
    assert!(!is_current().await);

    // As a kubelet reads it (WatchList).
    let mut recording = watch(Begins::WithList);
    tell(&mut recording, json!({"type": "ADDED", "object": pod("p", "u")}));
    assert!(!is_current().await, "its list is not whole");
    let mut mark = pod("", "");
    mark["metadata"] = json!({"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}});
    tell(&mut recording, json!({"type": "BOOKMARK", "object": mark}));
    assert!(is_current().await);
    tell(&mut recording, json!({"type": "MODIFIED", "object": {"kind": "Pod"}}));
    assert!(!is_current().await, "what it tells cannot be kept");
    drop(recording);

    let recording = watch(Begins::WithSome);
    assert!(!is_current().await, "it does not tell what has gone");
    recording.end(true);
}
