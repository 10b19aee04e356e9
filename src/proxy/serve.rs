//! The kubelet's door: accepts connections, reads requests, and sends each its way.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

use super::answer::{self, Body};
use super::caller::{self, Caller};
use super::forward::{Call, Payload};
use super::frames::Solid;
use super::guests::{Guest, Guests, Held, Limits, Unread};
use super::headers::{accept_of, hidden_identity};
use super::incluster::Outside;
use super::route::{route, turn_away};
use super::{Shared, issuer, keep, upgrade};
use crate::kube::status::Failure;
use crate::kube::{Encoding, Request as KubeRequest, Verb};

/// Bytes of a written object at the most, as the API server has it.
const BODY_LIMIT: usize = 3 << 20;
/// How long a TLS handshake and the first request may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long open requests may take to end when the daemon stops.
const DRAIN: Duration = Duration::from_secs(3);

/// Serves until `stop` changes; then no new connections, and a bounded time for the open ones. Whoever is `outside` is
/// turned away.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    shared: Arc<Shared>,
    (limits, outside): (Limits, Option<Arc<Outside>>),
    mut stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let guests = Guests::new(limits);
    let open = Arc::new(tokio::sync::Semaphore::new(tokio::sync::Semaphore::MAX_PERMITS >> 3));
    let all = open.available_permits();
    loop {
        let accepted = tokio::select! {
            () = told(&mut stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(guest) = guests.enter(peer.ip()) else { continue };
                let Ok(place) = open.clone().acquire_owned().await else { break };
                let (acceptor, shared, stop) = (acceptor.clone(), shared.clone(), stop.clone());
                let (guest, outside) = (Arc::new(guest), outside.clone());
                tokio::spawn(async move {
                    let serving = async {
                        if let Some(outside) = outside
                            && outside.has(peer.ip()).await
                        {
                            return;
                        }
                        connection(stream, peer, (guest.clone(), limits), acceptor, shared, stop).await;
                    };
                    tokio::select! {
                        () = serving => {}
                        () = guest.pushed_out() => tracing::debug!(%peer, "a connection was let go"),
                    }
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
    (guest, limits): (Arc<Guest>, Limits),
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
    if has_certificate {
        guest.prove();
    }
    let first = Arc::new(Notify::new());
    let asked = first.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        asked.notify_one();
        request.extensions_mut().insert(guest.clone());
        let (shared, guest) = (shared.clone(), guest.clone());
        async move { Ok::<_, Infallible>(handle(&shared, &guest, has_certificate, request).await.map(Solid)) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.alive)
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(limits.window)
        .initial_connection_window_size(4 * limits.window)
        .max_send_buf_size(256 << 10);
    let serving = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = silent(&first, HANDSHAKE) => {
            tracing::debug!(%peer, "a connection without a request");
            return;
        }
        () = told(&mut stop) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "a connection ended early");
    }
}

/// Ends when no first request came in time.
async fn silent(first: &Notify, patience: Duration) {
    if tokio::time::timeout(patience, first.notified()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

async fn handle(
    shared: &Arc<Shared>,
    guest: &Arc<Guest>,
    has_certificate: bool,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let accept = answer::Accept::parse(&accept_of(&head.headers));
    let Some(caller) = Caller::of(has_certificate, &head.headers) else {
        return unauthorized(accept.encoding);
    };
    let caller = caller.known_by(&shared.own_issuers);
    let query = head.uri.query().unwrap_or_default();
    let request = KubeRequest::parse(head.method.as_str(), head.uri.path(), query);
    let mut call = Call { head, caller, request, accept };
    if let Some(refused) = turn_away(shared, &call).await {
        let known = is_known(shared, &call, refused.status()).await;
        shared.clients.note(&call, known, Some(refused.status()));
        return refused;
    }
    if let Some(name) = hidden_identity(&call.head.headers) {
        let why = format!("`Connection` names `{name}`, by which the API server knows who asks");
        return answer::failure(&Failure::bad_request(why), call.accept.encoding);
    }
    if upgrade::is_wanted(&call.head.headers) {
        if shared.is_offline_mode() && upgrade::is_kept_otherwise(&call, &shared.client_settings) {
            let why = "watches over WebSocket are not kept for an outage: watch over plain HTTP";
            return answer::unavailable(why, call.accept.encoding);
        }
        return upgrade::answer(shared, guest, call, body).await;
    }
    // What is held is counted until there is an answer.
    let (mut payload, _held) = match payload(guest, &call, body).await {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    if let Payload::Whole(bytes) = &payload {
        call.head.extensions.extend(keep::known_of(&call, bytes));
    }
    if let Some(refused) = shared.in_cluster.refuse_write(&call) {
        return refused;
    }
    if shared.in_cluster.is_stale(&call) {
        return answer::failure(&Failure::expired(answer::EXPIRED), call.accept.encoding);
    }
    let showing = shared.in_cluster.showing(shared, &call);
    let answered = route(shared, &call, &mut payload).await;
    if !shared.in_cluster.note(&call, answered.status(), showing.as_ref()) {
        let why = "what pods are to see has changed in the meantime: ask again";
        return answer::unavailable(why, call.accept.encoding);
    }
    let refusals = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::SERVICE_UNAVAILABLE];
    let here = shared.link.state().phase.is_outage() && refusals.contains(&answered.status());
    let known = is_known(shared, &call, answered.status()).await;
    if known {
        guest.accept();
    }
    shared.clients.note(&call, known, here.then_some(answered.status()));
    match showing {
        Some(showing) => showing.answer(answered).await,
        None => answered,
    }
}

/// Whether who calls is who its token says: the cloud has done what it asked, or had accepted it before.
async fn is_known(shared: &Shared, call: &Call, code: StatusCode) -> bool {
    let Caller::Bearer(bearer) = &call.caller else { return true };
    issuer::vouches(call, code)
        || issuer::has_accepted(shared, bearer)
        || caller::accepted(&shared.cache, bearer).await.unwrap_or(false)
}

fn unauthorized(encoding: Encoding) -> Response<Body> {
    answer::failure(&Failure::unauthorized(), encoding)
}

/// Reads the body whole where it may have to be sent twice or understood here.
async fn payload(guest: &Guest, call: &Call, body: Incoming) -> Result<(Payload, Held), Response<Body>> {
    if http_body::Body::is_end_stream(&body) {
        return Ok((Payload::Whole(Bytes::new()), Held::default()));
    }
    let streams = match &call.request {
        KubeRequest::NonResource { .. } => true,
        KubeRequest::Resource(request) => matches!(request.verb, Verb::Connect | Verb::Unknown),
    };
    if streams {
        return Ok((Payload::Stream(body), Held::default()));
    }
    let failure = match guest.read(body, BODY_LIMIT, call.caller == Caller::Kubelet).await {
        Ok((whole, held)) => return Ok((Payload::Whole(whole.into()), held)),
        Err(Unread::TooLarge) => Failure::too_large(format!("limit is {BODY_LIMIT}")),
        Err(Unread::Full) => Failure::too_many_requests("too much is being written at once", Some(1)),
        Err(Unread::Late) => Failure::timeout("the request's body did not come in time", None),
        Err(Unread::Broke(error)) => Failure::bad_request(format!("the request broke off: {error}")),
    };
    Err(answer::failure(&failure, call.accept.encoding))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_connection_that_asks_something_stays() {
        let first = Notify::new();
        let patience = Duration::from_millis(20);
        silent(&first, patience).await;
        first.notify_one();
        let ended = tokio::time::timeout(4 * patience, silent(&first, patience)).await;
        assert!(ended.is_err());
    }
}
