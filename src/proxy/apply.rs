//! Writes as jobs in the cache: what each does to the objects kept, and what it leaves to be told to
//! the cloud. All of a job is on disk, or nothing.

use http::StatusCode;
use serde_json::{Value, json};

use super::difference::with_status_of;
use super::endpoints;
use super::input::Input;
use super::replay::Wanted;
use super::statuses;
use super::token;
use super::waiting::{keep_applied, keep_change, keep_last_status};
use super::watch::Edit;
use crate::cache::version;
use crate::cache::{Author, CacheError, ChangeKind, NewChange, Object, ObjectKey, ScopeId, Writer};
use crate::kube::status::Failure;
use crate::kube::{FieldSelector, GroupVersionResource, LabelSelector};

/// Events kept for `edge pod describe`.
pub const EVENTS_KEPT: usize = 1000;
/// Whose readings the events of this node are: edge's own.
const EVENT_KEEPER: &str = "edge:events";

/// What an API server says to whoever writes what was changed since he read it.
const STALE: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

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

/// The cloud has been told of an object that was made here: what it has is kept for those who read it, and no longer for
/// edge's own sake. An event is.
pub(super) fn let_go(writer: &mut Writer, key: &ObjectKey) -> Result<(), CacheError> {
    if key.resource.ends_with("/events") {
        return Ok(());
    }
    let Some((_, object)) = writer.object(key)? else { return Ok(()) };
    let scope = writer.scope(&event_scope(&key.resource))?;
    writer.take(scope, &object)
}

pub(super) fn failed(failure: Failure) -> Found {
    Found::Failed(Box::new(failure))
}

pub(super) fn missing(writer: &Writer, key: &ObjectKey) -> Result<Found, CacheError> {
    let gvr = gvr(key);
    // Of pods it is kubelet that writes, and to that of its own node.
    let is_known_absent = key.resource.ends_with("/events")
        || writer.waiting(ChangeKind::Delete, key, "")?.is_some()
        || (key.resource == "v1/pods" && writer.knows_own_pods()?);
    if is_known_absent {
        return Ok(failed(Failure::not_found(&gvr.group, &gvr.resource, &key.name)));
    }
    let why = format!("the cloud is away and {key} was never read while it was there");
    Ok(failed(Failure::unavailable(why)))
}

fn gvr(key: &ObjectKey) -> GroupVersionResource {
    // What has no version is no resource of Kubernetes'; the words of a refusal are all that it is for.
    key.resource.parse().unwrap_or_else(|_| GroupVersionResource::new("", "", &key.resource))
}

/// Why a write of `author` is not about the object that is here: another has come in its place, or its author has not seen
/// what it is now.
fn conflict(author: &Author, known: &Object, input: &Input) -> Option<Found> {
    let key = &known.key;
    let why = if let Some(uid) = input.uid().filter(|uid| *uid != known.uid) {
        format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", known.uid)
    } else {
        input.version().filter(|version| !is_current(version, author, known))?;
        STALE.to_owned()
    };
    Some(failed(Failure::conflict(&gvr(key).group, &gvr(key).resource, &key.name, &why)))
}

/// Whether who names this version has seen all of `known`: it is the one that he is shown, or one that the cloud gave
/// after it, of which nothing is kept here. Heartbeats are such, which stay out of the file.
fn is_current(version: &str, author: &Author, known: &Object) -> bool {
    let shown = known.version_for(author.identity());
    let of_cloud = |text: &str| text.parse::<u64>().ok().filter(|_| version::given(text).is_none());
    version == shown || of_cloud(version).zip(of_cloud(shown)).is_some_and(|(version, shown)| version > shown)
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
    if let Some(conflict) = conflict(author, &known, input) {
        return Ok(conflict);
    }
    let answer = |object: &Object| {
        Found::Done(StatusCode::OK, Box::new(object.clone().shown_to(author.identity()).body))
    };
    let told = writer.patches(key, subresource)?;
    let before = statuses::applied_before(&told, author, input);
    let wish = match input.apply(&known.body, before.as_ref()) {
        Ok(wish) if wish.is_object() => wish,
        Ok(_) => return Ok(failed(Failure::bad_request("this is no object"))),
        Err(why) => return Ok(failed(Failure::bad_request(why))),
    };
    let left = match author {
        Author::Client(_) => statuses::not_taken(key, &known.body, input, &wish),
        Author::Node => None,
    };
    let edited = match author {
        Author::Client(_) => with_status_of(key, &known.body, &wish),
        Author::Node => settle(wish, &known.body, subresource),
    };
    if edited == known.body {
        return Ok(match left {
            Some(field) => {
                let why = format!("the cloud is away and only it can say whether a status brings `{field}`");
                failed(Failure::unavailable(why))
            }
            None => answer(&known),
        });
    }
    if *author != Author::Node
        && let Some(why) = statuses::why_full(writer, key, &told)?
    {
        return Ok(failed(Failure::unavailable(why)));
    }
    let object = Object { body: edited, ..known.clone() };
    // The cloud has the like already, or it waits for it.
    if writer.is_heartbeat(&object, &known)? {
        return Ok(answer(&object));
    }
    let object = writer.changed(&known, object.body)?;
    let entered = scopes_for(writer, &object, Some(&known))?;
    writer.put_local(&entered, &object)?;
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
    let answer = answer(&object);
    edits.push(Edit::modified(known, object));
    Ok(answer)
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
    if let Some(meta) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("name".into(), json!(key.name));
        if !key.namespace.is_empty() {
            meta.insert("namespace".into(), json!(key.namespace));
        }
        meta.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
        meta.remove("resourceVersion");
        meta.insert("creationTimestamp".into(), json!(token::time(crate::sys::clock::now())));
    }
    let Some(object) = Object::new(&key.resource, body) else {
        return Ok(failed(Failure::bad_request("the object has no metadata")));
    };
    let object = writer.changed(&object, object.body.clone())?;
    let mut scopes = scopes_for(writer, &object, None)?;
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
    edits.push(Edit::added(object));
    Ok(Found::Done(code, Box::new(answer)))
}

/// The lists that an object belongs to now, and did not `before`: it must be in them after a reboot. What belongs to a list
/// no more stays there, where only what matches is read.
fn scopes_for(writer: &Writer, object: &Object, before: Option<&Object>) -> Result<Vec<ScopeId>, CacheError> {
    let mut scopes = Vec::new();
    for scope in writer.scopes_over(&object.key.resource, &object.key.namespace)? {
        let wanted = Wanted {
            identity: scope.key.identity,
            resource: scope.key.resource,
            namespace: scope.key.namespace,
            labels: scope.key.labels.parse().unwrap_or_else(|_| LabelSelector::everything()),
            fields: scope.key.fields.parse().unwrap_or_else(|_| FieldSelector::everything()),
        };
        if wanted.matches(object) && !before.is_some_and(|before| wanted.matches(before)) {
            scopes.push(scope.id);
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
    if let Some(conflict) = conflict(&Author::Node, &known, &Input::Object(body.clone())) {
        return Ok(conflict);
    }
    let object = writer.changed(&known, settle(body, &known.body, ""))?;
    writer.put_local(&[], &object)?;
    keep_change(writer, &Author::Node, key, "", &known, &object)?;
    let answer = object.body.clone();
    edits.push(Edit::modified(known, object));
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
    if let Some(conflict) = conflict(&Author::Node, &known, input) {
        return Ok(conflict);
    }
    let Input::Object(options) = input else { return missing(writer, key) };
    if options.get("gracePeriodSeconds").and_then(Value::as_i64) != Some(0) {
        let why = "the cloud is away and only it begins a deletion";
        return Ok(failed(Failure::unavailable(why)));
    }
    let done = Found::Done(StatusCode::OK, Box::new(known.body.clone()));
    let last = writer.changed(&known, known.body.clone())?;
    if let Some(created) = writer.waiting(ChangeKind::Create, key, "")? {
        // The cloud never heard of it, so it has nothing to delete.
        writer.drop_change(created.id)?;
        writer.drop_changes_of(key, &known.uid)?;
        // Nothing is left to tell those who have seen it.
        writer.outdate_versions()?;
    } else if writer.waiting(ChangeKind::Delete, key, "")?.is_none() {
        keep_last_status(writer, key, &known)?;
        writer.push_change(&NewChange {
            kind: ChangeKind::Delete,
            key: key.clone(),
            uid: known.uid.clone(),
            subresource: String::new(),
            author: Author::Node,
            manager: None,
            base: Some(last.body.to_string().into_bytes()),
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
        edits.push(Edit::deleted(last));
    }
    Ok(done)
}
