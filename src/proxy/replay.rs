//! Answers reads from the cache while the cloud is away.
//!
//! What was never read in full is 503, never an empty list. A list with more selectors than one
//! that was read is answered by filtering it; a list with fewer is not known here.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;

use super::answer::{self, Accept, Body};
use super::caller::Caller;
use super::pages::Kept;
use super::{discovery, shape};
use crate::cache::{Cache, CacheError, Document, Object, ObjectKey, Reader, Scope, ScopeKey};
use crate::kube;
use crate::kube::negotiate::Shape;
use crate::kube::status::Failure;
use crate::kube::stream::{ListHead, ListWriter};
use crate::kube::table::Header;
use crate::kube::{
    Encoding, FieldSelector, GroupVersionResource, LabelSelector, Query, ResourceRequest, schema,
};

/// A list as a client wants it, with its selectors read.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Who asks.
    pub identity: String,
    /// Such as `v1/pods`.
    pub resource: String,
    /// Empty for all.
    pub namespace: String,
    /// Label selector.
    pub labels: LabelSelector,
    /// Field selector, with the name in the path if there is one.
    pub fields: FieldSelector,
}

impl Wanted {
    /// What `request` wants of its resource.
    ///
    /// # Errors
    /// A selector that cannot be read.
    pub fn of(identity: &str, request: &ResourceRequest) -> Result<Self, crate::kube::Error> {
        let Query { label_selector, field_selector, .. } = &request.query;
        let labels = label_selector.as_deref().unwrap_or_default().parse()?;
        let fields = match (&request.name, field_selector) {
            (Some(name), None) => FieldSelector::equal("metadata.name", name),
            (_, Some(fields)) => fields.parse()?,
            (None, None) => FieldSelector::everything(),
        };
        Ok(Self {
            identity: identity.to_owned(),
            resource: request.gvr.to_string(),
            namespace: request.namespace.clone().unwrap_or_default(),
            labels,
            fields,
        })
    }

    /// The same of metadata alone; `None` where metadata does not tell which objects are wanted.
    pub fn bare(&self) -> Option<Self> {
        let resource = bare(&self.resource);
        self.fields.is_of_metadata().then(|| Self { resource, ..self.clone() })
    }

    /// The resource of the objects, however much of them is wanted.
    pub fn whole(&self) -> &str {
        self.resource.strip_prefix(BARE).unwrap_or(&self.resource)
    }

    /// The name under which the cache keeps this list.
    pub fn scope(&self) -> ScopeKey {
        ScopeKey {
            identity: self.identity.clone(),
            resource: self.resource.clone(),
            namespace: self.namespace.clone(),
            labels: self.labels.to_string(),
            fields: self.fields.to_string(),
        }
    }

    /// Whether an object is wanted.
    pub fn matches(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || self.namespace == object.key.namespace)
            && self.labels.matches(&object.body)
            && self.fields.matches(&object.body)
    }

    /// Whether all that is wanted is in `scope`.
    fn is_in(&self, scope: &Scope) -> bool {
        let (Ok(labels), Ok(fields)) = (scope.key.labels.parse(), scope.key.fields.parse()) else {
            return false;
        };
        self.labels.narrows(&labels) && self.fields.narrows(&fields)
    }

    /// The synced scope that answers this: the very one, or the narrowest that holds it.
    pub fn find(&self, reader: &Reader) -> Result<Option<Scope>, CacheError> {
        let mut scopes = reader.scopes(&self.identity, &self.resource, &self.namespace)?;
        scopes.retain(|scope| self.is_in(scope));
        let exact = self.scope();
        let breadth = |scope: &Scope| {
            let terms = |text: &str| if text.is_empty() { 0 } else { 1 + text.matches(',').count() };
            let terms = terms(&scope.key.labels) + terms(&scope.key.fields);
            (scope.key != exact, std::cmp::Reverse(terms), scope.key.namespace.is_empty())
        };
        Ok(scopes.into_iter().min_by_key(breadth))
    }
}

/// What stands before the resource of objects of which only the metadata was read.
const BARE: &str = "metadata/";

/// The resource under which metadata alone is kept, for whoever asked for no more. The whole object, which others need,
/// is another one: neither takes the other's place.
pub fn bare(resource: &str) -> String {
    format!("{BARE}{resource}")
}

/// Whether some client has read all of a list that would hold this object if it were there.
fn is_known_absent(reader: &Reader, identity: &str, key: &ObjectKey) -> Result<bool, CacheError> {
    let wanted = Wanted {
        identity: identity.to_owned(),
        resource: key.resource.clone(),
        namespace: key.namespace.clone(),
        labels: LabelSelector::everything(),
        fields: FieldSelector::equal("metadata.name", &key.name),
    };
    if wanted.find(reader)?.is_some() {
        return Ok(true);
    }
    // A deletion that waits to be told to the cloud is one already, here.
    Ok(reader
        .changes()?
        .iter()
        .any(|change| change.what.kind == crate::cache::ChangeKind::Delete && change.what.key == *key))
}

/// GET of one object.
pub async fn get(
    cache: &Cache,
    caller: &Caller,
    request: &ResourceRequest,
    accept: Accept,
) -> Response<Body> {
    let encoding = accept.encoding;
    let identity = caller.identity();
    let key = key_of(request);
    let mut ways = vec![key.clone()];
    if is_metadata(accept.shape) {
        ways.push(ObjectKey { resource: bare(&key.resource), ..key.clone() });
    }
    let found = cache
        .read(move |reader| {
            for way in &ways {
                if let Some(object) = reader.get(&identity, way)? {
                    return Ok(Some(object));
                }
                if is_known_absent(reader, &identity, way)? {
                    return Ok(None);
                }
            }
            Err(CacheError::Refused(format!("{} was never read while the cloud was there", ways[0])))
        })
        .await;
    match found {
        Ok(Some(object)) => answer::object(
            StatusCode::OK,
            &shape::one(accept.shape, request, object.body, Header::Shown),
            encoding,
        ),
        Ok(None) => answer::failure(
            &Failure::not_found(&request.gvr.group, &request.gvr.resource, &key.name),
            encoding,
        ),
        Err(error) => answer::unavailable(&format!("the cloud is away and {error}"), encoding),
    }
}

/// Which object a request by name is about.
pub fn key_of(request: &ResourceRequest) -> ObjectKey {
    ObjectKey {
        resource: request.gvr.to_string(),
        namespace: request.namespace.clone().unwrap_or_default(),
        name: request.name.clone().unwrap_or_default(),
    }
}

/// LIST: streamed from the disk page by page, so that a long list costs no memory.
pub async fn list(
    cache: &Cache,
    caller: &Caller,
    request: &ResourceRequest,
    accept: Accept,
) -> Response<Body> {
    let encoding = accept.encoding;
    let wanted = match Wanted::of(&caller.identity(), request) {
        Ok(wanted) => wanted,
        Err(error) => return answer::failure(&Failure::bad_request(error.to_string()), encoding),
    };
    // A page of the cloud's list: here it has no such place, and its client reads the whole list instead.
    if request.query.continue_token.as_deref().is_some_and(|token| !token.is_empty()) {
        return answer::failure(&Failure::expired(CONTINUE), encoding);
    }
    let (wanted, scope) = match find(cache, wanted, accept.shape).await {
        Ok(found) => found,
        Err(error) => return answer::unavailable(&error, encoding),
    };
    if accept.shape != Shape::Object {
        return whole(cache, request, accept, wanted, scope).await;
    }
    let kept = Kept::new(cache.clone(), scope.id, wanted);
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, answer::Broken>>(2);
    let head = ListHead {
        kind: list_kind(&scope, &request.gvr),
        api_version: request.gvr.api_version(),
        resource_version: scope.version.clone(),
        ..ListHead::default()
    };
    let writer = ListWriter::new(encoding, head);
    tokio::spawn(async move {
        if let Err(error) = stream(kept, writer, &sender).await {
            tracing::warn!(%error, "a list broke off");
            let _ = sender.send(Err(answer::Broken)).await;
        }
    });
    let body = StreamBody::new(futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (frame, receiver))
    }));
    answer::with_type(StatusCode::OK, encoding.content_type(), body.map_err(Into::into).boxed_unsync())
}

/// Why a page cannot be continued.
const CONTINUE: &str = "the cloud, which gave the continue parameter, is away";

/// Whether metadata is all that is asked for.
fn is_metadata(shape: Shape) -> bool {
    matches!(shape, Shape::PartialMetadata | Shape::PartialMetadataList)
}

/// Finds the scope that answers `wanted` with what it holds of it, or says why there is none.
pub async fn find(cache: &Cache, wanted: Wanted, shape: Shape) -> Result<(Wanted, Scope), String> {
    let resource = wanted.resource.clone();
    let mut ways = vec![wanted];
    if is_metadata(shape) {
        ways.extend(ways[0].bare());
    }
    let found = cache.read(move |reader| {
        for way in ways {
            let Some(mut scope) = way.find(reader)? else { continue };
            if scope.kind.is_empty() {
                scope.kind = kind_within(reader, &scope)?.map_or_else(String::new, |kind| kind + "List");
            }
            return Ok(Some((way, scope)));
        }
        Ok(None)
    });
    match found.await {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(format!(
            "the cloud is away and this list of {resource} was never read in full while it was there"
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// The kind of the objects that a scope holds, by the first of them: of a custom resource nothing else here knows it,
/// where no list of it was read.
fn kind_within(reader: &Reader, scope: &Scope) -> Result<Option<String>, CacheError> {
    let first: Vec<i64> = reader.members(scope.id)?.into_iter().take(1).collect();
    Ok(reader.objects(scope.id, &first)?.first().and_then(|o| kube::meta::kind(&o.body)).map(str::to_owned))
}

/// The kind of the list: as it was read, or where only single objects were, as the tables have it.
pub fn list_kind(scope: &Scope, gvr: &GroupVersionResource) -> String {
    if !scope.kind.is_empty() {
        return scope.kind.clone();
    }
    let known = schema::kind_of(&gvr.api_version(), &gvr.resource);
    format!("{}List", known.map_or("", |kind| kind.name))
}

/// The kind of its objects.
pub fn kind(scope: &Scope, gvr: &GroupVersionResource) -> String {
    let list = list_kind(scope, gvr);
    list.strip_suffix("List").unwrap_or(&list).to_owned()
}

async fn stream(
    mut kept: Kept,
    mut writer: ListWriter,
    sender: &mpsc::Sender<Result<Frame<Bytes>, answer::Broken>>,
) -> Result<(), CacheError> {
    let failed = |e: crate::kube::Error| CacheError::Refused(e.to_string());
    let mut bytes = writer.start();
    while let Some(page) = kept.next().await? {
        for object in &page {
            bytes.extend(writer.item(&object.body).map_err(failed)?);
        }
        // A list in protobuf, whose length stands before it, gives nothing before its end.
        if !bytes.is_empty() && sender.send(Ok(Frame::data(std::mem::take(&mut bytes).into()))).await.is_err()
        {
            return Ok(());
        }
    }
    let end = writer.end().map_err(failed)?;
    // A client that has gone needs no end.
    let _ = sender.send(Ok(Frame::data(end.into()))).await;
    Ok(())
}

/// A table or a list of metadata: made of all objects at once.
async fn whole(
    cache: &Cache,
    request: &ResourceRequest,
    accept: Accept,
    wanted: Wanted,
    scope: Scope,
) -> Response<Body> {
    let head = ListHead {
        kind: list_kind(&scope, &request.gvr),
        api_version: request.gvr.api_version(),
        resource_version: scope.version,
        ..ListHead::default()
    };
    let mut kept = Kept::new(cache.clone(), scope.id, wanted);
    let mut objects = Vec::new();
    loop {
        match kept.next().await {
            Ok(Some(page)) => objects.extend(page.into_iter().map(|object| object.body)),
            Ok(None) => break,
            Err(error) => return answer::unavailable(&error.to_string(), accept.encoding),
        }
    }
    let value = shape::list(accept.shape, request, &head, &objects);
    answer::object(StatusCode::OK, &value, accept.encoding)
}

/// What clients that do not know the aggregated form ask for in many requests.
fn older_form(whole: &Document, path: &str) -> Option<Document> {
    let aggregated = serde_json::from_slice(&whole.body).ok()?;
    let body = kube::discovery::plain(&aggregated, path)?.to_string().into_bytes();
    Some(Document { kind: Encoding::Json.content_type().to_owned(), etag: String::new(), body })
}

/// GET of a path that is no resource: discovery, the version.
pub async fn document(cache: &Cache, caller: &Caller, path: &str, accept: &str) -> Response<Body> {
    let (identity, path, variant) = (caller.identity(), path.to_owned(), discovery::variant(accept));
    let named = path.clone();
    let read = move |reader: &Reader| {
        if let Some(document) = reader.document(&identity, &path, variant)? {
            return Ok(Some(document));
        }
        if let Some(document) = reader.document(&identity, &path, discovery::PLAIN)? {
            return Ok(Some(document));
        }
        let Some(source) = kube::discovery::source(&path) else { return Ok(None) };
        let whole = reader.document(&identity, source, discovery::WHOLE)?;
        Ok(whole.and_then(|whole| older_form(&whole, &path)))
    };
    match cache.read(read).await {
        Ok(Some(document)) => answer::with_type(StatusCode::OK, &document.kind, answer::full(document.body)),
        Ok(None) => {
            let why = format!("the cloud is away and `{named}` was never read while it was there");
            answer::unavailable(&why, Encoding::Json)
        }
        Err(error) => answer::unavailable(&error.to_string(), Encoding::Json),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn the_kind_of_a_custom_resource_is_what_its_objects_say() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let body = json!({"apiVersion": "x.io/v1", "kind": "AllowList",
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "1"}});
        let object = Object::new("x.io/v1/allowlists", body).unwrap();
        cache.commit(move |writer| writer.put_single("one", &object)).await.unwrap();
        let gvr = GroupVersionResource::new("x.io", "v1", "allowlists");
        let query = "watch=true&fieldSelector=metadata.name%3Da";
        let parsed = kube::Request::parse("GET", "/apis/x.io/v1/allowlists", query);
        let wanted = Wanted::of("one", parsed.resource().unwrap()).unwrap();
        let (_, scope) = find(&cache, wanted, Shape::Object).await.unwrap();
        assert_eq!(
            (list_kind(&scope, &gvr), kind(&scope, &gvr)),
            ("AllowListList".into(), "AllowList".into())
        );
        let pods = Scope { kind: String::new(), ..scope };
        assert_eq!(kind(&pods, &GroupVersionResource::new("", "v1", "pods")), "Pod");
    }
}
