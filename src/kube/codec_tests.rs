use super::*;
use crate::kube::fixtures::records;
use serde_json::json;

const CODEC: &[u8] = include_bytes!("../../tests/fixtures/kube/codec.bin.gz");

/// Name, protobuf, the JSON Go prints of it, and the protobuf Go writes of that JSON.
fn pairs() -> Vec<[Vec<u8>; 4]> {
    let mut all = records::<4>(CODEC);
    assert!(all.len() > 1000, "only {} fixtures", all.len());
    all.retain(|r| r[0] != b"opaque");
    all
}

#[test]
fn reads_every_kind_as_go_prints_it() {
    for [name, protobuf, text, _] in pairs() {
        let name = String::from_utf8(name).unwrap();
        let want: Value = serde_json::from_slice(&text).unwrap();
        let got = decode(&protobuf).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(got.unknown, None, "{name}");
        if got.value != want {
            panic!("{name}\n got {}\nwant {want}", got.value);
        }
    }
}

#[test]
fn writes_every_kind_byte_for_byte_as_go_does() {
    for [name, protobuf, text, written] in pairs() {
        let name = String::from_utf8(name).unwrap();
        let value: Value = serde_json::from_slice(&text).unwrap();
        let got = encode(&value).unwrap_or_else(|e| panic!("{name}: {e}"));
        let want = if written.is_empty() { protobuf } else { written };
        if got != want {
            let got = decode(&got).unwrap().value;
            panic!("{name}\n got {got}\nwant {}", decode(&want).unwrap().value);
        }
        assert_eq!(decode(&got).unwrap().whole().unwrap()["kind"], value["kind"]);
    }
}

#[test]
fn what_has_no_table_is_told() {
    let opaque = records::<4>(CODEC).into_iter().find(|r| r[0] == b"opaque").unwrap();
    assert!(decode(&opaque[1]).unwrap().whole().is_err());

    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "x"});
    let mut body = encode(&secret).unwrap();
    // Field 99 of the message, its length and the raw bytes' and all made room for by hand.
    let envelope = Envelope::read(&body).unwrap();
    let mut raw = envelope.raw.to_vec();
    raw.extend([0x9a, 0x06, 1, b'?']);
    let mut to = Writer::default();
    seal("v1", "Secret", &mut to, |to| {
        to.put(&raw);
        Ok(())
    })
    .unwrap();
    body = to.finish();
    let decoded = decode(&body).unwrap();
    assert_eq!(decoded.unknown.as_deref(), Some("core/v1.Secret field 99"));
    assert_eq!(decoded.value["type"], "x");

    let strange = json!({"apiVersion": "v1", "kind": "Gadget"});
    assert!(matches!(encode(&strange), Err(Error::UnknownKind { .. })));
    let newer =
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a", "novel": 1}]}});
    assert_eq!(
        encode(&newer).unwrap_err().to_string(),
        "`Pod.spec.containers[0].novel` cannot be written as protobuf: the field is not known"
    );
    let wrong = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"priority": 1e10}});
    assert!(encode(&wrong).is_err());
}

#[test]
fn hostile_bytes_are_refused_and_never_panic() {
    let mut all = pairs();
    all.retain(|r| r[0].ends_with(b" v1 Pod"));
    for [_, protobuf, ..] in &all {
        let whole = decode(protobuf).unwrap().value;
        for end in (0..protobuf.len()).step_by(5) {
            // Two empty fields of the envelope come last, of which nothing depends.
            assert!(decode(&protobuf[..end]).map_or(true, |d| d.value == whole), "cut at {end}");
        }
        for at in (4..protobuf.len()).step_by(3) {
            let mut bent = protobuf.clone();
            bent[at] ^= 1 << (at % 8);
            drop(decode(&bent));
        }
    }
    assert!(matches!(decode(b"{}"), Err(Error::DecodeProtobuf { .. })));
    let mut deep = json!({});
    for _ in 0..100 {
        deep = json!({"properties": {"a": deep}});
    }
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "spec": {"versions": [{"schema": {"openAPIV3Schema": deep}}]}});
    assert!(encode(&crd).is_err());
}

#[test]
fn many_values_in_few_bytes_are_refused() {
    let mut to = Writer::default();
    seal("v1", "ConfigMapList", &mut to, |to| {
        for _ in 0..2_000_000 {
            to.put(&[0x12, 0]);
        }
        Ok(())
    })
    .unwrap();
    let refused = decode(&to.finish()).unwrap_err().to_string();
    assert!(refused.contains("too many values"), "{refused}");
}

#[test]
fn what_older_clients_write_into_every_object_is_no_news() {
    let object = |cluster_name: &[u8]| {
        let mut meta = vec![0x0a, 1, b'a', 0x7a, u8::try_from(cluster_name.len()).unwrap()];
        meta.extend(cluster_name);
        let raw = [&[0x0a, u8::try_from(meta.len()).unwrap()], meta.as_slice()].concat();
        let kind = [b"\x0a\x02v1\x12\x09".as_slice(), b"ConfigMap"].concat();
        let mut bytes = b"k8s\0".to_vec();
        for (tag, part) in [(0x0a, kind), (0x12, raw)] {
            bytes.extend([tag, u8::try_from(part.len()).unwrap()]);
            bytes.extend(part);
        }
        bytes
    };
    let decoded = decode(&object(b"")).unwrap().whole().unwrap();
    assert_eq!(decoded["metadata"]["name"], "a");
    assert!(decode(&object(b"x")).unwrap().whole().is_err(), "what says something is not dropped");
}
