//! What lists and watches become in the cache.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::time::Instant;

use super::caller::NODE;
use super::decoder::Decoder;
use super::intake::{OBJECT_LIMIT, unreadable};
use super::record::Intake;
use super::torn::Torn;
use crate::cache::{Begins, Cache, CacheError, ListRecord, Object, ScopeId, ScopeKey, Watching, Writer};
use crate::kube::meta;
use crate::kube::stream::{Finished, ListSplitter, WatchKind, WatchSplitter};

/// A list, or one page of it.
pub struct ListIntake {
    decoder: Decoder,
    scope: ScopeKey,
    pages: Pages,
    /// Which page this is: the continue token of the request; `None` for the first.
    asked: Option<String>,
    begun: Instant,
    state: Page,
}

/// How far a page is taken apart.
enum Page {
    /// Nothing of it has come.
    Ahead,
    /// Some of it has, and what it and those before it held.
    Open(Box<ListSplitter>, ListRecord),
    /// There is no more of it to keep.
    Over,
}

/// Lists whose next page is yet to be asked for.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    open: Arc<Mutex<VecDeque<OpenList>>>,
    torn: Torn,
}

#[derive(Debug)]
struct OpenList {
    scope: ScopeKey,
    /// By which its next page is asked for.
    token: String,
    list: ListRecord,
}

/// Lists in pages that may be under way at once; of more, the oldest of whoever has the most is given up.
const OPEN_LISTS: usize = 32;

impl Pages {
    /// The clients whose list is given up are told by `torn` to read it anew.
    pub fn new(torn: Torn) -> Self {
        Self { open: Arc::default(), torn }
    }

    fn take(&self, scope: &ScopeKey, token: &str) -> Option<ListRecord> {
        let mut open = self.open.lock().ok()?;
        let at = open.iter().position(|one| one.scope == *scope && one.token == token)?;
        open.remove(at).map(|one| one.list)
    }

    fn put(&self, scope: ScopeKey, token: String, list: ListRecord) {
        let Ok(mut open) = self.open.lock() else { return };
        if scope.identity == NODE {
            open.retain(|one| one.scope != scope);
        }
        open.push_back(OpenList { scope, token, list });
        if open.len() <= OPEN_LISTS {
            return;
        }
        // kubelet's own is given up for nobody.
        let of = |identity: &str| match identity {
            NODE => 0,
            _ => open.iter().filter(|one| one.scope.identity == identity).count(),
        };
        let most = open.iter().map(|one| of(&one.scope.identity)).max();
        if let Some(at) = open.iter().position(|one| Some(of(&one.scope.identity)) == most) {
            open.remove(at);
        }
    }
}

impl ListIntake {
    /// Records a list of `scope`; `asked` is the continue token of the request, if any.
    pub fn new(decoder: Decoder, scope: ScopeKey, pages: Pages, asked: Option<String>) -> Self {
        Self { decoder, scope, pages, asked, begun: Instant::now(), state: Page::Ahead }
    }

    /// Goes on from the pages before. Only here, where all is written in its order: a client has its next page before the
    /// one before it is written down.
    fn open(&mut self) -> Page {
        let splitter = ListSplitter::with_limit(self.decoder.encoding, OBJECT_LIMIT);
        let list = match &self.asked {
            None => Some(ListRecord::default()),
            Some(token) => self.pages.take(&self.scope, token),
        };
        match list {
            Some(list) => Page::Open(Box::new(splitter), list),
            // Which of its objects have changed since the first page was asked for, nobody knows.
            None => {
                if self.scope.identity != NODE {
                    self.pages.torn.note(&self.scope, self.begun);
                }
                Page::Over
            }
        }
    }
}

impl Intake for ListIntake {
    fn feed(&mut self, writer: &mut Writer, bytes: &[u8]) -> Result<(), CacheError> {
        if matches!(self.state, Page::Ahead) {
            self.state = self.open();
        }
        let Page::Open(splitter, list) = &mut self.state else { return Ok(()) };
        splitter.push(bytes).map_err(unreadable)?;
        let id = writer.scope(&self.scope)?;
        while let Some(item) = splitter.next_item() {
            let object = self.decoder.keep(self.decoder.whole(splitter.decode_item(&item))?)?;
            writer.put_listed(id, list, &object)?;
        }
        Ok(())
    }

    fn end(&mut self, writer: &mut Writer, whole: bool) -> Result<(), CacheError> {
        // Objects can only be dropped on the word of a list that is known to be all of it.
        let Page::Open(splitter, list) = std::mem::replace(&mut self.state, Page::Over) else {
            return Ok(());
        };
        if !whole {
            // Clients ask once more for a page that breaks off.
            if let Some(token) = self.asked.take() {
                self.pages.put(self.scope.clone(), token, list);
            }
            return Ok(());
        }
        let Finished::List(end) = splitter.finish().map_err(unreadable)? else { return Ok(()) };
        if let Some(token) = end.continue_token {
            self.pages.put(self.scope.clone(), token, list);
            return Ok(());
        }
        if end.resource_version.is_empty() {
            return Ok(());
        }
        let id = writer.scope(&self.scope)?;
        if writer.finish(id, &list, &end.kind, &end.resource_version)? {
            writer.note_whole(&self.scope);
        }
        forget_gone(writer, id, &self.scope)
    }
}

/// A watch.
pub struct WatchIntake {
    decoder: Decoder,
    scope: ScopeKey,
    splitter: WatchSplitter,
    /// The list that the first events make up, until its bookmark.
    initial: Option<ListRecord>,
    watching: Arc<Watching>,
}

impl WatchIntake {
    /// Records a watch of `scope` into `cache`.
    pub fn new(decoder: Decoder, scope: ScopeKey, begins: Begins, cache: &Cache) -> Self {
        let splitter = WatchSplitter::with_limit(decoder.encoding, OBJECT_LIMIT);
        let watching = Arc::new(cache.watching(&scope, begins));
        let initial = (begins == Begins::WithList).then(ListRecord::default);
        Self { decoder, scope, splitter, initial, watching }
    }

    fn event(
        &mut self,
        writer: &mut Writer,
        scope: ScopeId,
        kind: WatchKind,
        bytes: &[u8],
    ) -> Result<(), CacheError> {
        match kind {
            WatchKind::Added | WatchKind::Modified => {
                let object = self.decoder.object(bytes)?;
                match &mut self.initial {
                    Some(list) => writer.put_listed(scope, list, &object),
                    None => writer.put(scope, &object),
                }
            }
            WatchKind::Deleted => self.deleted(writer, scope, &self.decoder.object(bytes)?),
            WatchKind::Bookmark => self.bookmark(writer, scope, &self.decoder.value(bytes)?),
            WatchKind::Error => Ok(()),
        }
    }

    fn deleted(&self, writer: &mut Writer, scope: ScopeId, object: &Object) -> Result<(), CacheError> {
        if says_deleted(&self.scope) {
            if self.scope.resource == "v1/pods" && self.scope.identity == NODE {
                writer.drop_tokens_of(&format!("Pod/{}", object.uid))?;
            }
            return writer.take_gone(&self.scope.identity, object);
        }
        writer.take(scope, object)
    }

    /// The bookmark that ends the first events makes the list complete; others say nothing that is
    /// worth a write.
    fn bookmark(&mut self, writer: &mut Writer, scope: ScopeId, object: &Value) -> Result<(), CacheError> {
        let ends = meta::annotation(object, "k8s.io/initial-events-end") == Some("true");
        let Some(list) = self.initial.take_if(|_| ends) else { return Ok(()) };
        let kind = format!("{}List", meta::kind(object).unwrap_or_default());
        if writer.finish(scope, &list, &kind, meta::resource_version(object).unwrap_or_default())? {
            self.watching.is_whole();
        }
        forget_gone(writer, scope, &self.scope)
    }
}

impl Intake for WatchIntake {
    fn feed(&mut self, writer: &mut Writer, bytes: &[u8]) -> Result<(), CacheError> {
        self.splitter.push(bytes).map_err(unreadable)?;
        let id = writer.scope(&self.scope)?;
        while let Some(event) = self.splitter.next_event() {
            self.event(writer, id, event.kind, &event.object)?;
        }
        Ok(())
    }

    fn end(&mut self, _: &mut Writer, _: bool) -> Result<(), CacheError> {
        Ok(())
    }

    fn watching(&self) -> Option<Arc<Watching>> {
        Some(self.watching.clone())
    }
}

/// A list that is left alone for now.
pub struct LeftAlone;

impl Intake for LeftAlone {
    fn feed(&mut self, _: &mut Writer, _: &[u8]) -> Result<(), CacheError> {
        Ok(())
    }

    fn end(&mut self, _: &mut Writer, _: bool) -> Result<(), CacheError> {
        Ok(())
    }

    fn keeps(&self) -> bool {
        false
    }
}

/// Once kubelet's list of this node's pods is whole, nobody needs the tokens of pods that are not in it, nor what they have read: of a pod that went
/// while nobody watched, no deletion is told. Whoever has the kubelet's kubeconfig reads other nodes' lists in its
/// name.
fn forget_gone(writer: &mut Writer, id: ScopeId, scope: &ScopeKey) -> Result<(), CacheError> {
    let whole = scope.labels.is_empty() && scope.namespace.is_empty();
    if scope.resource != "v1/pods" || scope.identity != NODE || !whole {
        return Ok(());
    }
    let own = writer.node_name()?.map(|name| format!("spec.nodeName={name}"));
    if own.as_deref() == Some(&*scope.fields) {
        writer.drop_tokens_beside(id)?;
    }
    Ok(())
}

/// Whether DELETED in this scope means gone, and not merely that a label changed, or that a pod that had no node has
/// one.
fn says_deleted(scope: &ScopeKey) -> bool {
    let fixed = |term: &str| {
        ["metadata.name=", "metadata.namespace=", "spec.nodeName="]
            .iter()
            .any(|field| term.strip_prefix(field).is_some_and(|value| !value.is_empty()))
    };
    scope.labels.is_empty() && (scope.fields.is_empty() || scope.fields.split(',').all(fixed))
}
