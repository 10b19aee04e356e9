//! What is said of objects that are not kept, and under which kind lists are.

use serde_json::json;

use super::*;
use crate::cache::ChangeKind;

#[tokio::test]
async fn the_kind_of_a_custom_resource_is_what_its_objects_say() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let body = json!({"apiVersion": "x.io/v1", "kind": "AllowList",
        "metadata": {"name": "a", "uid": "u", "resourceVersion": "1"}});
    let object = Object::new("x.io/v1/allowlists", body).unwrap();
    cache.commit(move |writer| writer.put_single("one", &object)).await.unwrap();
    let gvr = GroupVersionResource::new("x.io", "v1", "allowlists");
    let query = "watch=true&fieldSelector=metadata.name%3Da";
    let parsed = kube::Request::parse("GET", "/apis/x.io/v1/allowlists", query);
    let wanted = Wanted::of("one", parsed.resource().unwrap()).unwrap();
    let Found { scope, .. } = find(&cache, wanted, Shape::Object).await.unwrap();
    assert_eq!((list_kind(&scope, &gvr), kind(&scope, &gvr)), ("AllowListList".into(), "AllowList".into()));
    let pods = Scope { kind: String::new(), ..scope };
    assert_eq!(kind(&pods, &GroupVersionResource::new("", "v1", "pods")), "Pod");
}

fn pod(name: &str) -> Object {
    let body = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n"}, "status": {"phase": "Running"},
        "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1"}});
    Object::new("v1/pods", body).unwrap()
}

async fn get_pod(cache: &Cache, caller: &Caller, name: &str) -> u16 {
    let parsed = kube::Request::parse("GET", &format!("/api/v1/namespaces/ns/pods/{name}"), "");
    let accept = Accept::parse("application/json");
    get(cache, caller, parsed.resource().unwrap(), accept).await.status().as_u16()
}

/// Its one goroutine for statuses asks for each pod that it has something to say of.
#[tokio::test]
async fn a_pod_that_is_not_in_the_list_of_the_node_is_none_for_kubelet() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    assert_eq!(get_pod(&cache, &Caller::Kubelet, "q").await, 503, "the list was never read");
    let job = |writer: &mut crate::cache::Writer| {
        let own = ScopeKey {
            identity: NODE.into(),
            resource: "v1/pods".into(),
            namespace: String::new(),
            labels: String::new(),
            fields: "spec.nodeName=n".into(),
        };
        let scope = writer.scope(&own)?;
        writer.put(scope, &pod("p"))?;
        writer.mark_synced(scope, "PodList", "1")
    };
    cache.commit(job).await.unwrap();
    assert_eq!(get_pod(&cache, &Caller::Kubelet, "p").await, 200);
    assert_eq!(get_pod(&cache, &Caller::Kubelet, "q").await, 404);
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, "Bearer one".parse().unwrap());
    let other = Caller::of(false, &headers).unwrap();
    assert_eq!(get_pod(&cache, &other, "q").await, 503, "who has not read the list");
    let key = ObjectKey { name: "q".into(), ..pod("q").key };
    let status = crate::proxy::input::Input::Object(json!({"status": {}}));
    let job = move |writer: &mut crate::cache::Writer| {
        crate::proxy::apply::edit(writer, &mut Vec::new(), &key, "status", &status)
    };
    let crate::proxy::apply::Found::Failed(failure) = cache.commit(job).await.unwrap() else {
        panic!("there is no such pod");
    };
    assert_eq!(failure.code, 404);
}

/// All that waits may be many megabytes, and any client may ask for what is not there.
#[tokio::test]
async fn what_was_deleted_here_is_not_there_and_nothing_else_that_waits_is_read_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let change = |kind, name: &str| crate::cache::NewChange {
        kind,
        key: pod(name).key,
        uid: name.into(),
        subresource: String::new(),
        author: crate::cache::Author::Node,
        manager: None,
        base: None,
        body: Some(b"{}".to_vec()),
    };
    let (deletion, creation) = (ChangeKind::Delete, ChangeKind::Create);
    let job = move |writer: &mut crate::cache::Writer| {
        writer.push_change(&change(deletion, "gone"))?;
        writer.push_change(&change(creation, "made")).map(drop)
    };
    cache.commit(job).await.unwrap();
    let beside = rusqlite::Connection::open(cache.path()).unwrap();
    beside.execute("UPDATE change SET attempts = 'unreadable' WHERE name = 'made'", []).unwrap();
    for (name, code) in [("gone", 404), ("made", 503), ("other", 503)] {
        assert_eq!(get_pod(&cache, &Caller::Kubelet, name).await, code, "{name}");
    }
    cache.read(|reader| reader.changes()).await.unwrap_err();
}

/// Others have read the whole Secret since; its metadata is kept apart, and its reader was told that.
#[tokio::test]
async fn a_secret_that_is_not_shown_hides_no_metadata() {
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, "Bearer one".parse().unwrap());
    let caller = Caller::of(false, &headers).unwrap();
    let client = caller.identity();
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let secret = |resource: &str, version: &str| {
        let body = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "s", "namespace": "ns", "uid": "u", "resourceVersion": version}});
        Object::new(resource, body).unwrap()
    };
    let query = "fieldSelector=metadata.name%3Ds";
    let parsed = kube::Request::parse("GET", "/api/v1/namespaces/ns/secrets", query);
    let wanted = Wanted::of(&client, parsed.resource().unwrap()).unwrap();
    let found = async |shape| {
        let found = find(&cache, wanted.clone(), shape).await;
        found.map(|found| found.wanted.resource)
    };
    let gets = async |accept: &str| {
        let parsed = kube::Request::parse("GET", "/api/v1/namespaces/ns/secrets/s", "");
        get(&cache, &caller, parsed.resource().unwrap(), Accept::parse(accept)).await.status().as_u16()
    };
    let (plain, partial) =
        ("application/json", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let identity = client.clone();
    let job = move |writer: &mut crate::cache::Writer| {
        writer.put_single(&identity, &secret("v1/secrets", "1"))?;
        writer.put_single(NODE, &secret("v1/secrets", "2"))
    };
    cache.commit(job).await.unwrap();
    for shape in [Shape::Object, Shape::PartialMetadataList] {
        assert!(found(shape).await.unwrap_err().contains("has changed since this client read it"));
    }
    assert_eq!((gets(plain).await, gets(partial).await), (503, 503));
    let metadata = secret(&bare("v1/secrets"), "1");
    cache.commit(move |writer| writer.put_single(&client, &metadata)).await.unwrap();
    assert_eq!((gets(plain).await, gets(partial).await), (503, 200));
    assert!(found(Shape::Object).await.is_err());
    assert_eq!(found(Shape::PartialMetadataList).await, Ok(bare("v1/secrets")));
}
