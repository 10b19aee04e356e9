//! Writes taken on this node while the cloud is away: applied, on disk, served back, and kept to
//! be told to the cloud. What is answered with success here is never dropped silently.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Notify, broadcast};

use super::answer::{self, Body};
use super::apply::{self, Found};
use super::caller::Caller;
use super::decide::Local;
use super::events;
use super::input::Input;
use super::lease::Leases;
use super::replay::key_of;
use super::statuses;
use super::token;
use super::watch::Edit;
use crate::cache::{Author, Cache, CacheError, ObjectKey, Writer};
use crate::kube::status::Failure;
use crate::kube::{Encoding, ResourceRequest, Verb, meta};

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
    /// What was met that is newer than this edge.
    newer: Arc<Mutex<HashSet<String>>>,
}

impl LocalWrites {
    /// Writes into `cache`, tells `edits` and wakes `waiting`.
    pub fn new(cache: Cache, edits: broadcast::Sender<Edit>, waiting: Arc<Notify>) -> Self {
        Self { cache, edits, leases: Arc::default(), waiting, newer: Arc::default() }
    }

    /// Answers a write.
    pub async fn answer(&self, local: Local, caller: &Caller, write: Write<'_>) -> Response<Body> {
        let encoding = write.encoding;
        let (input, newer) = match Input::of(&write) {
            Ok(read) => read,
            Err(why) => return answer::failure(&Failure::bad_request(why), encoding),
        };
        if let Some(what) = newer {
            if !does_without(local) {
                let why = format!("the cloud is away, and this edge does not know {what}");
                return answer::unavailable(&why, encoding);
            }
            // Of others it would be without end.
            if *caller == Caller::Kubelet {
                self.note_newer(&what);
            }
        }
        if is_dry_run(&write, &input) {
            return answer::unavailable("the cloud is away and only it can say how a dry run ends", encoding);
        }
        let key = key_of(write.request);
        let done = match local {
            Local::Lease => self.leases.answer(&self.cache, caller, write.request, &input).await,
            Local::Edit => self.edit(key, write.request.subresource.clone(), input).await,
            Local::Status => self.status(key, caller.identity(), input).await,
            Local::DeletePod => self.delete_pod(key, input).await,
            Local::MirrorPod => self.create_pod(key, input).await,
            Local::CsiNode => self.csi_node(key, write.request.verb, input).await,
            Local::Event if write.body.len() > events::SIZE => Err(events::too_large().into()),
            Local::Event => self.event(author(caller), key, write.request.verb, input).await,
            Local::Token => return token::answer(&self.cache, write.request, &input, encoding).await,
            Local::Review => Ok((StatusCode::CREATED, review(input))),
        };
        match done {
            Ok((code, value)) => answer::object(code, &value, encoding),
            Err(Refused::Status(failure)) => answer::failure(&failure, encoding),
            Err(Refused::Cache(error)) => {
                // That the disk is full was said once, by the cache.
                if self.cache.trouble().is_none() {
                    tracing::error!(%error, "a change on this node was not kept");
                }
                answer::unavailable(&format!("the cloud is away and {error}"), encoding)
            }
        }
    }

    /// Says once what a newer kubelet says that is not taken here.
    fn note_newer(&self, what: &str) {
        if self.newer.lock().is_ok_and(|mut set| set.insert(what.to_owned())) {
            tracing::warn!(field = what, "kubelet is newer than this edge: offline it is taken without this");
        }
    }

    /// Keeps an event of edge's own, to be told to the cloud.
    pub async fn take_event(&self, event: Value) -> Result<(), CacheError> {
        let namespace = meta::namespace(&event).unwrap_or_default().to_owned();
        let name = meta::name(&event).unwrap_or_default().to_owned();
        let key = ObjectKey { resource: "v1/events".to_owned(), namespace, name };
        match self.event(Author::Node, key, Verb::Create, Input::Object(event)).await {
            Ok(_) => Ok(()),
            Err(Refused::Cache(error)) => Err(error),
            Err(Refused::Status(failure)) => Err(CacheError::Refused(failure.message)),
        }
    }

    /// Whoever watches is told as soon as it is on disk, also where the client that wrote it has gone meanwhile.
    async fn commit(
        &self,
        job: impl FnOnce(&mut Writer, &mut Vec<Edit>) -> Result<Found, CacheError> + Send + 'static,
    ) -> Result<(StatusCode, Value), Refused> {
        let job = move |writer: &mut Writer| {
            let mut edits = Vec::new();
            let found = job(writer, &mut edits)?;
            Ok((found, edits))
        };
        let (watchers, waiting) = (self.edits.clone(), self.waiting.clone());
        let tell = move |(found, edits): &mut (Found, Vec<Edit>)| {
            for edit in edits.drain(..) {
                // Nobody watches: nobody needs to know.
                let _ = watchers.send(edit);
            }
            if matches!(found, Found::Done(..)) {
                waiting.notify_one();
            }
        };
        match self.cache.commit_then(job, tell).await?.0 {
            Found::Done(code, value) => Ok((code, *value)),
            Found::Failed(status) => Err(Refused::Status(status)),
        }
    }

    /// Forgets heartbeats, when the cloud is back and has the true ones.
    pub fn forget_leases(&self) {
        self.leases.clear();
    }

    async fn edit(&self, key: ObjectKey, subresource: Option<String>, input: Input) -> Answer {
        let subresource = subresource.unwrap_or_default();
        self.commit(move |writer, edits| apply::edit(writer, edits, &key, &subresource, &input)).await
    }

    async fn status(&self, key: ObjectKey, identity: String, input: Input) -> Answer {
        self.commit(move |writer, edits| statuses::tell(writer, edits, &identity, &key, &input)).await
    }

    async fn delete_pod(&self, key: ObjectKey, input: Input) -> Answer {
        self.commit(move |writer, edits| apply::delete(writer, edits, &key, &input)).await
    }

    async fn create_pod(&self, mut key: ObjectKey, input: Input) -> Answer {
        let Input::Object(pod) = input else { return Err(refused("a pod is created from a pod")) };
        if meta::annotation(&pod, "kubernetes.io/config.mirror").is_none() {
            return Err(refused("the cloud is away and only it creates pods"));
        }
        meta::name(&pod).unwrap_or_default().clone_into(&mut key.name);
        self.commit(move |writer, edits| apply::create(writer, edits, &key, pod, StatusCode::CREATED)).await
    }

    async fn csi_node(&self, mut key: ObjectKey, verb: Verb, input: Input) -> Answer {
        let Input::Object(object) = input else { return self.edit(key, None, input).await };
        meta::name(&object).unwrap_or_default().clone_into(&mut key.name);
        self.commit(move |writer, edits| match verb {
            Verb::Create => apply::create(writer, edits, &key, object, StatusCode::CREATED),
            _ => apply::replace(writer, edits, &key, object),
        })
        .await
    }

    async fn event(&self, author: Author, mut key: ObjectKey, verb: Verb, input: Input) -> Answer {
        let mut event = match (verb, input) {
            (Verb::Create, Input::Object(event)) if event.is_object() => event,
            (Verb::Create, _) => return Err(Failure::bad_request("an event is made from an event").into()),
            (_, Input::Object(_)) => return Err(refused("the cloud is away")),
            (_, input) => {
                let job = move |writer: &mut Writer, edits: &mut Vec<Edit>| {
                    events::edit(writer, edits, &author, &key, &input)
                };
                return self.commit(job).await;
            }
        };
        if key.name.is_empty() {
            key.name = event_name(&mut event);
        }
        self.commit(move |writer, edits| events::create(writer, edits, &author, &key, event)).await
    }
}

/// Whether what is known here of a write is enough: of a question and a heartbeat nothing is kept, and an event tells what it
/// tells. Any other object would be kept, told and shown without a part of it; who writes it tries again.
fn does_without(local: Local) -> bool {
    matches!(local, Local::Token | Local::Review | Local::Lease | Local::Event)
}

/// Whose words a caller's are.
fn author(caller: &Caller) -> Author {
    match caller {
        Caller::Kubelet => Author::Node,
        Caller::Bearer(bearer) => Author::Client(bearer.identity()),
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

/// Whether nothing is to come of it, as its query says, or the options of a deletion do.
fn is_dry_run(write: &Write<'_>, input: &Input) -> bool {
    let in_options = write.request.verb == Verb::Delete
        && matches!(input, Input::Object(options) if options.get("dryRun").is_some_and(|d| !d.is_null()));
    in_options || !write.request.query.dry_run.is_empty()
}

fn refused(why: &str) -> Refused {
    Failure::unavailable(why).into()
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

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
