//! What a request to the Kubernetes API is about: resource, namespace, name, subresource and verb.
//!
//! Modelled on apiserver's `RequestInfo`. Refuses to guess: a path that no apiserver would route
//! (broken escapes, empty or dotted segments) is a non-resource path, kept as it came.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::query::{Plus, Query, decode};

/// What stands unescaped in a segment of a path (RFC 3986 `unreserved`, and `:` as in `system:node`).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// A request, by its method, path and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// About an API resource.
    Resource(ResourceRequest),
    /// Anything else: discovery (`/api`, `/apis/apps/v1`), `/version`, `/healthz`, `/openapi/v3/...`.
    NonResource {
        /// The path, decoded, without a trailing slash (`/` for the root).
        path: String,
        /// The query parameters.
        query: Query,
    },
}

/// A request about an API resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceRequest {
    /// Group, version and plural name of the resource.
    pub gvr: GroupVersionResource,
    /// The namespace in the path. `namespaces/N` itself is the resource `namespaces`, name `N`, without a namespace.
    pub namespace: Option<String>,
    /// The object's name in the path.
    pub name: Option<String>,
    /// `status`, `token`, `log`, `exec`, ...
    pub subresource: Option<String>,
    /// What follows the subresource, as in `.../proxy/metrics`; no leading slash.
    pub rest: Option<String>,
    /// What is to be done.
    pub verb: Verb,
    /// The query parameters.
    pub query: Query,
}

/// What a request wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Read one object or subresource.
    Get,
    /// Read a collection.
    List,
    /// Follow a collection.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH.
    Patch,
    /// DELETE of one object.
    Delete,
    /// DELETE of a collection.
    DeleteCollection,
    /// A stream to a kubelet or a service behind it: exec, attach, portforward, proxy, log.
    Connect,
    /// A method that the API gives no meaning to.
    Unknown,
}

/// Group, version and resource; shown as `v1/pods`, `apps/v1/deployments`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionResource {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version in the group, such as `v1`.
    pub version: String,
    /// The plural name, such as `pods`.
    pub resource: String,
}

impl Request {
    /// Reads a request. `path` and `query` are as on the request line, still percent-encoded; `query` is
    /// what follows `?`.
    pub fn parse(method: &str, path: &str, query: &str) -> Request {
        let mut query = Query::parse(query);
        let Some(decoded) = decode(path, Plus::Itself) else {
            return Request::NonResource { path: path.to_owned(), query };
        };
        let trimmed = decoded.trim_matches('/');
        let parts: Vec<&str> = trimmed.split('/').collect();
        match resource(method, &parts, &mut query) {
            Some(found) => Request::Resource(ResourceRequest { query, ..found }),
            None => Request::NonResource { path: format!("/{trimmed}"), query },
        }
    }

    /// The resource request, if it is one.
    pub fn resource(&self) -> Option<&ResourceRequest> {
        match self {
            Request::Resource(resource) => Some(resource),
            Request::NonResource { .. } => None,
        }
    }
}

impl ResourceRequest {
    /// The path of the request in its canonical form, percent-encoded, without the query.
    pub fn path(&self) -> String {
        let mut path = self.gvr.path(self.namespace.as_deref(), self.name.as_deref());
        let rest = self.rest.iter().flat_map(|rest| rest.split('/'));
        for part in self.subresource.as_deref().into_iter().chain(rest) {
            push(&mut path, part);
        }
        path
    }

    /// Whether nothing is changed by it.
    pub fn is_read(&self) -> bool {
        matches!(self.verb, Verb::Get | Verb::List | Verb::Watch)
    }
}

impl GroupVersionResource {
    /// From its three words; `group` is empty for the core group.
    pub fn new(group: &str, version: &str, resource: &str) -> Self {
        Self { group: group.to_owned(), version: version.to_owned(), resource: resource.to_owned() }
    }

    /// `v1`, or `apps/v1`: what objects carry as `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The URL path of the collection, or of one object in it, percent-encoded.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = String::from(if self.group.is_empty() { "/api/" } else { "/apis/" });
        path.push_str(&self.api_version());
        if let Some(namespace) = namespace {
            path.push_str("/namespaces");
            push(&mut path, namespace);
        }
        push(&mut path, &self.resource);
        if let Some(name) = name {
            push(&mut path, name);
        }
        path
    }
}

impl fmt::Display for GroupVersionResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.group.is_empty() {
            write!(f, "{}/", self.group)?;
        }
        write!(f, "{}/{}", self.version, self.resource)
    }
}

impl FromStr for GroupVersionResource {
    type Err = super::Error;

    fn from_str(text: &str) -> Result<Self, super::Error> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [version, resource] if !version.is_empty() && !resource.is_empty() => {
                Ok(Self::new("", version, resource))
            }
            [group, version, resource] if parts.iter().all(|p| !p.is_empty()) => {
                Ok(Self::new(group, version, resource))
            }
            _ => Err(super::Error::ParseResource { text: text.to_owned() }),
        }
    }
}

fn push(path: &mut String, segment: &str) {
    path.push('/');
    path.extend(utf8_percent_encode(segment, SEGMENT));
}

/// Reads the segments of a path; `None` when it names no resource. Takes `watch` out of the query's hands
/// where the deprecated `/watch/` prefix asks for it.
fn resource(method: &str, parts: &[&str], query: &mut Query) -> Option<ResourceRequest> {
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return None;
    }
    let (group, version, mut parts) = match parts {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let mut prefix = None;
    if let [special @ ("watch" | "proxy"), rest @ ..] = parts {
        prefix = Some(*special);
        parts = rest;
    }
    let mut namespace = None;
    if let ["namespaces", name, rest @ ..] = parts
        && !rest.is_empty()
        && !matches!(rest[0], "status" | "finalize")
    {
        namespace = Some((*name).to_owned());
        parts = rest;
    }
    let (resource, parts) = parts.split_first()?;
    let own = |part: &&str| (*part).to_owned();
    let name = parts.first().map(own);
    let (subresource, rest) = match prefix {
        Some("proxy") => (None, parts.get(1..)),
        _ => (parts.get(1).map(own), parts.get(2..)),
    };
    let rest = rest.filter(|rest| !rest.is_empty()).map(|rest| rest.join("/"));
    if prefix == Some("watch") {
        query.watch = true;
    }
    let verb = match prefix {
        Some("watch") => Verb::Watch,
        Some(_) => Verb::Connect,
        None => verb(method, resource, name.is_some(), subresource.as_deref(), query.watch),
    };
    let gvr = GroupVersionResource::new(group, version, resource);
    Some(ResourceRequest { gvr, namespace, name, subresource, rest, verb, query: Query::default() })
}

fn verb(method: &str, resource: &str, named: bool, subresource: Option<&str>, watch: bool) -> Verb {
    if let ("pods", Some("exec" | "attach" | "portforward" | "log"))
    | ("pods" | "services" | "nodes", Some("proxy")) = (resource, subresource)
    {
        return Verb::Connect;
    }
    match method {
        "GET" | "HEAD" if named => Verb::Get,
        "GET" | "HEAD" if watch => Verb::Watch,
        "GET" | "HEAD" => Verb::List,
        "POST" => Verb::Create,
        "PUT" => Verb::Update,
        "PATCH" => Verb::Patch,
        "DELETE" if named => Verb::Delete,
        "DELETE" => Verb::DeleteCollection,
        _ => Verb::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verb gvr namespace name subresource rest`, with `-` for absent.
    fn read(method: &str, path: &str, query: &str) -> String {
        match Request::parse(method, path, query) {
            Request::NonResource { path, .. } => format!("path {path}"),
            Request::Resource(r) => {
                let or = |o: Option<String>| o.unwrap_or_else(|| "-".into());
                format!(
                    "{:?} {} {} {} {} {}",
                    r.verb,
                    r.gvr,
                    or(r.namespace),
                    or(r.name),
                    or(r.subresource),
                    or(r.rest)
                )
            }
        }
    }

    #[test]
    fn requests() {
        let cases = [
            ("GET", "/api/v1/pods", "", "List v1/pods - - - -"),
            ("GET", "/api/v1/pods", "watch=1", "Watch v1/pods - - - -"),
            ("GET", "/api/v1/watch/pods", "", "Watch v1/pods - - - -"),
            ("GET", "/api/v1/watch/namespaces/a/pods/p", "", "Watch v1/pods a p - -"),
            ("GET", "/api/v1/namespaces", "", "List v1/namespaces - - - -"),
            ("GET", "/api/v1/namespaces/a", "", "Get v1/namespaces - a - -"),
            ("PUT", "/api/v1/namespaces/a/finalize", "", "Update v1/namespaces - a finalize -"),
            ("GET", "/api/v1/watch/namespaces/a", "", "Watch v1/namespaces - a - -"),
            ("PATCH", "/api/v1/nodes/n/status", "", "Patch v1/nodes - n status -"),
            (
                "POST",
                "/api/v1/namespaces/a/serviceaccounts/s/token",
                "",
                "Create v1/serviceaccounts a s token -",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/deployments",
                "",
                "DeleteCollection apps/v1/deployments a - - -",
            ),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments/d", "", "Delete apps/v1/deployments a d - -"),
            (
                "GET",
                "/apis/apps/v1/namespaces/a/deployments/d/",
                "watch=true",
                "Get apps/v1/deployments a d - -",
            ),
            ("GET", "/api/v1/namespaces/a/pods/p/log", "follow=true", "Connect v1/pods a p log -"),
            ("POST", "/api/v1/namespaces/a/pods/p/exec", "", "Connect v1/pods a p exec -"),
            ("GET", "/api/v1/nodes/n/proxy/metrics/x", "", "Connect v1/nodes - n proxy metrics/x"),
            ("GET", "/api/v1/proxy/namespaces/a/services/s/x", "", "Connect v1/services a s - x"),
            ("GET", "/api/v1/namespaces/a%2Fpods/p%31", "", "Get v1/pods a p1 - -"),
            ("GET", "/api/v1/nodes/a+b", "", "Get v1/nodes - a+b - -"),
            ("OPTIONS", "/api/v1/pods", "", "Unknown v1/pods - - - -"),
            ("GET", "/api/v1", "", "path /api/v1"),
            ("GET", "/apis/apps/v1/", "", "path /apis/apps/v1"),
            ("GET", "/apis/apps", "", "path /apis/apps"),
            ("GET", "/", "", "path /"),
            ("GET", "/healthz/", "", "path /healthz"),
            ("GET", "/api/v1/watch", "", "path /api/v1/watch"),
            ("GET", "/api/v1//pods", "", "path /api/v1//pods"),
            ("GET", "/api/v1/namespaces/../pods", "", "path /api/v1/namespaces/../pods"),
            ("GET", "/api/v1/pods%zz", "", "path /api/v1/pods%zz"),
            ("GET", "/api/v1/pods/%ff", "", "path /api/v1/pods/%ff"),
        ];
        for (method, path, query, want) in cases {
            assert_eq!(read(method, path, query), want, "{method} {path}?{query}");
        }
    }

    #[test]
    fn canonical_paths() {
        let path = "/api/v1/namespaces/a/pods/p/proxy/x/y";
        assert_eq!(Request::parse("GET", path, "").resource().unwrap().path(), path);
        let gvr: GroupVersionResource = "apps/v1/deployments".parse().unwrap();
        assert_eq!(gvr.path(Some("a"), None), "/apis/apps/v1/namespaces/a/deployments");
        assert_eq!(gvr.path(None, Some("a b")), "/apis/apps/v1/deployments/a%20b");
        assert_eq!(gvr.to_string(), "apps/v1/deployments");
        assert!("pods".parse::<GroupVersionResource>().is_err());
        assert!("/v1/pods".parse::<GroupVersionResource>().is_err());
    }
}
