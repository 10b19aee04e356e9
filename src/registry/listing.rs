//! Content discovery: tags, repositories, referrers.

use http::Response;
use serde_json::{Value, json};

use super::Registry;
use super::reply::{self, Body, Refusal};
use super::route::Query;
use crate::oci::{LARGEST, media};
use crate::store::Referrer;
use crate::sys::digest::Digest;

/// The most that one page holds.
const PAGE: usize = 10_000;
/// The most bytes of descriptors in one list of referrers. Clients read no index that is larger than a manifest may be.
const LIST: usize = LARGEST - 1024;

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
            link(
                &mut response,
                &format!("/v2/{path}/tags/list"),
                query,
                &[("n", &limit.to_string()), ("last", last)],
            );
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
            link(&mut response, "/v2/_catalog", query, &[("n", &limit.to_string()), ("last", last)]);
        }
        Ok(response)
    }

    pub(super) async fn referrers(
        &self,
        path: &str,
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
        let after = query.get("last").unwrap_or_default();
        let (mut manifests, mut bytes, mut more) = (Vec::new(), 0, false);
        for referrer in found {
            let other = wanted.is_some() && referrer.artifact_type.as_deref() != wanted;
            if other || referrer.digest.as_str() <= after {
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
            bytes += descriptor.to_string().len() + 1;
            if bytes > LIST && !manifests.is_empty() {
                more = true;
                break;
            }
            manifests.push(descriptor);
        }
        let last = manifests.last().filter(|_| more).and_then(|last| last["digest"].as_str());
        let last = last.map(str::to_owned);
        let index = json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": manifests });
        let mut response = reply::typed(media::OCI_INDEX, index.to_string().into());
        if wanted.is_some() {
            reply::set(&mut response, "oci-filters-applied", "artifactType");
        }
        if let Some(last) = last {
            let mut pairs = vec![("last", last.as_str())];
            pairs.extend(wanted.map(|wanted| ("artifactType", wanted)));
            link(&mut response, &format!("/v2/{path}/referrers/{subject}"), query, &pairs);
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

/// Says where the next page is: at `path`, of the same upstream as this one.
fn link(response: &mut Response<Body>, path: &str, query: &Query, pairs: &[(&str, &str)]) {
    let mut next = url::form_urlencoded::Serializer::new(String::new());
    next.extend_pairs(pairs);
    if let Some(upstream) = query.get("ns") {
        next.append_pair("ns", upstream);
    }
    reply::set(response, "link", &format!("<{path}?{}>; rel=\"next\"", next.finish()));
}
