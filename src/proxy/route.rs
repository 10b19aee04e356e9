//! Sends each request its way: to the cloud, to what is kept, or back with a refusal.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};

use super::answer::{self, Body};
use super::caller::{self, Caller};
use super::decide::{Action, Local, Refusal, Who, decide};
use super::forward::{Call, Outcome, Payload};
use super::headers::accept_of;
use super::local::Write;
use super::watch::LocalWatch;
use super::{Shared, discovery, replay};
use crate::cache::CacheError;
use crate::kube::status::Failure;
use crate::kube::{GroupVersionResource, Request as KubeRequest, Verb, meta};
use crate::link::Phase;

/// How long after the start requests wait for the first word on the link.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// Answers a request. Of a write that may have reached the cloud, and of which nobody says what became of it, a 503 would
/// be taken for "nothing was done".
pub async fn route(shared: &Arc<Shared>, call: &Call, payload: &mut Payload) -> Response<Body> {
    let mut perhaps = false;
    let answered = decided(shared, call, payload, &mut perhaps).await;
    if perhaps && answered.status() == StatusCode::SERVICE_UNAVAILABLE {
        return answer::unknown(&shared.why_offline(), call.accept.encoding);
    }
    answered
}

/// Decides, does, and decides again when the cloud goes away in the middle of it. `perhaps` is set once the cloud may
/// have done what is asked: it is not sent again then.
async fn decided(
    shared: &Arc<Shared>,
    call: &Call,
    payload: &mut Payload,
    perhaps: &mut bool,
) -> Response<Body> {
    let who = match call.caller {
        Caller::Kubelet => Who::Kubelet,
        Caller::Bearer(_) => Who::Other,
    };
    let impersonates = call.impersonates();
    if !shared.is_offline_mode() {
        // The kubelet's own certificate is local whatever the mode; all else passes through.
        let passed = match decide(&call.request, who, false, impersonates) {
            Action::Sign => shared.sign(call, payload, false).await,
            _ => shared.forward(call, payload, false).await,
        };
        return match passed {
            Outcome::Answer(answer) => answer,
            Outcome::Outage(sent) => {
                *perhaps |= sent;
                answer::unavailable("the cloud is away", call.accept.encoding)
            }
        };
    }
    for _ in 0..3 {
        let outage = shared.is_outage().await;
        if outage && let Some(refused) = refuse_stranger(shared, call).await {
            return refused;
        }
        let ended = match decide(&call.request, who, outage, impersonates) {
            Action::Forward if *perhaps => break,
            Action::Forward => shared.forward(call, payload, true).await,
            Action::Sign if *perhaps && !outage => break,
            Action::Sign => shared.sign(call, payload, outage).await,
            Action::Replay => {
                if let Some(why) = shared.client_settings.why_not(call) {
                    return answer::unavailable(
                        &format!("the cloud is away and {why}"),
                        call.accept.encoding,
                    );
                }
                return replay(shared, call).await;
            }
            Action::Live => {
                return answer::with_type(StatusCode::OK, "text/plain; charset=utf-8", answer::full("ok"));
            }
            Action::Local(local) => return write(shared, local, call, payload).await,
            Action::Refuse(refusal) => return refuse(shared, refusal, call).await,
        };
        match ended {
            Outcome::Answer(answer) => return answer,
            Outcome::Outage(sent) => *perhaps |= sent,
        }
    }
    answer::unavailable("the link to the cloud comes and goes", call.accept.encoding)
}

/// Turns strangers away in an outage. Nothing that one of them sends is read before, nor is he told anything else: whoever
/// is on this machine could fill its memory otherwise.
pub async fn turn_away(shared: &Shared, call: &Call) -> Option<Response<Body>> {
    let is_client = matches!(call.caller, Caller::Bearer(_));
    if !is_client || !shared.is_offline_mode() || !shared.is_outage().await {
        return None;
    }
    refuse_stranger(shared, call).await
}

/// Offline only those are known whom the cloud accepted while it was there.
async fn refuse_stranger(shared: &Shared, call: &Call) -> Option<Response<Body>> {
    let Caller::Bearer(bearer) = &call.caller else { return None };
    match caller::accepted(&shared.cache, bearer).await {
        Ok(true) => None,
        Ok(false) => Some(answer::failure(&Failure::unauthorized(), call.accept.encoding)),
        Err(error) => Some(answer::unavailable(&error.to_string(), call.accept.encoding)),
    }
}

async fn replay(shared: &Arc<Shared>, call: &Call) -> Response<Body> {
    let cache = &shared.cache;
    match &call.request {
        KubeRequest::NonResource { path, .. } if call.head.method == http::Method::GET => {
            discovery::document(cache, &call.caller, path, &accept_of(&call.head.headers)).await
        }
        KubeRequest::NonResource { .. } => answer::unavailable("the cloud is away", call.accept.encoding),
        KubeRequest::Resource(request) if request.query.is_of_a_shard() => {
            answer::unavailable("the cloud is away and no list is kept in shards", call.accept.encoding)
        }
        KubeRequest::Resource(request) => match request.verb {
            Verb::Get => replay::get(cache, &call.caller, request, call.accept).await,
            Verb::List => replay::list(cache, &call.caller, request, call.accept).await,
            _ => {
                let watch = LocalWatch {
                    cache: cache.clone(),
                    edits: shared.edits.subscribe(),
                    link: shared.link.follow(),
                    stop: shared.mode_changes.subscribe(),
                };
                watch.answer(&call.caller.identity(), request, call.accept).await
            }
        },
    }
}

async fn write(shared: &Shared, local: Local, call: &Call, payload: &Payload) -> Response<Body> {
    let (Some(request), Payload::Whole(body)) = (call.request.resource(), payload) else {
        return answer::unavailable("the cloud is away", call.accept.encoding);
    };
    let write = Write { request, headers: &call.head.headers, body, encoding: call.accept.encoding };
    shared.writes.answer(local, &call.caller, write).await
}

async fn refuse(shared: &Shared, refusal: Refusal, call: &Call) -> Response<Body> {
    let encoding = call.accept.encoding;
    match refusal {
        Refusal::Offline => answer::unavailable(&shared.why_offline(), encoding),
        Refusal::Impersonation => {
            let why = "the cloud is away and only it can say who may act for whom";
            answer::failure(&Failure::forbidden("", "", "", why), encoding)
        }
        Refusal::NodeExists => match shared.known_node().await {
            Ok(Some((gvr, name))) => {
                answer::failure(&Failure::already_exists(&gvr.group, &gvr.resource, &name), encoding)
            }
            Ok(None) => answer::unavailable("the cloud is away and this node was never registered", encoding),
            Err(error) => answer::unavailable(&error.to_string(), encoding),
        },
    }
}

impl Shared {
    /// Whether requests are answered here; right after a start, waits a moment for the first word. The moment is one for all
    /// requests: a kubelet asks one thing after the other, and would wait anew for each.
    async fn is_outage(&self) -> bool {
        let state = self.link.state();
        if state.phase != Phase::Starting {
            return state.phase.is_outage();
        }
        let patience = FIRST_WORD.saturating_sub(self.begun.elapsed());
        self.link.changed_from(&state, patience).await.phase != Phase::Online
    }

    /// The Node by which this node is registered in the cloud.
    async fn known_node(&self) -> Result<Option<(GroupVersionResource, String)>, CacheError> {
        let nodes = self.cache.read(|reader| reader.all("v1/nodes")).await?;
        let own = self.upstream.node_name();
        let name = nodes
            .iter()
            .filter_map(meta::name)
            .find(|name| own.as_deref().is_none_or(|own| own == *name))
            .map(str::to_owned);
        Ok(name.map(|name| (GroupVersionResource::new("", "v1", "nodes"), name)))
    }
}
