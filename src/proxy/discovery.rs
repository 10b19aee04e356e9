//! Which APIs there are: read once a day, so that kubectl works in an outage with whoever never ran
//! it before.

use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use super::Shared;
use super::answer::{self, Body};
use super::caller::{Caller, NODE};
use super::upstream::As;
use crate::cache::{Cache, CacheError, Document, Reader, Writer, today};
use crate::kube::status::Failure;
use crate::kube::{self, Encoding};

/// What edge asks for: all groups in one document, as API servers since 1.30 have it or those since 1.26.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
/// What is read.
const PATHS: [&str; 3] = ["/api", "/apis", "/version"];
/// On which day it was read last; empty for never.
pub const META: &str = "discovery";
/// Bytes of a document at the most.
const LIMIT: usize = 8 << 20;

/// The variant of the aggregated form.
pub const WHOLE: &str = "aggregated";

/// The same as API servers before 1.30 wrote it: its API version is another.
const WHOLE_BEFORE: &str = "aggregated v2beta1";

/// The variant of documents that are neither aggregated nor protobuf.
pub const PLAIN: &str = "json";

/// What makes two answers to the same path differ, of what a Content-Type or one clause of an Accept header says.
pub fn variant(kind: &str) -> &'static str {
    let is_protobuf = kind.contains("protobuf");
    match kind.contains("as=APIGroupDiscoveryList") {
        true if is_protobuf => "aggregated protobuf",
        true if kind.contains("v=v2beta1") => WHOLE_BEFORE,
        true => WHOLE,
        false if is_protobuf => "protobuf",
        false => PLAIN,
    }
}

/// Keeps a document that `identity` has read, by its form. Of the two versions of the aggregated form that which came last is
/// what the cloud says.
///
/// # Errors
/// The statement's.
pub fn put(writer: &mut Writer, identity: &str, path: &str, document: &Document) -> Result<(), CacheError> {
    let form = variant(&document.kind);
    match form {
        WHOLE => writer.forget_document(identity, path, WHOLE_BEFORE)?,
        WHOLE_BEFORE => writer.forget_document(identity, path, WHOLE)?,
        _ => {}
    }
    writer.put_document(identity, path, form, document)
}

/// Whether the path is one whose answers are kept here.
pub fn is_discovery(path: &str) -> bool {
    path == "/version" || kube::discovery::source(path).is_some()
}

/// Reads the documents for the node, unless that was done today.
///
/// # Errors
/// Why it was not done; the next time the link comes up is another try.
pub async fn refresh(shared: &Shared) -> Result<(), String> {
    let day = today().to_string();
    let read = shared.cache.read(|reader| reader.meta(META)).await.map_err(|e| e.to_string())?;
    if read.as_ref() == Some(&day) {
        return Ok(());
    }
    for path in PATHS {
        read_one(shared, path).await?;
    }
    shared.cache.commit(move |writer| writer.set_meta(META, &day)).await.map_err(|e| e.to_string())
}

async fn read_one(shared: &Shared, path: &'static str) -> Result<(), String> {
    let known = shared.cache.read(move |reader| {
        let of = |variant| reader.document(NODE, path, variant);
        Ok(of(WHOLE)?.or(of(WHOLE_BEFORE)?).or(of(PLAIN)?))
    });
    let etag = known.await.ok().flatten().map(|document| document.etag).unwrap_or_default();
    let request = Request::get(path)
        .header(header::ACCEPT, AGGREGATED)
        .header(header::IF_NONE_MATCH, etag)
        .header(header::USER_AGENT, concat!("edge/", env!("CARGO_PKG_VERSION")))
        .body(answer::full(bytes::Bytes::new()))
        .map_err(|e| e.to_string())?;
    let (answered, _place) = shared.upstream.send(As::Node, request).await.map_err(|e| e.to_string())?;
    if answered.status() != StatusCode::OK {
        return match answered.status() {
            StatusCode::NOT_MODIFIED => Ok(()),
            code => Err(format!("`{path}` answers {code}")),
        };
    }
    let text =
        |name| answered.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let (kind, etag) = (text(header::CONTENT_TYPE), text(header::ETAG));
    let body = Limited::new(answered.into_body(), LIMIT).collect().await.map_err(|e| e.to_string())?;
    let document = Document { kind, etag, body: body.to_bytes().to_vec() };
    shared.cache.commit(move |writer| put(writer, NODE, path, &document)).await.map_err(|e| e.to_string())
}

/// What clients that do not know the aggregated form ask for in many requests; `None` where it says that there is no such
/// group or version.
fn older_form(whole: &Document, path: &str) -> Option<Document> {
    let aggregated = serde_json::from_slice(&whole.body).ok()?;
    let body = kube::discovery::plain(&aggregated, path)?.to_string().into_bytes();
    Some(Document { kind: Encoding::Json.content_type().to_owned(), etag: String::new(), body })
}

/// The aggregated form under the other of its two API versions, which say the same.
fn renamed(whole: &Document, variant: &str) -> Option<Document> {
    let version = if variant == WHOLE { "v2" } else { "v2beta1" };
    let mut value: Value = serde_json::from_slice(&whole.body).ok()?;
    value["apiVersion"] = format!("apidiscovery.k8s.io/{version}").into();
    let kind = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    Some(Document { kind, etag: String::new(), body: value.to_string().into_bytes() })
}

/// What is known of a path.
enum Known {
    Document(Document),
    /// The cloud has no such group or version.
    Absent,
    Nothing,
}

fn known(reader: &Reader, identity: &str, path: &str, accept: &str) -> Result<Known, CacheError> {
    let kept = |path: &str, form: &str| {
        // An edge before this one kept it by what was asked for, mostly the first.
        for slot in [form, WHOLE] {
            let found = reader.document(identity, path, slot)?;
            if let Some(document) = found.filter(|document| variant(&document.kind) == form) {
                return Ok(Some(document));
            }
        }
        Ok::<_, CacheError>(None)
    };
    let whole = |path: &str| Ok::<_, CacheError>(kept(path, WHOLE)?.or(kept(path, WHOLE_BEFORE)?));
    // Whoever takes none of what is kept is given what every client of today can read.
    for form in accept.split(',').map(variant).chain([PLAIN]) {
        if let Some(document) = kept(path, form)? {
            return Ok(Known::Document(document));
        }
        let made = match form {
            WHOLE | WHOLE_BEFORE => whole(path)?.and_then(|whole| renamed(&whole, form)),
            PLAIN => match kube::discovery::source(path).map(whole).transpose()?.flatten() {
                Some(whole) => match older_form(&whole, path) {
                    None => return Ok(Known::Absent),
                    made => made,
                },
                None => None,
            },
            _ => None,
        };
        if let Some(document) = made {
            return Ok(Known::Document(document));
        }
    }
    Ok(Known::Nothing)
}

/// Whether something is kept that answers this: an answer that says that nothing has changed brings nothing otherwise.
pub async fn is_kept(cache: &Cache, caller: &Caller, path: &str, accept: &str) -> bool {
    let (identity, path, accept) = (caller.identity(), path.to_owned(), accept.to_owned());
    let found = cache.read(move |reader| known(reader, &identity, &path, &accept)).await;
    matches!(found, Ok(Known::Document(_)))
}

/// GET of a path that is no resource: discovery, the version.
pub async fn document(cache: &Cache, caller: &Caller, path: &str, accept: &str) -> Response<Body> {
    let (identity, accept, named) = (caller.identity(), accept.to_owned(), path.to_owned());
    match cache.read(move |reader| known(reader, &identity, &named, &accept)).await {
        Ok(Known::Document(document)) => {
            answer::with_type(StatusCode::OK, &document.kind, answer::full(document.body))
        }
        Ok(Known::Absent) => answer::failure(&Failure::path_not_found(), Encoding::Json),
        Ok(Known::Nothing) => {
            let why = format!("the cloud is away and `{path}` was never read while it was there");
            answer::unavailable(&why, Encoding::Json)
        }
        Err(error) => answer::unavailable(&error.to_string(), Encoding::Json),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proxy::caller::Bearer;

    const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    const BETA: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

    /// A cache in which `n` has read all groups as an API server writes them that knows this form.
    async fn of(folder: &tempfile::TempDir, kind: &'static str) -> Cache {
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let version = if kind == V2 { "v2" } else { "v2beta1" };
        let body = json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
            "items": [{"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": []}]}]});
        let document =
            Document { kind: kind.into(), etag: String::new(), body: body.to_string().into_bytes() };
        cache
            .commit(move |writer| writer.put_document(NODE, "/apis", variant(kind), &document))
            .await
            .unwrap();
        cache
    }

    async fn ask(cache: &Cache, path: &str, accept: &str) -> (u16, String, Value) {
        let answered = document(cache, &Caller::Kubelet, path, accept).await;
        let kind = answered.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let code = answered.status().as_u16();
        let body = answered.into_body().collect().await.unwrap().to_bytes();
        (code, kind, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn each_client_is_told_all_groups_in_the_form_that_it_reads() {
        for kept in [V2, BETA] {
            let folder = tempfile::tempdir().unwrap();
            let cache = of(&folder, kept).await;
            // client-go since 1.30, one of 1.26 to 1.29, and before.
            let (new, middle) = (format!("{V2},{BETA},application/json"), format!("{BETA},application/json"));
            for (accept, kind) in [(&*new, V2), (&middle, BETA)] {
                let (code, answered, body) = ask(&cache, "/apis", accept).await;
                assert_eq!((code, &*answered), (200, kind), "{kept}");
                assert_eq!(body["items"][0]["metadata"]["name"], "apps");
                let version = body["apiVersion"].as_str().unwrap();
                assert!(kind.contains(version.rsplit('/').next().unwrap()), "{version}");
            }
            let (_, kind, body) = ask(&cache, "/apis", "application/json, */*").await;
            assert_eq!((&*kind, &body["groups"][0]["name"]), ("application/json", &json!("apps")));
            let (code, _, body) = ask(&cache, "/apis/apps/v1", "application/json").await;
            assert_eq!((code, &body["kind"]), (200, &json!("APIResourceList")));
        }
    }

    /// A control plane that goes back a release says less, in the other version.
    #[tokio::test]
    async fn of_the_two_aggregated_forms_the_last_is_what_the_cloud_says() {
        let folder = tempfile::tempdir().unwrap();
        let cache = of(&folder, V2).await;
        let body = br#"{"kind": "APIGroupDiscoveryList", "items": []}"#.to_vec();
        let document = Document { kind: BETA.into(), etag: String::new(), body };
        cache.commit(move |writer| put(writer, NODE, "/apis", &document)).await.unwrap();
        assert_eq!(ask(&cache, "/apis", V2).await.2["items"], json!([]));
        assert_eq!(ask(&cache, "/apis/apps", "application/json").await.0, 404);
    }

    /// As `/version`, and all of it from API servers that know one form alone.
    #[tokio::test]
    async fn what_an_edge_before_this_one_kept_by_what_it_asked_for_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let cache = of(&folder, V2).await;
        for (path, kind) in [("/version", "application/json"), ("/apis", BETA)] {
            let document = Document { kind: kind.into(), etag: String::new(), body: b"{}".to_vec() };
            cache.commit(move |writer| writer.put_document(NODE, path, WHOLE, &document)).await.unwrap();
        }
        assert_eq!(ask(&cache, "/version", "application/json, */*").await.0, 200);
        assert_eq!(ask(&cache, "/apis", BETA).await.1, BETA);
    }

    /// Programs that ask for an optional API go on where there is none, and end where nobody knows.
    #[tokio::test]
    async fn a_group_that_the_cloud_does_not_have_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let cache = of(&folder, V2).await;
        for path in ["/apis/none.io", "/apis/none.io/v1", "/apis/apps/v9"] {
            let (code, _, body) =
                ask(&cache, path, "application/vnd.kubernetes.protobuf,application/json").await;
            assert_eq!((code, &body["reason"]), (404, &json!("NotFound")), "{path}");
        }
        for path in ["/api", "/api/v1", "/version"] {
            assert_eq!(ask(&cache, path, "application/json").await.0, 503, "{path} was never read");
        }
        let other =
            document(&cache, &Caller::Bearer(Bearer::new("other")), "/apis/none.io", "application/json")
                .await;
        assert_eq!(other.status(), 503, "it has read nothing");
    }
}
