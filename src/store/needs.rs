//! Who needs a blob and what a manifest needs: pins, closures, the names that lead to it, what is damaged.

use super::error::During;
use super::{Error, Kind, Store, blob};
use crate::sys::digest::Digest;

/// A manifest and all that it links to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// Bytes that are here, each blob once.
    pub bytes: u64,
    /// Blobs and manifests that it links to and that are not here.
    pub absent: u64,
}

impl Store {
    /// Sets what `holder` needs whatever refs say, in place of what it needed before. Digests that are
    /// not here are left out.
    ///
    /// # Errors
    /// Where the database cannot be written to.
    pub fn set_pins(&self, holder: &str, digests: Vec<Digest>) -> Result<(), Error> {
        let holder = holder.to_owned();
        self.inner.writer.write(move |batch| {
            batch.tx.execute("DELETE FROM pin WHERE holder = ?1", [&holder]).during("remove pins")?;
            for digest in digests {
                if let Some(blob) = blob::here(batch.tx, &digest)? {
                    batch
                        .tx
                        .execute("INSERT OR IGNORE INTO pin (holder, blob) VALUES (?1, ?2)", (&holder, blob))
                        .during("pin a blob")?;
                }
            }
            Ok(())
        })
    }

    /// How large a manifest is with all that it links to.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn closure(&self, digest: &Digest) -> Result<Closure, Error> {
        self.inner.readers.read(|c| {
            c.prepare_cached(
                "WITH RECURSIVE below (id) AS (SELECT id FROM blob WHERE digest = ?1
                   UNION SELECT l.child FROM link l JOIN below ON l.parent = below.id)
                 SELECT coalesce(sum(iif(b.state = 1, b.size, 0)), 0), coalesce(sum(b.state <> 1), 0)
                 FROM below JOIN blob b ON b.id = below.id",
            )
            .and_then(|mut q| {
                q.query_row([digest.as_str()], |row| Ok(Closure { bytes: row.get(0)?, absent: row.get(1)? }))
            })
            .during("size a manifest")
        })
    }

    /// The repositories that a blob or manifest may be fetched through, here or not.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn places_of(&self, digest: &Digest) -> Result<Vec<(String, Kind)>, Error> {
        self.inner.readers.read(|c| {
            let mut query = c
                .prepare_cached(
                    "SELECT r.name, m.kind FROM member m JOIN repository r ON r.id = m.repository
                     WHERE m.blob = (SELECT id FROM blob WHERE digest = ?1) ORDER BY r.name, m.kind DESC",
                )
                .during("find the repositories of a blob")?;
            let kind = |kind: i64| if kind == blob::MANIFEST { Kind::Manifest } else { Kind::Blob };
            let rows = query
                .query_map([digest.as_str()], |row| Ok((row.get(0)?, kind(row.get(1)?))))
                .during("find the repositories of a blob")?;
            rows.collect::<Result<_, _>>().during("find the repositories of a blob")
        })
    }

    /// Blobs that were set aside as damaged or whose file was gone, and that nothing has brought back yet.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn damaged(&self) -> Result<Vec<Digest>, Error> {
        self.inner.readers.read(|c| {
            let mut query = c
                .prepare_cached("SELECT digest FROM blob WHERE state = 2 ORDER BY digest")
                .during("list damaged blobs")?;
            let rows = query.query_map([], |row| row.get::<_, String>(0)).during("list damaged blobs")?;
            let mut damaged = Vec::new();
            for row in rows {
                damaged.extend(row.during("list damaged blobs")?.parse::<Digest>().ok());
            }
            Ok(damaged)
        })
    }

    /// Who needs a manifest or blob: refs, as `repository:tag`, and pins, as `pin of <holder>`, in any generation kept.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn needed_by(&self, digest: &Digest) -> Result<Vec<String>, Error> {
        self.inner.readers.read(|c| {
            let mut query = c
                .prepare_cached(
                    "WITH RECURSIVE above (id) AS (SELECT id FROM blob WHERE digest = ?1
                       UNION SELECT l.parent FROM link l JOIN above ON l.child = above.id)
                     SELECT DISTINCT r.name || iif(instr(f.name, ':'), '@', ':') || f.name FROM above
                       JOIN ref f ON f.blob = above.id JOIN repository r ON r.id = f.repository
                     UNION SELECT 'pin of ' || p.holder FROM above JOIN pin p ON p.blob = above.id
                     UNION SELECT 'chart ' || c.name || '-' || c.version FROM above
                       JOIN chart c ON c.blob = above.id OR c.provenance = above.id",
                )
                .during("find who needs a blob")?;
            let rows =
                query.query_map([digest.as_str()], |row| row.get(0)).during("find who needs a blob")?;
            rows.collect::<Result<_, _>>().during("find who needs a blob")
        })
    }
}
