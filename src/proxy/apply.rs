//! Writes as jobs in the cache: what each does to the objects kept, and what it leaves to be told to
//! the cloud. All of a job is on disk, or nothing.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::endpoints;
use super::input::Input;
use super::replay::Wanted;
use super::statuses;
use super::token;
use super::watch::Edit;
use crate::cache::{
    Author, CacheError, Change, ChangeKind, FieldManager, NewChange, Object, ObjectKey, ScopeId, Writer,
};
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

pub(super) fn failed(failure: Failure) -> Found {
    Found::Failed(Box::new(failure))
}

pub(super) fn missing(writer: &Writer, key: &ObjectKey) -> Result<Found, CacheError> {
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
    edit_by(writer, edits, &Author::Node, key, subresource, input)
}

/// The same by anybody: of a client other than kubelet the status alone is taken.
pub(super) fn edit_by(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    author: &Author,
    key: &ObjectKey,
    subresource: &str,
    input: &Input,
) -> Result<Found, CacheError> {
    let Some((_, known)) = writer.object(key)? else { return missing(writer, key) };
    if let Some(uid) = input.uid().filter(|uid| *uid != known.uid) {
        return Ok(conflict(key, uid, &known.uid));
    }
    let told = writer.patches(key, subresource)?;
    let before = statuses::applied_before(&told, author, input);
    let edited = match (input.apply(&known.body, before.as_ref()), author) {
        (Ok(edited), _) if !edited.is_object() => {
            return Ok(failed(Failure::bad_request("this is no object")));
        }
        (Ok(edited), Author::Client(_)) => statuses::with_status_of(key, &known.body, &edited),
        (Ok(edited), Author::Node) => settle(edited, &known.body, subresource),
        (Err(why), _) => return Ok(failed(Failure::bad_request(why))),
    };
    if edited == known.body {
        return Ok(Found::Done(StatusCode::OK, Box::new(edited)));
    }
    if *author != Author::Node
        && let Some(why) = statuses::why_full(writer, key, &told)?
    {
        return Ok(failed(Failure::unavailable(why, Some(5))));
    }
    let object = Object { body: edited, ..known.clone() };
    // The cloud has the like already, or it waits for it.
    if writer.is_heartbeat(&object, &known)? {
        return Ok(Found::Done(StatusCode::OK, Box::new(object.body)));
    }
    writer.put_local(&[], &object)?;
    match input {
        Input::Apply(manager, body) => {
            let applied = statuses::applied(body, &known);
            keep_applied(writer, author, manager, key, subresource, &known, &applied)?;
        }
        _ => keep_change(writer, author, key, subresource, &known, &object)?,
    }
    // Addresses and readiness are kubelet's to say.
    if key.resource == "v1/pods" && *author == Author::Node {
        endpoints::follow(writer, edits, &object)?;
    }
    let answer = object.body.clone();
    edits.push(Edit { kind: WatchKind::Modified, object: Arc::new(object) });
    Ok(Found::Done(StatusCode::OK, Box::new(answer)))
}

/// An edited object keeps who it is; through `status` it keeps its spec too.
pub(super) fn settle(mut edited: Value, known: &Value, subresource: &str) -> Value {
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

/// Edits of one object by one author add up: the first keeps the cloud's object, later ones find it kept. What another
/// has told before ends with what it told, so that each is told in its author's name, and in their order.
fn keep_change(
    writer: &Writer,
    author: &Author,
    key: &ObjectKey,
    subresource: &str,
    base: &Object,
    now: &Object,
) -> Result<(), CacheError> {
    if let Some(waiting) = writer.waiting(ChangeKind::Create, key, "")? {
        return writer.rewrite_change(waiting.id, now.body.to_string().as_bytes());
    }
    let mut waiting = writer.patches(key, subresource)?;
    let last = waiting
        .pop_if(|last| last.what.author == *author && last.what.uid == base.uid && last.what.body.is_none());
    for one in &waiting {
        if one.what.author == *author && one.what.uid != base.uid {
            writer.drop_change(one.id)?;
        } else {
            end_change(writer, one, base)?;
        }
    }
    if last.is_some() {
        return Ok(());
    }
    writer.push_change(&NewChange {
        kind: ChangeKind::Patch,
        key: key.clone(),
        uid: base.uid.clone(),
        subresource: subresource.to_owned(),
        author: author.clone(),
        manager: None,
        base: Some(base.body.to_string().into_bytes()),
        body: None,
    })?;
    Ok(())
}

/// What is applied is all that its manager wants: the last of it is told, behind what others told before.
fn keep_applied(
    writer: &Writer,
    author: &Author,
    manager: &FieldManager,
    key: &ObjectKey,
    subresource: &str,
    base: &Object,
    applied: &Value,
) -> Result<(), CacheError> {
    for one in writer.patches(key, subresource)? {
        let own = one.what.author == *author;
        let replaced = one.what.manager.as_ref().is_some_and(|m| m.name == manager.name);
        if own && (replaced || one.what.uid != base.uid) {
            writer.drop_change(one.id)?;
        } else {
            end_change(writer, &one, base)?;
        }
    }
    writer.push_change(&NewChange {
        kind: ChangeKind::Apply,
        key: key.clone(),
        uid: base.uid.clone(),
        subresource: subresource.to_owned(),
        author: author.clone(),
        manager: Some(manager.clone()),
        base: None,
        body: Some(applied.to_string().into_bytes()),
    })?;
    Ok(())
}

/// A new object of the node's, with the names that a server gives.
pub fn create(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    key: &ObjectKey,
    body: Value,
    code: StatusCode,
) -> Result<Found, CacheError> {
    create_by(writer, edits, &Author::Node, key, body, code)
}

/// The same by anybody.
pub(super) fn create_by(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    author: &Author,
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
        author: author.clone(),
        manager: None,
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
    keep_change(writer, &Author::Node, key, "", &known, &object)?;
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
            author: Author::Node,
            manager: None,
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
pub(super) fn end_change(writer: &Writer, waiting: &Change, now: &Object) -> Result<(), CacheError> {
    if waiting.what.body.is_some() || waiting.what.uid != now.uid {
        return Ok(());
    }
    let base = waiting.what.base.as_deref().unwrap_or_default();
    let base: Value = serde_json::from_slice(base)
        .map_err(|source| CacheError::Body { key: now.key.to_string(), source })?;
    match statuses::told(&waiting.what, &base, &now.body)? {
        Some(patch) => writer.rewrite_change(waiting.id, patch.to_string().as_bytes()),
        None => writer.drop_change(waiting.id),
    }
}
