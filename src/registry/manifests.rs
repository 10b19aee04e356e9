//! Manifests: fetching, pushing, removing. Small ones are answered from memory.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use lru::LruCache;

use super::Registry;
use super::reply::{self, Body, Refusal};
use super::route::Query;
use super::uploads::created;
use crate::oci::{LARGEST, ManifestError, ParsedManifest, is_tag};
use crate::store::{Absent, NewManifest, Owner};
use crate::sys::digest::{Algorithm, Digest};

/// Manifests larger than this are read from disk each time.
const SMALL: usize = 32 << 10;
/// How many are kept in memory: at most 2 MiB of manifests.
const KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);
/// After this the store is asked again, so that it learns that the manifest is still used.
const FRESH: Duration = Duration::from_secs(600);

/// Answers that were given lately, good for one epoch of the store.
pub(super) struct Memory(Mutex<Remembered>);

struct Remembered {
    epoch: u64,
    answers: LruCache<(String, String), Arc<Answer>>,
}

/// A manifest, ready to be sent.
struct Answer {
    bytes: Bytes,
    key: Digest,
    digest: HeaderValue,
    etag: HeaderValue,
    media_type: HeaderValue,
    owner: Option<Owner>,
    repository: String,
    read: Instant,
}

/// What is here under a name.
enum Here {
    Whole(Arc<Answer>),
    /// One whose bytes are lost.
    Damaged(Digest),
    Nothing,
}

impl Default for Memory {
    fn default() -> Self {
        Self(Mutex::new(Remembered { epoch: 0, answers: LruCache::new(KEPT) }))
    }
}

impl Memory {
    fn get(&self, epoch: u64, key: &(String, String)) -> Option<Arc<Answer>> {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.epoch != epoch {
            remembered.answers.clear();
            remembered.epoch = epoch;
        }
        remembered.answers.get(key).filter(|answer| answer.read.elapsed() < FRESH).cloned()
    }

    /// Remembers what was read under `epoch`, unless the store has changed since.
    fn put(&self, epoch: u64, key: (String, String), answer: &Arc<Answer>) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.epoch == epoch && answer.bytes.len() <= SMALL {
            remembered.answers.put(key, answer.clone());
        }
    }
}

impl Registry {
    pub(super) async fn get_manifest(
        &self,
        names: &[String],
        name: &str,
        request: &Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let unknown = || Refusal::manifest_unknown(name);
        let answer = match self.find_manifest(names, name).await? {
            Here::Whole(answer) => {
                if answer.owner == Some(Owner::PullThrough) {
                    self.inner.pull.revalidate(&answer.repository, name);
                }
                answer
            }
            // Whose tag it is and where that points upstream by now does not matter to the same bytes.
            Here::Damaged(digest) => match self.fetch_manifest(names, name, digest.as_str()).await? {
                Some(answer) => answer,
                None => self.fetch_manifest(names, name, name).await?.ok_or_else(unknown)?,
            },
            Here::Nothing => self.fetch_manifest(names, name, name).await?.ok_or_else(unknown)?,
        };
        if *request.method() == Method::GET {
            self.inner.pull.complete(&answer.repository, &answer.key);
        }
        let known = request.headers().get(header::IF_NONE_MATCH).is_some_and(|known| *known == answer.etag);
        let mut response = match known {
            true => reply::empty(StatusCode::NOT_MODIFIED),
            false => Response::new(Body::Full(answer.bytes.clone())),
        };
        let headers = response.headers_mut();
        headers.insert("docker-content-digest", answer.digest.clone());
        headers.insert(header::CONTENT_TYPE, answer.media_type.clone());
        headers.insert(header::ETAG, answer.etag.clone());
        Ok(response)
    }

    /// Has `wanted` fetched, if an upstream has it; and says what stands for `name` then.
    async fn fetch_manifest(
        &self,
        names: &[String],
        name: &str,
        wanted: &str,
    ) -> Result<Option<Arc<Answer>>, Refusal> {
        self.inner.pull.manifest(names, wanted).await;
        match self.find_manifest(names, name).await? {
            Here::Whole(answer) => Ok(Some(answer)),
            Here::Damaged(_) | Here::Nothing => Ok(None),
        }
    }

    async fn find_manifest(&self, names: &[String], name: &str) -> Result<Here, Refusal> {
        let epoch = self.store().epoch();
        let key = (names[0].clone(), name.to_owned());
        if let Some(answer) = self.inner.manifests.get(epoch, &key) {
            return Ok(Here::Whole(answer));
        }
        let (candidates, wanted) = (names.to_vec(), name.to_owned());
        let found = self
            .blocking(move |store| {
                for name in candidates {
                    if let Some(manifest) = store.manifest(&name, &wanted)? {
                        // Small and read whole: what rots is noticed before it is sent.
                        let bytes = manifest.blob.intact()?;
                        return Ok(Some((manifest, bytes, name)));
                    }
                }
                Ok(None)
            })
            .await?;
        let Some((manifest, bytes, repository)) = found else { return Ok(Here::Nothing) };
        let digest = &manifest.blob.digest;
        let Some(bytes) = bytes else { return Ok(Here::Damaged(digest.clone())) };
        let header = |text: &str| {
            HeaderValue::from_str(text).map_err(|_| Refusal::internal("a header cannot be made"))
        };
        let answer = Arc::new(Answer {
            bytes: bytes.into(),
            key: digest.clone(),
            digest: header(digest.as_str())?,
            etag: header(&format!("\"{digest}\""))?,
            media_type: header(&manifest.media_type)?,
            owner: manifest.owner,
            repository,
            read: Instant::now(),
        });
        self.inner.manifests.put(epoch, key, &answer);
        Ok(Here::Whole(answer))
    }

    pub(super) async fn put_manifest(
        &self,
        path: &str,
        names: &[String],
        name: String,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let announced =
            request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        if let Some(size) = announced.filter(|size| *size > LARGEST) {
            return Err(ManifestError::TooLarge(size).into());
        }
        let body = Limited::new(request.into_body(), LARGEST).collect().await;
        let bytes = body.map_err(|e| match e.is::<http_body_util::LengthLimitError>() {
            true => Refusal::from(ManifestError::TooLarge(LARGEST + 1)),
            false => Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", "the body broke off"),
        })?;
        let bytes = bytes.to_bytes();
        let parsed = ParsedManifest::parse(&bytes, &content_type)?;
        let subject = parsed.subject.as_ref().map(|subject| subject.digest.to_string());
        let (digest, tags) = named(&name, query, &bytes)?;
        // The tag that a push names in its path goes without saying, and makes others in the query none.
        let told = if name == digest.as_str() { tags.clone() } else { Vec::new() };
        let absent = if self.inner.settings.push_sparse { Absent::Allowed } else { Absent::Refused };
        let (repository, facts, wanted) = (names[0].clone(), parsed.facts(), digest.clone());
        self.blocking(move |store| {
            let tags: Vec<Option<&str>> = if tags.is_empty() {
                vec![None]
            } else {
                tags.iter().map(|tag| Some(tag.as_str())).collect()
            };
            for tag in tags {
                store.put_manifest(NewManifest {
                    repository: &repository,
                    tag,
                    bytes: &bytes,
                    digest: &wanted,
                    facts: facts.clone(),
                    owner: Owner::Push,
                    absent,
                    asked: false,
                })?;
            }
            Ok(())
        })
        .await?;
        let mut response = created(&format!("/v2/{path}/manifests/{digest}"), &digest);
        if let Some(subject) = subject {
            reply::set(&mut response, "oci-subject", &subject);
        }
        for tag in told {
            if let Ok(value) = HeaderValue::try_from(tag) {
                response.headers_mut().append("oci-tag", value);
            }
        }
        Ok(response)
    }

    pub(super) async fn delete_manifest(
        &self,
        names: &[String],
        name: &str,
    ) -> Result<Response<Body>, Refusal> {
        let (repository, wanted) = (names[0].clone(), name.to_owned());
        let removed = self
            .blocking(move |store| match wanted.parse::<Digest>() {
                Ok(digest) => store.remove_manifest(&repository, &digest, &Owner::Push),
                Err(_) => store.remove_tag(&repository, &wanted, &Owner::Push),
            })
            .await?;
        if removed { Ok(reply::empty(StatusCode::ACCEPTED)) } else { Err(Refusal::manifest_unknown(name)) }
    }
}

/// The digest that a push is kept under, and its tags: the name, or those of `?tag=` beside a digest.
fn named(name: &str, query: &Query, bytes: &[u8]) -> Result<(Digest, Vec<String>), Refusal> {
    if let Ok(digest) = name.parse::<Digest>() {
        if Digest::of(digest.algorithm(), bytes) != digest {
            let why = format!("the manifest is not `{digest}`");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", why));
        }
        let tags: Vec<String> = query.all("tag").map(str::to_owned).collect();
        return match tags.iter().find(|tag| !is_tag(tag)) {
            Some(bad) => Err(Refusal::tag(bad)),
            None => Ok((digest, tags)),
        };
    }
    let digest = match query.get("digest") {
        Some(digest) => digest.parse()?,
        None => Digest::of(Algorithm::Sha256, bytes),
    };
    if Digest::of(digest.algorithm(), bytes) != digest {
        let why = format!("the manifest is not `{digest}`");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", why));
    }
    Ok((digest, vec![name.to_owned()]))
}
