//! Watches answered here while the cloud is away: what is known first, then what changes on this
//! node, until the cloud is back.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc, watch};

use super::answer::{self, Accept, Body};
use super::pages::Kept;
use super::replay::{self, Wanted};
use super::shape;
use crate::cache::{Cache, CacheError, Object, Scope};
use crate::kube::negotiate::Shape;
use crate::kube::status::Failure;
use crate::kube::stream::{WatchKind, watch_event};
use crate::kube::table::Header;
use crate::kube::{Encoding, ResourceRequest, meta};
use crate::link::{LinkState, online};

/// A change made on this node, for whoever watches.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Added, modified or deleted.
    pub kind: WatchKind,
    /// The object after it; for a deletion, as it was.
    pub object: std::sync::Arc<Object>,
}

/// Changes that a watch may fall behind by before it is ended.
pub const BACKLOG: usize = 256;
/// How long a watch lasts when its client does not say.
const UNASKED: Duration = Duration::from_secs(600);

/// What a local watch needs.
pub struct LocalWatch {
    /// The cache.
    pub cache: Cache,
    /// Changes on this node.
    pub edits: broadcast::Receiver<Edit>,
    /// The link; the watch ends when the cloud is back.
    pub link: watch::Receiver<LinkState>,
    /// Changes when everything that is served from here must end, as when offline mode is turned off.
    pub stop: watch::Receiver<u64>,
}

impl LocalWatch {
    /// WATCH, and WatchList: 200 only once it is known that the list was read in full.
    pub async fn answer(self, identity: &str, request: &ResourceRequest, accept: Accept) -> Response<Body> {
        let encoding = accept.encoding;
        let wanted = match Wanted::of(identity, request) {
            Ok(wanted) => wanted,
            Err(error) => return answer::failure(&Failure::bad_request(error.to_string()), encoding),
        };
        let (wanted, scope) = match replay::find(&self.cache, wanted, accept.shape).await {
            Ok(found) => found,
            Err(error) => return answer::unavailable(&error, encoding),
        };
        let stream = Stream {
            begins: Begin::of(request),
            api_version: request.gvr.api_version(),
            kind: replay::kind(&scope, &request.gvr),
            until: lasts(request, UNASKED),
            bookmarks: request.query.allow_watch_bookmarks,
            shape: accept.shape,
            has_header: false,
            request: request.clone(),
            encoding,
            wanted,
            scope,
        };
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            if let Err(error) = stream.run(self, &sender).await {
                tracing::warn!(%error, "a watch broke off");
                let _ = sender.send(Err(answer::Broken)).await;
            }
        });
        let body = StreamBody::new(futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|frame| (frame, receiver))
        }));
        answer::with_type(
            StatusCode::OK,
            encoding.watch_content_type(),
            body.map_err(Into::into).boxed_unsync(),
        )
    }
}

/// How long a watch lasts: as its client says, where 0 is no word (as kube-apiserver has it), or so long.
pub fn lasts(request: &ResourceRequest, unasked: Duration) -> Duration {
    request.query.timeout_seconds.filter(|seconds| *seconds > 0).map_or(unasked, Duration::from_secs)
}

/// What a watch begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// Every object, then a bookmark that says so.
    ListAndBookmark,
    /// Every object.
    List,
    /// What was changed here: the client has the cloud's list, and perhaps more. An object that was changed here has no
    /// version of its own by which to tell whether the client has seen it.
    Edited,
}

impl Begin {
    fn of(request: &ResourceRequest) -> Self {
        if request.query.wants_initial_events() {
            return Self::ListAndBookmark;
        }
        match request.query.resource_version.as_deref() {
            None | Some("" | "0") => Self::List,
            Some(_) => Self::Edited,
        }
    }
}

struct Stream {
    begins: Begin,
    api_version: String,
    kind: String,
    until: Duration,
    bookmarks: bool,
    shape: Shape,
    /// Whether a table's columns were named already: only the first event does.
    has_header: bool,
    request: ResourceRequest,
    encoding: Encoding,
    wanted: Wanted,
    scope: Scope,
}

type Sender = mpsc::Sender<Result<Frame<Bytes>, answer::Broken>>;

/// Time between bookmarks, as kube-apiserver sends them.
const BOOKMARK: Duration = Duration::from_secs(60);

impl Stream {
    async fn run(mut self, mut local: LocalWatch, sender: &Sender) -> Result<(), CacheError> {
        let began = match self.begins {
            Begin::Edited => self.send_edited(&local.cache, sender).await?,
            Begin::List | Begin::ListAndBookmark => self.send_all(&local.cache, sender).await?,
        };
        if !began {
            return Ok(());
        }
        if self.begins == Begin::ListAndBookmark && !self.bookmark(sender, true).await {
            return Ok(());
        }
        let end = tokio::time::sleep(self.until);
        tokio::pin!(end);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + BOOKMARK, BOOKMARK);
        local.stop.mark_unchanged();
        loop {
            let going = tokio::select! {
                () = &mut end => false,
                () = sender.closed() => false,
                _ = local.stop.changed() => false,
                _ = online(&mut local.link) => {
                    self.expired(sender).await;
                    false
                }
                edit = local.edits.recv() => match edit {
                    Ok(edit) => self.edit(&edit, sender).await,
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.expired(sender).await;
                        false
                    }
                    Err(broadcast::error::RecvError::Closed) => false,
                },
                _ = ticks.tick(), if self.bookmarks && self.shape == Shape::Object => self.bookmark(sender, false).await,
            };
            if !going {
                return Ok(());
            }
        }
    }

    /// Every object as ADDED; false if the client has gone.
    async fn send_all(&mut self, cache: &Cache, sender: &Sender) -> Result<bool, CacheError> {
        let mut kept = Kept::new(cache.clone(), self.scope.id, self.wanted.clone());
        while let Some(page) = kept.next().await? {
            let bytes: Vec<u8> =
                page.iter().flat_map(|object| self.encode(WatchKind::Added, &object.body)).collect();
            if !bytes.is_empty() && sender.send(Ok(Frame::data(bytes.into()))).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What was changed here as MODIFIED, and what was deleted here as DELETED; false if the client has gone.
    async fn send_edited(&mut self, cache: &Cache, sender: &Sender) -> Result<bool, CacheError> {
        let (scope, resource) = (self.scope.id, self.wanted.whole().to_owned());
        let (edited, deleted) =
            cache.read(move |reader| Ok((reader.edited(scope)?, reader.deleted(&resource)?))).await?;
        for object in edited {
            if self.wanted.matches(&object) && !self.send(WatchKind::Modified, &object.body, sender).await {
                return Ok(false);
            }
        }
        for (key, uid) in deleted {
            // All that is left of it is its name. Whoever does not know it has nothing to forget.
            let body = json!({"apiVersion": self.api_version, "kind": self.kind, "metadata":
                {"name": key.name, "namespace": key.namespace, "uid": uid, "resourceVersion": self.scope.version}});
            let object = Object { key, uid, version: String::new(), body };
            if self.wanted.matches(&object) && !self.send(WatchKind::Deleted, &object.body, sender).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn edit(&mut self, edit: &Edit, sender: &Sender) -> bool {
        if self.wanted.whole() != edit.object.key.resource || !self.wanted.matches(&edit.object) {
            return true;
        }
        self.send(edit.kind, &edit.object.body, sender).await
    }

    /// A bookmark; `initial` for the one that ends the first events.
    async fn bookmark(&mut self, sender: &Sender, initial: bool) -> bool {
        let version = if self.scope.version.is_empty() { "0" } else { &self.scope.version };
        let mut object = json!({"apiVersion": self.api_version, "kind": self.kind,
            "metadata": {"resourceVersion": version}});
        if initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.send(WatchKind::Bookmark, &object, sender).await
    }

    /// Tells the client to read everything anew.
    async fn expired(&mut self, sender: &Sender) {
        self.send(WatchKind::Error, &Failure::expired(answer::EXPIRED).body(), sender).await;
    }

    async fn send(&mut self, kind: WatchKind, object: &Value, sender: &Sender) -> bool {
        let bytes = self.encode(kind, object);
        sender.send(Ok(Frame::data(bytes.into()))).await.is_ok()
    }

    fn encode(&mut self, kind: WatchKind, object: &Value) -> Vec<u8> {
        let event = match kind {
            WatchKind::Error => watch_event(kind, object, self.encoding),
            _ if self.shape == Shape::Object => watch_event(kind, object, self.encoding),
            _ => {
                let header = if self.has_header { Header::Left } else { Header::Shown };
                self.has_header = true;
                let view = shape::one(self.shape, &self.request, object.clone(), header);
                watch_event(kind, &view, self.encoding)
            }
        };
        match event {
            Ok(bytes) => bytes,
            Err(error) => {
                let name = meta::name(object).unwrap_or_default();
                tracing::warn!(%error, name, "an event has no such encoding");
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_of_no_seconds_is_one_that_does_not_say() {
        let unasked = Duration::from_secs(9);
        for (query, expected) in [("", 9), ("&timeoutSeconds=0", 9), ("&timeoutSeconds=3", 3)] {
            let parsed = crate::kube::Request::parse("GET", "/api/v1/pods", &format!("watch=true{query}"));
            assert_eq!(lasts(parsed.resource().unwrap(), unasked).as_secs(), expected, "{query}");
        }
    }
}
