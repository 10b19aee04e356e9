//! What was changed here and waits to be told to the cloud: how changes of one object add up, and when each ends with
//! what it says.

use serde_json::Value;

use super::difference::told;
use crate::cache::{
    Author, CacheError, Change, ChangeKind, FieldManager, NewChange, Object, ObjectKey, Writer,
};

/// Edits of one object by one author add up: the first keeps the cloud's object, later ones find it kept. What another
/// has told before ends with what it told, so that each is told in its author's name, and in their order.
pub fn keep_change(
    writer: &Writer,
    author: &Author,
    key: &ObjectKey,
    subresource: &str,
    base: &Object,
    now: &Object,
) -> Result<(), CacheError> {
    if let Some(waiting) = writer.waiting(ChangeKind::Create, key, "")? {
        return writer.rewrite_change(waiting.id, now.body.to_string().as_bytes());
    }
    let mut waiting = writer.patches(key, subresource)?;
    let last = waiting
        .pop_if(|last| last.what.author == *author && last.what.uid == base.uid && last.what.body.is_none());
    for one in &waiting {
        if one.what.author == *author && one.what.uid != base.uid {
            writer.drop_change(one.id)?;
        } else {
            end_change(writer, one, base)?;
        }
    }
    if last.is_some() {
        return Ok(());
    }
    writer.push_change(&NewChange {
        kind: ChangeKind::Patch,
        key: key.clone(),
        uid: base.uid.clone(),
        subresource: subresource.to_owned(),
        author: author.clone(),
        manager: None,
        base: Some(base.body.to_string().into_bytes()),
        body: None,
    })?;
    Ok(())
}

/// What is applied is all that its manager wants: the last of it is told, behind what others told before.
pub fn keep_applied(
    writer: &Writer,
    author: &Author,
    manager: &FieldManager,
    key: &ObjectKey,
    subresource: &str,
    base: &Object,
    applied: &Value,
) -> Result<(), CacheError> {
    let mut before = None;
    for one in writer.patches(key, subresource)? {
        let own = one.what.author == *author;
        let replaced = one.what.manager.as_ref().is_some_and(|m| m.name == manager.name);
        if own && (replaced || one.what.uid != base.uid) {
            writer.drop_change(one.id)?;
            before = before.or(one.what.base.filter(|_| replaced && one.what.uid == base.uid));
        } else {
            end_change(writer, &one, base)?;
        }
    }
    writer.push_change(&NewChange {
        kind: ChangeKind::Apply,
        key: key.clone(),
        uid: base.uid.clone(),
        subresource: subresource.to_owned(),
        author: author.clone(),
        manager: Some(manager.clone()),
        base: before.or_else(|| Some(base.body.to_string().into_bytes())),
        body: Some(applied.to_string().into_bytes()),
    })?;
    Ok(())
}

/// The status is told before the deletion: a Job counts its pods by it. Its difference is computed
/// now, for the object will not be there later.
pub fn keep_last_status(writer: &Writer, key: &ObjectKey, known: &Object) -> Result<(), CacheError> {
    for waiting in writer.patches(key, "status")? {
        end_change(writer, &waiting, known)?;
    }
    Ok(())
}

/// Fixes what a change will send to what it is now, whatever becomes of the object.
pub fn end_change(writer: &Writer, waiting: &Change, now: &Object) -> Result<(), CacheError> {
    if waiting.what.body.is_some() || waiting.what.uid != now.uid {
        return Ok(());
    }
    let base = waiting.what.base.as_deref().unwrap_or_default();
    let base: Value = serde_json::from_slice(base)
        .map_err(|source| CacheError::Body { key: now.key.to_string(), source })?;
    match told(&waiting.what, &base, &now.body)? {
        Some(patch) => writer.rewrite_change(waiting.id, patch.to_string().as_bytes()),
        None => writer.drop_change(waiting.id),
    }
}
