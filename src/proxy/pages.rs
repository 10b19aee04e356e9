//! The objects of a list that is kept, read page by page: little memory however long the list is.

use super::replay::Wanted;
use crate::cache::{Cache, CacheError, Object, ObjectKey, ScopeId};

/// Objects read from the disk at once: little memory, few look-ups.
const PAGE: usize = 64;

/// What is wanted of a kept list, in the order of namespace and name.
#[derive(Debug)]
pub struct Kept {
    cache: Cache,
    scope: ScopeId,
    wanted: Wanted,
    after: Option<ObjectKey>,
    ended: bool,
}

impl Kept {
    /// Reads what is `wanted` of `scope`.
    pub fn new(cache: Cache, scope: ScopeId, wanted: Wanted) -> Self {
        Self { cache, scope, wanted, after: None, ended: false }
    }

    /// The next page, which may hold nothing of what is wanted; `None` after the last.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<Object>>, CacheError> {
        if self.ended {
            return Ok(None);
        }
        let (scope, after) = (self.scope, self.after.take());
        let mut page = self.cache.read(move |reader| reader.page(scope, after.as_ref(), PAGE)).await?;
        self.ended = page.len() < PAGE;
        self.after = page.last().map(|object| object.key.clone());
        page.retain(|object| self.wanted.matches(object));
        Ok(Some(page))
    }
}
