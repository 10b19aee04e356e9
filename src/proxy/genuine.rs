//! Whether an answer is an API server's, or of something that stands before it. A load balancer that has lost its servers, or
//! a portal, does not always say 503: some answer with a page of their own, and 404, 403 or 200 there is no word of the cloud's.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::kube::meta;

/// Whether the head of an answer leaves open who says so: it refuses or leads elsewhere, and lacks what an API server writes
/// on each answer, be it in plain text or of an API that it passes on (`Audit-Id`, and since 1.20 its flow schema).
pub fn is_open(code: StatusCode, headers: &HeaderMap) -> bool {
    let refuses = match code {
        // Who is asked too much may say so in whatever way; who is not known is looked into by others.
        StatusCode::NOT_MODIFIED | StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS => false,
        code => code.is_redirection() || code.is_client_error(),
    };
    refuses && !is_marked(headers)
}

fn is_marked(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name == "audit-id" || name.as_str().starts_with("x-kubernetes-pf-"))
}

fn kind(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok())
}

/// Whether it is the page of somebody who says that all is well, as a portal does to a person.
pub fn is_portal(code: StatusCode, headers: &HeaderMap) -> bool {
    code.is_success()
        && !is_marked(headers)
        && kind(headers).is_some_and(|kind| kind.starts_with("text/html"))
}

/// Whether it may be a page of somebody else's, where the body is not read yet: an API server refuses in JSON, protobuf, or
/// what else it was asked for, and not with a page.
pub fn may_be_a_page(code: StatusCode, headers: &HeaderMap) -> bool {
    let is_page = kind(headers).is_none_or(|kind| !kind.starts_with("application/"));
    is_portal(code, headers) || is_open(code, headers) && is_page
}

/// Whether it is somebody else's, where it was read: a refusal that is no `Status`, by which an API server says what it refuses.
pub fn is_strange(code: StatusCode, headers: &HeaderMap, body: &Value) -> bool {
    is_portal(code, headers) || is_open(code, headers) && meta::kind(body) != Some("Status")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_api_server_is_known_by_its_headers_its_types_and_its_status() {
        let (status, page) = (json!({"kind": "Status", "code": 404}), Value::Null);
        for (code, header, kind, body, by_head, whole) in [
            (404, "", "text/html", &page, true, true),
            (403, "", "text/plain; charset=utf-8", &page, true, true),
            (302, "location", "", &page, true, true),
            (400, "", "", &page, true, true),
            // A gateway for APIs.
            (
                404,
                "",
                "application/json; charset=utf-8",
                &json!({"message": "no Route matched"}),
                false,
                true,
            ),
            (404, "", "application/json", &status, false, false),
            (403, "", "application/vnd.kubernetes.protobuf", &status, false, false),
            (404, "audit-id", "text/plain; charset=utf-8", &page, false, false),
            (404, "x-kubernetes-pf-flowschema-uid", "text/plain", &page, false, false),
            (429, "", "text/plain", &page, false, false),
            (401, "", "text/html", &page, false, false),
            (304, "", "", &page, false, false),
            // A portal's.
            (200, "", "text/html; charset=utf-8", &page, true, true),
            (200, "audit-id", "text/html", &page, false, false),
            (200, "", "text/plain", &page, false, false),
            (503, "", "text/html", &page, false, false),
        ] {
            let mut headers = HeaderMap::new();
            if !header.is_empty() {
                headers.insert(header, "x".parse().unwrap());
            }
            if !kind.is_empty() {
                headers.insert(CONTENT_TYPE, kind.parse().unwrap());
            }
            let code = StatusCode::from_u16(code).unwrap();
            let said = (may_be_a_page(code, &headers), is_strange(code, &headers, body));
            assert_eq!(said, (by_head, whole), "{code} {header} {kind}");
        }
    }
}
