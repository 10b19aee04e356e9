//! Blobs: fetching whole or in part, and removing.

use http::{HeaderMap, Method, Response, StatusCode, header};

use super::Registry;
use super::reply::{self, Body, Refusal};
use super::server::Peer;
use crate::store::{Blob, Owner};
use crate::sys::digest::Digest;

impl Registry {
    pub(super) async fn get_blob(
        &self,
        names: &[String],
        digest: Digest,
        headers: &HeaderMap,
        method: &Method,
        peer: Peer,
    ) -> Result<Response<Body>, Refusal> {
        let (candidates, wanted, get) = (names.to_vec(), digest.clone(), *method == Method::GET);
        let range = range_asked(headers, method, &digest).map(str::to_owned);
        let found = self
            .blocking(move |store| {
                for name in &candidates {
                    if let Some(blob) = store.blob(Some(name), &wanted)? {
                        let file = if get { Some(blob.open()) } else { None };
                        return Ok(Some((blob, file)));
                    }
                }
                Ok(None)
            })
            .await?;
        match found {
            Some((blob, None)) => answer(&blob, Body::Empty, range.as_deref()),
            Some((blob, Some(Ok(file)))) => {
                let size = blob.size;
                answer(&blob, Body::file(file, 0, size), range.as_deref())
            }
            // Gone from under us: as if it were not here, so that an upstream is asked again.
            Some((_, Some(Err(error)))) => {
                tracing::error!(%error, "a blob cannot be opened hint: run `edge store verify`");
                self.pulled_blob(names, digest).await
            }
            None if get => self.pulled_blob(names, digest).await,
            None => self.head_upstream(names, digest, headers, peer).await,
        }
    }

    /// Whether an upstream has a blob that is not here, which is asked without fetching it. Who may write asks in
    /// order to send what is missing: it is missing as long as it is not in the store, or the manifest that follows
    /// is refused; and the name of what is pushed is nobody's business upstream.
    async fn head_upstream(
        &self,
        names: &[String],
        digest: Digest,
        headers: &HeaderMap,
        peer: Peer,
    ) -> Result<Response<Body>, Refusal> {
        let may_write = match self.inner.auth.may_write(headers, peer).await {
            // Nobody knows yet who this is.
            Err(refusal) if refusal.is_busy() => return Err(refusal),
            judged => judged.is_ok(),
        };
        let there = if may_write { None } else { self.inner.pull.head_blob(names, &digest).await };
        let size = there.ok_or_else(|| Refusal::blob_unknown(&digest))?;
        Ok(of_upstream(&digest, size, Body::Empty))
    }

    async fn pulled_blob(&self, names: &[String], digest: Digest) -> Result<Response<Body>, Refusal> {
        let Some((size, body)) = self.inner.pull.blob(names, &digest).await else {
            return Err(Refusal::blob_unknown(&digest));
        };
        Ok(of_upstream(&digest, size, body))
    }

    pub(super) async fn delete_blob(
        &self,
        names: &[String],
        digest: Digest,
    ) -> Result<Response<Body>, Refusal> {
        let (name, wanted) = (names[0].clone(), digest.clone());
        if self.blocking(move |store| store.unlink_blob(&name, &wanted, &Owner::Push)).await? {
            Ok(reply::empty(StatusCode::ACCEPTED))
        } else {
            Err(Refusal::blob_unknown(&digest))
        }
    }
}

fn of_upstream(digest: &Digest, size: Option<u64>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    describe(&mut response, digest);
    if let Some(size) = size {
        response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
    }
    response
}

fn describe(response: &mut Response<Body>, digest: &Digest) {
    reply::set(response, "docker-content-digest", digest.as_str());
    reply::set(response, "etag", &etag(digest));
    reply::set(response, "content-type", "application/octet-stream");
    reply::set(response, "accept-ranges", "bytes");
    reply::set(response, "cache-control", "max-age=31536000, immutable");
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// The range that is asked for. As RFC 9110 has it, only GET is asked for one, and one with `If-Range` only by who
/// has a part of just this.
fn range_asked<'a>(headers: &'a HeaderMap, method: &Method, digest: &Digest) -> Option<&'a str> {
    let this = headers.get(header::IF_RANGE).is_none_or(|mark| *mark == etag(digest));
    headers.get(header::RANGE).filter(|_| this && *method == Method::GET)?.to_str().ok()
}

fn answer(blob: &Blob, body: Body, range: Option<&str>) -> Result<Response<Body>, Refusal> {
    let size = blob.size;
    let mut response = Response::new(body);
    describe(&mut response, &blob.digest);
    match range.and_then(|range| part(range, size)) {
        None => {
            response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
        }
        Some(Err(())) => {
            let why = format!("the blob has {size} bytes");
            return Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", why)
                .with(header::CONTENT_RANGE, &format!("bytes */{size}")));
        }
        Some(Ok((first, last))) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let length = last - first + 1;
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            reply::set(&mut response, "content-range", &format!("bytes {first}-{last}/{size}"));
            response.body_mut().cut(first, length);
        }
    }
    Ok(response)
}

/// The first and last byte of a single range. `None` for what is to be ignored, as RFC 9110 has it:
/// other units, several ranges, nonsense. `Err` for a range beyond the end.
fn part(range: &str, size: u64) -> Option<Result<(u64, u64), ()>> {
    let (first, last) = range.trim().strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let length: u64 = last.parse().ok()?;
        return Some(if length == 0 || size == 0 {
            Err(())
        } else {
            Ok((size.saturating_sub(length), size - 1))
        });
    }
    let first: u64 = first.parse().ok()?;
    let last: u64 = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
    // One that ends before it begins may be refused or ignored; the specification's suite wants the first.
    Some(if first >= size || last < first { Err(()) } else { Ok((first, last.min(size - 1))) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_rfc() {
        assert_eq!(part("bytes=0-0", 10), Some(Ok((0, 0))));
        assert_eq!(part("bytes=5-", 10), Some(Ok((5, 9))));
        assert_eq!(part("bytes=-3", 10), Some(Ok((7, 9))));
        assert_eq!(part("bytes=-30", 10), Some(Ok((0, 9))));
        assert_eq!(part("bytes=2-99", 10), Some(Ok((2, 9))));
        assert_eq!(part("bytes=10-", 10), Some(Err(())));
        assert_eq!(part("bytes=-0", 10), Some(Err(())));
        assert_eq!(part("bytes=5-2", 10), Some(Err(())));
        for ignored in ["bytes=0-1,3-4", "lines=1-2", "bytes=x-", "bytes"] {
            assert_eq!(part(ignored, 10), None, "{ignored}");
        }
    }
}
