//! Charts and provenance files that clients send, raw or as a form.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::body::Incoming;
use serde_json::json;

use crate::oci::chart::{ChartError, ChartPackage, LARGEST, check_provenance, vouched_for};
use crate::registry::Registry;
use crate::registry::reply::{self, Body, Refusal};
use crate::registry::route::Query;
use crate::store::{NewChart, Owner, Replace, Store};
use crate::sys::clock;
use crate::sys::digest::Digest;

/// What a form holds.
#[derive(Default)]
struct Form {
    chart: Option<Bytes>,
    provenance: Option<Bytes>,
}

impl Registry {
    pub(super) async fn receive_chart(
        &self,
        repository: String,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let replace = replace(query);
        let form = read(request).await?;
        let Some(chart) = form.chart else {
            let Some(provenance) = form.provenance else {
                return Err(bad("the form has neither `chart` nor `prov`"));
            };
            return self.keep_provenance(repository, provenance, replace).await;
        };
        let package = ChartPackage::read(&chart).map_err(|e| match e {
            ChartError::TooLarge(_) => {
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "CHART_INVALID", e.to_string())
            }
            e => bad(&e.to_string()),
        })?;
        if let Some(provenance) = &form.provenance {
            let stem = format!("{}-{}", package.name, package.version);
            let said = String::from_utf8_lossy(provenance);
            check_provenance(&said, &stem, &Digest::sha256(&chart)).map_err(|e| bad(&e.to_string()))?;
        }
        self.blocking(move |store| {
            add(store, repository, &package, &chart, form.provenance.as_deref(), replace)
        })
        .await?;
        Ok(saved())
    }

    pub(super) async fn receive_provenance(
        &self,
        repository: String,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let form = read(request).await?;
        let provenance = form.provenance.or(form.chart).ok_or_else(|| bad("the form has no `prov`"))?;
        self.keep_provenance(repository, provenance, replace(query)).await
    }

    /// Keeps a provenance file beside the chart that it vouches for, which must be here.
    async fn keep_provenance(
        &self,
        repository: String,
        provenance: Bytes,
        replace: Replace,
    ) -> Result<Response<Body>, Refusal> {
        let no_provenance = || bad("this is no provenance file");
        let text = std::str::from_utf8(&provenance).map_err(|_| no_provenance())?.to_owned();
        let stem = vouched_for(&text).ok_or_else(no_provenance)?.0.to_owned();
        let (path, file) = (repository.clone(), stem.clone());
        let chart = self.blocking(move |store| store.chart_by_file(&path, &file)).await?;
        let chart = chart.ok_or_else(super::unknown)?;
        check_provenance(&text, &stem, &chart.digest).map_err(|e| bad(&e.to_string()))?;
        let kept = self
            .blocking(move |store| {
                let digest = Digest::sha256(&provenance);
                store.add_blob(None, &digest, &provenance)?;
                store.set_provenance(&repository, (&chart.name, &chart.version), &digest, replace)
            })
            .await?;
        if kept { Ok(saved()) } else { Err(super::unknown()) }
    }
}

/// ChartMuseum's `?force`.
fn replace(query: &Query) -> Replace {
    if query.has("force") { Replace::Always } else { Replace::Never }
}

/// Stores a package, and its provenance, for push, in the chart repository at a path (empty for the one at the root).
///
/// # Errors
/// [`crate::store::Error::ChartExists`] unless it may be replaced, [`crate::store::Error::Owned`].
pub fn add(
    store: &Store,
    repository: String,
    package: &ChartPackage,
    bytes: &[u8],
    provenance: Option<&[u8]>,
    replace: Replace,
) -> Result<(), crate::store::Error> {
    let digest = Digest::sha256(bytes);
    store.add_blob(None, &digest, bytes)?;
    let provenance = match provenance {
        Some(bytes) => {
            let digest = Digest::sha256(bytes);
            store.add_blob(None, &digest, bytes)?;
            Some(digest)
        }
        None => None,
    };
    let created = clock::now().as_second();
    let entry = package.entry(&digest, created);
    let (name, version) = (package.name.clone(), package.version.clone());
    store.put_chart(
        NewChart { repository, name, version, digest, provenance, created, entry },
        &Owner::Push,
        replace,
    )
}

/// The body as a form; a raw body is a form with only a chart.
async fn read(request: Request<Incoming>) -> Result<Form, Refusal> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = content_type.and_then(|text| multer::parse_boundary(text).ok());
    let Some(boundary) = boundary else {
        let body = Limited::new(request.into_body(), LARGEST).collect().await;
        let bytes = body.map_err(|e| broken(e.is::<http_body_util::LengthLimitError>()))?.to_bytes();
        return Ok(Form { chart: Some(bytes), provenance: None });
    };
    let body = Limited::new(request.into_body(), LARGEST + (1 << 20));
    let frames = futures_util::StreamExt::filter_map(BodyStream::new(body), |frame| async {
        match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(e) => Some(Err(std::io::Error::other(e.to_string()))),
        }
    });
    let mut parts = multer::Multipart::new(frames, boundary);
    let mut form = Form::default();
    while let Some(part) = parts.next_field().await.map_err(|e| bad(&e.to_string()))? {
        let name = part.name().unwrap_or_default().to_owned();
        let bytes = part.bytes().await.map_err(|e| bad(&e.to_string()))?;
        match name.as_str() {
            "chart" => form.chart = Some(bytes),
            "prov" => form.provenance = Some(bytes),
            _ => {}
        }
    }
    Ok(form)
}

fn broken(too_large: bool) -> Refusal {
    if too_large {
        let error = ChartError::TooLarge(LARGEST + 1);
        return Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "CHART_INVALID", error.to_string());
    }
    bad("the body broke off")
}

fn bad(message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "CHART_INVALID", message)
}

fn saved() -> Response<Body> {
    let mut response = reply::json(&json!({ "saved": true }));
    *response.status_mut() = StatusCode::CREATED;
    response
}
