//! The kubelet's door: accepts connections, reads requests, and sends each its way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::answer::{self, Body};
use super::caller::{self, Caller};
use super::decide::{Action, Local, Refusal, Who, decide};
use super::forward::{Call, Outcome, Payload, decode_body};
use super::frames::Solid;
use super::headers::accept_of;
use super::local::Write;
use super::watch::LocalWatch;
use super::{Shared, replay, token, upgrade};
use crate::kube::status::Failure;
use crate::kube::{Encoding, Request as KubeRequest, Verb};
use crate::link::Phase;

/// Bytes of a written object at the most, as the API server has it.
const BODY_LIMIT: usize = 3 << 20;
/// Streams on one connection: a kubelet watches each ConfigMap and Secret by itself.
const STREAMS: u32 = 4096;
/// How long a TLS handshake and the first request may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long after the start requests wait for the first word on the link.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// How long open requests may take to end when the daemon stops.
const DRAIN: Duration = Duration::from_secs(3);

/// Serves until `stop` changes; then no new connections, and a bounded time for the open ones.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let open = Arc::new(tokio::sync::Semaphore::new(tokio::sync::Semaphore::MAX_PERMITS >> 3));
    let all = open.available_permits();
    loop {
        let accepted = tokio::select! {
            () = told(&mut stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(place) = open.clone().acquire_owned().await else { break };
                let connection = connection(stream, peer, acceptor.clone(), shared.clone(), stop.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: others must end before more can begin.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    drop(listener);
    let drained = async {
        while open.available_permits() < all {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::debug!("open requests are cut off");
    }
}

/// Waits until `stop` holds true, or nobody can say so any more.
pub async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "no TLS");
            return;
        }
        Err(_) => return,
    };
    // The verifier has checked any certificate that was shown against the local authority.
    let has_certificate = stream.get_ref().1.peer_certificates().is_some_and(|c| !c.is_empty());
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move {
            let answer = handle(&shared, has_certificate, request).await;
            Ok::<_, std::convert::Infallible>(answer.map(Solid))
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_send_buf_size(256 << 10);
    let serving = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = told(&mut stop) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "a connection ended early");
    }
}

async fn handle(shared: &Arc<Shared>, has_certificate: bool, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let accept = answer::Accept::parse(&accept_of(&head.headers));
    let Some(caller) = Caller::of(has_certificate, &head.headers) else {
        return unauthorized(accept.encoding);
    };
    let query = head.uri.query().unwrap_or_default();
    let request = KubeRequest::parse(head.method.as_str(), head.uri.path(), query);
    let mut call = Call { head, caller, request, accept };
    if upgrade::is_wanted(&call.head.headers) {
        if shared.is_offline_mode()
            && shared.link.state().phase.is_outage()
            && let Some(refused) = refuse_stranger(shared, &call).await
        {
            return refused;
        }
        return upgrade::answer(shared, call, body).await;
    }
    let mut payload = match payload(&call, body).await {
        Ok(payload) => payload,
        Err(refused) => return refused,
    };
    if let (Some(asked), Payload::Whole(bytes)) = (token_asked(&call), &payload)
        && let Some(body) = decode_body(&call.head.headers, bytes)
    {
        call.head.extensions.insert(token::Asked(token::key(&asked, &body)));
    }
    if let Some(refused) = shared.in_cluster.refuse_write(&call) {
        return refused;
    }
    if shared.in_cluster.is_stale(&call) {
        return answer::failure(&Failure::expired(answer::EXPIRED), call.accept.encoding);
    }
    let showing = shared.in_cluster.showing(shared, &call);
    let answered = route(shared, &call, &mut payload).await;
    let refusals = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::SERVICE_UNAVAILABLE];
    let here = shared.link.state().phase.is_outage() && refusals.contains(&answered.status());
    shared.clients.note(&call, here.then_some(answered.status()));
    match showing {
        Some(showing) => showing.answer(answered).await,
        None => answered,
    }
}

fn unauthorized(encoding: Encoding) -> Response<Body> {
    answer::failure(&Failure::unauthorized(), encoding)
}

fn token_asked(call: &Call) -> Option<crate::kube::ResourceRequest> {
    let request = call.request.resource()?;
    let is_token = request.gvr.resource == "serviceaccounts"
        && request.subresource.as_deref() == Some("token")
        && request.verb == Verb::Create;
    is_token.then(|| request.clone())
}

/// Reads the body whole where it may have to be sent twice or understood here.
async fn payload(call: &Call, body: Incoming) -> Result<Payload, Response<Body>> {
    if http_body::Body::is_end_stream(&body) {
        return Ok(Payload::Whole(Bytes::new()));
    }
    let streams = match &call.request {
        KubeRequest::NonResource { .. } => true,
        KubeRequest::Resource(request) => matches!(request.verb, Verb::Connect | Verb::Unknown),
    };
    if streams {
        return Ok(Payload::Stream(body));
    }
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(whole) => Ok(Payload::Whole(whole.to_bytes())),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(answer::failure(&Failure::too_large(format!("limit is {BODY_LIMIT}")), call.accept.encoding))
        }
        Err(error) => {
            let why = format!("the request broke off: {error}");
            Err(answer::failure(&Failure::bad_request(why), call.accept.encoding))
        }
    }
}

/// Decides, does, and decides again when the cloud goes away in the middle of it.
async fn route(shared: &Arc<Shared>, call: &Call, payload: &mut Payload) -> Response<Body> {
    let who = match call.caller {
        Caller::Kubelet => Who::Kubelet,
        Caller::Bearer(_) => Who::Other,
    };
    let impersonates = call.head.headers.keys().any(|name| name.as_str().starts_with("impersonate-"));
    if !shared.is_offline_mode() {
        // The kubelet's own certificate is local whatever the mode; all else passes through.
        let passed = match decide(&call.request, who, false, impersonates) {
            Action::Sign => shared.sign(call, payload, false).await,
            _ => shared.forward(call, payload, false).await,
        };
        return match passed {
            Outcome::Answer(answer) => answer,
            Outcome::Outage => answer::unavailable("the cloud is away", call.accept.encoding),
        };
    }
    for _ in 0..3 {
        let outage = shared.is_outage().await;
        if outage && let Some(refused) = refuse_stranger(shared, call).await {
            return refused;
        }
        match decide(&call.request, who, outage, impersonates) {
            Action::Forward => match shared.forward(call, payload, true).await {
                Outcome::Answer(answer) => return answer,
                Outcome::Outage => {}
            },
            Action::Sign => match shared.sign(call, payload, outage).await {
                Outcome::Answer(answer) => return answer,
                Outcome::Outage => {}
            },
            Action::Replay => {
                if let Some(why) = shared.client_settings.why_not(call) {
                    return answer::unavailable(
                        &format!("the cloud is away and {why}"),
                        call.accept.encoding,
                    );
                }
                return replay(shared, call).await;
            }
            Action::Local(local) => return write(shared, local, call, payload).await,
            Action::Refuse(refusal) => return refuse(shared, refusal, call).await,
        }
    }
    answer::unavailable("the link to the cloud comes and goes", call.accept.encoding)
}

/// Offline only those are known whom the cloud accepted while it was there.
async fn refuse_stranger(shared: &Shared, call: &Call) -> Option<Response<Body>> {
    let Caller::Bearer(bearer) = &call.caller else { return None };
    match caller::accepted(&shared.cache, bearer).await {
        Ok(true) => None,
        Ok(false) => Some(unauthorized(call.accept.encoding)),
        Err(error) => Some(answer::unavailable(&error.to_string(), call.accept.encoding)),
    }
}

async fn replay(shared: &Arc<Shared>, call: &Call) -> Response<Body> {
    let cache = &shared.cache;
    match &call.request {
        KubeRequest::NonResource { path, .. } if call.head.method == http::Method::GET => {
            replay::document(cache, &call.caller, path, &accept_of(&call.head.headers)).await
        }
        KubeRequest::NonResource { .. } => answer::unavailable("the cloud is away", call.accept.encoding),
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
}
