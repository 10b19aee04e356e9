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
use super::caller::{Caller, NODE};
use super::pages::{self, Kept};
use super::shape;
use crate::cache::version::Given;
use crate::cache::{Cache, CacheError, Object, ObjectKey, Reader, Scope, ScopeKey};
use crate::kube;
use crate::kube::negotiate::Shape;
use crate::kube::status::Failure;
use crate::kube::stream::{ListHead, ListWriter};
use crate::kube::table::Header;
use crate::kube::{FieldSelector, GroupVersionResource, LabelSelector, Query, ResourceRequest, schema};

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
        plain(&self.resource)
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

    /// Whether an object of this name may be wanted, whatever it is like.
    pub fn may_name(&self, key: &ObjectKey) -> bool {
        let fits = |field, is: &str| self.fields.required(field).is_none_or(|must| must == is);
        (self.namespace.is_empty() || self.namespace == key.namespace)
            && fits("metadata.name", &key.name)
            && fits("metadata.namespace", &key.namespace)
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

/// The resource of the objects, however much of them is kept under `resource`.
pub fn plain(resource: &str) -> &str {
    resource.strip_prefix(BARE).unwrap_or(resource)
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
    // Kubelet asks for pods of its own node alone, whose list it has read.
    if identity == NODE && key.resource == "v1/pods" && reader.knows_own_pods()? {
        return Ok(true);
    }
    // A deletion that waits to be told to the cloud is one already, here.
    reader.is_deleted(key)
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
    let reads = identity.clone();
    let found = cache
        .read(move |reader| {
            let identity = reads;
            let mut refused = None;
            for way in &ways {
                match reader.get(&identity, way) {
                    Ok(Some(object)) => return Ok(Some(object)),
                    Ok(None) => {}
                    // Its metadata may be shown all the same.
                    Err(error @ CacheError::Refused(_)) => refused = Some(error),
                    Err(error) => return Err(error),
                }
                if refused.is_none() && is_known_absent(reader, &identity, way)? {
                    return Ok(None);
                }
            }
            let why = || CacheError::Refused(format!("{} was never read while the cloud was there", ways[0]));
            Err(refused.unwrap_or_else(why))
        })
        .await;
    match found {
        Ok(Some(object)) => answer::object(
            StatusCode::OK,
            &shape::one(accept.shape, request, object.shown_to(&identity).body, Header::Shown),
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
    let Found { wanted, scope, given } = match find(cache, wanted, accept.shape).await {
        Ok(found) => found,
        Err(error) => return answer::unavailable(&error, encoding),
    };
    let scope = Scope { version: version_of(&scope, given), ..scope };
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

/// What answers a list.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is wanted of the scope.
    pub wanted: Wanted,
    /// Holds all of it.
    pub scope: Scope,
    /// The versions that were given here since the cloud went away.
    pub given: Given,
}

/// The version of a list as it is shown here: that of the last change on this node, if there was one.
pub fn version_of(scope: &Scope, given: Given) -> String {
    given.last().map_or_else(|| scope.version.clone(), |last| last.to_string())
}

/// Finds the scope that answers `wanted` with what it holds of it, or says why there is none.
pub async fn find(cache: &Cache, wanted: Wanted, shape: Shape) -> Result<Found, String> {
    let resource = wanted.resource.clone();
    let mut ways = vec![wanted];
    if is_metadata(shape) {
        ways.extend(ways[0].bare());
    }
    let found = cache.read(move |reader| {
        let mut refused = None;
        for way in ways {
            let Some(mut scope) = way.find(reader)? else { continue };
            if scope.kind.is_empty() {
                scope.kind = kind_within(reader, &scope)?.map_or_else(String::new, |kind| kind + "List");
            }
            match pages::check_told(reader, &scope, &way) {
                Ok(()) => return Ok(Some(Found { wanted: way, scope, given: reader.given()? })),
                Err(error @ CacheError::Refused(_)) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        refused.map_or(Ok(None), Err)
    });
    match found.await {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(format!(
            "the cloud is away and this list of {resource} was never read in full while it was there"
        )),
        Err(error) => Err(format!("the cloud is away and {error}")),
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

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
