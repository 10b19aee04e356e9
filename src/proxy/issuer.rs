//! Whom the cloud accepts, and the public keys by which its tokens are known while it is away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use tokio::time::Instant;

use super::Shared;
use super::answer;
use super::caller::{self, Bearer, Caller};
use super::forward::Call;
use super::upstream::{As, Upstream};
use crate::cache::Cache;
use crate::kube::{Request as KubeRequest, Verb};

/// Where an API server publishes the keys of its tokens (RFC 7517); every service account may read it.
const KEYS: &str = "/openid/v1/jwks";
/// Bytes of the keys at the most.
const LIMIT: usize = 1 << 20;
/// Hashes of accepted tokens kept in memory at the most.
const KNOWN: usize = 4096;
/// Key ids kept in memory at the most.
const KEY_IDS: usize = 64;
/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time until keys that could not be read are asked for again; it doubles each time.
const PAUSE: Duration = Duration::from_secs(60);
/// The longest such time.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Whether an answer of `code` is the cloud's word that the token of `call` is good: only that it did with its objects
/// what it does for nobody unknown. Some requests it answers before it looks at the token at all: one whose `timeout`
/// it cannot read, and what browsers ask first (OPTIONS); whatever stands before it refuses as it likes. And some it
/// answers to anybody: paths that are no resource (`system:public-info-viewer`, and in older clusters
/// `system:discovery` and `system:basic-user`), and what a cluster tells those that want to join it.
pub fn vouches(call: &Call, code: StatusCode) -> bool {
    let KubeRequest::Resource(request) = &call.request else { return false };
    let is_public = request.namespace.as_deref() == Some("kube-public")
        || request.gvr.resource.starts_with("selfsubject");
    code.is_success() && call.head.method != Method::OPTIONS && request.verb != Verb::Unknown && !is_public
}

/// Remembers whom the cloud accepts, and forgets whom it refuses. Every other answer says nothing of the token.
pub fn note_caller(shared: &Shared, call: &Call, code: StatusCode) {
    let Caller::Bearer(bearer) = &call.caller else { return };
    let vouched = vouches(call, code);
    if !shared.is_offline_mode() || !(vouched || code == StatusCode::UNAUTHORIZED) {
        return;
    }
    let (digest, identity, era) = (bearer.digest(), bearer.identity(), shared.cache.era());
    let Ok(mut accepted) = shared.accepted.lock() else { return };
    if !vouched {
        // Those of the same identity that the cloud still accepts are written anew when they are used next.
        accepted.retain(|_, of| of.0 != identity);
        let bearer = bearer.clone();
        shared.cache.record(2048, move |writer| caller::refuse(writer, &bearer));
        return;
    }
    if accepted.len() >= KNOWN {
        accepted.clear();
    }
    // What was lost on a full disk is written when it is used again.
    let now = (identity.clone(), era);
    let is_new = accepted.insert(digest.clone(), now.clone()).is_none_or(|before| before != now);
    if is_new {
        let purpose = bearer.purpose();
        shared.cache.record(64, move |writer| writer.accept_caller(&digest, &identity, &purpose));
    }
    drop(accepted);
    // Each answer passes here: a token is taken apart only where that may lead to a key.
    if is_new || is_one_unread(&shared.asked_keys) {
        learn_keys(shared, bearer);
    }
}

/// Whether the cloud has accepted this very token since the daemon started, and not refused it since.
pub fn has_accepted(shared: &Shared, bearer: &Bearer) -> bool {
    let accepted = shared.accepted.lock();
    accepted.is_ok_and(|accepted| accepted.get(&bearer.digest()).is_some_and(|of| of.0 == bearer.identity()))
}

/// When the issuer's keys were asked for last because of one key id.
#[derive(Debug)]
pub struct Asked {
    at: Instant,
    /// Time until they are asked for again; `None` once they were read.
    pause: Option<Duration>,
}

/// The key ids for which the keys were asked for.
pub type AskedKeys = Arc<Mutex<HashMap<String, Asked>>>;

/// Whether it is time to ask for the keys because of `kid`; notes that it is done.
fn is_time(asked: &AskedKeys, kid: &str) -> bool {
    let Ok(mut asked) = asked.lock() else { return false };
    let now = Instant::now();
    let pause = match asked.get(kid) {
        Some(before) if before.pause.is_none_or(|pause| now < before.at + pause) => return false,
        Some(before) => before.pause.map_or(PAUSE, |pause| (2 * pause).min(LONGEST_PAUSE)),
        None => PAUSE,
    };
    if asked.len() >= KEY_IDS {
        asked.clear();
    }
    asked.insert(kid.to_owned(), Asked { at: now, pause: Some(pause) });
    true
}

/// Whether keys were asked for and not read.
fn is_one_unread(asked: &AskedKeys) -> bool {
    asked.lock().is_ok_and(|asked| asked.values().any(|asked| asked.pause.is_some()))
}

/// Reads the issuer's keys in the name of a token that was just accepted: once for each key, and where that fails with
/// the next one that is accepted after a pause. They are the API server's own, whoever reads them: a token that holds
/// against one says who issues the cluster's.
fn learn_keys(shared: &Shared, bearer: &Bearer) {
    let Some(kid) = bearer.key_id() else { return };
    let own = shared.own_issuers.clone();
    let issuer = bearer.account_issuer().filter(|issuer| !own.contains(issuer));
    let is_time = is_time(&shared.asked_keys, &kid);
    if !is_time && issuer.is_none() {
        return;
    }
    let Some(token) = bearer.authorization() else { return };
    let (upstream, cache) = (shared.upstream.clone(), shared.cache.clone());
    let (asked, bearer) = (shared.asked_keys.clone(), bearer.clone());
    tokio::spawn(async move {
        let read = if is_time { read_issuer(&upstream, &cache, token, kid.clone()).await } else { Ok(()) };
        if let (Ok(()), Some(issuer)) = (&read, issuer) {
            let id = kid.clone();
            let key = cache.read(move |reader| reader.verifier(&id)).await.ok().flatten();
            if key.is_some_and(|jwk| bearer.holds(&jwk)) {
                own.learn(&cache, &issuer);
            }
        }
        if !is_time {
            return;
        }
        match read {
            Ok(()) => {
                if let Ok(mut asked) = asked.lock()
                    && let Some(asked) = asked.get_mut(&kid)
                {
                    asked.pause = None;
                }
            }
            Err(error) => tracing::debug!(error, "the keys of the token issuer were not read"),
        }
    });
}

/// Reads the keys, unless `kid` is among those that are known.
async fn read_issuer(
    upstream: &Upstream,
    cache: &Cache,
    token: HeaderValue,
    kid: String,
) -> Result<(), String> {
    let known = cache.read(move |reader| reader.verifier(&kid)).await.map_err(|e| e.to_string())?;
    if known.is_some() {
        return Ok(());
    }
    let request = Request::get(KEYS)
        .header(header::AUTHORIZATION, token)
        .header(header::ACCEPT, "application/jwk-set+json,application/json")
        .body(answer::full(bytes::Bytes::new()))
        .map_err(|e| e.to_string())?;
    let exchange = async {
        let (answered, _place) = upstream.send(As::Bearer, request).await.map_err(|e| e.to_string())?;
        if answered.status() != StatusCode::OK {
            return Err(format!("`{KEYS}` answers {}", answered.status()));
        }
        let body = Limited::new(answered.into_body(), LIMIT).collect().await.map_err(|e| e.to_string())?;
        Ok(body.to_bytes())
    };
    let late = || format!("no answer within {} s", PATIENCE.as_secs());
    let keys = read_keys(&tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| late())??);
    if keys.is_empty() {
        return Err(format!("`{KEYS}` answers no keys"));
    }
    cache.commit(move |writer| writer.replace_verifiers(&keys)).await.map_err(|e| e.to_string())
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
    use crate::proxy::stand_in;

    fn call(method: &str, path: &str, query: &str) -> Call {
        let mut head = Request::new(()).into_parts().0;
        head.method = method.parse().unwrap();
        head.headers.insert(header::AUTHORIZATION, "Bearer a.b.c".parse().unwrap());
        let caller = Caller::of(false, &head.headers).unwrap();
        let accept = answer::Accept::parse("application/json");
        Call { head, caller, request: KubeRequest::parse(method, path, query), accept }
    }

    #[test]
    fn only_what_the_api_does_for_nobody_unknown_vouches_for_a_token() {
        let pods = "/api/v1/namespaces/a/pods";
        for (method, path, code, vouched) in [
            ("GET", pods, 200, true),
            ("POST", pods, 201, true),
            ("GET", "/api/v1/namespaces/a", 200, true),
            ("GET", "/apis/apps/v1/deployments", 200, true),
            ("GET", "/api", 200, false),
            ("GET", "/apis/apps/v1", 200, false),
            ("GET", "/api/v1/namespaces/kube-public/configmaps/cluster-info", 200, false),
            ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 201, false),
            ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", 201, false),
            ("GET", pods, 400, false),
            ("GET", pods, 401, false),
            ("GET", pods, 403, false),
            ("GET", pods, 404, false),
            ("GET", pods, 429, false),
            ("GET", pods, 503, false),
            ("GET", pods, 304, false),
            ("OPTIONS", pods, 200, false),
            ("OPTIONS", pods, 204, false),
            ("GET", "/openapi/v3/apis/apps/v1", 200, false),
            ("GET", "/version", 200, false),
            ("GET", "/healthz", 200, false),
            ("GET", "/", 200, false),
        ] {
            let code = StatusCode::from_u16(code).unwrap();
            assert_eq!(vouches(&call(method, path, ""), code), vouched, "{method} {path} {code}");
        }
    }

    async fn proxy(cloud: &stand_in::Cloud, cache: &Cache) -> (crate::proxy::Proxy, crate::link::Owner) {
        let parts = crate::proxy::Parts {
            cache: cache.clone(),
            credentials: cloud.credentials.clone(),
            ca: cloud.ca.clone(),
            probe_interval: Duration::from_secs(60),
            offline_mode: true,
            in_cluster: None,
            clients: Default::default(),
        };
        crate::proxy::Proxy::new(parts).await.unwrap()
    }

    /// Whom the cloud accepts, and what it lets a client tell, is noted once; but a full disk takes neither.
    #[tokio::test]
    async fn what_a_full_disk_did_not_take_is_noted_again() {
        let answers = |_| Box::pin(std::future::ready(stand_in::json(503, &serde_json::json!({})))) as _;
        let cloud = stand_in::Cloud::new(Arc::new(answers)).await;
        let cache = Cache::open(cloud.folder.path(), cloud.folder.path()).unwrap().cache;
        let (proxy, _owner) = proxy(&cloud, &cache).await;
        let call = call("PATCH", "/api/v1/namespaces/a/pods/p/status", "");
        let answered = || {
            note_caller(&proxy.shared, &call, StatusCode::OK);
            drop(proxy.shared.recording(&call, StatusCode::OK, &http::HeaderMap::new()));
        };
        let known = async || {
            let Caller::Bearer(bearer) = &call.caller else { unreachable!() };
            let (identity, digest) = (bearer.identity(), bearer.digest());
            let key = crate::proxy::replay::key_of(call.request.resource().unwrap());
            let right = crate::proxy::statuses::right(&key);
            let known =
                cache.commit(move |w| Ok((w.has_accepted(&digest)?, w.has_written(&identity, &right)?)));
            known.await.unwrap()
        };
        let settled = async |trouble: bool| {
            let mut follow = cache.follow_trouble();
            let told = follow.wait_for(|why| why.is_some() == trouble);
            tokio::time::timeout(Duration::from_secs(20), told).await.expect("a word on the disk").unwrap();
        };
        cache.flush().await.unwrap();
        answered();
        let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let full = rusqlite::Error::SqliteFailure(full, None);
        cache.record(0, move |_| Err(crate::cache::CacheError::Statement(full)));
        settled(true).await;
        settled(false).await;
        assert_eq!(known().await, (false, false), "nothing was lost");
        answered();
        assert_eq!(known().await, (true, true));
        let before = cache.batches();
        answered();
        cache.flush().await.unwrap();
        assert_eq!(cache.batches(), before + 1, "what is kept is noted once");
    }

    #[tokio::test]
    async fn keys_that_could_not_be_read_are_asked_for_again() {
        let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let count = asked.clone();
        let cloud = stand_in::Cloud::new(Arc::new(move |head: http::request::Parts| {
            assert_eq!(head.uri.path(), KEYS);
            let first = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            let keys = serde_json::json!({"keys": [{"kid": "k", "kty": "RSA"}]});
            let answered =
                if first { stand_in::json(503, &serde_json::json!({})) } else { stand_in::json(200, &keys) };
            Box::pin(std::future::ready(answered))
        }))
        .await;
        let cache = Cache::open(cloud.folder.path(), cloud.folder.path()).unwrap().cache;
        let (proxy, _owner) = proxy(&cloud, &cache).await;
        let mut call = call("GET", "/api/v1/pods", "");
        let token = crate::proxy::signature::tests::Signer::new().sign("{}");
        call.head.headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        call.caller = Caller::of(false, &call.head.headers).unwrap();
        let count = |n: u32| {
            let asked = asked.clone();
            async move {
                while asked.load(std::sync::atomic::Ordering::Relaxed) < n {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        note_caller(&proxy.shared, &call, StatusCode::OK);
        tokio::time::timeout(Duration::from_secs(10), count(1)).await.expect("the keys are asked for");
        note_caller(&proxy.shared, &call, StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1, "not at once");
        proxy.shared.asked_keys.lock().unwrap().get_mut("k").unwrap().at -= PAUSE;
        note_caller(&proxy.shared, &call, StatusCode::OK);
        let known = async {
            while cache.read(|reader| reader.verifier("k")).await.unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), known).await.expect("the keys are known");
        for _ in 0..3 {
            note_caller(&proxy.shared, &call, StatusCode::OK);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 2, "once they are known, no more");
    }
}
