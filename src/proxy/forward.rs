//! Sends a request to the cloud and its answer back as it comes, and keeps what it tells.
//!
//! An answer that may mean an outage is held until the link has made up its mind; if the cloud is
//! away, the request is decided anew instead of failing.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts as Head;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;

use super::answer::{self, Body};
use super::caller::Caller;
use super::forwarded::{Forwarded, Until, until_late, until_outage, until_recorded, until_watch_ends};
use super::headers::{
    IMPERSONATE, KeepUpgrade, accept_of, accept_without, encoding_of, remove_hop_headers, stream_encoding,
    upward_headers,
};
use super::pool::Place;
use super::record::Recording;
use super::takers::Parts;
use super::upstream::{As, UpBody, UpstreamError};
use super::{Shared, discovery, genuine, issuer};
use crate::cache::{seconds, version};
use crate::kube::status::Failure;
use crate::kube::stream::{WatchKind, watch_event};
use crate::kube::{
    Encoding, GroupVersionResource, Request as KubeRequest, ResourceRequest, Verb, codec, schema,
};
use crate::link::{LinkState, outage};

/// How long an answer may take before somebody asks whether the cloud is still there.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long an answer to a probe is good against failures of what is behind the API server.
const ANSWERED: Duration = Duration::from_secs(30);
/// How long a watch may go on beyond the time that its client has asked for.
const LATE: Duration = Duration::from_secs(60);
/// How often a request is sent again of which the cloud says that it did nothing with it.
const UNPROCESSED: u32 = 2;

/// A request that was read off a connection.
#[derive(Debug)]
pub struct Call {
    /// Method, path and headers.
    pub head: Head,
    /// Who calls.
    pub caller: Caller,
    /// What is asked.
    pub request: KubeRequest,
    /// What may be answered.
    pub accept: answer::Accept,
}

/// The body of a request.
pub enum Payload {
    /// All of it: the request can be made again.
    Whole(Bytes),
    /// As it comes.
    Stream(Incoming),
    /// Sent already.
    Gone,
}

/// How forwarding ended.
pub enum Outcome {
    /// With this answer.
    Answer(Response<Body>),
    /// The cloud is away: decide again. Whether it may have done what was asked: a write that was sent to it.
    Outage(bool),
}

impl Call {
    fn who(&self) -> As {
        match self.caller {
            Caller::Kubelet => As::Node,
            Caller::Bearer(_) => As::Bearer,
        }
    }

    /// Whether the caller acts as somebody else.
    pub fn impersonates(&self) -> bool {
        self.head.headers.keys().any(|name| name.as_str().starts_with(IMPERSONATE))
    }

    /// Whether it may be sent again although the cloud may have done it. A DELETE that is done may be one of another
    /// object the second time, and a PUT finds its own version and is a conflict.
    fn is_repeatable(&self) -> bool {
        self.head.method.is_safe()
    }
}

impl Shared {
    /// Forwards `call`, with the link known to be online.
    pub async fn forward(&self, call: &Call, payload: &mut Payload, record: bool) -> Outcome {
        if let Some(expired) = outdated(call) {
            return Outcome::Answer(expired);
        }
        if record && let Some(expired) = self.unsure_of(call).await {
            return Outcome::Answer(expired);
        }
        let (mut tries, mut unprocessed) = (if record && call.is_repeatable() { 2 } else { 1 }, UNPROCESSED);
        loop {
            let (before, sent, asked) = (self.link.state(), AtomicBool::new(false), seconds());
            let result = self.send(call, payload, record, &sent).await;
            if let (Err(error), Payload::Whole(_)) = (&result, &*payload)
                && error.is_unprocessed()
                && unprocessed > 0
            {
                unprocessed -= 1;
                continue;
            }
            let why = match &result {
                Ok((answer, _)) => suspicious(call, answer).and_then(|why| self.worth_a_look(call, why)),
                Err(error) => Some(error.to_string()),
            };
            if why.is_none() && before.phase.is_outage() {
                self.link.saw_life();
            }
            if matches!(&result, Ok((answer, _)) if suspicious(call, answer).is_none()) {
                self.link.heard().note();
            }
            let perhaps = !call.is_repeatable()
                && match &result {
                    Ok((answer, _)) => answer.status().is_server_error(),
                    Err(error) => sent.into_inner() && !error.is_unprocessed(),
                };
            if let Some(why) = why {
                if !record {
                    self.link.suspect(why);
                } else if self.verdict(&before, &why).await {
                    return Outcome::Outage(perhaps);
                }
            }
            tries -= 1;
            match result {
                Ok(answer) => return Outcome::Answer(self.pass(call, answer, record.then_some(asked))),
                Err(_) if tries > 0 && matches!(payload, Payload::Whole(_)) => {}
                Err(error) => {
                    let why = format!("the cloud did not answer: {error}");
                    return Outcome::Answer(match perhaps {
                        true => answer::unknown(&why, call.accept.encoding),
                        false => answer::unavailable(&why, call.accept.encoding),
                    });
                }
            }
        }
    }

    /// `why`, unless the failure may be that of a single program behind the API server, which was asked a moment ago
    /// whether it is there itself: a metrics server that is down would cost a connection for each request.
    fn worth_a_look(&self, call: &Call, why: String) -> Option<String> {
        match call.request.resource() {
            Some(request) if self.link.answered_within(ANSWERED) => {
                if is_behind(request) {
                    return None;
                }
                if has_table(&request.gvr) {
                    return Some(why);
                }
                // Whether a custom resource is the API server's own or an aggregated API's is not known here: a look
                // now and then, for which its client does not wait.
                self.link.doubt(why, ANSWERED);
                None
            }
            _ => Some(why),
        }
    }

    /// Whether the link, asked about a failure, finds itself in an outage.
    async fn verdict(&self, before: &LinkState, why: &str) -> bool {
        if before.phase.is_outage() || self.link.state().phase.is_outage() {
            return true;
        }
        // As long as two short probes take, by which the link makes up its mind.
        let verdict = self.upstream.slow(PATIENCE) * 3;
        self.link.examine(why.to_owned(), verdict).await.phase.is_outage()
    }

    /// Sends the request once; `sent` is set once the cloud may have it.
    async fn send(
        &self,
        call: &Call,
        payload: &mut Payload,
        record: bool,
        sent: &AtomicBool,
    ) -> Result<(Response<Incoming>, Place), UpstreamError> {
        let mut request = self.upward(call, payload, record);
        if record && self.wants_whole(call).await {
            request.headers_mut().remove(header::IF_NONE_MATCH);
        }
        let sending = self.upstream.send_noting(call.who(), request, sent);
        tokio::pin!(sending);
        let mut link = self.link.follow();
        // Passing through, the link's word is only news: what it was before need not hold for this request.
        let heed = record || !link.borrow().phase.is_outage();
        let (patience, mut asked) = (self.upstream.slow(PATIENCE), false);
        loop {
            tokio::select! {
                answer = &mut sending => return answer,
                _ = outage(&mut link), if heed => return Err(UpstreamError::LinkLost),
                () = tokio::time::sleep(patience), if !asked => {
                    asked = true;
                    self.link.suspect(format!("no answer within {} s", patience.as_secs()));
                }
            }
        }
    }

    /// Whether the answer is to be whole although its client has one like it: this is of what edge keeps, and it has none.
    async fn wants_whole(&self, call: &Call) -> bool {
        let KubeRequest::NonResource { path, .. } = &call.request else { return false };
        let headers = &call.head.headers;
        headers.contains_key(header::IF_NONE_MATCH)
            && discovery::is_discovery(path)
            && !discovery::is_kept(&self.cache, &call.caller, path, &accept_of(headers)).await
    }

    /// The request as it goes up: the same, but for what belongs to one connection.
    fn upward(&self, call: &Call, payload: &mut Payload, record: bool) -> Request<UpBody> {
        let body = match payload {
            Payload::Whole(bytes) => Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync(),
            Payload::Stream(_) => match std::mem::replace(payload, Payload::Gone) {
                Payload::Stream(body) => body.map_err(Into::into).boxed_unsync(),
                _ => answer::full(Bytes::new()),
            },
            Payload::Gone => answer::full(Bytes::new()),
        };
        let mut request = Request::new(body);
        *request.method_mut() = call.head.method.clone();
        *request.uri_mut() =
            call.head.uri.path_and_query().cloned().map_or_else(Default::default, Into::into);
        *request.headers_mut() = upward_headers(&call.head.headers, &call.caller, KeepUpgrade::No);
        let resource = call.request.resource();
        if record && resource.is_none_or(|resource| resource.is_read()) {
            // Nobody here reads it, and nothing would be kept.
            accept_without(request.headers_mut(), &["cbor", "yaml"]);
        }
        if record
            && let Some(resource) = resource
            && resource.is_read()
            && (self.unknown.contains(&resource.gvr.to_string()) || !has_table(&resource.gvr))
        {
            accept_without(request.headers_mut(), &["protobuf"]);
        }
        request
    }

    /// The answer on its way to the client, with its recording beside it, if that is wanted of what was `asked` then.
    fn pass(
        &self,
        call: &Call,
        (answer, place): (Response<Incoming>, Place),
        asked: Option<i64>,
    ) -> Response<Body> {
        issuer::note_caller(self, call, answer.status());
        // Offline mode may have been turned off since: what comes now is not kept.
        let asked = asked.filter(|_| self.is_offline_mode());
        let record = asked.is_some();
        // A load balancer's own answer is no word of the cloud's.
        let heard = suspicious(call, &answer).is_none().then(|| self.link.heard().clone());
        let (mut head, body) = answer.into_parts();
        remove_hop_headers(&mut head.headers, KeepUpgrade::No);
        let recording = asked.and_then(|asked| {
            let recording = self.recording(call, head.status, &head.headers)?;
            Some(recording.asked_at(asked))
        });
        let watch = call.request.resource().filter(|request| request.verb == Verb::Watch);
        let is_watch = watch.is_some();
        let until: Option<Until> = if is_watch && !record {
            let expired = self.expired(&head.headers);
            Some(Box::pin(until_recorded(self.offline_mode.subscribe(), expired)))
        } else if !record {
            None
        } else if is_watch {
            let expired = self.expired(&head.headers);
            let tears = recording.as_ref().map(Recording::tears);
            let tears = async move {
                match tears {
                    Some(tears) => tears.await,
                    None => std::future::pending().await,
                }
            };
            Some(Box::pin(until_watch_ends(self.link.follow(), self.cache.lost(), tears, expired)))
        } else {
            Some(Box::pin(until_outage(self.link.follow())))
        };
        let limit = watch.and_then(|request| request.query.timeout_seconds).filter(|limit| *limit > 0);
        let until = match limit.map(|limit| Duration::from_secs(limit).saturating_add(LATE)) {
            None => until,
            Some(patience) => until.map(|until| Box::pin(until_late(until, patience)) as _),
        };
        let parts = Parts { body, recording, place, guest: call.head.extensions.get().cloned() };
        let events = if is_watch { stream_encoding(&head.headers) } else { None };
        let body = Forwarded::new(parts, until, self.takers.clone()).noting(heard).watching(events);
        Response::from_parts(head, body.boxed_unsync())
    }

    /// A watch's last word when its client must read everything anew; none in an encoding that edge does not write.
    fn expired(&self, headers: &HeaderMap) -> Bytes {
        let event = |encoding| {
            watch_event(WatchKind::Error, &Failure::expired(answer::EXPIRED).body(), encoding).ok()
        };
        stream_encoding(headers).and_then(event).map(Bytes::from).unwrap_or_default()
    }
}

/// The answer to a list or watch that goes on from a version that was given here while the cloud was away, and that the
/// cloud would wait for.
fn outdated(call: &Call) -> Option<Response<Body>> {
    let request = call.request.resource().filter(|r| matches!(r.verb, Verb::List | Verb::Watch))?;
    version::given(request.query.resource_version.as_deref()?)?;
    Some(answer::expired(request.verb == Verb::Watch, call.accept.encoding))
}

/// Why an answer may be no word of the cloud's: a load balancer's, or one about the node's own
/// credentials, which are edge's affair and not the kubelet's.
fn suspicious<T>(call: &Call, answer: &Response<T>) -> Option<String> {
    match answer.status() {
        code @ (StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) => {
            Some(format!("answered {code}"))
        }
        StatusCode::UNAUTHORIZED if call.caller == Caller::Kubelet => {
            Some("the node's credentials were refused".to_owned())
        }
        code if genuine::may_be_a_page(code, answer.headers())
            && call.request.resource().is_some_and(|request| !is_behind(request)) =>
        {
            Some(format!("answered {code}, and not as an API server does"))
        }
        _ => None,
    }
}

/// Whether the answer is mostly that of a single program behind the API server.
fn is_behind(request: &ResourceRequest) -> bool {
    request.verb == Verb::Connect
        || request.subresource.as_deref() == Some("proxy")
        || request.gvr.group.ends_with("metrics.k8s.io")
}

/// Whether the protobuf of a resource can be read here.
fn has_table(gvr: &GroupVersionResource) -> bool {
    schema::kind_of(&gvr.api_version(), &gvr.resource).is_some()
}

/// The body of a request that is read for its key or what is to be signed, and not kept: what a newer kubelet says beside
/// that is not needed.
pub fn decode_body(headers: &HeaderMap, body: &[u8]) -> Option<serde_json::Value> {
    match encoding_of(headers) {
        Encoding::Protobuf => codec::decode(body).ok().map(|decoded| decoded.value),
        Encoding::Json => serde_json::from_slice(body).ok(),
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
