//! Connections that become something else: exec, attach and port-forward through the proxy.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::answer::{self, Body};
use super::caller::Caller;
use super::forward::Call;
use super::forwarded::Forwarded;
use super::guests::Guest;
use super::headers::{KeepUpgrade, remove_hop_headers, upward_headers};
use super::takers::Parts;
use super::upstream::As;
use super::{ClientSettings, Shared, keep};
use crate::kube::negotiate::Shape;
use crate::kube::{ResourceRequest, Verb};

/// Whether the client asks for another protocol.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

/// Whether it is a watch that would be kept over plain HTTP: what passes an upgraded connection is nobody's to read.
/// Its client (fabric8's in the first place) watches so when this is refused with 503.
pub fn is_kept_otherwise(call: &Call, settings: &ClientSettings) -> bool {
    let is_watch = |request: &ResourceRequest| request.verb == Verb::Watch && keep::is_kept(request);
    call.request.resource().is_some_and(is_watch)
        && call.accept.shape != Shape::Table
        && keep::is_of_caller(call, settings)
}

/// Asks the cloud for the same, and if it agrees, copies bytes both ways until one side ends. All the while it counts
/// as one of its guest's connections.
pub async fn answer(
    shared: &Arc<Shared>,
    guest: &Arc<Guest>,
    mut call: Call,
    body: Incoming,
) -> Response<Body> {
    let outage = shared.link.state().phase.is_outage();
    if shared.is_offline_mode() && outage {
        return answer::unavailable(&shared.why_offline(), call.accept.encoding);
    }
    let protocol = call.head.headers.get(header::UPGRADE).cloned();
    let mut request = Request::new(body.map_err(Into::into).boxed_unsync());
    *request.method_mut() = call.head.method.clone();
    *request.uri_mut() = call.head.uri.path_and_query().cloned().map_or_else(Default::default, Into::into);
    *request.headers_mut() = upward_headers(&call.head.headers, &call.caller, KeepUpgrade::Yes);
    if let Some(protocol) = protocol {
        request.headers_mut().insert(header::UPGRADE, protocol);
        request.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    }
    let who = if call.caller == Caller::Kubelet { As::Node } else { As::Bearer };
    let (mut answered, place) = match shared.upstream.send_upgrade(who, request).await {
        Ok(answered) => answered,
        Err(error) => {
            shared.link.suspect(error.to_string());
            let why = format!("the cloud did not answer: {error}");
            return answer::unavailable(&why, call.accept.encoding);
        }
    };
    if answered.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut head, body) = answered.into_parts();
        remove_hop_headers(&mut head.headers, KeepUpgrade::No);
        let parts = Parts { body, recording: None, place, guest: Some(guest.clone()) };
        let body = Forwarded::new(parts, None, shared.takers.clone());
        return Response::from_parts(head, body.boxed_unsync());
    }
    let mut response = Response::new(answer::full(bytes::Bytes::new()));
    *response.status_mut() = answered.status();
    *response.headers_mut() = answered.headers().clone();
    let far = hyper::upgrade::on(&mut answered);
    let Some(near) = call.head.extensions.remove::<hyper::upgrade::OnUpgrade>() else {
        return answer::unavailable("this connection cannot be upgraded", call.accept.encoding);
    };
    let guest = guest.clone();
    tokio::spawn(async move {
        let _place = place;
        let (near, far) = match tokio::try_join!(near, far) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "an upgrade did not happen");
                return;
            }
        };
        let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
        tokio::select! {
            copied = tokio::io::copy_bidirectional(&mut near, &mut far) => if let Err(error) = copied {
                tracing::debug!(%error, "an upgraded connection broke");
            },
            () = guest.pushed_out() => tracing::debug!("an upgraded connection was let go"),
        }
    });
    response
}
