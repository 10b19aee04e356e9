//! Writes taken on this node while the cloud is away: applied, on disk, served back, and kept to
//! be told to the cloud. What is answered with success here is never dropped silently.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::{Notify, broadcast};

use super::answer::{self, Body};
use super::caller::Caller;
use super::decide::Local;
use super::lease::Leases;
use super::replay::{Wanted, key_of};
use super::token;
use super::watch::Edit;
use crate::cache::{Cache, CacheError, ChangeKind, NewChange, Object, ObjectKey, ScopeId, Writer};
use crate::kube::patch::{self, PatchType};
use crate::kube::status::Failure;
use crate::kube::stream::WatchKind;
use crate::kube::{Encoding, FieldSelector, LabelSelector, ResourceRequest, Verb, codec, meta};

/// Events that wait for the cloud at the most; of more, the oldest go.
const EVENTS: usize = 500;
/// Events kept for `edge pod describe`.
const EVENTS_KEPT: usize = 1000;
/// Whose readings the events of this node are: edge's own.
pub const EVENT_KEEPER: &str = "edge:events";

/// A write as it came.
#[derive(Debug)]
pub struct Write<'a> {
    /// What it is about.
    pub request: &'a ResourceRequest,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body.
    pub body: &'a Bytes,
    /// In which encoding the client wants the answer.
    pub encoding: Encoding,
}

/// Takes writes; cheap to clone.
#[derive(Clone, Debug)]
pub struct LocalWrites {
    cache: Cache,
    edits: broadcast::Sender<Edit>,
    leases: Arc<Leases>,
    /// Told after each change that waits for the cloud.
    waiting: Arc<Notify>,
}

/// What a job in the cache found.
enum Found {
    /// Done; the object after it, with the code to answer.
    Done(StatusCode, Box<Value>),
    /// Not done; the Status to answer.
    Failed(Box<Failure>),
}

impl LocalWrites {
    /// Writes into `cache`, tells `edits` and wakes `waiting`.
    pub fn new(cache: Cache, edits: broadcast::Sender<Edit>, waiting: Arc<Notify>) -> Self {
        Self { cache, edits, leases: Arc::default(), waiting }
    }

    /// Answers a write.
    pub async fn answer(&self, local: Local, caller: &Caller, write: Write<'_>) -> Response<Body> {
        let encoding = write.encoding;
        let input = match Input::of(&write) {
            Ok(input) => input,
            Err(why) => return answer::failure(&Failure::bad_request(why), encoding),
        };
        let key = key_of(write.request);
        let done = match local {
            Local::Lease => self.leases.answer(&self.cache, caller, write.request, &input).await,
            Local::Edit => self.edit(key, write.request.subresource.clone(), input).await,
            Local::DeletePod => self.delete_pod(key, input).await,
            Local::MirrorPod => self.create_pod(key, input).await,
            Local::CsiNode => self.csi_node(key, write.request.verb, input).await,
            Local::Event => self.event(key, write.request.verb, input).await,
            Local::Token => return token::answer(&self.cache, write.request, &input, encoding).await,
            Local::Review => Ok((StatusCode::CREATED, review(input))),
        };
        match done {
            Ok((code, value)) => answer::object(code, &value, encoding),
            Err(Refused::Status(failure)) => answer::failure(&failure, encoding),
            Err(Refused::Cache(error)) => {
                tracing::error!(%error, "a change on this node was not kept");
                answer::unavailable(&format!("the cloud is away and {error}"), encoding)
            }
        }
    }

    async fn commit(
        &self,
        job: impl FnOnce(&mut Writer, &mut Vec<Edit>) -> Result<Found, CacheError> + Send + 'static,
    ) -> Result<(StatusCode, Value), Refused> {
        let (found, edits) = self
            .cache
            .commit(move |writer| {
                let mut edits = Vec::new();
                let found = job(writer, &mut edits)?;
                Ok((found, edits))
            })
            .await?;
        for edit in edits {
            // Nobody watches: nobody needs to know.
            let _ = self.edits.send(edit);
        }
        match found {
            Found::Done(code, value) => {
                self.waiting.notify_one();
                Ok((code, *value))
            }
            Found::Failed(status) => Err(Refused::Status(status)),
        }
    }

    /// Forgets heartbeats, when the cloud is back and has the true ones.
    pub fn forget_leases(&self) {
        self.leases.clear();
    }

    async fn edit(&self, key: ObjectKey, subresource: Option<String>, input: Input) -> Answer {
        let subresource = subresource.unwrap_or_default();
        self.commit(move |writer, edits| edit(writer, edits, &key, &subresource, &input)).await
    }

    async fn delete_pod(&self, key: ObjectKey, input: Input) -> Answer {
        self.commit(move |writer, edits| delete(writer, edits, &key, &input)).await
    }

    async fn create_pod(&self, mut key: ObjectKey, input: Input) -> Answer {
        let Input::Object(pod) = input else { return Err(refused("a pod is created from a pod")) };
        if meta::annotation(&pod, "kubernetes.io/config.mirror").is_none() {
            return Err(refused("the cloud is away and only it creates pods"));
        }
        meta::name(&pod).unwrap_or_default().clone_into(&mut key.name);
        self.commit(move |writer, edits| create(writer, edits, &key, pod, StatusCode::CREATED)).await
    }

    async fn csi_node(&self, mut key: ObjectKey, verb: Verb, input: Input) -> Answer {
        let Input::Object(object) = input else { return self.edit(key, None, input).await };
        meta::name(&object).unwrap_or_default().clone_into(&mut key.name);
        self.commit(move |writer, edits| match verb {
            Verb::Create => create(writer, edits, &key, object, StatusCode::CREATED),
            _ => replace(writer, edits, &key, object),
        })
        .await
    }

    async fn event(&self, mut key: ObjectKey, verb: Verb, input: Input) -> Answer {
        let Input::Object(mut event) = input else { return self.edit(key, None, input).await };
        if verb != Verb::Create {
            return Err(refused("the cloud is away"));
        }
        if key.name.is_empty() {
            key.name = event_name(&mut event);
        }
        self.commit(move |writer, edits| {
            let found = create(writer, edits, &key, event, StatusCode::CREATED)?;
            writer.bound_creations(&key.resource, EVENTS)?;
            writer.bound_objects(&key.resource, EVENTS_KEPT)?;
            Ok(found)
        })
        .await
    }
}

/// Keeps an event that went to the cloud, so that it can be shown here too.
pub fn keep_event(writer: &mut Writer, event: Object) -> Result<(), CacheError> {
    let scope = writer.scope(&event_scope(&event.key.resource))?;
    writer.put_local(&[scope], &event)?;
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

/// An answer on its way: code and object.
pub type Answer = Result<(StatusCode, Value), Refused>;

/// Why there is no success to answer.
#[derive(Debug)]
pub enum Refused {
    /// This Status says it.
    Status(Box<Failure>),
    /// The cache did not take it.
    Cache(CacheError),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Status(Box::new(failure))
    }
}

impl From<CacheError> for Refused {
    fn from(error: CacheError) -> Self {
        Self::Cache(error)
    }
}

fn refused(why: &str) -> Refused {
    Failure::unavailable(why, Some(5)).into()
}

/// What a write carries.
#[derive(Clone, Debug)]
pub enum Input {
    /// An object, or the options of a deletion; null if there is no body.
    Object(Value),
    /// A patch of some kind.
    Patch(PatchType, Value),
}

impl Input {
    fn of(write: &Write<'_>) -> Result<Self, String> {
        let kind = write.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if write.body.is_empty() {
            return Ok(Self::Object(Value::Null));
        }
        if kind == Encoding::Protobuf.content_type() {
            let decoded = codec::decode(write.body).and_then(codec::Decoded::whole);
            return Ok(Self::Object(decoded.map_err(|e| e.to_string())?));
        }
        let value = serde_json::from_slice(write.body).map_err(|e| format!("the body is not JSON: {e}"))?;
        if write.request.verb != Verb::Patch {
            return Ok(Self::Object(value));
        }
        match PatchType::of(kind) {
            Some(kind) => Ok(Self::Patch(kind, value)),
            None => Err(format!("a patch of type `{kind}` needs the cloud, which is away")),
        }
    }

    /// The object after this write.
    ///
    /// # Errors
    /// Why the patch does not fit.
    pub fn apply(&self, to: &Value) -> Result<Value, String> {
        match self {
            Self::Object(value) => Ok(value.clone()),
            Self::Patch(how, value) => patch::apply(*how, to, value).map_err(|e| e.to_string()),
        }
    }

    fn uid(&self) -> Option<&str> {
        match self {
            Self::Object(value) => {
                value.pointer("/preconditions/uid").or_else(|| value.pointer("/metadata/uid"))
            }
            Self::Patch(_, value) => value.pointer("/metadata/uid"),
        }
        .and_then(Value::as_str)
        .filter(|uid| !uid.is_empty())
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

fn conflict(key: &ObjectKey, wanted: &str, is: &str) -> Found {
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {is}");
    failed(Failure::conflict(&gvr(key).group, &gvr(key).resource, &key.name, &why))
}

fn edit(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    key: &ObjectKey,
    subresource: &str,
    input: &Input,
) -> Result<Found, CacheError> {
    let Some((_, known)) = writer.object(key)? else { return missing(writer, key) };
    if let Some(uid) = input.uid().filter(|uid| *uid != known.uid) {
        return Ok(conflict(key, uid, &known.uid));
    }
    let edited = match input.apply(&known.body) {
        Ok(edited) => settle(edited, &known.body, subresource),
        Err(why) => return Ok(failed(Failure::bad_request(why))),
    };
    if edited == known.body {
        return Ok(Found::Done(StatusCode::OK, Box::new(edited)));
    }
    let object = Object { body: edited, ..known.clone() };
    writer.put_local(&[], &object)?;
    keep_change(writer, key, subresource, &known, &object)?;
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

/// Edits of one object add up: the first keeps the cloud's object, later ones find it kept.
fn keep_change(
    writer: &Writer,
    key: &ObjectKey,
    subresource: &str,
    base: &Object,
    now: &Object,
) -> Result<(), CacheError> {
    if let Some(waiting) = writer.waiting(ChangeKind::Create, key, "")? {
        return writer.rewrite_change(waiting.id, now.body.to_string().as_bytes());
    }
    if let Some(waiting) = writer.waiting(ChangeKind::Patch, key, subresource)? {
        if waiting.what.uid == base.uid {
            return Ok(());
        }
        writer.drop_change(waiting.id)?;
    }
    writer.push_change(&NewChange {
        kind: ChangeKind::Patch,
        key: key.clone(),
        uid: base.uid.clone(),
        subresource: subresource.to_owned(),
        base: Some(base.body.to_string().into_bytes()),
        body: None,
    })?;
    Ok(())
}

fn create(
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

fn replace(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    key: &ObjectKey,
    body: Value,
) -> Result<Found, CacheError> {
    let Some((_, known)) = writer.object(key)? else { return missing(writer, key) };
    let object = Object { body: settle(body, &known.body, ""), ..known.clone() };
    writer.put_local(&[], &object)?;
    keep_change(writer, key, "", &known, &object)?;
    let answer = object.body.clone();
    edits.push(Edit { kind: WatchKind::Modified, object: Arc::new(object) });
    Ok(Found::Done(StatusCode::OK, Box::new(answer)))
}

/// The last step of a pod's end: its containers are gone and the kubelet takes it off the list.
fn delete(
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
    let Some(waiting) = writer.waiting(ChangeKind::Patch, key, "status")? else { return Ok(()) };
    let base = waiting.what.base.as_deref().unwrap_or_default();
    let base: Value =
        serde_json::from_slice(base).map_err(|source| CacheError::Body { key: key.to_string(), source })?;
    match super::outbox::difference(&base, &known.body, &known.uid)? {
        Some(patch) => writer.rewrite_change(waiting.id, patch.to_string().as_bytes()),
        None => writer.drop_change(waiting.id),
    }
}

/// Nobody whom the cloud has not cleared may use the kubelet's port.
fn review(input: Input) -> Value {
    let Input::Object(mut review) = input else { return Value::Null };
    let why = "the cloud is away";
    review["status"] = if meta::kind(&review) == Some("TokenReview") {
        json!({"authenticated": false, "error": why})
    } else {
        json!({"allowed": false, "reason": why})
    };
    review
}

fn event_name(event: &mut Value) -> String {
    if let Some(name) = meta::name(event).filter(|name| !name.is_empty()) {
        return name.to_owned();
    }
    let prefix = event.pointer("/metadata/generateName").and_then(Value::as_str).unwrap_or("event.");
    format!("{prefix}{}", &uuid::Uuid::new_v4().simple().to_string()[..10])
}

fn gvr(key: &ObjectKey) -> crate::kube::GroupVersionResource {
    let mut parts = key.resource.rsplitn(3, '/');
    let resource = parts.next().unwrap_or_default();
    let version = parts.next().unwrap_or_default();
    crate::kube::GroupVersionResource::new(parts.next().unwrap_or_default(), version, resource)
}
