//! Whose events are taken, and that nobody speaks for another.

use serde_json::json;

use super::*;
use crate::cache::{Cache, Change, Purpose};
use crate::kube::patch::PatchType;
use crate::proxy::stand_in::pod_token;

const ONE: &str = "system:serviceaccount:ns:one/u1";
const TWO: &str = "system:serviceaccount:ns:two/u2";
/// Its pod has no token for the API server that kubelet has got.
const THREE: &str = "system:serviceaccount:ns:three/u3";

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { resource: "v1/events".into(), namespace: namespace.into(), name: name.into() }
}

fn author(identity: &str) -> Author {
    if identity.is_empty() { Author::Node } else { Author::Client(identity.to_owned()) }
}

/// The code of an event made by `identity` (empty is the node).
async fn make(cache: &Cache, identity: &'static str, key: ObjectKey) -> u16 {
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {}, "message": "said"});
    code(cache, move |writer| create(writer, &mut Vec::new(), &author(identity), &key, event)).await
}

/// The code of a patch of an event by `identity`.
async fn patch(cache: &Cache, identity: &'static str, key: ObjectKey, body: Value) -> u16 {
    let input = Input::Patch(PatchType::Merge, body);
    code(cache, move |writer| edit(writer, &mut Vec::new(), &author(identity), &key, &input)).await
}

async fn code(
    cache: &Cache,
    job: impl FnOnce(&mut Writer) -> Result<Found, CacheError> + Send + 'static,
) -> u16 {
    match cache.commit(job).await.unwrap() {
        Found::Done(code, _) => code.as_u16(),
        Found::Failed(failure) => failure.code,
    }
}

async fn cache(folder: &tempfile::TempDir) -> Cache {
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let allow = |writer: &mut Writer| {
        writer.note_written(ONE, &statuses::right(&key("ns", "")))?;
        writer.note_written(TWO, &statuses::right(&key("ns", "")))?;
        writer.note_written(THREE, &statuses::right(&key("ns", "")))?;
        for (identity, audience) in [(ONE, ""), (TWO, "the-api"), (THREE, "somebody-else")] {
            let (key, body) = pod_token(identity, audience);
            writer.put_token(&key, &body)?;
            let purpose = Purpose { issuer: "cluster".into(), audiences: vec!["the-api".into()] };
            writer.accept_caller(identity, identity, &purpose)?;
        }
        writer.note_written("system:serviceaccount:ns:one/", &statuses::right(&key("ns", "")))
    };
    cache.commit(allow).await.unwrap();
    cache
}

async fn changes(cache: &Cache) -> Vec<Change> {
    cache.read(|reader| reader.changes()).await.unwrap()
}

#[tokio::test]
async fn a_client_makes_events_where_the_cloud_let_it_and_in_its_own_name() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    assert_eq!(make(&cache, ONE, key("ns", "a")).await, 201);
    assert_eq!(make(&cache, ONE, key("kube-system", "a")).await, 503);
    assert_eq!(make(&cache, THREE, key("ns", "b")).await, 503, "nobody could tell it later");
    assert_eq!(make(&cache, "system:serviceaccount:ns:none/u3", key("ns", "b")).await, 503);
    assert_eq!(make(&cache, "system:serviceaccount:ns:one/", key("ns", "b")).await, 503, "no pod's token");
    assert_eq!(make(&cache, "", key("kube-system", "n")).await, 201);
    let authors: Vec<Author> = changes(&cache).await.into_iter().map(|c| c.what.author).collect();
    assert_eq!(authors, [author(ONE), Author::Node]);
}

#[tokio::test]
async fn nobody_reads_or_writes_another_s_event_by_a_patch() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    assert_eq!(make(&cache, "", key("ns", "node")).await, 201);
    assert_eq!(make(&cache, ONE, key("ns", "one")).await, 201);
    for (who, whose, expected) in
        [(TWO, "node", 404), (TWO, "one", 404), ("", "one", 404), (ONE, "one", 200), ("", "node", 200)]
    {
        let said = json!({"message": who, "count": 2});
        assert_eq!(patch(&cache, who, key("ns", whose), said).await, expected, "{who} {whose}");
    }
    assert_eq!(patch(&cache, ONE, key("kube-system", "one"), json!({})).await, 503);
    let large = json!({"message": "x".repeat(SIZE)});
    assert_eq!(patch(&cache, ONE, key("ns", "one"), large).await, 413);
    let sent: Vec<Value> = changes(&cache)
        .await
        .iter()
        .map(|c| serde_json::from_slice::<Value>(c.what.body.as_deref().unwrap()).unwrap()["message"].clone())
        .collect();
    assert_eq!(sent, ["", ONE], "each says what its author said last");
}

#[tokio::test]
async fn clients_push_out_nothing_of_the_node_s() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder).await;
    assert_eq!(make(&cache, "", key("ns", "node")).await, 201);
    let mut codes = Vec::new();
    for n in 0..OF_CLIENT + 1 {
        codes.push(make(&cache, ONE, key("ns", &format!("e{n}"))).await);
    }
    assert_eq!(codes.pop(), Some(429));
    assert!(codes.iter().all(|code| *code == 201), "{codes:?}");
    assert_eq!(make(&cache, TWO, key("ns", "two")).await, 201, "another is let in");
    let more = |writer: &mut Writer| {
        let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {}});
        (0..OF_NODE + 10).try_for_each(|n| {
            let key = key("ns", &format!("n{n}"));
            create(writer, &mut Vec::new(), &Author::Node, &key, event.clone()).map(drop)
        })
    };
    cache.commit(more).await.unwrap();
    let waiting = changes(&cache).await;
    let of_node = waiting.iter().filter(|c| c.what.author == Author::Node).count();
    assert_eq!((of_node, waiting.len() - of_node), (OF_NODE, OF_CLIENT + 1));
}
