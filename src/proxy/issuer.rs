//! Whom the cloud accepts, and the public keys by which its tokens are known while it is away.

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use super::Shared;
use super::answer;
use super::caller::{self, Bearer, Caller};
use super::forward::Call;
use super::upstream::As;

/// Where an API server publishes the keys of its tokens (RFC 7517); every service account may read it.
const KEYS: &str = "/openid/v1/jwks";
/// Bytes of the keys at the most.
const LIMIT: usize = 1 << 20;
/// Hashes of accepted tokens kept in memory at the most.
const KNOWN: usize = 4096;

/// Remembers whom the cloud accepts, and forgets whom it refuses.
pub fn note_caller(shared: &Shared, call: &Call, code: StatusCode) {
    let Caller::Bearer(bearer) = &call.caller else { return };
    if !shared.is_offline_mode() || code.is_server_error() {
        return;
    }
    let (digest, identity) = (bearer.digest(), bearer.identity());
    let Ok(mut accepted) = shared.accepted.lock() else { return };
    if code == StatusCode::UNAUTHORIZED {
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
        shared.cache.record(64, move |writer| writer.accept_caller(&digest, &identity));
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
