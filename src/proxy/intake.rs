//! What each kind of answer becomes in the cache.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::caller::NODE;
use super::decoder::Decoder;
use super::own_issuers::OwnIssuers;
use super::record::Intake;
use super::replay::bare;
use crate::cache::{
    Cache, CacheError, Document, ListRecord, Object, ObjectKey, ScopeId, ScopeKey, TokenKey, Writer,
};
use crate::kube::meta;
use crate::kube::stream::{Finished, ListSplitter, WatchKind, WatchSplitter};

/// Bytes of one object at the most; etcd takes 1.5 MiB, and what is larger is no object.
const OBJECT_LIMIT: usize = 16 << 20;

/// Takes what an answer carries once all of it is there; of one that broke off it hears nothing.
pub trait TakeWhole: Send {
    /// Keeps what the bytes tell.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn take(&mut self, writer: &mut Writer, bytes: Vec<u8>) -> Result<(), CacheError>;
}

/// Gathers the bytes of an answer that makes sense only as a whole.
pub struct Gathered<T> {
    taker: T,
    bytes: Vec<u8>,
}

impl<T: TakeWhole> Gathered<T> {
    /// Gathers for `taker`.
    pub fn new(taker: T) -> Self {
        Self { taker, bytes: Vec::new() }
    }
}

impl<T: TakeWhole> Intake for Gathered<T> {
    fn feed(&mut self, _: &mut Writer, bytes: &[u8]) -> Result<(), CacheError> {
        if self.bytes.len() + bytes.len() > OBJECT_LIMIT {
            return Err(CacheError::Refused(format!("an answer is larger than {OBJECT_LIMIT} bytes")));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self, writer: &mut Writer, whole: bool) -> Result<(), CacheError> {
        if !whole {
            return Ok(());
        }
        self.taker.take(writer, std::mem::take(&mut self.bytes))
    }
}

/// A single object that was read or written by name.
pub struct SingleIntake {
    /// How to decode it.
    pub decoder: Decoder,
    /// Who asked.
    pub identity: String,
    /// Which object.
    pub key: ObjectKey,
    /// What was learnt.
    pub single: Single,
}

/// What the answer about a single object means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Single {
    /// It was read: its reader may read it again.
    Read,
    /// It was written: news for whoever has read it.
    Written,
    /// It was made.
    Created,
    /// It was deleted: a Status says so, or the object as it was last, or as it is until its finalizers are done.
    Deleted,
    /// There is none of this name, says a Status.
    Absent,
}

impl TakeWhole for SingleIntake {
    fn take(&mut self, writer: &mut Writer, bytes: Vec<u8>) -> Result<(), CacheError> {
        let value = self.decoder.value(&bytes)?;
        match self.single {
            Single::Absent if is_not_found(&value, &self.key.name) => {
                writer.put_absent(&self.identity, &self.key)
            }
            Single::Absent => Ok(()),
            Single::Read if meta::kind(&value) != Some("Status") => {
                writer.put_single(&self.identity, &self.decoder.keep(value)?)
            }
            Single::Written if meta::kind(&value) != Some("Status") => {
                writer.put_written(&self.identity, &self.decoder.keep(value)?)
            }
            Single::Created if meta::kind(&value) != Some("Status") => {
                writer.put_created(&self.identity, &self.decoder.keep(value)?)
            }
            Single::Read | Single::Written | Single::Created => Ok(()),
            Single::Deleted if is_there_still(&value) => {
                writer.put_written(&self.identity, &self.decoder.keep(value)?)
            }
            // Neither a Status nor an object: nothing that says what is gone.
            Single::Deleted if meta::kind(&value) != Some("Status") && meta::uid(&value).is_none() => Ok(()),
            Single::Deleted => self.each_extent(|key| {
                let uid = value.pointer("/details/uid").and_then(Value::as_str).or_else(|| meta::uid(&value));
                writer.take_everywhere(&self.identity, key, uid)
            }),
        }
    }
}

impl SingleIntake {
    /// What was learnt holds of the object, and of its metadata alone.
    fn each_extent(
        &self,
        mut learn: impl FnMut(&ObjectKey) -> Result<(), CacheError>,
    ) -> Result<(), CacheError> {
        learn(&self.key)?;
        learn(&ObjectKey { resource: bare(&self.key.resource), ..self.key.clone() })
    }
}

/// Whether an object that was deleted waits for its finalizers, which a namespace has in its spec too, or for its
/// containers to end.
fn is_there_still(value: &Value) -> bool {
    let has = |at: &str| value.pointer(at).and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    let ends = meta::deletion_timestamp(value).is_some()
        && meta::deletion_grace_period_seconds(value).is_some_and(|seconds| seconds > 0);
    meta::kind(value) != Some("Status") && (has("/metadata/finalizers") || has("/spec/finalizers") || ends)
}

/// Whether this is an API server's word, with this reason.
pub fn is_status(value: &Value, reason: &str) -> bool {
    meta::kind(value) == Some("Status") && value.get("reason").and_then(Value::as_str) == Some(reason)
}

/// Whether this is an API server's word that the object is not there, and not a 404 of something in
/// between.
fn is_not_found(status: &Value, name: &str) -> bool {
    is_status(status, "NotFound") && status.pointer("/details/name").and_then(Value::as_str) == Some(name)
}

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
        writer.finish(id, &list, &end.kind, &end.resource_version)?;
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
}

impl WatchIntake {
    /// Records a watch of `scope`. `initial` if it begins with the whole list (WatchList).
    pub fn new(decoder: Decoder, scope: ScopeKey, initial: bool) -> Self {
        let splitter = WatchSplitter::with_limit(decoder.encoding, OBJECT_LIMIT);
        Self { decoder, scope, splitter, initial: initial.then(ListRecord::default) }
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
        writer.finish(scope, &list, &kind, meta::resource_version(object).unwrap_or_default())?;
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

/// A document such as `/apis`.
pub struct DocumentIntake {
    /// Who read it.
    pub identity: String,
    /// Its path, with the query.
    pub path: String,
    /// The Accept header it answers.
    pub variant: String,
    /// Its Content-Type and ETag; the body comes when it is whole.
    pub document: Document,
}

impl TakeWhole for DocumentIntake {
    fn take(&mut self, writer: &mut Writer, bytes: Vec<u8>) -> Result<(), CacheError> {
        self.document.body = bytes;
        writer.put_document(&self.identity, &self.path, &self.variant, &self.document)
    }
}

/// The answer to a TokenRequest.
pub struct TokenIntake {
    /// How to decode it.
    pub decoder: Decoder,
    /// What was asked.
    pub key: TokenKey,
    /// Whom its issuer is noted with.
    pub own: (OwnIssuers, Cache),
}

impl TakeWhole for TokenIntake {
    fn take(&mut self, writer: &mut Writer, bytes: Vec<u8>) -> Result<(), CacheError> {
        // The token alone is needed, whatever a newer cloud says beside it.
        let decoded = self.decoder.encoding.decode(&bytes);
        let value = decoded.map_err(unreadable)?.value;
        let token = value.pointer("/status/token").and_then(Value::as_str).filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(());
        }
        self.own.0.learn_token(&self.own.1, token);
        writer.put_token(&self.key, value.to_string().as_bytes())
    }
}

/// An event of the kubelet's that went to the cloud, kept to be shown here too.
pub struct EventIntake {
    /// How to decode it.
    pub decoder: Decoder,
}

impl TakeWhole for EventIntake {
    fn take(&mut self, writer: &mut Writer, bytes: Vec<u8>) -> Result<(), CacheError> {
        let value = self.decoder.value(&bytes)?;
        if meta::kind(&value) == Some("Status") {
            return Ok(());
        }
        super::apply::keep_event(writer, self.decoder.keep(value)?)
    }
}

fn unreadable(error: crate::kube::Error) -> CacheError {
    CacheError::Refused(error.to_string())
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
