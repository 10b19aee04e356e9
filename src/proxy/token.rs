//! Service account tokens while the cloud is away: the last real one for the same request.
//!
//! It is found by what was asked, never by what was answered, and never forgotten by age: an
//! expired token mounts as well as a fresh one, and the kubelet renews it once the cloud is back.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::answer::{self, Body};
use super::input::Input;
use crate::cache::{Cache, TokenKey};
use crate::kube::{Encoding, ResourceRequest};

/// Seconds a token is for when the request does not say, as the API server has it.
const EXPIRATION: i64 = 3600;

/// The key of the TokenRequest that a call carries, kept with it until the answer comes.
#[derive(Clone, Debug)]
pub struct Asked(pub TokenKey);

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
