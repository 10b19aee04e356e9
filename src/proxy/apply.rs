//! Writes as jobs in the cache: what each does to the objects kept, and what it leaves to be told to
//! the cloud. All of a job is on disk, or nothing.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::endpoints;
use super::input::Input;
use super::outbox;
use super::replay::Wanted;
use super::token;
use super::watch::Edit;
use crate::cache::{CacheError, Change, ChangeKind, NewChange, Object, ObjectKey, Right, ScopeId, Writer};
use crate::kube::status::Failure;
use crate::kube::stream::WatchKind;
use crate::kube::{FieldSelector, GroupVersionResource, LabelSelector};

/// Events kept for `edge pod describe`.
pub const EVENTS_KEPT: usize = 1000;
/// Whose readings the events of this node are: edge's own.
const EVENT_KEEPER: &str = "edge:events";

/// What a job in the cache found.
pub enum Found {
    /// Done; the object after it, with the code to answer.
    Done(StatusCode, Box<Value>),
    /// Not done; the Status to answer.
    Failed(Box<Failure>),
}

/// Keeps an event that went to the cloud, so that it can be shown here too.
pub fn keep_event(writer: &mut Writer, event: Object) -> Result<(), CacheError> {
    let scope = writer.scope(&event_scope(&event.key.resource))?;
    writer.put(scope, &event)?;
    writer.bound_objects(&event.key.resource, EVENTS_KEPT)
}

fn event_scope(resource: &str) -> crate::cache::ScopeKey {
    crate::cache::ScopeKey {
        identity: EVENT_KEEPER.to_owned(),
        resource: resource.to_owned(),
        namespace: String::new(),
        labels: String::new(),
        fields: String::new(),
    }
}

fn failed(failure: Failure) -> Found {
    Found::Failed(Box::new(failure))
}

fn missing(writer: &Writer, key: &ObjectKey) -> Result<Found, CacheError> {
    let gvr = gvr(key);
    if key.resource.ends_with("/events") || writer.waiting(ChangeKind::Delete, key, "")?.is_some() {
        return Ok(failed(Failure::not_found(&gvr.group, &gvr.resource, &key.name)));
    }
    let why = format!("the cloud is away and {key} was never read while it was there");
    Ok(failed(Failure::unavailable(why, Some(5))))
}

fn gvr(key: &ObjectKey) -> GroupVersionResource {
    // What has no version is no resource of Kubernetes'; the words of a refusal are all that it is for.
    key.resource.parse().unwrap_or_else(|_| GroupVersionResource::new("", "", &key.resource))
}

fn conflict(key: &ObjectKey, wanted: &str, is: &str) -> Found {
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {is}");
    failed(Failure::conflict(&gvr(key).group, &gvr(key).resource, &key.name, &why))
}

/// An object that is known here is patched, or its status replaced.
pub fn edit(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    key: &ObjectKey,
    subresource: &str,
    input: &Input,
) -> Result<Found, CacheError> {
    edit_by(writer, edits, "", key, subresource, input)
}

/// The status of an object, told by a client other than kubelet: what it has read, and what the cloud has let it write.
/// It is told to the cloud in the client's own name, so its token must be known.
pub fn status(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    author: &str,
    key: &ObjectKey,
    input: &Input,
) -> Result<Found, CacheError> {
    let refuse =
        |why: &str| Ok(failed(Failure::unavailable(format!("the cloud is away and {why}"), Some(5))));
    if !writer.has_read(author, key)? {
        return refuse("this client never read the object while it was there");
    }
    if !writer.has_written(author, &status_right(key))? {
        return refuse("it never let this client write such a status while it was there");
    }
    if outbox::PodIdentity::of(author).is_none() {
        return refuse("only pods of this node may tell a status here");
    }
    edit_by(writer, edits, author, key, "status", input)
}

/// To tell the status of such objects.
pub fn status_right(key: &ObjectKey) -> Right {
    Right {
        resource: key.resource.clone(),
        namespace: key.namespace.clone(),
        subresource: "status".to_owned(),
    }
}

fn edit_by(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    author: &str,
    key: &ObjectKey,
    subresource: &str,
    input: &Input,
) -> Result<Found, CacheError> {
    let Some((_, known)) = writer.object(key)? else { return missing(writer, key) };
    if let Some(uid) = input.uid().filter(|uid| *uid != known.uid) {
        return Ok(conflict(key, uid, &known.uid));
    }
    let edited = match input.apply(&known.body) {
        Ok(edited) if !edited.is_object() => return Ok(failed(Failure::bad_request("this is no object"))),
        // Of all else that a client writes there the cloud takes nothing, and nor is it shown here.
        Ok(edited) if !author.is_empty() => outbox::with_status_of(&known.body, &edited),
        Ok(edited) => settle(edited, &known.body, subresource),
        Err(why) => return Ok(failed(Failure::bad_request(why))),
    };
    if edited == known.body {
        return Ok(Found::Done(StatusCode::OK, Box::new(edited)));
    }
    if !author.is_empty() && is_held(writer, author, key, subresource, &known.uid)? {
        let why = "the cloud is away and what another client told of this object waits for it";
        return Ok(failed(Failure::unavailable(why, Some(5))));
    }
    let object = Object { body: edited, ..known.clone() };
    // The cloud has the like already, or it waits for it.
    if writer.is_heartbeat(&object)? {
        return Ok(Found::Done(StatusCode::OK, Box::new(object.body)));
    }
    writer.put_local(&[], &object)?;
    keep_change(writer, author, key, subresource, &known, &object)?;
    // Addresses and readiness are kubelet's to say.
    if key.resource == "v1/pods" && author.is_empty() {
        endpoints::follow(writer, edits, &object)?;
    }
    let answer = object.body.clone();
    edits.push(Edit { kind: WatchKind::Modified, object: Arc::new(object) });
    Ok(Found::Done(StatusCode::OK, Box::new(answer)))
}

/// An edited object keeps who it is; through `status` it keeps its spec too.
fn settle(mut edited: Value, known: &Value, subresource: &str) -> Value {
    let keep = |edited: &mut Value, pointer: &str, field: &str| {
        let Some(parent) = edited.pointer_mut(pointer).and_then(Value::as_object_mut) else { return };
        match known.pointer(&format!("{pointer}/{field}")) {
            Some(value) => parent.insert(field.to_owned(), value.clone()),
            None => parent.remove(field),
        };
    };
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp"] {
        keep(&mut edited, "/metadata", field);
    }
    if subresource == "status" {
        keep(&mut edited, "", "spec");
    }
    for field in ["apiVersion", "kind"] {
        keep(&mut edited, "", field);
    }
    if let Some(meta) = edited.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    edited
}

/// Whether what somebody else has told of it waits: that cannot be told apart, and each tells in its own name only.
fn is_held(
    writer: &Writer,
    author: &str,
    key: &ObjectKey,
    subresource: &str,
    uid: &str,
) -> Result<bool, CacheError> {
    let patches = writer.patches(key, subresource)?;
    Ok(patches.iter().any(|change| change.what.uid == uid && change.what.author != author)
        || writer.waiting(ChangeKind::Create, key, "")?.is_some())
}

/// Edits of one object add up: the first keeps the cloud's object, later ones find it kept. Those of kubelet, which
/// waits for nobody, are kept beside what a client told before: that ends with what the client told.
fn keep_change(
    writer: &Writer,
    author: &str,
    key: &ObjectKey,
    subresource: &str,
    base: &Object,
    now: &Object,
) -> Result<(), CacheError> {
    if let Some(waiting) = writer.waiting(ChangeKind::Create, key, "")? {
        return writer.rewrite_change(waiting.id, now.body.to_string().as_bytes());
    }
    let mut is_kept = false;
    for waiting in writer.patches(key, subresource)? {
        if waiting.what.author != author {
            end_change(writer, &waiting, base)?;
        } else if waiting.what.uid == base.uid {
            is_kept = true;
        } else {
            writer.drop_change(waiting.id)?;
        }
    }
    if is_kept {
        return Ok(());
    }
    writer.push_change(&NewChange {
        kind: ChangeKind::Patch,
        key: key.clone(),
        uid: base.uid.clone(),
        subresource: subresource.to_owned(),
        author: author.to_owned(),
        base: Some(base.body.to_string().into_bytes()),
        body: None,
    })?;
    Ok(())
}

/// A new object, with the names that a server gives.
pub fn create(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    key: &ObjectKey,
    mut body: Value,
    code: StatusCode,
) -> Result<Found, CacheError> {
    if writer.object(key)?.is_some() {
        return Ok(failed(Failure::already_exists(&gvr(key).group, &gvr(key).resource, &key.name)));
    }
    let wanted_by = scopes_for(writer, key, &body)?;
    let version = wanted_by.first().map_or("0", |(_, version)| version.as_str()).to_owned();
    if let Some(meta) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("name".into(), json!(key.name));
        if !key.namespace.is_empty() {
            meta.insert("namespace".into(), json!(key.namespace));
        }
        meta.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
        meta.insert("resourceVersion".into(), json!(version));
        meta.insert("creationTimestamp".into(), json!(token::time(crate::sys::clock::now())));
    }
    let Some(object) = Object::new(&key.resource, body) else {
        return Ok(failed(Failure::bad_request("the object has no metadata")));
    };
    let mut scopes: Vec<ScopeId> = wanted_by.into_iter().map(|(id, _)| id).collect();
    if key.resource.ends_with("/events") || scopes.is_empty() {
        scopes.push(writer.scope(&event_scope(&key.resource))?);
    }
    writer.put_local(&scopes, &object)?;
    writer.push_change(&NewChange {
        kind: ChangeKind::Create,
        key: key.clone(),
        uid: object.uid.clone(),
        subresource: String::new(),
        author: String::new(),
        base: None,
        body: Some(object.body.to_string().into_bytes()),
    })?;
    let answer = object.body.clone();
    edits.push(Edit { kind: WatchKind::Added, object: Arc::new(object) });
    Ok(Found::Done(code, Box::new(answer)))
}

/// The lists that a new object belongs to, with their versions: it must be in them after a reboot.
fn scopes_for(writer: &Writer, key: &ObjectKey, body: &Value) -> Result<Vec<(ScopeId, String)>, CacheError> {
    let mut scopes = Vec::new();
    for scope in writer.scopes_over(&key.resource, &key.namespace)? {
        let wanted = Wanted {
            identity: scope.key.identity,
            resource: scope.key.resource,
            namespace: scope.key.namespace,
            labels: scope.key.labels.parse().unwrap_or_else(|_| LabelSelector::everything()),
            fields: scope.key.fields.parse().unwrap_or_else(|_| FieldSelector::everything()),
        };
        let object =
            Object { key: key.clone(), uid: String::new(), version: String::new(), body: body.clone() };
        if wanted.matches(&object) {
            scopes.push((scope.id, scope.version));
        }
    }
    Ok(scopes)
}

/// An object that is known here is replaced.
pub fn replace(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    key: &ObjectKey,
    body: Value,
) -> Result<Found, CacheError> {
    let Some((_, known)) = writer.object(key)? else { return missing(writer, key) };
    let object = Object { body: settle(body, &known.body, ""), ..known.clone() };
    writer.put_local(&[], &object)?;
    keep_change(writer, "", key, "", &known, &object)?;
    let answer = object.body.clone();
    edits.push(Edit { kind: WatchKind::Modified, object: Arc::new(object) });
    Ok(Found::Done(StatusCode::OK, Box::new(answer)))
}

/// The last step of a pod's end: its containers are gone and the kubelet takes it off the list.
pub fn delete(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    key: &ObjectKey,
    input: &Input,
) -> Result<Found, CacheError> {
    let Some((_, known)) = writer.object(key)? else { return missing(writer, key) };
    if let Some(uid) = input.uid().filter(|uid| *uid != known.uid) {
        return Ok(conflict(key, uid, &known.uid));
    }
    let Input::Object(options) = input else { return missing(writer, key) };
    if options.get("gracePeriodSeconds").and_then(Value::as_i64) != Some(0) {
        let why = "the cloud is away and only it begins a deletion";
        return Ok(failed(Failure::unavailable(why, Some(5))));
    }
    let done = Found::Done(StatusCode::OK, Box::new(known.body.clone()));
    if let Some(created) = writer.waiting(ChangeKind::Create, key, "")? {
        // The cloud never heard of it, so it has nothing to delete.
        writer.drop_change(created.id)?;
        writer.drop_changes_of(key, &known.uid)?;
    } else if writer.waiting(ChangeKind::Delete, key, "")?.is_none() {
        keep_last_status(writer, key, &known)?;
        writer.push_change(&NewChange {
            kind: ChangeKind::Delete,
            key: key.clone(),
            uid: known.uid.clone(),
            subresource: String::new(),
            author: String::new(),
            base: None,
            body: Some(
                json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
                    "preconditions": {"uid": known.uid}})
                .to_string()
                .into_bytes(),
            ),
        })?;
    }
    let has_finalizers =
        known.body.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
    if !has_finalizers {
        writer.remove(key)?;
        edits.push(Edit { kind: WatchKind::Deleted, object: Arc::new(known) });
    }
    Ok(done)
}

/// The status is told before the deletion: a Job counts its pods by it. Its difference is computed
/// now, for the object will not be there later.
fn keep_last_status(writer: &Writer, key: &ObjectKey, known: &Object) -> Result<(), CacheError> {
    for waiting in writer.patches(key, "status")? {
        end_change(writer, &waiting, known)?;
    }
    Ok(())
}

/// Fixes what a change will send to what it is now, whatever becomes of the object.
fn end_change(writer: &Writer, waiting: &Change, now: &Object) -> Result<(), CacheError> {
    if waiting.what.body.is_some() || waiting.what.uid != now.uid {
        return Ok(());
    }
    let base = waiting.what.base.as_deref().unwrap_or_default();
    let base: Value = serde_json::from_slice(base)
        .map_err(|source| CacheError::Body { key: now.key.to_string(), source })?;
    match outbox::told(&waiting.what, &base, &now.body)? {
        Some(patch) => writer.rewrite_change(waiting.id, patch.to_string().as_bytes()),
        None => writer.drop_change(waiting.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Cache, Change, ScopeKey};
    use crate::kube::patch::PatchType;

    const ONE: &str = "system:serviceaccount:ns:one/u1";
    const TWO: &str = "system:serviceaccount:ns:two/u2";

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
                let scope = ScopeKey { identity: identity.into(), ..event_scope("v1/pods") };
                let scope = writer.scope(&scope)?;
                writer.put(scope, &object)?;
                writer.note_written(identity, &status_right(&pod()))?;
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
                _ => status(writer, &mut edits, author, &pod(), &input),
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

    #[tokio::test]
    async fn what_each_tells_is_kept_apart_and_kubelet_waits_for_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder).await;
        assert!(tell(&cache, ONE, says("reason")).await.is_ok());
        assert!(tell(&cache, ONE, says("message")).await.is_ok());
        assert_eq!(tell(&cache, TWO, says("hostIP")).await, Err(503), "another's waits");
        assert_eq!(changes(&cache).await.len(), 1);
        assert!(tell(&cache, "", says("podIP")).await.is_ok());
        assert_eq!(tell(&cache, ONE, says("hostIP")).await, Err(503), "kubelet's waits now");
        let found = changes(&cache).await;
        assert_eq!(found.iter().map(|c| c.what.author.as_str()).collect::<Vec<_>>(), [ONE, ""]);
        let sent: Value = serde_json::from_slice(found[0].what.body.as_deref().unwrap()).unwrap();
        assert_eq!(sent["status"], json!({"reason": "yes", "message": "yes"}), "nothing of kubelet's");
        let base = serde_json::from_slice(found[1].what.base.as_deref().unwrap()).unwrap();
        let now = cache.read(|reader| reader.object(&pod())).await.unwrap().unwrap().body;
        let sent = outbox::told(&found[1].what, &base, &now).unwrap().unwrap();
        assert_eq!(sent["status"], json!({"podIP": "yes"}), "nothing of the client's");
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
        assert_eq!(outbox::with_status_of(&after, &before), before);
    }

    #[tokio::test]
    async fn a_right_to_tell_is_of_one_namespace_and_can_be_lost() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder).await;
        let has = async |namespace: &'static str| {
            let right = status_right(&ObjectKey { namespace: namespace.into(), ..pod() });
            cache.commit(move |writer| writer.has_written(ONE, &right)).await.unwrap()
        };
        assert_eq!((has("ns").await, has("other").await), (true, false));
        cache.commit(|writer| writer.forget_written(ONE, &status_right(&pod()))).await.unwrap();
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
            let scope = writer.scope(&event_scope(&slice.key.resource))?;
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
}
