//! Uploads: begun, continued in chunks or as a stream, finished, given up; and mounts.

use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::reply::{self, Body, Refusal};
use super::route::Query;
use super::spool::{Spool, SpoolError};
use super::{Registry, names};
use crate::store::{Upload, UploadId};
use crate::sys::digest::{Algorithm, Digest};

impl Registry {
    pub(super) async fn begin_upload(
        &self,
        path: &str,
        names: &[String],
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        if let Some(mounted) = self.mount(path, names, query).await? {
            return Ok(mounted);
        }
        let digest: Option<Digest> = query.get("digest").map(str::parse).transpose()?;
        let algorithm = match (&digest, query.get("digest-algorithm")) {
            (Some(digest), _) => digest.algorithm(),
            (None, Some("sha512")) => Algorithm::Sha512,
            _ => Algorithm::Sha256,
        };
        let size = length(request.headers()).unwrap_or(0);
        let upload = self.blocking(move |store| store.begin_upload(algorithm, size)).await?;
        match digest {
            Some(digest) => {
                let upload = receive(upload, request.into_body()).await?;
                self.finish(path, names, upload, digest).await
            }
            None => Ok(progress(path, &upload, StatusCode::ACCEPTED)),
        }
    }

    /// A blob of another repository (or of any, if none is named) is made available here.
    async fn mount(
        &self,
        path: &str,
        names: &[String],
        query: &Query,
    ) -> Result<Option<Response<Body>>, Refusal> {
        let Some(digest) = query.get("mount") else { return Ok(None) };
        let digest: Digest = digest.parse()?;
        let from = match query.get("from") {
            Some(from) => names::candidates(from, None, &self.inner.settings)?,
            None => Vec::new(),
        };
        let (name, wanted) = (names[0].clone(), digest.clone());
        let mounted = self
            .blocking(move |store| {
                let mut there = from.is_empty();
                for from in &from {
                    there = there || store.blob(Some(from), &wanted)?.is_some();
                }
                if there { store.link_blob(&name, &wanted) } else { Ok(false) }
            })
            .await?;
        Ok(mounted.then(|| created(&format!("/v2/{path}/blobs/{digest}"), &digest)))
    }

    pub(super) async fn upload_status(&self, path: &str, id: UploadId) -> Result<Response<Body>, Refusal> {
        let upload = self.blocking(move |store| store.resume_upload(id)).await?;
        Ok(progress(path, &upload, StatusCode::NO_CONTENT))
    }

    pub(super) async fn patch_upload(
        &self,
        path: &str,
        id: UploadId,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let upload = self.blocking(move |store| store.resume_upload(id)).await?;
        in_order(path, &upload, request.headers())?;
        let upload = receive(upload, request.into_body()).await?;
        Ok(progress(path, &upload, StatusCode::ACCEPTED))
    }

    pub(super) async fn put_upload(
        &self,
        path: &str,
        names: &[String],
        id: UploadId,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let missing =
            || Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "the query names no `digest`");
        let digest: Digest = query.get("digest").ok_or_else(missing)?.parse()?;
        let upload = self.blocking(move |store| store.resume_upload(id)).await?;
        in_order(path, &upload, request.headers())?;
        let upload = receive(upload, request.into_body()).await?;
        self.finish(path, names, upload, digest).await
    }

    pub(super) async fn cancel_upload(&self, id: UploadId) -> Result<Response<Body>, Refusal> {
        self.blocking(move |store| store.resume_upload(id).map(Upload::cancel)).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    async fn finish(
        &self,
        path: &str,
        names: &[String],
        upload: Upload,
        digest: Digest,
    ) -> Result<Response<Body>, Refusal> {
        let (name, wanted) = (names[0].clone(), digest.clone());
        self.blocking(move |_| upload.commit(&wanted, Some(&name))).await?;
        Ok(created(&format!("/v2/{path}/blobs/{digest}"), &digest))
    }
}

/// Writes a body to an upload. A client that hangs up leaves an upload that can be taken up again.
async fn receive(upload: Upload, mut body: Incoming) -> Result<Upload, Refusal> {
    let mut spool = Spool::new(upload);
    let mut broken = None;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let Ok(data) = frame.into_data() else { continue };
                spool.push(data).await?;
            }
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    let upload = spool.settle().await?;
    match broken {
        None => Ok(upload),
        Some(error) => {
            let why = format!("the body broke off: {error}");
            Err(Refusal::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", why))
        }
    }
}

impl From<SpoolError> for Refusal {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::Store(error) => error.into(),
            SpoolError::Ended => Self::internal("a task ended unexpectedly"),
        }
    }
}

/// Refuses a chunk that does not begin where the last one ended, or whose length contradicts its range.
fn in_order(path: &str, upload: &Upload, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(range) = headers.get(header::CONTENT_RANGE) else { return Ok(()) };
    let bounds = range.to_str().ok().and_then(|text| {
        let text = text.trim_start_matches("bytes").trim_start_matches([' ', '=']);
        let (first, last) = text.split('/').next()?.split_once('-')?;
        Some((first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?))
    });
    let Some((first, last)) = bounds else {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "BLOB_UPLOAD_INVALID",
            "the `Content-Range` cannot be read",
        ));
    };
    let fits = length(headers).is_none_or(|length| last.checked_sub(first).map(|d| d + 1) == Some(length));
    if first == upload.offset() && fits {
        return Ok(());
    }
    let why = format!("the next byte is {}", upload.offset());
    Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", why)
        .with(header::LOCATION, &location(path, upload))
        .with(header::RANGE, &range_of(upload)))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn location(path: &str, upload: &Upload) -> String {
    format!("/v2/{path}/blobs/uploads/{}", upload.id())
}

/// The bytes that are here, first and last. The specification has no way to say none.
fn range_of(upload: &Upload) -> String {
    format!("0-{}", upload.offset().saturating_sub(1))
}

fn progress(path: &str, upload: &Upload, status: StatusCode) -> Response<Body> {
    let mut response = reply::empty(status);
    reply::set(&mut response, "location", &location(path, upload));
    reply::set(&mut response, "range", &range_of(upload));
    reply::set(&mut response, "docker-upload-uuid", &upload.id().to_string());
    response
}

/// 201 with where it lies and what it hashes to.
pub(super) fn created(location: &str, digest: &Digest) -> Response<Body> {
    let mut response = reply::empty(StatusCode::CREATED);
    reply::set(&mut response, "location", location);
    reply::set(&mut response, "docker-content-digest", digest.as_str());
    response
}
