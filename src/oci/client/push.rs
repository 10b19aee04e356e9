//! Sending to a registry: blobs as one stream each, manifests as they are.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Url;

use super::{About, Client, Error, Upstream, checked, clean, unreachable};
use crate::sys::digest::Digest;

impl Client {
    /// Whether a registry has a blob.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn has_blob(&self, upstream: &Upstream, path: &str, digest: &Digest) -> Result<bool, Error> {
        let resource = format!("/v2/{path}/blobs/{digest}");
        match self.ask(upstream, Method::HEAD, &resource, About::push(path), HeaderMap::new()).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a blob of `size` bytes as one stream.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn push_blob(
        &self,
        upstream: &Upstream,
        path: &str,
        digest: &Digest,
        size: u64,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), Error> {
        let resource = format!("/v2/{path}/blobs/uploads/");
        let (begun, shown) = self
            .ask_with(
                upstream,
                Method::POST,
                &resource,
                About::push(path),
                HeaderMap::new(),
                Some(Bytes::new()),
            )
            .await?;
        let base =
            Url::parse(&format!("{}{resource}", upstream.url)).map_err(|e| Error::Setup(e.to_string()))?;
        let location = begun.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let Some(mut url) = location.and_then(|location| base.join(location).ok()) else {
            return Err(Error::Status { url: clean(&base), status: begun.status() });
        };
        super::allowed(&url, upstream.insecure)?;
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        let mut request = self
            .http(upstream)
            .put(url.clone())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, size)
            .body(reqwest::Body::wrap_stream(bytes));
        // What the upload was begun with: another request may have remembered one that is good for less.
        if let Some(authorization) = shown.filter(|_| url.origin() == base.origin()) {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let response = request.send().await.map_err(|e| unreachable(&e, &url))?;
        checked(response, &clean(&url)).map(|_| ())
    }

    /// Sends a manifest under a tag or its digest.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn push_manifest(
        &self,
        upstream: &Upstream,
        path: &str,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_str(media_type).map_err(|e| Error::Setup(e.to_string()))?;
        headers.insert(header::CONTENT_TYPE, kind);
        let resource = format!("/v2/{path}/manifests/{name}");
        let asked =
            self.ask_with(upstream, Method::PUT, &resource, About::push(path), headers, Some(bytes)).await;
        match asked {
            // A registry that wants every image of an index says so with 400 or 404.
            Err(Error::NotFound(url)) => Err(Error::Status { url, status: StatusCode::NOT_FOUND }),
            other => other.map(|_| ()),
        }
    }
}
