//! Service account tokens while the cloud is away: the last real one for the same request.
//!
//! It is found by what was asked, never by what was answered, and never forgotten by age: an
//! expired token mounts as well as a fresh one, and the kubelet renews it once the cloud is back.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::answer::{self, Body};
use super::caller::{Bearer, Caller};
use super::forward::{Call, decode_body};
use super::input::Input;
use crate::cache::{Cache, PodToken, Purpose, TokenKey};
use crate::kube::{Encoding, ResourceRequest, Verb};

/// Seconds a token is for when the request does not say, as the API server has it.
const EXPIRATION: i64 = 3600;

/// The key of the TokenRequest that a call carries, kept with it until the answer comes.
#[derive(Clone, Debug)]
pub struct Asked(pub TokenKey);

impl Asked {
    /// What `call` asks for, if it is a TokenRequest of the kubelet's. Of anybody else's nothing is kept, and nothing is
    /// read before the cloud has said who calls: a body of three megabytes is a hundred times that once it is taken apart.
    pub fn of(call: &Call, body: &[u8]) -> Option<Self> {
        let request = call.request.resource().filter(|_| call.caller == Caller::Kubelet)?;
        let is_token = request.gvr.resource == "serviceaccounts"
            && request.subresource.as_deref() == Some("token")
            && request.verb == Verb::Create;
        if !is_token {
            return None;
        }
        Some(Self(key(request, &decode_body(&call.head.headers, body)?)))
    }
}

/// The key of a TokenRequest.
pub fn key(request: &ResourceRequest, body: &Value) -> TokenKey {
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let audiences = body.pointer("/spec/audiences").and_then(Value::as_array);
    let audiences: Vec<&str> = audiences.into_iter().flatten().filter_map(Value::as_str).collect();
    let bound = match text("/spec/boundObjectRef/uid") {
        "" => String::new(),
        uid => format!("{}/{uid}", text("/spec/boundObjectRef/kind")),
    };
    TokenKey {
        namespace: request.namespace.clone().unwrap_or_default(),
        account: request.name.clone().unwrap_or_default(),
        audiences: audiences.join("\n"),
        expiration: expiration(body),
        bound,
    }
}

/// The token by which the cloud is told something in the name of a pod's account: the newest of `tokens` that is for the
/// API server, as those are that were asked for without an audience, or with one that the cloud has `accepted` of that account.
pub fn to_tell_with(tokens: &[PodToken], accepted: &[Purpose]) -> Option<Bearer> {
    tokens.iter().find_map(|token| {
        let answer: Value = serde_json::from_slice(&token.body).ok()?;
        let bearer = Bearer::new(answer.pointer("/status/token")?.as_str()?);
        let purpose = bearer.purpose();
        let is_taken = token.is_default || accepted.iter().any(|one| one.meets(&purpose));
        is_taken.then_some(bearer)
    })
}

fn expiration(body: &Value) -> i64 {
    body.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(EXPIRATION)
}

/// Answers a TokenRequest.
pub async fn answer(
    cache: &Cache,
    request: &ResourceRequest,
    input: &Input,
    encoding: Encoding,
) -> Response<Body> {
    let Input::Object(asked) = input else {
        return answer::unavailable("the cloud is away", encoding);
    };
    let key = key(request, asked);
    let wanted = key.clone();
    match cache.read(move |reader| reader.token(&wanted)).await {
        Ok(Some(body)) => match serde_json::from_slice(&body) {
            Ok(token) => answer::object(StatusCode::CREATED, &token, encoding),
            Err(error) => answer::unavailable(&format!("a token in the cache is damaged: {error}"), encoding),
        },
        Ok(None) => {
            let (namespace, account) = (&key.namespace, &key.account);
            tracing::warn!(namespace, account, "no token was ever issued for this: a placeholder is mounted");
            answer::object(StatusCode::CREATED, &placeholder(asked.clone(), &key), encoding)
        }
        Err(error) => answer::unavailable(&error.to_string(), encoding),
    }
}

/// A token that nobody accepts, so that the pod can start at all. It says in its signature what it
/// is, and its lifetime is over at once, so that the kubelet asks again soon.
fn placeholder(mut request: Value, key: &TokenKey) -> Value {
    let now = crate::sys::clock::now();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(json!({"alg": "none", "typ": "JWT"}));
    let claims = part(json!({
        "sub": format!("system:serviceaccount:{}:{}", key.namespace, key.account),
        "aud": key.audiences.split('\n').filter(|a| !a.is_empty()).collect::<Vec<_>>(),
        "iat": now.as_second(),
        "exp": now.as_second(),
    }));
    let signature = URL_SAFE_NO_PAD.encode("placeholder of edge while the cloud is away");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["kind"] = json!("TokenRequest");
    request["status"] =
        json!({"token": format!("{head}.{claims}.{signature}"), "expirationTimestamp": time(now)});
    request
}

/// A time as Kubernetes writes it: whole seconds, UTC.
pub fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::Request;

    fn asked(spec: Value) -> TokenKey {
        let path = "/api/v1/namespaces/ns/serviceaccounts/sa/token";
        let request = Request::parse("POST", path, "");
        key(request.resource().unwrap(), &json!({"spec": spec}))
    }

    #[test]
    fn only_of_the_kubelets_requests_the_body_is_read() {
        let path = "/api/v1/namespaces/ns/serviceaccounts/sa/token";
        let asked = |token: Option<&str>, method: &str, path: &str, body: &[u8]| {
            let mut head = http::Request::new(()).into_parts().0;
            if let Some(token) = token {
                head.headers.insert(http::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            }
            let caller = Caller::of(token.is_none(), &head.headers).unwrap();
            let accept = answer::Accept::parse("application/json");
            Asked::of(&Call { head, caller, request: Request::parse(method, path, ""), accept }, body)
        };
        let body = br#"{"spec": {"audiences": ["a"]}}"#;
        assert_eq!(asked(None, "POST", path, body).unwrap().0.audiences, "a");
        assert!(asked(Some("x"), "POST", path, body).is_none(), "anybody says that he is somebody");
        assert!(asked(None, "GET", path, body).is_none());
        assert!(asked(None, "POST", "/api/v1/namespaces/ns/serviceaccounts", body).is_none());
        assert!(asked(None, "POST", path, b"no JSON").is_none());
    }

    #[test]
    fn what_a_newer_kubelet_asks_for_has_the_same_key() {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": ["a"]}});
        let mut headers = http::HeaderMap::new();
        let kind = http::HeaderValue::from_static("application/vnd.kubernetes.protobuf");
        headers.insert(http::header::CONTENT_TYPE, kind);
        let newer = decode_body(&headers, &crate::proxy::stand_in::newer(&body)).expect("it was not read");
        assert_eq!(asked(newer["spec"].clone()), asked(body["spec"].clone()));
    }

    #[test]
    fn the_key_is_all_of_what_was_asked() {
        let pod = |uid| {
            json!({"audiences": ["a", "b"], "expirationSeconds": 3607,
            "boundObjectRef": {"kind": "Pod", "name": "p", "uid": uid}})
        };
        assert_eq!(asked(pod("1")), asked(pod("1")));
        assert_ne!(asked(pod("1")), asked(pod("2")), "a pod of the same name is another pod");
        assert_ne!(asked(json!({})), asked(json!({"audiences": ["a"]})));
        assert_ne!(asked(json!({"expirationSeconds": 600})), asked(json!({"expirationSeconds": 601})));
        assert_eq!(asked(json!({})).expiration, 3600);
    }
}
