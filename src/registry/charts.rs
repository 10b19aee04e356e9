//! Chart repositories: ChartMuseum's API and Helm's index, several repositories by path.

mod index;
mod receive;
mod route;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::Registry;
use super::reply::{self, Body, Refusal};
use super::route::Query;
use super::server::Peer;
use crate::oci::chart::{newest_first, sound};
use crate::store::{Chart, Owner};

pub(super) use index::Indexes;
pub use receive::add;
pub(super) use route::ChartRoute;
pub use route::is_repository;

impl Registry {
    /// Answers a request for charts; errors are in ChartMuseum's JSON.
    pub(super) async fn answer_chart(
        &self,
        route: ChartRoute,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Response<Body> {
        match self.dispatch_chart(route, request, peer).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_chart_response(),
        }
    }

    async fn dispatch_chart(
        &self,
        route: ChartRoute,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Result<Response<Body>, Refusal> {
        let method = request.method().clone();
        if !matches!(method, Method::GET | Method::HEAD) {
            self.inner.auth.may_write(request.headers(), peer).await?;
        }
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let reads = matches!(method, Method::GET | Method::HEAD);
        let allowed = route.methods();
        match route {
            ChartRoute::Health if reads => Ok(reply::json(&json!({ "healthy": true }))),
            ChartRoute::Index { repository } if reads => {
                self.chart_index(repository, request.headers()).await
            }
            ChartRoute::File { repository, stem, provenance } if reads => {
                self.chart_file(repository, stem, provenance).await
            }
            ChartRoute::List { repository } if reads => self.list_charts(repository, &query).await,
            ChartRoute::Name { repository, name } if reads => self.chart_versions(repository, name).await,
            ChartRoute::Version { repository, name, version } if reads => {
                let chart = self.blocking(move |store| store.chart(&repository, &name, &version)).await?;
                Ok(reply::json(&entry(&chart.ok_or_else(unknown)?)))
            }
            ChartRoute::List { repository } if method == Method::POST => {
                self.receive_chart(repository, &query, request).await
            }
            ChartRoute::Provenance { repository } if method == Method::POST => {
                self.receive_provenance(repository, &query, request).await
            }
            ChartRoute::Version { repository, name, version } if method == Method::DELETE => {
                let remove = move |store: &crate::store::Store| {
                    store.remove_chart(&repository, &name, &version, &Owner::Push)
                };
                match self.blocking(remove).await? {
                    true => Ok(reply::json(&json!({ "deleted": true }))),
                    false => Err(unknown()),
                }
            }
            _ => Err(Refusal::method(&method, allowed)),
        }
    }

    async fn chart_file(
        &self,
        repository: String,
        stem: String,
        provenance: bool,
    ) -> Result<Response<Body>, Refusal> {
        let found = self
            .blocking(move |store| {
                let Some(chart) = store.chart_by_file(&repository, &stem)? else { return Ok(None) };
                let digest = if provenance { chart.provenance } else { Some(chart.digest) };
                let Some(digest) = digest else { return Ok(None) };
                let Some(blob) = store.blob(None, &digest)? else { return Ok(None) };
                Ok(Some((blob.open()?, blob.size, digest)))
            })
            .await?;
        let (file, size, digest) = found.ok_or_else(unknown)?;
        let mut response = Response::new(Body::file(file, 0, size));
        let media_type = if provenance { "application/pgp-signature" } else { "application/x-tar" };
        reply::set(&mut response, "content-type", media_type);
        reply::set(&mut response, "etag", &format!("\"{digest}\""));
        response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
        Ok(response)
    }

    async fn list_charts(&self, repository: String, query: &Query) -> Result<Response<Body>, Refusal> {
        let offset = query.number("offset")?.unwrap_or(0);
        let limit = query.number("limit")?.unwrap_or(usize::MAX);
        let charts = self.blocking(move |store| store.charts(&repository, None)).await?;
        let mut names = serde_json::Map::new();
        for versions in charts.chunk_by(|a, b| a.name == b.name).skip(offset).take(limit) {
            names.insert(versions[0].name.clone(), entries(versions.to_vec()));
        }
        Ok(reply::json(&Value::Object(names)))
    }

    async fn chart_versions(&self, repository: String, name: String) -> Result<Response<Body>, Refusal> {
        let charts = self.blocking(move |store| store.charts(&repository, Some(&name))).await?;
        if charts.is_empty() { Err(unknown()) } else { Ok(reply::json(&entries(charts))) }
    }
}

fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "CHART_UNKNOWN", "chart not found")
}

fn entry(chart: &Chart) -> Value {
    serde_json::from_str(&sound(&chart.entry)).unwrap_or_default()
}

fn entries(mut charts: Vec<Chart>) -> Value {
    charts.sort_by(|a, b| newest_first(&a.version, &b.version));
    charts.iter().map(entry).collect()
}
