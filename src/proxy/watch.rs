//! Watches answered here while the cloud is away: what is known first, then what changes on this
//! node, until the cloud is back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc, watch};

use super::answer::{self, Accept, Body};
use super::pages::Kept;
use super::replay::{self, Found, Wanted};
use super::shape;
use crate::cache::version::{self, Given};
use crate::cache::{Cache, CacheError, Object, Reader, Scope, ScopeId, is_newer};
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
    pub object: Arc<Object>,
    /// The object before it, if it was modified.
    pub before: Option<Arc<Object>>,
}

impl Edit {
    /// A new object.
    pub fn added(object: Object) -> Self {
        Self { kind: WatchKind::Added, object: Arc::new(object), before: None }
    }

    /// One that was `before` and is `object` now.
    pub fn modified(before: Object, object: Object) -> Self {
        let before = Some(Arc::new(before));
        Self { kind: WatchKind::Modified, object: Arc::new(object), before }
    }

    /// One that is not there any more.
    pub fn deleted(last: Object) -> Self {
        Self { kind: WatchKind::Deleted, object: Arc::new(last), before: None }
    }
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
        let Found { wanted, scope, given } = match replay::find(&self.cache, wanted, accept.shape).await {
            Ok(found) => found,
            Err(error) => return answer::unavailable(&error, encoding),
        };
        let begins = Begin::of(request, &scope, given);
        let seen = match begins {
            Begin::After(version) => version,
            _ => replay::version_of(&scope, given).parse().unwrap_or(0),
        };
        let stream = Stream {
            begins,
            seen,
            api_version: request.gvr.api_version(),
            kind: replay::kind(&scope, &request.gvr),
            until: lasts(request, UNASKED),
            bookmarks: request.query.allow_watch_bookmarks,
            shape: accept.shape,
            has_header: false,
            request: request.clone(),
            encoding,
            wanted,
            scope: scope.id,
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
    /// What its client has not seen: what was changed here after this version, and where it is one of the cloud's, what
    /// another of its client's processes has read since.
    After(u64),
    /// Nothing: what has happened since that version is not known here.
    Expired,
}

impl Begin {
    fn of(request: &ResourceRequest, scope: &Scope, given: Given) -> Self {
        if request.query.wants_initial_events() {
            return Self::ListAndBookmark;
        }
        let asked = match request.query.resource_version.as_deref() {
            None | Some("" | "0") => return Self::List,
            Some(asked) => asked,
        };
        let is_known = match (version::given(asked), scope.version.parse::<u64>()) {
            (Some(asked), _) => given.holds(asked),
            // What is not in the list any more is not told: who has not read it would keep what is gone.
            (None, Ok(listed)) => asked.parse().is_ok_and(|asked: u64| asked >= listed),
            (None, Err(_)) => true,
        };
        asked.parse().ok().filter(|_| is_known).map_or(Self::Expired, Self::After)
    }
}

struct Stream {
    begins: Begin,
    /// The highest version that the client has seen.
    seen: u64,
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
    scope: ScopeId,
}

type Sender = mpsc::Sender<Result<Frame<Bytes>, answer::Broken>>;

/// Time between bookmarks, as kube-apiserver sends them.
const BOOKMARK: Duration = Duration::from_secs(60);

impl Stream {
    async fn run(mut self, mut local: LocalWatch, sender: &Sender) -> Result<(), CacheError> {
        let began = match self.begins {
            Begin::Expired => {
                self.expired(sender).await;
                false
            }
            Begin::After(version) => self.send_since(version, &local.cache, sender).await?,
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
        let mut kept = Kept::new(cache.clone(), self.scope, self.wanted.clone());
        while let Some(page) = kept.next().await? {
            let bytes: Vec<u8> =
                page.iter().flat_map(|object| self.encode(WatchKind::Added, &object.body)).collect();
            if !bytes.is_empty() && sender.send(Ok(Frame::data(bytes.into()))).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What has changed after a version as MODIFIED, and what is not wanted or not there any more as DELETED: whoever does
    /// not know it has nothing to forget. False if the client has gone.
    async fn send_since(&mut self, version: u64, cache: &Cache, sender: &Sender) -> Result<bool, CacheError> {
        let (scope, resource) = (self.scope, self.wanted.whole().to_owned());
        let read = move |reader: &Reader| {
            let mut changed = Vec::new();
            for object in reader.changed_since(scope, version)? {
                changed.push((reader.is_told(scope, &object)?, object));
            }
            Ok((changed, reader.deleted(&resource)?))
        };
        let (changed, deleted) = cache.read(read).await?;
        // What was given here before is known to whoever names such a version.
        let is_seen = |object: &Object| {
            version::given(object.shown_version()).is_some_and(|changed| changed <= version)
        };
        for (is_told, object) in changed.into_iter().filter(|(_, object)| !is_seen(object)) {
            let (kind, object) = match (self.wanted.matches(&object), is_told) {
                (true, true) => (WatchKind::Modified, object),
                // Others have read it since this watch was let begin.
                (true, false) => return Err(is_newer(&object.key)),
                (false, _) if !self.wanted.may_name(&object.key) => continue,
                (false, true) => (WatchKind::Deleted, object),
                // That it is not wanted any more is all that may be told of what is in it now.
                (false, false) => (WatchKind::Deleted, self.named(&object)),
            };
            if !self.send_object(kind, &object, sender).await {
                return Ok(false);
            }
        }
        for (mut last, before) in deleted.into_iter().filter(|(last, _)| !is_seen(last)) {
            let mut is_wanted = self.wanted.matches(&last);
            is_wanted |= before.is_some_and(|before| self.wanted.matches(&before));
            if meta::kind(&last.body).is_none() {
                // No more than its name is known.
                is_wanted = self.wanted.may_name(&last.key);
                last.body["apiVersion"] = json!(self.api_version);
                last.body["kind"] = json!(self.kind);
                last.body["metadata"]["resourceVersion"] = json!(self.seen.to_string());
            }
            if is_wanted && !self.send_object(WatchKind::Deleted, &last, sender).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Which object it is, and nothing of what is in it.
    fn named(&self, object: &Object) -> Object {
        let body = json!({"apiVersion": self.api_version, "kind": self.kind,
            "metadata": {"name": object.key.name, "namespace": object.key.namespace, "uid": object.uid,
                "resourceVersion": object.shown_version()}});
        Object { body, ..object.clone() }
    }

    /// A change, as it looks from here: what comes to be wanted is new, and what is wanted no more is gone.
    async fn edit(&mut self, edit: &Edit, sender: &Sender) -> bool {
        if self.wanted.whole() != edit.object.key.resource {
            return true;
        }
        let wants = |object: &Object| self.wanted.matches(object);
        let (was, is) = (edit.before.as_deref().map(wants), wants(&edit.object));
        match (was, is) {
            (Some(false), true) => self.send_object(WatchKind::Added, &edit.object, sender).await,
            (Some(true), false) => self.send_object(WatchKind::Deleted, &edit.object, sender).await,
            (_, true) => self.send_object(edit.kind, &edit.object, sender).await,
            (_, false) => true,
        }
    }

    async fn send_object(&mut self, kind: WatchKind, object: &Object, sender: &Sender) -> bool {
        self.seen = self.seen.max(object.shown_version().parse().unwrap_or(0));
        let shown = object.clone().shown_to(&self.wanted.identity);
        self.send(kind, &shown.body, sender).await
    }

    /// A bookmark; `initial` for the one that ends the first events.
    async fn bookmark(&mut self, sender: &Sender, initial: bool) -> bool {
        let mut object = json!({"apiVersion": self.api_version, "kind": self.kind,
            "metadata": {"resourceVersion": self.seen.to_string()}});
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
#[path = "watch_tests.rs"]
mod tests;
