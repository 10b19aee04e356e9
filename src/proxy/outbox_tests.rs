//! Which changes go first, and what the cloud's answers mean for them.

use serde_json::json;

use super::*;
use crate::cache::NewChange;

fn change(id: i64, resource: &str, name: &str, attempts: u32) -> Change {
    let key = ObjectKey { resource: resource.into(), namespace: "ns".into(), name: name.into() };
    let what = NewChange {
        kind: ChangeKind::Patch,
        key,
        uid: "u".into(),
        subresource: "status".into(),
        author: Author::Node,
        manager: None,
        base: None,
        body: None,
    };
    Change { id, what, at: 0, attempts, error: String::new() }
}

#[test]
fn the_first_round_leaves_events_and_whole_objects_that_are_put_off() {
    let changes = vec![
        change(1, "v1/pods", "a", ATTEMPTS),
        change(2, "v1/pods", "a", 0),
        change(3, "v1/pods", "b", ATTEMPTS - 1),
        change(4, "v1/events", "e", 0),
    ];
    let ids = |round: Round| -> Vec<i64> { round.choose(changes.clone()).iter().map(|c| c.id).collect() };
    assert_eq!(ids(Round::First), [3]);
    assert_eq!(ids(Round::All), [1, 2, 3, 4]);
}

#[test]
fn nothing_of_kubelet_s_is_put_off_by_a_client() {
    let mut changes = vec![change(1, "v1/pods", "a", ATTEMPTS), change(2, "v1/pods", "a", 0)];
    changes[0].what.author = Author::Client("client".into());
    assert_eq!(Round::First.choose(changes).iter().map(|c| c.id).collect::<Vec<_>>(), [2]);
}

#[test]
fn what_is_about_another_object_of_the_name_goes_without_alarm() {
    let change = change(1, "v1/pods", "a", 0);
    let fate = |code: u16, status: Value| {
        fate(&change, StatusCode::from_u16(code).unwrap(), status.to_string().as_bytes())
    };
    let invalid = |field: &str| {
        json!({"kind": "Status", "message": "Pod \"a\" is invalid", "reason": "Invalid",
            "details": {"causes": [{"reason": "FieldValueInvalid", "field": field}]}})
    };
    assert!(matches!(fate(422, invalid("metadata.uid")), Fate::Gone(_)));
    assert!(matches!(fate(422, invalid("spec.nodeName")), Fate::Never(_)));
    assert!(matches!(fate(404, json!({"kind": "Status"})), Fate::Gone(_)));
    let other = "Precondition failed: UID in precondition: x, UID in object meta: y";
    assert!(matches!(fate(409, json!({"message": other})), Fate::Gone(_)));
    assert!(matches!(fate(409, json!({"message": "the object has been modified"})), Fate::Never(_)));
    assert!(matches!(fate(403, json!({})), Fate::Forbidden(_)));
    assert!(matches!(fate(500, json!({})), Fate::Later(_)));
}
