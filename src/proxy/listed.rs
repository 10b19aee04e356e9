//! What lists and watches become in the cache.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::caller::NODE;
use super::decoder::Decoder;
use super::intake::{OBJECT_LIMIT, unreadable};
use super::record::Intake;
use crate::cache::{Begins, Cache, CacheError, ListRecord, Object, ScopeId, ScopeKey, Watching, Writer};
use crate::kube::meta;
use crate::kube::stream::{Finished, ListSplitter, WatchKind, WatchSplitter};

/// A list, or one page of it.
pub struct ListIntake {
    /// How to decode its objects.
    pub decoder: Decoder,
    /// Which list.
    pub scope: ScopeKey,
    /// The pages that came before, by the token that asks for the next.
    pub pages: Pages,
    /// Cuts it into objects.
    pub splitter: Option<ListSplitter>,
    /// What this page and those before it held.
    pub list: Option<ListRecord>,
}

/// Lists whose next page is yet to be asked for.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    open: Arc<Mutex<Vec<(ScopeKey, String, ListRecord)>>>,
}

/// Paginated lists that may be under way at once; an older one is given up, and prunes nothing.
const OPEN_PAGES: usize = 16;

impl Pages {
    fn take(&self, scope: &ScopeKey, token: &str) -> Option<ListRecord> {
        let mut open = self.open.lock().ok()?;
        let at = open.iter().position(|(s, t, _)| s == scope && t == token)?;
        Some(open.remove(at).2)
    }

    fn put(&self, scope: ScopeKey, token: String, list: ListRecord) {
        if let Ok(mut open) = self.open.lock() {
            if open.len() >= OPEN_PAGES {
                open.remove(0);
            }
            open.push((scope, token, list));
        }
    }
}

impl ListIntake {
    /// Records a list of `scope`; `asked` is the continue token of the request, if any.
    pub fn new(decoder: Decoder, scope: ScopeKey, pages: Pages, asked: Option<String>) -> Self {
        let splitter = Some(ListSplitter::with_limit(decoder.encoding, OBJECT_LIMIT));
        let list = match &asked {
            None => Some(ListRecord::default()),
            Some(token) => pages.take(&scope, token),
        };
        Self { decoder, scope, pages, splitter, list }
    }
}

impl Intake for ListIntake {
    fn feed(&mut self, writer: &mut Writer, bytes: &[u8]) -> Result<(), CacheError> {
        let Some(splitter) = &mut self.splitter else { return Ok(()) };
        splitter.push(bytes).map_err(unreadable)?;
        let id = writer.scope(&self.scope)?;
        while let Some(item) = splitter.next_item() {
            let object = self.decoder.keep(self.decoder.whole(splitter.decode_item(&item))?)?;
            match &mut self.list {
                Some(list) => writer.put_listed(id, list, &object)?,
                None => writer.put(id, &object)?,
            }
        }
        Ok(())
    }

    fn end(&mut self, writer: &mut Writer, whole: bool) -> Result<(), CacheError> {
        if !whole {
            return Ok(());
        }
        let Some(splitter) = self.splitter.take() else { return Ok(()) };
        let Finished::List(end) = splitter.finish().map_err(unreadable)? else { return Ok(()) };
        // Objects can only be dropped on the word of a list that is known to be all of it.
        let Some(list) = self.list.take() else { return Ok(()) };
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
