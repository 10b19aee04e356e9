//! What the cloud refuses clients to read. It is believed once it has said so twice: an API server that begins has not
//! read its roles yet, and refuses for a moment what it would not otherwise.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::decoder::Decoder;
use super::intake::{TakeWhole, is_status};
use super::replay::{bare, key_of};
use crate::cache::{CacheError, Denied, ObjectKey, Writer};
use crate::kube::{ResourceRequest, Verb};

/// How long an API server may take to read its roles; clients ask again more often than twice of this.
const SETTLED: Duration = Duration::from_secs(60);
/// Refusals that are remembered at the most; with more, all begin anew.
const REMEMBERED: usize = 4096;

/// What a client asks to read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Who.
    pub identity: String,
    /// A list, and not one object by its name. Who may do the one may not for that do the other.
    pub is_list: bool,
    /// What; the name is empty of a list that is not of one object alone.
    pub key: ObjectKey,
}

impl Asked {
    /// `None` of what says nothing about what may be read. A watch is a list by another verb: there are clients that read in
    /// no other way, and such that never list again once they watch. Who may list alone, and does, has that allowed in
    /// between.
    pub fn of(identity: &str, request: &ResourceRequest) -> Option<Self> {
        let is_list = match (request.verb, &request.subresource) {
            (Verb::Get, None) => false,
            (Verb::List | Verb::Watch, None) => true,
            _ => return None,
        };
        let key = ObjectKey { name: one_of(request).unwrap_or_default(), ..key_of(request) };
        Some(Self { identity: identity.to_owned(), is_list, key })
    }

    fn denied(&self) -> Denied<'_> {
        match (self.is_list, self.key.name.as_str()) {
            (true, "") => Denied::Lists,
            (true, name) => Denied::ListOf(name),
            (false, name) => Denied::Get(name),
        }
    }
}

/// The name of the one object that a request is about, as the API server finds it to judge it.
fn one_of(request: &ResourceRequest) -> Option<String> {
    let fields = request.query.field_selector.as_deref().unwrap_or_default().split(',');
    let named = fields.filter_map(|term| term.strip_prefix("metadata.name="));
    request.name.clone().or_else(|| named.map(|name| name.trim_start_matches('=').to_owned()).next())
}

/// What was refused since it was last allowed, and when first; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    first: Arc<Mutex<HashMap<Asked, Instant>>>,
}

impl Refusals {
    /// The cloud has answered it.
    pub fn allowed(&self, asked: &Asked) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).remove(asked);
    }

    /// The cloud refuses it at `now`. Gives whether it has for so long that it means it.
    pub fn refused(&self, asked: &Asked, now: Instant) -> bool {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.len() >= REMEMBERED && !first.contains_key(asked) {
            first.clear();
        }
        let since = *first.entry(asked.clone()).or_insert(now);
        now.saturating_duration_since(since) >= SETTLED
    }
}

/// An answer that refuses.
pub struct RefusalIntake {
    /// How to decode it.
    pub decoder: Decoder,
    /// What was asked.
    pub asked: Asked,
    /// What was refused before.
    pub refusals: Refusals,
}

impl TakeWhole for RefusalIntake {
    fn take(&mut self, writer: &mut Writer, bytes: Vec<u8>) -> Result<(), CacheError> {
        // By something in between it is no word of the cloud's.
        if !is_status(&self.decoder.value(&bytes)?, "Forbidden")
            || !self.refusals.refused(&self.asked, Instant::now())
        {
            return Ok(());
        }
        let Asked { identity, key, .. } = &self.asked;
        // Of the objects, and of their metadata alone.
        [&key.resource, &bare(&key.resource)]
            .into_iter()
            .try_for_each(|resource| writer.forbid(identity, resource, &key.namespace, self.asked.denied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::Request;

    fn asked(path: &str, query: &str) -> Option<Asked> {
        Asked::of("one", Request::parse("GET", path, query).resource().unwrap())
    }

    #[test]
    fn what_is_refused_is_believed_when_it_lasts() {
        let refusals = Refusals::default();
        let list = asked("/api/v1/namespaces/ns/secrets", "").unwrap();
        let one = asked("/api/v1/namespaces/ns/secrets/s", "").unwrap();
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert!(!refusals.refused(&list, begun) && !refusals.refused(&list, after(59)));
        assert!(refusals.refused(&list, after(60)) && refusals.refused(&list, after(61)));
        assert!(!refusals.refused(&one, after(60)), "it was refused for the first time");
        refusals.allowed(&list);
        assert!(!refusals.refused(&list, after(62)) && refusals.refused(&one, after(120)));
        for n in 0..2 * REMEMBERED {
            let key = ObjectKey { name: n.to_string(), ..one.key.clone() };
            refusals.refused(&Asked { key, ..one.clone() }, begun);
        }
        assert!(refusals.first.lock().unwrap().len() <= REMEMBERED);
    }

    #[test]
    fn it_is_said_of_what_was_asked_and_of_no_more() {
        let at = "/api/v1/namespaces/ns/secrets";
        for (path, query, denied) in [
            (at, "", Some(Denied::Lists)),
            (at, "labelSelector=a%3Db", Some(Denied::Lists)),
            (at, "fieldSelector=metadata.name%3Ds", Some(Denied::ListOf("s"))),
            (&format!("{at}/s"), "", Some(Denied::Get("s"))),
            (&format!("{at}/s/x"), "", None),
            (at, "watch=true", Some(Denied::Lists)),
            (at, "watch=true&fieldSelector=metadata.name%3Ds", Some(Denied::ListOf("s"))),
        ] {
            let asked = asked(path, query);
            assert_eq!(asked.as_ref().map(Asked::denied), denied, "{path} {query}");
        }
    }
}
