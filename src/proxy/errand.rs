//! One request of the outbox's, in the name of whoever made the change: to tell it, or to see first what the cloud has.

use std::sync::PoisonError;
use std::time::Duration;

use http::response::Parts;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use tokio::time::Instant;

use super::fate::{self, Fate};
use super::genuine;
use super::outbox::{ATTEMPTS, Broken, Outbox};
use super::statuses::PodIdentity;
use super::token;
use super::upstream::{As, UpBody};
use crate::cache::{Author, CacheError, Change, ChangeKind, Object, Reader};
use crate::kube::meta;
use crate::link::Patience;

/// Bytes of an answer at the most.
const ANSWER_LIMIT: usize = 4 << 20;
/// For so long the cloud is there that was found behind an answer of somebody else's.
const FOUND: Duration = Duration::from_secs(5);

/// What the cloud has of the object of a change.
pub(super) enum Now {
    /// The very object.
    There(Object),
    /// Who made the change may not read it.
    Hidden,
    /// What that makes of the change: the object is gone, or the cloud does not answer for now.
    Told(Fate),
}

impl Outbox {
    /// Sends a change; where the cloud says when to come again, that is noted in `pause`, unless it is after `left`.
    pub(super) async fn send(
        &self,
        change: &Change,
        body: &Value,
        left: Duration,
        pause: &mut Duration,
    ) -> Result<Fate, Broken> {
        let request = match fate::request(change, body) {
            Ok(request) => request,
            Err(why) => return Ok(Fate::Never(why)),
        };
        let (head, bytes) = match self.exchange(change, request).await? {
            Ok(answered) => answered,
            Err(fate) => return Ok(fate),
        };
        let mut fate = fate::fate(change, head.status, &bytes);
        let after = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        if let (Fate::Later(_, times), Some(asked)) = (&mut fate, after.map(Duration::from_secs)) {
            if asked > left {
                *times = ATTEMPTS;
            } else {
                *pause = asked.max(*pause);
            }
        }
        Ok(fate)
    }

    /// What the cloud has of the object of `change` now.
    pub(super) async fn now(&self, change: &Change) -> Result<Now, Broken> {
        let request = match fate::reading(change) {
            Ok(request) => request,
            Err(why) => return Ok(Now::Told(Fate::Never(why))),
        };
        let (head, bytes) = match self.exchange(change, request).await? {
            Ok(answered) => answered,
            Err(fate) => return Ok(Now::Told(fate)),
        };
        let value = fate::value(&bytes);
        let said = value.get("message").and_then(Value::as_str).unwrap_or("no reason given");
        let why = format!("{} {said}", head.status.as_u16());
        Ok(match head.status {
            StatusCode::OK => match Object::new(&change.what.key.resource, value) {
                Some(object) if object.uid == change.what.uid => Now::There(object),
                Some(_) => Now::Told(Fate::Gone("another one has its name by now".to_owned())),
                None => Now::Told(Fate::Later("the cloud answered with no object".to_owned(), 1)),
            },
            StatusCode::NOT_FOUND => Now::Told(Fate::Gone(why)),
            StatusCode::FORBIDDEN => Now::Hidden,
            _ => Now::Told(Fate::Later(why, 1)),
        })
    }

    /// What becomes of all `changes` of a pod that kubelet has ended here, where the cloud does not want it ended any more:
    /// it was restored from a backup that is older than the deletion. kubelet starts the pod again; its last status would
    /// have it ended for good, and its deletion gone.
    pub(super) async fn lives_on(&self, changes: &[Change]) -> Result<Option<Fate>, Broken> {
        let Some(deletion) = changes.iter().find(|change| ends_at_the_clouds_wish(change)) else {
            return Ok(None);
        };
        match self.now(deletion).await? {
            Now::There(pod) if meta::deletion_timestamp(&pod.body).is_none() => {
                let object = &deletion.what.key;
                tracing::info!(%object, "what was deleted is not to be any more: the cloud was restored");
                Ok(Some(Fate::Gone("the cloud deletes it no more".to_owned())))
            }
            Now::Told(later @ Fate::Later(..)) => Ok(Some(later)),
            Now::There(_) | Now::Hidden | Now::Told(_) => Ok(None),
        }
    }

    /// One request for a change and its answer, or what becomes of the change without one.
    async fn exchange(
        &self,
        change: &Change,
        mut request: Request<UpBody>,
    ) -> Result<Result<(Parts, bytes::Bytes), Fate>, Broken> {
        let mut who = As::Node;
        if let Author::Client(identity) = &change.what.author {
            who = As::Bearer;
            match self.token_of(identity).await? {
                Ok(bearer) => drop(request.headers_mut().insert(header::AUTHORIZATION, bearer)),
                Err(fate) => return Ok(Err(fate)),
            }
        }
        let exchange = async {
            let (answer, _place) = self.upstream.send(who, request).await.map_err(|e| e.to_string())?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|e| e.to_string())?;
            Ok::<_, String>((head, body.to_bytes()))
        };
        let why = match tokio::time::timeout(self.patience, exchange).await {
            Ok(answered) => {
                let (head, bytes) = answered.map_err(Broken::Gone)?;
                if !genuine::is_strange(head.status, &head.headers, &fate::value(&bytes)) {
                    return Ok(Ok((head, bytes)));
                }
                let why = format!("{}, and not as an API server answers", head.status.as_u16());
                // What stands before the cloud may keep a kind of request from it, of many pods: not a connection for each.
                if self.was_found() {
                    return Ok(Err(Fate::Later(why, ATTEMPTS)));
                }
                why
            }
            Err(_) => format!("no answer within {} s", self.patience.as_secs()),
        };
        // It may be so of this request alone, as behind a webhook that does not answer: the link is used without it.
        match self.upstream.probe(As::Node, Patience::Short).await {
            Ok(()) => {
                *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                Ok(Err(Fate::Later(why, ATTEMPTS)))
            }
            Err(silence) => Err(Broken::Gone(format!("{why}, and then {silence}"))),
        }
    }

    fn was_found(&self) -> bool {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.is_some_and(|at| at.elapsed() < FOUND)
    }

    /// The newest token of a client on this node, as a header: what it told is told in its name. Where there is none, what
    /// becomes of that.
    async fn token_of(&self, identity: &str) -> Result<Result<HeaderValue, Fate>, CacheError> {
        // Its tokens go with its pod.
        let gone = || Fate::Gone("who told it is not on this node any more".to_owned());
        let Some(pod) = PodIdentity::of(identity) else { return Ok(Err(gone())) };
        let identity = identity.to_owned();
        let read = move |reader: &Reader| {
            let tokens = reader.tokens_of(&pod.namespace, &pod.account, &pod.uid)?;
            Ok((tokens, reader.purposes(&identity)?))
        };
        let (tokens, accepted) = self.cache.read(read).await?;
        if tokens.is_empty() {
            return Ok(Err(gone()));
        }
        let bearer = token::to_tell_with(&tokens, &accepted).and_then(|bearer| bearer.authorization());
        Ok(bearer.ok_or_else(|| Fate::Never("no token is known by which its pod may tell it".to_owned())))
    }
}

/// Whether kubelet has deleted a pod because the cloud began to, and not the mirror of a static pod by itself.
fn ends_at_the_clouds_wish(change: &Change) -> bool {
    let what = &change.what;
    let last = || serde_json::from_slice::<Value>(what.base.as_deref()?).ok();
    what.kind == ChangeKind::Delete
        && what.key.resource == "v1/pods"
        && last().is_some_and(|last| meta::deletion_timestamp(&last).is_some())
}
