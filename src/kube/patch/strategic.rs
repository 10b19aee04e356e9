//! Strategic merge patch: objects.
//!
//! By the rules of apimachinery's `strategicpatch`, quirks included, since kubelet and kubectl make their patches
//! for those. One thing is added: a list that is newer than the field table is merged by the key that
//! its `$setElementOrder` shows, and replaced whole without one, where Go would refuse the patch.

use serde_json::{Map, Value};

use super::{Place, list, refuse};
use crate::kube::Error;
use crate::kube::schema::Patch;

type Object = Map<String, Value>;

const MAX_DEPTH: u32 = 100;

/// Merges `patch` into `target`, which stands at `place`.
pub(super) fn merge(target: Object, patch: &Object, place: Place) -> Result<Object, Error> {
    merge_at(target, patch, place, 0)
}

pub(super) fn merge_at(
    mut target: Object,
    patch: &Object,
    place: Place,
    depth: u32,
) -> Result<Object, Error> {
    if depth > MAX_DEPTH {
        return Err(refuse("", "it is nested too deep"));
    }
    match patch.get("$patch").map(|directive| directive.as_str().unwrap_or_default()) {
        None => {}
        Some("delete") => return Ok(Object::new()),
        Some("replace") => {
            let mut new = patch.clone();
            new.remove("$patch");
            return Ok(new);
        }
        Some(_) => return Err(refuse("$patch", "an object knows `delete` and `replace` only")),
    }
    retain_keys(&mut target, patch)?;
    for (key, order) in patch {
        if let Some(field) = directive(key, "$setElementOrder")? {
            ordered(&mut target, patch, field, order, place, depth)?;
        }
    }
    for (key, value) in patch {
        if key == "$retainKeys" || directive(key, "$setElementOrder")?.is_some() {
            continue;
        }
        if let Some(field) = directive(key, "$deleteFromPrimitiveList")? {
            delete_scalars(&mut target, field, value)?;
        } else if !patch.contains_key(&format!("$setElementOrder/{key}")) {
            set(&mut target, key, value, place, depth)?;
        }
    }
    Ok(target)
}

/// The field that a key like `$setElementOrder/containers` is about.
fn directive<'a>(key: &'a str, name: &str) -> Result<Option<&'a str>, Error> {
    match key.strip_prefix(name).map(|rest| rest.strip_prefix('/')) {
        None => Ok(None),
        Some(Some(field)) => Ok(Some(field)),
        Some(None) => Err(refuse(key, "the directive names no field")),
    }
}

/// Sets one field that has no order of its own.
fn set(target: &mut Object, key: &str, value: &Value, place: Place, depth: u32) -> Result<(), Error> {
    if value.is_null() {
        target.remove(key);
        return Ok(());
    }
    let field = place.field(key);
    let strategy = field.map(|field| field.patch).unwrap_or_default();
    let merged = match (target.get_mut(key).map(Value::take), value) {
        (Some(Value::Object(_)), Value::Object(patch)) if strategy.replace => {
            Some(Value::Object(patch.clone()))
        }
        (Some(Value::Object(old)), Value::Object(patch)) => {
            Some(Value::Object(merge_at(old, patch, Place::under(field), depth + 1)?))
        }
        (Some(Value::Array(_)), Value::Array(patch)) if !strategy.merge => Some(Value::Array(patch.clone())),
        (Some(Value::Array(old)), Value::Array(patch)) => {
            let new = list::merge(old, patch, Place::under(field), strategy.key, depth);
            Some(Value::Array(new.map_err(|e| e.within(key))?))
        }
        _ => without_directives(value),
    };
    match merged {
        Some(merged) => drop(target.insert(key.to_owned(), merged)),
        None => drop(target.remove(key)),
    }
    Ok(())
}

/// Sets a list whose order the patch gives.
fn ordered(
    target: &mut Object,
    patch: &Object,
    key: &str,
    order: &Value,
    place: Place,
    depth: u32,
) -> Result<(), Error> {
    let empty = Vec::new();
    let order = order.as_array().ok_or_else(|| refuse(key, "the order of its elements is no list"))?;
    let listed = match patch.get(key) {
        Some(Value::Array(listed)) => Some(listed),
        None => None,
        Some(_) => return Err(refuse(key, "a list was expected")),
    };
    let old = match target.get_mut(key).map(Value::take) {
        Some(Value::Array(old)) => Some(old),
        // What Go prints of a nil list.
        Some(Value::Null) | None => None,
        Some(_) => return Err(refuse(key, "a list was expected")),
    };
    let field = place.field(key);
    let strategy = field.map_or_else(|| shown_by(order), |field| field.patch);
    list::check_order(listed.unwrap_or(&empty), order, strategy.key).map_err(|e| e.within(key))?;
    let under = Place::under(field);
    let (merged, server_order) = match (old, listed) {
        (None, None) => return Ok(()),
        (Some(old), None) => (old.clone(), old),
        (None, Some(listed)) => (elements(listed), Vec::new()),
        (Some(old), Some(listed)) if strategy.merge => {
            let kept = list::without_deleted(old.clone(), listed, strategy.key).map_err(|e| e.within(key))?;
            (list::merge(old, listed, under, strategy.key, depth).map_err(|e| e.within(key))?, kept)
        }
        (Some(old), Some(listed)) => (listed.clone(), old),
    };
    let new = list::arrange(merged, order, &server_order, strategy.key).map_err(|e| e.within(key))?;
    target.insert(key.to_owned(), Value::Array(new));
    Ok(())
}

/// How a list that is not in the table is merged, by the order that came with it.
fn shown_by(order: &[Value]) -> Patch {
    let key = match order.first() {
        Some(Value::Object(element)) => KNOWN_KEYS.iter().find(|key| element.contains_key(**key)),
        _ => None,
    };
    Patch { merge: true, key: key.copied().unwrap_or_default(), ..Patch::default() }
}

/// Every merge key that Kubernetes uses.
const KNOWN_KEYS: [&str; 10] =
    ["name", "type", "uid", "ip", "containerPort", "port", "mountPath", "devicePath", "topologyKey", "rule"];

/// Drops from the target what the patch's `$retainKeys` does not name.
fn retain_keys(target: &mut Object, patch: &Object) -> Result<(), Error> {
    let Some(keys) = patch.get("$retainKeys") else { return Ok(()) };
    let keys = keys.as_array().ok_or_else(|| refuse("$retainKeys", "it is no list"))?;
    let retained = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    let free = |key: &str| {
        key == "$retainKeys"
            || key.starts_with("$deleteFromPrimitiveList")
            || key.starts_with("$setElementOrder")
    };
    if patch.iter().any(|(key, value)| !value.is_null() && !free(key) && !retained(key)) {
        return Err(refuse("$retainKeys", "it lacks a key of the patch"));
    }
    target.retain(|key, _| retained(key));
    Ok(())
}

fn delete_scalars(target: &mut Object, key: &str, doomed: &Value) -> Result<(), Error> {
    let Value::Array(doomed) = doomed else {
        return Err(refuse(key, "the elements to delete are no list"));
    };
    if let Some(Value::Array(list)) = target.get_mut(key) {
        list.retain(|element| !doomed.contains(element));
    }
    Ok(())
}

/// A value as it is set where there was none: without nulls in objects, and without directives. `None` if
/// it is itself a directive.
pub(super) fn without_directives(value: &Value) -> Option<Value> {
    match value {
        Value::Object(object) if object.contains_key("$patch") => None,
        Value::Object(object) => {
            let kept = object.iter().filter(|(key, value)| !value.is_null() && !is_directive(key));
            let kept = kept.filter_map(|(key, value)| Some((key.clone(), without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(list) => Some(Value::Array(elements(list))),
        value => Some(value.clone()),
    }
}

pub(super) fn elements(list: &[Value]) -> Vec<Value> {
    list.iter().filter_map(without_directives).collect()
}

fn is_directive(key: &str) -> bool {
    key == "$retainKeys"
        || key.starts_with("$setElementOrder/")
        || key.starts_with("$deleteFromPrimitiveList/")
}
