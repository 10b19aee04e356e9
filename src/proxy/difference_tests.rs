//! What waits to be told, while the cloud's news takes the place of the object that it was made to.

use serde_json::{Value, json};

use super::*;
use crate::cache::{Cache, ListRecord, NODE, ScopeKey, Writer};

const CLIENT: &str = "system:serviceaccount:ns:a/u";

fn pod(version: &str, status: &Value) -> Object {
    let meta = json!({"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": version});
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": status});
    Object::new("v1/pods", body).unwrap()
}

fn conditions(of: &[(&str, &str)]) -> Value {
    of.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect()
}

/// `author` makes this status of the pod that is kept.
fn edit(w: &mut Writer, author: Author, status: Value, fixed: Option<Value>) -> Result<(), CacheError> {
    edit_part(w, "status", author, status, fixed)
}

fn edit_part(
    w: &mut Writer,
    part: &str,
    author: Author,
    status: Value,
    fixed: Option<Value>,
) -> Result<(), CacheError> {
    let (_, known) = w.object(&pod("", &Value::Null).key)?.unwrap();
    let mut body = known.body.clone();
    body["status"] = status;
    let edited = w.changed(&known, body)?;
    w.put_local(&[], &edited)?;
    w.push_change(&NewChange {
        kind: ChangeKind::Patch,
        key: known.key.clone(),
        uid: known.uid.clone(),
        subresource: part.into(),
        author,
        manager: None,
        base: Some(known.body.to_string().into_bytes()),
        body: fixed.map(|patch| patch.to_string().into_bytes()),
    })?;
    Ok(())
}

async fn cache() -> (tempfile::TempDir, Cache) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    cache.rebase_by(move_onto);
    let known = pod("1", &json!({"phase": "Running", "conditions": conditions(&[("A", "0"), ("B", "0")])}));
    cache.commit(move |w| w.put_single(NODE, &known)).await.unwrap();
    (folder, cache)
}

/// What each change says of the status, with what is kept now; `None` of what says nothing.
async fn said(cache: &Cache) -> Vec<Option<Value>> {
    let read = cache.read(|r| Ok((r.changes()?, r.all("v1/pods")?.remove(0)))).await;
    let (changes, kept) = read.unwrap();
    let of = |change: &Change| match &change.what.body {
        Some(body) => Some(serde_json::from_slice::<Value>(body).unwrap()),
        None => {
            let base = serde_json::from_slice(change.what.base.as_deref().unwrap()).unwrap();
            told(&change.what, &base, &kept).unwrap()
        }
    };
    changes.iter().map(|change| of(change).map(|patch| patch["status"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_waits_is_told_although_the_cloud_s_answer_has_taken_the_place_of_its_object() {
    for way in ["written", "read", "listed", "watched"] {
        let (_folder, cache) = cache().await;
        let ours = json!({"phase": "Running", "message": "ours", "conditions": conditions(&[("A", "1"), ("B", "0")])});
        cache.commit(move |w| edit(w, Author::Node, ours, None)).await.unwrap();
        // Twice: what was fixed once stays so, but for what the cloud has news of.
        for (version, a, message) in [("2", "0", "ours"), ("3", "1", "ours"), ("4", "2", "theirs")] {
            let mut status =
                json!({"phase": "Succeeded", "conditions": conditions(&[("A", a), ("B", version)])});
            if message == "theirs" {
                status["message"] = message.into();
            }
            let theirs = pod(version, &status);
            let taken = theirs.clone();
            let take = move |w: &mut Writer| match way {
                "written" => w.put_written(NODE, &taken),
                "read" => w.put_single(NODE, &taken),
                _ => {
                    let key = ScopeKey { fields: String::new(), ..ScopeKey::of_one(NODE, &taken.key) };
                    let (scope, mut list) = (w.scope(&key)?, ListRecord::default());
                    match way {
                        "listed" => w.put_listed(scope, &mut list, &taken),
                        _ => w.put(scope, &taken),
                    }
                }
            };
            cache.commit(take).await.unwrap();
            let kept = cache.read(|r| r.all("v1/pods")).await.unwrap().remove(0);
            assert_eq!(kept, theirs.body, "{way}");
            let expected = match version {
                "2" => Some(json!({"message": "ours", "conditions": conditions(&[("A", "1")]),
                    "$setElementOrder/conditions": [{"type": "A"}, {"type": "B"}]})),
                "3" => Some(json!({"message": "ours"})),
                _ => None,
            };
            assert_eq!(said(&cache).await, [expected], "{way}, {version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_edits_that_follow_each_other_each_says_what_it_said() {
    let (_folder, cache) = cache().await;
    let job = |w: &mut Writer| {
        let patch = json!({"metadata": {"uid": "u"}, "status": {"message": "first"}});
        let running = |message: &str| json!({"phase": "Running", "message": message});
        edit(w, Author::Client(CLIENT.into()), running("first"), Some(patch))?;
        edit(w, Author::Node, json!({"phase": "Failed", "message": "second"}), None)?;
        w.put_single(NODE, &pod("2", &json!({"phase": "Running", "reason": "news"})))
    };
    cache.commit(job).await.unwrap();
    let expected = [json!({"message": "first"}), json!({"phase": "Failed", "message": "second"})];
    assert_eq!(said(&cache).await, expected.map(Some));
}

/// What was told through one part of the object begins anew with what was edited through the other, and is not told yet.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_one_part_is_told_although_that_of_the_other_begins_after_it() {
    let (_folder, cache) = cache().await;
    let job = |w: &mut Writer| {
        let running = |message: &str| json!({"phase": "Running", "message": message});
        edit_part(w, "", Author::Node, running("first"), None)?;
        edit(w, Author::Node, running("second"), None)?;
        let (_, then) = w.object(&pod("", &Value::Null).key)?.unwrap();
        w.rebase_change(1, then.body.to_string().as_bytes())?;
        w.put_single(NODE, &pod("2", &json!({"phase": "Running", "message": "first"})))
    };
    cache.commit(job).await.unwrap();
    assert_eq!(said(&cache).await[1], Some(json!({"message": "second"})));
}
