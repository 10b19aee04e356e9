//! Content discovery: tags, repositories, referrers.

use http::Response;
use serde_json::{Value, json};

use super::Registry;
use super::reply::{self, Body, Refusal};
use super::route::Query;
use crate::oci::media;
use crate::store::Referrer;
use crate::sys::digest::Digest;

/// The most that one page holds.
const PAGE: usize = 10_000;

impl Registry {
    pub(super) async fn tags(
        &self,
        path: &str,
        names: &[String],
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let (limit, last) = page_of(query)?;
        let (candidates, after) = (names.to_vec(), last.clone());
        let found = self
            .blocking(move |store| {
                for name in candidates {
                    if let Some(tags) = store.tags(&name, &after, limit + 1)? {
                        return Ok(Some(tags));
                    }
                }
                Ok(None)
            })
            .await?;
        let mut tags = found.ok_or_else(Refusal::name_unknown)?;
        let more = tags.len() > limit;
        tags.truncate(limit);
        let mut response = reply::json(&json!({ "name": path, "tags": tags }));
        if let Some(last) = tags.last().filter(|_| more) {
            link(&mut response, &format!("/v2/{path}/tags/list"), limit, last);
        }
        Ok(response)
    }

    pub(super) async fn catalog(&self, query: &Query) -> Result<Response<Body>, Refusal> {
        let (limit, last) = page_of(query)?;
        let mut repositories: Vec<String> = self
            .blocking(move |store| store.repositories(&last, limit + 1))
            .await?
            .into_iter()
            .map(|repository| repository.name)
            .collect();
        let more = repositories.len() > limit;
        repositories.truncate(limit);
        let mut response = reply::json(&json!({ "repositories": repositories }));
        if let Some(last) = repositories.last().filter(|_| more) {
            link(&mut response, "/v2/_catalog", limit, last);
        }
        Ok(response)
    }

    pub(super) async fn referrers(
        &self,
        names: &[String],
        subject: Digest,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let mut found = self.referrers_here(names, &subject).await?;
        let none = found.is_empty();
        self.inner.pull.referrers(names, &subject, none).await;
        if none {
            found = self.referrers_here(names, &subject).await?;
        }
        let wanted = query.get("artifactType");
        let mut manifests = Vec::new();
        for referrer in found {
            if wanted.is_some() && referrer.artifact_type.as_deref() != wanted {
                continue;
            }
            let mut descriptor = json!({
                "mediaType": referrer.media_type, "digest": referrer.digest, "size": referrer.size,
            });
            if let Some(artifact_type) = referrer.artifact_type {
                descriptor["artifactType"] = Value::String(artifact_type);
            }
            let annotations = referrer.annotations.and_then(|text| serde_json::from_str(&text).ok());
            if let Some(annotations @ Value::Object(_)) = annotations {
                descriptor["annotations"] = annotations;
            }
            manifests.push(descriptor);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": manifests });
        let mut response = reply::typed(media::OCI_INDEX, index.to_string().into());
        if wanted.is_some() {
            reply::set(&mut response, "oci-filters-applied", "artifactType");
        }
        Ok(response)
    }
}

impl Registry {
    async fn referrers_here(&self, names: &[String], subject: &Digest) -> Result<Vec<Referrer>, Refusal> {
        let (candidates, subject) = (names.to_vec(), subject.clone());
        self.blocking(move |store| {
            for name in candidates {
                let referrers = store.referrers(&name, &subject)?;
                if !referrers.is_empty() {
                    return Ok(referrers);
                }
            }
            Ok(Vec::new())
        })
        .await
    }
}

fn page_of(query: &Query) -> Result<(usize, String), Refusal> {
    let limit = query.number("n")?.unwrap_or(PAGE).min(PAGE);
    Ok((limit, query.get("last").unwrap_or_default().to_owned()))
}

fn link(response: &mut Response<Body>, path: &str, limit: usize, last: &str) {
    let last: String = url::form_urlencoded::byte_serialize(last.as_bytes()).collect();
    reply::set(response, "link", &format!("<{path}?n={limit}&last={last}>; rel=\"next\""));
}
