//! Heartbeats while the cloud is away: in memory only, because a lease that is old is worth nothing
//! and one write every ten seconds wears a flash card out.

//!
//! One lease of a name for all pods of a service account, so that of the replicas of one operator one leads. Those of
//! others are not theirs to write: here nobody can judge whether they may.

use std::collections::HashMap;
use std::sync::Mutex;

use http::StatusCode;
use serde_json::{Value, json};

use super::caller::{Caller, NODE};
use super::input::Input;
use super::local::{Answer, Refused};
use super::replay::key_of;
use crate::cache::{Cache, FieldManager, ObjectKey, version};
use crate::kube::patch::{self, PatchType};
use crate::kube::status::Failure;
use crate::kube::{ResourceRequest, Verb, meta};

/// Leases of clients at once; whoever needs more has something else in mind.
const LIMIT: usize = 256;
/// Leases of one service account, or of one client without.
const LIMIT_EACH: usize = 16;
/// Bytes of a lease at the most.
const SIZE: usize = 16 << 10;

/// Leases by whose they are and by name.
#[derive(Debug, Default)]
pub struct Leases {
    held: Mutex<HashMap<(String, ObjectKey), Held>>,
}

#[derive(Clone, Debug)]
struct Held {
    lease: Value,
    /// Who applied it last.
    manager: Option<String>,
}

impl Leases {
    /// Answers a request about a lease.
    ///
    /// # Errors
    /// The Status to answer instead.
    pub async fn answer(
        &self,
        cache: &Cache,
        caller: &Caller,
        request: &ResourceRequest,
        input: &Input,
    ) -> Answer {
        let mut key = key_of(request);
        if let (Verb::Create, Input::Object(lease)) = (request.verb, input) {
            meta::name(lease).unwrap_or_default().clone_into(&mut key.name);
        }
        let (identity, wanted) = (caller.identity(), key.clone());
        let slot = (holder(&identity).to_owned(), key);
        let is_held = self.held.lock().is_ok_and(|held| held.contains_key(&slot));
        let read =
            if is_held { None } else { cache.read(move |reader| reader.get(&identity, &wanted)).await? };
        let Ok(mut held) = self.held.lock() else { return Err(no_body()) };
        // Whoever wrote meanwhile was first.
        let before = match (held.get(&slot), read) {
            (Some(before), _) => Some(before.clone()),
            (None, Some(read)) => Some(Held { lease: read.body, manager: None }),
            (None, None) => None,
        };
        let code = match (request.verb, &before) {
            (Verb::Get, Some(before)) => return Ok((StatusCode::OK, before.lease.clone())),
            (_, None) if request.verb == Verb::Create || matches!(input, Input::Apply(..)) => {
                StatusCode::CREATED
            }
            _ => StatusCode::OK,
        };
        let (lease, manager) = written(request, &slot, before.as_ref(), input)?;
        if lease.to_string().len() > SIZE {
            return Err(Failure::too_large(format!("limit of a lease is {SIZE}")).into());
        }
        if !held.contains_key(&slot) {
            refuse_more(&held, &slot.0)?;
        }
        held.insert(slot, Held { lease: lease.clone(), manager });
        Ok((code, lease))
    }

    /// Forgets all, when the cloud is back and has the true ones.
    pub fn clear(&self) {
        if let Ok(mut held) = self.held.lock() {
            held.clear();
        }
    }
}

/// Whose leases a caller writes: those of its service account, whichever pod it is.
fn holder(identity: &str) -> &str {
    match identity.split_once('/') {
        Some((account, _)) if account.starts_with("system:serviceaccount:") => account,
        _ => identity,
    }
}

/// Kubelet's are not counted: nothing of another client's is in their way.
fn refuse_more(held: &HashMap<(String, ObjectKey), Held>, holder: &str) -> Result<(), Refused> {
    let of_others = held.keys().filter(|(of, _)| of != NODE).count();
    let own = held.keys().filter(|(of, _)| of == holder).count();
    if holder != NODE && (own >= LIMIT_EACH || of_others >= LIMIT) {
        return Err(Failure::unavailable("too many leases").into());
    }
    Ok(())
}

/// The lease after a write, and the field manager that applied it.
fn written(
    request: &ResourceRequest,
    (holder, key): &(String, ObjectKey),
    before: Option<&Held>,
    input: &Input,
) -> Result<(Value, Option<String>), Refused> {
    let gvr = &request.gvr;
    let conflict = |why: &str| Refused::from(Failure::conflict(&gvr.group, &gvr.resource, &key.name, why));
    let bad = |why: String| Refused::from(Failure::bad_request(why));
    // Kubelet is the only one that writes its own, and the cache may be an hour behind what it knows of it.
    if holder != NODE
        && let (Some(before), Some(wanted)) = (before, input.version())
        && before.lease.pointer("/metadata/resourceVersion").and_then(Value::as_str) != Some(wanted)
    {
        return Err(conflict("the object has been modified; apply your changes to its latest version"));
    }
    let base = before.map(|before| &before.lease);
    let (lease, manager) = match (request.verb, input, base) {
        (_, Input::Apply(FieldManager { name, force }, value), _) => {
            let merged = patch::apply(PatchType::Merge, base.unwrap_or(&json!({})), value)
                .map_err(|why| bad(why.to_string()))?;
            let other = before.and_then(|b| b.manager.as_ref()).filter(|manager| *manager != name);
            if let Some(other) = other
                && !force
                && base != Some(&merged)
            {
                return Err(conflict(&format!("Apply failed with a conflict with `{other}`")));
            }
            (merged, Some(name.clone()))
        }
        (Verb::Create, _, Some(_)) => {
            return Err(Failure::already_exists(&gvr.group, &gvr.resource, &key.name).into());
        }
        (Verb::Create, Input::Object(lease), None) => (lease.clone(), None),
        (Verb::Create, _, None) => return Err(no_body()),
        (_, _, None) => return Err(Failure::not_found(&gvr.group, &gvr.resource, &key.name).into()),
        (_, _, Some(lease)) => (input.apply(lease, None).map_err(bad)?, None),
    };
    if !lease.is_object() {
        return Err(no_body());
    }
    let version = match (holder.as_str(), base) {
        (NODE, Some(lease)) => {
            lease.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned)
        }
        (NODE, None) => None,
        _ => Some(next_version(base)),
    };
    Ok((named(lease, base, version.as_deref().unwrap_or("0")), manager))
}

/// A version that was never before, also not before a restart.
fn next_version(before: Option<&Value>) -> String {
    version::next(None, before.and_then(meta::resource_version).and_then(version::given)).to_string()
}

/// A lease with the names that a server gives: those it had, or new ones.
fn named(mut lease: Value, before: Option<&Value>, version: &str) -> Value {
    if let Some(meta) = lease.get_mut("metadata").and_then(Value::as_object_mut) {
        let uid = before.and_then(|b| b.pointer("/metadata/uid")).cloned();
        meta.insert("uid".into(), uid.unwrap_or_else(|| json!(uuid::Uuid::new_v4().to_string())));
        meta.insert("resourceVersion".into(), json!(version));
    }
    lease
}

fn no_body() -> Refused {
    Refused::from(Failure::bad_request("a lease is made of a lease"))
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
