//! Statuses that clients other than kubelet tell while the cloud is away: who may, what of it counts, and what of it the
//! cloud is told.
//!
//! Each is told in its author's own name, with the author's own token, and says nothing but what the author said.

use serde_json::{Map, Value, json};

use super::apply::{Found, edit_by, failed};
use super::difference::{beside_status, difference};
use super::input::Input;
use super::token;
use super::watch::Edit;
use crate::cache::{Author, CacheError, Change, ChangeKind, NewChange, Object, ObjectKey, Right, Writer};
use crate::kube::patch::{self, PatchType};
use crate::kube::status::Failure;
use crate::kube::{meta, schema};

/// Changes of one status that wait at the most before clients must wait too. Kubelet waits for nobody; where it and a
/// client tell by turns, each turn is a change of its own.
const TURNS: usize = 32;

/// Why nobody could tell it later.
pub const NO_TOKEN: &str = "no token of this pod is known by which the cloud could be told";

/// The status of an object, told by a client other than kubelet: what it has read, and what the cloud has let it write.
/// It is told to the cloud in the client's own name, so its token must be known.
pub fn tell(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    identity: &str,
    key: &ObjectKey,
    input: &Input,
) -> Result<Found, CacheError> {
    let refuse = |why: &str| Ok(failed(Failure::unavailable(format!("the cloud is away and {why}"))));
    if !writer.has_read(identity, key)? {
        return refuse("this client never read the object while it was there");
    }
    if !writer.has_written(identity, &right(key))? {
        return refuse("it never let this client write such a status while it was there");
    }
    let Some(pod) = PodIdentity::of(identity) else {
        return refuse("only pods of this node may tell a status here");
    };
    if !pod.may_tell(writer, identity)? {
        return refuse(NO_TOKEN);
    }
    edit_by(writer, edits, &Author::Client(identity.to_owned()), key, "status", input)
}

/// To tell the status of such objects; of events, to make them.
pub fn right(key: &ObjectKey) -> Right {
    let subresource = if key.resource.ends_with("/events") { "" } else { "status" };
    Right {
        resource: key.resource.clone(),
        namespace: key.namespace.clone(),
        subresource: subresource.to_owned(),
    }
}

/// Why a client must wait with a status, of which `told` waits for the cloud.
pub fn why_full(
    writer: &Writer,
    key: &ObjectKey,
    told: &[Change],
) -> Result<Option<&'static str>, CacheError> {
    if told.len() >= TURNS {
        return Ok(Some("the cloud is away and too much waits that was told of this object"));
    }
    let made_here = writer.waiting(ChangeKind::Create, key, "")?.is_some();
    Ok(made_here.then_some("the cloud is away and has not heard of this object yet"))
}

/// A service account in a pod, as the identity of its token says it.
pub struct PodIdentity {
    pub namespace: String,
    pub account: String,
    pub uid: String,
}

impl PodIdentity {
    /// `None` of any other identity.
    pub fn of(identity: &str) -> Option<Self> {
        let (account, uid) = identity.strip_prefix("system:serviceaccount:")?.split_once('/')?;
        let (namespace, account) = account.split_once(':')?;
        let own = str::to_owned;
        (!uid.is_empty()).then(|| Self { namespace: own(namespace), account: own(account), uid: own(uid) })
    }

    /// Whether a token is known by which the cloud can be told in the name of `identity`, which is this one's.
    ///
    /// # Errors
    /// The cache's.
    pub fn may_tell(&self, writer: &Writer, identity: &str) -> Result<bool, CacheError> {
        let tokens = writer.tokens_of(&self.namespace, &self.account, &self.uid)?;
        Ok(token::to_tell_with(&tokens, &writer.purposes(identity)?).is_some())
    }
}

/// What of the metadata a client's write would change that is not taken here, if the cloud might take it.
pub fn not_taken(key: &ObjectKey, known: &Value, input: &Input, wish: &Value) -> Option<&'static str> {
    let of = |object: &Value, field: &str| {
        let said = object.pointer(&format!("/metadata/{field}")).cloned().unwrap_or_default();
        if said == json!({}) || said == json!([]) { Value::Null } else { said }
    };
    let mut fields = ["annotations", "labels", "finalizers"].into_iter();
    match input {
        // Of what is applied the status alone is told, and only what it names is meant.
        Input::Apply(_, applied) => fields.find(|field| {
            let (said, is) = (of(applied, field), of(known, field));
            match (&said, &is) {
                (Value::Object(said), Value::Object(is)) => said.iter().any(|(k, v)| is.get(k) != Some(v)),
                _ => !said.is_null() && said != is,
            }
        }),
        // An object without them says nothing of them.
        _ => fields.find(|field| {
            let is_said = !matches!(input, Input::Object(object) if of(object, field).is_null());
            is_said && !beside_status(key).contains(field) && of(wish, field) != of(known, field)
        }),
    }
}

/// Whether somebody has told the cloud something else since `what`, which says `patch`, was put off: what it touches
/// differs in the object as it was read anew, `now`, both from what it says and from what was there before. Told
/// nevertheless, it would bring the outage's state back.
pub fn is_overtaken(what: &NewChange, patch: &Value, now: &Object) -> bool {
    let base = what.base.as_deref().and_then(|base| serde_json::from_slice::<Value>(base).ok());
    let Some(base) = base.filter(|_| what.uid == now.uid) else { return false };
    let word = |field: &str| base.get(field).and_then(Value::as_str).unwrap_or_default();
    let is_known = schema::kind(word("apiVersion"), word("kind")).is_some();
    let kind = if is_known { PatchType::Strategic } else { PatchType::Merge };
    let says = |object: &Value| match what.kind {
        ChangeKind::Patch => patch::apply(kind, object, patch).ok(),
        ChangeKind::Apply => apply(object, patch, None).ok(),
        ChangeKind::Create | ChangeKind::Delete => None,
    };
    let undo = says(&base).and_then(|then| difference(&then, &base, &what.uid).ok()?);
    let undone = undo.and_then(|undo| patch::apply(kind, &now.body, &undo).ok());
    [undone, says(&now.body)].into_iter().all(|then| then.is_some_and(|then| then != now.body))
}

/// What a client has applied before with the same field manager, as far as it waits here.
pub fn applied_before(told: &[Change], author: &Author, input: &Input) -> Option<Value> {
    let Input::Apply(manager, _) = input else { return None };
    let own = |change: &&Change| {
        change.what.author == *author
            && change.what.manager.as_ref().is_some_and(|before| before.name == manager.name)
    };
    told.iter().rev().find(own).and_then(|change| serde_json::from_slice(change.what.body.as_deref()?).ok())
}

/// What of an applied configuration the cloud is told: the status, of this very object.
pub fn applied(body: &Value, known: &Object) -> Value {
    let field = |name: &str| body.get(name).or_else(|| known.body.get(name)).cloned().unwrap_or_default();
    let mut metadata = json!({"name": known.key.name, "uid": known.uid});
    if !known.key.namespace.is_empty() {
        metadata["namespace"] = json!(known.key.namespace);
    }
    json!({"apiVersion": field("apiVersion"), "kind": field("kind"), "metadata": metadata, "status": body["status"]})
}

/// What becomes of an object when a status is applied to it, as far as that can be known without its managed fields:
/// what is applied is so, what the same manager applied `before` and no more is gone, and the rest stays. The cloud is told
/// the configuration itself, and does the same by its own books.
///
/// # Errors
/// Why it does not fit.
pub fn apply(to: &Value, body: &Value, before: Option<&Value>) -> Result<Value, String> {
    let Some(status) = body.get("status").filter(|status| status.is_object()) else {
        return Err("what is applied has no `status`".to_owned());
    };
    for field in ["apiVersion", "kind"] {
        if body.get(field) != to.get(field) {
            return Err(format!("what is applied has another `{field}` than the object"));
        }
    }
    if meta::name(body).is_some_and(|name| Some(name) != meta::name(to)) {
        return Err("what is applied has another name than the object".to_owned());
    }
    let mut object = to.clone();
    if let Some(fields) = object.as_object_mut() {
        let old = fields.entry("status").or_insert_with(|| Value::Object(Map::new()));
        if let Some(before) = before.and_then(|before| before.get("status")) {
            prune(old, before, status);
        }
    }
    let word = |field: &str| to.get(field).and_then(Value::as_str).unwrap_or_default();
    if schema::kind(word("apiVersion"), word("kind")).is_some() {
        return patch::apply(PatchType::Strategic, &object, &json!({ "status": status }))
            .map_err(|e| e.to_string());
    }
    merge(&mut object["status"], status);
    Ok(object)
}

/// Takes away what was applied before and is not any more.
fn prune(now: &mut Value, before: &Value, after: &Value) {
    let (Some(now), Some(before)) = (now.as_object_mut(), before.as_object()) else { return };
    for (key, old) in before {
        match (now.get_mut(key), after.get(key)) {
            (Some(_), None) => drop(now.remove(key)),
            (Some(now), Some(after)) => prune(now, old, after),
            (None, _) => {}
        }
    }
}

/// Objects are merged, lists replaced, but for conditions: those are told apart by their type, whoever tells them.
fn merge(now: &mut Value, applied: &Value) {
    let (Value::Object(fields), Value::Object(more)) = (&mut *now, applied) else {
        *now = applied.clone();
        return;
    };
    for (key, value) in more {
        let old = fields.entry(key.as_str()).or_insert(Value::Null);
        match (&mut *old, value) {
            (Value::Array(all), Value::Array(new)) if key == "conditions" => merge_conditions(all, new),
            _ => merge(old, value),
        }
    }
}

fn merge_conditions(all: &mut Vec<Value>, new: &[Value]) {
    for condition in new {
        let kind = condition.get("type");
        match all.iter_mut().find(|old| kind.is_some() && old.get("type") == kind) {
            Some(old) => merge(old, condition),
            None => all.push(condition.clone()),
        }
    }
}
