//! Edits that wait to be told, when the cloud's own news takes the place of the object that they were made to.

use serde_json::Value;

use super::{Cache, CacheError, Change, Object, Writer};

/// What a change begins with and says, with its row. No body is the difference of what is kept from what it begins with.
pub type Rebased = (i64, Value, Option<Value>);

/// Moves changes of one part of an object, in their order, onto what the cloud has of it now; the last is what is kept.
/// What such a difference is, the cache does not know.
pub type Rebase = fn(&Object, &[&Change], &Value) -> Result<Vec<Rebased>, CacheError>;

impl Cache {
    /// From now on edits are moved by `rebase`. The first one holds.
    pub fn rebase_by(&self, rebase: Rebase) {
        let _ = self.shared.rebase.set(rebase);
    }
}

impl Writer {
    /// The cloud's `object` is to take the place of what is kept, from which patches that wait may be told: each is fixed
    /// before to what it says beside the cloud's news.
    ///
    /// # Errors
    /// The statement's.
    pub(super) fn keep_edits(&self, object: &Object) -> Result<(), CacheError> {
        let (key, uid) = (&object.key, &object.uid);
        let Some(rebase) = self.rebase.get() else { return Ok(()) };
        if !self.is_edited(key, uid)? {
            return Ok(());
        }
        let Some((_, known)) = self.object(key)?.filter(|(_, known)| known.uid == *uid) else {
            return Ok(());
        };
        let edits = self.edits(key, uid)?;
        for (at, change) in edits.iter().enumerate() {
            let part = &change.what.subresource;
            // Each part of the object is told by itself, and what is told of it goes in its order.
            if edits[..at].iter().any(|before| before.what.subresource == *part) {
                continue;
            }
            let of_part: Vec<_> = edits[at..].iter().filter(|edit| edit.what.subresource == *part).collect();
            match rebase(object, &of_part, &known.body) {
                Ok(moved) => moved
                    .iter()
                    .try_for_each(|(id, base, body)| self.rewrite_edit(*id, base, body.as_ref()))?,
                // What the cloud has is kept all the same.
                Err(error) => {
                    tracing::error!(object = %key, %error, "cannot keep a change made here beside what the cloud has");
                }
            }
        }
        Ok(())
    }
}
