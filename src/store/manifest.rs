//! Manifests: blobs that link to others. What they say comes from the caller; their bytes are kept as they came.

use rusqlite::{Connection, OptionalExtension, Row};

use super::blob::{self, BLOB, MANIFEST};
use super::error::During;
use super::refs::{self, Owner};
use super::untagged;
use super::writer::Batch;
use super::{Blob, Error, Ready, Store};
use crate::sys::digest::Digest;
use crate::sys::facts::{Facts, Kind};

/// What to do about links to blobs that are not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// A manifest without its configuration or layers is refused; manifests of an index may be missing.
    Refused,
    /// Anything may be missing: pull-through fetches it when asked for it, a sparse push may never bring it.
    Allowed,
}

/// A manifest to store.
#[derive(Debug)]
pub struct NewManifest<'a> {
    /// `<host>/<path>`.
    pub repository: &'a str,
    /// The tag to set; without one the manifest is kept under its digest.
    pub tag: Option<&'a str>,
    /// Its bytes, as they came.
    pub bytes: &'a [u8],
    /// What they hash to.
    pub digest: &'a Digest,
    /// What they say.
    pub facts: Facts,
    /// Who stores it.
    pub owner: Owner,
    /// What may be missing.
    pub absent: Absent,
    /// Without a tag: somebody asked for it by its digest, which keeps it whatever index links to it, for as long as
    /// nobody removes it.
    pub asked: bool,
}

/// A manifest that is here.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its bytes.
    pub blob: Blob,
    /// Its media type.
    pub media_type: String,
    /// Whose ref led to it; `None` where it was asked for by digest.
    pub owner: Option<Owner>,
}

/// One manifest that is about another.
#[derive(Clone, Debug)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// What the filter compares.
    pub artifact_type: Option<String>,
    /// A JSON object.
    pub annotations: Option<String>,
}

impl Store {
    /// Stores a manifest and points its tag (or its digest) at it.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] for a missing blob, [`Error::Owned`] for a tag of somebody who goes before.
    pub fn put_manifest(&self, new: NewManifest<'_>) -> Result<(), Error> {
        let ready = self.stage(new.digest, new.bytes)?;
        let (repository, tag) = (new.repository.to_owned(), new.tag.map(str::to_owned));
        let NewManifest { facts, owner, absent, asked, .. } = new;
        let store = self.clone();
        let id = self.settle(ready, move |batch, ready| {
            let repository_id = blob::repository_id(batch.tx, &repository)?;
            if let Some(tag) = &tag {
                refs::may_change(batch.tx, &repository, repository_id, tag, &owner)?;
            }
            let id = store.note_manifest(batch, ready, &facts, absent)?;
            add_closure(batch.tx, repository_id, id)?;
            match &tag {
                Some(tag) => refs::set(batch.tx, repository_id, tag, id, &owner)?,
                None => untagged::keep(batch.tx, (repository_id, id), &ready.digest, &owner, asked)?,
            }
            untagged::drop_below(batch.tx, (repository_id, id), &owner)?;
            Ok(id)
        })?;
        self.touch(id);
        self.changed();
        Ok(())
    }

    /// Stores a manifest that refs will point at later, as an import does before it flips them.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`], [`Error::Full`].
    pub fn add_manifest(&self, bytes: &[u8], digest: &Digest, facts: Facts) -> Result<(), Error> {
        let (store, ready) = (self.clone(), self.stage(digest, bytes)?);
        let id = self
            .settle(ready, move |batch, ready| store.note_manifest(batch, ready, &facts, Absent::Allowed))?;
        self.touch(id);
        // Names may lead to it already: it had been set aside.
        self.changed();
        Ok(())
    }

    /// Stores a manifest that is about another one of `repository`, and is found and kept through that one: it has no
    /// name of its own, and goes when its subject does.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`], [`Error::Full`].
    pub fn add_referrer(
        &self,
        repository: &str,
        bytes: &[u8],
        digest: &Digest,
        facts: Facts,
    ) -> Result<(), Error> {
        let (store, repository) = (self.clone(), repository.to_owned());
        let id = self.settle(self.stage(digest, bytes)?, move |batch, ready| {
            let repository = blob::repository_id(batch.tx, &repository)?;
            let id = store.note_manifest(batch, ready, &facts, Absent::Allowed)?;
            add_closure(batch.tx, repository, id)?;
            Ok(id)
        })?;
        self.touch(id);
        self.changed();
        Ok(())
    }

    pub(super) fn note_manifest(
        &self,
        batch: &mut Batch<'_>,
        ready: &Ready,
        facts: &Facts,
        absent: Absent,
    ) -> Result<i64, Error> {
        let mut children = Vec::with_capacity(facts.children.len());
        for child in &facts.children {
            let id = match blob::here(batch.tx, &child.digest)? {
                Some(id) => id,
                None if absent == Absent::Refused && child.kind == Kind::Blob => {
                    return Err(Error::BlobUnknown(child.digest.clone()));
                }
                None => blob::heard_of(batch.tx, &child.digest, child.size)?,
            };
            children.push((id, child.kind));
        }
        let subject = match &facts.subject {
            Some((digest, size)) => Some(blob::heard_of(batch.tx, digest, *size)?),
            None => None,
        };
        let id = self.place(batch, ready)?;
        batch
            .tx
            .prepare_cached(
                "INSERT OR REPLACE INTO manifest (blob, media_type, artifact_type, subject, annotations)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )
            .and_then(|mut q| {
                q.execute((id, &facts.media_type, &facts.artifact_type, subject, &facts.annotations))
            })
            .during("note a manifest")?;
        for (child, kind) in children {
            let kind = if kind == Kind::Manifest { MANIFEST } else { BLOB };
            batch
                .tx
                .prepare_cached("INSERT OR REPLACE INTO link (parent, child, kind) VALUES (?1, ?2, ?3)")
                .and_then(|mut q| q.execute((id, child, kind)))
                .during("note a link")?;
        }
        add_awaited(batch.tx, id)?;
        Ok(id)
    }

    /// The manifest that `name` (a tag or a digest) stands for in `repository`, if it is here.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn manifest(&self, repository: &str, name: &str) -> Result<Option<Manifest>, Error> {
        let found = self.inner.readers.read(|c| match name.parse::<Digest>() {
            Ok(digest) => c
                .prepare_cached(
                    "SELECT b.id, b.digest, b.size, m.media_type, NULL, NULL FROM blob b JOIN manifest m ON m.blob = b.id
                     JOIN member e ON e.blob = b.id AND e.kind = 1 JOIN repository r ON r.id = e.repository
                     WHERE b.digest = ?1 AND b.state = 1 AND r.name = ?2",
                )
                .and_then(|mut q| q.query_row([digest.as_str(), repository], manifest_row).optional())
                .during("find a manifest"),
            Err(_) => c
                .prepare_cached(
                    "SELECT b.id, b.digest, b.size, m.media_type, o.kind, o.name FROM repository r
                     JOIN ref f ON f.repository = r.id AND f.name = ?2
                     JOIN owner o ON o.id = f.owner AND o.current = f.generation
                     JOIN blob b ON b.id = f.blob AND b.state = 1 JOIN manifest m ON m.blob = b.id
                     WHERE r.name = ?1 ORDER BY o.kind, o.name LIMIT 1",
                )
                .and_then(|mut q| q.query_row([repository, name], manifest_row).optional())
                .during("find a manifest"),
        })?;
        let Some((id, digest, size, media_type, owner)) = found else { return Ok(None) };
        let Ok(digest) = digest.parse() else { return Ok(None) };
        self.touch(id);
        Ok(Some(Manifest { blob: self.found(&digest, size), media_type, owner }))
    }

    /// A manifest that is here, whatever repository it came through.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn manifest_of(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        let found = self.inner.readers.read(|c| {
            c.prepare_cached(
                "SELECT b.id, b.digest, b.size, m.media_type, NULL, NULL FROM manifest m
                 JOIN blob b ON b.id = m.blob AND b.state = 1 WHERE b.digest = ?1",
            )
            .and_then(|mut q| q.query_row([digest.as_str()], manifest_row).optional())
            .during("find a manifest")
        })?;
        let Some((id, _, size, media_type, owner)) = found else { return Ok(None) };
        self.touch(id);
        Ok(Some(Manifest { blob: self.found(digest, size), media_type, owner }))
    }

    /// The manifests in `repository` that are about `subject`, in the order of digests.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn referrers(&self, repository: &str, subject: &Digest) -> Result<Vec<Referrer>, Error> {
        self.inner.readers.read(|c| {
            let mut query = c.prepare_cached(REFERRERS).during("list referrers")?;
            let rows = query
                .query_map([subject.as_str(), repository], |r| {
                    Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?))
                })
                .during("list referrers")?;
            let mut referrers = Vec::new();
            for row in rows {
                let (digest, size, media_type, artifact_type, annotations) = row.during("list referrers")?;
                if let Ok(digest) = digest.parse() {
                    referrers.push(Referrer { digest, size, media_type, artifact_type, annotations });
                }
            }
            Ok(referrers)
        })
    }
}

/// From what is about the subject, and not from all that is in the repository, which the planner takes for less.
pub(super) const REFERRERS: &str =
    "SELECT b.digest, b.size, m.media_type, m.artifact_type, m.annotations FROM manifest m
    CROSS JOIN blob b ON b.id = m.blob AND b.state = 1 CROSS JOIN repository r ON r.name = ?2
    CROSS JOIN member e ON e.repository = r.id AND e.blob = b.id AND e.kind = 1
    WHERE m.subject = (SELECT id FROM blob WHERE digest = ?1) ORDER BY b.digest";

type ManifestRow = (i64, String, u64, String, Option<Owner>);

fn manifest_row(row: &Row<'_>) -> rusqlite::Result<ManifestRow> {
    let kind: Option<i64> = row.get(4)?;
    let name: Option<String> = row.get(5)?;
    let owner = kind.zip(name).and_then(|(kind, name)| Owner::from_row(kind, name));
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, owner))
}

/// Makes a manifest and all below it that is here available through `repository`.
pub(super) fn add_closure(tx: &Connection, repository: i64, manifest: i64) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT OR IGNORE INTO member (repository, blob, kind)
         WITH RECURSIVE below (id, kind) AS (
           SELECT ?2, 1 UNION SELECT l.child, l.kind FROM link l JOIN below ON l.parent = below.id)
         SELECT ?1, below.id, below.kind FROM below JOIN blob b ON b.id = below.id AND b.state <> 0",
    )
    .and_then(|mut q| q.execute((repository, manifest)))
    .during("link a manifest")?;
    Ok(())
}

/// Makes all below a manifest that is here available through the repositories that the manifest itself is available
/// through already: those whose indexes waited for it.
fn add_awaited(tx: &Connection, manifest: i64) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT OR IGNORE INTO member (repository, blob, kind)
         WITH RECURSIVE below (repository, id, kind) AS (
           SELECT repository, blob, kind FROM member WHERE blob = ?1 AND kind = 1
           UNION SELECT below.repository, l.child, l.kind FROM link l JOIN below ON l.parent = below.id)
         SELECT below.repository, below.id, below.kind FROM below JOIN blob b ON b.id = below.id AND b.state <> 0",
    )
    .and_then(|mut q| q.execute([manifest]))
    .during("link a manifest")?;
    Ok(())
}
