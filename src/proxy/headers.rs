//! Headers on their way through: what belongs to one connection stays behind.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::caller::Caller;
use crate::kube::Encoding;

/// The Accept header.
pub fn accept_of(headers: &HeaderMap) -> String {
    headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

/// Whether the headers that make an upgrade are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepUpgrade {
    /// They belong to this connection alone.
    No,
    /// The connection is to be upgraded, end to end.
    Yes,
}

/// Headers on their way up. The kubelet's certificate stands for its words; a bearer token goes as it was read, so that
/// the cloud judges what is known here.
pub fn upward_headers(headers: &HeaderMap, caller: &Caller, keep: KeepUpgrade) -> HeaderMap {
    let mut headers = headers.clone();
    remove_hop_headers(&mut headers, keep);
    headers.remove(header::HOST);
    headers.remove(header::AUTHORIZATION);
    if let Caller::Bearer(bearer) = caller
        && let Some(value) = bearer.authorization()
    {
        headers.insert(header::AUTHORIZATION, value);
    }
    headers
}

/// The first header by which the cloud would know who asks and that `Connection` names, as if it were of this
/// connection alone: without it the request would be somebody else's.
pub fn hidden_identity(headers: &HeaderMap) -> Option<HeaderName> {
    named(headers).into_iter().find(says_who)
}

fn says_who(name: &HeaderName) -> bool {
    *name == header::AUTHORIZATION || name.as_str().starts_with(IMPERSONATE)
}

/// What the names of the headers begin with by which somebody acts as another.
pub const IMPERSONATE: &str = "impersonate-";

/// What `Connection` names.
fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}

/// Removes what belongs to one connection (RFC 9110, 7.6.1).
pub fn remove_hop_headers(headers: &mut HeaderMap, keep: KeepUpgrade) {
    let mut named = named(headers);
    named.retain(|name| !says_who(name));
    let always = [
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
    ];
    let upgrade = [header::CONNECTION, header::UPGRADE];
    for name in named.iter().chain(&always) {
        if keep == KeepUpgrade::No || *name != header::UPGRADE {
            headers.remove(name);
        }
    }
    if keep == KeepUpgrade::No {
        upgrade.iter().for_each(|name| {
            headers.remove(name);
        });
    }
}

/// How a body is encoded, by its Content-Type.
pub fn encoding_of(headers: &HeaderMap) -> Encoding {
    stream_encoding(headers).unwrap_or(Encoding::Json)
}

/// The encoding of a body, if it is one of those that edge writes.
pub fn stream_encoding(headers: &HeaderMap) -> Option<Encoding> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    Encoding::of(kind)
}

/// Leaves of an Accept header what contains none of these words, if anything is left then.
pub fn accept_without(headers: &mut HeaderMap, words: &[&str]) {
    let accept = accept_of(headers);
    let has_none = |kind: &&str| !words.iter().any(|word| kind.contains(word));
    if has_none(&&*accept) {
        return;
    }
    let left: Vec<&str> = accept.split(',').filter(has_none).collect();
    if let (false, Ok(value)) = (left.is_empty(), HeaderValue::from_str(left.join(",").trim())) {
        headers.insert(header::ACCEPT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_goes_up_whatever_connection_names() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "X-Hop, authorization , Impersonate-User"),
            ("authorization", "bearer a"),
            ("impersonate-user", "b"),
            ("x-hop", "c"),
            ("x-end", "d"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(hidden_identity(&headers), Some(header::AUTHORIZATION));
        let up = |has_certificate| {
            let caller = Caller::of(has_certificate, &headers).unwrap();
            let up = upward_headers(&headers, &caller, KeepUpgrade::No);
            let mut up: Vec<_> = up.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
            up.sort();
            up
        };
        assert_eq!(up(false), ["authorization: Bearer a", "impersonate-user: b", "x-end: d"]);
        assert_eq!(up(true), ["impersonate-user: b", "x-end: d"]);
        headers.insert(header::CONNECTION, HeaderValue::from_static("X-Hop, close"));
        assert_eq!(hidden_identity(&headers), None);
    }
}
