//! Whom the cloud accepts, and the public keys by which its tokens are known while it is away.

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use super::Shared;
use super::answer;
use super::caller::{self, Bearer, Caller};
use super::forward::Call;
use super::upstream::As;
use crate::kube::{Request as KubeRequest, Verb};

/// Where an API server publishes the keys of its tokens (RFC 7517); every service account may read it.
const KEYS: &str = "/openid/v1/jwks";
/// Bytes of the keys at the most.
const LIMIT: usize = 1 << 20;
/// Hashes of accepted tokens kept in memory at the most.
const KNOWN: usize = 4096;

/// Whether an answer of `code` is the cloud's word that the token of `call` is good: only that it did what was asked of
/// its API. Some requests it answers before it looks at the token at all: one whose `timeout` it cannot read, and what
/// browsers ask first (OPTIONS); and whatever stands before it refuses as it likes.
pub fn vouches(call: &Call, code: StatusCode) -> bool {
    if !code.is_success() || call.head.method == Method::OPTIONS {
        return false;
    }
    match &call.request {
        KubeRequest::Resource(request) => request.verb != Verb::Unknown,
        KubeRequest::NonResource { path, .. } => {
            let path = path.trim_end_matches('/');
            path == "/api" || path == "/apis" || path.starts_with("/api/") || path.starts_with("/apis/")
        }
    }
}

/// Remembers whom the cloud accepts, and forgets whom it refuses. Every other answer says nothing of the token.
pub fn note_caller(shared: &Shared, call: &Call, code: StatusCode) {
    let Caller::Bearer(bearer) = &call.caller else { return };
    let vouched = vouches(call, code);
    if !shared.is_offline_mode() || !(vouched || code == StatusCode::UNAUTHORIZED) {
        return;
    }
    let (digest, identity) = (bearer.digest(), bearer.identity());
    let Ok(mut accepted) = shared.accepted.lock() else { return };
    if !vouched {
        // Those of the same identity that the cloud still accepts are written anew when they are used next.
        accepted.retain(|_, of| *of != identity);
        let bearer = bearer.clone();
        shared.cache.record(2048, move |writer| caller::refuse(writer, &bearer));
        return;
    }
    if accepted.len() >= KNOWN {
        accepted.clear();
    }
    if accepted.insert(digest.clone(), identity.clone()).is_none() {
        let purpose = bearer.purpose();
        shared.cache.record(64, move |writer| writer.accept_caller(&digest, &identity, &purpose));
        learn_keys(shared, bearer);
    }
}

/// Reads the issuer's keys in the name of a token that was just accepted, once for each key.
fn learn_keys(shared: &Shared, bearer: &Bearer) {
    let Some(kid) = bearer.key_id() else { return };
    if !shared.asked_keys.lock().is_ok_and(|mut asked| asked.insert(kid.clone())) {
        return;
    }
    let (upstream, cache, token) = (shared.upstream.clone(), shared.cache.clone(), bearer.token().to_owned());
    tokio::spawn(async move {
        let read = async {
            let known = cache.read(move |reader| reader.verifier(&kid)).await.map_err(|e| e.to_string())?;
            if known.is_some() {
                return Ok(());
            }
            let request = Request::get(KEYS)
                .header(header::AUTHORIZATION, format!("Bearer {token}"))
                .header(header::ACCEPT, "application/jwk-set+json,application/json")
                .body(answer::full(bytes::Bytes::new()))
                .map_err(|e| e.to_string())?;
            let (answered, _place) = upstream.send(As::Bearer, request).await.map_err(|e| e.to_string())?;
            if answered.status() != StatusCode::OK {
                return Err(format!("`{KEYS}` answers {}", answered.status()));
            }
            let body =
                Limited::new(answered.into_body(), LIMIT).collect().await.map_err(|e| e.to_string())?;
            let keys = read_keys(&body.to_bytes());
            cache.commit(move |writer| writer.replace_verifiers(&keys)).await.map_err(|e| e.to_string())
        };
        if let Err(error) = read.await {
            tracing::debug!(error, "the keys of the token issuer were not read");
        }
    });
}

/// Key ids and keys of a JSON web key set.
fn read_keys(set: &[u8]) -> Vec<(String, String)> {
    let set: Value = serde_json::from_slice(set).unwrap_or(Value::Null);
    let keys = set.get("keys").and_then(Value::as_array).into_iter().flatten();
    keys.filter_map(|key| Some((key.get("kid")?.as_str()?.to_owned(), key.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, path: &str, query: &str) -> Call {
        let mut head = Request::new(()).into_parts().0;
        head.method = method.parse().unwrap();
        head.headers.insert(header::AUTHORIZATION, "Bearer a.b.c".parse().unwrap());
        let caller = Caller::of(false, &head.headers).unwrap();
        let accept = answer::Accept::parse("application/json");
        Call { head, caller, request: KubeRequest::parse(method, path, query), accept }
    }

    #[test]
    fn only_what_the_api_did_vouches_for_a_token() {
        let pods = "/api/v1/namespaces/a/pods";
        for (method, path, code, vouched) in [
            ("GET", pods, 200, true),
            ("POST", pods, 201, true),
            ("GET", "/api", 200, true),
            ("GET", "/apis/apps/v1", 200, true),
            ("GET", pods, 400, false),
            ("GET", pods, 401, false),
            ("GET", pods, 403, false),
            ("GET", pods, 404, false),
            ("GET", pods, 429, false),
            ("GET", pods, 503, false),
            ("GET", pods, 304, false),
            ("OPTIONS", pods, 200, false),
            ("OPTIONS", pods, 204, false),
            ("GET", "/version", 200, false),
            ("GET", "/healthz", 200, false),
            ("GET", "/", 200, false),
        ] {
            let code = StatusCode::from_u16(code).unwrap();
            assert_eq!(vouches(&call(method, path, ""), code), vouched, "{method} {path} {code}");
        }
    }
}
