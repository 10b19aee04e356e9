//! Who is calling: the kubelet by its local certificate, others by their bearer token.
//!
//! Other users of the host and pods on its network reach 127.0.0.1 too, so nobody is served
//! without either. Online the cloud judges a token; offline only those are known that it accepted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::signature;
use crate::cache::{Cache, CacheError, Purpose, Writer};

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Holds a client certificate of the local authority: the kubelet of this node.
    Kubelet,
    /// Holds a bearer token.
    Bearer(Bearer),
}

/// A bearer token, known by what it says of itself and by its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer {
    token: String,
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(..)")
    }
}

pub use crate::cache::NODE;

impl Caller {
    /// Reads the caller off the connection and the headers; `None` is nobody, to be answered 401.
    ///
    /// A bearer token is known here by what is read here, and judged by the cloud by what the cloud reads: where the
    /// two might differ nobody is served. So there is one Authorization header, with one space, and a token without.
    pub fn of(has_certificate: bool, headers: &HeaderMap) -> Option<Self> {
        if has_certificate {
            return Some(Self::Kubelet);
        }
        let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        let is_one = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !scheme.eq_ignore_ascii_case("bearer") || !is_one {
            return None;
        }
        Some(Self::Bearer(Bearer { token: token.to_owned() }))
    }

    /// The name under which what this caller reads is kept.
    pub fn identity(&self) -> String {
        match self {
            Self::Kubelet => NODE.to_owned(),
            Self::Bearer(bearer) => bearer.identity(),
        }
    }
}

impl Bearer {
    /// SHA-256 of the token in hexadecimal: all that is kept of it.
    pub fn digest(&self) -> String {
        Sha256::digest(self.token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The subject and pod of a service account's token, so that its successor reads what it read;
    /// the hash of any other token. What a token says of itself counts only once the cloud has
    /// accepted it ([`accepted`]).
    pub fn identity(&self) -> String {
        let claims = self.claims();
        let subject = claims.as_ref().and_then(|c| c.get("sub")).and_then(Value::as_str);
        match subject {
            Some(subject) if subject.starts_with("system:serviceaccount:") => {
                let pod = claims.as_ref().and_then(|c| c.pointer("/kubernetes.io/pod/uid"));
                let pod = pod.and_then(Value::as_str).unwrap_or_default();
                format!("{subject}/{pod}")
            }
            _ => self.hashed(),
        }
    }

    /// The name of a token that says nothing of itself, or nothing that counts.
    pub fn hashed(&self) -> String {
        format!("token:{}", self.digest())
    }

    /// The Authorization header by which the cloud is asked in its name: of what was read here, and nothing else.
    pub fn authorization(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.token)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn claims(&self) -> Option<Value> {
        let mut parts = self.token.split('.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// Whether it says of itself that its time is over.
    fn is_over(&self) -> bool {
        let end = self.claims().as_ref().and_then(|claims| claims.get("exp")).and_then(Value::as_i64);
        end.is_some_and(|end| end <= crate::sys::clock::now().as_second())
    }

    /// Who has issued it and whom it is for, as it says of itself; empty where it does not.
    pub fn purpose(&self) -> Purpose {
        let claims = self.claims().unwrap_or_default();
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default().to_owned();
        let audiences = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        // A line each in the cache.
        Purpose { issuer, audiences: audiences.into_iter().filter(|one| !one.contains('\n')).collect() }
    }

    /// The id of the key that signed it.
    pub fn key_id(&self) -> Option<String> {
        signature::key_id(&self.token)
    }
}

/// Whether the cloud accepted this caller while it was there: this very token, or another one of the
/// same identity and issuer for one of the same audiences, whose signature holds against the issuer's
/// keys that were seen: a token for somebody else is none for the API. Expiry is not looked at: a
/// gateway in an outage cannot get a new token.
///
/// # Errors
/// When the cache cannot be read.
pub async fn accepted(cache: &Cache, bearer: &Bearer) -> Result<bool, CacheError> {
    let (digest, identity, kid) = (bearer.digest(), bearer.identity(), bearer.key_id());
    let purpose = bearer.purpose();
    let (known, jwk) = cache
        .read(move |r| {
            if r.caller(&digest)?.is_some() {
                return Ok((true, None));
            }
            if !r.purposes(&identity)?.iter().any(|accepted| accepted.meets(&purpose)) {
                return Ok((false, None));
            }
            Ok((false, kid.map(|kid| r.verifier(&kid)).transpose()?.flatten()))
        })
        .await?;
    Ok(known || jwk.is_some_and(|jwk| signature::holds(&bearer.token, &jwk)))
}

/// The cloud refused this caller. Of a token that is not over yet, this is about whom it stands for: the account or the
/// pod is gone, and no other token stands for them in the next outage. A token that is made up has no such say, nor one
/// for somebody else than the API.
///
/// # Errors
/// When the cache cannot be written.
pub fn refuse(writer: &Writer, bearer: &Bearer) -> Result<(), CacheError> {
    let (digest, identity) = (bearer.digest(), bearer.identity());
    let mut known = writer.has_accepted(&digest)?;
    if !known
        && let Some(kid) = bearer.key_id()
        && writer.purposes(&identity)?.iter().any(|accepted| accepted.meets(&bearer.purpose()))
    {
        known = writer.verifier(&kid)?.is_some_and(|jwk| signature::holds(&bearer.token, &jwk));
    }
    if known { writer.refuse_caller(&digest, &identity, !bearer.is_over()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, authorization.parse().unwrap());
        headers
    }

    fn jwt(claims: &str) -> Caller {
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        Caller::of(false, &headers(&format!("Bearer {token}"))).unwrap()
    }

    #[test]
    fn nobody_without_certificate_or_bearer_token() {
        assert_eq!(Caller::of(false, &HeaderMap::new()), None);
        for bad in ["Basic YTpi", "Bearer", "Bearer ", "Bearer  "] {
            assert_eq!(Caller::of(false, &headers(bad)), None, "{bad:?}");
        }
        assert_eq!(Caller::of(true, &HeaderMap::new()), Some(Caller::Kubelet));
    }

    /// An API server takes `Bearer  a` for no token at all, and of `Bearer a b` the first part alone.
    #[test]
    fn nobody_is_known_by_what_the_cloud_would_read_otherwise() {
        for bad in
            ["Bearer  a", "Bearer a b", "Bearer a ", "Bearer \ta", "Bearer a\tb", " Bearer a", "Bearer\ta"]
        {
            assert_eq!(Caller::of(false, &headers(bad)), None, "{bad:?}");
        }
        let mut two = headers("Bearer a");
        two.append(http::header::AUTHORIZATION, "Bearer b".parse().unwrap());
        assert_eq!(Caller::of(false, &two), None);
        let Some(Caller::Bearer(one)) = Caller::of(false, &headers("bearer a.b-c~d+e/f=")) else { panic!() };
        assert_eq!(one.authorization().unwrap(), "Bearer a.b-c~d+e/f=");
    }

    #[test]
    fn a_service_account_is_known_by_subject_and_pod() {
        let caller = jwt(r#"{"sub":"system:serviceaccount:ns:a","kubernetes.io":{"pod":{"uid":"u1"}}}"#);
        assert_eq!(caller.identity(), "system:serviceaccount:ns:a/u1");
        assert!(jwt(r#"{"sub":"somebody"}"#).identity().starts_with("token:"));
        assert!(!format!("{caller:?}").contains("e30"), "a token is never shown");
    }

    fn token(claims: &str) -> Bearer {
        match jwt(claims) {
            Caller::Bearer(bearer) => bearer,
            Caller::Kubelet => unreachable!(),
        }
    }

    /// A pod's token that ends then.
    fn of_pod(exp: i64) -> Bearer {
        let pod = r#"{"pod":{"uid":"u1"}}"#;
        token(&format!(r#"{{"sub":"system:serviceaccount:ns:a","exp":{exp},"kubernetes.io":{pod}}}"#))
    }

    async fn known(cache: &Cache, bearers: [&Bearer; 2]) -> [bool; 2] {
        [accepted(cache, bearers[0]).await.unwrap(), accepted(cache, bearers[1]).await.unwrap()]
    }

    #[tokio::test]
    async fn a_refusal_is_about_the_identity_unless_the_token_has_a_successor() {
        let (over, first, second) = (of_pod(1_000_000_000), of_pod(9_000_000_000), of_pod(9_000_000_001));
        let forged = of_pod(9_000_000_002);
        for (refused, earlier, expected) in [
            (&first, &first, [false, false]),
            (&second, &first, [false, false]),
            (&over, &over, [false, true]),
            (&forged, &first, [true, true]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
            for bearer in [earlier, &second] {
                let (digest, identity) = (bearer.digest(), bearer.identity());
                cache
                    .commit(move |w| w.accept_caller(&digest, &identity, &Purpose::default()))
                    .await
                    .unwrap();
                if *bearer != second {
                    // Which was first is known to the second.
                    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
                }
            }
            assert_eq!(known(&cache, [earlier, &second]).await, [true, true]);
            let bearer = refused.clone();
            cache.commit(move |w| refuse(w, &bearer)).await.unwrap();
            assert_eq!(known(&cache, [earlier, &second]).await, expected, "{}", refused.is_over());
        }
    }

    #[tokio::test]
    async fn the_last_token_of_all_leaves_none_before_it_and_a_pod_that_is_gone_none_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let (first, second) = (of_pod(1_000_000_000), of_pod(1_000_000_001));
        let accept = async || {
            for bearer in [&first, &second] {
                let (digest, identity) = (bearer.digest(), bearer.identity());
                cache
                    .commit(move |w| w.accept_caller(&digest, &identity, &Purpose::default()))
                    .await
                    .unwrap();
            }
        };
        accept().await;
        let last = second.clone();
        cache.commit(move |w| refuse(w, &last)).await.unwrap();
        assert_eq!(known(&cache, [&first, &second]).await, [false, false]);
        accept().await;
        cache.commit(|w| w.drop_tokens_of("Pod/u2")).await.unwrap();
        assert_eq!(known(&cache, [&first, &second]).await, [true, true]);
        cache.commit(|w| w.drop_tokens_of("Pod/u1")).await.unwrap();
        assert_eq!(known(&cache, [&first, &second]).await, [false, false]);
    }

    #[tokio::test]
    async fn a_signed_token_for_somebody_else_is_none_for_the_api() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let signer = signature::tests::Signer::new();
        let token = |iss: &str, aud: &str, jti: u32| {
            let sub = r#""sub":"system:serviceaccount:ns:a","kubernetes.io":{"pod":{"uid":"u1"}}"#;
            let claims = format!(r#"{{{sub},"iss":"{iss}","aud":{aud},"jti":"{jti}","exp":9000000000}}"#);
            Bearer { token: signer.sign(&claims) }
        };
        let first = token("cloud", r#"["api","other"]"#, 1);
        let (digest, identity, purpose) = (first.digest(), first.identity(), first.purpose());
        let keys = vec![("k".to_owned(), signer.jwk())];
        let accept = move |w: &mut Writer| {
            w.replace_verifiers(&keys)?;
            w.accept_caller(&digest, &identity, &purpose)
        };
        cache.commit(accept).await.unwrap();
        for (token, expected) in [
            (token("cloud", r#"["api"]"#, 2), true),
            (token("cloud", r#""api""#, 3), true),
            (token("cloud", r#"["vault"]"#, 4), false),
            (token("cloud", "[]", 5), false),
            (token("another", r#"["api"]"#, 6), false),
        ] {
            assert_eq!(accepted(&cache, &token).await.unwrap(), expected, "{:?}", token.purpose());
        }
        let vault = token("cloud", r#"["vault"]"#, 4);
        cache.commit(move |w| refuse(w, &vault)).await.unwrap();
        assert!(accepted(&cache, &first).await.unwrap(), "that it is refused says nothing of the others");
        let second = token("cloud", r#"["api"]"#, 7);
        cache.commit(move |w| refuse(w, &second)).await.unwrap();
        assert!(!accepted(&cache, &first).await.unwrap(), "a token for the API does");
    }
}
