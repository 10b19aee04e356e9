//! Refs: which manifest a name stands for, and whose word that is.

use std::fmt;

use rusqlite::{Connection, OptionalExtension};

use super::error::During;
use super::{Error, Store, blob, untagged};
use crate::sys::clock;
use crate::sys::digest::Digest;

/// Whose a ref is. The order is that of precedence.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A stream of signed bundles.
    Bundle(String),
    /// The mirror.
    Mirror,
    /// What clients asked for and an upstream had.
    PullThrough,
    /// What clients pushed.
    Push,
}

impl Owner {
    pub(super) fn kind(&self) -> i64 {
        match self {
            Self::Bundle(_) => 0,
            Self::Mirror => 1,
            Self::PullThrough => 2,
            Self::Push => 3,
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Bundle(stream) => stream,
            _ => "",
        }
    }

    pub(super) fn from_row(kind: i64, name: String) -> Option<Self> {
        match kind {
            0 => Some(Self::Bundle(name)),
            1 => Some(Self::Mirror),
            2 => Some(Self::PullThrough),
            3 => Some(Self::Push),
            _ => None,
        }
    }

    /// Its row and the generation in force; made where it is new.
    pub(super) fn row(&self, tx: &Connection) -> Result<(i64, u64), Error> {
        tx.prepare_cached(
            "INSERT INTO owner (kind, name, current) VALUES (?1, ?2, 0)
             ON CONFLICT (kind, name) DO UPDATE SET kind = ?1 RETURNING id, current",
        )
        .and_then(|mut q| q.query_row((self.kind(), self.name()), |row| Ok((row.get(0)?, row.get(1)?))))
        .during("find an owner")
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(stream) => write!(f, "bundle stream `{stream}`"),
            Self::Mirror => f.write_str("mirror"),
            Self::PullThrough => f.write_str("pull-through"),
            Self::Push => f.write_str("push"),
        }
    }
}

/// One effective name of a repository.
#[derive(Clone, Debug)]
pub struct Ref {
    /// `<host>/<path>`.
    pub repository: String,
    /// A tag, or a digest.
    pub name: String,
    /// What it stands for.
    pub digest: Digest,
    /// Whose it is.
    pub owner: Owner,
    /// Bytes of the manifest.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// When it was set, in seconds since 1970.
    pub stored: i64,
    /// When it was last used, in seconds since 1970, an hour more or less.
    pub used: i64,
}

impl Ref {
    /// `repository:tag`, or with an `@` and the digest.
    pub fn written(&self) -> String {
        let between = if self.name.contains(':') { '@' } else { ':' };
        format!("{}{between}{}", self.repository, self.name)
    }
}

/// A repository and how many names it has.
#[derive(Clone, Debug)]
pub struct Repository {
    /// `<host>/<path>`.
    pub name: String,
}

const EFFECTIVE: &str = "ref f JOIN owner o ON o.id = f.owner AND o.current = f.generation";

impl Store {
    /// The tags of `repository` in order, those after `after`, at most `limit`. `None` where there is no
    /// such repository.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn tags(&self, repository: &str, after: &str, limit: usize) -> Result<Option<Vec<String>>, Error> {
        self.inner.readers.read(|c| {
            let id: Option<i64> = c
                .prepare_cached("SELECT id FROM repository r WHERE name = ?1 AND EXISTS (SELECT 1 FROM member m WHERE m.repository = r.id)",)
                .and_then(|mut q| q.query_row([repository], |row| row.get(0)).optional())
                .during("find a repository")?;
            let Some(id) = id else { return Ok(None) };
            let sql = format!(
                "SELECT DISTINCT f.name FROM {EFFECTIVE} WHERE f.repository = ?1 AND f.name > ?2
                 AND instr(f.name, ':') = 0 ORDER BY f.name LIMIT ?3"
            );
            let mut query = c.prepare_cached(&sql).during("list tags")?;
            let rows = query.query_map((id, after, limit), |row| row.get(0)).during("list tags")?;
            rows.collect::<Result<_, _>>().map(Some).during("list tags")
        })
    }

    /// Repositories that hold something, in order, those after `after`, at most `limit`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn repositories(&self, after: &str, limit: usize) -> Result<Vec<Repository>, Error> {
        self.inner.readers.read(|c| {
            let mut query = c
                .prepare_cached(
                    "SELECT name FROM repository r WHERE name > ?1 AND EXISTS
                     (SELECT 1 FROM member m WHERE m.repository = r.id) ORDER BY name LIMIT ?2",
                )
                .during("list repositories")?;
            let rows = query
                .query_map((after, limit), |row| Ok(Repository { name: row.get(0)? }))
                .during("list repositories")?;
            rows.collect::<Result<_, _>>().during("list repositories")
        })
    }

    /// The effective refs of one repository, or of all, in order.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn refs(&self, repository: Option<&str>) -> Result<Vec<Ref>, Error> {
        let mut refs = Vec::new();
        self.each_ref(repository, |found| {
            refs.push(found);
            Ok::<_, Error>(())
        })?;
        Ok(refs)
    }

    /// Hands `each` the effective refs of one repository, or of all, in order and as they are at one moment.
    ///
    /// # Errors
    /// Where the database cannot be read, and what `each` says.
    pub fn each_ref<E: From<Error>>(
        &self,
        repository: Option<&str>,
        mut each: impl FnMut(Ref) -> Result<(), E>,
    ) -> Result<(), E> {
        let filter = if repository.is_some() { "r.name = ?1" } else { "?1 IS NULL" };
        // In the order of two indexes, so that nothing is sorted in memory; who goes before is picked out below.
        let sql = format!(
            "SELECT r.name, f.name, b.digest, o.kind, o.name, b.size, m.media_type, f.stored, f.used
             FROM repository r CROSS JOIN ref f ON f.repository = r.id
             CROSS JOIN owner o ON o.id = f.owner AND o.current = f.generation
             CROSS JOIN blob b ON b.id = f.blob CROSS JOIN manifest m ON m.blob = b.id
             WHERE {filter} ORDER BY r.name, f.name"
        );
        let same = |a: &Ref, b: &Ref| a.repository == b.repository && a.name == b.name;
        self.inner.readers.read(|c| {
            let mut query = c.prepare_cached(&sql).during("list refs")?;
            let rows = query.query([repository]).during("list refs")?;
            each_first(rows, ref_of, same, |found| &found.owner, &mut each)
        })?
    }

    /// Removes a tag on behalf of `by`. False where there is no such tag.
    ///
    /// # Errors
    /// [`Error::Owned`] where it belongs to somebody who goes before.
    pub fn remove_tag(&self, repository: &str, tag: &str, by: &Owner) -> Result<bool, Error> {
        let (repository, tag, by) = (repository.to_owned(), tag.to_owned(), by.clone());
        let removed = self.inner.writer.write(move |batch| {
            let id = blob::repository_id(batch.tx, &repository)?;
            refuse_owned(batch.tx, &repository, id, &by, "f.name = ?2", &tag)?;
            batch
                .tx
                .execute(
                    "DELETE FROM ref WHERE repository = ?1 AND name = ?2 AND EXISTS
                     (SELECT 1 FROM owner o WHERE o.id = ref.owner AND o.current = ref.generation)",
                    (id, &tag),
                )
                .during("remove a tag")
        })?;
        self.changed();
        Ok(removed > 0)
    }

    /// Removes a manifest from `repository`, with all its tags there, on behalf of `by`. False where it is
    /// not there. Its bytes go when nobody needs them.
    ///
    /// # Errors
    /// [`Error::Owned`] where a tag belongs to somebody who goes before, [`Error::Needed`] where an index of theirs links
    /// to it.
    pub fn remove_manifest(&self, repository: &str, digest: &Digest, by: &Owner) -> Result<bool, Error> {
        let (repository, digest, by) = (repository.to_owned(), digest.clone(), by.clone());
        let removed = self.inner.writer.write(move |batch| {
            let id = blob::repository_id(batch.tx, &repository)?;
            let filter = "f.blob = (SELECT id FROM blob WHERE digest = ?2)";
            refuse_owned(batch.tx, &repository, id, &by, filter, digest.as_str())?;
            refuse_needed(batch.tx, (&repository, id), &digest, &by)?;
            let blob = "(SELECT id FROM blob WHERE digest = ?2)";
            batch
                .tx
                .execute(
                    &format!(
                        "DELETE FROM ref WHERE repository = ?1 AND blob = {blob} AND EXISTS
                         (SELECT 1 FROM owner o WHERE o.id = ref.owner AND o.current = ref.generation)"
                    ),
                    (id, digest.as_str()),
                )
                .during("remove a manifest's tags")?;
            untagged::forget(batch.tx)?;
            batch
                .tx
                .execute(
                    &format!("DELETE FROM member WHERE repository = ?1 AND kind = 1 AND blob = {blob}"),
                    (id, digest.as_str()),
                )
                .during("remove a manifest")
        })?;
        self.changed();
        Ok(removed > 0)
    }
}

/// Hands `each` one of all rows that stand together and are the `same`: that of the owner who goes before.
pub(super) fn each_first<T, E>(
    mut rows: rusqlite::Rows<'_>,
    of: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<Option<T>>,
    same: impl Fn(&T, &T) -> bool,
    owner: impl Fn(&T) -> &Owner,
    each: &mut impl FnMut(T) -> Result<(), E>,
) -> Result<Result<(), E>, Error> {
    let mut first: Option<T> = None;
    while let Some(row) = rows.next().during("list what is in force")? {
        let Some(found) = of(row).during("list what is in force")? else { continue };
        match first.as_mut().filter(|first| same(first, &found)) {
            Some(first) if owner(&found) < owner(first) => *first = found,
            Some(_) => {}
            None => {
                if let Some(Err(stopped)) = first.replace(found).map(&mut *each) {
                    return Ok(Err(stopped));
                }
            }
        }
    }
    Ok(first.map_or(Ok(()), each))
}

fn ref_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Ref>> {
    let digest: String = row.get(2)?;
    let owner = Owner::from_row(row.get(3)?, row.get(4)?);
    let (Ok(digest), Some(owner)) = (digest.parse(), owner) else { return Ok(None) };
    Ok(Some(Ref {
        repository: row.get(0)?,
        name: row.get(1)?,
        digest,
        owner,
        size: row.get(5)?,
        media_type: row.get(6)?,
        stored: row.get(7)?,
        used: row.get(8)?,
    }))
}

/// Owners of a lower kind go before `by`. Push and pull-through may remove what the other put there: both are clients'
/// doings.
fn least_before(by: &Owner) -> i64 {
    by.kind().min(2)
}

/// Refuses where a manifest or blob is part of what one before `by` has in the repository, given by name and row. What
/// holds in an earlier generation counts too: it may be put in force again, whole.
pub(super) fn refuse_needed(
    tx: &Connection,
    (repository, id): (&str, i64),
    digest: &Digest,
    by: &Owner,
) -> Result<(), Error> {
    let needed = tx
        .prepare_cached(
            "WITH RECURSIVE above (id) AS (SELECT id FROM blob WHERE digest = ?2
               UNION SELECT l.parent FROM link l JOIN above ON l.child = above.id)
             SELECT f.name, o.kind, o.name FROM above JOIN ref f ON f.blob = above.id JOIN owner o ON o.id = f.owner
             WHERE f.repository = ?1 AND o.kind < ?3 LIMIT 1",
        )
        .and_then(|mut q| q.query_row((id, digest.as_str(), least_before(by)), named_owner).optional())
        .during("find who needs a blob")?;
    match needed {
        Some((name, owner)) => {
            let between = if name.contains(':') { '@' } else { ':' };
            Err(Error::Needed { digest: digest.clone(), name: format!("{repository}{between}{name}"), owner })
        }
        None => Ok(()),
    }
}

/// A name and whose it is.
fn named_owner(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, String)> {
    let owner = Owner::from_row(row.get(1)?, row.get(2)?);
    Ok((row.get(0)?, owner.map_or_else(|| "somebody else".into(), |owner| owner.to_string())))
}

/// Refuses where a name that `filter` (over `f`, with the value as `?2`) selects belongs to one before `by`.
fn refuse_owned(
    tx: &Connection,
    repository: &str,
    id: i64,
    by: &Owner,
    filter: &str,
    value: &str,
) -> Result<(), Error> {
    let least = least_before(by);
    let sql = format!(
        "SELECT f.name, o.kind, o.name FROM {EFFECTIVE} WHERE f.repository = ?1 AND {filter} AND o.kind < ?3 LIMIT 1"
    );
    let owned = tx
        .prepare_cached(&sql)
        .and_then(|mut q| q.query_row((id, value, least), named_owner).optional())
        .during("find an owner")?;
    match owned {
        Some((name, owner)) => Err(Error::Owned { repository: repository.to_owned(), name, owner }),
        None => Ok(()),
    }
}

/// Refuses to set `tag` for `by` where somebody who goes before has it: the change would not be seen. A fetch that was
/// under way would hide what was pushed meanwhile, and is refused too, unless that was lost.
pub(super) fn may_change(
    tx: &Connection,
    repository: &str,
    id: i64,
    tag: &str,
    by: &Owner,
) -> Result<(), Error> {
    refuse_owned(tx, repository, id, by, "f.name = ?2", tag)?;
    if *by != Owner::PullThrough {
        return Ok(());
    }
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM {EFFECTIVE} JOIN blob b ON b.id = f.blob AND b.state = 1
         WHERE f.repository = ?1 AND f.name = ?2 AND o.kind = ?3)"
    );
    let pushed: bool = tx
        .prepare_cached(&sql)
        .and_then(|mut q| q.query_row((id, tag, Owner::Push.kind()), |row| row.get(0)))
        .during("find an owner")?;
    match pushed {
        true => Err(Error::Owned {
            repository: repository.to_owned(),
            name: tag.to_owned(),
            owner: Owner::Push.to_string(),
        }),
        false => Ok(()),
    }
}

/// Points a name at a manifest in the owner's generation in force.
pub(super) fn set(
    tx: &Connection,
    repository: i64,
    name: &str,
    manifest: i64,
    owner: &Owner,
) -> Result<(), Error> {
    let (owner_id, generation) = owner.row(tx)?;
    if *owner == Owner::Push {
        // What was pulled through before would hide what is pushed now.
        tx.prepare_cached(
            "DELETE FROM ref WHERE repository = ?1 AND name = ?2 AND owner IN (SELECT id FROM owner WHERE kind = 2)",
        )
        .and_then(|mut q| q.execute((repository, name)))
        .during("set a ref")?;
    }
    tx.prepare_cached(
        "INSERT OR REPLACE INTO ref (repository, name, owner, generation, blob, stored, used)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
    )
    .and_then(|mut q| q.execute((repository, name, owner_id, generation, manifest, clock::now().as_second())))
    .during("set a ref")?;
    Ok(())
}
