//! The strategic merge patch that turns one state of an object into another.

use serde_json::{Map, Value, json};

use super::Place;
use crate::kube::Error;
use crate::kube::schema::Patch;

type Object = Map<String, Value>;

/// The patch that turns `base` into `now`; `None` if they say the same.
///
/// Applied to `base` it gives `now`, except for what no patch can say: a null is the same as an absent field,
/// elements of a list whose merge key is the same (two InternalIP addresses) come to stand together, and a
/// scalar stands once in a merged list (finalizers).
/// Identity (`apiVersion`, `kind`) is read off `base`.
pub fn diff(base: &Value, now: &Value) -> Result<Option<Value>, Error> {
    let (Value::Object(base), Value::Object(now)) = (base, now) else {
        return Err(super::refuse("", "only objects can be compared"));
    };
    let patch = objects(base, now, Place::of(base)?);
    Ok((!patch.is_empty()).then_some(Value::Object(patch)))
}

/// The merge patch (RFC 7386) that turns `base` into `now`, for kinds of which nothing is known; `None` if they say the
/// same. A null is the same as an absent field.
pub fn merge_diff(base: &Value, now: &Value) -> Option<Value> {
    let (Value::Object(base), Value::Object(now)) = (base, now) else {
        return (base != now).then(|| without_nulls(now));
    };
    let mut patch = Object::new();
    for (key, old) in base.iter().filter(|(_, value)| !value.is_null()) {
        match now.get(key).filter(|value| !value.is_null()) {
            None => drop(patch.insert(key.clone(), Value::Null)),
            Some(new) => drop(merge_diff(old, new).map(|inner| patch.insert(key.clone(), inner))),
        }
    }
    for (key, new) in now.iter().filter(|(_, value)| !value.is_null()) {
        if base.get(key).is_none_or(Value::is_null) {
            patch.insert(key.clone(), without_nulls(new));
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn objects(base: &Object, now: &Object, place: Place) -> Object {
    let mut patch = Object::new();
    for (key, old) in base.iter().filter(|(_, value)| !value.is_null()) {
        match now.get(key).filter(|value| !value.is_null()) {
            None => drop(patch.insert(key.clone(), Value::Null)),
            Some(new) if new != old => field(&mut patch, key, old, new, place),
            Some(_) => {}
        }
    }
    for (key, new) in now.iter().filter(|(_, value)| !value.is_null()) {
        if base.get(key).is_none_or(Value::is_null) {
            patch.insert(key.clone(), without_nulls(new));
        }
    }
    patch
}

/// Adds what changes one field that both have.
fn field(patch: &mut Object, key: &str, old: &Value, new: &Value, place: Place) {
    let field = place.field(key);
    let strategy = field.map(|field| field.patch).unwrap_or_default();
    match (old, new) {
        (Value::Object(old), Value::Object(new)) if !strategy.replace => {
            let inner = objects(old, new, Place::under(field));
            if !inner.is_empty() {
                patch.insert(key.to_owned(), Value::Object(inner));
            }
        }
        (Value::Array(old), Value::Array(new)) if strategy.merge => {
            lists(patch, key, old, new, Place::under(field), strategy);
        }
        _ => {
            let (old, new) = (without_nulls(old), without_nulls(new));
            if old != new {
                patch.insert(key.to_owned(), new);
            }
        }
    }
}

fn lists(patch: &mut Object, key: &str, old: &[Value], new: &[Value], place: Place, strategy: Patch) {
    let (listed, order, deleted) = if strategy.key.is_empty() {
        let listed = new.iter().filter(|v| !old.contains(v)).cloned().collect();
        let deleted: Vec<Value> = old.iter().filter(|v| !new.contains(v)).cloned().collect();
        (listed, new.to_vec(), deleted)
    } else if keyed(old, strategy.key) && keyed(new, strategy.key) {
        let order = new.iter().map(|v| json!({strategy.key: v[strategy.key]})).collect();
        (elements(old, new, place, strategy.key), order, Vec::new())
    } else {
        let mut whole: Vec<Value> = new.iter().map(without_nulls).collect();
        whole.push(json!({"$patch": "replace"}));
        patch.insert(key.to_owned(), Value::Array(whole));
        return;
    };
    let same_order = {
        let id = |v: &Value| if strategy.key.is_empty() { v.clone() } else { v[strategy.key].clone() };
        old.iter().map(id).eq(new.iter().map(id))
    };
    if listed.is_empty() && deleted.is_empty() && same_order {
        return;
    }
    if !order.is_empty() {
        patch.insert(format!("$setElementOrder/{key}"), Value::Array(order));
    }
    if !listed.is_empty() {
        patch.insert(key.to_owned(), Value::Array(listed));
    }
    if !deleted.is_empty() {
        patch.insert(format!("$deleteFromPrimitiveList/{key}"), Value::Array(deleted));
    }
}

/// The elements that are new or changed, in their new order, and then those to delete.
fn elements(old: &[Value], new: &[Value], place: Place, key: &str) -> Vec<Value> {
    let mut patch = Vec::new();
    for element in new {
        match (old.iter().find(|v| v[key] == element[key]), element) {
            (Some(Value::Object(before)), Value::Object(after)) => {
                let mut inner = objects(before, after, place);
                if !inner.is_empty() {
                    inner.insert(key.to_owned(), element[key].clone());
                    patch.push(Value::Object(inner));
                }
            }
            _ => patch.push(without_nulls(element)),
        }
    }
    for element in old {
        if !new.iter().any(|v| v[key] == element[key]) {
            patch.push(json!({key: element[key], "$patch": "delete"}));
        }
    }
    patch
}

/// Whether every element has its merge key, and each another.
fn keyed(list: &[Value], key: &str) -> bool {
    let ids: Vec<Option<&Value>> = list.iter().map(|v| v.get(key).filter(|id| !id.is_null())).collect();
    ids.iter().enumerate().all(|(at, id)| id.is_some() && !ids[..at].contains(id))
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let said = object.iter().filter(|(_, value)| !value.is_null());
            Value::Object(said.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(without_nulls).collect()),
        value => value.clone(),
    }
}
