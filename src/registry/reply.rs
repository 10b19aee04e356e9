//! Answers: bodies, errors in the specification's JSON, common headers.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

use super::sendfile::Outgoing;
use crate::oci::ManifestError;
use crate::store;
use crate::sys::digest::DigestError;

/// Bytes that a piece of a file is read in where it cannot be sent by the kernel.
const PIECE: u64 = 256 << 10;

/// The body of an answer.
pub(super) enum Body {
    Empty,
    Full(Bytes),
    File(FileBody),
    Stream(mpsc::Receiver<io::Result<Bytes>>, Option<u64>),
}

/// A range of a file.
pub(super) struct FileBody {
    file: Arc<File>,
    offset: u64,
    remaining: u64,
    outgoing: Option<Arc<Outgoing>>,
    reading: Option<tokio::task::JoinHandle<io::Result<Bytes>>>,
}

impl Body {
    pub(super) fn file(file: File, offset: u64, length: u64) -> Self {
        Self::File(FileBody {
            file: Arc::new(file),
            offset,
            remaining: length,
            outgoing: None,
            reading: None,
        })
    }

    /// Leaves only `length` bytes of a file, from `first` on.
    pub(super) fn cut(&mut self, first: u64, length: u64) {
        if let Self::File(file) = self {
            (file.offset, file.remaining) = (first, length);
        }
    }

    /// Has a file sent by the kernel, on a connection that can.
    pub(super) fn sent_by(mut self, outgoing: &Arc<Outgoing>) -> Self {
        if let Self::File(file) = &mut self {
            file.outgoing = Some(outgoing.clone());
        }
        self
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            full @ Self::Full(_) => {
                let Self::Full(bytes) = std::mem::replace(full, Self::Empty) else {
                    return Poll::Ready(None);
                };
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::File(file) => file.poll(cx),
            Self::Stream(pieces, left) => {
                let piece = std::task::ready!(pieces.poll_recv(cx));
                if let (Some(Ok(bytes)), Some(left)) = (&piece, left) {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::File(file) => file.remaining == 0,
            Self::Stream(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::File(file) => SizeHint::with_exact(file.remaining),
            Self::Stream(_, Some(left)) => SizeHint::with_exact(*left),
            Self::Stream(_, None) => SizeHint::default(),
        }
    }
}

impl FileBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.remaining == 0 {
            return Poll::Ready(None);
        }
        if let Some(outgoing) = &self.outgoing {
            let (stand_in, length) = outgoing.queue(&self.file, self.offset, self.remaining);
            self.advance(length);
            return Poll::Ready(Some(Ok(Frame::data(stand_in))));
        }
        let (offset, length) = (self.offset, self.remaining.min(PIECE));
        let reading = self.reading.get_or_insert_with(|| {
            let file = self.file.clone();
            tokio::task::spawn_blocking(move || read_at(&file, offset, length))
        });
        let read = std::task::ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        let bytes = read.unwrap_or_else(|_| Err(io::Error::other("the reader ended unexpectedly")))?;
        self.advance(bytes.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn advance(&mut self, by: u64) {
        self.offset += by;
        self.remaining -= by;
    }
}

/// Exactly `length` bytes of a file.
pub(super) fn read_at(file: &File, offset: u64, length: u64) -> io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let mut piece = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut piece, offset)?;
    Ok(piece.into())
}

/// Why a request is not done, as the specification has it.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    headers: Vec<(header::HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), headers: Vec::new() }
    }

    pub(super) fn with(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// Whether it says that too much is going on.
    pub(super) fn is_busy(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
    }

    pub(super) fn internal(message: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", message)
    }

    pub(super) fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "UNSUPPORTED", message)
    }

    /// `allowed` are the methods that are done there: RFC 9110 wants them told.
    pub(super) fn method(method: &Method, allowed: &str) -> Self {
        let why = format!("`{method}` is not done here");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", why).with(header::ALLOW, allowed)
    }

    /// Where nothing may be removed, the specification wants this and no 403, which is about who asks.
    pub(super) fn no_deleting(allowed: &str) -> Self {
        let why = "removing is off hint: set `registry.push`";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", why).with(header::ALLOW, allowed)
    }

    pub(super) fn name(path: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", format!("`{path}` is no name of a repository"))
    }

    pub(super) fn name_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "there is no such repository")
    }

    pub(super) fn tag(tag: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", format!("`{tag}` is no tag"))
    }

    pub(super) fn page(text: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", format!("`{text}` is no number"))
    }

    pub(super) fn manifest_unknown(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", format!("`{name}` is not here"))
    }

    pub(super) fn blob_unknown(digest: &impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", format!("`{digest}` is not here"))
    }

    pub(super) fn upload_unknown(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", format!("there is no upload `{id}`"))
    }

    /// The same in ChartMuseum's JSON.
    pub(super) fn into_chart_response(self) -> Response<Body> {
        let mut response = json(&serde_json::json!({ "error": self.message }));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let body = serde_json::json!({ "errors": [{ "code": self.code, "message": self.message }] });
        let mut response = json(&body);
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<DigestError> for Refusal {
    fn from(error: DigestError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", error.to_string())
    }
}

impl From<ManifestError> for Refusal {
    fn from(error: ManifestError) -> Self {
        let status = match error {
            ManifestError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, "MANIFEST_INVALID", error.to_string())
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        use store::Error as E;
        let (status, code) = match &error {
            _ if error.is_full() => (StatusCode::INSUFFICIENT_STORAGE, "STORAGE_FULL"),
            _ if error.is_read_only() => (StatusCode::SERVICE_UNAVAILABLE, "STORAGE_READ_ONLY"),
            E::DigestMismatch { .. } => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            E::UploadUnknown(_) => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            E::UploadBusy(_) => (StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID"),
            E::BlobUnknown(_) => (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN"),
            E::Owned { .. } | E::Needed { .. } => (StatusCode::FORBIDDEN, "DENIED"),
            E::ChartExists { .. } | E::ProvenanceExists { .. } => (StatusCode::CONFLICT, "CHART_EXISTS"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        };
        if status.is_server_error() {
            tracing::error!(error = &error as &dyn std::error::Error, "the store failed a request");
        }
        Self::new(status, code, error.to_string())
    }
}

/// An answer of JSON.
pub(super) fn json(value: &serde_json::Value) -> Response<Body> {
    typed("application/json", value.to_string().into())
}

/// An answer with a body of a media type.
pub(super) fn typed(media_type: &str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::Full(bytes));
    if let Ok(value) = HeaderValue::from_str(media_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

/// The answer to OPTIONS.
pub(super) fn allowed(methods: &str) -> Response<Body> {
    let mut response = empty(StatusCode::NO_CONTENT);
    set(&mut response, "allow", methods);
    response
}

/// Sets a header whose value is text that edge made.
pub(super) fn set(response: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// The answer to HEAD: the same headers, with the length that GET has.
pub(super) fn without_body(mut response: Response<Body>) -> Response<Body> {
    use hyper::body::Body as _;
    if let Some(length) = response.body().size_hint().exact()
        && !response.headers().contains_key(header::CONTENT_LENGTH)
    {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = Body::Empty;
    response
}
