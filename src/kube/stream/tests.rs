use super::*;
use crate::kube::fixtures::records;
use serde_json::{Value, json};

const STREAMS: &[u8] = include_bytes!("../../../tests/fixtures/kube/streams.bin.gz");

/// What Go wrote under a name: the body, and the same as a JSON array of what is in it.
fn fixture(name: &str) -> (Vec<u8>, Vec<Value>) {
    let [_, body, text] = records::<3>(STREAMS).into_iter().find(|r| r[0] == name.as_bytes()).unwrap();
    (body, serde_json::from_slice(&text).unwrap())
}

/// Splits a body that arrives in chunks of a size.
fn split(encoding: Encoding, body: &[u8], size: usize) -> Result<(Vec<Value>, Finished), Error> {
    let mut splitter = ListSplitter::new(encoding);
    let mut items = Vec::new();
    for chunk in body.chunks(size) {
        splitter.push(chunk)?;
        while let Some(item) = splitter.next_item() {
            items.push(splitter.decode_item(&item)?.whole()?);
        }
    }
    Ok((items, splitter.finish()?))
}

fn end(encoding: Encoding, body: &[u8]) -> Finished {
    split(encoding, body, 7).unwrap().1
}

const PODS: &str = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"c",
    "remainingItemCount":2},"items": [ {"metadata":{"name":"a","labels":{"x":"}]\"\\"}}} ,{"spec":[[{}]]}]}
"#;

#[test]
fn go_lists_in_chunks_of_any_size() {
    for (name, encoding) in [("list json", Encoding::Json), ("list protobuf", Encoding::Protobuf)] {
        let (body, want) = fixture(name);
        for size in [1, 2, 3, 5, 64, 1000, usize::MAX] {
            let (items, finished) = split(encoding, &body, size).unwrap();
            assert_eq!(items, want, "{name} {size}");
            let Finished::List(end) = finished else { panic!("{name} is a list") };
            assert_eq!((end.kind.as_str(), end.api_version.as_str()), ("PodList", "v1"));
            assert_eq!((end.resource_version.as_str(), end.remaining), ("4711", Some(12)));
            assert_eq!(end.continue_token.as_deref(), Some("next"));
        }
        for len in (0..body.trim_ascii_end().len() - 4).step_by(3) {
            assert!(split(encoding, &body[..len], 64).is_err(), "{name} cut at {len}");
        }
    }
}

#[test]
fn json_lists_in_any_order() {
    let (items, finished) = split(Encoding::Json, PODS.as_bytes(), 4).unwrap();
    assert_eq!(items[0]["metadata"]["labels"]["x"], "}]\"\\");
    assert_eq!(items[1], json!({"apiVersion": "v1", "kind": "Pod", "spec": [[{}]]}));
    let want = ListEnd {
        kind: "PodList".into(),
        api_version: "v1".into(),
        resource_version: "7".into(),
        continue_token: Some("c".into()),
        remaining: Some(2),
    };
    assert_eq!(finished, Finished::List(want));

    let late = r#"{"items":[{"a":1}],"kind":"PodList","metadata":{"resourceVersion":"7"},"apiVersion":"v1"}"#;
    let (items, finished) = split(Encoding::Json, late.as_bytes(), 3).unwrap();
    assert_eq!(items, [json!({"a": 1})]);
    assert!(matches!(finished, Finished::List(end) if end.kind == "PodList" && end.resource_version == "7"));

    let own = r#"{"kind":"GadgetList","apiVersion":"x/v1","items":[{"kind":"Other","apiVersion":"y/v2"}]}"#;
    assert_eq!(split(Encoding::Json, own.as_bytes(), 9).unwrap().0[0]["kind"], "Other");
    let none = r#"{"kind":"PodList","apiVersion":"v1","items":null}"#;
    assert!(matches!(end(Encoding::Json, none.as_bytes()), Finished::List(_)));
}

#[test]
fn what_is_no_list() {
    let status = br#"{"kind":"Status","apiVersion":"v1","details":{"items":[1,2]},"message":"\"items\":["}"#;
    assert_eq!(end(Encoding::Json, status), Finished::Object(status.to_vec()));
    let value: Value = serde_json::from_str(r#"{"kind":"Status","apiVersion":"v1","code":410}"#).unwrap();
    let body = Encoding::Protobuf.encode(&value).unwrap();
    assert_eq!(end(Encoding::Protobuf, &body), Finished::Object(body.clone()));
    let apis = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": []});
    let body = Encoding::Protobuf.encode(&apis).unwrap();
    assert!(matches!(end(Encoding::Protobuf, &body), Finished::Object(_)));
    for bad in
        ["", "[", "[]", "null", "{}{}", r#"{"items":[1]}"#, r#"{"items":[{},]}"#, r#"{"items":[{}{}]}"#, "{]"]
    {
        assert!(split(Encoding::Json, bad.as_bytes(), 2).is_err(), "{bad}");
    }
    assert!(split(Encoding::Protobuf, b"<html>", 2).is_err());
}

#[test]
fn limits() {
    let item = format!(r#"{{"items":[{{"a":"{}"}}]}}"#, "x".repeat(100));
    let head = format!(r#"{{"a":"{}"}}"#, "x".repeat(100));
    for body in [item, head] {
        let mut splitter = ListSplitter::with_limit(Encoding::Json, 50);
        assert!(body.as_bytes().chunks(10).any(|chunk| splitter.push(chunk).is_err()));
    }
    let (body, _) = fixture("list protobuf");
    let mut splitter = ListSplitter::with_limit(Encoding::Protobuf, 50);
    assert!(body.chunks(10).any(|chunk| splitter.push(chunk).is_err()));
    let mut watch = WatchSplitter::with_limit(Encoding::Protobuf, 50);
    assert!(watch.push(&[0, 0, 1, 0]).is_err());
    let mut watch = WatchSplitter::with_limit(Encoding::Json, 50);
    assert!(watch.push(&[b'{'; 60]).is_err());
}

#[test]
fn go_watches_in_chunks_of_any_size() {
    for (name, encoding) in [("watch json", Encoding::Json), ("watch protobuf", Encoding::Protobuf)] {
        let (body, want) = fixture(name);
        for size in [1, 2, 3, 5, 64, 1000, usize::MAX] {
            let mut splitter = WatchSplitter::new(encoding);
            let mut got = Vec::new();
            for chunk in body.chunks(size) {
                splitter.push(chunk).unwrap();
                while let Some(event) = splitter.next_event() {
                    let object = encoding.decode(&event.object).unwrap().whole().unwrap();
                    got.push(json!({"type": event.kind.as_str(), "object": object}));
                }
            }
            splitter.finish().unwrap();
            assert_eq!(got, want, "{name} {size}");
        }
        let mut cut = WatchSplitter::new(encoding);
        cut.push(&body[..body.len() - 3]).unwrap();
        assert!(cut.finish().is_err());
    }
    for bad in ["x", r#"{"type":"NOVEL","object":{}}"#, r#"{"type":"ADDED"}"#] {
        assert!(WatchSplitter::new(Encoding::Json).push(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn writes_the_lists_and_watches_that_go_writes() {
    let (body, items) = fixture("list protobuf");
    let Finished::List(head) = end(Encoding::Protobuf, &body) else { panic!("a list") };
    let mut writer = ListWriter::new(Encoding::Protobuf, head.clone());
    let mut got = writer.start();
    for (at, item) in items.iter().enumerate() {
        let text = item.to_string();
        got.extend(if at == 0 { writer.item(item) } else { writer.item_text(text.as_bytes()) }.unwrap());
    }
    got.extend(writer.end().unwrap());
    assert_eq!(got, body);

    let mut writer = ListWriter::new(Encoding::Json, head.clone());
    let mut got = writer.start();
    for item in &items {
        got.extend(writer.item_text(item.to_string().as_bytes()).unwrap());
    }
    got.extend(writer.end().unwrap());
    assert_eq!(split(Encoding::Json, &got, 10).unwrap(), (items, Finished::List(head)));

    for (name, encoding) in [("watch json", Encoding::Json), ("watch protobuf", Encoding::Protobuf)] {
        let (body, events) = fixture(name);
        let mut got = Vec::new();
        for event in &events {
            use WatchKind::*;
            let kinds = [Added, Modified, Deleted, Bookmark, Error];
            let kind = kinds.into_iter().find(|kind| event["type"] == kind.as_str()).unwrap();
            let text = event["object"].to_string();
            assert_eq!(
                watch_event(kind, &event["object"], encoding).unwrap(),
                watch_event_text(kind, text.as_bytes(), encoding).unwrap()
            );
            got.extend(watch_event_text(kind, text.as_bytes(), encoding).unwrap());
        }
        if encoding == Encoding::Protobuf {
            assert_eq!(got, body);
        } else {
            let mut splitter = WatchSplitter::new(encoding);
            splitter.push(&got).unwrap();
            assert!(got.ends_with(b"}\n"));
            assert_eq!(std::iter::from_fn(|| splitter.next_event()).count(), events.len());
        }
    }
}
