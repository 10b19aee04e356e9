//! What a request's path and query mean. Pure.

use http::Method;
use percent_encoding::percent_decode_str;

use super::reply::Refusal;
use crate::oci;
use crate::store::UploadId;
use crate::sys::digest::Digest;

/// The endpoints of the distribution specification. `path` is the repository as the client names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Base,
    Catalog,
    Tags { path: String },
    Referrers { path: String, digest: Digest },
    Manifest { path: String, name: String },
    Blob { path: String, digest: Digest },
    Uploads { path: String },
    Upload { path: String, id: UploadId },
}

impl Route {
    pub(super) fn parse(path: &str, method: &Method) -> Result<Self, Refusal> {
        let decoded = percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| Refusal::not_found("the path is not UTF-8"))?;
        let Some(rest) = decoded.strip_prefix("/v2") else {
            return Err(Refusal::not_found("there is nothing at this path"));
        };
        let parts: Vec<&str> = rest.trim_start_matches('/').split('/').collect();
        let join = |parts: &[&str]| parts.join("/");
        match parts[..] {
            [""] => Ok(Self::Base),
            ["_catalog"] => Ok(Self::Catalog),
            [ref path @ .., "tags", "list"] => Ok(Self::Tags { path: join(path) }),
            [ref path @ .., "blobs", "uploads"] | [ref path @ .., "blobs", "uploads", ""] => {
                Ok(Self::Uploads { path: join(path) })
            }
            [ref path @ .., "blobs", "uploads", id] => match id.parse() {
                Ok(id) => Ok(Self::Upload { path: join(path), id }),
                Err(_) => Err(Refusal::upload_unknown(id)),
            },
            [ref path @ .., "blobs", digest] => Ok(Self::Blob { path: join(path), digest: digest.parse()? }),
            [ref path @ .., "referrers", digest] => {
                Ok(Self::Referrers { path: join(path), digest: digest.parse()? })
            }
            [ref path @ .., "manifests", name] => {
                if name.contains(':') {
                    name.parse::<Digest>()?;
                } else if !oci::is_tag(name) {
                    // What cannot be the name of a manifest is that of none.
                    let puts = *method == Method::PUT;
                    return Err(if puts { Refusal::tag(name) } else { Refusal::manifest_unknown(name) });
                }
                Ok(Self::Manifest { path: join(path), name: name.to_owned() })
            }
            _ => Err(Refusal::not_found("there is nothing at this path")),
        }
    }

    /// Whether a method changes something here. Asking for the state of an upload counts too: only who may write has one.
    pub(super) fn writes(&self, method: &Method) -> bool {
        match self {
            Self::Uploads { .. } | Self::Upload { .. } => true,
            Self::Manifest { .. } | Self::Blob { .. } => matches!(*method, Method::PUT | Method::DELETE),
            _ => false,
        }
    }

    /// The methods that are done here, as `Allow` has them, where pushing is on or not.
    pub(super) fn methods(&self, push: bool) -> &'static str {
        match self {
            Self::Manifest { .. } if push => "GET, HEAD, PUT, DELETE",
            Self::Blob { .. } if push => "GET, HEAD, DELETE",
            Self::Uploads { .. } => "POST",
            Self::Upload { .. } => "GET, PATCH, PUT, DELETE",
            _ => "GET, HEAD",
        }
    }

    /// Whether a method removes a manifest, a tag or a blob.
    pub(super) fn deletes(&self, method: &Method) -> bool {
        matches!(self, Self::Manifest { .. } | Self::Blob { .. }) && *method == Method::DELETE
    }
}

/// A query string, decoded.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        Self(pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
    }

    /// Whether a key is there and does not say no.
    pub(super) fn has(&self, key: &str) -> bool {
        self.all(key).any(|value| !matches!(value, "false" | "0"))
    }

    /// A number, if one is given and it is none smaller than zero.
    pub(super) fn number(&self, key: &str) -> Result<Option<usize>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| Refusal::page(text)),
        }
    }

    /// Every value of a key that is given several times.
    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_may_be_called_like_endpoints() {
        let digest = Digest::sha256(b"");
        let parse = |path: &str| Route::parse(path, &Method::GET).unwrap();
        assert_eq!(parse("/v2/"), Route::Base);
        assert_eq!(parse("/v2/blobs/tags/tags/list"), Route::Tags { path: "blobs/tags".into() });
        assert_eq!(
            parse(&format!("/v2/manifests/blobs/{digest}")),
            Route::Blob { path: "manifests".into(), digest }
        );
        assert_eq!(parse("/v2/a/blobs/uploads/"), Route::Uploads { path: "a".into() });
        assert_eq!(
            parse("/v2/localhost%3A5000/a/manifests/1"),
            Route::Manifest { path: "localhost:5000/a".into(), name: "1".into() }
        );
    }

    #[test]
    fn odd_paths_are_refused() {
        for path in [
            "/",
            "/v2/a",
            "/v2/a/manifests/",
            "/v2/a/manifests/b c",
            "/v2/a/blobs/sha256:12",
            "/v2/a/blobs/uploads/../x",
        ] {
            assert!(Route::parse(path, &Method::GET).is_err(), "{path}");
        }
    }
}
