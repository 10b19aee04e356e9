//! The requests: a manifest's head, a manifest, a blob from some byte on.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{About, Client, Error, Upstream};
use crate::oci::manifest::{LARGEST, media};
use crate::sys::digest::Digest;

/// What a registry says of a manifest without sending it.
#[derive(Clone, Debug)]
pub struct HeadManifest {
    /// Its digest, if the registry says it.
    pub digest: Option<Digest>,
    /// Its media type.
    pub media_type: String,
}

/// A manifest as it came.
#[derive(Clone, Debug)]
pub struct FetchedManifest {
    /// Its bytes, untouched.
    pub bytes: Bytes,
    /// What they hash to.
    pub digest: Digest,
    /// The `Content-Type`.
    pub media_type: String,
}

/// A blob on its way.
#[derive(Debug)]
pub struct FetchedBlob {
    /// The first byte that comes; 0 where the registry does not resume.
    pub offset: u64,
    /// Bytes of the whole blob, if the registry says it.
    pub size: Option<u64>,
    response: reqwest::Response,
    url: String,
}

impl FetchedBlob {
    /// The next bytes, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let next = self.response.chunk().await;
        next.map_err(|e| Error::Unreachable { url: self.url.clone(), why: super::chain(&e) })
    }
}

impl Client {
    /// Asks what a tag stands for, which costs nothing of a rate limit.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn head_manifest(
        &self,
        upstream: &Upstream,
        path: &str,
        name: &str,
    ) -> Result<HeadManifest, Error> {
        let response = self.manifest_request(upstream, Method::HEAD, path, name).await?;
        let headers = response.headers();
        let digest = text(headers, "docker-content-digest").parse().ok();
        Ok(HeadManifest { digest, media_type: text(headers, "content-type").to_owned() })
    }

    /// Fetches a manifest and checks it against its digest, if it is asked for by one or comes with one.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn manifest(
        &self,
        upstream: &Upstream,
        path: &str,
        name: &str,
    ) -> Result<FetchedManifest, Error> {
        let response = self.manifest_request(upstream, Method::GET, path, name).await?;
        let url = upstream.told(&format!("/v2/{path}/manifests/{name}"));
        let media_type = text(response.headers(), "content-type").to_owned();
        let announced: Option<Digest> = text(response.headers(), "docker-content-digest").parse().ok();
        let expected = name.parse::<Digest>().ok().or(announced);
        let bytes = take(response, LARGEST, &url).await?;
        let digest = match expected {
            Some(expected) if Digest::of(expected.algorithm(), &bytes) == expected => expected,
            Some(_) => return Err(Error::Digest { url }),
            None => Digest::sha256(&bytes),
        };
        Ok(FetchedManifest { bytes, digest, media_type })
    }

    async fn manifest_request(
        &self,
        upstream: &Upstream,
        method: Method,
        path: &str,
        name: &str,
    ) -> Result<reqwest::Response, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(&media::ACCEPTED.join(", ")).map_err(setup)?);
        self.ask(upstream, method, &format!("/v2/{path}/manifests/{name}"), About::pull(path), headers).await
    }

    /// Begins to fetch a blob from byte `offset` on. The caller checks the digest.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn blob(
        &self,
        upstream: &Upstream,
        path: &str,
        digest: &Digest,
        offset: u64,
    ) -> Result<FetchedBlob, Error> {
        let mut headers = HeaderMap::new();
        if offset > 0 {
            headers.insert(header::RANGE, HeaderValue::from_str(&format!("bytes={offset}-")).map_err(setup)?);
        }
        let resource = format!("/v2/{path}/blobs/{digest}");
        let url = upstream.told(&resource);
        let response = self.ask(upstream, Method::GET, &resource, About::pull(path), headers).await?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let starts = text(response.headers(), "content-range").strip_prefix("bytes ");
        let starts = starts.and_then(|range| range.split('-').next()?.parse::<u64>().ok());
        let begin = match (partial, starts) {
            (true, Some(at)) if at == offset => offset,
            (true, _) => return Err(Error::Status { url, status: response.status() }),
            (false, _) => 0,
        };
        let size = response.content_length().map(|length| begin + length);
        Ok(FetchedBlob { offset: begin, size, response, url })
    }

    /// Asks for a blob without having it sent: its size in bytes, if the registry says it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn head_blob(
        &self,
        upstream: &Upstream,
        path: &str,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        let resource = format!("/v2/{path}/blobs/{digest}");
        let asked = self.ask(upstream, Method::HEAD, &resource, About::pull(path), HeaderMap::new()).await;
        Ok(text(asked?.headers(), "content-length").parse().ok())
    }
}

/// All of a small answer.
pub(super) async fn take(mut response: reqwest::Response, most: usize, url: &str) -> Result<Bytes, Error> {
    // Of a large one that grows, twice as much would be taken.
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok());
    let mut all = Vec::with_capacity(announced.unwrap_or_default().min(most));
    loop {
        match response.chunk().await {
            Ok(Some(piece)) => all.extend_from_slice(&piece),
            Ok(None) => return Ok(all.into()),
            Err(e) => return Err(Error::Unreachable { url: url.into(), why: super::chain(&e) }),
        }
        if all.len() > most {
            return Err(Error::TooLarge { url: url.into(), most: most as u64 });
        }
    }
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn setup(error: header::InvalidHeaderValue) -> Error {
    Error::Setup(error.to_string())
}
