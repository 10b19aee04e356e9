//! What of an answer is kept, and as what: a plan made from the request and the answer's head.
//!
//! Reads no body: the intakes do, on the cache's thread.

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::caller::Caller;
use super::decoder::{Decoder, Extent};
use super::forward::Call;
use super::headers::encoding_of;
use super::intake::{DocumentIntake, EventIntake, Gathered, Single, SingleIntake, TokenIntake};
use super::listed::{LeftAlone, ListIntake, WatchIntake};
use super::record::{Client, Intake, Recording};
use super::refusals::{Asked, RefusalIntake};
use super::replay::{Wanted, bare, key_of};
use super::{ClientSettings, Shared, discovery, statuses, token};
use crate::cache::{Begins, Document, ObjectKey, ScopeKey};
use crate::kube::negotiate::Shape;
use crate::kube::{Request as KubeRequest, ResourceRequest, Verb};

impl Shared {
    /// Records the answer to `call` as its body passes; `None` if it tells nothing that is kept.
    pub fn recording(&self, call: &Call, code: StatusCode, headers: &HeaderMap) -> Option<Recording> {
        if !is_of_caller(call, &self.client_settings) {
            return None;
        }
        let gzip = match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity") => false,
            Some(b"gzip") => true,
            Some(_) => return None,
        };
        let intake = match &call.request {
            KubeRequest::Resource(request) => self.intake(call, request, code, headers)?,
            KubeRequest::NonResource { path, .. } => document(call, path, code, headers)?,
        };
        let client = || Client {
            identity: call.caller.identity().into(),
            list: call.request.resource().and_then(|request| list_of(call, request)),
            torn: self.torn.clone(),
        };
        let client = (call.caller != Caller::Kubelet).then(client);
        Some(Recording::new(self.cache.clone(), intake, client, gzip))
    }

    /// What a client has told once, a status or an event, the cloud lets it tell: in an outage it is taken here, unless
    /// the cloud has refused it since.
    fn note_right(&self, call: &Call, request: &ResourceRequest, code: StatusCode) {
        let told = match request.subresource.as_deref() {
            Some("status") => matches!(request.verb, Verb::Patch | Verb::Update) && is_kept(request),
            None => request.verb == Verb::Create && is_event(request),
            Some(_) => false,
        };
        if !told || call.caller == Caller::Kubelet {
            return;
        }
        let (identity, right) = (call.caller.identity(), statuses::right(&key_of(request)));
        let era = self.cache.era();
        match code {
            StatusCode::OK | StatusCode::CREATED if self.clients.is_first_status(&identity, &right, era) => {
                self.cache.record(64, move |writer| writer.note_written(&identity, &right));
            }
            StatusCode::FORBIDDEN => {
                self.clients.forget_status(&identity, &right, era);
                self.cache.record(64, move |writer| writer.forget_written(&identity, &right));
            }
            _ => {}
        }
    }

    fn intake(
        &self,
        call: &Call,
        request: &ResourceRequest,
        code: StatusCode,
        headers: &HeaderMap,
    ) -> Option<Box<dyn Intake>> {
        if !request.query.dry_run.is_empty() || call.head.extensions.get::<MaybeDry>().is_some() {
            return None;
        }
        self.note_right(call, request, code);
        let identity = call.caller.identity();
        if let Some(asked) = Asked::of(&identity, request).filter(|_| code == StatusCode::OK) {
            self.refusals.allowed(&asked);
        }
        // An answer does not say what was made of its objects: kube-apiserver names the plain type.
        let extent = extent_of(call);
        let resource = match extent {
            Extent::Whole => request.gvr.to_string(),
            Extent::Metadata => bare(&request.gvr.to_string()),
        };
        let decoder =
            Decoder { resource, extent, encoding: encoding_of(headers), unknown: self.unknown.clone() };
        let subresource = request.subresource.as_deref();
        match (request.verb, subresource, code) {
            (Verb::Create, Some("token"), StatusCode::CREATED) if call.caller == Caller::Kubelet => {
                let key = call.head.extensions.get::<token::Asked>()?.0.clone();
                let own = (self.own_issuers.clone(), self.cache.clone());
                Some(Box::new(Gathered::new(TokenIntake { decoder, key, own })))
            }
            (Verb::Create | Verb::Patch, None, code)
                if code.is_success()
                    && request.gvr.resource == "events"
                    && call.caller == Caller::Kubelet =>
            {
                Some(Box::new(Gathered::new(EventIntake { decoder })))
            }
            _ if !is_kept(request) || is_foreign(headers) => None,
            // What kubelet's pods need is its own, and while an API server starts it refuses what it would not otherwise.
            (_, None, StatusCode::FORBIDDEN) if call.caller != Caller::Kubelet => {
                let (asked, refusals) = (Asked::of(&identity, request)?, self.refusals.clone());
                Some(Box::new(Gathered::new(RefusalIntake { decoder, asked, refusals })))
            }
            _ if call.accept.shape == Shape::Table => None,
            (Verb::Get, None, StatusCode::OK | StatusCode::NOT_FOUND) => {
                let single = if code == StatusCode::OK { Single::Read } else { Single::Absent };
                let key = ObjectKey { resource: decoder.resource.clone(), ..key_of(request) };
                Some(Box::new(Gathered::new(SingleIntake { decoder, identity, key, single })))
            }
            (Verb::Delete, None, StatusCode::OK) => {
                let (key, single) = (key_of(request), Single::Deleted);
                Some(Box::new(Gathered::new(SingleIntake { decoder, identity, key, single })))
            }
            (Verb::Create | Verb::Patch | Verb::Update, None, StatusCode::CREATED)
                if extent == Extent::Whole =>
            {
                let (key, single) = (key_of(request), Single::Created);
                Some(Box::new(Gathered::new(SingleIntake { decoder, identity, key, single })))
            }
            (Verb::Patch | Verb::Update, None | Some("status"), StatusCode::OK)
                if extent == Extent::Whole =>
            {
                let (key, single) = (key_of(request), Single::Written);
                Some(Box::new(Gathered::new(SingleIntake { decoder, identity, key, single })))
            }
            (Verb::List | Verb::Watch, None, StatusCode::OK)
                if list_of(call, request).is_some_and(|list| self.torn.is_left_alone(&list)) =>
            {
                Some(Box::new(LeftAlone))
            }
            (Verb::List, None, StatusCode::OK)
                if request.query.resource_version_match.as_deref() != Some("Exact") =>
            {
                let scope = list_of(call, request)?;
                let asked = request.query.continue_token.clone();
                if asked.is_none() {
                    self.torn.is_read(&scope);
                    self.unsure.is_read(&scope);
                }
                Some(Box::new(ListIntake::new(decoder, scope, self.pages.clone(), asked)))
            }
            (Verb::Watch, None, StatusCode::OK) => {
                let (scope, begins) = (list_of(call, request)?, begins(request));
                if begins == Begins::WithList {
                    self.torn.is_read(&scope);
                    self.unsure.is_read(&scope);
                }
                Some(Box::new(WatchIntake::new(decoder, scope, begins, &self.cache)))
            }
            _ => None,
        }
    }
}

/// What of its objects an answer holds.
fn extent_of(call: &Call) -> Extent {
    match call.accept.shape {
        Shape::PartialMetadata | Shape::PartialMetadataList => Extent::Metadata,
        Shape::Object | Shape::Table => Extent::Whole,
    }
}

/// The list that is read or watched; `None` of one of its shards, which says nothing of the others.
pub fn list_of(call: &Call, request: &ResourceRequest) -> Option<ScopeKey> {
    if !matches!(request.verb, Verb::List | Verb::Watch) || request.query.is_of_a_shard() {
        return None;
    }
    let wanted = Wanted::of(&call.caller.identity(), request).ok()?;
    let wanted = if extent_of(call) == Extent::Metadata { wanted.bare()? } else { wanted };
    Some(wanted.scope())
}

/// With what a watch begins.
pub fn begins(request: &ResourceRequest) -> Begins {
    match request.query.resource_version.as_deref() {
        _ if request.query.wants_initial_events() => Begins::WithList,
        None | Some("" | "0") => Begins::WithSome,
        Some(_) => Begins::AfterList,
    }
}

/// Whether an answer tells what its caller may see, and the caller is one for whom something is kept. What somebody may
/// do in another's name says nothing of what he may do himself.
pub fn is_of_caller(call: &Call, settings: &ClientSettings) -> bool {
    !call.impersonates() && settings.why_not(call).is_none()
}

/// A deletion that may be one to see what would come of it: nothing is gone then.
#[derive(Clone, Copy, Debug)]
struct MaybeDry;

/// Bytes of a deletion's options that are looked at; they take a few hundred.
const OPTIONS: usize = 64 << 10;

/// What is to be known of a request when its answer comes, of what its body says.
pub fn known_of(call: &Call, body: &[u8]) -> Extensions {
    let mut known = Extensions::new();
    if let Some(asked) = token::Asked::of(call, body) {
        known.insert(asked);
    }
    let is_deletion = call.request.resource().is_some_and(|request| request.verb == Verb::Delete);
    // Not taken apart, since nobody has said yet who calls: in JSON it is a field's name, in protobuf its only value.
    let says = |word: &[u8]| body.len() > OPTIONS || body.windows(word.len()).any(|part| part == word);
    if is_deletion && (says(b"dryRun") || says(b"All")) {
        known.insert(MaybeDry);
    }
    known
}

fn is_event(request: &ResourceRequest) -> bool {
    request.gvr.resource == "events" && matches!(request.gvr.group.as_str(), "" | "events.k8s.io")
}

/// Resources whose objects nobody needs back: heartbeats have their own way, events are many, and
/// reviews and requests are questions.
pub fn is_kept(request: &ResourceRequest) -> bool {
    let gvr = &request.gvr;
    match gvr.group.as_str() {
        "authentication.k8s.io" | "authorization.k8s.io" | "metrics.k8s.io" => false,
        "certificates.k8s.io" => gvr.resource != "certificatesigningrequests",
        "" | "events.k8s.io" => gvr.resource != "events",
        _ => true,
    }
}

/// Whether it is written in what is not read here.
fn is_foreign(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    kind.contains("cbor") || kind.contains("yaml")
}

fn document(call: &Call, path: &str, code: StatusCode, headers: &HeaderMap) -> Option<Box<dyn Intake>> {
    let kept = discovery::is_discovery(path) && !is_foreign(headers);
    if !kept || code != StatusCode::OK || call.head.method != http::Method::GET {
        return None;
    }
    let text =
        |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    Some(Box::new(Gathered::new(DocumentIntake {
        identity: call.caller.identity(),
        path: path.to_owned(),
        document: Document { kind: text(header::CONTENT_TYPE), etag: text(header::ETAG), body: Vec::new() },
    })))
}
