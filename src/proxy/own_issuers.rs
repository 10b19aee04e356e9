//! Who issues the tokens of the cluster's own service accounts (`iss`).
//!
//! An API server may take the tokens of other issuers too, another cluster's or a login service's, and gives their
//! bearers names that no token says. Only of the cluster's own does the subject say who calls. Its issuers are known by
//! the tokens that kubelet asked for, and by those that hold against the keys which the API server publishes.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use super::caller::Bearer;
use crate::cache::{Cache, CacheError, Reader};

/// Under which name they are kept, a line each.
const META: &str = "own-issuers";
/// Of tokens that lie in a Secret, whatever the cluster calls itself. Nobody but an API server's own part for service
/// accounts takes it, since it is no address.
const LEGACY: &str = "kubernetes/serviceaccount";
/// How many are remembered: a cluster that changes its name has two for a while.
const MOST: usize = 16;

/// The issuers that are known; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OwnIssuers {
    known: Arc<RwLock<BTreeSet<String>>>,
}

impl OwnIssuers {
    /// Those that are kept; of a cache that an earlier release has filled, those of kubelet's tokens.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub async fn of(cache: &Cache) -> Result<Self, CacheError> {
        let read = |reader: &Reader| {
            let kept = reader.meta(META)?.unwrap_or_default();
            let tokens = if kept.is_empty() { reader.pod_tokens()? } else { Vec::new() };
            Ok((kept, tokens))
        };
        let (kept, tokens) = cache.read(read).await?;
        let known = kept.lines().map(str::to_owned).collect();
        let own = Self { known: Arc::new(RwLock::new(known)) };
        // All at once: by the first alone whoever has a token of the second would be none of the cluster's accounts.
        let issuers = tokens.iter().filter_map(|body| {
            let body: serde_json::Value = serde_json::from_slice(body).ok()?;
            let token = body.pointer("/status/token").and_then(serde_json::Value::as_str)?;
            Some(Bearer::new(token).purpose().issuer)
        });
        own.learn_all(cache, issuers);
        Ok(own)
    }

    /// Whether `issuer` is one.
    pub fn contains(&self, issuer: &str) -> bool {
        issuer == LEGACY || self.known.read().unwrap_or_else(PoisonError::into_inner).contains(issuer)
    }

    /// Whether `issuer` is known to be none. Until the first is known, no other is.
    pub fn excludes(&self, issuer: &str) -> bool {
        let is_any = !self.known.read().unwrap_or_else(PoisonError::into_inner).is_empty();
        is_any && !self.contains(issuer)
    }

    /// A token that the cloud gave kubelet: its issuer is one.
    pub fn learn_token(&self, cache: &Cache, token: Option<&str>) {
        if let Some(token) = token {
            self.learn(cache, &Bearer::new(token).purpose().issuer);
        }
    }

    /// `issuer` is one. Whoever went by the name of a service account with a token of another issuer, or by none with one of
    /// this, does so no more, and what was kept for them is read anew.
    pub fn learn(&self, cache: &Cache, issuer: &str) {
        self.learn_all(cache, [issuer.to_owned()]);
    }

    fn learn_all(&self, cache: &Cache, issuers: impl IntoIterator<Item = String>) {
        let is_one = |issuer: &String| !issuer.is_empty() && !issuer.contains('\n') && !self.contains(issuer);
        let new: BTreeSet<String> = issuers.into_iter().filter(is_one).take(MOST).collect();
        if new.is_empty() {
            return;
        }
        let size = new.iter().map(String::len).sum();
        for issuer in &new {
            tracing::info!(issuer, "issues the tokens of the cluster's service accounts");
        }
        let own: Vec<String> = {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() + new.len() > MOST {
                known.clear();
            }
            known.extend(new);
            known.iter().cloned().collect()
        };
        cache.record(size, move |writer| {
            writer.set_meta(META, &own.join("\n"))?;
            let accepted: Vec<&str> = own.iter().map(String::as_str).chain([LEGACY]).collect();
            writer.keep_callers_of(&accepted)
        });
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::cache::Object;
    use crate::proxy::caller::{self, Caller};

    fn bearer(own: &OwnIssuers, issuer: &str) -> Bearer {
        let claims = serde_json::json!({"iss": issuer, "sub": "system:serviceaccount:ns:a", "aud": "api",
            "kubernetes.io": {"pod": {"uid": "u"}}});
        let token = format!("Bearer e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, token.parse().unwrap());
        match Caller::of(false, &headers).unwrap().known_by(own) {
            Caller::Bearer(bearer) => bearer,
            Caller::Kubelet => unreachable!(),
        }
    }

    const VICTIM: &str = "system:serviceaccount:ns:a/u";

    #[tokio::test]
    async fn a_token_of_another_issuer_goes_by_no_account_s_name() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let own = OwnIssuers::of(&cache).await.unwrap();
        let (victim, other, legacy) =
            (bearer(&own, "https://own"), bearer(&own, "https://other"), bearer(&own, LEGACY));
        // The cloud has accepted all before it was known whose they are.
        for accepted in [victim.clone(), other.clone(), legacy.clone()] {
            let (digest, identity, purpose) = (accepted.digest(), accepted.identity(), accepted.purpose());
            cache.commit(move |w| w.accept_caller(&digest, &identity, &purpose)).await.unwrap();
        }
        let body = serde_json::json!({"metadata": {"name": "s", "namespace": "ns", "resourceVersion": "1"}});
        let secret = Object::new("v1/secrets", body).unwrap();
        let kept = secret.clone();
        cache.commit(move |w| w.put_single(VICTIM, &kept)).await.unwrap();
        let lost = *cache.lost().borrow();
        own.learn(&cache, "https://own");
        cache.flush().await.unwrap();
        for (issuer, expected) in [("https://own", VICTIM), (LEGACY, VICTIM)] {
            let bearer = bearer(&own, issuer);
            assert_eq!(bearer.identity(), expected, "{issuer}");
            assert!(caller::accepted(&cache, &bearer).await.unwrap(), "{issuer}");
        }
        let other = bearer(&own, "https://other");
        assert!(other.identity().starts_with("token:"), "{}", other.identity());
        assert!(!caller::accepted(&cache, &other).await.unwrap(), "as whom it was accepted it is none");
        let key = secret.key.clone();
        assert!(cache.read(move |r| r.get(VICTIM, &key)).await.unwrap().is_none(), "whoever had that read");
        assert_eq!(*cache.lost().borrow(), lost + 1, "what it watches is read anew");
        // It is accepted anew, as itself.
        let (digest, identity, purpose) = (other.digest(), other.identity(), other.purpose());
        cache.commit(move |w| w.accept_caller(&digest, &identity, &purpose)).await.unwrap();
        assert!(caller::accepted(&cache, &other).await.unwrap());
        let again = OwnIssuers::of(&cache).await.unwrap();
        assert!(again.contains("https://own") && again.excludes("https://other"), "{again:?}");
        // It was the cluster's after all, which has changed its name.
        own.learn(&cache, "https://other");
        cache.flush().await.unwrap();
        assert!(!caller::accepted(&cache, &other).await.unwrap());
        assert_eq!(bearer(&own, "https://other").identity(), VICTIM);
        assert_eq!(*cache.lost().borrow(), lost + 2, "what it watches is read anew");
    }

    #[tokio::test]
    async fn what_kubelet_was_given_before_says_who_issues() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        for (issuer, account) in [("https://own", "a"), ("https://renamed", "b")] {
            let path = format!("/api/v1/namespaces/ns/serviceaccounts/{account}/token");
            let request = crate::kube::Request::parse("POST", &path, "");
            let key = crate::proxy::token::key(request.resource().unwrap(), &serde_json::json!({}));
            let claims = URL_SAFE_NO_PAD.encode(serde_json::json!({ "iss": issuer }).to_string());
            let body = serde_json::json!({"status": {"token": format!("e30.{claims}.c2ln")}}).to_string();
            cache.commit(move |w| w.put_token(&key, body.as_bytes())).await.unwrap();
            let purpose = bearer(&OwnIssuers::default(), issuer).purpose();
            cache.commit(move |w| w.accept_caller(issuer, VICTIM, &purpose)).await.unwrap();
        }
        let own = OwnIssuers::of(&cache).await.unwrap();
        cache.flush().await.unwrap();
        for issuer in ["https://own", "https://renamed"] {
            assert!(own.contains(issuer), "{own:?}");
            let kept = cache.read(move |r| r.caller(issuer)).await.unwrap();
            assert_eq!(
                kept.as_deref(),
                Some(VICTIM),
                "by the first that is learnt, those of the other are none"
            );
        }
    }
}
