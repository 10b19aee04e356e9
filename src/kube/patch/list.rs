//! Strategic merge patch: lists whose elements are merged, by key if they are objects.

use serde_json::Value;

use super::strategic::{elements, merge_at, without_directives};
use super::{Place, refuse};
use crate::kube::Error;

/// Elements that a list, its patch and their order may have together: they are compared with one another.
const MAX_ELEMENTS: usize = 10_000;

/// Merges a patch into a list. `key` is the merge key, empty for a list of scalars.
pub(super) fn merge(
    target: Vec<Value>,
    patch: &[Value],
    place: Place,
    key: &str,
    depth: u32,
) -> Result<Vec<Value>, Error> {
    if target.is_empty() && patch.is_empty() {
        return Ok(target);
    }
    if target.len() + patch.len() > MAX_ELEMENTS {
        return Err(refuse("", "the list is too long to be merged"));
    }
    let objects = target.iter().chain(patch).filter(|v| v.is_object()).count();
    if objects == 0 {
        return arrange(union(&target, patch), patch, &target, "");
    }
    if objects != target.len() + patch.len() || key.is_empty() {
        return Err(refuse("", "objects can only be merged with objects, by a merge key"));
    }
    if patch.iter().any(|v| directive(v) == Some("replace")) {
        let new = elements(patch);
        return arrange(new.clone(), &[], &new, key);
    }
    let kept = without_deleted(target, patch, key)?;
    let listed: Vec<Value> = patch.iter().filter(|v| directive(v).is_none()).cloned().collect();
    let mut merged = kept.clone();
    for element in &listed {
        let id = id(element, key)?;
        match merged.iter_mut().find(|v| v.get(key) == Some(id)) {
            Some(slot) => {
                if let (Value::Object(old), Value::Object(new)) = (slot.take(), element) {
                    *slot = Value::Object(merge_at(old, new, place, depth + 1)?);
                }
            }
            None => merged.extend(without_directives(element)),
        }
    }
    arrange(merged, &listed, &kept, key)
}

/// The list without the elements that the patch deletes.
pub(super) fn without_deleted(mut list: Vec<Value>, patch: &[Value], key: &str) -> Result<Vec<Value>, Error> {
    for element in patch {
        match directive(element) {
            None => {}
            Some("delete") => {
                let doomed = id(element, key)?;
                list.retain(|v| v.get(key) != Some(doomed));
            }
            Some("replace") => {}
            Some(_) => return Err(refuse("$patch", "a list knows `delete` and `replace` only")),
        }
    }
    Ok(list)
}

/// Brings a list in order: the elements that `order` names as it has them, the others as `server` has them.
/// Where the two meet, an element of the server's stands before one that the server has behind it.
pub(super) fn arrange(
    list: Vec<Value>,
    order: &[Value],
    server: &[Value],
    key: &str,
) -> Result<Vec<Value>, Error> {
    if list.len() + order.len() + server.len() > 3 * MAX_ELEMENTS {
        return Err(refuse("", "the list is too long to be merged"));
    }
    let at = |list: &[Value], element: &Value| list.iter().position(|v| same(v, element, key));
    if !key.is_empty() {
        for element in list.iter().chain(order) {
            id(element, key)?;
        }
    }
    let (mut ours, mut theirs): (Vec<Value>, Vec<Value>) =
        list.into_iter().partition(|element| at(order, element).is_some());
    ours.sort_by_key(|element| at(order, element));
    theirs.sort_by_key(|element| at(server, element).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(ours.len() + theirs.len());
    let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
    loop {
        let next = match (theirs.peek(), ours.peek()) {
            (None, None) => return Ok(out),
            (Some(_), None) => theirs.next(),
            (None, Some(_)) => ours.next(),
            (Some(their), Some(our)) => match (at(server, their), at(server, our)) {
                (Some(their), Some(our)) if their < our => theirs.next(),
                _ => ours.next(),
            },
        };
        out.extend(next);
    }
}

/// An error unless the elements of the patch stand in the order that it gives.
pub(super) fn check_order(patch: &[Value], order: &[Value], key: &str) -> Result<(), Error> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for element in patch.iter().filter(|v| directive(v).is_none()) {
        if !rest.any(|v| same(v, element, key)) {
            return Err(refuse("", "its elements do not stand in the order that the patch gives"));
        }
    }
    Ok(())
}

/// Both lists, each scalar once.
fn union(first: &[Value], second: &[Value]) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::with_capacity(first.len() + second.len());
    for element in first.iter().chain(second) {
        if !out.contains(element) {
            out.push(element.clone());
        }
    }
    out
}

fn same(one: &Value, other: &Value, key: &str) -> bool {
    if key.is_empty() { one == other } else { one.get(key) == other.get(key) }
}

fn id<'a>(element: &'a Value, key: &str) -> Result<&'a Value, Error> {
    element.get(key).ok_or_else(|| refuse(key, "an element lacks its merge key"))
}

fn directive(element: &Value) -> Option<&str> {
    element.get("$patch").map(|directive| directive.as_str().unwrap_or_default())
}
