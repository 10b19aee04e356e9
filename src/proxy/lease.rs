//! Heartbeats while the cloud is away: in memory only, because a lease that is old is worth nothing
//! and one write every ten seconds wears a flash card out.

use std::collections::HashMap;
use std::sync::Mutex;

use http::StatusCode;
use serde_json::{Value, json};

use super::caller::Caller;
use super::input::Input;
use super::local::{Answer, Refused};
use super::replay::key_of;
use crate::cache::{Cache, ObjectKey};
use crate::kube::patch::{self, PatchType};
use crate::kube::status::Failure;
use crate::kube::{ResourceRequest, Verb, meta};

/// Leases at once; whoever needs more has something else in mind.
const LIMIT: usize = 256;

/// Leases by who holds them and by name.
#[derive(Debug, Default)]
pub struct Leases {
    held: Mutex<HashMap<(String, ObjectKey), Value>>,
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
        let held = self.get(cache, caller, &key).await?;
        if let Input::Apply(_, value) = input {
            let code = if held.is_some() { StatusCode::OK } else { StatusCode::CREATED };
            // Nobody else has fields in a lease: what is applied is merged.
            let base = held.clone().unwrap_or_else(|| json!({}));
            let merged = patch::apply(PatchType::Merge, &base, value)
                .map_err(|why| Refused::from(Failure::bad_request(why.to_string())))?;
            return self.put(caller, key, named(merged, held.as_ref()), code);
        }
        match (request.verb, held) {
            (Verb::Create, Some(_)) => Err(Refused::from(Failure::already_exists(
                &request.gvr.group,
                &request.gvr.resource,
                &key.name,
            ))),
            (Verb::Create, None) => {
                let Input::Object(lease) = input else { return Err(no_body()) };
                self.put(caller, key, named(lease.clone(), None), StatusCode::CREATED)
            }
            (_, None) => {
                Err(Refused::from(Failure::not_found(&request.gvr.group, &request.gvr.resource, &key.name)))
            }
            (Verb::Get, Some(lease)) => Ok((StatusCode::OK, lease)),
            (_, Some(lease)) => {
                let edited =
                    input.apply(&lease, None).map_err(|why| Refused::from(Failure::bad_request(why)))?;
                self.put(caller, key, named(edited, Some(&lease)), StatusCode::OK)
            }
        }
    }

    /// Forgets all, when the cloud is back and has the true ones.
    pub fn clear(&self) {
        if let Ok(mut held) = self.held.lock() {
            held.clear();
        }
    }

    async fn get(&self, cache: &Cache, caller: &Caller, key: &ObjectKey) -> Result<Option<Value>, Refused> {
        let identity = caller.identity();
        let held = self.held.lock().ok().and_then(|held| held.get(&(identity.clone(), key.clone())).cloned());
        if held.is_some() {
            return Ok(held);
        }
        let key = key.clone();
        let read = cache.read(move |reader| reader.get(&identity, &key)).await?;
        Ok(read.map(|object| object.body))
    }

    fn put(&self, caller: &Caller, key: ObjectKey, lease: Value, code: StatusCode) -> Answer {
        let Ok(mut held) = self.held.lock() else { return Err(no_body()) };
        if held.len() >= LIMIT && !held.contains_key(&(caller.identity(), key.clone())) {
            return Err(Refused::from(Failure::unavailable("too many leases", Some(5))));
        }
        held.insert((caller.identity(), key), lease.clone());
        Ok((code, lease))
    }
}

/// A lease with the names that a server gives: those it had, or new ones.
fn named(mut lease: Value, before: Option<&Value>) -> Value {
    if let Some(meta) = lease.get_mut("metadata").and_then(Value::as_object_mut) {
        let old = |field: &str| before.and_then(|b| b.pointer(&format!("/metadata/{field}"))).cloned();
        let uid = old("uid").unwrap_or_else(|| json!(uuid::Uuid::new_v4().to_string()));
        meta.insert("uid".into(), uid);
        meta.insert("resourceVersion".into(), old("resourceVersion").unwrap_or_else(|| json!("0")));
    }
    lease
}

fn no_body() -> Refused {
    Refused::from(Failure::bad_request("a lease is made of a lease"))
}
