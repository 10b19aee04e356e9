//! Who may tell a status, what of it counts, and what the cloud is told of it.

use serde_json::{Value, json};

use super::apply::{Found, edit};
use super::input::Input;
use super::stand_in::pod_token;
use super::statuses::{self, right, tell as tell_status};
use crate::cache::{Author, Cache, Change, ChangeKind, FieldManager, Object, ObjectKey, ScopeKey, Writer};
use crate::kube::patch::PatchType;

const ONE: &str = "system:serviceaccount:ns:one/u1";
const TWO: &str = "system:serviceaccount:ns:two/u2";

fn scope(identity: &str, resource: &str) -> ScopeKey {
    ScopeKey {
        identity: identity.into(),
        resource: resource.into(),
        namespace: String::new(),
        labels: String::new(),
        fields: String::new(),
    }
}

fn pod() -> ObjectKey {
    ObjectKey { resource: "v1/pods".into(), namespace: "ns".into(), name: "p".into() }
}

/// A cache with a pod that kubelet and two clients have read, who may tell its status.
async fn cache(folder: &tempfile::TempDir) -> Cache {
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let body = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n"},
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "1"},
        "status": {"phase": "Pending"}});
    let object = Object::new("v1/pods", body).unwrap();
    let job = move |writer: &mut Writer| {
        for identity in ["node", ONE, TWO] {
            let scope = scope(identity, "v1/pods");
            let scope = writer.scope(&scope)?;
            writer.put(scope, &object)?;
            writer.note_written(identity, &right(&pod()))?;
        }
        for identity in [ONE, TWO] {
            let (key, body) = pod_token(identity, "");
            writer.put_token(&key, &body)?;
        }
        Ok(())
    };
    cache.commit(job).await.unwrap();
    cache
}

/// What the cache answers to a status of `author`; empty is kubelet.
async fn tell(cache: &Cache, author: &'static str, input: Input) -> Result<Value, u16> {
    let job = move |writer: &mut Writer| {
        let mut edits = Vec::new();
        match author {
            "" => edit(writer, &mut edits, &pod(), "status", &input),
            _ => tell_status(writer, &mut edits, author, &pod(), &input),
        }
    };
    match cache.commit(job).await.unwrap() {
        Found::Done(_, value) => Ok(*value),
        Found::Failed(failure) => Err(failure.code),
    }
}

fn says(field: &str) -> Input {
    Input::Patch(PatchType::Merge, json!({"status": {field: "yes"}}))
}

async fn changes(cache: &Cache) -> Vec<Change> {
    cache.read(|reader| reader.changes()).await.unwrap()
}

/// What the cloud will be told for each change that waits, and by whom.
async fn told(cache: &Cache) -> Vec<(Author, Value)> {
    let now = cache.read(|reader| reader.object(&pod())).await.unwrap().unwrap().body;
    let one = |change: Change| {
        let sent = match &change.what.body {
            Some(body) => serde_json::from_slice(body).unwrap(),
            None => {
                let base = serde_json::from_slice(change.what.base.as_deref().unwrap()).unwrap();
                crate::proxy::difference::told(&change.what, &base, &now).unwrap().unwrap()
            }
        };
        (change.what.author, sent["status"].clone())
    };
    changes(cache).await.into_iter().map(one).collect()
}

fn client(identity: &str) -> Author {
    Author::Client(identity.into())
}

#[tokio::test]
async fn each_tells_in_its_own_name_and_in_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    for (author, field) in
        [(ONE, "reason"), (ONE, "message"), (TWO, "hostIP"), ("", "podIP"), (ONE, "qosClass")]
    {
        assert!(tell(&cache, author, says(field)).await.is_ok(), "{author} {field}");
    }
    let expected = [
        (client(ONE), json!({"reason": "yes", "message": "yes"})),
        (client(TWO), json!({"hostIP": "yes"})),
        (Author::Node, json!({"podIP": "yes"})),
        (client(ONE), json!({"qosClass": "yes"})),
    ];
    assert_eq!(told(&cache).await, expected);
}

#[tokio::test]
async fn clients_wait_when_too_much_does_and_kubelet_waits_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    let count = |n: usize| Input::Patch(PatchType::Merge, json!({"status": {"message": n.to_string()}}));
    for n in 0..100 {
        let _ = tell(&cache, if n % 2 == 0 { ONE } else { TWO }, count(n)).await;
    }
    let waiting = changes(&cache).await.len();
    assert!((16..64).contains(&waiting), "{waiting}");
    assert_eq!(tell(&cache, ONE, count(200)).await, Err(503));
    for n in 300..310 {
        assert!(tell(&cache, "", count(n)).await.is_ok());
    }
    assert_eq!(changes(&cache).await.len(), waiting + 1, "what kubelet tells adds up");
}

fn applies(manager: &str, status: Value) -> Input {
    let manager = FieldManager { name: manager.into(), force: true };
    Input::Apply(
        manager,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "status": status}),
    )
}

#[tokio::test]
async fn what_is_applied_is_told_as_it_was_applied_last() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
    let first = json!({"reason": "one", "message": "two", "conditions": [condition("A", "True")]});
    tell(&cache, ONE, applies("m", first)).await.unwrap();
    tell(&cache, TWO, applies("m", json!({"conditions": [condition("B", "True")]}))).await.unwrap();
    tell(&cache, "", says("podIP")).await.unwrap();
    let last = json!({"reason": "three", "conditions": [condition("A", "False")]});
    let now = tell(&cache, ONE, applies("m", last.clone())).await.unwrap();
    assert_eq!(now["status"]["reason"], "three");
    assert!(now["status"].get("message").is_none(), "applied no more: {now}");
    assert_eq!(now["status"]["phase"], "Pending", "nobody's here, so it stays");
    assert_eq!(now["status"]["podIP"], "yes");
    assert_eq!(now["status"]["conditions"].as_array().unwrap().len(), 2, "another's stays: {now}");
    let waiting = changes(&cache).await;
    let kinds: Vec<_> = waiting.iter().map(|c| (c.what.kind, c.what.author.clone())).collect();
    let expected = [
        (ChangeKind::Apply, client(TWO)),
        (ChangeKind::Patch, Author::Node),
        (ChangeKind::Apply, client(ONE)),
    ];
    assert_eq!(kinds, expected);
    let sent: Value = serde_json::from_slice(waiting[2].what.body.as_deref().unwrap()).unwrap();
    let metadata = json!({"name": "p", "namespace": "ns", "uid": "u"});
    assert_eq!(sent, json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": last}));
    assert_eq!(waiting[2].what.manager, Some(FieldManager { name: "m".into(), force: true }));
}

#[test]
fn a_custom_resource_is_merged_by_the_conventions() {
    let object = json!({"apiVersion": "a/v1", "kind": "W", "metadata": {"name": "w"}, "spec": {"size": 1},
        "status": {"phase": "Old", "list": [1, 2], "nested": {"a": 1, "b": 2},
            "conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True", "since": 1}]}});
    let config = |status: Value| json!({"apiVersion": "a/v1", "kind": "W", "metadata": {"name": "w"}, "status": status});
    let applied = config(json!({"phase": "New", "list": [3], "nested": {"a": 5},
        "conditions": [{"type": "B", "status": "False"}]}));
    let now = statuses::apply(&object, &applied, None).unwrap();
    let expected = json!({"phase": "New", "list": [3], "nested": {"a": 5, "b": 2},
        "conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False", "since": 1}]});
    assert_eq!((&now["status"], &now["spec"]), (&expected, &object["spec"]));
    let less = config(json!({"nested": {}}));
    let now = statuses::apply(&now, &less, Some(&applied)).unwrap();
    assert_eq!(now["status"], json!({"nested": {"b": 2}}), "what was applied and is not any more is gone");
    for wrong in
        [json!({"apiVersion": "a/v1", "kind": "W"}), json!({"apiVersion": "a/v2", "kind": "W", "status": {}})]
    {
        assert!(statuses::apply(&object, &wrong, None).is_err(), "{wrong}");
    }
}

#[test]
fn a_node_is_told_with_its_annotations() {
    let node = ObjectKey { resource: "v1/nodes".into(), namespace: String::new(), name: "n".into() };
    let before =
        json!({"metadata": {"labels": {"a": "1"}, "annotations": {"x": "1"}}, "status": {"phase": "a"}});
    let after =
        json!({"metadata": {"labels": {"a": "2"}, "annotations": {"x": "2"}}, "status": {"phase": "b"}});
    let expected =
        json!({"metadata": {"labels": {"a": "1"}, "annotations": {"x": "2"}}, "status": {"phase": "b"}});
    assert_eq!(crate::proxy::difference::with_status_of(&node, &before, &after), expected);
    let other = ObjectKey { resource: "apps/v1/deployments".into(), ..pod() };
    assert_eq!(
        crate::proxy::difference::with_status_of(&other, &before, &after)["metadata"],
        before["metadata"]
    );
}

/// Network plugins tell a pod's addresses so.
#[tokio::test]
async fn a_pod_is_told_with_its_annotations_and_labels() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    let metadata =
        json!({"annotations": {"cni.projectcalico.org/podIP": "10.0.0.9/32"}, "labels": {"a": "b"}});
    let after =
        tell(&cache, ONE, Input::Patch(PatchType::Merge, json!({"metadata": metadata}))).await.unwrap();
    assert_eq!(after["metadata"]["annotations"], metadata["annotations"]);
    let change = changes(&cache).await.remove(0);
    let base = serde_json::from_slice(change.what.base.as_deref().unwrap()).unwrap();
    let sent = crate::proxy::difference::told(&change.what, &base, &after).unwrap().unwrap();
    let expected =
        json!({"metadata": {"uid": "u", "annotations": metadata["annotations"], "labels": {"a": "b"}}});
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn what_is_not_taken_is_not_answered_as_if_it_were() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    let finalizers = json!({"metadata": {"finalizers": ["a/b"]}});
    assert_eq!(tell(&cache, ONE, Input::Patch(PatchType::Merge, finalizers)).await, Err(503));
    let manager = FieldManager { name: "m".into(), force: true };
    let applied = json!({"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Pending"},
        "metadata": {"name": "p", "annotations": {"a": "b"}}});
    assert_eq!(tell(&cache, ONE, Input::Apply(manager, applied)).await, Err(503));
    assert_eq!(changes(&cache).await.len(), 0);
    let other = ObjectKey { resource: "apps/v1/deployments".into(), ..pod() };
    let known = json!({"metadata": {"annotations": {"a": "1"}}});
    for (wish, expected) in [
        (json!({"metadata": {"annotations": {"a": "2"}}}), Some("annotations")),
        (json!({"metadata": {"annotations": {"a": "1"}, "labels": {}}, "spec": {}}), None),
        (json!({"status": {}}), None),
    ] {
        let left = statuses::not_taken(&other, &known, &Input::Object(wish.clone()), &wish);
        assert_eq!(left, expected, "{wish}");
    }
}

#[tokio::test]
async fn who_has_not_seen_the_last_change_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    let put = |version: &Value, word: &str| {
        Input::Object(
            json!({"metadata": {"name": "p", "resourceVersion": version}, "status": {"message": word}}),
        )
    };
    let read = json!("1");
    let first = tell(&cache, ONE, put(&read, "first")).await.unwrap();
    assert_eq!(tell(&cache, ONE, put(&read, "stale")).await, Err(409));
    let patch = |version: &Value| {
        let patch = json!({"metadata": {"resourceVersion": version}, "status": {"reason": "patched"}});
        Input::Patch(PatchType::Merge, patch)
    };
    assert_eq!(tell(&cache, TWO, patch(&read)).await, Err(409));
    assert_eq!(tell(&cache, "", patch(&read)).await, Err(409), "kubelet too");
    let now = first["metadata"]["resourceVersion"].clone();
    assert!(tell(&cache, TWO, patch(&now)).await.is_ok());
    for unsaid in [Value::Null, json!(""), json!("0")] {
        assert!(tell(&cache, ONE, put(&unsaid, "says none")).await.is_ok(), "{unsaid}");
    }
}

#[tokio::test]
async fn a_client_s_status_is_a_status_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    assert_eq!(tell(&cache, ONE, Input::Object(Value::Null)).await, Err(400));
    assert_eq!(tell(&cache, ONE, Input::Object(json!(["status"]))).await, Err(400));
    let more = json!({"metadata": {"labels": {"a": "b"}, "ownerReferences": []}, "spec": {"nodeName": "m"},
        "data": {}, "status": {"phase": "Running"}});
    let before = cache.read(|reader| reader.object(&pod())).await.unwrap().unwrap().body;
    let after = tell(&cache, ONE, Input::Object(more)).await.unwrap();
    assert_eq!(after["status"], json!({"phase": "Running"}));
    let mut rest = crate::proxy::difference::with_status_of(&pod(), &after, &before);
    rest["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    assert_eq!(rest, before);
}

#[tokio::test]
async fn a_right_to_tell_is_of_one_namespace_and_can_be_lost() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    let has = async |namespace: &'static str| {
        let right = right(&ObjectKey { namespace: namespace.into(), ..pod() });
        cache.commit(move |writer| writer.has_written(ONE, &right)).await.unwrap()
    };
    assert_eq!((has("ns").await, has("other").await), (true, false));
    cache.commit(|writer| writer.forget_written(ONE, &right(&pod()))).await.unwrap();
    assert!(!has("ns").await);
    assert_eq!(tell(&cache, ONE, says("reason")).await, Err(503));
    assert!(tell(&cache, TWO, says("reason")).await.is_ok(), "whose right it is still");
}

#[tokio::test]
async fn endpoints_follow_kubelet_alone() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    let body = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s", "namespace": "ns", "uid": "s", "resourceVersion": "1"},
        "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"uid": "u"}}]});
    let slice = Object::new("discovery.k8s.io/v1/endpointslices", body).unwrap();
    let key = slice.key.clone();
    let job = move |writer: &mut Writer| {
        let scope = writer.scope(&scope("node", &slice.key.resource))?;
        writer.put(scope, &slice)
    };
    cache.commit(job).await.unwrap();
    for (author, address) in [(ONE, "10.0.0.1"), ("", "10.0.0.9")] {
        let ip = json!({"status": {"podIP": "10.0.0.9", "reason": author}});
        tell(&cache, author, Input::Patch(PatchType::Merge, ip)).await.unwrap();
        let key = key.clone();
        let slice = cache.read(move |reader| reader.object(&key)).await.unwrap().unwrap().body;
        assert_eq!(slice["endpoints"][0]["addresses"], json!([address]), "`{author}` tells");
    }
}

/// A node's heartbeats stay out of the file: who watches it has seen later versions than are kept.
#[tokio::test]
async fn who_has_seen_a_heartbeat_that_is_not_kept_is_not_behind() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let node = |version: u64, beat: &str, ready: &str| {
        let conditions = json!([{"type": "Ready", "status": ready, "lastHeartbeatTime": beat}]);
        let body = json!({"apiVersion": "v1", "kind": "Node", "status": {"conditions": conditions},
            "metadata": {"name": "n", "uid": "u", "resourceVersion": version.to_string()}});
        Object::new("v1/nodes", body).unwrap()
    };
    let key = node(1, "", "").key;
    let job = move |writer: &mut Writer| {
        for identity in ["node", ONE] {
            let scope = writer.scope(&scope(identity, "v1/nodes"))?;
            writer.put(scope, &node(850, "a", "True"))?;
            writer.put(scope, &node(900, "b", "True"))?;
            writer.note_written(identity, &right(&node(1, "", "").key))?;
        }
        let (token, body) = pod_token(ONE, "");
        writer.put_token(&token, &body)?;
        let kept = writer.object(&node(1, "", "").key)?.map(|(_, object)| object.version);
        assert_eq!(kept.as_deref(), Some("850"));
        Ok(())
    };
    cache.commit(job).await.unwrap();
    let put = async |author: &'static str, version: u64, ready: &'static str| {
        let (key, input) = (key.clone(), Input::Object(node(version, "c", ready).body));
        let job = move |writer: &mut Writer| match author {
            "" => edit(writer, &mut Vec::new(), &key, "status", &input),
            _ => tell_status(writer, &mut Vec::new(), author, &key, &input),
        };
        match cache.commit(job).await.unwrap() {
            Found::Done(..) => 200,
            Found::Failed(failure) => failure.code,
        }
    };
    assert_eq!(put(ONE, 840, "False").await, 409, "of what it was before");
    assert_eq!(put(ONE, 900, "False").await, 200);
    assert_eq!(put(ONE, 901, "Unknown").await, 409, "who has not seen what was changed here");
    // Kubelet is shown the cloud's version of nodes, whatever was changed here.
    assert_eq!(put("", 900, "Unknown").await, 200);
    assert_eq!(put("", 840, "True").await, 409);
}
