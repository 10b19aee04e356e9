//! Events told while the cloud is away: who may, how many, and in whose name.
//!
//! The node's are kubelet's and edge's own. Of another client they are taken where the cloud has let it make them, and told
//! with its own token.

use http::StatusCode;
use serde_json::Value;

use super::apply::{self, EVENTS_KEPT, Found, failed};
use super::input::Input;
use super::statuses::{self, PodIdentity};
use super::watch::Edit;
use crate::cache::{Author, CacheError, ChangeKind, ObjectKey, Writer};
use crate::kube::status::Failure;

/// Bytes of an event at the most.
pub const SIZE: usize = 64 << 10;
/// Events of the node that wait for the cloud at the most; of more, the oldest go.
const OF_NODE: usize = 500;
/// Events of one client that wait at the most; more are refused.
const OF_CLIENT: usize = 64;
/// Events of all clients that wait at the most; more are refused.
const OF_CLIENTS: usize = 256;

/// A new event.
pub fn create(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    author: &Author,
    key: &ObjectKey,
    event: Value,
) -> Result<Found, CacheError> {
    if let Author::Client(identity) = author {
        if let Some(refused) = refuse(writer, identity, key)? {
            return Ok(refused);
        }
        let (own, all) = writer.client_creations(&key.resource, identity)?;
        if own >= OF_CLIENT || all >= OF_CLIENTS {
            // Without a time to come back, which a client's only task for events would wait out.
            let why = "too many events wait for the cloud, which is away";
            return Ok(failed(Failure::too_many_requests(why, None)));
        }
    }
    let found = apply::create_by(writer, edits, author, key, event, StatusCode::CREATED)?;
    writer.bound_node_creations(&key.resource, OF_NODE)?;
    writer.bound_objects(&key.resource, EVENTS_KEPT)?;
    Ok(found)
}

/// An event that happened again. A client may say so of those that it made here itself; of what the cloud has already it
/// makes a new one.
pub fn edit(
    writer: &mut Writer,
    edits: &mut Vec<Edit>,
    author: &Author,
    key: &ObjectKey,
    input: &Input,
) -> Result<Found, CacheError> {
    let waiting = writer.waiting(ChangeKind::Create, key, "")?;
    let Author::Client(identity) = author else {
        return match waiting {
            Some(other) if other.what.author != Author::Node => apply::missing(writer, key),
            _ => apply::edit(writer, edits, key, "", input),
        };
    };
    if let Some(refused) = refuse(writer, identity, key)? {
        return Ok(refused);
    }
    let own = waiting.filter(|waiting| waiting.what.author == *author);
    let (Some(own), Some((_, known))) = (own, writer.object(key)?) else {
        return apply::missing(writer, key);
    };
    let edited = match input.apply(&known.body, None) {
        Ok(edited) if edited.is_object() => apply::settle(edited, &known.body, ""),
        Ok(_) => return Ok(failed(Failure::bad_request("this is no object"))),
        Err(why) => return Ok(failed(Failure::bad_request(why))),
    };
    let body = edited.to_string();
    if body.len() > SIZE {
        return Ok(failed(too_large()));
    }
    let object = writer.changed(&known, edited)?;
    let edited = object.body.clone();
    writer.put_local(&[], &object)?;
    writer.rewrite_change(own.id, body.as_bytes())?;
    edits.push(Edit::modified(known, object));
    Ok(Found::Done(StatusCode::OK, Box::new(edited)))
}

/// What is larger is no event.
pub fn too_large() -> Failure {
    Failure::too_large(format!("limit of an event is {SIZE}"))
}

/// Why a client's event is not taken.
fn refuse(writer: &Writer, identity: &str, key: &ObjectKey) -> Result<Option<Found>, CacheError> {
    let why = if !writer.has_written(identity, &statuses::right(key))? {
        "never let this client make events in this namespace while it was there"
    } else {
        match PodIdentity::of(identity) {
            None => "only pods of this node may tell events here",
            Some(pod) if !pod.may_tell(writer, identity)? => statuses::NO_TOKEN,
            Some(_) => return Ok(None),
        }
    };
    Ok(Some(failed(Failure::unavailable(format!("the cloud is away and {why}")))))
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
