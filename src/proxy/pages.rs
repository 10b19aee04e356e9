//! The objects of a list that is kept, read page by page: little memory however long the list is.

use std::collections::VecDeque;

use super::replay::Wanted;
use crate::cache::{Cache, CacheError, Object, Reader, SECRETS, Scope, ScopeId, is_newer};

/// Objects read from the disk at once: little memory, few look-ups.
const PAGE: usize = 64;

/// What is wanted of a kept list, in the order of namespace and name.
#[derive(Debug)]
pub struct Kept {
    cache: Cache,
    scope: ScopeId,
    /// Of the cache when this began: rows mean something else once everything was removed.
    epoch: u64,
    wanted: Wanted,
    /// The rows that are still to be read; sorted once, since sorting at each page makes long lists slow.
    rows: Option<VecDeque<i64>>,
}

impl Kept {
    /// Reads what is `wanted` of `scope`.
    pub fn new(cache: Cache, scope: ScopeId, wanted: Wanted) -> Self {
        let epoch = cache.epoch();
        Self { cache, scope, epoch, wanted, rows: None }
    }

    /// The next page, which may hold nothing of what is wanted; `None` after the last. What was removed since the
    /// first page is left out; what came since is not in any.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<Object>>, CacheError> {
        let scope = self.scope;
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => {
                let members = self.cache.read(move |reader| reader.members(scope)).await?;
                none.insert(members.into())
            }
        };
        if rows.is_empty() {
            return Ok(None);
        }
        let next: Vec<i64> = rows.drain(..rows.len().min(PAGE)).collect();
        let wanted = self.wanted.clone();
        let page = self.cache.read(move |reader| read(reader, scope, &next, &wanted)).await?;
        if self.cache.epoch() != self.epoch {
            return Err(CacheError::Refused("the cache was emptied meanwhile".to_owned()));
        }
        Ok(Some(page.into_iter().map(|object| object.shown_to(&self.wanted.identity)).collect()))
    }
}

/// What is wanted of these rows of a scope. A list without what its reader was not told would not be one.
fn read(reader: &Reader, scope: ScopeId, rows: &[i64], wanted: &Wanted) -> Result<Vec<Object>, CacheError> {
    let mut objects = reader.objects(scope, rows)?;
    objects.retain(|object| wanted.matches(object));
    for object in &objects {
        // Each as it was read: its reader may be told the next version in between.
        if !reader.is_told(scope, object)? {
            return Err(is_newer(&object.key));
        }
    }
    Ok(objects)
}

/// Whether all that is wanted of a list can be shown, before any of it is. Reads none but what its reader was not told,
/// and of that one at a time: a namespace's Secrets may be many and large.
///
/// # Errors
/// When the cache cannot be read; [`is_newer`].
pub fn check_told(reader: &Reader, scope: &Scope, wanted: &Wanted) -> Result<(), CacheError> {
    if scope.key.resource != SECRETS {
        return Ok(());
    }
    for row in reader.untold(scope.id)? {
        if let Some(object) = reader.objects(scope.id, &[row])?.iter().find(|object| wanted.matches(object)) {
            return Err(is_newer(&object.key));
        }
    }
    Ok(())
}
