use super::*;
use crate::kube::fixtures::records;
use proptest::prelude::*;
use serde_json::json;

const PATCHES: &[u8] = include_bytes!("../../../tests/fixtures/kube/patches.bin.gz");

/// Name, object, patch, and what Go makes of it (empty if it refuses the patch).
fn fixtures() -> Vec<(String, Value, Value, Option<Value>)> {
    let parse = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
    let read = |[name, object, patch, result]: [Vec<u8>; 4]| {
        let name = String::from_utf8(name).unwrap();
        (name, parse(&object).unwrap(), parse(&patch).unwrap(), parse(&result))
    };
    let all: Vec<_> = records::<4>(PATCHES).into_iter().map(read).collect();
    assert!(all.len() > 300, "only {} fixtures", all.len());
    all
}

#[test]
fn strategic_patches_as_go_applies_them() {
    for (name, object, patch, want) in fixtures() {
        let got = apply(PatchType::Strategic, &object, &patch);
        match want {
            Some(want) => {
                let got = got.unwrap_or_else(|e| panic!("{name}: {e}\n{object}\n{patch}"));
                assert_eq!(said(&got), said(&want), "{name}\nobject {object}\npatch {patch}");
            }
            None => assert!(got.is_err(), "{name} is refused by Go"),
        }
    }
}

#[test]
fn what_diff_makes_apply_undoes() {
    let mut made = 0;
    for (name, object, _, now) in fixtures() {
        let Some(now) = now.filter(|_| name.starts_with("random")) else { continue };
        let now = said(&now);
        // A merge list of scalars cannot hold one twice, as the random ones do.
        let once = |value: &Value| once(said(value));
        for (base, now) in [(&object, &now), (&now, &object)] {
            match diff(base, now).unwrap() {
                None => assert_eq!(once(base), once(now), "{name}"),
                Some(patch) => {
                    let got = apply(PatchType::Strategic, base, &patch).unwrap();
                    assert_eq!(once(&got), once(now), "{name}\nbase {base}\npatch {patch}");
                    made += 1;
                }
            }
        }
    }
    assert!(made > 300, "only {made} patches made");
}

fn once(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(object.into_iter().map(|(k, v)| (k, once(v))).collect()),
        Value::Array(list) => {
            let mut out: Vec<Value> = Vec::new();
            for element in list {
                if !(element.is_string() && out.contains(&element)) {
                    out.push(once(element));
                }
            }
            Value::Array(out)
        }
        value => value,
    }
}

/// An object as the API server's typed one says it: Go's merge leaves nulls and directives in elements that are
/// new to a list, which reading them into the type drops.
fn said(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let there = object.iter().filter(|(key, value)| !value.is_null() && !key.starts_with('$'));
            Value::Object(there.map(|(key, value)| (key.clone(), said(value))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(said).collect()),
        value => value.clone(),
    }
}

#[test]
fn kubelets_status_patches() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False"}, {"type": "PodScheduled", "status": "True"}],
        "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [{"name": "a", "ready": false}]}});
    let mut now = pod.clone();
    now["status"]["phase"] = json!("Running");
    now["status"]["conditions"][0] = json!({"type": "Ready", "status": "True"});
    now["status"]["podIPs"] = json!([{"ip": "10.0.0.2"}, {"ip": "fd00::2"}]);
    now["status"]["containerStatuses"] = json!([{"name": "a", "ready": true}]);
    let patch = diff(&pod, &now).unwrap().unwrap();
    assert_eq!(
        patch,
        json!({"status": {"phase": "Running", "containerStatuses": [{"name": "a", "ready": true}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "$setElementOrder/conditions": [{"type": "Ready"}, {"type": "PodScheduled"}],
            "podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}, {"ip": "10.0.0.1", "$patch": "delete"}],
            "$setElementOrder/podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}]}})
    );
    assert_eq!(apply(PatchType::Strategic, &pod, &patch).unwrap(), now);
    assert_eq!(diff(&now, &now).unwrap(), None);

    let node =
        |addresses: Value| json!({"apiVersion": "v1", "kind": "Node", "status": {"addresses": addresses}});
    let one =
        node(json!([{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n"}]));
    let two = node(json!([{"type": "InternalIP", "address": "10.0.0.1"},
        {"type": "InternalIP", "address": "fd00::1"}, {"type": "Hostname", "address": "n"}]));
    for (base, now) in [(&one, &two), (&two, &one)] {
        let patch = diff(base, now).unwrap().unwrap();
        assert_eq!(&apply(PatchType::Strategic, base, &patch).unwrap(), now);
    }
}

#[test]
fn lists_that_are_newer_than_the_table() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "status": {"novel": [{"name": "a", "x": 1}, {"name": "b"}], "plain": [{"x": 1}]}});
    let patch = json!({"status": {"novel": [{"name": "a", "x": 2}], "$setElementOrder/novel": [{"name": "b"}, {"name": "a"}],
        "plain": [{"x": 2}]}});
    let got = apply(PatchType::Strategic, &pod, &patch).unwrap();
    assert_eq!(got["status"], json!({"novel": [{"name": "b"}, {"name": "a", "x": 2}], "plain": [{"x": 2}]}));
    let gadget = json!({"apiVersion": "x/v1", "kind": "Gadget"});
    assert!(matches!(apply(PatchType::Strategic, &gadget, &json!({})), Err(Error::UnknownKind { .. })));
}

#[test]
fn merge_patches_of_rfc_7386() {
    // The test cases of its appendix A.
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"a": "foo"}), json!(null), json!(null)),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ];
    for (object, patch, want) in cases {
        assert_eq!(apply(PatchType::Merge, &object, &patch).unwrap(), want, "{object} {patch}");
    }
}

#[test]
fn json_patches() {
    let object = json!({"metadata": {"labels": {"a/b": "c"}}, "list": [1, 2]});
    let patch = json!([{"op": "test", "path": "/metadata/labels/a~1b", "value": "c"},
        {"op": "replace", "path": "/metadata/labels/a~1b", "value": "d"},
        {"op": "add", "path": "/list/-", "value": 3}, {"op": "remove", "path": "/list/0"}]);
    let want = json!({"metadata": {"labels": {"a/b": "d"}}, "list": [2, 3]});
    assert_eq!(apply(PatchType::Json, &object, &patch).unwrap(), want);
    for bad in [
        json!([{"op": "test", "path": "/list", "value": 1}]),
        json!([{"op": "remove", "path": "/none"}]),
        json!([{"op": "frob", "path": "/list"}]),
        json!({}),
    ] {
        assert!(apply(PatchType::Json, &object, &bad).is_err(), "{bad}");
    }
    let copies: Vec<Value> =
        (0..64).map(|n| json!({"op": "copy", "from": "", "path": format!("/c{n}")})).collect();
    assert!(apply(PatchType::Json, &object, &Value::Array(copies)).is_err());
    assert_eq!(PatchType::of("application/json-patch+json; charset=utf-8"), Some(PatchType::Json));
    assert_eq!(PatchType::of("application/apply-patch+yaml"), None);
}

fn condition() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec!["Ready", "Initialized", "PodScheduled", "ContainersReady"]);
    (kind, any::<bool>(), prop::option::of("[a-z]{1,3}")).prop_map(|(kind, status, reason)| {
        let mut condition = json!({"type": kind, "status": if status { "True" } else { "False" }});
        if let Some(reason) = reason {
            condition["reason"] = json!(reason);
        }
        condition
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let distinct = |key: &'static str| {
        move |list: Vec<Value>| {
            let mut seen: Vec<Value> = Vec::new();
            list.into_iter()
                .filter(|v| {
                    !seen.contains(&v[key]) && {
                        seen.push(v[key].clone());
                        true
                    }
                })
                .collect::<Vec<_>>()
        }
    };
    let conditions = prop::option::of(prop::collection::vec(condition(), 0..5).prop_map(distinct("type")));
    let ips = prop::option::of(
        prop::collection::vec((0..4u8).prop_map(|n| json!({"ip": format!("10.0.0.{n}")})), 0..4)
            .prop_map(distinct("ip")),
    );
    let finalizers = prop::option::of(prop::collection::btree_set("[a-c]", 0..3));
    let labels = prop::option::of(prop::collection::btree_map("[a-c]", "[x-z]", 0..3));
    (conditions, ips, finalizers, labels).prop_map(|(conditions, ips, finalizers, labels)| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "status": {}});
        let mut set = |at: &str, key: &str, value: Option<Value>| {
            if let Some(value) = value {
                pod[at][key] = value;
            }
        };
        set("status", "conditions", conditions.map(Value::Array));
        set("status", "podIPs", ips.clone().map(Value::Array));
        set("status", "hostIPs", ips.map(Value::Array));
        set("metadata", "finalizers", finalizers.map(|f| json!(f)));
        set("metadata", "labels", labels.map(|l| json!(l)));
        pod
    })
}

proptest! {
    #[test]
    fn any_pod_into_any_other(base in pod(), now in pod()) {
        let patched = match diff(&base, &now).unwrap() {
            Some(patch) => apply(PatchType::Strategic, &base, &patch).unwrap(),
            None => base,
        };
        prop_assert_eq!(patched, now);
    }

    #[test]
    fn no_patch_panics(base in pod(), patch in any::<u64>().prop_flat_map(|_| wild())) {
        drop(apply(PatchType::Strategic, &base, &patch));
    }
}

/// A patch with directives in any place.
fn wild() -> impl Strategy<Value = Value> {
    let keys = vec![
        "$patch",
        "$retainKeys",
        "$setElementOrder/conditions",
        "$deleteFromPrimitiveList/finalizers",
        "conditions",
        "type",
        "status",
        "metadata",
        "finalizers",
        "podIPs",
        "$setElementOrder",
    ];
    let leaf =
        prop_oneof![Just(json!(null)), Just(json!("delete")), Just(json!("replace")), Just(json!("Ready"))];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        let map = prop::collection::btree_map(prop::sample::select(keys.clone()), inner.clone(), 0..5);
        prop_oneof![prop::collection::vec(inner, 0..4).prop_map(Value::Array), map.prop_map(|m| json!(m))]
    })
}

#[test]
fn a_merge_patch_of_what_is_not_known_leads_from_one_to_the_other() {
    let base = json!({"kind": "Widget", "status": {"phase": "A", "old": 1, "list": [1, 2], "deep": {"x": 1, "y": 2}}});
    let now =
        json!({"kind": "Widget", "status": {"phase": "B", "list": [2], "deep": {"x": 1}, "new": {"z": 3}}});
    let patch = merge_diff(&base, &now).unwrap();
    assert_eq!(patch["status"]["deep"], json!({"y": null}));
    assert!(patch.get("kind").is_none());
    assert_eq!(apply(PatchType::Merge, &base, &patch).unwrap(), now);
    assert_eq!(merge_diff(&now, &now), None);
}
