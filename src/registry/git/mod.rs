//! Mirrored git repositories over git's smart HTTP protocol, versions 0 and 2, for those who read alone: clone, fetch,
//! shallow ones too, and `ls-remote`. Refuses pushes, and the older protocol that serves files.

mod answer;
mod ask;
mod turn;

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::Registry;
use super::reply::{self, Body};
use crate::git::{self, Repository};

/// The largest request that is read, in bytes.
const LARGEST: usize = 8 << 20;
/// How long a request may take to come.
const REQUEST: Duration = Duration::from_secs(20);
/// Pieces of an answer that wait for a client.
const WAITING: usize = 4;

/// Where repositories lie, and how many may ask at once.
#[derive(Default)]
pub(super) struct Repositories {
    state_dir: OnceLock<PathBuf>,
    turns: turn::Turns,
}

/// What a path below `/git/` means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GitRoute {
    /// `/git/NAME.git/info/refs`
    Refs(String),
    /// `/git/NAME.git/git-upload-pack`
    Pack(String),
    /// Anything else.
    Other,
}

impl GitRoute {
    /// `None` for a path that is not git's.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/git/")?;
        let Some((name, what)) = rest.split_once('/') else { return Some(Self::Other) };
        let name = name.strip_suffix(".git").unwrap_or(name);
        Some(match what {
            "info/refs" if git::is_name(name) => Self::Refs(name.to_owned()),
            "git-upload-pack" if git::is_name(name) => Self::Pack(name.to_owned()),
            _ => Self::Other,
        })
    }
}

/// Why there is no answer, as text: git shows it.
struct No(StatusCode, String);

impl Registry {
    /// From now on the repositories that the mirror keeps below `state_dir` are served too.
    pub fn with_repositories(self, state_dir: PathBuf) -> Self {
        // The first one counts.
        let _ = self.inner.repositories.state_dir.set(state_dir);
        self
    }

    pub(super) async fn answer_git(&self, route: GitRoute, request: Request<Incoming>) -> Response<Body> {
        let allowed = if matches!(route, GitRoute::Pack(_)) { "POST" } else { "GET, HEAD" };
        self.git(route, request).await.unwrap_or_else(|No(status, why)| {
            let mut response = reply::typed("text/plain; charset=utf-8", format!("{why}\n").into());
            if status == StatusCode::METHOD_NOT_ALLOWED {
                reply::set(&mut response, "allow", allowed);
            }
            if status == StatusCode::SERVICE_UNAVAILABLE {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("30"));
            }
            *response.status_mut() = status;
            response
        })
    }

    async fn git(&self, route: GitRoute, request: Request<Incoming>) -> Result<Response<Body>, No> {
        let two = is_two(request.headers());
        match (route, request.method().clone()) {
            (GitRoute::Refs(name), Method::GET | Method::HEAD) => {
                let service = request.uri().query().unwrap_or_default();
                if !service.split('&').any(|pair| pair == "service=git-upload-pack") {
                    let why =
                        "only `git-upload-pack` is served: this is a mirror, push to where it comes from";
                    return Err(No(StatusCode::FORBIDDEN, why.into()));
                }
                let repository = self.repository(&name).await?;
                let listed = tokio::task::spawn_blocking(move || match two {
                    true => Ok(answer::capabilities()),
                    false => answer::refs_zero(&repository),
                });
                let listed = listed.await.map_err(|_| internal("a task ended unexpectedly"))?;
                let listed = listed.map_err(|e| internal(&e.to_string()))?;
                Ok(answered("application/x-git-upload-pack-advertisement", Body::Full(listed.into())))
            }
            (GitRoute::Pack(name), Method::POST) => {
                let repository = self.repository(&name).await?;
                // First its turn, then the request: those who wait hold nothing.
                let turns = &self.inner.repositories.turns;
                let busy =
                    || No(StatusCode::SERVICE_UNAVAILABLE, "others are served, try again later".into());
                let permit = turns.take().await.ok_or_else(busy)?;
                let late = |_| No(StatusCode::REQUEST_TIMEOUT, "the request comes too slowly".into());
                let (body, packed) = tokio::time::timeout(REQUEST, read(request)).await.map_err(late)??;
                let asked = tokio::task::spawn_blocking(move || {
                    let body = if packed { unpack(&body)? } else { body };
                    let asked = match two {
                        true => ask::parse_two(&body).map(Asked::Two),
                        false => ask::parse_zero(&body).map(Asked::Zero),
                    };
                    // Its turn is not over where it has hung up.
                    asked.map(|asked| (asked, permit)).map_err(|why| No(StatusCode::BAD_REQUEST, why))
                });
                let (asked, permit) = asked.await.map_err(|_| internal("a task ended unexpectedly"))??;
                let (hand, pieces) = mpsc::channel(WAITING);
                let mut out = answer::Out::new(hand, turns.waiting());
                tokio::task::spawn_blocking(move || {
                    match asked {
                        Asked::Two(command) => answer::two(&repository, &command, &mut out),
                        Asked::Zero(fetch) => answer::zero(&repository, &fetch, &mut out),
                    }
                    drop(permit);
                });
                Ok(answered("application/x-git-upload-pack-result", Body::Stream(pieces, None)))
            }
            (GitRoute::Other, _) => Err(No(StatusCode::NOT_FOUND, "there is nothing at this path".into())),
            (_, method) => Err(No(StatusCode::METHOD_NOT_ALLOWED, format!("`{method}` is not done here"))),
        }
    }

    async fn repository(&self, name: &str) -> Result<Repository, No> {
        let absent = || No(StatusCode::NOT_FOUND, format!("there is no repository `{name}.git` here"));
        let state_dir = self.inner.repositories.state_dir.get().ok_or_else(absent)?;
        let folder = git::folder(state_dir, name);
        let opened = tokio::task::spawn_blocking(move || Repository::open(&folder)).await;
        match opened.map_err(|_| internal("a task ended unexpectedly"))? {
            Ok(repository) => Ok(repository),
            Err(git::Error::Absent(_)) => Err(absent()),
            Err(error) => {
                tracing::error!(%error, "a repository cannot be served");
                Err(internal(&format!("the repository `{name}.git` is damaged")))
            }
        }
    }
}

fn internal(why: &str) -> No {
    No(StatusCode::INTERNAL_SERVER_ERROR, why.to_owned())
}

fn is_two(headers: &HeaderMap) -> bool {
    let asked = headers.get("git-protocol").and_then(|value| value.to_str().ok()).unwrap_or_default();
    asked.split(':').any(|word| word == "version=2")
}

fn answered(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// What a client asks for, in the version of the protocol that it speaks.
enum Asked {
    Zero(ask::Fetch),
    Two(ask::Command),
}

/// A request's body, and whether it is packed, as git does if it is long.
async fn read(request: Request<Incoming>) -> Result<(Bytes, bool), No> {
    let packed = match request.headers().get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => false,
        Some(b"gzip" | b"x-gzip") => true,
        Some(_) => return Err(No(StatusCode::UNSUPPORTED_MEDIA_TYPE, "only gzip is read here".into())),
    };
    let body = Limited::new(request.into_body(), LARGEST).collect().await;
    let body = body.map_err(|e| No(StatusCode::BAD_REQUEST, format!("the request cannot be read: {e}")))?;
    Ok((body.to_bytes(), packed))
}

fn unpack(body: &[u8]) -> Result<Bytes, No> {
    let mut plain = Vec::new();
    let most = LARGEST as u64 + 1;
    let read = flate2::read::GzDecoder::new(body).take(most).read_to_end(&mut plain);
    let why = match read {
        Ok(length) if length as u64 == most => "it is too long".to_owned(),
        Ok(_) => return Ok(plain.into()),
        Err(e) => e.to_string(),
    };
    Err(No(StatusCode::BAD_REQUEST, format!("the request cannot be read: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_repositories_and_nothing_else() {
        let parse = |path: &str| GitRoute::parse(path);
        assert_eq!(parse("/git/config.git/info/refs"), Some(GitRoute::Refs("config".into())));
        assert_eq!(parse("/git/config/git-upload-pack"), Some(GitRoute::Pack("config".into())));
        for other in
            ["/git/", "/git/config.git", "/git/../x/info/refs", "/git/config.git/HEAD", "/git/a/b/info/refs"]
        {
            assert_eq!(parse(other), Some(GitRoute::Other), "{other}");
        }
        assert_eq!(parse("/v2/git/info/refs"), None);
    }
}
