//! Which of two versions stays: by when each was asked for and written, and by no order of versions alone.

use serde_json::json;

use super::*;

fn pod(name: &str, version: &str) -> Object {
    let meta =
        json!({"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": version});
    Object::new("v1/pods", json!({ "metadata": meta })).unwrap()
}

fn scope() -> ScopeKey {
    ScopeKey {
        identity: NODE.into(),
        resource: "v1/pods".into(),
        namespace: String::new(),
        labels: String::new(),
        fields: String::new(),
    }
}

/// One rule for lists, watches, readings by name and answers to writes.
#[tokio::test]
async fn what_was_asked_for_after_something_was_written_takes_its_place_whatever_the_versions() {
    type Way = fn(&mut Writer, &Object) -> Result<(), CacheError>;
    let ways: [(&str, Way); 4] = [
        ("list", |w, object| {
            let (id, mut list) = (w.scope(&scope())?, ListRecord::default());
            w.put_listed(id, &mut list, object)?;
            w.finish(id, &list, "PodList", "7").map(drop)
        }),
        ("watch", |w, object| w.scope(&scope()).and_then(|id| w.put(id, object))),
        ("get", |w, object| w.put_single(NODE, object)),
        ("write", |w, object| w.put_written(NODE, object)),
    ];
    for (name, way) in ways {
        for (asked, expected) in [(0, "9"), (60, "3")] {
            let folder = tempfile::tempdir().unwrap();
            let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
            let job = move |w: &mut Writer| {
                let id = w.scope(&scope())?;
                w.put(id, &pod("a", "9"))?;
                w.db().execute("UPDATE object SET at = at - 30", [])?;
                // Over a slow link, or by a cloud that was restored since.
                let asked = seconds() - 60 + asked;
                w.of_answer(asked, |w| way(w, &pod("a", "3")))?;
                Ok(w.object(&pod("a", "").key)?.map(|(_, object)| object.version))
            };
            let version = cache.commit(job).await.unwrap();
            assert_eq!(version.as_deref(), Some(expected), "{name}, asked {asked} s later");
        }
    }
}

/// The clock ran ahead when it was written, and was put right.
#[tokio::test]
async fn what_seems_to_be_written_in_the_future_hides_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let job = |w: &mut Writer| {
        let id = w.scope(&scope())?;
        w.put(id, &pod("a", "9"))?;
        w.put(id, &pod("ghost", "9"))?;
        w.db().execute("UPDATE object SET at = at + 3600", [])?;
        let mut list = ListRecord::default();
        w.put_listed(id, &mut list, &pod("a", "3"))?;
        w.finish(id, &list, "PodList", "4")?;
        Ok((w.object(&pod("a", "").key)?.unwrap().1.version, w.object(&pod("ghost", "").key)?.is_some()))
    };
    assert_eq!(cache.commit(job).await.unwrap(), ("3".to_owned(), false));
}

/// An answer that was on its way when a watch told that the object is gone.
#[tokio::test]
async fn what_is_gone_since_it_was_asked_for_is_not_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let job = |w: &mut Writer| {
        let mut there = Vec::new();
        for late in [-5, 5] {
            w.put_single(NODE, &pod("a", "3"))?;
            w.take_gone(NODE, &pod("a", "4"))?;
            w.of_answer(seconds() + late, |w| w.put_single(NODE, &pod("a", "3")))?;
            there.push(w.has_read(NODE, &pod("a", "").key)?);
        }
        Ok(there)
    };
    assert_eq!(cache.commit(job).await.unwrap(), [false, true]);
}

/// kubelet has said something of a pod a moment before a restored cloud is read, which does not have it.
#[tokio::test]
async fn what_was_changed_here_is_not_newer_than_what_the_cloud_says() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let job = |w: &mut Writer| {
        let id = w.scope(&scope())?;
        for name in ["a", "ghost"] {
            w.put(id, &pod(name, "2000"))?;
            let (_, known) = w.object(&pod(name, "").key)?.unwrap();
            let changed = w.changed(&known, known.body.clone())?;
            w.put_local(&[id], &changed)?;
        }
        let mut list = ListRecord::default();
        w.put_listed(id, &mut list, &pod("a", "15"))?;
        w.finish(id, &list, "PodList", "20")?;
        Ok(w.object(&pod("a", "").key)?.unwrap().1.version)
    };
    assert_eq!(cache.commit(job).await.unwrap(), "15");
    let kept = cache.read(|r| {
        let scope = r.scopes(NODE, "v1/pods", "")?.remove(0).id;
        r.objects(scope, &r.members(scope)?)
    });
    let names: Vec<String> = kept.await.unwrap().into_iter().map(|object| object.key.name).collect();
    assert_eq!(names, ["a"]);
}

#[tokio::test]
async fn an_earlier_version_of_a_list_is_written_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
    let job = |w: &mut Writer| {
        let id = w.scope(&scope())?;
        for version in ["2000", "2100", "150", "160"] {
            w.finish(id, &ListRecord::default(), "PodList", version)?;
        }
        w.mark_synced(id, "", "7")
    };
    cache.commit(job).await.unwrap();
    let scopes = cache.read(|r| r.scopes(NODE, "v1/pods", "")).await.unwrap();
    assert_eq!(scopes[0].version, "150");
}
