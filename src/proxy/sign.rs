//! The kubelet's own client certificate, asked for through the proxy and signed here.
//!
//! A kubelet that rotates its certificates asks the API server for one; that one the proxy would not
//! know, and the local authority's never expires. So such requests are answered here and never
//! forwarded. Requests for serving certificates go to the cloud.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};

use super::Shared;
use super::answer::{self, Body};
use super::csr::{self, Answer};
use super::forward::{Call, Outcome, Payload, decode_body};
use super::watch::lasts;
use crate::kube::status::Failure;
use crate::kube::stream::{WatchKind, watch_event};
use crate::kube::{FieldSelector, ResourceRequest, Verb, meta};

/// Requests that were signed lately; a kubelet has one at a time.
const KEPT: usize = 16;

/// What was signed here, by name, for the kubelet to read back.
#[derive(Debug, Default)]
pub struct Signed {
    requests: Mutex<Vec<Value>>,
}

impl Signed {
    fn get(&self, name: &str) -> Option<Value> {
        let requests = self.requests.lock().ok()?;
        requests.iter().find(|request| meta::name(request) == Some(name)).cloned()
    }

    fn put(&self, request: Value) {
        if let Ok(mut requests) = self.requests.lock() {
            if requests.len() >= KEPT {
                requests.remove(0);
            }
            requests.push(request);
        }
    }
}

impl Shared {
    /// Answers a request about certificate signing requests of the kubelet.
    pub async fn sign(&self, call: &Call, payload: &mut Payload, outage: bool) -> Outcome {
        let Some(request) = call.request.resource() else { return Outcome::Outage(false) };
        let here = match request.verb {
            Verb::Create => self.sign_new(call, payload),
            _ => wanted_name(request)
                .and_then(|name| self.signed.get(&name))
                .map(|found| show(call, request, &found)),
        };
        match here {
            Some(answer) => Outcome::Answer(answer),
            None if outage => Outcome::Answer(answer::unavailable(&self.why_offline(), call.accept.encoding)),
            None => self.forward(call, payload, self.is_offline_mode()).await,
        }
    }

    fn sign_new(&self, call: &Call, payload: &Payload) -> Option<Response<Body>> {
        let Payload::Whole(body) = payload else { return None };
        let asked = decode_body(&call.head.headers, body)?;
        let node = self.upstream.node_name().unwrap_or_default();
        match csr::answer(&asked, &self.ca, &node, crate::sys::clock::now()) {
            Answer::Forward => None,
            Answer::Refused(why) => {
                let failure =
                    Failure::forbidden("certificates.k8s.io", "certificatesigningrequests", "", &why);
                Some(answer::failure(&failure, call.accept.encoding))
            }
            Answer::Signed(signed) => {
                tracing::info!(name = meta::name(&signed), "signed a client certificate for the kubelet");
                self.signed.put(signed.clone());
                Some(answer::object(StatusCode::CREATED, &signed, call.accept.encoding))
            }
        }
    }
}

/// The name in the path, or the one the field selector asks for.
fn wanted_name(request: &ResourceRequest) -> Option<String> {
    if request.name.is_some() {
        return request.name.clone();
    }
    let fields: FieldSelector = request.query.field_selector.as_deref()?.parse().ok()?;
    fields.required("metadata.name").map(str::to_owned)
}

fn show(call: &Call, request: &ResourceRequest, found: &Value) -> Response<Body> {
    let encoding = call.accept.encoding;
    match request.verb {
        Verb::List => {
            let list = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequestList",
                "metadata": {"resourceVersion": "1"}, "items": [found]});
            answer::object(StatusCode::OK, &list, encoding)
        }
        Verb::Watch => {
            let mut events = event(WatchKind::Added, found, call);
            let bookmark = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
                "metadata": {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}});
            if request.query.wants_initial_events() {
                events.extend(event(WatchKind::Bookmark, &bookmark, call));
            }
            let open = lasts(request, Duration::from_secs(300));
            answer::with_type(StatusCode::OK, encoding.watch_content_type(), open_for(events.into(), open))
        }
        _ => answer::object(StatusCode::OK, found, encoding),
    }
}

fn event(kind: WatchKind, object: &Value, call: &Call) -> Vec<u8> {
    watch_event(kind, object, call.accept.encoding).unwrap_or_default()
}

/// A body of one piece that stays open for a while.
fn open_for(bytes: Bytes, open: Duration) -> Body {
    let pieces = futures_util::stream::unfold(Some(bytes), move |piece| async move {
        match piece {
            Some(bytes) => Some((Ok::<_, answer::Broken>(Frame::data(bytes)), None)),
            None => {
                tokio::time::sleep(open).await;
                None
            }
        }
    });
    StreamBody::new(pieces).map_err(Into::into).boxed_unsync()
}
