//! What the cloud has let clients write: in an outage the same is taken of them here.

use rusqlite::params;

use super::{CacheError, Writer};

/// Rights kept of one identity. An agent has a handful, an operator some for each namespace.
const OWN: usize = 256;
/// Rights kept in all.
const ALL: usize = 4096;
/// Of this many, one goes when there are too many.
const LUMP: usize = 10;

/// What the cloud lets a client write: a part of the objects of a resource in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Right {
    /// Such as `v1/pods`.
    pub resource: String,
    /// Empty for what has none.
    pub namespace: String,
    /// Such as `status`.
    pub subresource: String,
}

impl Right {
    /// Namespace and subresource, as one column has them.
    fn place(&self) -> String {
        format!("{}/{}", self.namespace, self.subresource)
    }
}

impl Writer {
    /// The cloud has let `identity` write this part of a resource in this namespace. Where there are too many, some make
    /// room: they are noted again when they are used again.
    ///
    /// # Errors
    /// The statement's.
    pub fn note_written(&self, identity: &str, right: &Right) -> Result<(), CacheError> {
        let of = [identity, &right.resource, &right.place()];
        let is_new = self
            .db()
            .prepare_cached(
                "INSERT OR IGNORE INTO written (identity, resource, subresource) VALUES (?, ?, ?)",
            )?
            .execute(of)?;
        if is_new == 0 {
            return Ok(());
        }
        for (whose, most) in [("identity = ?1", OWN), ("true", ALL)] {
            let sql = format!("SELECT count(*) FROM written WHERE ?1 = ?1 AND {whose}");
            let count: usize = self.db().prepare_cached(&sql)?.query_row([identity], |row| row.get(0))?;
            if count > most {
                let sql = format!(
                    "DELETE FROM written WHERE (identity, resource, subresource) IN
                     (SELECT identity, resource, subresource FROM written WHERE {whose}
                      AND (identity, resource, subresource) <> (?1, ?2, ?3) LIMIT ?4)"
                );
                let (some, [identity, resource, place]) = (count - most + most / LUMP, of);
                self.db().prepare_cached(&sql)?.execute(params![identity, resource, place, some])?;
            }
        }
        Ok(())
    }

    /// The cloud does not let it any more.
    ///
    /// # Errors
    /// The statement's.
    pub fn forget_written(&self, identity: &str, right: &Right) -> Result<(), CacheError> {
        self.db()
            .prepare_cached("DELETE FROM written WHERE identity = ? AND resource = ? AND subresource = ?")?
            .execute([identity, &right.resource, &right.place()])?;
        Ok(())
    }

    /// Whether the cloud has ever let `identity` write this part of a resource, and not refused it since.
    ///
    /// # Errors
    /// The statement's.
    pub fn has_written(&self, identity: &str, right: &Right) -> Result<bool, CacheError> {
        let sql = "SELECT 1 FROM written WHERE identity = ? AND resource = ? AND subresource = ?";
        Ok(self.db().prepare_cached(sql)?.exists([identity, &right.resource, &right.place()])?)
    }

    /// Forgets what those might write of whom no token is known any more, nor anything that they have read: in an outage
    /// nobody goes by their names.
    ///
    /// # Errors
    /// The statement's.
    pub fn forget_rights(&self) -> Result<usize, CacheError> {
        let sql = "DELETE FROM written WHERE identity NOT IN
                   (SELECT identity FROM caller UNION SELECT name FROM identity)";
        Ok(self.db().execute(sql, [])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Cache, Purpose};

    fn right(namespace: &str) -> Right {
        let (resource, subresource) = ("v1/pods".into(), "status".into());
        Right { resource, namespace: namespace.into(), subresource }
    }

    #[tokio::test]
    async fn rights_have_a_bound_and_go_with_whom_they_were_of() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let job = |writer: &mut Writer| {
            let count = |writer: &Writer| -> Result<usize, CacheError> {
                Ok(writer.db().query_row("SELECT count(*) FROM written", [], |row| row.get(0))?)
            };
            writer.note_written("other", &right("a"))?;
            for n in 0..3 * OWN {
                let new = right(&n.to_string());
                writer.note_written("greedy", &new)?;
                assert!(writer.has_written("greedy", &new)?);
            }
            assert!(writer.has_written("other", &right("a"))?, "another's stays");
            let kept = count(writer)?;
            assert!((OWN / 2..=OWN + 1).contains(&kept), "{kept} rights of one");
            for n in 0..ALL + ALL / 2 {
                writer.note_written(&format!("token:{n}"), &right("a"))?;
            }
            let kept = count(writer)?;
            assert!((ALL / 2..=ALL).contains(&kept), "{kept} rights in all");
            writer.note_written("known", &right("a"))?;
            writer.note_written("reads", &right("a"))?;
            writer.accept_caller("00ff", "known", &Purpose::default())?;
            writer.identity_row("reads")?;
            writer.forget_rights()?;
            assert!(writer.has_written("known", &right("a"))? && writer.has_written("reads", &right("a"))?);
            count(writer)
        };
        assert_eq!(cache.commit(job).await.unwrap(), 2);
    }
}
