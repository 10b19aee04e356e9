//! Shows answers to this node as its view has them, while they pass: whatever made them, the cloud or the cache.
//!
//! Lists are gathered, since in protobuf their length stands before them; watches pass event by event. What is not one of
//! the view's objects goes on byte for byte.

use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use tokio::sync::watch;

use super::view::{self, Target, View};
use crate::kube::stream::{Finished, ListSplitter, ListWriter, WatchEvent, WatchKind, WatchSplitter, event};
use crate::kube::{Encoding, Verb};
use crate::proxy::answer::{self, Body};
use crate::proxy::tls::Certificate;

/// Bytes of an answer that is gathered at the most.
const LIMIT: usize = 32 << 20;

/// What of the cloud's objects keeps pods from being led here, as far as they were seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hindered {
    /// The Service is of another family than the address here.
    pub foreign: bool,
    /// kube-proxy has a kubeconfig that would not trust edge.
    pub astray: bool,
}

/// What is to be shown otherwise, and how.
#[derive(Clone, Debug)]
pub struct Showing {
    /// The objects.
    pub target: Target,
    /// What becomes of them.
    pub view: Arc<View>,
    /// How they were asked for.
    pub verb: Verb,
    /// Is to be good for the addresses that lead here as well.
    pub certificate: Arc<Certificate>,
    /// Is told what of the objects keeps pods from coming here.
    pub hindered: watch::Sender<Hindered>,
}

impl Showing {
    /// Changes the answer as its body passes. Answers without objects (failures, tables) pass as they are.
    pub async fn answer(self, response: Response<Body>) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        let Some(encoding) = objects(head.status, &head.headers) else {
            return Response::from_parts(head, body);
        };
        if self.verb == Verb::Watch {
            head.headers.remove(header::CONTENT_LENGTH);
            let splitter = WatchSplitter::new(encoding);
            let showing =
                Events { showing: self, encoding, splitter, body, ended: false, ready: VecDeque::new() };
            return Response::from_parts(head, showing.body());
        }
        let bytes: Bytes = match gather(body).await {
            Ok(Gathered::Whole(bytes)) => bytes.into(),
            Ok(Gathered::TooLarge(body)) => {
                as_it_came(&too_large());
                return Response::from_parts(head, body);
            }
            Err(why) => return answer::unavailable(&why, encoding),
        };
        let gzip = head.headers.contains_key(header::CONTENT_ENCODING);
        match self.whole(&bytes, encoding, gzip) {
            Ok(shown) => {
                head.headers.remove(header::CONTENT_LENGTH);
                head.headers.remove(header::CONTENT_ENCODING);
                Response::from_parts(head, answer::full(shown))
            }
            Err(why) => {
                as_it_came(&why);
                Response::from_parts(head, answer::full(bytes))
            }
        }
    }

    fn whole(&self, bytes: &[u8], encoding: Encoding, gzip: bool) -> Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        if gzip {
            let mut unpack = flate2::read::GzDecoder::new(bytes).take(LIMIT as u64 + 1);
            unpack.read_to_end(&mut plain).map_err(|e| format!("it cannot be unpacked: {e}"))?;
            if plain.len() > LIMIT {
                return Err(too_large());
            }
        }
        let bytes = if gzip { &plain[..] } else { bytes };
        if self.verb == Verb::Get { Ok(self.object(bytes, encoding)) } else { self.list(bytes, encoding) }
    }

    /// The object as it is shown; as it came if it is none of those.
    fn object(&self, bytes: &[u8], encoding: Encoding) -> Vec<u8> {
        let shown =
            self.target.may_be(bytes).then(|| encoding.decode(bytes).ok()).flatten().and_then(|read| {
                let mut value = read.value;
                // A field that is not known here is noted by whoever records the answer, which then comes in JSON.
                self.show(&mut value).then(|| encoding.encode(&value).ok()).flatten()
            });
        shown.unwrap_or_else(|| bytes.to_vec())
    }

    /// A service proxy leads the Service's own address here, so the certificate must be good for that one too.
    fn show(&self, value: &mut serde_json::Value) -> bool {
        let own = self.target.addresses(value);
        self.hindered.send_if_modified(|known| {
            let before = *known;
            match self.target {
                Target::Service => known.foreign = self.view.is_foreign(value).unwrap_or(before.foreign),
                Target::ConfigMap => known.astray = view::is_astray(value).unwrap_or(before.astray),
                _ => {}
            }
            *known != before
        });
        let shown = self.target.show(&self.view, value);
        if shown {
            self.certificate.cover(&own);
        }
        shown
    }

    fn list(&self, bytes: &[u8], encoding: Encoding) -> Result<Vec<u8>, String> {
        let unreadable = |e: crate::kube::Error| format!("a list cannot be read: {e}");
        let mut splitter = ListSplitter::with_limit(encoding, LIMIT);
        splitter.push(bytes).map_err(unreadable)?;
        let mut items = Vec::new();
        while let Some(item) = splitter.next_item() {
            let shown = self.target.may_be(&item).then(|| splitter.decode_item(&item).ok()).flatten();
            let shown =
                shown.map(|read| read.value).and_then(|mut value| self.show(&mut value).then_some(value));
            items.push((item, shown));
        }
        if items.iter().all(|(_, shown)| shown.is_none()) {
            return Ok(bytes.to_vec());
        }
        let Finished::List(head) = splitter.finish().map_err(unreadable)? else { return Ok(bytes.to_vec()) };
        let mut writer = ListWriter::new(encoding, head);
        let mut out = writer.start();
        for (item, shown) in &items {
            match shown {
                Some(value) => out.extend(writer.item(value).map_err(unreadable)?),
                None => out.extend(writer.item_as_it_came(item)),
            }
        }
        out.extend(writer.end().map_err(unreadable)?);
        Ok(out)
    }
}

/// An answer that is to be shown otherwise.
enum Gathered {
    Whole(Vec<u8>),
    /// As it came, with what was read of it before it.
    TooLarge(Body),
}

fn too_large() -> String {
    format!("it is larger than {LIMIT} bytes")
}

/// What the cloud answered must not fail because of what is shown otherwise. Said once: it comes again with each list.
fn as_it_came(why: &str) {
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| tracing::warn!(why, "an answer passes as it came, and does not lead pods to edge"));
}

async fn gather(mut body: Body) -> Result<Gathered, String> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame.map_err(|e| format!("an answer broke off: {e}"))?.into_data() else { continue };
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LIMIT {
            let begin = futures_util::stream::iter([Ok(Frame::data(Bytes::from(bytes)))]);
            return Ok(Gathered::TooLarge(
                StreamBody::new(begin.chain(BodyStream::new(body))).boxed_unsync(),
            ));
        }
    }
    Ok(Gathered::Whole(bytes))
}

/// The encoding of an answer that holds objects.
fn objects(code: StatusCode, headers: &HeaderMap) -> Option<Encoding> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let packed = headers.get(header::CONTENT_ENCODING).map(http::HeaderValue::as_bytes);
    let plain = code == StatusCode::OK
        && !["as=", "cbor", "yaml"].iter().any(|word| kind.contains(word))
        && matches!(packed, None | Some(b"gzip"));
    plain.then(|| Encoding::of(kind)).flatten()
}

/// A watch on its way.
struct Events {
    showing: Showing,
    encoding: Encoding,
    splitter: WatchSplitter,
    body: Body,
    ended: bool,
    ready: VecDeque<WatchEvent>,
}

impl Events {
    fn body(self) -> Body {
        let frames = futures_util::stream::unfold(self, |mut events| async move {
            let next = events.next().await?;
            Some((next.map(Frame::data), events))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    /// The next bytes to send; `None` at the end.
    async fn next(&mut self) -> Option<Result<Bytes, crate::proxy::upstream::BodyError>> {
        loop {
            let mut bytes = Vec::new();
            while let Some(one) = self.ready.pop_front() {
                bytes.extend(self.shown(&one));
            }
            if !bytes.is_empty() {
                return Some(Ok(bytes.into()));
            }
            if self.ended {
                return None;
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(error)) => {
                    self.ended = true;
                    return Some(Err(error));
                }
                Some(Ok(frame)) => {
                    let Ok(chunk) = frame.into_data() else { continue };
                    if let Err(error) = self.splitter.push(&chunk) {
                        self.ended = true;
                        return Some(Err(error.into()));
                    }
                    while let Some(one) = self.splitter.next_event() {
                        self.ready.push_back(one);
                    }
                }
            }
        }
    }

    fn shown(&self, one: &WatchEvent) -> Vec<u8> {
        let object = match one.kind {
            WatchKind::Bookmark | WatchKind::Error => None,
            _ => Some(self.showing.object(&one.object, self.encoding)),
        };
        event(one.kind, object.as_deref().unwrap_or(&one.object), self.encoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn showing(verb: Verb) -> Showing {
        let view = View { address: "169.254.64.45:6445".parse().unwrap(), authority: "EDGE\n".into() };
        let folder = tempfile::tempdir().unwrap();
        let ca = Arc::new(crate::trust::ca::LocalCa::open_or_create(folder.path()).unwrap());
        let certificate = Certificate::new(ca, &[]).unwrap();
        Showing {
            target: Target::Service,
            view: Arc::new(view),
            verb,
            certificate,
            hindered: watch::Sender::default(),
        }
    }

    fn service(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "resourceVersion": "9"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]}})
    }

    fn ip(service: &Value) -> &str {
        service["spec"]["clusterIP"].as_str().unwrap()
    }

    fn answer(bytes: Vec<u8>, kind: &str) -> Response<Body> {
        answer::with_type(StatusCode::OK, kind, answer::full(bytes))
    }

    async fn shown(verb: Verb, bytes: Vec<u8>, kind: &str) -> Vec<u8> {
        let body = showing(verb).answer(answer(bytes, kind)).await.into_body();
        body.collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn a_list_in_either_encoding_keeps_all_but_the_one() {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let head = crate::kube::stream::ListHead {
                kind: "ServiceList".into(),
                api_version: "v1".into(),
                resource_version: "11".into(),
                ..Default::default()
            };
            let mut writer = ListWriter::new(encoding, head);
            let mut bytes = writer.start();
            for name in ["before", "kubernetes", "kubernetes-like"] {
                bytes.extend(writer.item(&service(name)).unwrap());
            }
            bytes.extend(writer.end().unwrap());
            let seen = shown(Verb::List, bytes, encoding.content_type()).await;
            let list = encoding.decode(&seen).unwrap().whole().unwrap();
            let ips: Vec<&str> = list["items"].as_array().unwrap().iter().map(ip).collect();
            assert_eq!(ips, ["10.96.0.1", "169.254.64.45", "10.96.0.1"], "{encoding:?}");
            assert_eq!(
                (&list["metadata"]["resourceVersion"], &list["kind"]),
                (&json!("11"), &json!("ServiceList"))
            );
        }
    }

    #[tokio::test]
    async fn a_watch_in_either_encoding_passes_event_by_event() {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let mark = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"resourceVersion": "12"}});
            let told = [
                (WatchKind::Added, service("other")),
                (WatchKind::Modified, service("kubernetes")),
                (WatchKind::Bookmark, mark),
            ];
            let encode = |(kind, object): &(WatchKind, Value)| {
                event(*kind, &encoding.encode(object).unwrap(), encoding)
            };
            let bytes: Vec<u8> = told.iter().flat_map(encode).collect();
            let seen = shown(Verb::Watch, bytes, encoding.watch_content_type()).await;
            let mut splitter = WatchSplitter::new(encoding);
            splitter.push(&seen).unwrap();
            let events: Vec<_> = std::iter::from_fn(|| splitter.next_event()).collect();
            assert_eq!(events.iter().map(|e| e.kind).collect::<Vec<_>>(), told.each_ref().map(|t| t.0));
            let value = |n: usize| encoding.decode(&events[n].object).unwrap().whole().unwrap();
            assert_eq!((ip(&value(0)), ip(&value(1))), ("10.96.0.1", "169.254.64.45"));
            assert_eq!(value(2)["metadata"]["resourceVersion"], "12");
        }
    }

    #[tokio::test]
    async fn a_refusal_passes_as_it_is() {
        let refused = answer::unavailable("no", Encoding::Json);
        let code = showing(Verb::List).answer(refused).await.status();
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    }

    /// A list with the Service that would be shown otherwise, larger than what is gathered.
    fn large() -> Vec<u8> {
        let list = json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "11"},
            "items": [service("kubernetes")]});
        let mut bytes = list.to_string().into_bytes();
        bytes.resize(LIMIT + 1000, b' ');
        bytes
    }

    #[tokio::test]
    async fn what_is_too_large_passes_as_it_came() {
        let (bytes, chunks) = (large(), large());
        let frames = chunks.chunks(1 << 20).map(|c| Ok(Frame::data(Bytes::copy_from_slice(c))));
        let body = StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>())).boxed_unsync();
        let came = answer::with_type(StatusCode::OK, "application/json", body);
        let passed = showing(Verb::List).answer(came).await;
        assert_eq!(passed.status(), StatusCode::OK);
        assert!(passed.into_body().collect().await.unwrap().to_bytes() == bytes);
    }

    #[tokio::test]
    async fn what_unpacks_to_too_much_passes_packed() {
        use std::io::Write as _;
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&large()).unwrap();
        let packed = packer.finish().unwrap();
        let mut came = answer(packed.clone(), "application/json");
        came.headers_mut().insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        came.headers_mut().insert(header::CONTENT_LENGTH, packed.len().into());
        let passed = showing(Verb::List).answer(came).await;
        assert_eq!(passed.status(), StatusCode::OK);
        assert_eq!(passed.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(passed.headers()[header::CONTENT_LENGTH], *packed.len().to_string());
        assert!(passed.into_body().collect().await.unwrap().to_bytes() == packed);
    }
}
