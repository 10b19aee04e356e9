//! Who is calling: the kubelet by its local certificate, others by their bearer token.
//!
//! Other users of the host and pods on its network reach 127.0.0.1 too, so nobody is served
//! without either. Online the cloud judges a token; offline only those are known that it accepted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};

use super::own_issuers::OwnIssuers;
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
    /// Of another issuer than the cluster's own, as far as those are known: its subject is none of the cluster's names.
    is_foreign: bool,
}

/// What a token says of itself. Nothing else of it is read, for anybody may send one, and it has not been judged yet.
#[derive(Debug, Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    iss: Option<String>,
    #[serde(default)]
    aud: Audiences,
    exp: Option<serde_json::Number>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Debug, Deserialize)]
struct Kubernetes {
    pod: Option<Pod>,
}

#[derive(Debug, Deserialize)]
struct Pod {
    uid: Option<String>,
}

/// One text, or a list of them (RFC 7519, 4.1.3).
#[derive(Debug, Default)]
struct Audiences(Vec<String>);

impl<'de> Deserialize<'de> for Audiences {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Vec<String>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E>(self, one: &str) -> Result<Self::Value, E> {
                Ok(vec![one.to_owned()])
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Vec::new())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut many: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = many.next_element()? {
                    all.push(one);
                }
                Ok(all)
            }
        }
        source.deserialize_any(OneOrMany).map(Self)
    }
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
        Some(Self::Bearer(Bearer::new(token)))
    }

    /// The same, where the cluster's own issuers are `own`.
    #[must_use]
    pub fn known_by(self, own: &OwnIssuers) -> Self {
        match self {
            Self::Kubelet => Self::Kubelet,
            Self::Bearer(bearer) => {
                let is_foreign = bearer.account().is_some_and(|claims| own.excludes(&claims.issuer()));
                Self::Bearer(Bearer { is_foreign, ..bearer })
            }
        }
    }

    /// The name under which what this caller reads is kept.
    pub fn identity(&self) -> String {
        match self {
            Self::Kubelet => NODE.to_owned(),
            Self::Bearer(bearer) => bearer.identity(),
        }
    }
}

impl Claims {
    fn issuer(&self) -> String {
        self.iss.clone().unwrap_or_default()
    }
}

impl Bearer {
    /// Of a token as it stands in a header.
    pub fn new(token: &str) -> Self {
        Self { token: token.to_owned(), is_foreign: false }
    }

    /// SHA-256 of the token in hexadecimal: all that is kept of it.
    pub fn digest(&self) -> String {
        Sha256::digest(self.token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The subject and pod of a token of the cluster's service accounts, so that its successor reads what it read;
    /// the hash of any other token. What a token says of itself counts only once the cloud has
    /// accepted it ([`accepted`]).
    pub fn identity(&self) -> String {
        match self.account() {
            Some(Claims { sub: Some(subject), kubernetes, .. }) if !self.is_foreign => {
                let pod = kubernetes.and_then(|of| of.pod).and_then(|pod| pod.uid).unwrap_or_default();
                format!("{subject}/{pod}")
            }
            _ => self.hashed(),
        }
    }

    /// What it says of itself, if that is that it stands for a service account.
    fn account(&self) -> Option<Claims> {
        let is_account = |sub: &String| sub.starts_with("system:serviceaccount:");
        self.claims().filter(|claims| claims.sub.as_ref().is_some_and(is_account))
    }

    /// Its issuer, if it says that it stands for a service account.
    pub fn account_issuer(&self) -> Option<String> {
        self.account().map(|claims| claims.issuer())
    }

    /// Whether the key `jwk` has signed it.
    pub fn holds(&self, jwk: &str) -> bool {
        signature::holds(&self.token, jwk)
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

    fn claims(&self) -> Option<Claims> {
        let mut parts = self.token.split('.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// Whether it says of itself that its time is over.
    fn is_over(&self) -> bool {
        let end = self.claims().and_then(|claims| claims.exp?.as_i64());
        end.is_some_and(|end| end <= crate::sys::clock::now().as_second())
    }

    /// Who has issued it and whom it is for, as it says of itself; empty where it does not.
    pub fn purpose(&self) -> Purpose {
        let claims = self.claims().unwrap_or_default();
        let (issuer, Audiences(audiences)) = (claims.issuer(), claims.aud);
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
            if r.caller(&digest)?.is_some_and(|known| known == identity) {
                return Ok((true, None));
            }
            if !r.purposes(&identity)?.iter().any(|accepted| accepted.meets(&purpose)) {
                return Ok((false, None));
            }
            Ok((false, kid.map(|kid| r.verifier(&kid)).transpose()?.flatten()))
        })
        .await?;
    Ok(known || jwk.is_some_and(|jwk| bearer.holds(&jwk)))
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
        known = writer.verifier(&kid)?.is_some_and(|jwk| bearer.holds(&jwk));
    }
    if known { writer.refuse_caller(&digest, &identity, !bearer.is_over()) } else { Ok(()) }
}

#[cfg(test)]
#[path = "caller_tests.rs"]
mod tests;
